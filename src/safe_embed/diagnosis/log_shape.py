"""What a memory log tells: the shape of its curve, and which other values rise with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from safe_embed.diagnosis.growth import FEWEST_CALLS, TOLERANCE_BYTES, Growth, judge
from safe_embed.diagnosis.log_file import Log
from safe_embed.diagnosis.readings import Reading
from safe_embed.diagnosis.verdicts import Cause, Finding

# No passive measurement separates a leak from a cache that still fills.
_EXPERIMENT = "safe-embed doctor --target your_module:function  # experiments decide the cause"
# A pool of connections or threads may open so many at once, in the second half of the log.
_TOLERANCE_DESCRIPTORS = 16
_TOLERANCE_THREADS = 8
# Free blocks explain growth if they rise at least half as fast.
_SHARE = 0.5


class _Curve(NamedTuple):
    """Values of the readings that have them, evenly spaced, and the judgement of them."""

    values: tuple[float, ...]
    growth: Growth
    hours: float
    calls: int

    @property
    def calls_per_reading(self) -> float:
        return self.calls / (len(self.values) - 1)


def shape_of(log: Log, tolerance_bytes: float = TOLERANCE_BYTES) -> list[Finding]:
    """Name what a memory log shows.

    No log tells a leak from a cache that still fills at a constant rate. Growth of RssAnon is
    therefore an alarm of unclear cause, with its rate, unless free blocks of the C heap rise as
    fast. Pages of mapped files, file descriptors and threads have curves of their own.

    Args:
        log: The log; see :func:`safe_embed.diagnosis.read_log`.
        tolerance_bytes: A rise over the second half of the log that is not growth yet.

    Returns:
        The findings; the first is about RssAnon.

    Raises:
        ConfigError: If the tolerance is not positive.
        MissingExtraError: If scipy or pymannkendall is not installed.
    """
    readings = _after_calls(log.readings) if log.each_call else log.readings
    memory = _curve(readings, lambda one: one.rss_anon_bytes, tolerance_bytes)
    if memory is None:
        return [_too_short(0)]
    heap = _curve(log.readings, lambda one: one.heap_kept_bytes, tolerance_bytes)
    findings = [_of_memory(memory, heap, tolerance_bytes)]
    if memory.growth.verdict in {"flat", "plateau"}:
        findings += _paged_in(log.readings, tolerance_bytes)
    return findings + _descriptors(log.readings) + _threads(log.readings, memory)


def _after_calls(readings: Sequence[Reading]) -> list[Reading]:
    """Of each number of calls the first reading: it was taken when the call ended."""
    first: dict[int, Reading] = {}
    for reading in readings:
        if reading.calls:
            first.setdefault(reading.calls, reading)
    return list(first.values())


def _curve(
    readings: Sequence[Reading], value: Callable[[Reading], float | None], tolerance: float
) -> _Curve | None:
    """The curve of one value; ``None`` if fewer than two readings have it."""
    known = [(one, found) for one in readings if (found := value(one)) is not None]
    if len(known) < 2:  # noqa: PLR2004 a curve has two ends
        return None
    values = tuple(found for _, found in known)
    (first, _), (last, _) = known[0], known[-1]
    return _Curve(
        values,
        judge(values, tolerance),
        hours=(last.elapsed_seconds - first.elapsed_seconds) / 3600,
        calls=(last.calls or 0) - (first.calls or 0),
    )


def _of_memory(memory: _Curve, heap: _Curve | None, tolerance_bytes: float) -> Finding:
    growth = memory.growth
    readings = f"{growth.calls:,} readings in {memory.hours:,.1f} hours"
    readings_ja = f"{memory.hours:,.1f} 時間に {growth.calls:,} 回の測定"
    if growth.verdict == "flat":
        return Finding.of(Cause.FLAT, details=readings, details_ja=readings_ja)
    if growth.verdict == "plateau":
        return Finding.of(
            Cause.PLATEAU,
            size_bytes=growth.plateau_bytes,
            details=f"{readings}, reached after {growth.plateau_calls:,} of them",
            details_ja=f"{readings_ja}、{growth.plateau_calls:,} 回目で到達",
        )
    if growth.verdict == "unclear":
        return _too_short(growth.calls)
    rate = growth.slope_bytes_per_call * (growth.calls - 1) / memory.hours if memory.hours else 0
    per_hour = f"{rate / 1e6:,.1f} MB"
    figures = {
        "grows": True,
        "size_bytes": memory.values[-1] - memory.values[len(memory.values) // 2],
        "bytes_per_call": growth.slope_bytes_per_call / memory.calls_per_reading
        if memory.calls
        else None,
        "details": f"RssAnon grows by {per_hour} an hour; the second half of {readings}",
        "details_ja": f"RssAnon は 1 時間に {per_hour} 増加。{readings_ja}の後半",
    }
    if heap is not None and _rate(heap, tolerance_bytes) >= _SHARE * _rate(memory, tolerance_bytes):
        return Finding.of(Cause.ALLOCATOR, **figures)
    return Finding.of(Cause.UNCLEAR, **{**figures, "remedy": _EXPERIMENT})


def _rate(curve: _Curve, tolerance_bytes: float) -> float:
    """Rise over the log, from the slope of its second half; 0 if that is no more than noise."""
    rise = curve.growth.slope_bytes_per_call * len(curve.values)
    return rise if rise > tolerance_bytes and curve.growth.low_bytes_per_call > 0 else 0.0


def _too_short(readings: int) -> Finding:
    needed = max(FEWEST_CALLS, 2 * readings)
    return Finding.of(
        Cause.UNCLEAR,
        details=f"{readings:,} readings; judge the log again when it has {needed:,}",
        details_ja=f"測定 {readings:,} 回。{needed:,} 回になったら、もう一度判定してください",
        remedy=_EXPERIMENT,
    )


def _paged_in(readings: Sequence[Reading], tolerance_bytes: float) -> list[Finding]:
    known = [one.rss_file_bytes for one in readings if one.rss_file_bytes is not None]
    # What is loaded in the first fifth is the warm-up of any process.
    rise = known[-1] - known[len(known) // 5] if known else 0
    return [Finding.of(Cause.PAGED_IN, size_bytes=rise)] if rise > tolerance_bytes else []


def _descriptors(readings: Sequence[Reading]) -> list[Finding]:
    curve = _curve(readings, lambda one: one.file_descriptors, _TOLERANCE_DESCRIPTORS)
    if curve is None or curve.growth.verdict != "growth":
        return []
    figures = f"{curve.values[0]:,} -> {curve.values[-1]:,}"
    return [Finding.of(Cause.FILE_DESCRIPTORS, grows=True, details=figures, details_ja=figures)]


def _threads(readings: Sequence[Reading], memory: _Curve) -> list[Finding]:
    curve = _curve(readings, lambda one: one.native_threads, _TOLERANCE_THREADS)
    if curve is None or curve.growth.verdict != "growth":
        return []
    counts = [one.python_threads for one in readings if one.python_threads is not None]
    more = (
        {name: now - counts[0].get(name, 0) for name, now in counts[-1].items()} if counts else {}
    )
    names = ", ".join(f"{name} +{number}" for name, number in more.items() if number > 0)
    figures = f"{curve.values[0]:,} -> {curve.values[-1]:,}"
    return [
        Finding.of(
            Cause.CALLING_THREADS,
            grows=memory.growth.verdict == "growth",
            details=f"native threads {figures}; Python threads: {names or 'no more'}",
            details_ja=f"スレッド {figures}。Python のスレッド: {names or '増加なし'}",
        )
    ]
