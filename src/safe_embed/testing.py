"""For users' own tests: fail when a function makes the process grow.

Loads neither torch nor the encoder. Needs the extra ``doctor``.
"""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable
from typing import NamedTuple

from safe_embed.diagnosis.containers import Container, container_sizes, grown_containers
from safe_embed.diagnosis.growth import (
    FEWEST_CALLS,
    TOLERANCE_BYTES,
    Growth,
    further_calls,
    judge,
)
from safe_embed.diagnosis.readings import file_descriptors, held_reader
from safe_embed.diagnosis.verdicts import Cause, Finding
from safe_embed.errors import ConfigError, both
from safe_embed.memory.allocators import trim_heap
from safe_embed.memory.sizes import format_mib, parse_size

__all__ = ["assert_flat_memory"]

# A run is doubled at most four times, the looks that the significance of a verdict allows for.
_MOST_TIMES = 16
# A pool of connections may open so many in the second half of the run.
_TOLERANCE_DESCRIPTORS = 8
# A cause explains growth if it accounts for at least half of it.
_SHARE = 0.5
# Verdict on memory -> in words.
_VERDICTS = {
    "flat": ("Memory is flat", "メモリは増えていません"),
    "plateau": ("Memory is at a plateau", "メモリは一定になっています"),
    "growth": ("Memory grows", "メモリが増えています"),
    "unclear": (
        "It is unclear whether memory grows; give more calls, or a larger tolerance_bytes",
        "メモリが増えているかどうか、まだ分かりません（calls か tolerance_bytes を大きくする）",
    ),
}
# What gc.collect() gives back.
_CYCLES = {
    "grows": True,
    "details": "reference cycles, which gc.collect() gives back",
    "details_ja": "循環参照。gc.collect() で戻ります",
    "remedy": "gc.collect()  # after each batch; or break the cycle",
}


class _Run(NamedTuple):
    """What was measured after each call, and how it was judged."""

    held: array[int]
    descriptors: array[int]
    memory: Growth
    files: Growth


def assert_flat_memory(
    function: Callable[[], object],
    *,
    calls: int = FEWEST_CALLS,
    warm_up_calls: int = 20,
    tolerance_bytes: int | str = TOLERANCE_BYTES,
) -> Growth:
    """Call a function again and again, and fail if the process grows by that.

    RssAnon and the number of open file descriptors are read after each call, and their curves are
    judged by :func:`safe_embed.diagnosis.judge`: a cache that fills and stops passes. While the
    verdict is open, the run is doubled, up to 16 times *calls*. After growth free blocks are given
    back, garbage is collected, and containers of Python that have gained an entry with every other
    call are counted, so that the message can name the cause.

    Run it in a process that does nothing else meanwhile.

    Args:
        function: What a worker does again and again, without arguments. With a model: texts of
            varying length, new ones with every call.
        calls: Number of calls that are judged, 200 or more: with fewer, growth looks like a cache
            that still fills.
        warm_up_calls: Number of calls before those.
        tolerance_bytes: A rise over the second half of the calls that is not growth yet: a number
            of bytes or a text such as ``"5 MB"``.

    Returns:
        The verdict on memory, ``"flat"`` or ``"plateau"``, with its figures.

    Raises:
        AssertionError: If memory or the number of file descriptors grows, or if the verdict is
            still unclear at the end; with the figures, the cause and the cheapest remedy, in
            English and Japanese. An error of *function* passes through.
        ConfigError: If an argument is invalid.
        MissingExtraError: If scipy or pymannkendall is not installed.
    """
    __tracebackhide__ = True  # pytest shows the line of the test
    tolerance = _checked(calls, warm_up_calls, tolerance_bytes)
    # Imports numpy and scipy now: later they would be a step in the curve.
    judge([float(number % 7) for number in range(FEWEST_CALLS)])
    for _ in range(warm_up_calls):
        function()
    before = container_sizes()
    gc.collect()
    trim_heap()  # growth would fill free blocks first, unseen
    run = _measure(function, calls, tolerance)
    if run.memory.verdict in {"flat", "plateau"} and run.files.verdict != "growth":
        return run.memory
    raise AssertionError(_message(run, _findings(run, before, _experiment(function))))


def _checked(calls: int, warm_up_calls: int, tolerance_bytes: int | str) -> int:
    if calls < FEWEST_CALLS:
        raise ConfigError(
            both(
                f"calls={calls}: with fewer than {FEWEST_CALLS} calls growth looks like a cache "
                f"that still fills. Give {FEWEST_CALLS} or more.",
                f"calls={calls}: {FEWEST_CALLS} 回より少ないと、増加と埋まる途中のキャッシュを区別"
                f"できません。{FEWEST_CALLS} 以上にしてください。",
            )
        )
    if warm_up_calls < 0:
        raise ConfigError(
            both(
                f"warm_up_calls={warm_up_calls}: give 0 or more.",
                f"warm_up_calls={warm_up_calls}: 0 以上にしてください。",
            )
        )
    return parse_size(tolerance_bytes)


