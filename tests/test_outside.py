"""What grows elsewhere in the process is told apart: reported once, and no reload for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import seams
from safe_embed import MemoryGrowth, SafeEncoder
from safe_embed.inference.tasks import Work
from safe_embed.memory.ladder import Ladder
from safe_embed.memory.outside import ProcessView
from safe_embed.memory.types import Event, MemorySample, Reason, Rung
from safe_embed.policies import default_policy
from safe_embed.supervision.outside import OutsideGrowth
from safe_embed.supervision.usage import UsageMeter
from seams import HeldMemory, Loader

MIB = 2**20
POLICY = MemoryGrowth("100 MiB", jitter=0, cool_down_seconds=0)


@pytest.fixture
def held() -> Iterator[HeldMemory]:
    """A process that holds 500 MiB."""
    return HeldMemory()


def warmed_up(loader: Any, held: HeldMemory, **options: Any) -> SafeEncoder:
    """An encoder on a thread of this process, after warm-up; no call goes on beside a load."""
    room = seams.Headroom(is_there=False)
    made = seams.encoder_with(sampler=held, idle_seconds=3600.0, headroom=room)
    encoder: SafeEncoder = made(loader, **{"reload": POLICY, **options})
    calls(encoder, 21)
    return encoder


def calls(encoder: SafeEncoder, count: int = 5) -> None:
    """Make calls, and wait until nothing is done about memory."""
    for _ in range(count):
        encoder.encode("雨")
    encoder.backend.idle()


def told(*encoders: SafeEncoder) -> list[str]:
    """What was reported, but for remedies."""
    events = [event for encoder in encoders for event in encoder.stats.events]
    return [event.kind for event in events if event.kind != "remedy"]


@pytest.mark.parametrize(
    ("options", "grown_mib"),
    [
        ({}, 101),
        ({}, 3000),
        ({"reload": default_policy()}, 600),
        ({"reload": default_policy(), "hard_limit": "100 MiB"}, 600),
        ({"reload": None, "hard_limit": "200 MiB"}, 301),
    ],
)
def test_a_data_frame_between_two_calls_costs_no_reload(
    saved: Path, held: HeldMemory, options: dict[str, Any], grown_mib: int
) -> None:
    """It cannot be the encoder's own: one event says how much is held outside, and nothing is done."""
    loader = Loader(saved)
    with warmed_up(loader, held, **options) as encoder:
        held.held_mib += grown_mib
        calls(encoder, 30)
        [event] = encoder.stats.events
        assert "outside" == event.kind
        assert f"{grown_mib:,} MiB held outside this encoder" == event.reason
    assert 1 == loader.loads


def test_what_no_rung_gave_back_costs_one_reload(saved: Path, held: HeldMemory) -> None:
    """A store that grows while texts are embedded: tried once, reported once, and never again."""
    loader = Loader(saved)
    with warmed_up(loader, held) as encoder:
        loader.before_batch = lambda _: held.hold(900)
        calls(encoder, 30)
        assert ["outside"] == told(encoder)
        assert "400 MiB held outside this encoder" == encoder.stats.events[-1].reason
    assert 2 == loader.loads


def test_what_a_batch_loses_is_the_encoders_own(saved: Path, held: HeldMemory) -> None:
    """A leak is met by a new model each time, however long it goes on."""
    loader = Loader(saved)

    def lose(_: Any) -> None:
        held.held_mib += 30

    loader.fault = lambda: held.hold(500)
    with warmed_up(loader, held) as encoder:
        loader.before_batch = lose
        calls(encoder, 40)
        assert [] == told(encoder)
        assert encoder.stats.reloads > 5
    assert held.held_mib <= 650


def test_a_leak_that_shows_between_two_tasks_is_found_out(saved: Path, held: HeldMemory) -> None:
    """It is taken for another's once; then it is tried, a new model gives it back, and that is known."""
    loader = Loader(saved)
    loader.fault = lambda: held.hold(500)
    with warmed_up(loader, held) as encoder:
        reloads = []
        for _ in range(12):
            held.held_mib += 60
            calls(encoder, 1)
            reloads.append(encoder.stats.reloads)
        assert ["outside"] == told(encoder)
        assert 0 == reloads[1]
    assert reloads[-1] >= 2
    assert held.held_mib <= 800


