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
from safe_embed.backends.call_queue import CallQueue
from safe_embed.backends.calls import PendingCall
from safe_embed.inference.pipeline import Pipeline
from safe_embed.inference.request import Embed, Request, Settings
from safe_embed.inference.tasks import Work
from safe_embed.memory.policies import default_policy
from safe_embed.offline.cache import model_path
from safe_embed.pooling import resolve_pooling
from safe_embed.supervision.supervisor import Supervisor
from safe_embed.text.chunking import Chunker
from safe_embed.text.splitters import ladder, resolve_splitter
from safe_embed.upstream.settings import ModelState
from safe_embed.upstream.source import ModelSource

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


class Supervised:
    """Does calls on this thread as the default encoder does on its own, and times the watching.

    Args:
        model: Folder of the model.
    """

    def __init__(self, model: str) -> None:
        self.spent: list[float] = []
        chunker = Chunker(ladder(resolve_splitter("punctuation")), "packed")
        settings = Settings(chunker, resolve_pooling("mean"))
        source = ModelSource(model, {}).held()
        self._supervisor = Supervisor(source, settings, default_policy())
        self._pipeline = Pipeline(settings, ModelState(self._supervisor.facts(with_canary=False)))
        self._calls = CallQueue(
            lambda texts: self._supervisor.meter.count(Work(calls=1, texts=texts))
        )

    def encode(self, text: str) -> None:
        """Embed a text, and look at memory after each task."""
        self._calls.add(
            PendingCall(functools.partial(self._pipeline.stages, Embed(Request([text]))))
        )
        self._calls.advance()
        while (pair := self._calls.next()) is not None:
            self._calls.note(*pair, self._supervisor.do(pair[1].task).values)
            self._calls.advance()
            del pair
            started = time.perf_counter()
            self._supervisor.watch(is_quiet=self._calls.is_quiet)
            self.spent.append(time.perf_counter() - started)


def test_cost_of_the_default_policy(
    benchmark: BenchmarkFixture, model_folder: Path, size: Size
) -> None:
    """One short text a call, with the default policy and without, in turn."""
    calls, model = size.pick(30, 300, 2000), str(model_folder)
    supervised = Supervised(model)
    took: dict[str, list[float]] = {"default": [], "none": []}
    with SafeEncoder(model) as watched, SafeEncoder(model, reload=None) as unwatched:

        def both() -> None:
            for _ in range(calls):
                for name, encoder in (("default", watched), ("none", unwatched)):
                    started = time.perf_counter()
                    encoder.encode(SHORT)
                    took[name].append(time.perf_counter() - started)
                supervised.encode(SHORT)

        both()  # warm-up: the first trim, and the baseline after it
        for figures in took.values():
            figures.clear()
        supervised.spent.clear()
        benchmark.pedantic(both, rounds=1)
    spent = supervised.spent
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
