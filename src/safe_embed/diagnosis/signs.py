"""What single experiments show by themselves: counts that rise, objects that are held, callers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from safe_embed.diagnosis.case import MOST, Case, known
from safe_embed.diagnosis.experiments import KINDS, TRIM, Observation
from safe_embed.diagnosis.growth import FEWEST_CALLS, TOLERANCE_BYTES, Growth
from safe_embed.diagnosis.verdicts import Cause, Finding

_NEARLY_ALL = 0.9
_FEWEST_DESCRIPTORS = 10
_FEWEST_MAPPINGS = 10
_TAGGERS = ("Tagger",)
# Files of a dictionary of MeCab.
_DICTIONARY = (".dic", ".bin")


def descriptors(case: Case) -> Iterator[Finding]:
    """File descriptors that rise to the end, in any experiment."""
    for name, observation in case.observations.items():
        values = known(observation.readings, "file_descriptors")
        more = values[-1] - values[0] if values else 0
        if more >= _FEWEST_DESCRIPTORS and is_rising(values):
            yield Finding.of(
                Cause.FILE_DESCRIPTORS,
                grows=observation.calls >= FEWEST_CALLS,
                details=f"+{more:,} in {observation.calls:,} calls",
                details_ja=f"{observation.calls:,} 回で +{more:,}",
                experiment=name,
            )


def is_rising(values: Sequence[int]) -> bool:
    """Tell whether counts rise to the end.

    Args:
        values: Counts, oldest first.

    Returns:
        Whether all of the last quarter are above all of the second; False for fewer than 8.
    """
    quarter = len(values) // 4
    return quarter > 1 and min(values[-quarter:]) > max(values[quarter : 2 * quarter])


def mappings(case: Case) -> Iterator[Finding]:
    """Files that are mapped again and again, while the address space rises."""
    for name, observation in case.observations.items():
        new = observation.new_mappings or {}
        repeated = {file: more for file, more in new.items() if more >= _FEWEST_MAPPINGS}
        spaces = known(observation.readings, "address_space_bytes")
        if not repeated or not is_rising(spaces):
            continue
        file = max(repeated, key=lambda name: repeated[name])
        is_dictionary = file.endswith(_DICTIONARY)
        yield Finding.of(
            Cause.MAPPINGS,
            grows=observation.calls >= FEWEST_CALLS,
            details=f"+{sum(repeated.values()):,} mappings, {file} and others",
            details_ja=f"マッピング +{sum(repeated.values()):,}（{file} など）",
            experiment=name,
            **({} if is_dictionary else {"remedy": ""}),
        )


def held_objects(case: Case) -> Iterator[Finding]:
    """Python objects that the calls add, by the types of the containers that hold them."""
    observation = case.observations.get("python objects")
    if observation is None or _fills_later(case, observation.calls):
        return
    growth = case.growths["python objects"]
    is_growing = growth.verdict == "growth" and _is_most(case, growth)
    if not (is_growing or _gains_with_each_call(observation)):
        return
    tagger = [one for one in observation.containers if one.owner.endswith(_TAGGERS)]
    held = tagger or list(observation.containers)
    where = f" ({observation.line})" if observation.line else ""
    names = [f"{one.kind} of {one.entry_kind or '?'}, +{one.more_entries:,}" for one in held[:1]]
    names_ja = [f"{one.entry_kind or '?'} の {one.kind} +{one.more_entries:,}" for one in held[:1]]
    yield Finding.of(
        Cause.SPLITTER_CACHE if tagger else Cause.PYTHON_OBJECTS,
        grows=True,
        size_bytes=observation.rise(),
        bytes_per_call=growth.slope_bytes_per_call,
        details="".join(names) + where,
        details_ja="".join(names_ja) + where,
        experiment="python objects",
    )


def _is_most(case: Case, traced: Growth) -> bool:
    """Whether Python objects account for most of what grows, where something does."""
    slopes = [
        growth.slope_bytes_per_call
        for name, growth in case.growths.items()
        if growth.verdict == "growth" and case.observations[name].kind == KINDS["varying lengths"]
    ]
    return all(traced.slope_bytes_per_call >= MOST * slope for slope in slopes)


def _gains_with_each_call(observation: Observation) -> bool:
    """Whether a container has gained an entry in each call, and holds most of what has grown."""
    return any(
        one.more_entries >= _NEARLY_ALL * observation.calls
        and one.size_bytes >= MOST * observation.rise() > 0
        for one in observation.containers
        if observation.calls >= FEWEST_CALLS
    )


def _fills_later(case: Case, traced_calls: int) -> bool:
    """Whether another experiment shows a plateau after more calls than were traced."""
    return any(
        growth.verdict == "plateau" and (growth.plateau_calls or 0) >= MOST * traced_calls
        for growth in case.growths.values()
    )


def callers(case: Case) -> Iterator[Finding]:
    """Memory that each further thread costs when it calls the model."""
    observation = case.observations.get("many threads")
    if observation is None or observation.again_from is None:
        return
    start, callers = observation.again_from, observation.kind.callers
    held = observation.held_bytes
    if len(held) <= start + callers:
        return
    rise = observation.rise(max(0, start - callers), start + 2 * callers)
    others = [one for one in observation.readings if (one.calls or 0) > start + callers]
    before = [one for one in observation.readings if (one.calls or 0) <= start]
    if not others or not before or observation.gave_back(TRIM) >= MOST * rise:
        return
    threads = (others[-1].native_threads or 0) - (before[-1].native_threads or 0)
    if rise - case.rise("one length") >= TOLERANCE_BYTES and threads >= 1.5 * callers:
        each = rise / callers
        yield Finding.of(
            Cause.CALLING_THREADS,
            size_bytes=rise,
            details=f"if {callers} threads call: {each / 1e6:.1f} MB and "
            f"{(threads - callers) / callers:.0f} more native threads each",
            details_ja=f"{callers} スレッドから呼ぶと、1 スレッドにつき {each / 1e6:.1f} MB、"
            f"ネイティブスレッド {(threads - callers) / callers:.0f} 本",
            experiment="many threads",
        )


def paged_in(case: Case) -> Iterator[Finding]:
    """RssFile that has grown, where RssAnon has not."""
    for name, observation in case.observations.items():
        pages = known(observation.readings, "rss_file_bytes")
        more = pages[-1] - pages[0] if pages else 0
        is_held = case.growths[name].verdict == "growth" or observation.kind.is_traced
        if more >= TOLERANCE_BYTES and not is_held:
            yield Finding.of(Cause.PAGED_IN, size_bytes=more, experiment=name)
