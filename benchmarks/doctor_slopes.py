"""How small a leak does the doctor name? `python benchmarks/doctor_slopes.py`.

A leak in the forward pass of the model of two layers, of several sizes, several times each, in the
default budget. A leak is named if its cause is the forward pass and an alarm. A size of 0 is the
control: no alarm.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from typing import NamedTuple

from doctor_matrix import small_model
from safe_embed import diagnose
from safe_embed.diagnosis import Cause
from tables import table

HEAD = ["lost in each call", "named", "alarms", "size that is reported", "seconds"]


class Run(NamedTuple):
    """What was said of one leak; the size that was reported is ``None`` if it was not named."""

    is_named: bool
    is_alarm: bool
    reported_bytes: float | None
    seconds: float


def examine(lost_bytes: int, budget_seconds: float) -> Run:
    """Let the doctor examine a leak of this size."""
    os.environ["PLANTED_LEAK_BYTES"] = str(lost_bytes)
    diagnosis = diagnose(target="planted:leak_of_a_size", budget_seconds=budget_seconds)
    named = [one for one in diagnosis.findings if one.grows and one.cause is Cause.FORWARD]
    size = named[0].bytes_per_call if named else None
    return Run(bool(named), diagnosis.grows, size, diagnosis.seconds)


def row(lost_bytes: int, runs: list[Run]) -> list[str]:
    """A line of the table."""
    sizes = [run.reported_bytes for run in runs if run.reported_bytes is not None]
    reported = f"{min(sizes):,.0f} to {max(sizes):,.0f} bytes" if sizes else "-"
    return [
        f"{lost_bytes:,} bytes" if lost_bytes else "nothing (control)",
        f"{sum(run.is_named for run in runs)} of {len(runs)}",
        f"{sum(run.is_alarm for run in runs)} of {len(runs)}",
        reported,
        f"{statistics.median(run.seconds for run in runs):.0f}",
    ]


def main() -> None:
    """Examine leaks of all sizes, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bytes", type=int, nargs="+", default=[0, 100, 500, 2_000, 5_000, 20_000])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--budget", type=float, default=180.0)
    given = parser.parse_args()
    lines: list[list[str]] = []
    with small_model():
        for lost_bytes in given.bytes:
            runs = [examine(lost_bytes, given.budget) for _ in range(given.runs)]
            lines.append(row(lost_bytes, runs))
            print(" | ".join(lines[-1]), file=sys.stderr, flush=True)
    print(table(HEAD, lines))


if __name__ == "__main__":
    main()
