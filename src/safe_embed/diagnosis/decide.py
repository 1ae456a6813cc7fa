"""From observations to findings: interventions first, the shape of curves second; pure.

What a step gave back, what another input or thread changed, and where in the work memory was taken
name the cause. The shape of the curve only says whether there is anything to explain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from safe_embed.diagnosis.case import FEWEST_CALLERS, MOST, Case, judged, known
from safe_embed.diagnosis.experiments import TRIM, Observation
from safe_embed.diagnosis.growth import TOLERANCE_BYTES
from safe_embed.diagnosis.signs import callers, descriptors, held_objects, mappings, paged_in
from safe_embed.diagnosis.verdicts import Cause, Finding

# Growth that comes again for a quarter only did not depend on what came again.
_LITTLE = 0.25
# A rise in few jumps is no entry for each length.
_JUMPS = 5


def decide(observations: Sequence[Observation]) -> list[Finding]:
    """Name the causes of growth.

    Args:
        observations: Of the experiments, in any order; those that failed are ignored.

    Returns:
        The findings: alarms first, then by size; one of ``FLAT`` if there are no others, and no
        experiment has failed. Each cause comes once, with the experiment that shows it best.
    """
    usable = {one.name: one for one in observations if one.error is None and one.calls > 1}
    case = Case(usable, {name: judged(one) for name, one in usable.items()})
    if not usable:
        return [Finding.of(Cause.UNCLEAR)]
    findings = [*descriptors(case), *mappings(case), *held_objects(case), *callers(case)]
    explained = {finding.cause for finding in findings}
    for name, observation in usable.items():
        # Further threads are another question, which `callers` answers.
        if not observation.kind.is_traced and observation.kind.callers == 1:
            findings += _explain(case, name, explained)
    findings += paged_in(case)
    failed = [one for one in observations if one.error is not None]
    if failed and not findings:
        kinds = ", ".join(sorted({one.error or "" for one in failed}))
        details = (
            f"{len(failed)} experiments failed: {kinds}",
            f"{len(failed)} 件の実験が失敗: {kinds}",
        )
        return [Finding.of(Cause.UNCLEAR, details=details[0], details_ja=details[1])]
    return _sorted(findings) or [Finding.of(Cause.FLAT)]


def _sorted(findings: Sequence[Finding]) -> list[Finding]:
    """Each cause once, alarms first; a cause that grows in one experiment grows."""
    best: dict[Cause, Finding] = {}
    for one in findings:
        other = best.get(one.cause)
        if other is None or (one.grows, one.size_bytes or 0) > (other.grows, other.size_bytes or 0):
            best[one.cause] = one
    # What is certain comes first; "outside" is what nothing else explains.
    order = [Cause.OUTSIDE, Cause.UNCLEAR, Cause.PLATEAU, Cause.PAGED_IN]
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
    if cause in {Cause.PYTHON_OBJECTS, Cause.SPLITTER_CACHE}:
        return  # a finding already, with types and lines
    if cause is not None:
        yield Finding.of(cause, details=details, details_ja=details_ja, **figures)
    elif growth.verdict == "plateau":
        stage, stage_ja = _where(observation)
        calls = growth.plateau_calls or 0
        yield Finding.of(
            Cause.PLATEAU,
            details=f"in {stage}, full after {calls:,} calls",
            details_ja=f"場所: {stage_ja}、{calls:,} 回で一定",
            **figures,
        )
    elif growth.verdict == "unclear":
        yield Finding.of(
            Cause.UNCLEAR, details=name, details_ja=observation.kind.name_ja, **figures
        )
    else:
        cause = _by_place(observation, growth.slope_bytes_per_call)
        details = details_ja = ""
        if cause is Cause.OUTSIDE:
            details, details_ja = _pool_words(observation)
        yield Finding.of(cause, details=details, details_ja=details_ja, **figures)


def _cause(
    case: Case, observation: Observation, rise: int, explained: set[Cause]
) -> tuple[Cause | None, str, str]:
    """What an intervention tells: a step that gave back, or an input that changed it."""
    most = MOST * rise
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
    details = _pool_words(observation)
    in_forward = (observation.stage_bytes or {}).get("forward", 0)
    if not details[0] or in_forward > MOST * observation.rise():
        return Cause.ALLOCATOR, "", ""
    return Cause.ARENAS, *details


def _pool_words(observation: Observation) -> tuple[str, str]:
    """The native threads of libraries that have names of their own; empty if there are none."""
    pools = {name: count for name, count in (observation.pools or {}).items() if _is_pool(name)}
    names = ", ".join(f"{count} × {name}" for name, count in sorted(pools.items()))
    return (f"threads: {names}", f"スレッド: {names}") if names else ("", "")


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
        and _largest_jumps(observation.held_bytes[:again]) <= MOST * first
    )


def _largest_jumps(series: Sequence[int]) -> int:
    steps = sorted((after - before for before, after in pairwise(series)))
    return sum(steps[-_JUMPS:])


def _by_place(observation: Observation, bytes_per_call: float) -> Cause:
    """Where growth is taken that no step gives back: does the forward by itself grow as fast?"""
    if (observation.forward_bytes or 0) >= MOST * bytes_per_call:
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


def _calls_from_new_threads(observation: Observation) -> bool:
    """Whether the examined code itself calls the model from many threads, and they pile up."""
    threads = known(observation.readings, "native_threads")
    return (
        observation.forward_threads >= FEWEST_CALLERS
        and bool(threads)
        and threads[-1] - threads[0] >= FEWEST_CALLERS
    )


def _thread_words(observation: Observation) -> tuple[str, str]:
    threads = known(observation.readings, "native_threads")
    more = threads[-1] - threads[0] if threads else 0
    return (
        f"{observation.forward_threads} threads called the model, +{more} native threads",
        f"モデルを呼んだスレッド {observation.forward_threads}、ネイティブスレッド +{more}",
    )
