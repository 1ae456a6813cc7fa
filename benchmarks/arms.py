"""Times several arms side by side: A B C, B C A, C A B, so that what slows one slows all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from pytest_benchmark.fixture import BenchmarkFixture

# What an arm gives is its seconds if it is a float: those of an arm in a process of its own.
Arms = Mapping[str, Callable[[], object]]
Samples = dict[str, list[float]]


def compare(  # noqa: PLR0913 one value of each kind that a table needs
    benchmark: BenchmarkFixture,
    arms: Arms,
    *,
    control: str,
    rounds: int,
    unit: str,
    amount: float,
    **conditions: Any,
) -> dict[str, dict[str, Any]]:
    """Time arms in turn, and note every sample, and each arm beside the control.

    Args:
        benchmark: pytest-benchmark's fixture; one of its rounds is one round of all arms.
        arms: What to time. Warm them up before.
        control: Name of the arm that the others are compared with.
        rounds: How often each is timed.
        unit: What a call works through, such as ``"tokens"``.
        amount: How much of it.
        **conditions: What else to note.

    Returns:
        What was noted of each arm: seconds, their median, the amount per second, and how many times
        as fast as the control, as the median over the rounds.
    """
    samples: Samples = {name: [] for name in arms}
    names = list(arms)

    def one_round() -> None:
        done = len(samples[names[0]])
        for name in names[done % len(names) :] + names[: done % len(names)]:
            samples[name].append(_seconds(arms[name]))

    benchmark.pedantic(one_round, rounds=rounds)
    found = beside(samples, control, amount)
    benchmark.extra_info |= {
        **conditions,
        "control": control,
        "unit": unit,
        "amount": amount,
        "rounds": rounds,
        "arms": found,
    }
    for name, one in found.items():
        print(f"\n{name}: {one['per_second']} {unit}/s, {one['times_control']} x", end="")
    print()
    return found


def _seconds(arm: Callable[[], object]) -> float:
    """Time an arm until its result is gone: the next one must not pay for that."""
    started = time.perf_counter()
    given = arm()
    if isinstance(given, float):
        return given
    del given
    return time.perf_counter() - started


def beside(samples: Samples, control: str, amount: float) -> dict[str, dict[str, Any]]:
    """Set each arm beside the control, round by round.

    >>> beside({"a": [2.0, 4.0], "b": [1.0, 1.0]}, "a", 8)["b"]["times_control"]
    3.0

    Args:
        samples: Seconds of each arm, one a round.
        control: Name of the arm that the others are compared with.
        amount: How much a call works through.

    Returns:
        What :func:`compare` returns.
    """
    return {
        name: {
            "median_seconds": round(median(seconds), 6),
            "per_second": round(amount / median(seconds), 2),
            "times_control": round(
                median(base / own for base, own in zip(samples[control], seconds, strict=True)), 3
            ),
            "seconds": [round(one, 6) for one in seconds],
        }
        for name, seconds in samples.items()
    }
