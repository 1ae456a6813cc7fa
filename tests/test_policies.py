"""When something must be done: counts, time, growth, ceilings, and all of them joined."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_embed.errors import ConfigError
from safe_embed.memory import policies
from safe_embed.memory.policies import (
    AllOf,
    AnyOf,
    EveryCalls,
    EverySeconds,
    EveryTexts,
    EveryTokens,
    MemoryAbove,
    MemoryGrowth,
    Never,
    default_policy,
    names_model,
    resolve_policy,
)
from safe_embed.memory.sizes import format_size, parse_size
from safe_embed.memory.types import MemorySample, Missed, Reason, ReloadPolicy, Rung, Usage

MIB = 2**20
BASE = 600 * MIB

counts = st.integers(0, 200)
sizes = st.integers(1, 3000 * MIB)
luck = st.floats(0, 1, exclude_max=True)
jitter = st.floats(0, 0.9)
samples = st.builds(
    MemorySample,
    st.just(0.0),
    rss_anon_bytes=st.none() | sizes,
    limit_bytes=st.none() | sizes,
    limit_used_bytes=st.none() | sizes,
)
usages = st.builds(
    Usage,
    calls=counts,
    texts=counts,
    tokens=counts,
    seconds=st.floats(0, 200),
    sample=samples,
    baseline=st.none() | samples,
    seconds_since_remedy=st.none() | st.floats(0, 200),
    luck=luck,
)
memory_options: dict[str, st.SearchStrategy[Any]] = {
    "jitter": jitter,
    "cool_down_seconds": st.floats(0, 100),
    "at_most": st.sampled_from(Rung),
}
leaves: st.SearchStrategy[Any] = st.one_of(
    st.builds(EveryCalls, st.integers(1, 100), jitter=jitter),
    st.builds(EveryTexts, st.integers(1, 100), jitter=jitter),
    st.builds(EveryTokens, st.integers(1, 100), jitter=jitter),
    st.builds(EverySeconds, st.floats(0.001, 100), jitter=jitter),
    st.builds(MemoryGrowth, sizes, **memory_options),
    st.builds(MemoryAbove, sizes, **memory_options),
    st.builds(MemoryAbove, share=st.floats(0.01, 1), **memory_options),
    st.builds(Never),
)
joined: st.SearchStrategy[Any] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a | b, inner, inner), st.builds(lambda a, b: a & b, inner, inner)
    ),
    max_leaves=5,
)


def usage(
    growth: int = 0, *, limit: tuple[int, int] | tuple[None, None] = (None, None), **rest: Any
) -> Usage:
    """A process that holds BASE after warm-up and *growth* more now; limit is (bytes, used)."""
    whole, used = limit
    sample = MemorySample(
        0.0, rss_anon_bytes=BASE + growth, limit_bytes=whole, limit_used_bytes=used
    )
    given = {"calls": 0, "texts": 0, "tokens": 0, "seconds": 0.0}
    given |= {"baseline": MemorySample(0.0, rss_anon_bytes=BASE)} | rest
    return Usage(sample=sample, **given)


@given(luck)
def test_ten_calls_are_ten_calls(share: float) -> None:
    """EveryCalls(10) fires at exactly 10, whatever the luck, and asks for a new model."""
    policy = EveryCalls(10)
    assert policy.reason(usage(calls=9, luck=share)) is None
    reason = policy.reason(usage(calls=10, luck=share))
    assert reason == Reason("10 calls since the model was loaded, 10 allowed", rung=Rung.MODEL)


@given(st.integers(1, 10**9), jitter, luck)
def test_counts_fire_in_their_window(n: int, width: float, share: float) -> None:
    """Never before n, and always from n + floor(n * jitter) on; each policy looks at its own count."""
    for kind, name in ((EveryCalls, "calls"), (EveryTexts, "texts"), (EveryTokens, "tokens")):
        policy = kind(n, jitter=width)
        latest = n + math.floor(n * width)
        others = dict.fromkeys({"calls", "texts", "tokens"} - {name}, 10**12)
        assert policy.reason(usage(luck=share, **{name: n - 1}, **others)) is None
        assert policy.reason(usage(luck=share, **{name: latest})) is not None
        assert policy.reason(usage(luck=0, **{name: n})) is not None


def test_luck_spreads_a_fleet() -> None:
    """Of workers that allow 1,000 calls, each begins anew at its own time."""
    policy = EveryCalls(1000)
    fired = [policy.reason(usage(calls=1050, luck=one / 10)) is not None for one in range(10)]
    assert [True] * 6 + [False] * 4 == fired


@given(st.floats(0.001, 1e6), jitter, luck)
def test_time_fires_in_its_window(seconds: float, width: float, share: float) -> None:
    """Never before its time, and always from seconds * (1 + jitter) on."""
    policy = EverySeconds(seconds, jitter=width)
    latest = seconds * (1 + width)
    assert policy.reason(usage(seconds=seconds * 0.999, luck=share)) is None
    reason = policy.reason(usage(seconds=latest, luck=share))
    assert reason is not None
    assert Rung.MODEL == reason.rung


@given(sizes, jitter, luck)
def test_growth_fires_in_its_window(size: int, width: float, share: float) -> None:
    """Up to its size never, above size * (1 + jitter) always; then the bound is the size itself."""
    policy = MemoryGrowth(size, jitter=width, at_most=Rung.TOKENIZER)
    assert policy.reason(usage(size, luck=share)) is None
    reason = policy.reason(usage(math.floor(size * (1 + width)) + 1, luck=share))
    assert reason is not None
    expected = (BASE + size, None, Rung.TOKENIZER)
    assert expected == (reason.bound_bytes, reason.rung, reason.at_most)


@given(st.builds(MemoryGrowth, sizes, **memory_options), usages)
def test_before_warm_up_there_is_no_growth(policy: MemoryGrowth, used: Usage) -> None:
    """Without a baseline, or without a figure, MemoryGrowth is silent."""
    assert policy.reason(replace(used, baseline=None)) is None
    assert policy.reason(replace(used, sample=MemorySample(0.0))) is None


@given(sizes, jitter, luck)
def test_a_ceiling_fires_in_its_window(size: int, width: float, share: float) -> None:
    """Above its size always, up to size * (1 - jitter) never: a ceiling is never passed for luck."""
    policy = MemoryAbove(size, jitter=width)
    over = MemorySample(0.0, rss_anon_bytes=size + 1)
    under = MemorySample(0.0, rss_anon_bytes=math.floor(size * (1 - width)))
    reason = policy.reason(replace(usage(luck=share), sample=over))
    assert reason is not None
    assert reason.bound_bytes is not None
    assert math.floor(size * (1 - width)) <= reason.bound_bytes <= size
    assert policy.reason(replace(usage(luck=share), sample=under)) is None


def test_a_share_of_the_limit_becomes_a_bound_on_what_is_held() -> None:
    """Of 1,000 MiB 950 are used, 50 over the share: the process must hold 50 less than it does."""
    policy = MemoryAbove(share=0.9)
    reason = policy.reason(usage(100 * MIB, limit=(1000 * MIB, 950 * MIB)))
    assert reason is not None
    assert BASE + 50 * MIB == reason.bound_bytes
    assert reason.text == "950 MiB used, 900 MiB of 1,000 MiB allowed"
    assert policy.reason(usage(limit=(1000 * MIB, 900 * MIB))) is None
    assert policy.reason(usage(limit=(None, None))) is None
    others = policy.reason(usage(limit=(9000 * MIB, 9000 * MIB)))
    assert others is not None
    assert 0 == others.bound_bytes  # what is too much is more than all that is held


@given(
    st.one_of(
        st.builds(MemoryGrowth, sizes, **memory_options),
        st.builds(MemoryAbove, sizes, **memory_options),
        st.builds(MemoryAbove, share=st.floats(0.01, 1), **memory_options),
    ),
    usages,
)
def test_a_kept_bound_is_silence(policy: ReloadPolicy, used: Usage) -> None:
    """Once the process holds no more than the bound, the same policy has no reason."""
    reason = policy.reason(used)
    if reason is None or reason.bound_bytes == 0:
        return
    sample = used.sample
    assert reason.bound_bytes is not None
    assert sample.rss_anon_bytes is not None
    given_back = sample.rss_anon_bytes - reason.bound_bytes
    assert given_back > 0
    charged = sample.limit_used_bytes
    kept = replace(
        sample,
        rss_anon_bytes=reason.bound_bytes,
        limit_used_bytes=None if charged is None else charged - given_back,
    )
    assert policy.reason(replace(used, sample=kept)) is None


@given(
    st.sampled_from([MemoryGrowth("1 MiB"), MemoryAbove("1 MiB"), MemoryAbove(share=0.5)]),
    st.floats(0, 59.9),
)
def test_after_a_remedy_memory_is_left_alone(policy: ReloadPolicy, since: float) -> None:
    """During the cool-down there is no reason, after it, and without any remedy, there is."""
    grown = usage(900 * MIB, limit=(1000 * MIB, 790 * MIB))
    assert policy.reason(replace(grown, seconds_since_renewal=since)) is None
    assert policy.reason(replace(grown, seconds_since_renewal=60)) is not None
    assert (
        policy.reason(replace(grown, seconds_since_remedy=since)) is not None
    )  # a trim is no cure
    assert policy.reason(grown) is not None


@given(st.sampled_from(Rung), st.sampled_from(Rung), st.sampled_from(Rung))
def test_a_cool_down_silences_only_what_could_do_no_more(
    at_most: Rung, done: Rung, highest: Rung
) -> None:
    """A policy that may climb higher than was done a moment ago speaks; so far as rungs exist."""
    policy = MemoryGrowth("1 MiB", at_most=at_most)
    grown = usage(900 * MIB, seconds_since_renewal=5.0, renewal_rung=done, highest_rung=highest)
    could_do_more = min(at_most, highest) > done
    if at_most > Rung.TRIM:
        assert could_do_more == (policy.reason(grown) is not None)


@given(st.sampled_from(Rung), st.sampled_from(Rung))
def test_a_missed_bound_silences_those_that_may_go_no_further(at_most: Rung, missed: Rung) -> None:
    """And they speak of a bound above what was held then: that one may be reached."""
    policy = MemoryGrowth("100 MiB", at_most=at_most)
    then = Missed(5.0, BASE + 200 * MIB)
    grown = usage(300 * MIB, missed={missed: then})
    if at_most > Rung.TRIM:
        assert (at_most > missed) == (policy.reason(grown) is not None)
    higher = usage(300 * MIB, missed={missed: then._replace(held_bytes=BASE + 50 * MIB)})
    assert policy.reason(higher) is not None


def test_what_was_given_back_and_has_grown_again_is_given_back_again() -> None:
    """Within the cool-down too, if it is worth a remedy: a quarter of what is allowed."""
    policy = MemoryGrowth("100 MiB", jitter=0)
    told = {"seconds_since_renewal": 5.0, "renewal_rung": Rung.MODEL, "highest_rung": Rung.MODEL}
    little = usage(101 * MIB, held_after_renewal_bytes=BASE + 90 * MIB, **told)
    much = usage(101 * MIB, held_after_renewal_bytes=BASE + 70 * MIB, **told)
    assert policy.reason(little) is None
    assert policy.reason(much) is not None


@given(
    st.sampled_from([MemoryGrowth("1 MiB"), MemoryAbove("1 MiB"), MemoryAbove(share=0.5)]),
    st.sampled_from(Rung),
)
def test_near_a_limit_nothing_waits(policy: ReloadPolicy, rung: Rung) -> None:
    """With four fifths of the limit in use, what may take every rung has no cool-down."""
    grown = usage(
        900 * MIB,
        limit=(1000 * MIB, 800 * MIB),
        seconds_since_remedy=0.0,
        seconds_since_renewal=0.0,
        missed={rung: Missed(0.0, 10 * BASE)},
    )
    assert policy.reason(grown) is not None


@given(joined, usages, st.data())
def test_more_use_never_silences(policy: ReloadPolicy, used: Usage, data: st.DataObject) -> None:
    """What is a reason stays one when any count, the time or what is held is larger."""
    if policy.reason(used) is None:
        return
    more = {
        name: getattr(used, name) + data.draw(counts)
        for name in ("calls", "texts", "tokens", "seconds")
    }
    sample = used.sample
    larger = {
        name: None if getattr(sample, name) is None else getattr(sample, name) + data.draw(sizes)
        for name in ("rss_anon_bytes", "limit_used_bytes")
    }
    assert policy.reason(replace(used, sample=replace(sample, **larger), **more)) is not None


@given(joined, joined, usages)
def test_or_fires_when_one_does_and_and_when_both_do(a: Any, b: Any, used: Usage) -> None:
    """(a | b) is silent iff both are; (a & b) iff one is."""
    first, second = a.reason(used), b.reason(used)
    assert ((a | b).reason(used) is None) == (first is None and second is None)
    assert ((a & b).reason(used) is None) == (first is None or second is None)
    assert (a | b).reason(used) in {first, second}


@pytest.mark.parametrize("size", ["200 MiB", "1 B", "1.5GB", "300MB", "2 GiB", "64 KiB"])
def test_a_size_is_the_growth_that_is_allowed(size: str) -> None:
    """reload="200 MiB" is MemoryGrowth("200 MiB")."""
    assert MemoryGrowth(size) == resolve_policy(size)


@pytest.mark.parametrize(
    "wrong", ["", "200", "0 MiB", "0.1 B", "200 mib", "-1 MiB", "never", 200.0]
)
def test_what_is_no_size_is_no_policy_either(wrong: object) -> None:
    """The message names the forms that there are, in both languages."""
    with pytest.raises(ConfigError, match=r"is not a policy.*'200 MiB'.*\n.*増加の上限"):
        resolve_policy(wrong)  # type: ignore[arg-type] # that is what is tested


@given(joined, usages)
def test_never_is_the_neutral_element_of_or(policy: Any, used: Usage) -> None:
    """Or with Never changes nothing, and with Never is Never; a policy joined to itself is itself."""
    assert policy.reason(used) == (policy | Never()).reason(used) == (Never() | policy).reason(used)
    assert (policy & Never()).reason(used) is None
    assert policy.reason(used) == (policy | policy).reason(used)


@given(leaves, leaves, leaves)
def test_joints_are_flat(a: Any, b: Any, c: Any) -> None:
    """Brackets make no difference among equal joints, and a different joint is kept whole."""
    assert (a | b) | c == a | (b | c) == AnyOf((a, b, c))
    assert (a & b) & c == a & (b & c) == AllOf((a, b, c))
    assert ((a | b) & c).policies == (a | b, c)


@given(joined, joined, usages)
def test_and_gives_a_bound_or_a_rung(a: Any, b: Any, used: Usage) -> None:
    """The lowest bound and at_most; a rung, the highest, only without a bound, never above at_most."""
    both = (a & b).reason(used)
    if both is None:
        return
    first, second = a.reason(used), b.reason(used)
    bounds = {first.bound_bytes, second.bound_bytes} - {None}
    rungs = {first.rung, second.rung} - {None}
    at_most = min(first.at_most, second.at_most)
    assert min(bounds, default=None) == both.bound_bytes
    assert at_most == both.at_most
    expected = min(max(rungs), at_most) if rungs and not bounds else None
    assert expected == both.rung
    assert both.text == f"{first.text}; {second.text}"


def test_grown_and_long_ago_gives_back_what_has_grown() -> None:
    """Time joined to growth says when; the bound says what, so no model is loaded needlessly."""
    policy = EverySeconds(3600, jitter=0) & MemoryGrowth("100 MiB", at_most=Rung.TOKENIZER)
    reason = policy.reason(usage(200 * MIB, seconds=4000))
    expected = Reason(
        "4,000.0 s since the model was loaded, 3,600.0 s allowed; "
        "200 MiB more than after warm-up, 100 MiB allowed",
        bound_bytes=BASE + 100 * MIB,
        at_most=Rung.TOKENIZER,
    )
    assert expected == reason


@dataclass(frozen=True)
class Says:
    """A user's own policy: says the same every time."""

    answer: Reason | None

    def reason(self, usage: Usage) -> Reason | None:
        """As told."""
        return self.answer


