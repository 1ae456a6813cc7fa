"""The ladder, with scripted remedies and a clock of its own; and the remedies that need no model."""

from __future__ import annotations

import copy
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import models
from safe_embed.memory.ladder import Ladder, Remedy
from safe_embed.memory.remedies import trim
from safe_embed.memory.types import Event, MemorySample, Reason, Rung
from safe_embed.upstream.tokenizer_cache import clear_tokenizer_cache

MIB = 2**20
PLANTED = "合言葉は山川豊"
TRIM, CACHE, TOKENIZER, MODEL, PROCESS = Rung
RUNGS = (TRIM, CACHE, TOKENIZER, MODEL)


@dataclass
class World:
    """A process that holds memory of four kinds, each given back by one rung and those above it.

    But what is *kept_by_higher* rungs only its own gives back.
    """

    base: int = 500 * MIB
    grown: dict[Rung, int] = field(default_factory=dict)
    seconds: dict[Rung, float] = field(default_factory=dict)
    failing: set[Rung] = field(default_factory=set)
    now: float = 0.0
    taken: list[Rung] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    measured: int = 0
    kept_by_higher: Rung | None = None

    def __post_init__(self) -> None:
        remedies: dict[Rung, Remedy] = {rung: self._remedy(rung) for rung in RUNGS}
        self.ladder = Ladder(remedies, self.measure, self.events.append, lambda: self.now)

    @property
    def held(self) -> int:
        """What the process holds."""
        return self.base + sum(self.grown.values())

    def measure(self) -> MemorySample:
        """Take a sample."""
        self.measured += 1
        return MemorySample(self.now, rss_anon_bytes=self.held)

    def _remedy(self, rung: Rung) -> Callable[[], None]:
        def take() -> None:
            self.taken.append(rung)
            self.now += self.seconds.get(rung, 0.0)
            if rung in self.failing:
                raise OSError(PLANTED)
            for one in list(self.grown):
                if one == rung or (one < rung and one != self.kept_by_higher):
                    del self.grown[one]

        return take

    def climb(self, **reason: Any) -> list[Rung]:
        """Climb to the end; give the rungs that were tried."""
        before = len(self.taken)
        for _ in self.ladder.climb(Reason("grown", **reason)):
            pytest.fail("nothing waits here")
        return self.taken[before:]

    def under(self, growth: int = 50, **reason: Any) -> list[Rung]:
        """Climb until the process has grown by at most so many MiB."""
        return self.climb(bound_bytes=self.base + growth * MIB, **reason)

    def kinds(self) -> list[tuple[str, Rung]]:
        """What was told."""
        return [(event.kind, event.rung) for event in self.events]


# As far as needed


@pytest.mark.parametrize("rung", RUNGS)
def test_climbs_only_as_far_as_needed(rung: Rung) -> None:
    """Growth that a rung cures is cured by that rung; each cheaper one was tried once before it.

    Each is reported, but for a trim that gave nothing back.
    """
    world = World(grown={rung: 100 * MIB})
    assert [one for one in RUNGS if one <= rung] == world.under()
    assert world.base == world.held
    told = [one for one in RUNGS if one <= rung and one in {rung, CACHE, TOKENIZER}]
    assert [("remedy", one) for one in told] == world.kinds()


def test_events_say_what_was_given_back_and_how_long_it_took() -> None:
    """Each event has the samples around its rung, the seconds it took, and the reason."""
    world = World(grown={TRIM: 60 * MIB, CACHE: 100 * MIB}, seconds={TRIM: 0.25, CACHE: 2.0})
    world.under()
    told = [
        (event.before.held_bytes, event.after.held_bytes, event.seconds) for event in world.events
    ]
    base = world.base
    assert [
        (base + 160 * MIB, base + 100 * MIB, 0.25),
        (base + 100 * MIB, base, 2.0),
    ] == told
    assert {("grown", None)} == {(event.reason, event.error) for event in world.events}


def test_a_kept_bound_costs_one_trim() -> None:
    """A bound that is kept already, when the ladder looks, asks for the cheapest rung and no more."""
    world = World()
    assert [TRIM] == world.under()


