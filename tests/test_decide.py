"""What observations are called: each cause by what an experiment shows, none without growth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_embed.diagnosis.containers import Container
from safe_embed.diagnosis.decide import decide
from safe_embed.diagnosis.experiments import KINDS, RELEASES, Observation, Released
from safe_embed.diagnosis.readings import Reading
from safe_embed.diagnosis.signs import is_rising
from safe_embed.diagnosis.verdicts import WORDS, Cause, Finding

MB = 1_000_000
CALLS = 1_000
BASE = 400 * MB
WHOLE = ("varying lengths", "one length", "same text", "short and long", "many threads")


def curve(mb_per_call: float = 0.0, full: int = CALLS, seed: int = 0) -> tuple[int, ...]:
    """Memory after each call: a rise that ends after *full* calls, and noise of 0.1 MB."""
    noise = np.random.default_rng(seed).normal(0, 0.1, CALLS)
    rise = mb_per_call * np.minimum(np.arange(CALLS), full)
    return tuple(int(BASE + value * MB) for value in rise + noise)


def readings(**last: int) -> tuple[Reading, ...]:
    """Twenty readings, whose named values rise from 0 to what is given."""
    return tuple(
        Reading(at, at * 50, **{name: value * at // 19 for name, value in last.items()})
        for at in range(20)
    )


def seen(name: str, held: tuple[int, ...] | None = None, **more: Any) -> Observation:
    """An observation of a process that does not grow, but for what is given."""
    return Observation(
        name,
        curve() if held is None else held,
        again_from=CALLS // 2 if KINDS[name].inputs == "each length twice" else None,
        stage_bytes=dict.fromkeys(("forward", "tokenizer", "call", "between"), 0),
        readings=readings(),
        released=tuple(Released(step, 0) for step in RELEASES),
        **more,
    )


def all_seen(**changed: Observation) -> list[Observation]:
    """All experiments with the whole encoder; some of them changed."""
    names = (*WHOLE, "python objects")
    return [changed.get(name.replace(" ", "_"), seen(name)) for name in names]


def growing(mb_per_call: float = 0.05, **more: Any) -> list[Observation]:
    """All experiments grow alike."""
    whole = [replace(seen(name, curve(mb_per_call)), **more) for name in WHOLE]
    return [*whole, seen("python objects", curve())]


def causes(observations: list[Observation]) -> list[tuple[Cause, bool]]:
    """What is found, and whether it is an alarm."""
    return [(finding.cause, finding.grows) for finding in decide(observations)]


def given_back(**steps: int) -> tuple[Released, ...]:
    """What each step gave back, in MB."""
    return tuple(Released(step, steps.get(step.replace(" ", "_"), 0) * MB) for step in RELEASES)


def test_a_process_that_does_not_grow_is_flat() -> None:
    """And nothing else is said of it."""
    assert [(Cause.FLAT, False)] == causes(all_seen())


def test_what_a_trim_gives_back_was_kept_by_the_allocator() -> None:
    """Whatever the shape of the curve: the intervention decides."""
    assert [(Cause.ALLOCATOR, True)] == causes(growing(released=given_back(trim=40)))
    fills = seen("varying lengths", curve(0.2, full=300))
    fills = replace(fills, released=given_back(trim=50))
    assert [(Cause.ALLOCATOR, False)] == causes(all_seen(varying_lengths=fills))


def test_arenas_are_those_of_a_foreign_pool_outside_the_forward() -> None:
    """The same trim, and threads of tokio: but not if the forward has taken it."""
    pool: dict[str, Any] = {"released": given_back(trim=40), "pools": {"tokio-runtime-w": 4}}
    assert [(Cause.ARENAS, True)] == causes(growing(**pool))
    inside = {"forward": 45 * MB, "call": 0}
    assert [(Cause.ALLOCATOR, True)] == causes(growing(**pool, stage_bytes=inside))


@pytest.mark.parametrize("step", ["tokenizer_cache", "new_tokenizer"])
def test_what_a_new_tokenizer_gives_back_was_its_cache(step: str) -> None:
    """A cache that is emptied, or goes with its tokenizer."""
    assert [(Cause.TOKENIZER_CACHE, True)] == causes(growing(released=given_back(**{step: 45})))


def test_growth_that_nothing_gives_back_is_named_by_its_place() -> None:
    """A leak of the model grows when its forward is repeated with nothing around it."""
    assert [(Cause.FORWARD, True)] == causes(growing(forward_bytes=49_000.0))
    for repeated in (0.0, 2_000.0, None):
        assert [(Cause.OUTSIDE, True)] == causes(growing(forward_bytes=repeated))


def test_one_entry_per_shape_needs_new_lengths() -> None:
    """Each length costs once; the same lengths again cost nothing, nor does one length."""
    steps = seen("varying lengths", curve(0.05, full=CALLS // 2))
    assert [(Cause.SHAPES, False)] == causes(all_seen(varying_lengths=steps))
    one = seen("one length", curve(0.05, full=CALLS // 2))
    found = causes(all_seen(varying_lengths=steps, one_length=one))
    assert (Cause.PLATEAU, False) in found
    assert Cause.SHAPES not in dict(found)


def test_entries_per_shape_hide_no_list_that_is_held() -> None:
    """Both are told, and the list is the alarm."""
    steps = seen("varying lengths", curve(0.05, full=CALLS // 2))
    held = Container("list", "worker", CALLS, "numpy.ndarray", 3 * MB)
    observations = all_seen(varying_lengths=steps, python_objects=traced(3_000, held))
    assert [(Cause.PYTHON_OBJECTS, True), (Cause.SHAPES, False)] == causes(observations)


def test_steps_are_no_entries_per_shape() -> None:
    """Two tables that are loaded at two moments are a plateau."""
    held = tuple(value + 20 * MB * ((at > 100) + (at > 300)) for at, value in enumerate(curve()))
    found = causes(all_seen(varying_lengths=seen("varying lengths", held)))
    assert [(Cause.PLATEAU, False)] == found


def test_a_cache_that_fills_is_no_alarm_and_its_place_is_told() -> None:
    """Where: the stage that took it."""
    stages = {"forward": 0, "tokenizer": 9 * MB, "call": 0, "between": 0}
    fills = {
        name.replace(" ", "_"): replace(seen(name, curve(0.1, full=300)), stage_bytes=stages)
        for name in WHOLE
    }
    [finding] = decide(all_seen(**fills))
    assert (Cause.PLATEAU, False) == (finding.cause, finding.grows)
    assert "tokenizer" in finding.details
    assert "トークナイザ" in finding.details_ja


def traced(per_call: int, *containers: Container) -> Observation:
    """Python objects that grow by so many bytes a call."""
    held = tuple(MB + per_call * at for at in range(CALLS))
    return replace(seen("python objects", held), containers=containers, line="worker.py:12")


def test_python_objects_are_named_by_type_and_line() -> None:
    """Even where the process has grown too little to be seen."""
    held = Container("list", "worker", CALLS, "numpy.ndarray", 3 * MB)
    [finding] = decide(all_seen(python_objects=traced(3_000, held)))
    assert (Cause.PYTHON_OBJECTS, True) == (finding.cause, finding.grows)
    assert "list of numpy.ndarray, +1,000 (worker.py:12)" == finding.details


def test_python_objects_explain_no_leak_that_is_far_larger() -> None:
    """1 kB a call of objects beside 50 kB a call in the forward."""
    observations = [*growing(forward_bytes=50_000.0)[:-1], traced(1_000)]
    assert [(Cause.FORWARD, True)] == causes(observations)


def test_what_a_tagger_holds_is_the_splitters_own_cache() -> None:
    """The dict of surfaces of a Tagger of fugashi."""
    held = Container("dict", "fugashi.fugashi.Tagger", 40 * CALLS, "str", 3 * MB)
    found = causes(all_seen(python_objects=traced(3_000, held)))
    assert [(Cause.SPLITTER_CACHE, True)] == found


def test_descriptors_that_rise_to_the_end_are_an_alarm() -> None:
    """A pool of connections that is opened at first is none."""
    rising = replace(seen("same text"), readings=readings(file_descriptors=200))
    assert [(Cause.FILE_DESCRIPTORS, True)] == causes(all_seen(same_text=rising))
    pool = tuple(Reading(at, at * 50, file_descriptors=50 * (at > 2)) for at in range(20))
    assert [(Cause.FLAT, False)] == causes(all_seen(same_text=replace(rising, readings=pool)))
    few = replace(rising, held_bytes=curve()[:199])
    assert [(Cause.FILE_DESCRIPTORS, False)] == causes(all_seen(same_text=few))


def test_mappings_of_the_same_file_are_an_alarm() -> None:
    """The dictionary of MeCab is named; its remedy is for MeCab alone."""
    rising = readings(address_space_bytes=50_000 * MB)
    mapped = replace(seen("same text"), readings=rising, new_mappings={"sys.dic": 100, "a.so": 1})
    [finding] = decide(all_seen(same_text=mapped))
    assert (Cause.MAPPINGS, True) == (finding.cause, finding.grows)
    assert "sys.dic" in finding.details
    assert "Tagger" in finding.remedy
    [other] = decide(all_seen(same_text=replace(mapped, new_mappings={"data.arrow": 100})))
    assert "" == other.remedy
    few = replace(mapped, held_bytes=curve()[:199])
    assert [(Cause.MAPPINGS, False)] == causes(all_seen(same_text=few))


def test_each_further_caller_has_its_price() -> None:
    """16 threads of 4 MB and two native threads each: no alarm, as it ends with the callers."""
    start = CALLS // 2
    held = tuple(value + 4 * MB * min(16, max(0, at - start)) for at, value in enumerate(curve()))
    threads = tuple(
        Reading(at, at * 50, native_threads=4 + 48 * (at * 50 > start)) for at in range(20)
    )
    many = replace(seen("many threads", held), again_from=start, readings=threads)
    [finding] = decide(all_seen(many_threads=many))
    assert (Cause.CALLING_THREADS, False) == (finding.cause, finding.grows)
    assert "4.0 MB and 2 more native threads each" in finding.details


def test_a_pool_of_callers_of_ones_own_is_an_alarm() -> None:
    """The examined code itself calls from ever more threads."""
    more: dict[str, Any] = {"forward_threads": 60, "readings": readings(native_threads=120)}
    assert (Cause.CALLING_THREADS, True) in causes(growing(**more))


def test_pages_of_files_are_no_growth() -> None:
    """RssFile rises, RssAnon does not."""
    paged = replace(seen("same text"), readings=readings(rss_file_bytes=80 * MB))
    [finding] = decide(all_seen(same_text=paged))
    assert (Cause.PAGED_IN, False, 80 * MB) == (finding.cause, finding.grows, finding.size_bytes)


def test_few_calls_are_never_an_alarm() -> None:
    """19 calls of 55 MB each: unclear, and the experiment is named."""
    held = tuple(BASE + at * 55 * MB for at in range(19))
    short = [replace(one, held_bytes=held, again_from=None) for one in growing()]
    found = decide(short)
    assert [Cause.UNCLEAR] == [one.cause for one in found]
    assert not any(one.grows for one in found)


def test_experiments_that_failed_say_nothing() -> None:
    """If nothing else grows, it is not clear that nothing does."""
    failed = [Observation(name, error="OSError") for name in WHOLE]
    assert [(Cause.UNCLEAR, False)] == causes(failed)
    [finding] = decide([*failed[:2], *all_seen()[2:]])
    assert Cause.UNCLEAR == finding.cause
    assert "2 experiments failed: OSError" == finding.details
    alarms = [*failed[:2], *growing(released=given_back(trim=40))[2:]]
    assert [(Cause.ALLOCATOR, True)] == causes(alarms)


@given(
    slopes=st.lists(st.sampled_from([0.0, 0.01, 0.05, 1.0]), min_size=5, max_size=5),
    trims=st.lists(st.integers(0, 100), min_size=5, max_size=5),
    full=st.sampled_from([100, 500, CALLS]),
)
def test_every_cause_comes_once_and_alarms_first(
    slopes: list[float], trims: list[int], full: int
) -> None:
    """Whatever is observed, there is a finding, and each tells its words in both languages."""
    observations = [
        replace(seen(name, curve(slope, full)), released=given_back(trim=trim))
        for name, slope, trim in zip(WHOLE, slopes, trims, strict=True)
    ]
    findings = decide(observations)
    found = [finding.cause for finding in findings]
    assert findings
    assert len(set(found)) == len(found)
    assert sorted((one.grows for one in findings), reverse=True) == [one.grows for one in findings]
    assert all(one.in_words() and one.in_words("ja") for one in findings)
    assert not any(one.grows for one in findings) or max(slopes) > 0


@given(st.lists(st.integers(0, 1_000), max_size=60))
def test_counts_that_fall_are_not_rising(counts: list[int]) -> None:
    """Nor do counts in falling order."""
    assert not is_rising(sorted(counts, reverse=True))


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_has_words(cause: Cause) -> None:
    """In both languages; and a line to paste, where there is something to do."""
    words = WORDS[cause]
    assert words.name
    assert words.meaning.endswith(".")
    assert words.name_ja
    assert words.meaning_ja.endswith("。")
    needs_nothing = {Cause.FLAT, Cause.PLATEAU}
    assert bool(words.remedy) == (cause not in needs_nothing)
    assert Finding(cause).to_dict()["cause"] == cause.value