TRIM_TO_5 = Reason("trim", bound_bytes=5, at_most=Rung.TRIM)
CLIMB_TO_9 = Reason("climb", bound_bytes=9)
CLIMB_TO_7 = Reason("lower", bound_bytes=7)
NEW_MODEL = Reason("calls", rung=Rung.MODEL)
NEW_PROCESS = Reason("process", rung=Rung.PROCESS)


@pytest.mark.parametrize(
    ("given_first", "given_second", "expected"),
    [
        (TRIM_TO_5, CLIMB_TO_9, CLIMB_TO_9),  # a trim does not hide the need of more
        (TRIM_TO_5, NEW_MODEL, NEW_MODEL),  # a new model gives back what a trim would
        (CLIMB_TO_9, CLIMB_TO_7, CLIMB_TO_7),  # the lower bound keeps both
        (CLIMB_TO_9, NEW_PROCESS, NEW_PROCESS),  # as high as the other may climb, and certain
        (CLIMB_TO_9, NEW_MODEL, CLIMB_TO_9),  # the model is asked for again after the next call
        (CLIMB_TO_9, None, CLIMB_TO_9),
        (None, None, None),
    ],
)
def test_or_gives_the_reason_whose_remedy_does_most(
    given_first: Reason | None, given_second: Reason | None, expected: Reason | None
) -> None:
    """The order does not matter, and none is mixed of two."""
    a, b = Says(given_first), Says(given_second)
    assert expected == AnyOf((a, b)).reason(usage())
    assert expected == AnyOf((b, a)).reason(usage())


