"""What a long run leaves behind: what it was run on, what it counted, and a hash of what it covers.

A record is as good as the sources that it was made with: tests/test_run_records.py fails when they
have changed since.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "safe_embed"
RESULTS = ROOT / "benchmarks" / "results"


def sources_hash(rooms: Iterable[str], source: Path = SOURCE) -> str:
    """Hash the sources of some rooms: names and contents of all their modules.

    Args:
        rooms: Modules or folders below *source*, such as ``"encoder.py"`` or ``"backends"``.
        source: The folder of the package.

    Returns:
        The SHA-256 in hexadecimal digits.

    Raises:
        FileNotFoundError: If there is no such room any more.
    """
    found = hashlib.sha256()
    for room in sorted(rooms):
        place = source / room
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        for file in files:
            name = file.relative_to(source).as_posix()
            text = file.read_text(encoding="utf-8")
            found.update(f"{name}\0{len(text)}\0{text}".encode())
    return found.hexdigest()


def write(name: str, rooms: Iterable[str], seconds: float, figures: Mapping[str, Any]) -> Path:
    """Write the record of a run into benchmarks/results.

    Args:
        name: Of the run; the file is named after it.
        rooms: What the run covers; see :func:`sources_hash`.
        seconds: How long it took.
        figures: What it counted.

    Returns:
        The file.
    """
    covered = sorted(rooms)
    record = {
        "name": name,
        "commit": _git("rev-parse", "HEAD"),
        "has_changes": bool(_git("status", "--porcelain", "src", "benchmarks", "examples")),
        "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {
            package.metadata["Name"].lower(): package.version
            for package in sorted(distributions(), key=lambda one: one.metadata["Name"].lower())
        },
        "covers": covered,
        "sources_sha256": sources_hash(covered),
        "figures": figures,
    }
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


def is_stale(record: Mapping[str, Any], source: Path = SOURCE) -> bool:
    """Tell whether what a record covers has changed since it was written.

    Args:
        record: As :func:`write` writes it.
        source: The folder of the package.

    Returns:
        Whether a module of its rooms was changed, added, removed or renamed.
    """
    try:
        return bool(record["sources_sha256"] != sources_hash(record["covers"], source))
    except FileNotFoundError:
        return True


def _git(*arguments: str) -> str:
    done = subprocess.run(  # git of the user's own
        ["git", *arguments],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()