def test_the_rung_that_worked_is_remembered() -> None:
    """Rungs that did not help last time are passed over, all but the trim; a later trim resets."""
    world = World(grown={TOKENIZER: 100 * MIB})
    assert [TRIM, CACHE, TOKENIZER] == world.under()
    world.grown = {TOKENIZER: 100 * MIB}
    assert [TRIM, TOKENIZER] == world.under()
    world.grown = {MODEL: 100 * MIB}
    assert [TRIM, TOKENIZER, MODEL] == world.under()
    world.grown = {TRIM: 100 * MIB}
    assert [TRIM] == world.under()
    world.grown = {CACHE: 100 * MIB}
    assert [TRIM, CACHE] == world.under()


def test_what_is_passed_over_comes_last() -> None:
    """A new model keeps its tokenizer: where it does not help as last time, the tokenizer may."""
    world = World(grown={MODEL: 100 * MIB})
    world.under()
    world.kept_by_higher = TOKENIZER
    world.grown = {TOKENIZER: 100 * MIB}
    assert [TRIM, MODEL, CACHE, TOKENIZER] == world.under()
    assert "remedy" == world.events[-1].kind
    world.grown = {TOKENIZER: 100 * MIB}
    assert [TRIM, TOKENIZER] == world.under()


def test_a_remembered_rung_does_not_hide_the_cheaper_ones_from_a_humbler_reason() -> None:
    """What only a new model cured for one policy is no lesson for one that allows a tokenizer."""
    world = World(grown={MODEL: 400 * MIB})
    assert list(RUNGS) == world.under()
    world.grown = {TOKENIZER: 100 * MIB}
    assert [TRIM, CACHE, TOKENIZER] == world.under(at_most=TOKENIZER)


def test_a_rung_asked_for_by_name_teaches_nothing() -> None:
    """EveryCalls names the model; growth is still cured by the cheapest rung that can."""
    world = World()
    assert [MODEL] == world.climb(rung=MODEL)
    world.grown = {CACHE: 100 * MIB}
    assert [TRIM, CACHE] == world.under()


def test_a_failing_remembered_rung_brings_the_cheaper_ones_back() -> None:
    """When the rung that helped last time cannot be taken now, the cheaper ones are tried again."""
    world = World(grown={MODEL: 100 * MIB})
    world.under()
    world.failing = {MODEL}
    world.grown = {MODEL: 100 * MIB}
    assert [TRIM, MODEL, CACHE, TOKENIZER] == world.under()
    world.grown = {TOKENIZER: 300 * MIB}
    assert [TRIM, CACHE, TOKENIZER] == world.under()


@given(at_most=st.sampled_from(Rung), grown=st.sampled_from(RUNGS))
def test_no_rung_above_the_highest_allowed(at_most: Rung, grown: Rung) -> None:
    """at_most is respected; a bound that is out of reach below it is told, but not for a trim."""
    world = World(grown={grown: 100 * MIB})
    assert [one for one in RUNGS if one <= min(grown, at_most)] == world.under(at_most=at_most)
    unreached = [rung for kind, rung in world.kinds() if kind == "unreached"]
    assert ([at_most] if grown > at_most > TRIM else []) == unreached


@pytest.mark.parametrize("rung", RUNGS)
def test_a_reason_with_a_rung_takes_that_rung_only(rung: Rung) -> None:
    """No cheaper one before it, none after it, whatever is held."""
    world = World(grown=dict.fromkeys(RUNGS, 100 * MIB))
    assert [rung] == world.climb(rung=rung)
    assert [("remedy", rung)] == world.kinds()


def test_a_rung_that_is_not_there() -> None:
    """A process cannot be exchanged here: nothing is done, nothing is told, nothing is measured."""
    world = World()
    assert [] == world.climb(rung=PROCESS)
    assert ([], 0) == (world.events, world.measured)


# Failure