def test_and_takes_no_rung_that_one_forbids() -> None:
    """A new process joined to a policy that allows a trim at most is a trim."""
    trim = Reason("trim", rung=Rung.TRIM, at_most=Rung.TRIM)
    reason = AllOf((Says(NEW_PROCESS), Says(trim))).reason(usage())
    assert reason == Reason("process; trim", rung=Rung.TRIM, at_most=Rung.TRIM)


def test_of_equal_reasons_the_first_is_given() -> None:
    """Two counts that fire at once: the first one's text."""
    reason = (EveryTexts(5) | EveryCalls(5)).reason(usage(calls=5, texts=5))
    assert reason is not None
    assert reason.text.startswith("5 texts")


def test_a_users_own_policy_can_be_joined_from_both_sides() -> None:
    """Only one of the two needs to be ours."""
    own = Says(NEW_MODEL)
    ours = EveryCalls(1)
    assert AnyOf((own, ours)) == own | ours
    assert AnyOf((ours, own)) == ours | own
    assert AllOf((own, ours)) == own & ours
    assert AllOf((ours, own)) == ours & own


@pytest.mark.parametrize("other", [3, None, "Never()", EveryCalls])
def test_what_is_no_policy_cannot_be_joined(other: Any) -> None:
    """A class is no policy either."""
    with pytest.raises(TypeError, match="unsupported operand"):
        EveryCalls(1) | other
    with pytest.raises(TypeError, match="unsupported operand"):
        other & EveryCalls(1)
    with pytest.raises(ConfigError, match="Give one or more policies"):
        AllOf((EveryCalls(1), other))


