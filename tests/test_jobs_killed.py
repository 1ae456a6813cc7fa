"""``safe-embed encode`` as a real process: killed at random, interrupted, and watched."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import models
import seams
from safe_embed.memory.sampling import parse_status

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals need POSIX")

MAIN = [sys.executable, "-c", "from safe_embed.cli.app import main; main()", "encode"]
# `make interop` kills 50 times.
KILLS = int(os.environ.get("SAFE_EMBED_KILLS", "3"))
ROWS_A_PART = 20
# The parts that a run does at most before it is killed.
MOST_PARTS = 6
MIB = 2**20


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is one table of vectors: thousands of rows a second."""
    path = tmp_path_factory.mktemp("static")
    models.static().save(str(path))
    return path


def write_rows(path: Path, count: int) -> None:
    """Write texts with ids; every seventh row is bad."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            row: dict[str, object] = {"id": f"d{number}", "text": models.long_text(2, number)}
            if number % 7 == 3:
                row["text"] = None
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


@contextmanager
def started(folder: Path, model: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command in a process group of its own; killed in the end if it still runs."""
    command = [*MAIN, "in.jsonl", *arguments, "--model", str(model)]
    with subprocess.Popen(
        command,
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def parts(folder: Path) -> list[Path]:
    """The parts that are there, in order."""
    return sorted((folder / "out.parquet.parts").glob("part-*.parquet"))


def kill_once(folder: Path, model: Path, goal: int, delay_seconds: float) -> int:
    """Start or resume the run, and kill it a moment after it has so many parts; its exit status."""
    arguments = ("out.parquet", "--rows-per-part", str(ROWS_A_PART), "--resume")
    with started(folder, model, *arguments) as process:
        begun = folder / "out.parquet.parts" / "lock"
        seams.wait_until(lambda: begun.exists() or process.poll() is not None)
        seams.wait_until(lambda: len(parts(folder)) >= goal or process.poll() is not None)
        try:  # not a moment that the process has chosen
            process.wait(delay_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
    for path in parts(folder):  # never half-written
        pq.read_table(path)
    return process.returncode


@pytest.mark.long
def test_a_run_killed_at_random_moments_loses_and_repeats_nothing(
    static: Path, tmp_path: Path
) -> None:
    """Killed again and again and resumed, it gives what a run that nobody disturbs gives."""
    total = KILLS * 3 * MOST_PARTS
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
        write_rows(folder / "in.jsonl", total * ROWS_A_PART)
    with started(whole, static, "out.parquet", "--rows-per-part", str(ROWS_A_PART)) as process:
        process.communicate()
    assert 3 == process.returncode
    rng = random.Random(50)
    for kill in range(KILLS):
        # The last time while the parts are put together, or the folder of parts is deleted.
        goal = total if kill == KILLS - 1 else len(parts(broken)) + rng.randint(0, MOST_PARTS)
        assert -signal.SIGKILL == kill_once(broken, static, goal, rng.uniform(0, 0.03))
    with started(broken, static, "out.parquet", "--resume") as process:
        process.communicate()
    assert 3 == process.returncode
    expected, found = (pq.read_table(folder / "out.parquet") for folder in (whole, broken))
    ids = [f"d{number}" for number in range(total * ROWS_A_PART) if number % 7 != 3]
    assert ids == expected["id"].to_pylist() == found["id"].to_pylist()
    vectors, again = (np.stack(table["vector"].to_numpy()) for table in (expected, found))
    np.testing.assert_array_equal(vectors, again)
    rejects = [(folder / "out.parquet.rejects.jsonl").read_bytes() for folder in (whole, broken)]
    assert rejects[0] == rejects[1]
    assert total * ROWS_A_PART - len(ids) == rejects[0].count(b"\n")
    names = {"in.jsonl", "out.parquet", "out.parquet.rejects.jsonl"}
    assert names == {path.name for path in broken.iterdir()}


@pytest.mark.parametrize(
    ("number", "isolation"),
    [
        pytest.param(signal.SIGINT, "none", id="Ctrl-C"),
        pytest.param(signal.SIGTERM, "none", id="SIGTERM", marks=pytest.mark.long),
        pytest.param(signal.SIGINT, "process", id="worker processes", marks=pytest.mark.long),
    ],
)
def test_a_run_ends_cleanly_when_it_is_asked_to(
    number: signal.Signals, isolation: str, static: Path, tmp_path: Path
) -> None:
    """The whole process group is sent the signal, as a terminal does; --resume goes on."""
    write_rows(tmp_path / "in.jsonl", 5_000)
    arguments = ("out.parquet", "--isolation", isolation)
    with started(tmp_path, static, *arguments, "--rows-per-part", "5") as process:
        seams.wait_until(lambda: len(parts(tmp_path)) > 3 or process.poll() is not None)
        os.killpg(process.pid, number)
        _, errors = process.communicate()
        assert 128 + number == process.returncode, errors
    assert "--resume" in errors
    assert "再開します" in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out.parquet").exists()
    before = len(parts(tmp_path))
    with started(tmp_path, static, *arguments, "--resume") as process:
        _, errors = process.communicate()
    assert 3 == process.returncode
    assert f"{before * 5:,} rows (" in errors  # what was done is not done again
    ids = [f"d{at}" for at in range(5_000) if at % 7 != 3]
    assert ids == pq.read_table(tmp_path / "out.parquet")["id"].to_pylist()


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads RssAnon")
def test_memory_does_not_grow_with_the_input(static: Path, tmp_path: Path) -> None:
    """From the 10,000th row to the 50,000th RssAnon rises by less than 16 MiB."""
    write_rows(tmp_path / "in.jsonl", 55_000)

    def reaches(count: int) -> int:
        seams.wait_until(lambda: len(parts(tmp_path)) >= count or process.poll() is not None)
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        return parse_status(status)["RssAnon"]

    with started(tmp_path, static, "out.parquet") as process:
        early, late = reaches(10), reaches(50)
        process.communicate()
    assert 3 == process.returncode
    assert late - early < 16 * MIB


@pytest.mark.long
def test_a_full_disk_is_explained_and_costs_no_part(static: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for it: status 2, and --resume goes on later."""
    write_rows(tmp_path / "in.jsonl", 300)
    limited = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (30_000, 30_000)); "
    arguments = ("in.jsonl", "out.parquet", "--model", str(static), "--rows-per-part", "50")
    done = subprocess.run(
        [sys.executable, "-c", limited + MAIN[2], "encode", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 2 == done.returncode, done.stderr
    assert "out.parquet cannot be read or written: File too large" in done.stderr
    assert "空き容量" in done.stderr
    assert "Traceback" not in done.stderr
    assert 6 == len(parts(tmp_path))  # it is the output that is larger
    with started(tmp_path, static, "out.parquet", "--resume") as process:
        _, errors = process.communicate()
    assert 3 == process.returncode
    assert "300 rows (" in errors
    assert 257 == pq.read_metadata(tmp_path / "out.parquet").num_rows
