"""What do callers see of a remedy, and what does it give back? And what does watching cost?"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import models
from conftest import Size, expect
from memory_worker import Forks, measure
from safe_embed import SafeEncoder
from safe_embed.offline.cache import model_path

SHORT = "吾輩は猫である。"


@pytest.fixture(scope="module")
def taken(size: Size, forks: dict[str, Forks]) -> Callable[..., dict[str, Any]]:
    """Runs the scenario in a process of its own; for a smoke run in a fork, on a small model."""
    if size.name == "smoke":
        small = models.saved("small", model_path())
        return functools.partial(forks["current"].measure, "delay", small)
    return functools.partial(measure, "delay", model_path())


@pytest.mark.parametrize(
    ("rung", "way"),
    [
        ("trim", ""),
        ("tokenizer_cache", ""),
        ("tokenizer", ""),
        *(("model", way) for way in ("beside", "after")),
        *(("by hand", way) for way in ("beside", "after")),
    ],
)
@pytest.mark.usefixtures("records")  # skips where there are no data
def test_delay(
    rung: str,
    way: str,
    taken: Callable[..., dict[str, Any]],
    benchmark: BenchmarkFixture,
    size: Size,
) -> None:
    """One short text after the other, while a rung is taken again and again on the offline model.

    The control is in the same run: calls that no rung touched.
    """
    options = {"rung": rung, "way": way, "repeats": size.pick(1, 5, 15)}
    options["pause_seconds"] = size.pick(0.1, 1, 1)
    found = benchmark.pedantic(taken, kwargs=options, rounds=1)
    benchmark.extra_info |= {**options, **found}
    print(f"\n{rung} {way}: {found}")
    assert len(found["rung_seconds"]) == options["repeats"]
    expect(found, quiet_median_ms=(0.01, 1e4), during_max_ms=(0.01, 1e6))


def test_cost_of_the_default_policy(
    benchmark: BenchmarkFixture, model_folder: Path, size: Size
) -> None:
    """One short text a call, with the default policy and without, in turn."""
    calls, model = size.pick(30, 300, 2000), str(model_folder)
    spent: list[float] = []
    took: dict[str, list[float]] = {"default": [], "none": []}
    with SafeEncoder(model) as watched, SafeEncoder(model, reload=None) as unwatched:
        keeper: Any = watched._session.keeper  # noqa: SLF001
        watch = keeper.watch

        def timed(**options: bool) -> bool:
            started = time.perf_counter()
            try:
                return bool(watch(**options))
            finally:
                spent.append(time.perf_counter() - started)

        def both() -> None:
            for _ in range(calls):
                for name, encoder in (("default", watched), ("none", unwatched)):
                    started = time.perf_counter()
                    encoder.encode(SHORT)
                    took[name].append(time.perf_counter() - started)

        both()  # warm-up: the first trim, and the baseline after it
        for figures in took.values():
            figures.clear()
        keeper.watch = timed
        benchmark.pedantic(both, rounds=1)
    share = sum(spent) / sum(took["default"])
    benchmark.extra_info |= {
        "calls": calls,
        "median_ms_default": round(1e3 * median(took["default"]), 3),
        "median_ms_none": round(1e3 * median(took["none"]), 3),
        "mean_ms_default": round(1e3 * sum(took["default"]) / calls, 3),
        "mean_ms_none": round(1e3 * sum(took["none"]) / calls, 3),
        "watch_us_a_call": round(1e6 * sum(spent) / calls, 1),
        "watch_share": round(share, 5),
    }
    print(f"\ndefault policy: {benchmark.extra_info}")
    expect(benchmark.extra_info, median_ms_none=(0.01, 1e4), watch_share=(0, 1))
