"""Calls wait where too much is held, whatever a policy allows: they are not lost, and nobody is killed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hard_limit
import process_models
import seams
from process_models import MIB
from safe_embed import EveryCalls, MemoryAbove, MemoryGrowth, Never, SafeEncoder
from safe_embed.errors import ConfigError, ReloadError
from safe_embed.memory.hard_limit import Enforced, HardLimit, hard_limit_of, resolve_hard_limit
from safe_embed.memory.sampling import anonymous_bytes
from safe_embed.memory.types import MemorySample, Rung, Usage
from safe_embed.policies import EverySeconds, default_policy
from safe_embed.supervision.hard_mark import HardMark
from seams import HeldMemory, Loader

on_linux = pytest.mark.skipif(
    sys.platform != "linux" or anonymous_bytes() is None, reason="there is no RssAnon"
)
GIB = 2**30
EXPERIMENT = Path(__file__).parent.parent / "benchmarks" / "hard_limit.py"


# The argument


@pytest.mark.parametrize(
    ("value", "policy", "expected"),
    [
        (None, default_policy(), HardLimit(450 * MIB, None, 0.97)),
        (None, MemoryGrowth("100 MiB"), HardLimit(150 * MIB, None, 0.97)),
        (None, MemoryAbove("2 GiB"), HardLimit(None, 3 * GIB, 0.97)),
        (None, MemoryAbove(share=0.8), HardLimit(None, None, 0.97)),
        (None, MemoryGrowth(200) | MemoryGrowth(100) | EveryCalls(9), HardLimit(150, None, 0.97)),
        (None, MemoryGrowth(100, at_most=Rung.TOKENIZER), HardLimit(None, None, 0.97)),
        (None, MemoryGrowth(100) & EverySeconds(3600), HardLimit(None, None, 0.97)),
        (None, EveryCalls(10), HardLimit(None, None, 0.97)),
        (None, Never(), HardLimit()),
        ("400 MiB", default_policy(), HardLimit(400 * MIB, None, 0.97)),
        (5_000_000, Never(), HardLimit(5_000_000, None, 0.97)),
        (0.9, MemoryGrowth("100 MiB"), HardLimit(None, None, 0.9, includes_machine=True)),
        (1.0, Never(), HardLimit(None, None, 1.0, includes_machine=True)),
    ],
)
def test_what_the_hard_limit_is(value: Any, policy: Any, expected: HardLimit) -> None:
    """A size is growth, a float a share of the limit; without either it follows from the policy."""
    limit = resolve_hard_limit(value, policy)
    assert expected == limit
    assert expected == hard_limit_of(Enforced(policy, limit))


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, True, False, 0.0, -0.5, 1.5, float("nan"), float("inf"), "", "400", "400 MiBs"),
        *("90%", "default", b"400 MiB", [400], print, MemoryGrowth("1 GiB")),
    ],
    ids=str,
)
def test_what_is_no_hard_limit(value: Any) -> None:
    """Refused in both languages before anything is loaded."""

    def load() -> Any:
        pytest.fail("nothing is loaded")

    with pytest.raises(ConfigError) as caught:
        SafeEncoder(load, hard_limit=value)
    english, japanese = str(caught.value).splitlines()
    assert english.startswith("hard_limit=")
    assert "400 MiB" in english
    assert "渡してください" in japanese


# When calls wait


def usage(
    grown_mib: int, *, limit_mib: int | None = None, kind: Any = "cgroup", **more: Any
) -> Usage:
    """What is used of 1,000 MiB at warm-up and 200 before; all of it counts against the limit."""
    held = (1000 + grown_mib) * MIB
    limit: dict[str, Any] = {}
    if limit_mib is not None:
        used = held + more.pop("others_mib", 0) * MIB
        limit = {"limit_bytes": limit_mib * MIB, "limit_used_bytes": used, "limit_kind": kind}
    baseline = None if more.pop("is_cold", False) else MemorySample(0.0, rss_anon_bytes=1000 * MIB)
    return Usage(9, 9, 9, 9.0, MemorySample(1.0, rss_anon_bytes=held, **limit), baseline)


GROWTH = HardLimit(growth_bytes=300 * MIB, share=0.97)
SHARE = HardLimit(share=0.97)


@pytest.mark.parametrize(
    ("limit", "used", "bound_mib"),
    [
        # Growth: two thirds of it may stay, so that the policy's bound is kept afterwards.
        (GROWTH, usage(300), None),
        (GROWTH, usage(303), 1202),
        (GROWTH, usage(600), 1300),
        (GROWTH, usage(900, is_cold=True), None),
        (HardLimit(held_bytes=1200 * MIB), usage(200), None),
        (HardLimit(held_bytes=1200 * MIB), usage(210, is_cold=True), 873),
        # 97 % of 2,000 MiB are 1,940.
        (SHARE, usage(939, limit_mib=2000), None),
        (SHARE, usage(942, limit_mib=2000), 1628),
        (SHARE, usage(450, limit_mib=2000, others_mib=489), None),
        (SHARE, usage(450, limit_mib=2000, others_mib=492), 1300),
        (SHARE, usage(-30, limit_mib=1000, is_cold=True), None),
        (SHARE, usage(-29, limit_mib=1000, is_cold=True), 714),
        # What others use is not given back by waiting.
        (SHARE, usage(30, limit_mib=2000, others_mib=920), None),
        (SHARE, usage(100, limit_mib=2000, others_mib=1050), None),
        (SHARE, usage(942, limit_mib=2000, kind="machine"), None),
        (
            HardLimit(share=0.97, includes_machine=True),
            usage(942, limit_mib=2000, kind="machine"),
            1628,
        ),
        (HardLimit(), usage(10_000, limit_mib=11_000), None),
    ],
)
def test_when_calls_wait(limit: HardLimit, used: Usage, bound_mib: int | None) -> None:
    """Above the growth, the size or the share; and how far memory must come down."""
    reason = limit.reason(used, 200 * MIB, 0)
    assert bound_mib == (None if reason is None else (reason.bound_bytes or 0) // MIB)
    assert reason is None or reason.at_most == Rung.PROCESS


def test_room_is_left_for_three_more_batches() -> None:
    """Of the largest growth that a batch was seen to bring; peaks of long ago do not count.

    1,905 of 2,000 MiB are in use.
    """
    mark = HardMark(SHARE, MemorySample(0.0, rss_anon_bytes=200 * MIB))

    def task(growth_mib: int) -> None:
        mark.task_begins(MemorySample(0.0, rss_anon_bytes=500 * MIB))
        mark.task_ended(MemorySample(0.0, rss_anon_bytes=(500 + growth_mib) * MIB))

    used = usage(905, limit_mib=2000)
    task(31)
    assert mark.reason(used) is None
    task(33)
    task(1)
    assert mark.reason(used) is not None
    for _ in range(20):
        task(-5)
    assert mark.reason(used) is None


def test_room_is_left_for_a_model_that_loads_beside() -> None:
    """400 MiB are left below 97 %; of a load of 300, with a fifth more, 40 remain to be used."""
    mark = HardMark(SHARE, MemorySample(0.0, rss_anon_bytes=200 * MIB))
    mark.reserve(usage(540, limit_mib=2000).sample, 300 * MIB)
    assert mark.reason(usage(579, limit_mib=2000)) is None
    assert mark.reason(usage(581, limit_mib=2000)) is not None
    mark.release()
    assert mark.reason(usage(581, limit_mib=2000)) is None
    mark.reserve(usage(900, limit_mib=2000).sample, 300 * MIB)  # no room: not beside
    assert mark.reason(usage(930, limit_mib=2000)) is None


# On a thread of this process


def warmed_up(loader: Any, sampler: HeldMemory, **options: Any) -> SafeEncoder:
    """An encoder on a thread, after warm-up, for which the policy never speaks but at the mark."""
    made = seams.encoder_with(sampler=sampler, idle_seconds=3600.0)
    encoder: SafeEncoder = made(loader, hard_limit="400 MiB", **options)
    for _ in range(21):
        encoder.encode("雨")
    return encoder


def test_calls_wait_while_the_model_is_dropped_and_loaded(saved: Path) -> None:
    """Past the mark no batch is done until a new model is there; never two; no call is lost."""
    sampler, loader, gate = HeldMemory(), Loader(saved), seams.Gate()
    there: list[int] = []

    def lose(_: Any) -> None:
        sampler.held_mib = 950
        loader.before_batch = None

    def fault() -> None:
        there.append(len(loader.models))
        gate()
        sampler.held_mib = 500

    with warmed_up(loader, sampler, reload=None) as encoder, ThreadPoolExecutor(4) as pool:
        expected = encoder.encode("雪")
        loader.before_batch, loader.fault = lose, fault
        first = encoder.encode("雪")
        gate.wait_until_reached()
        done = len(loader.batches)
        calls = [pool.submit(encoder.encode, "雪") for _ in range(8)]
        encoder.stats  # noqa: B018 of an encoder whose thread is busy
        assert done == len(loader.batches)
        gate.open()
        for vectors in (first, *(call.result() for call in calls)):
            np.testing.assert_array_equal(expected, vectors)
        encoder.backend.idle()
        events = encoder.stats.events
    assert [0] == there
    assert [("remedy", Rung.MODEL)] == [
        (event.kind, event.rung) for event in events if event.rung == 4
    ]
    assert {2} == set(loader.batches[done:])
    assert "calls wait" in events[-1].reason


def test_what_no_rung_gives_back_makes_nobody_wait_for_ever(saved: Path) -> None:
    """It is reported once, after one reload, and calls go on."""
    sampler, loader = HeldMemory(), Loader(saved)
    with warmed_up(loader, sampler, reload=None) as encoder:
        sampler.held_mib = 950
        for _ in range(30):
            encoder.encode("雨")
        encoder.backend.idle()
        kinds = [event.kind for event in encoder.stats.events]
    assert 1 == kinds.count("outside")
    assert 2 == loader.loads


def test_a_load_that_fails_at_the_mark_is_told_and_tried_again(saved: Path) -> None:
    """The model is gone, and calls say so; once it can be loaded they are served."""
    sampler, loader, clock = HeldMemory(), Loader(saved), seams.Clock()
    made = seams.encoder_with(sampler=sampler, idle_seconds=3600.0, clock=clock)
    with made(loader, hard_limit="400 MiB", reload=None) as encoder:
        for _ in range(21):
            encoder.encode("雨")
        expected = encoder.encode("雨")

        def fail() -> None:
            raise OSError

        loader.fault = fail
        sampler.held_mib = 950
        for _ in range(2):
            with pytest.raises(ReloadError, match="no model"):
                encoder.encode("雨")
        loader.fault, sampler.held_mib = None, 500
        clock.now += 3600
        np.testing.assert_array_equal(expected, encoder.encode("雨"))


def test_no_hard_limit_where_memory_is_left_alone(saved: Path) -> None:
    """With reload=None and nothing else nobody waits, whatever is held."""
    sampler, loader = HeldMemory(), Loader(saved)
    made = seams.encoder_with(sampler=sampler, idle_seconds=3600.0)
    with made(loader, reload=None) as encoder:
        for _ in range(21):
            encoder.encode("雨")
        sampler.held_mib = 10_000
        encoder.encode("雨")
        encoder.backend.idle()
        assert () == encoder.stats.events


# In a process of its own


@on_linux
@pytest.mark.usefixtures("forked_workers")
def test_calls_wait_while_the_replacement_loads(saved: Path, tmp_path: Path) -> None:
    """A replacement that does not come: the leak ends at the mark; all calls are done after it."""
    lost, mark = 8 * MIB, 120 * MIB
    loader = partial(process_models.leaking_held_back, str(saved), str(tmp_path), lost)
    grown: list[int] = []
    policy = MemoryGrowth("80 MiB", jitter=0)
    with (
        SafeEncoder(loader, isolation="process", reload=policy) as encoder,
        ThreadPoolExecutor(4) as pool,
    ):
        expected = encoder.encode("雨")

        def look() -> int:
            for worker in encoder.stats.workers:
                if worker.baseline is not None:
                    held, base = worker.sample.held_bytes or 0, worker.baseline.held_bytes or 0
                    grown.append(held - base)
            return max(grown, default=0)

        def rests() -> bool:
            """Whether the worker has looked at its memory since the last call, as one without work."""
            look()
            return any(one.sample.elapsed_seconds > max(ended) for one in encoder.stats.workers)

        ended: list[float] = []
        calls = [pool.submit(encoder.encode, "雨") for _ in range(100)]
        for call in calls:
            call.add_done_callback(lambda _: ended.append(time.monotonic()))
        seams.wait_until(lambda: look() > mark)
        seams.wait_until(rests)  # without the mark, once all calls are done
        (tmp_path / "release").touch()
        for call in calls:
            np.testing.assert_array_equal(expected, call.result())
            look()
        events = encoder.stats.events
    assert max(grown) <= mark + lost + 4 * MIB
    assert [Rung.PROCESS] == [event.rung for event in events if event.rung == Rung.PROCESS][:1]
    assert "died" not in [event.kind for event in events]


# Under a real limit


@on_linux
@pytest.mark.long
@pytest.mark.parametrize("isolation", ["none", "process"])
def test_the_system_kills_nothing(isolation: str) -> None:
    """45 calls lose 20 MiB each where 500 are left, in a control group, or else under RLIMIT_AS."""
    options = ["--calls=45", "--lost-mib=20", "--room-mib=500", "--busy=0", "--json"]
    done = subprocess.run(
        [sys.executable, str(EXPERIMENT), "--isolation", isolation, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert 0 == done.returncode, done.stderr
    row = json.loads(done.stdout.splitlines()[-1])
    assert (0, 0) == (row["kills"], row["wrong"])
    assert row["reloads"] >= 1


ROW = {
    "isolation": "none",
    "lost_mib": 10,
    "kills": 0,
    "wrong": 0,
    "growth_mib": 460,
    "most_growth_allowed_mib": 460,
}


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"kills": 1}, "killed (1)"),
        ({"kills": "exit -9"}, "killed (exit -9)"),
        ({"wrong": 2}, "2 wrong"),
        ({"growth_mib": 461}, "grew by 461 MiB"),
    ],
)
def test_the_experiment_names_what_was_not_kept(changes: dict[str, Any], fault: str | None) -> None:
    """Its record is of no use then; see tests/test_run_records.py."""
    expected = [] if fault is None else [f"none, 10 MiB a call: {fault}"]
    assert expected == hard_limit.faults_in([{**ROW, **changes}])