@given(joined)
def test_a_policy_is_a_value(policy: Any) -> None:
    """Pickled, copied and read back from its repr it is the same; it cannot be changed."""
    assert policy == pickle.loads(pickle.dumps(policy))  # noqa: S301
    assert policy == copy.deepcopy(policy)
    assert hash(policy) == hash(copy.copy(policy))
    assert policy == eval(repr(policy), vars(policies))  # noqa: S307


def test_a_policy_cannot_be_changed() -> None:
    """Frozen, and without room for more."""
    with pytest.raises(FrozenInstanceError):
        EveryCalls(10).n = 5
    with pytest.raises((AttributeError, TypeError)):
        EveryCalls(10).more = 5


def test_policies_of_different_kinds_differ() -> None:
    """Ten calls are not ten texts."""
    assert EveryCalls(10) != EveryTexts(10)
    assert EveryCalls(10) == EveryCalls(10)
    assert MemoryGrowth("300 MiB") == MemoryGrowth(300 * MIB)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (EveryCalls(10), "EveryCalls(10)"),
        (EverySeconds(2.5, jitter=0), "EverySeconds(2.5, jitter=0)"),
        (MemoryGrowth(300 * MIB), "MemoryGrowth('300 MiB')"),
        (MemoryGrowth("300MB"), "MemoryGrowth('300 MB')"),
        (MemoryGrowth(12345), "MemoryGrowth(12345)"),
        (
            MemoryAbove("2 GiB", at_most=Rung.TRIM),
            "MemoryAbove('2 GiB', at_most=Rung.TRIM)",
        ),
        (MemoryAbove(share=0.9), "MemoryAbove(share=0.9)"),
        (
            (EveryCalls(1) | Never()) & EveryTexts(2) | EveryTokens(3),
            "(EveryCalls(1) | Never()) & EveryTexts(2) | EveryTokens(3)",
        ),
    ],
)
def test_a_policy_prints_as_it_is_written(policy: object, expected: str) -> None:
    """Only what is not usual is told, sizes in the unit that divides them."""
    assert expected == repr(policy)


