"""Bounds are kept by real models that lose memory, whatever was tried before, and said where not."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
import process_models
from process_models import POISON
from safe_embed import MemoryAbove, MemoryGrowth, SafeEncoder
from safe_embed.memory.allocators import trim_heap
from safe_embed.memory.sampling import anonymous_bytes
from safe_embed.memory.types import Event, Rung

MIB = 2**20
FULL = os.environ.get("SAFE_EMBED_FULL") == "1"
# The bound of the default policy, and its jitter.
BOUND = 300 * MIB * 1.1

pytestmark = [
    pytest.mark.usefixtures("forked_workers"),
    pytest.mark.timeout(1_800 if FULL else 1_200),
    pytest.mark.skipif(
        sys.platform != "linux" or anonymous_bytes() is None, reason="there is no RssAnon"
    ),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in a folder."""
    path = tmp_path_factory.mktemp("bounds")
    models.small().save(str(path))
    return path


@pytest.fixture(autouse=True)
def _nothing_to_give_back() -> None:
    """What earlier tests left behind is no growth, and no remedy is to be helped by it."""
    gc.collect()
    trim_heap()


@pytest.fixture
def ballast() -> Iterator[list[Any]]:
    """Memory of the user's own, given back at the end."""
    held: list[Any] = []
    yield held
    held.clear()


def held_bytes() -> int:
    """What this process holds."""
    held = anonymous_bytes()
    assert held is not None
    return held


def wait_until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait for a state."""
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "the state did not come"
        time.sleep(0.01)


def baseline_bytes(encoder: SafeEncoder) -> int:
    """What growth is counted from."""
    baseline = encoder.stats.baseline
    assert baseline is not None
    assert baseline.held_bytes is not None
    return baseline.held_bytes


def warm_up(encoder: SafeEncoder) -> None:
    """Make as many calls as warm-up takes, and none that loses memory."""
    for _ in range(20):
        encoder.encode("雨")
    wait_until(lambda: encoder.stats.baseline is not None)


class Calls:
    """Calls that lose memory, one after the other, and what the process held after each."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []
        self.held: list[int] = []

    def make(self, encoder: SafeEncoder, count: int, measure: Callable[[], int]) -> None:
        """Make calls."""
        for _ in range(count):
            began = time.monotonic()
            encoder.encode(POISON)
            self.times.append((began, time.monotonic()))
            self.held.append(measure())

    def during(self, event: Event) -> int:
        """Count the calls that were under way while a remedy was."""
        last = event.after.elapsed_seconds
        first = last - event.seconds
        return sum(began <= last and ended >= first for began, ended in self.times)


def lost_while_loading(calls: Calls, events: list[Event], lost: int) -> int:
    """Tell what calls lost at most while a new model or process was on its way."""
    loads = [calls.during(one) for one in events if one.rung >= Rung.MODEL]
    return lost * max(loads, default=0)


# A cool-down silences what could do no more, and nothing else


@pytest.mark.parametrize(("lost_mib", "count"), [(1, 450), (10, 100), (50, 30)])
def test_the_default_policy_holds_its_bound(saved: Path, lost_mib: int, count: int) -> None:
    """A model that loses memory with every call: the rungs that do not help silence no others."""
    lost = lost_mib * MIB
    calls, events = Calls(), list[Event]()
    loader = partial(process_models.hoarding, str(saved), lost)
    with SafeEncoder(loader, hooks=[events.append]) as encoder:
        warm_up(encoder)
        base = baseline_bytes(encoder)
        calls.make(encoder, count, held_bytes)
    assert [one for one in events if (one.kind, one.rung) == ("remedy", Rung.MODEL)]
    allowed = BOUND + lost + lost_while_loading(calls, events, lost)
    assert max(calls.held) - base <= allowed


_LIMITED = """
import resource, sys
from functools import partial
from process_models import MIB, POISON, hoarding
from safe_embed import SafeEncoder
from safe_embed.memory.sampling import take_sample

events = []
with SafeEncoder(partial(hoarding, sys.argv[1], 10 * MIB), hooks=[events.append]) as encoder:
    for _ in range(20):
        encoder.encode("雨")
    sample = take_sample()
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 400 * MIB, resource.RLIM_INFINITY))
    for _ in range(60):
        encoder.encode(POISON)
    print([one.kind for one in events if one.rung == 4])
"""


@pytest.mark.long
def test_a_limit_that_one_reload_keeps_is_kept(saved: Path) -> None:
    """Under RLIMIT_AS with room for 40 such calls, 60 are made: near a limit nothing waits."""
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(saved)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    assert "remedy" in done.stdout


@pytest.mark.parametrize(("lost_mib", "seconds"), [(10, 60), *[(1, 180), (50, 60)] * FULL])
def test_worker_processes_hold_the_bound(saved: Path, lost_mib: int, seconds: float) -> None:
    """The default policy and native memory that only a new process gives back: two replacements."""
    lost = lost_mib * MIB
    calls, events = Calls(), list[Event]()
    loader = partial(process_models.leaking, str(saved), lost)
    began = time.monotonic()
    with SafeEncoder(loader, isolation="process", hooks=[events.append]) as encoder:
        # A replacement takes about as long as this start; not more than 1 GiB is lost meanwhile.
        pace = 3 * (time.monotonic() - began) * lost / (1024 * MIB)
        grown: list[int] = []

        def replaced() -> bool:
            return sum(one.rung == Rung.PROCESS and one.kind == "remedy" for one in events) >= 2

        def growth() -> int:
            [worker] = encoder.stats.workers or [None]
            if worker is None or worker.baseline is None:
                return 0
            return (worker.sample.held_bytes or 0) - (worker.baseline.held_bytes or 0)

        ends = time.monotonic() + 3 * seconds
        while not replaced() and time.monotonic() < ends:
            calls.make(encoder, 1, growth)
            time.sleep(pace)
        assert replaced()
    grown = calls.held
    assert max(grown) <= BOUND + lost + lost_while_loading(calls, events, lost)


