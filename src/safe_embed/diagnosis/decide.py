"""From observations to findings: interventions first, the shape of curves second; pure.

What a step gave back, what another input or thread changed, and where in the work memory was taken
name the cause. The shape of the curve only says whether there is anything to explain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from safe_embed.diagnosis.experiments import KINDS, TRIM, Observation
from safe_embed.diagnosis.growth import FEWEST_CALLS, TOLERANCE_BYTES, Growth, judge
from safe_embed.diagnosis.readings import Reading
from safe_embed.diagnosis.verdicts import Cause, Finding, found

# Python's own memory is told to the byte: what 1,000 calls hold of 250 bytes each.
TRACED_TOLERANCE_BYTES = 250_000
# A cause explains growth if it accounts for half of it.
_MOST = 0.5
# Growth that comes again for a quarter only did not depend on what came again.
_LITTLE = 0.25
# A rise in few jumps is no entry for each length.
_JUMPS = 5
_NEARLY_ALL = 0.9
_FEWEST_DESCRIPTORS = 10
_FEWEST_MAPPINGS = 10
_FEWEST_CALLERS = 8
_TAGGERS = ("Tagger",)
# Files of a dictionary of MeCab.
_DICTIONARY = (".dic", ".bin")


@dataclass(frozen=True)
class Case:
    """All observations, and the shape of each curve.

    Attributes:
        observations: By name; those that failed or have fewer than two calls are left out.
        growths: By the same names.
    """

    observations: dict[str, Observation]
    growths: dict[str, Growth] = field(default_factory=dict)

    def rise(self, name: str) -> int:
        """Growth of memory in an experiment, in bytes; 0 if there was no such experiment."""
        observation = self.observations.get(name)
        return 0 if observation is None else max(0, observation.rise())


def judged(observation: Observation) -> Growth:
    """Judge the curve of an experiment, with the tolerance of what it measures."""
    is_traced = observation.kind.is_traced
    return judge(observation.held_bytes, TRACED_TOLERANCE_BYTES if is_traced else TOLERANCE_BYTES)


def decide(observations: Sequence[Observation]) -> list[Finding]:
    """Name the causes of growth.

    Args:
        observations: Of the experiments, in any order; those that failed are ignored.

    Returns:
        The findings: alarms first, then by size; one of ``FLAT`` if there are no others. Each cause
        comes once, with the experiment that shows it best.
    """
    usable = {one.name: one for one in observations if one.error is None and one.calls > 1}
    case = Case(usable, {name: judged(one) for name, one in usable.items()})
    if not usable:
        return [found(Cause.UNCLEAR)]
    findings = [*_descriptors(case), *_mappings(case), *_held_objects(case), *_callers(case)]
    explained = {finding.cause for finding in findings}
    for name, observation in usable.items():
        # Further threads are another question, which _callers answers.
        if not observation.kind.is_traced and observation.kind.callers == 1:
            findings += _explain(case, name, explained)
    findings += _paged_in(case)
    if Cause.SHAPES in {finding.cause for finding in findings}:  # and no leak besides
        findings = [one for one in findings if one.cause != Cause.PYTHON_OBJECTS]
    return _sorted(findings) or [found(Cause.FLAT)]


def _sorted(findings: Sequence[Finding]) -> list[Finding]:
    """Each cause once, alarms first; a cause that grows in one experiment grows."""
    best: dict[Cause, Finding] = {}
    for one in findings:
        other = best.get(one.cause)
        if other is None or (one.grows, one.size_bytes or 0) > (other.grows, other.size_bytes or 0):
            best[one.cause] = one
    order = [Cause.UNCLEAR, Cause.PLATEAU, Cause.PAGED_IN]  # what is certain comes first
    return sorted(
        best.values(),
        key=lambda one: (not one.grows, one.cause in order, -(one.size_bytes or 0)),
    )


def _explain(case: Case, name: str, explained: set[Cause]) -> Iterator[Finding]:
    """Name why RssAnon has risen in an experiment, if it has."""
    observation, growth = case.observations[name], case.growths[name]
    rise = observation.rise()
    if growth.verdict == "flat" or rise < TOLERANCE_BYTES:
        return
    figures = {
        "size_bytes": rise,
        "bytes_per_call": growth.slope_bytes_per_call if growth.verdict == "growth" else None,
        "experiment": name,
        "grows": growth.verdict == "growth",
    }
    cause, details, details_ja = _cause(case, observation, rise, explained)
    if cause is not None:
        yield found(cause, details=details, details_ja=details_ja, **figures)
    elif growth.verdict == "plateau":
        stage, stage_ja = _where(observation)
        calls = growth.plateau_calls or 0
        yield found(
            Cause.PLATEAU,
            details=f"in {stage}, full after {calls:,} calls",
            details_ja=f"場所: {stage_ja}、{calls:,} 回で一定",
            **figures,
        )
    elif growth.verdict == "unclear":
        yield found(Cause.UNCLEAR, details=name, details_ja=observation.kind.name_ja, **figures)
    else:
        yield found(_by_stage(observation), **figures)


def _cause(
    case: Case, observation: Observation, rise: int, explained: set[Cause]
) -> tuple[Cause | None, str, str]:
    """What an intervention tells: a step that gave back, or an input that changed it."""
    most = _MOST * rise
    if observation.gave_back(TRIM) >= most:
        return _kept_blocks(observation)
    if observation.gave_back("tokenizer cache", "new tokenizer") >= most:
        return Cause.TOKENIZER_CACHE, "", ""
    if _is_per_shape(case, observation, rise):
        return Cause.SHAPES, "", ""
    if _calls_from_new_threads(observation):
        return Cause.CALLING_THREADS, *_thread_words(observation)
    for cause in (Cause.PYTHON_OBJECTS, Cause.SPLITTER_CACHE):
        traced = case.rise("python objects")
        if cause in explained and traced >= most * _scale(case, observation):
            return cause, "", ""
    return None, "", ""


def _scale(case: Case, observation: Observation) -> float:
    """How many calls were traced for each call of this experiment."""
    return case.observations["python objects"].calls / max(1, observation.calls)


def _kept_blocks(observation: Observation) -> tuple[Cause, str, str]:
    pools = {name: count for name, count in (observation.pools or {}).items() if _is_pool(name)}
    in_forward = (observation.stage_bytes or {}).get("forward", 0)
    if not pools or in_forward > _MOST * observation.rise(observation.calls // 2):
        return Cause.ALLOCATOR, "", ""
    names = ", ".join(f"{count} × {name}" for name, count in sorted(pools.items()))
    return Cause.ARENAS, f"threads: {names}", f"スレッド: {names}"


def _is_pool(name: str) -> bool:
    """Whether native threads have a name of their own: those of OpenMP have the program's."""
    return any(word in name.lower() for word in ("tokio", "lance", "rayon", "arrow", "pool"))


