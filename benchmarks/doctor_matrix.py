"""What the doctor calls planted causes and clean processes: `make doctor-matrix`.

Each case of benchmarks/planted.py is examined in real processes. The matrix says which cause was
named and which clean process was an alarm, beside what python-leak-hunter says of the readings of
the same processes, where it is installed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from planted import CLEAN, PLANTED
from safe_embed import diagnose
from safe_embed.diagnosis import Diagnosis
from safe_embed.diagnosis.readings import Reading
from tables import table

# Of the twelve causes and the six clean kinds, three each that are quick and differ most.
SMOKE_PLANTED = ("held_list", "small_leak_in_forward", "descriptors")
SMOKE_CLEAN = ("varying_lengths", "cache_that_fills", "few_threads")
MOST_FALSE_ALARMS = 1
HEAD = ["case", "wanted", "named", "alarm", "right", "python-leak-hunter", "seconds"]


class Result(NamedTuple):
    """A case, and what was said of it."""

    case: str
    wanted: tuple[str, ...]
    named: tuple[str, ...]
    is_alarm: bool
    peer: str
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether a planted cause was named, or a clean process was no alarm."""
        return bool(set(self.wanted) & set(self.named)) if self.wanted else not self.is_alarm


def examine(case: str, seed: int, budget_seconds: float) -> Result:
    """Let the doctor examine a case.

    A planted cause counts as named if it is the first finding, or one of the alarms.
    """
    os.environ["PLANTED_SEED"] = str(seed)
    diagnosis = diagnose(target=f"planted:{case}", budget_seconds=budget_seconds)
    first = diagnosis.findings[0]
    named = [one.cause.value for one in diagnosis.findings if one.grows or one is first]
    return Result(
        case,
        tuple(PLANTED.get(case, ())),
        tuple(named),
        diagnosis.grows,
        peer(diagnosis),
        round(diagnosis.seconds, 1),
    )


def peer(diagnosis: Diagnosis) -> str:
    """What python-leak-hunter says of the readings of each whole process, alarms first."""
    try:
        from leak_hunter import MemorySample, diagnose
    except ImportError:
        return "-"

    def sample(reading: Reading) -> Any:
        return MemorySample(
            time=reading.elapsed_seconds,
            rss_bytes=(reading.rss_anon_bytes or 0) + (reading.rss_file_bytes or 0),
            heap_in_use_bytes=reading.heap_used_bytes,
            heap_free_bytes=reading.heap_kept_bytes,
            gc_objects=0,
            open_fds=reading.file_descriptors,
        )

    said = [
        diagnose([sample(reading) for reading in one.readings])
        for one in diagnosis.observations
        if one.readings and one.kind.callers == 1 and not one.kind.is_traced
    ]
    grows = [text for text in said if text.startswith("RSS grows")]
    return f"grows ({len(grows)} of {len(said)})" if grows else "flat"


def cases(*, is_smoke: bool, clean_runs: int) -> Iterator[tuple[str, int]]:
    """Cases and seeds: each planted cause once, each clean kind several times."""
    planted = SMOKE_PLANTED if is_smoke else tuple(PLANTED)
    is_old = tuple(map(int, version("tokenizers").split(".")[:2])) < (0, 21)
    yield from ((case, 0) for case in planted if is_old or case != "tokenizer_cache")
    for seed in range(1 if is_smoke else clean_runs):
        yield from ((case, seed) for case in (SMOKE_CLEAN if is_smoke else CLEAN))


def faults_in(results: list[Result]) -> list[str]:
    """What contradicts the promise: a cause that was not named, more than one false alarm."""
    wrong = [one for one in results if not one.is_right]
    missed = [f"{one.case} is called {', '.join(one.named)}" for one in wrong if one.wanted]
    alarms = sum(not one.wanted for one in wrong)
    return missed + [f"{alarms} false alarms"] * (alarms > MOST_FALSE_ALARMS)


def row(one: Result) -> list[Any]:
    """A line of the matrix."""
    wanted = " or ".join(one.wanted) or "no alarm"
    marks = ("no", "yes")
    named = ", ".join(one.named)
    return [
        *(one.case, wanted, named, marks[one.is_alarm], marks[one.is_right]),
        *(one.peer, one.seconds),
    ]


@contextmanager
def small_model() -> Iterator[None]:
    """Make the model that the planted functions embed with."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import models
    from safe_embed.offline import model_path

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        models.saved("small", model_path()).rename(model)
        os.environ["PLANTED_MODEL"] = str(model)
        yield


def main() -> None:
    """Examine all cases, print the matrix; fail if it contradicts the promise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="three planted and three clean cases")
    parser.add_argument("--only", nargs="*", help="names of cases")
    parser.add_argument("--clean-runs", type=int, default=10, help="runs of each clean kind")
    parser.add_argument("--budget", type=float, default=180.0)
    given = parser.parse_args()
    results: list[Result] = []
    with small_model():
        for case, seed in cases(is_smoke=given.smoke, clean_runs=given.clean_runs):
            if given.only is None or case in given.only:
                results.append(examine(case, seed, given.budget))
                print(" | ".join(map(str, row(results[-1]))), file=sys.stderr, flush=True)
    print(table(HEAD, map(row, results)))
    if faults := faults_in(results):
        raise SystemExit(f"Not as promised: {'; '.join(faults)}")


if __name__ == "__main__":
    main()