# A bound is obeyed again as soon as less is held


def test_a_peak_of_the_users_own_leaves_the_bound_as_it_was(
    saved: Path, ballast: list[Any]
) -> None:
    """What no remedy could reach at the peak is reached again once the peak is over."""
    events: list[Event] = []
    loader = partial(process_models.hoarding, str(saved), 10 * MIB)
    policy = MemoryGrowth("100 MiB", jitter=0)
    with SafeEncoder(loader, reload=policy, hooks=[events.append]) as encoder:
        warm_up(encoder)
        ballast.append(np.ones(500 * MIB, np.uint8))
        encoder.encode("雨")
        wait_until(lambda: "outside" in [one.kind for one in events])
        ballast.clear()
        for _ in range(20):
            encoder.encode("雨")
        base = baseline_bytes(encoder)
        seen = len(events)
        calls = Calls()
        calls.make(encoder, 30, held_bytes)
        after = events[seen:]
    assert Rung.MODEL in [one.rung for one in after if one.kind == "remedy"]
    allowed = 100 * MIB + 10 * MIB + lost_while_loading(calls, after, 10 * MIB)
    assert max(calls.held) - base <= allowed


@pytest.mark.parametrize("isolation", ["none"])
def test_what_is_given_back_after_warm_up_is_no_part_of_the_baseline(
    saved: Path, ballast: list[Any], isolation: Any
) -> None:
    """300 MiB that the user held during the first calls, and no longer, do not raise the bound."""
    with SafeEncoder(saved, isolation=isolation) as encoder:
        ballast.append(np.ones(300 * MIB, np.uint8))
        warm_up(encoder)
        high = baseline_bytes(encoder)
        ballast.clear()
        encoder.encode("雨")
        wait_until(lambda: baseline_bytes(encoder) <= high - 290 * MIB)
        low = baseline_bytes(encoder)
        ballast.append(np.ones(300 * MIB, np.uint8))
        for _ in range(30):
            encoder.encode("雨")
        assert baseline_bytes(encoder) <= low


def test_a_long_first_call_does_not_raise_the_baseline(saved: Path, ballast: list[Any]) -> None:
    """Warm-up that ends within a call of many texts: what its caller held goes away with it."""
    with SafeEncoder(saved) as encoder:
        before = held_bytes()
        texts = [f"雨が降る。{number}" for number in range(12_000)]
        ballast.append(np.ones(300 * MIB, np.uint8))
        encoder.encode(texts)
        ballast.clear()
        del texts
        for _ in range(25):
            encoder.encode("雨")
        assert encoder.stats.tokens > 50_000
        assert baseline_bytes(encoder) - before <= 100 * MIB


# A bound below what a process needs


def test_a_bound_that_no_process_can_keep_is_said_once(saved: Path) -> None:
    """A worker that a bound replaced holds as much: its successor knows, and says it once."""
    events: list[Event] = []
    policy = MemoryAbove("50 MiB")
    with SafeEncoder(saved, isolation="process", reload=policy, hooks=[events.append]) as encoder:

        def told() -> list[Event]:
            encoder.encode("雨")
            return [one for one in events if one.kind == "unreached"]

        wait_until(told)
        before = [one.pid for one in encoder.stats.workers]
        for number in range(30):
            encoder.encode(models.long_text(number % 7 + 1))
        assert before == [one.pid for one in encoder.stats.workers]
        reloads = encoder.stats.reloads
        encoder.reload("by hand")
        for number in range(60):
            encoder.encode(models.long_text(number % 7 + 1))
        assert 1 == len(told())
        assert reloads + 1 == encoder.stats.reloads


def test_a_bound_that_a_process_keeps_until_it_works_is_said_too(saved: Path) -> None:
    """A fresh process is below the bound, one that has begun to work above it: no endless round."""
    events: list[Event] = []
    loader = partial(process_models.needing, str(saved), 120 * MIB)
    with SafeEncoder(loader, isolation="process", reload=None) as encoder:
        [fresh] = encoder.stats.workers
    assert fresh.sample.held_bytes is not None
    policy = MemoryAbove(fresh.sample.held_bytes + 60 * MIB, jitter=0)
    with SafeEncoder(loader, isolation="process", reload=policy, hooks=[events.append]) as encoder:

        def told() -> list[Event]:
            encoder.encode("雨")
            return [one for one in events if one.kind == "unreached"]

        wait_until(told)
        reloads = encoder.stats.reloads
        before = [one.pid for one in encoder.stats.workers]
        for _ in range(60):
            encoder.encode("雨")
        assert before == [one.pid for one in encoder.stats.workers]
        assert reloads == encoder.stats.reloads <= 2
        assert 1 == len(told())
