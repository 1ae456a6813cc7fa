"""Does a worker stay flat, and how high does it go in between? Each in a process of its own.

``make bench`` runs this with the pinned versions; the tokenizer that remembers long words is in the
oldest stack: ``.venv-oldest/bin/pytest benchmarks/test_memory.py --timeout=0 --benchmark-only``.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import models
from memory_worker import ARMS, LONG_RUNS, measure
from safe_embed.offline import model_path

pytestmark = pytest.mark.usefixtures("records")  # skips where there are no data

VERSIONS = {
    name: version(name) for name in ("torch", "sentence-transformers", "transformers", "tokenizers")
}
needs_modernbert = pytest.mark.skipif(
    not models.HAS_MODERNBERT, reason="ModernBERT came with transformers 4.48"
)


def run(benchmark: BenchmarkFixture, scenario: str, model: str, **options: Any) -> None:
    """Run a scenario of the worker once, and note what it found."""
    folder: Path = model_path() if model == "offline" else models.saved(model, model_path())
    found = benchmark.pedantic(measure, (scenario, folder), options, rounds=1)
    benchmark.extra_info |= {**VERSIONS, "model": model, **options, **found}
    figures = {name: value for name, value in found.items() if not isinstance(value, list)}
    print(f"\n{scenario} {model} {options}: {figures}")


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("tiny", {"calls": 2000}),
        ("tiny", {"calls": 1500, **LONG_RUNS}),
        ("offline", {"calls": 300}),
        pytest.param("ruri", {"calls": 300}, marks=needs_modernbert),
    ],
)
def test_growth(model: str, options: dict[str, Any], arm: str, benchmark: BenchmarkFixture) -> None:
    """RssAnon after warm-up and at the end, and the curve between; 20 to 20,000 characters."""
    run(benchmark, "growth", model, arm=arm, **options)


def test_tokenizer_alone(benchmark: BenchmarkFixture) -> None:
    """The control of the oldest stack: the same 1,500 texts, and no model."""
    run(benchmark, "tokenize", "tiny", count=1500, **LONG_RUNS)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("model", ["tiny", "offline"])
def test_threads(model: str, arm: str, benchmark: BenchmarkFixture) -> None:
    """What 60 calling threads leave behind while they live."""
    run(benchmark, "threads", model, arm=arm, callers=60)


def test_give_back(benchmark: BenchmarkFixture) -> None:
    """RssAnon before a load, with the model, between drop and load, and with the model again."""
    run(benchmark, "give_back", "offline")


@needs_modernbert
@pytest.mark.parametrize("arm", ["raw", "default policy"])
def test_peak(arm: str, benchmark: BenchmarkFixture) -> None:
    """How high RssAnon goes on 120 documents; attention takes memory with the square of length."""
    run(benchmark, "peak", "ruri", arm=arm, count=120)