def test_a_failed_rung_is_told_and_the_climb_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """The event names the type of the error, and never its message."""
    caplog.set_level(logging.INFO)
    world = World(grown={TOKENIZER: 100 * MIB}, failing={TOKENIZER})
    assert list(RUNGS) == world.under()
    assert [("remedy", CACHE), ("failed", TOKENIZER), ("remedy", MODEL)] == world.kinds()
    assert [None, "OSError", None] == [event.error for event in world.events]
    assert PLANTED not in repr(world.events)
    assert PLANTED not in caplog.text


@pytest.mark.parametrize("error", [SystemExit, MemoryError, RecursionError])
def test_whatever_a_loader_raises_is_a_failure(error: type[BaseException]) -> None:
    """A loader is code of the user's own; sys.exit() in it fails the rung, not the encoder."""
    events: list[Event] = []

    def fail() -> None:
        raise error

    ladder = Ladder({MODEL: fail}, lambda: MemorySample(0.0), events.append)
    assert [] == list(ladder.climb(Reason("asked", rung=MODEL)))
    assert [("failed", error.__name__)] == [(event.kind, event.error) for event in events]


def test_a_failed_rung_waits_twice_as_long_each_time_up_to_an_hour() -> None:
    """30, 60, 120 … 3,600 s: not taken a moment before, taken then; a success starts over."""
    world = World(failing={MODEL})
    waits = [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    for wait in waits:
        assert [MODEL] == world.climb(rung=MODEL)
        world.now += wait - 0.5
        assert [] == world.climb(rung=MODEL)
        world.now += 1.0
    world.failing.clear()
    assert [MODEL] == world.climb(rung=MODEL)
    assert [MODEL] == world.climb(rung=MODEL)
    world.failing = {MODEL}
    assert [MODEL] == world.climb(rung=MODEL)
    world.now += 31
    assert [MODEL] == world.climb(rung=MODEL)


def test_a_rung_may_fail_for_months() -> None:
    """After thousands of failures it is still tried once an hour."""
    world = World(failing={MODEL})
    for _ in range(3000):
        assert [MODEL] == world.climb(rung=MODEL)
        world.now += 3601


def test_taking_a_rung_by_hand_does_not_wait() -> None:
    """reload() is asked for by a person: it ignores the back-off, and hands over the error."""
    world = World(failing={MODEL})
    for _ in range(3):
        with pytest.raises(StopIteration) as ended:
            next(world.ladder.take(MODEL, "asked for"))
        sample, error = ended.value.value
        assert world.held == sample.held_bytes
        assert isinstance(error, OSError)
        assert error.__traceback__ is None
    assert 3 * [("failed", MODEL)] == world.kinds()


def test_growth_is_obeyed_again_when_a_failed_rung_may_be_tried() -> None:
    """A reload that failed for a while comes when its back-off is over, without further growth."""
    world = World(grown={MODEL: 100 * MIB}, failing={MODEL})
    assert list(RUNGS) == world.under()
    world.now += 20
    assert [] == world.under()
    world.failing.clear()
    world.now += 11
    assert list(RUNGS) == world.under()
    assert world.base == world.held


# Bounds out of reach


def test_a_bound_out_of_reach_is_told_once() -> None:
    """It is obeyed again when the process has grown by another tenth, and told again then."""
    world = World()
    bound = {"bound_bytes": 400 * MIB}
    assert list(RUNGS) == world.climb(**bound)
    for _ in range(5):
        world.now += 3600
        assert [] == world.climb(**bound)
    world.grown = {MODEL: 49 * MIB}
    assert [] == world.climb(**bound)
    world.grown = {MODEL: 51 * MIB}
    assert list(RUNGS) == world.climb(**bound)
    assert 2 == sum(kind == "unreached" for kind, _ in world.kinds())


def test_what_is_out_of_reach_for_one_bound_is_not_for_another() -> None:
    """A higher bound that was reached on the way is obeyed, however little has grown since."""
    world = World()
    world.climb(bound_bytes=400 * MIB)
    world.grown = {MODEL: 40 * MIB}
    assert list(RUNGS) == world.climb(bound_bytes=520 * MIB)
    assert 500 * MIB == world.held


def test_a_rung_by_name_does_not_make_a_hopeless_bound_told_again() -> None:
    """EveryCalls beside a ceiling below the base: one report, not one after every reload."""
    world = World()
    for _ in range(4):
        world.climb(bound_bytes=400 * MIB)
        world.climb(rung=MODEL)
    assert 1 == sum(kind == "unreached" for kind, _ in world.kinds())


def test_a_trim_that_does_not_reach_is_tried_after_little_growth() -> None:
    """Trims are cheap: 4 MiB more are enough for another; a bound that they miss is not told."""
    world = World(grown={MODEL: 20 * MIB})
    reason = {"bound_bytes": world.base + 8 * MIB, "at_most": TRIM}
    assert [TRIM] == world.climb(**reason)
    assert [] == world.climb(**reason)
    world.grown[TRIM] = 3 * MIB
    assert [] == world.climb(**reason)
    world.grown[TRIM] = 5 * MIB
    assert [TRIM] == world.climb(**reason)
    assert [("remedy", TRIM)] == world.kinds()


def test_a_hopeless_bound_costs_no_measurement() -> None:
    """With the sample that the policy saw, an answer that is known takes no new one."""
    world = World()
    reason = Reason("grown", bound_bytes=400 * MIB)
    seen = world.measure()
    list(world.ladder.climb(reason, seen))
    before = world.measured
    assert [] == list(world.ladder.climb(reason, seen))
    assert before == world.measured


def test_memory_that_cannot_be_measured() -> None:
    """Where the system tells nothing, a bound ends after the trim and nothing is unreached."""
    events: list[Event] = []
    taken: list[Rung] = []
    remedies: dict[Rung, Any] = {rung: lambda rung=rung: taken.append(rung) for rung in RUNGS}
    ladder = Ladder(remedies, lambda: MemorySample(0.0), events.append, lambda: 0.0)
    list(ladder.climb(Reason("grown", bound_bytes=1)))
    assert ([TRIM], [("remedy", TRIM)]) == (taken, [(event.kind, event.rung) for event in events])


# Cost


@given(
    cost=st.floats(0.001, 5),
    gaps=st.lists(st.floats(0.0, 400), min_size=1, max_size=60),
)
def test_trims_take_one_percent_of_the_time(cost: float, gaps: list[float]) -> None:
    """However often memory is asked for: from the second trim on, 100 times its cost lies between."""
    world = World(seconds={TRIM: cost})
    for gap in gaps:
        world.grown[MODEL] = world.grown.get(MODEL, 0) + 20 * MIB
        world.under(0, at_most=TRIM)
        world.now += gap
    ends = [event.after.elapsed_seconds for event in world.events]
    starts = [event.before.elapsed_seconds for event in world.events]
    assert all(
        start - end >= 100 * cost * (1 - 1e-9) for end, start in zip(ends, starts[1:], strict=False)
    )


# What waits


def test_a_remedy_that_waits_is_driven() -> None:
    """A generator is stepped on, the time it waits counts, and its failure is a failure."""
    now = [0.0]
    events: list[Event] = []
    fails = [False]

    def wait() -> Iterator[None]:
        for _ in range(3):
            now[0] += 1.0
            yield
        if fails[0]:
            raise OSError

    ladder = Ladder({MODEL: wait}, lambda: MemorySample(now[0]), events.append, lambda: now[0])
    steps = ladder.climb(Reason("asked", rung=MODEL))
    for step in range(3):
        next(steps)
        assert (step + 1.0, []) == (now[0], events)
    with pytest.raises(StopIteration):
        next(steps)
    fails[0] = True
    assert 3 == len(list(ladder.climb(Reason("asked", rung=MODEL))))
    told = [(event.kind, event.seconds, event.error) for event in events]
    assert [("remedy", 3.0, None), ("failed", 3.0, "OSError")] == told


def test_a_climb_that_is_given_up_tells_nothing() -> None:
    """Closing a climb that waits closes the remedy, and is no failure of it."""
    closed: list[bool] = []
    events: list[Event] = []

    def wait() -> Iterator[None]:
        try:
            yield
        finally:
            closed.append(True)

    ladder = Ladder({MODEL: wait}, lambda: MemorySample(0.0), events.append, lambda: 0.0)
    steps: Any = ladder.climb(Reason("asked", rung=MODEL))
    next(steps)
    steps.close()
    assert ([True], []) == (closed, events)
    assert [None] == list(ladder.climb(Reason("asked", rung=MODEL)))


# All together

reasons = st.one_of(
    st.builds(Reason, st.just("r"), rung=st.sampled_from(Rung)),
    st.builds(
        Reason,
        st.just("r"),
        bound_bytes=st.integers(300, 900).map(lambda size: size * MIB),
        at_most=st.sampled_from(Rung),
    ),
)
steps = st.lists(
    st.tuples(
        reasons,
        st.dictionaries(st.sampled_from(RUNGS), st.integers(0, 300), max_size=2),
        st.sets(st.sampled_from(RUNGS), max_size=2),
        st.floats(0, 5000),
    ),
    max_size=15,
)


@given(steps=steps)
def test_whatever_happens(steps: list[Any]) -> None:
    """Cheapest first, nothing above at_most, each rung once a climb; the bound is kept or told."""
    world = World(seconds={TRIM: 0.01, MODEL: 2.0})
    for reason, grown, failing, pause in steps:
        for rung, size in grown.items():
            world.grown[rung] = world.grown.get(rung, 0) + size * MIB
        world.failing = failing
        taken = world.climb(
            bound_bytes=reason.bound_bytes, rung=reason.rung, at_most=reason.at_most
        )
        again = next((at for at, (one, other) in enumerate(pairwise(taken), 1) if one > other), 0)
        first, then = (taken[:again], taken[again:]) if again else (taken, [])
        assert (sorted(first), sorted(then)) == (first, then)  # those passed over come last
        assert len(set(taken)) == len(taken)
        if reason.rung is not None:
            assert set(taken) <= {reason.rung}
        else:
            assert all(rung <= reason.at_most for rung in taken)
            reached = world.held <= reason.bound_bytes
            if taken and not reached and reason.at_most > TRIM:
                assert "unreached" == world.events[-1].kind
            elif taken[-1:] > [TRIM] and reached:
                assert "unreached" != world.events[-1].kind
                assert taken[-1] == world.events[-1].rung
        assert {event.kind for event in world.events if event.error} <= {"failed"}
        world.now += pause


@given(steps=steps, grown=st.sampled_from(RUNGS))
def test_no_history_keeps_a_reachable_bound_from_being_reached(
    steps: list[Any], grown: Rung
) -> None:
    """After any history, an hour without failures and real growth: the bound is got under again."""
    world = World()
    for reason, more, failing, pause in steps:
        for rung, size in more.items():
            world.grown[rung] = world.grown.get(rung, 0) + size * MIB
        world.failing = failing
        world.climb(bound_bytes=reason.bound_bytes, rung=reason.rung, at_most=reason.at_most)
        world.now += pause
    world.failing = set()
    world.now += 3601
    world.grown[grown] = world.grown.get(grown, 0) + 300 * MIB
    assert world.under()
    assert world.held <= world.base + 50 * MIB


def test_what_was_out_of_reach_is_not_once_less_was_held() -> None:
    """A reload fails, and for another reason works: the bound that it missed is obeyed again."""
    world = World(grown={MODEL: 228 * MIB}, failing={MODEL})
    assert [TRIM, CACHE, TOKENIZER, MODEL] == world.under(-200)
    world.failing = set()
    world.now += 31
    assert [TRIM, CACHE, TOKENIZER, MODEL] == world.under(-200, at_most=MODEL)
    assert world.base == world.held
    world.grown[TRIM] = 290 * MIB
    assert TRIM in world.under()
    assert world.base == world.held


def test_a_bound_that_was_missed_at_a_peak_is_obeyed_after_it() -> None:
    """What somebody else held, and has given back without any remedy, is no floor any more."""
    world = World(base=1200 * MIB)
    assert list(RUNGS) == world.under(-400)
    world.base = 600 * MIB
    world.ladder.look(world.measure())
    assert {} == world.ladder.missed
    world.grown[MODEL] = 300 * MIB
    assert list(RUNGS) == world.climb(bound_bytes=800 * MIB)
    assert 600 * MIB == world.held


def test_rungs_that_did_not_help_are_remembered_though_a_higher_one_did() -> None:
    """The tokenizer's bound is missed, a new model keeps it: the miss stays known."""
    world = World(grown={MODEL: 300 * MIB})
    world.under(48, at_most=TOKENIZER)
    assert MODEL in world.under(200)
    world.ladder.look(world.measure())
    assert {TOKENIZER: 800 * MIB} == {
        rung: missed.held_bytes for rung, missed in world.ladder.missed.items()
    }


def test_a_new_model_takes_what_it_needs_before_its_floor_is_known() -> None:
    """A bound that a cold model misses is not missed again because the model warms up."""
    world = World()
    bound = {"bound_bytes": 400 * MIB}
    assert list(RUNGS) == world.climb(**bound)
    world.grown[MODEL] = 120 * MIB
    world.ladder.look(world.measure(), need_bytes=600 * MIB)
    assert [] == world.climb(**bound)
    world.grown[MODEL] = 170 * MIB
    world.ladder.look(world.measure(), need_bytes=600 * MIB)
    assert list(RUNGS) == world.climb(**bound)


def test_each_miss_in_a_row_asks_for_more_growth() -> None:
    """10, 20, then 40 % more than the floor; no further, so that a leak meets the rungs for ever."""
    world = World()
    bound = {"bound_bytes": 400 * MIB}
    for percent in (0, 10, 20, 40, 40):
        if percent:
            world.grown = {MODEL: percent * 5 * MIB}
            assert [] == world.climb(**bound)
        world.grown = {MODEL: (percent * 5 + 1) * MIB}
        assert list(RUNGS) == world.climb(**bound)
        assert 500 * MIB == world.held


# The remedies themselves

_TRIM = """
import json
from safe_embed.memory.remedies import trim
from safe_embed.memory.sampling import anonymous_bytes
blocks = [bytes(5000) for _ in range(20_000)]
full = anonymous_bytes()
last = blocks[-1]
blocks.clear()
freed = anonymous_bytes()
trim()
print(json.dumps([full, freed, anonymous_bytes()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RssAnon is Linux's")
def test_a_trim_gives_back_what_free_does_not() -> None:
    """100 MB below one block that is held: freeing them gives back nothing, a trim nearly all."""
    done = subprocess.run(
        [sys.executable, "-c", _TRIM], check=True, capture_output=True, timeout=60
    )
    full, freed, trimmed = json.loads(done.stdout)
    if None in (full, freed, trimmed):
        pytest.skip("the system does not tell RssAnon")
    assert abs(full - freed) < 5 * MIB
    assert freed - trimmed > 85 * MIB


@pytest.mark.parametrize(
    ("device", "functions", "expected"),
    [
        ("mps", ("empty_cache", "clear_graph_cache"), ["clear_graph_cache", "empty_cache"]),
        ("mps", ("empty_cache",), ["empty_cache"]),
        ("cuda", ("empty_cache",), ["empty_cache"]),
        ("cpu", ("empty_cache", "clear_graph_cache"), []),
    ],
)
def test_a_trim_empties_the_caches_of_the_device(
    device: str, functions: tuple[str, ...], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graphs of MPS go first, where torch can drop them: they hold buffers of its cache."""
    called: list[str] = []
    cache = SimpleNamespace(**{name: lambda name=name: called.append(name) for name in functions})
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(**{device: cache}))
    trim(device)
    assert expected == called


