"""What do callers see of a remedy, and what does it give back? And what does watching cost?"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from memory_worker import measure
from safe_embed import SafeEncoder
from safe_embed.offline import model_path

REPEATS = 5
SHORT = "吾輩は猫である。"


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
def test_delay(rung: str, way: str, benchmark: BenchmarkFixture) -> None:
    """One short text after the other, while a rung is taken five times on the offline model."""
    options = {"rung": rung, "way": way, "repeats": REPEATS}
    found = benchmark.pedantic(measure, ("delay", model_path()), options, rounds=1)
    benchmark.extra_info |= {**options, **found}
    print(f"\n{rung} {way}: {found}")


def test_cost_of_the_default_policy(benchmark: BenchmarkFixture) -> None:
    """One short text a call, with the default policy and without, in turn."""
    calls = 500
    spent: list[float] = []
    took: dict[str, list[float]] = {"default": [], "none": []}
    with SafeEncoder("offline") as watched, SafeEncoder("offline", reload=None) as unwatched:
        keeper: Any = watched._session.keeper  # noqa: SLF001
        watch = keeper.watch

        def timed() -> bool:
            started = time.perf_counter()
            try:
                return bool(watch())
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