def _is_per_shape(case: Case, observation: Observation, rise: int) -> bool:
    """Whether each length costs memory once: not when it comes again, nor when there is one."""
    again = observation.again_from
    if observation.kind.inputs != "each length twice" or not again or observation.calls <= again:
        return False
    little = _LITTLE * rise
    first = observation.rise(0, again)
    others = [case.rise(name) for name in ("one length", "same text")]
    return (
        first >= TOLERANCE_BYTES
        and observation.rise(again) <= little
        and "one length" in case.observations
        and all(other <= little for other in others)
        and _largest_jumps(observation.held_bytes[:again]) <= _MOST * first
    )


def _largest_jumps(series: Sequence[int]) -> int:
    steps = sorted((after - before for before, after in pairwise(series)))
    return sum(steps[-_JUMPS:])


def _by_stage(observation: Observation) -> Cause:
    """Where growth that no step gives back was taken."""
    stages = observation.stage_bytes or {}
    total = sum(stages.values())
    if observation.kind.part == "forward" or stages.get("forward", 0) >= _MOST * total > 0:
        return Cause.FORWARD
    return Cause.SPLITTER_CACHE if observation.kind.part == "splitter" else Cause.OUTSIDE


def _where(observation: Observation) -> tuple[str, str]:
    words = {
        "forward": ("the forward", "forward"),
        "tokenizer": ("the tokenizer", "トークナイザ"),
        "call": ("the code around the model", "モデルの周りのコード"),
        "between": ("code between the calls", "呼び出しの間のコード"),
    }
    stages = observation.stage_bytes or {"call": 0}
    return words[max(stages, key=lambda name: stages[name])]


