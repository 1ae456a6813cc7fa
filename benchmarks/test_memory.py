"""Does a worker stay flat? Texts of 20 to 20,000 characters, one call each, in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from conftest import Records

WORKER = Path(__file__).with_name("memory_worker.py")
# Upstream's own way is the control; then ours with no policy, and with the default.
ARMS = ("raw", "no policy", "default policy")


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(("model", "calls"), [("tiny", 2000), ("offline", 300), ("ruri", 300)])
def test_growth(
    model: str, calls: int, arm: str, benchmark: BenchmarkFixture, records: Records
) -> None:
    """RssAnon after warm-up and at the end, and the curve between."""
    del records  # it skips where there are no data

    def run() -> str:
        command = [sys.executable, str(WORKER), model, arm, str(calls)]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        return done.stdout.splitlines()[-1]

    found = json.loads(benchmark.pedantic(run, rounds=1))
    benchmark.extra_info |= {"calls": calls, **found}
    figures = {name: value for name, value in found.items() if name != "curve"}
    print(f"\n{model}, {arm}, {calls} calls: {figures}")
