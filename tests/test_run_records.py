"""Records of long runs: each says what it covers, and is renewed when that has changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import run_record

RECORDS = ("soak", "examples", "hard_limit")
FILES = [run_record.RESULTS / f"{name}.json" for name in RECORDS]


def faults_of(record: dict[str, Any]) -> list[str]:
    """What is wrong with a record."""
    faults = ["its sources have changed: run it again"] if run_record.is_stale(record) else []
    return faults + record["figures"].get("broken", [])


def test_records_are_of_the_sources_as_they_are() -> None:
    """See benchmarks/README.md for how to renew a record."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in FILES if file.exists()]
    assert {} == {record["name"]: faults for record in records if (faults := faults_of(record))}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the package whose sources may be changed."""
    return Path(shutil.copytree(run_record.SOURCE, tmp_path / "source"))


def append(file: Path) -> None:
    """Change a module."""
    file.write_text(file.read_text(encoding="utf-8") + "# more\n", encoding="utf-8")


CHANGES: list[tuple[Callable[[Path], Any], bool]] = [
    (lambda source: append(source / "backends" / "calls.py"), True),
    (lambda source: append(source / "backends" / "process" / "worker.py"), True),
    (lambda source: append(source / "encoder.py"), True),
    (lambda source: (source / "backends" / "new.py").touch(), True),
    (lambda source: (source / "backends" / "calls.py").unlink(), True),
    (lambda source: (source / "encoder.py").unlink(), True),
    (lambda source: (source / "backends" / "calls.py").rename(source / "backends" / "b.py"), True),
    (lambda source: append(source / "text" / "marks.py"), False),
    (lambda source: append(source / "errors.py"), False),
    (lambda source: (source / "backends" / "note.txt").touch(), False),
]


@pytest.mark.parametrize(("change", "expected"), CHANGES)
def test_a_change_of_what_is_covered_is_noticed(
    source: Path, change: Callable[[Path], Any], expected: bool
) -> None:
    """In a room or a module of its own, at any depth; a change elsewhere is nothing to it."""
    rooms = ["encoder.py", "backends"]
    record = {"covers": rooms, "sources_sha256": run_record.sources_hash(rooms)}
    assert not run_record.is_stale(record, source)
    change(source)
    assert expected == run_record.is_stale(record, source)


def test_a_record_says_what_it_was_run_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit, versions, seconds, counts, and the sources; nothing that tells whose machine it was."""
    monkeypatch.setattr(run_record, "RESULTS", tmp_path)
    file = run_record.write("soak", ["encoder.py", "backends"], 12.34, {"calls": 5, "broken": []})
    record = json.loads(file.read_text(encoding="utf-8"))
    assert tmp_path / "soak.json" == file
    assert ("soak", 12.3, 5) == (record["name"], record["seconds"], record["figures"]["calls"])
    assert {"commit", "has_changes", "ended_at", "python"} <= record.keys()
    assert {"safe-embed", "torch", "sentence-transformers"} <= record["versions"].keys()
    assert ["backends", "encoder.py"] == record["covers"]
    assert [] == faults_of(record)
    assert str(Path.home()) not in json.dumps(record)


def test_a_run_that_failed_is_no_record() -> None:
    """Its faults are told again."""
    record = {"covers": [], "sources_sha256": run_record.sources_hash([])}
    assert ["1 lost"] == faults_of({**record, "figures": {"broken": ["1 lost"]}})
    stale = {**record, "sources_sha256": "", "figures": {}}
    assert ["its sources have changed: run it again"] == faults_of(stale)
