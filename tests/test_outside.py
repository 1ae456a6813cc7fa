"""What grows elsewhere in the process is tried once, reported once, and costs no further reload."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seams
from safe_embed import MemoryGrowth, SafeEncoder
from safe_embed.memory.outside import OutsideMemory
from safe_embed.policies import default_policy
from seams import HeldMemory, Loader

MIB = 2**20
ALLOWED_MIB = 100
POLICY = MemoryGrowth(f"{ALLOWED_MIB} MiB", jitter=0, cool_down_seconds=0)


@pytest.fixture
def held() -> Iterator[HeldMemory]:
    """A process that holds 500 MiB."""
    return HeldMemory()


def warmed_up(
    loader: Any, held: HeldMemory, *, is_room: bool = False, **options: Any
) -> SafeEncoder:
    """An encoder on a thread of this process, after warm-up; with room calls go on beside a load."""
    room = seams.Headroom(is_there=is_room)
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
        ({}, ALLOWED_MIB + 1),
        ({}, 3000),
        ({"reload": default_policy()}, 600),
        ({"reload": default_policy(), "hard_limit": "100 MiB"}, 600),
        ({"reload": None, "hard_limit": "200 MiB"}, 301),
    ],
)
@pytest.mark.parametrize("grows", ["between two calls", "during a call"])
def test_a_data_frame_costs_one_reload(
    saved: Path, held: HeldMemory, options: dict[str, Any], grown_mib: int, grows: str
) -> None:
    """A new model gives nothing back: that is reported, with the size, and nothing more is done."""
    loader = Loader(saved)
    with warmed_up(loader, held, **options) as encoder:
        if grows == "during a call":
            loader.before_batch = lambda _: held.hold(500 + grown_mib)
        else:
            held.hold(500 + grown_mib)
        calls(encoder, 30)
        assert ["outside"] == told(encoder)
        assert f"{grown_mib:,} MiB held outside this encoder" == encoder.stats.events[-1].reason
    assert 2 == loader.loads


def test_what_goes_on_growing_elsewhere_is_tried_when_it_has_doubled(
    saved: Path, held: HeldMemory
) -> None:
    """A store grows by 50 times the bound between calls: tried at the bound, and at each doubling."""
    loader = Loader(saved)
    with warmed_up(loader, held) as encoder:
        for _ in range(100):
            held.held_mib += ALLOWED_MIB // 2
            calls(encoder, 1)
        assert {"outside"} == set(told(encoder))
        assert len(told(encoder)) == encoder.stats.reloads == 6  # 150, 300, 600 ... 4,800 MiB


def test_what_a_store_takes_during_calls_is_tried_ever_more_rarely(
    saved: Path, held: HeldMemory
) -> None:
    """Whose growth it is cannot be measured there, so that a reload has to tell."""
    loader = Loader(saved)

    def keep(_: Any) -> None:
        held.held_mib += ALLOWED_MIB // 2

    with warmed_up(loader, held) as encoder:
        loader.before_batch = keep
        calls(encoder, 100)
        assert {"outside"} == set(told(encoder))
        assert encoder.stats.reloads <= 7


def lose(held: HeldMemory, mib: int) -> Any:
    """A model that loses so much with every batch."""

    def before_batch(_: Any) -> None:
        held.held_mib += mib

    return before_batch


def test_what_batches_take_and_give_back_again_is_no_growth(saved: Path, held: HeldMemory) -> None:
    """Beside a data frame each batch leaves free blocks, which are given back before the next one."""
    loader = Loader(saved)
    with warmed_up(loader, held) as encoder:
        held.held_mib += 300
        calls(encoder)
        assert 1 == encoder.stats.reloads
        loader.before_batch = lose(held, 30)
        for _ in range(40):
            calls(encoder, 1)
            held.hold(800)
        assert 1 == encoder.stats.reloads


@pytest.mark.parametrize(("grown_mib", "reloads"), [(70, 0), (90, 1)])
def test_near_a_limit_a_tenth_of_growth_elsewhere_is_tried(
    saved: Path, held: HeldMemory, grown_mib: int, reloads: int
) -> None:
    """Of 800 MiB that a reload has left; far from a limit it must be what is held outside, 300 MiB."""
    with warmed_up(Loader(saved), held) as encoder:
        held.hold(800)
        calls(encoder)
        before = encoder.stats.reloads
        held.limit_mib = 1000
        held.held_mib += grown_mib
        calls(encoder)
        assert before + reloads == encoder.stats.reloads


@pytest.mark.parametrize("outside_mib", [0, 300, 5000])
def test_what_batches_lose_is_the_encoders_own(
    saved: Path, held: HeldMemory, outside_mib: int
) -> None:
    """A leak is met by a new model each time, however much others hold; they are reported once."""
    loader = Loader(saved)
    with warmed_up(loader, held) as encoder:
        held.held_mib += outside_mib
        calls(encoder)
        reloads = encoder.stats.reloads
        loader.fault = lambda: held.hold(500 + outside_mib)
        loader.before_batch = lose(held, 30)
        most = 0
        for _ in range(25):
            calls(encoder, 1)
            most = max(most, held.held_mib - outside_mib - 500)
        assert ["outside"] * bool(outside_mib) == told(encoder)
        assert encoder.stats.reloads >= reloads + 4
    assert most <= ALLOWED_MIB + 60


def test_a_leak_that_shows_between_two_calls_is_the_encoders_own(
    saved: Path, held: HeldMemory
) -> None:
    """A thread of the model's own: a new model gives it back, each time."""
    loader = Loader(saved)
    loader.fault = lambda: held.hold(500)
    with warmed_up(loader, held) as encoder:
        for _ in range(20):
            held.held_mib += 60
            calls(encoder, 1)
            assert held.held_mib <= 500 + ALLOWED_MIB
        assert [] == told(encoder)