@pytest.mark.parametrize(
    "make",
    [
        lambda: EveryCalls(0),
        lambda: EveryTexts(-1),
        lambda: EveryTokens(1.5),
        lambda: EveryCalls(True),
        lambda: EverySeconds(0),
        lambda: EverySeconds(math.inf),
        lambda: EverySeconds("60"),
        lambda: EveryCalls(1, jitter=1),
        lambda: EveryCalls(1, jitter=-0.1),
        lambda: MemoryGrowth("1 MiB", jitter=math.nan),
        lambda: MemoryGrowth("1 MiB", cool_down_seconds=-1),
        lambda: MemoryGrowth("1 MiB", at_most=1),
        lambda: MemoryAbove(share=0),
        lambda: MemoryAbove(share=90),
        lambda: MemoryAbove("1 GiB", at_most="TRIM"),
    ],
)
def test_an_argument_that_cannot_work_is_refused(make: Callable[[], object]) -> None:
    """The message names the policy and the argument, and says what to give."""
    with pytest.raises(ConfigError, match=r"^(Every|Memory)\w+: \w+=.* Give "):
        make()


@pytest.mark.parametrize("arguments", [{}, {"bytes": 5, "share": 0.5}])
def test_a_ceiling_is_bytes_or_a_share(arguments: dict[str, Any]) -> None:
    """Not both, and not neither."""
    with pytest.raises(ConfigError, match="exactly one"):
        MemoryAbove(**arguments)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (5, 5),
        ("5", None),
        ("5 B", 5),
        ("300 MiB", 300 * MIB),
        ("300MB", 300_000_000),
        ("1.5 GiB", 1536 * MIB),
        ("2 TB", 2 * 10**12),
        ("7KiB", 7168),
        ("300 mb", None),
        ("-1 MiB", None),
        ("0 MiB", None),
        ("0.1 B", None),
        ("1e3 MB", None),
        ("５ MiB", None),
        ("", None),
        (0, None),
        (-5, None),
        (True, None),
        (2.0, None),
        (None, None),
    ],
)
def test_sizes_are_read(size: object, expected: int | None) -> None:
    """Bytes, or a number with a unit; everything else is refused with an example."""
    if expected is not None:
        assert expected == parse_size(size)
        return
    with pytest.raises(ConfigError, match="Give bytes, or a text such as '300 MiB'"):
        MemoryGrowth(size)