def _descriptors(case: Case) -> Iterator[Finding]:
    """File descriptors that rise to the end, in any experiment."""
    for name, observation in case.observations.items():
        counts = [one.file_descriptors for one in observation.readings]
        values = [count for count in counts if count is not None]
        more = values[-1] - values[0] if values else 0
        if more >= _FEWEST_DESCRIPTORS and is_rising(values):
            yield found(
                Cause.FILE_DESCRIPTORS,
                grows=True,
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


def _mappings(case: Case) -> Iterator[Finding]:
    for name, observation in case.observations.items():
        new = observation.new_mappings or {}
        repeated = {file: more for file, more in new.items() if more >= _FEWEST_MAPPINGS}
        spaces = _known(observation.readings, "address_space_bytes")
        if not repeated or not is_rising(spaces):
            continue
        file = max(repeated, key=lambda name: repeated[name])
        is_dictionary = file.endswith(_DICTIONARY)
        yield found(
            Cause.MAPPINGS,
            grows=True,
            details=f"+{sum(repeated.values()):,} mappings, {file} and others",
            details_ja=f"マッピング +{sum(repeated.values()):,}（{file} など）",
            experiment=name,
            **({} if is_dictionary else {"remedy": ""}),
        )


def _held_objects(case: Case) -> Iterator[Finding]:
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
    yield found(
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
    return all(traced.slope_bytes_per_call >= _MOST * slope for slope in slopes)


def _gains_with_each_call(observation: Observation) -> bool:
    """Whether a container has gained an entry in each call, and holds most of what has grown."""
    return any(
        one.more_entries >= _NEARLY_ALL * observation.calls
        and one.size_bytes >= _MOST * observation.rise() > 0
        for one in observation.containers
        if observation.calls >= FEWEST_CALLS
    )


def _fills_later(case: Case, traced_calls: int) -> bool:
    """Whether another experiment shows a plateau after more calls than were traced."""
    return any(
        growth.verdict == "plateau" and (growth.plateau_calls or 0) >= _MOST * traced_calls
        for growth in case.growths.values()
    )


def _callers(case: Case) -> Iterator[Finding]:
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
    if not others or not before or observation.gave_back(TRIM) >= _MOST * rise:
        return
    threads = (others[-1].native_threads or 0) - (before[-1].native_threads or 0)
    if rise - case.rise("one length") >= TOLERANCE_BYTES and threads >= 1.5 * callers:
        each = rise / callers
        yield found(
            Cause.CALLING_THREADS,
            size_bytes=rise,
            details=f"if {callers} threads call: {each / 1e6:.1f} MB and "
            f"{(threads - callers) / callers:.0f} more native threads each",
            details_ja=f"{callers} スレッドから呼ぶと、1 スレッドにつき {each / 1e6:.1f} MB、"
            f"ネイティブスレッド {(threads - callers) / callers:.0f} 本",
            experiment="many threads",
        )


def _calls_from_new_threads(observation: Observation) -> bool:
    """Whether the examined code itself calls the model from many threads, and they pile up."""
    threads = _known(observation.readings, "native_threads")
    return (
        observation.forward_threads >= _FEWEST_CALLERS
        and bool(threads)
        and threads[-1] - threads[0] >= _FEWEST_CALLERS
    )


def _thread_words(observation: Observation) -> tuple[str, str]:
    threads = _known(observation.readings, "native_threads")
    more = threads[-1] - threads[0] if threads else 0
    return (
        f"{observation.forward_threads} threads called the model, +{more} native threads",
        f"モデルを呼んだスレッド {observation.forward_threads}、ネイティブスレッド +{more}",
    )


def _paged_in(case: Case) -> Iterator[Finding]:
    """RssFile that has grown beside flat RssAnon."""
    for name, observation in case.observations.items():
        pages = _known(observation.readings, "rss_file_bytes")
        more = pages[-1] - pages[0] if pages else 0
        if more >= TOLERANCE_BYTES and not observation.kind.is_traced:
            yield found(Cause.PAGED_IN, size_bytes=more, experiment=name)


def _known(readings: Sequence[Reading], name: str) -> list[int]:
    values = (getattr(reading, name) for reading in readings)
    return [value for value in values if value is not None]