def _measure(function: Callable[[], object], calls: int, tolerance_bytes: int) -> _Run:
    read = held_reader()
    # No lists: those would be found among the containers that have grown.
    held, descriptors = array("q"), array("q")
    further = calls
    while True:
        for _ in range(further):
            function()
            held.append(read())
            descriptors.append(file_descriptors() or 0)
        memory, files = judge(held, tolerance_bytes), judge(descriptors, _TOLERANCE_DESCRIPTORS)
        # With files that stay open the process may come to its limit.
        further = further_calls(memory, _MOST_TIMES * calls) if files.verdict != "growth" else 0
        if not further:
            return _Run(held, descriptors, memory, files)


def _findings(run: _Run, before: dict[int, int], experiment: str) -> list[Finding]:
    findings = []
    if run.files.verdict == "growth":
        figures = f"{run.descriptors[0]:,} -> {run.descriptors[-1]:,}"
        files = Finding.of(Cause.FILE_DESCRIPTORS, grows=True, details=figures, details_ja=figures)
        findings.append(files)
    if run.memory.verdict == "growth":
        findings.append(_cause(run, before, experiment))
    elif run.memory.verdict == "unclear" and not findings:
        findings.append(Finding.of(Cause.UNCLEAR, remedy=experiment))
    return findings


def _cause(run: _Run, before: dict[int, int], experiment: str) -> Finding:
    """The cause of growth: what gives memory back, or else the containers that have grown."""
    explained = _SHARE * (run.held[-1] - run.held[0])
    read = held_reader()
    held = read()
    trim_heap()
    trimmed = read()
    gc.collect()
    trim_heap()
    collected = read()
    containers = grown_containers(before, fewest=len(run.held) // 2)
    names = ", ".join(map(_describe, containers))
    size = sum(one.size_bytes for one in containers)
    if held - trimmed >= explained:
        return Finding.of(Cause.ALLOCATOR, grows=True, size_bytes=held - trimmed)
    if trimmed - collected >= explained:
        return Finding.of(Cause.PYTHON_OBJECTS, **_CYCLES, size_bytes=trimmed - collected)
    if containers and size >= explained:
        return Finding.of(Cause.PYTHON_OBJECTS, grows=True, details=names, details_ja=names)
    more = f"has grown, with entries that are small themselves: {names}" if names else ""
    more_ja = f"増えたコンテナはありますが、要素そのものは小さなものです: {names}" if names else ""
    return Finding.of(
        Cause.UNCLEAR,
        grows=True,
        details="neither a trim nor gc.collect() gives it back; "
        + (more or "no container has grown"),
        details_ja="トリムでも gc.collect() でも戻りません。"
        + (more_ja or "増えたコンテナはありません"),
        remedy=experiment,
    )


def _describe(container: Container) -> str:
    owner = f" in {container.owner}" if container.owner else ""
    size = format_mib(container.size_bytes)
    kind = f"{container.kind} of {container.entry_kind}"
    return f"{kind}{owner} +{container.more_entries:,} entries, about {size}"


def _experiment(function: Callable[[], object]) -> str:
    """The command that decides; with the function's own name, if it can be imported."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "<")
    is_importable = module and module != "__main__" and "<" not in name
    target = f"{module}:{name}" if is_importable else "your_module:function"
    return f"safe-embed doctor --target {target}"


def _message(run: _Run, findings: list[Finding]) -> str:
    """The figures, the causes and their remedies, in both languages."""
    memory = run.memory
    low, high = memory.low_bytes_per_call / 1e3, memory.high_bytes_per_call / 1e3
    slope = f"{memory.slope_bytes_per_call / 1e3:,.1f} kB"
    rise = format_mib(run.held[-1] - run.held[0])
    verdict, verdict_ja = _VERDICTS[memory.verdict]
    interval, interval_ja = f"{low:,.1f} to {high:,.1f} kB", f"{low:,.1f}〜{high:,.1f} kB"
    calls = f"{memory.calls:,}"
    words, words_ja = (
        "".join(f"\n{one.in_words(language)}\n    {one.remedy}" for one in findings)
        for language in ("en", "ja")
    )
    return both(
        f"{verdict}: {slope} a call (95 % interval {interval}), {rise} in {calls} calls.{words}",
        f"{verdict_ja}: 1 回あたり {slope}（95 % 区間 {interval_ja}）、{calls} 回で {rise}。"
        f"{words_ja}",
    )