@given(st.integers(1, 2**50) | st.integers(1, 9999).map(lambda n: n * MIB))
def test_a_size_that_was_written_is_read(size: int) -> None:
    """parse_size(format_size(size)) == size."""
    assert size == parse_size(format_size(size))


def test_none_is_never() -> None:
    """reload=None turns it off, a policy is taken as it is, everything else is refused."""
    assert Never() == resolve_policy(None)
    policy = EveryCalls(10)
    assert policy is resolve_policy(policy)
    own = Says(None)
    assert own is resolve_policy(own)
    for wrong in (10, "never", EveryCalls):
        with pytest.raises(ConfigError, match="is not a policy"):
            resolve_policy(wrong)


@given(joined, usages)
def test_who_names_the_model_is_known(policy: Any, used: Usage) -> None:
    """A policy that is said not to name the model rung never gives it."""
    reason = policy.reason(used)
    if not names_model(policy) and reason is not None:
        assert reason.rung is None
        assert reason.bound_bytes is not None


def test_counts_name_the_model_and_bounds_do_not() -> None:
    """Joined by or it is named, joined to a bound it is not."""
    calls, growth = EveryCalls(10), MemoryGrowth("1 MiB")
    assert names_model(calls)
    assert names_model(growth | calls)
    assert names_model(calls & EverySeconds(5))
    assert not names_model(growth)
    assert not names_model(calls & growth)
    assert not names_model(Never())
    assert not names_model(default_policy())


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        (usage(7 * MIB, seconds=9e5, calls=10**6), None),  # nothing grew: it runs for weeks
        (usage(20 * MIB), (8, Rung.TRIM)),
        (usage(20 * MIB, seconds_since_remedy=0.4), None),
        (usage(60 * MIB), (48, Rung.TOKENIZER)),
        (usage(60 * MIB, seconds_since_renewal=50), (8, Rung.TRIM)),
        (usage(400 * MIB), (300, Rung.PROCESS)),
        (usage(400 * MIB, seconds_since_renewal=50), (8, Rung.TRIM)),  # no storm
        (usage(400 * MIB, seconds_since_renewal=61), (300, Rung.PROCESS)),
        (usage(0, limit=(10**10, 10**10)), None),  # others fill the machine
        (usage(100 * MIB, limit=(800 * MIB, 750 * MIB)), (64, Rung.PROCESS)),
        (usage(400 * MIB, baseline=None), None),
    ],
)
def test_the_default_for_a_worker_nobody_tuned(
    used: Usage, expected: tuple[int, Rung] | None
) -> None:
    """Trims are given soon, everything dearer only for real growth: (MiB over the base, at most)."""
    reason = default_policy().reason(used)
    if expected is None:
        assert reason is None
    else:
        assert reason is not None
        assert (BASE + expected[0] * MIB, expected[1]) == (reason.bound_bytes, reason.at_most)


def test_trims_that_do_not_help_never_hide_growth_for_ever() -> None:
    """A leak that no trim cures meets the tokenizer's rungs near 48 MiB, the model's near 300."""
    policy = default_policy()
    trimmed = renewed = None
    met: list[tuple[int, Rung]] = []
    for second in range(200):
        used = usage(
            5 * MIB * second, seconds_since_remedy=trimmed, seconds_since_renewal=renewed, luck=0.5
        )
        trimmed, renewed = (None if age is None else age + 1 for age in (trimmed, renewed))
        if (reason := policy.reason(used)) is not None:
            trimmed = 0
            if reason.at_most > Rung.TRIM:
                renewed = 0
                met.append((5 * second, reason.at_most))
    assert [Rung.TOKENIZER, Rung.PROCESS] == [rung for _, rung in met][:2]
    assert 48 < met[0][0] <= 60
    assert 300 < met[1][0] <= 400