def test_what_is_gone_counts_no_more(saved: Path, held: HeldMemory) -> None:
    """After a peak of the user's own growth counts from where it did before."""
    loader = Loader(saved)
    with warmed_up(loader, held) as encoder:
        held.held_mib += 500
        calls(encoder)
        held.held_mib -= 500
        calls(encoder)
        assert ["outside"] == told(encoder)
        loader.fault = lambda: held.hold(500)
        held.held_mib += ALLOWED_MIB + 1
        calls(encoder)
        assert 500 == held.held_mib
        assert ["outside"] == told(encoder)


def test_memory_that_is_taken_again_is_other_memory(saved: Path, held: HeldMemory) -> None:
    """It is reported again."""
    with warmed_up(Loader(saved), held) as encoder:
        for peaks in (1, 2):
            held.held_mib += 500
            calls(encoder)
            assert ["outside"] * peaks == told(encoder)
            held.held_mib -= 500
            calls(encoder)


@pytest.mark.parametrize("count", [2, 3])
def test_encoders_of_a_process_share_one_view(saved: Path, held: HeldMemory, count: int) -> None:
    """A data frame grows. One of the encoders reloads once and reports it; no other does either."""
    loader = Loader(saved)
    with ExitStack() as stack:
        encoders = [stack.enter_context(warmed_up(loader, held)) for _ in range(count)]
        held.held_mib += 500
        for encoder in encoders * 3:
            calls(encoder)
        assert ["outside"] == told(*encoders)
    assert count + 1 == loader.loads


def test_the_encoder_that_loses_memory_is_the_one_that_reloads(
    saved: Path, held: HeldMemory
) -> None:
    """The other sees the process grow as well; having tried once in vain, it does nothing."""
    quiet, losing = Loader(saved), Loader(saved)
    losing.fault = lambda: held.hold(500)
    with warmed_up(quiet, held) as first, warmed_up(losing, held) as second:
        held.held_mib = 500
        losing.before_batch = lose(held, 30)
        most = 0
        for _ in range(40):
            calls(second, 1)
            calls(first, 1)
            most = max(most, held.held_mib)
        assert second.stats.reloads >= 5
        assert first.stats.reloads <= 1
    assert most <= 500 + 2 * ALLOWED_MIB


def test_an_encoder_that_another_has_tried_for_goes_by_its_own_batches(
    saved: Path, held: HeldMemory
) -> None:
    """What came before is taken for a third party's; what its batches add from there is its own."""
    quiet, losing = Loader(saved), Loader(saved)
    with warmed_up(quiet, held) as first, warmed_up(losing, held) as second:
        held.held_mib += 200
        calls(first)
        assert ["outside"] == told(first)
        calls(second)
        assert 0 == second.stats.reloads
        losing.fault = lambda: held.hold(500)
        losing.before_batch = lose(held, 30)
        calls(second, 6)
        assert 1 == second.stats.reloads
        assert [] == told(second)


def test_a_reload_that_failed_says_nothing(saved: Path, held: HeldMemory) -> None:
    """What a model holds that could not be replaced may be its own: the bound is unreached."""
    loader = Loader(saved)
    with warmed_up(loader, held, is_room=True) as encoder:
        loader.fault = lambda: np.zeros(1)
        held.held_mib += ALLOWED_MIB + 1
        calls(encoder, 1)
        assert ["failed", "unreached"] == told(encoder)


def test_what_batches_add_while_a_model_loads_beside_is_their_own(
    saved: Path, held: HeldMemory
) -> None:
    """The new model gives back what the old one held; what was lost meanwhile is not of others."""
    loader, gate = Loader(saved), seams.Gate()

    def load() -> None:
        gate()
        held.held_mib -= ALLOWED_MIB

    with warmed_up(loader, held, is_room=True, hard_limit="1 GiB") as encoder:
        loader.before_batch = lose(held, 30)
        loader.fault = load
        while not gate.is_reached:
            encoder.encode("雨")
        for _ in range(10):
            encoder.encode("雨")
        loader.before_batch, loader.fault = None, None
        gate.open()
        encoder.backend.idle()
        assert ["unreached"] == told(encoder)
        assert 1 == encoder.stats.reloads


def test_what_an_encoder_leaves_is_news_once() -> None:
    """A tenth more is news, and what was given back is forgotten."""
    memory = OutsideMemory()
    assert memory.leave(1000 * MIB)
    assert not memory.leave(1050 * MIB)
    assert memory.leave(1200 * MIB)
    memory.look(1100 * MIB)
    assert 1200 * MIB == memory.left_bytes
    memory.look(1000 * MIB)
    assert 0 == memory.left_bytes
    assert memory.leave(900 * MIB)