_CACHE = """
import json
import models
from safe_embed.memory.remedies import trim
from safe_embed.memory.sampling import anonymous_bytes
from safe_embed.upstream.tokenizer_cache import clear_tokenizer_cache
tokenizer = models.unigram()
if not hasattr(tokenizer.model, "_clear_cache"):
    raise SystemExit(3)
words = ["今日は雨です" * 11 + str(number) for number in range(9000)]
before = [one.ids for one in tokenizer.encode_batch(words[:50])]
for start in range(0, len(words), 500):
    tokenizer.encode_batch_fast(words[start : start + 500])
trim()
full = anonymous_bytes()
clear_tokenizer_cache(tokenizer)
trim()
after = [one.ids for one in tokenizer.encode_batch(words[:50])]
print(json.dumps([full, anonymous_bytes(), before == after]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RssAnon is Linux's")
def test_a_unigram_tokenizer_forgets() -> None:
    """9,000 long words that tokenizers >= 0.21 remembers are 19 MB; then they are gone."""
    done = subprocess.run(
        [sys.executable, "-c", _CACHE],
        check=False,
        capture_output=True,
        timeout=120,
        cwd=Path(__file__).parent,
    )
    if done.returncode == 3:
        pytest.skip("this tokenizers cannot be told to forget")
    full, cleared, same = json.loads(done.stdout)
    assert same
    if full is None:
        pytest.skip("the system does not tell RssAnon")
    assert full - cleared > 10 * MIB


@pytest.mark.parametrize("wrapped", [False, True])
def test_which_caches_are_cleared(*, wrapped: bool) -> None:
    """Any model's that can be cleared, but for BPE's, in a bare tokenizer and inside a fast one."""
    cleared: list[str] = []

    def tokenizer(name: str) -> Any:
        kind = type(name, (), {"_clear_cache": lambda self: cleared.append(name)})
        bare = SimpleNamespace(model=kind())
        return SimpleNamespace(_tokenizer=bare) if wrapped else bare

    for name in ("Unigram", "BPE", "WordPiece"):
        clear_tokenizer_cache(tokenizer(name))
    clear_tokenizer_cache(SimpleNamespace(model=object()))
    clear_tokenizer_cache(SimpleNamespace())
    clear_tokenizer_cache(None)
    assert ["Unigram", "WordPiece"] == cleared


def test_a_real_bpe_is_read_as_before() -> None:
    """A BPE tokenizer is left alone, and reads on."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    tokenizer = Tokenizer(BPE({"雨": 0, "で": 1, "雨で": 2}, [("雨", "で")]))
    before = tokenizer.encode("雨で雨").ids
    clear_tokenizer_cache(tokenizer)
    assert [2, 0] == before == tokenizer.encode("雨で雨").ids