def test_what_is_gone_counts_no_more(saved: Path, held: HeldMemory) -> None:
    """After a peak of the user's own growth counts from where it did before."""
    loader = Loader(saved)
    loader.fault = lambda: held.hold(500)
    with warmed_up(loader, held) as encoder:
        held.held_mib += 500
        calls(encoder)
        held.held_mib -= 500
        calls(encoder)

        def lose(_: Any) -> None:
            held.held_mib = 610
            loader.before_batch = None

        loader.before_batch = lose
        calls(encoder, 1)
        assert ["outside"] == told(encoder)
        assert 1 == encoder.stats.reloads


def test_a_peak_that_comes_again_is_reported_again(saved: Path, held: HeldMemory) -> None:
    """The same memory is reported once; memory that was given back and taken anew is other memory."""
    with warmed_up(Loader(saved), held) as encoder:
        held.held_mib += 500
        calls(encoder)
        assert ["outside"] == told(encoder)
        held.held_mib -= 500
        calls(encoder)
        loader_calls = encoder.stats.reloads
        held.held_mib += 500
        calls(encoder)
        assert ["outside"] * 2 == told(encoder)
        assert loader_calls <= encoder.stats.reloads <= loader_calls + 1


@pytest.mark.parametrize("count", [2, 3])
def test_encoders_of_a_process_share_one_view(saved: Path, held: HeldMemory, count: int) -> None:
    """One of them reports a data frame; none reloads for it."""
    loader = Loader(saved)
    with ExitStack() as stack:
        encoders = [stack.enter_context(warmed_up(loader, held)) for _ in range(count)]
        held.held_mib += 500
        for encoder in encoders * 3:
            calls(encoder)
        assert ["outside"] == told(*encoders)
    assert count == loader.loads


def test_the_encoder_that_loses_memory_is_the_one_that_reloads(
    saved: Path, held: HeldMemory
) -> None:
    """The other sees the process grow as well, and does nothing."""
    quiet, losing = Loader(saved), Loader(saved)
    losing.fault = lambda: held.hold(500)
    with warmed_up(quiet, held) as first, warmed_up(losing, held) as second:
        held.held_mib = 500

        def lose(_: Any) -> None:
            held.held_mib += 30

        losing.before_batch = lose
        for _ in range(30):
            calls(second, 1)
            calls(first, 1)
        assert second.stats.reloads >= 5
        assert first.stats.reloads <= 1


# What one has tried in vain


class Found:
    """An encoder's reckoning, without the encoder: warm at 500 MiB."""

    def __init__(self, view: ProcessView, *, is_alone: bool = False) -> None:
        self.held = HeldMemory()
        self.events: list[Event] = []
        self.meter = UsageMeter(self.held, lambda: None, lambda: 0.0)
        self.meter.count(Work(calls=20))
        self.meter.settle(is_quiet=True)
        self.growth = OutsideGrowth(self.meter, self.events.append, is_alone=is_alone, view=view)

    def explains(self, held_mib: int, bound_mib: int = 600, **reason: Any) -> bool:
        """Whether what exceeds a bound is taken to be held outside."""
        self.held.held_mib = held_mib
        asked = Reason("grown", bound_bytes=bound_mib * MIB, **reason)
        return self.growth.explains(asked, self.held.take())

    def try_in_vain(self, held_mib: int, bound_mib: int = 600) -> bool:
        """Take every rung, with nothing given back."""
        sample = MemorySample(0.0, rss_anon_bytes=held_mib * MIB)
        reason = Reason("grown", bound_bytes=bound_mib * MIB)
        self.growth.load_begins()
        for kind in ("remedy", "unreached"):
            event: Any = Event(kind, "grown", Rung.MODEL, sample, sample, 0.0)  # type: ignore[arg-type]
            is_told = self.growth.told_apart(event, reason, Rung.MODEL)
        return is_told

    def assume(self, held_mib: int) -> None:
        """Report what is taken to be held outside."""
        self.held.held_mib = held_mib
        ladder = Ladder({Rung.TRIM: lambda: None}, self.held.take, self.events.append)
        list(self.growth.report(Reason("grown", bound_bytes=600 * MIB), ladder))