def test_mecab_inside_a_japanese_tokenizer_is_exchanged_once() -> None:
    """What upstream has made remembers words, and goes; the process's own stays. Tokens are equal."""
    from transformers import AutoTokenizer

    models.bert_japanese()
    tokenizer: Any = AutoTokenizer.from_pretrained(models.folder("bert_japanese"))
    texts = ["今日は雨です。", models.long_text(3), "東京都の人口", ""]
    before = [tokenizer.tokenize(text) for text in texts]
    old = tokenizer.word_tokenizer.mecab
    others = sys.getrefcount(old)
    clear_tokenizer_cache(tokenizer)
    new = tokenizer.word_tokenizer.mecab
    assert others - 1 == sys.getrefcount(old)
    clear_tokenizer_cache(tokenizer)
    assert new is tokenizer.word_tokenizer.mecab is not old
    assert before == [tokenizer.tokenize(text) for text in texts]
    assert len(before[1]) > 10


def test_a_mecab_that_cannot_be_made_anew_leaves_the_old_one() -> None:
    """The dictionary is gone: the remedy fails, and the tokenizer reads on with what it has."""
    tokenizer = copy.deepcopy(models.bert_japanese().tokenizer)
    before = tokenizer.tokenize("今日は雨です。")
    tokenizer.mecab_kwargs = {"mecab_dic": "no-such-dictionary"}
    with pytest.raises(ValueError, match="mecab_dic"):
        clear_tokenizer_cache(tokenizer)
    assert before == tokenizer.tokenize("今日は雨です。")