def test_what_another_encoder_has_tried_in_vain_is_not_tried_again() -> None:
    """Both were at work when it came, so that it could have been either's: one reload is enough."""
    view = ProcessView()
    first, second = Found(view), Found(view)
    for one in (first, second):
        one.growth.add(300 * MIB)
        assert not one.explains(800)
    assert first.try_in_vain(800)
    assert second.explains(800)
    assert not second.explains(900)  # more than the first was left with
    second.assume(800)
    assert ["outside"] == [event.kind for event in first.events + second.events]


def test_how_often_it_is_assumed_before_it_is_tried() -> None:
    """Once; after each trial in vain twice as often; and not at all where a trial has helped."""
    view = ProcessView()
    found = Found(view)
    level, assumed = 800, []
    for _ in range(3):
        count = 0
        while found.explains(level, level - 100):
            found.assume(level)
            level, count = level + 200, count + 1
        assumed.append(count)
        assert found.try_in_vain(level, level - 100)
        level += 200
    assert [1, 2, 4] == assumed
    before = MemorySample(0.0, rss_anon_bytes=900 * MIB)
    after = MemorySample(0.0, rss_anon_bytes=500 * MIB)
    found.growth.told_apart(
        Event("remedy", "grown", Rung.MODEL, before, after, 0.0), None, Rung.MODEL
    )
    assert not found.explains(level, level - 100)


def test_a_trial_that_failed_is_no_trial() -> None:
    """A model that could not be loaded has given back nothing, and says nothing."""
    found = Found(ProcessView())
    sample = MemorySample(0.0, rss_anon_bytes=800 * MIB)
    reason = Reason("grown", bound_bytes=600 * MIB)
    for event in (
        Event("failed", "grown", Rung.MODEL, sample, sample, 0.0, "OSError"),
        Event("unreached", "grown", Rung.MODEL, sample, sample, 0.0),
    ):
        assert not found.growth.told_apart(event, reason, Rung.MODEL)
    assert [] == found.events


@pytest.mark.parametrize(
    ("reason", "is_alone"),
    [({"at_most": Rung.TRIM}, False), ({"bound_mib": 400}, False), ({}, True)],
    ids=["a trim costs nothing", "a bound below the need", "a process of its own"],
)
def test_what_is_no_matter_of_others(reason: dict[str, Any], *, is_alone: bool) -> None:
    """A rung is taken as before."""
    assert not Found(ProcessView(), is_alone=is_alone).explains(800, **reason)


def test_what_tasks_add_while_a_model_loads_is_not_held_outside() -> None:
    """A load beside the old model gives back 300 MiB, and tasks add 250 meanwhile: a miss, no more."""
    found = Found(ProcessView())
    found.growth.add(300 * MIB)
    found.growth.load_begins()
    found.growth.add(250 * MIB)
    sample = MemorySample(0.0, rss_anon_bytes=750 * MIB)
    reason = Reason("grown", bound_bytes=600 * MIB)
    for event in (
        Event("remedy", "grown", Rung.MODEL, sample, sample, 0.0),
        Event("unreached", "grown", Rung.MODEL, sample, sample, 0.0),
    ):
        assert not found.growth.told_apart(event, reason, Rung.MODEL)
    assert [] == found.events


def test_what_a_rung_gives_back_is_the_tasks_no_more() -> None:
    """Of 300 MiB that tasks have added a fresh tokenizer gives back 250: 150 above a bound are others'."""
    found = Found(ProcessView())
    found.growth.add(300 * MIB)
    assert not found.explains(750)
    samples = [MemorySample(0.0, rss_anon_bytes=size * MIB) for size in (800, 550)]
    event = Event("remedy", "grown", Rung.TOKENIZER, samples[0], samples[1], 0.0)
    assert not found.growth.told_apart(event, None, Rung.MODEL)
    assert found.explains(750)
