"""The ladder of remedies, climbed towards a bound.

One rung after the other, cheapest first; the ladder remembers how far it had to go. It knows no
model: the higher rungs are passed to it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import NamedTuple

from safe_embed.memory.types import Event, MemorySample, Missed, Reason, Rung

logger = logging.getLogger("safe_embed")


Remedy = Callable[[], Iterator[None] | None]


# After a trim, wait 100 times as long as it took: trims take at most 1 % of the time.
_COST_FACTOR = 100


# A failed rung is retried after 30 s; the wait doubles after each further failure, up to an hour.
_FIRST_RETRY_SECONDS = 30.0


_LAST_RETRY_SECONDS = 3600.0


_MOST_DOUBLINGS = 10  # so that 2 ** doublings never overflows a float


# After each consecutive miss the process must have grown by more before the next climb: by 10, 20,
# 40 %. Near a limit it is 10 % each time.
_MOST_MARGIN_DOUBLINGS = 2


# Growth, since a trim missed its bound, from which on the process is trimmed again.
_TRIM_MARGIN_BYTES = 4 * 2**20


class BelowNeed(NamedTuple):
    """A record that even a new worker process exceeds the bound; later processes inherit it.

    Attributes:
        floor_bytes: Memory that such a process held.
        times: Number of consecutive processes that were replaced for such a bound.
    """

    floor_bytes: int
    times: int


class Miss(NamedTuple):
    """A climb that took every allowed rung and still exceeded its bound.

    Attributes:
        bound_bytes: The bound.
        held_bytes: Memory that the process held when the climb ended.
        floor_bytes: The least memory that the process is known to reach with the allowed rungs.
        seconds: Time when the climb ended, on the ladder's clock.
        times: Number of consecutive misses.
        is_cured: Whether a rung above the allowed ones has reached the bound since.
    """

    bound_bytes: int
    held_bytes: int
    floor_bytes: int
    seconds: float
    times: int = 1
    is_cured: bool = False


class Ladder:
    """Takes rungs, cheapest first, until a memory bound is kept.

    Args:
        remedies: The function of each available rung. It may return an iterator that yields while
            it waits, and ends when it is done.
        measure: Takes a new memory sample.
        tell: Receives an event for every rung that was taken, and for every bound that was missed.
        clock: Returns the time in seconds; tests replace it.
    """

    def __init__(
        self,
        remedies: Mapping[Rung, Remedy],
        measure: Callable[[], MemorySample],
        tell: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._remedies = remedies
        self._measure = measure
        self._tell = tell
        self._clock = clock
        # By ``Reason.at_most``: the rung that reached the bound last, and the last bound missed.
        self._learned: dict[Rung, Rung] = {}
        self._misses: dict[Rung, Miss] = {}
        self._failures: dict[Rung, int] = {}
        self._not_before: dict[Rung, float] = {}

    def climb(self, reason: Reason, seen: MemorySample | None = None) -> Iterator[None]:
        """Take rungs until the bound of *reason* is kept, or its single rung; report each.

        Yields while a rung waits. A rung that fails is reported, and retried later with back-off;
        the climb goes on. A bound that no rung reaches is reported once, and ignored until the
        process has grown further, or a failed rung may be retried. *seen* is the sample on which
        the reason is based; ``None`` takes one.
        """
        rungs = self._route(reason)
        if not rungs or self.is_hopeless(reason, seen or self._measure()):
            return
        sample: MemorySample | None = None
        for rung in rungs:
            sample, error = yield from self.take(rung, reason.text, sample)
            if is_kept(reason, sample):
                if error is None and reason.bound_bytes is not None:
                    self._reach(reason.at_most, rung)
                return
        if sample is not None:
            self.miss(reason, sample, max(rungs))

    def learn(self, rung: Rung) -> None:
        """In climbs with ``at_most=rung``, take *rung* right after the trim, before the others."""
        self._learned[rung] = rung

    def miss(self, reason: Reason, sample: MemorySample, rung: Rung) -> None:
        """Record and report that the rungs up to *rung* do not reach the bound of *reason*."""
        held, at_most = sample.held_bytes, reason.at_most
        if held is None or reason.bound_bytes is None:
            return
        earlier = self._misses.get(at_most)
        times = 1 if earlier is None or earlier.is_cured else earlier.times + 1
        self._misses[at_most] = Miss(reason.bound_bytes, held, held, self._clock(), times)
        if at_most > Rung.TRIM:
            self._tell(Event("unreached", reason.text, rung, sample, sample, 0.0))

    def expect_miss(self, at_most: Rung, floor_bytes: int, times: int) -> None:
        """Record, without a report, that no rung up to *at_most* gets below *floor_bytes*."""
        self._misses[at_most] = Miss(0, floor_bytes, floor_bytes, -math.inf, times)

    def forget(self, at_most: Rung) -> None:
        """Delete the record that the rungs up to *at_most* missed a bound, which others exceed."""
        self._misses.pop(at_most, None)

    def look(self, sample: MemorySample, *, need_bytes: float = 0) -> None:
        """Update the recorded misses by a sample taken between two climbs.

        Less memory than a floor lowers the floor. If the process holds 10 % less than when a bound
        was missed, or keeps the bound, the cause is gone: the miss is deleted. A new model needs
        *need_bytes* in use, so that the floors of ``Rung.MODEL`` and above are at least that, or
        what is held now if that is less.
        """
        held = sample.held_bytes
        if held is None:
            return
        for at_most, miss in tuple(self._misses.items()):
            is_gone = held <= max(miss.bound_bytes, miss.held_bytes - miss.held_bytes // 10)
            if is_gone and not miss.is_cured:
                del self._misses[at_most]
                continue
            floor = min(miss.floor_bytes, held)
            if at_most >= Rung.MODEL:
                floor = max(floor, int(min(held, need_bytes)))
            self._misses[at_most] = miss._replace(floor_bytes=floor)

    @property
    def missed(self) -> dict[Rung, Missed]:
        """``Reason.at_most`` -> the last climb with it that missed its bound."""
        now = self._clock()
        return {
            at_most: Missed(now - miss.seconds, miss.held_bytes)
            for at_most, miss in self._misses.items()
        }

    @property
    def highest_rung(self) -> Rung:
        """The highest available rung; ``Rung.TRIM`` if there are no remedies."""
        return max(self._remedies, default=Rung.TRIM)

    def take(
        self,
        rung: Rung,
        text: str,
        before: MemorySample | None = None,
        remedy: Remedy | None = None,
    ) -> Generator[None, None, tuple[MemorySample, BaseException | None]]:
        """Take one rung now, regardless of back-off, and report it. Yields while it waits.

        *text* is the reason for the event, *before* a recent sample (``None`` takes one), *remedy*
        a function to call instead of the rung's own. Returns a sample taken afterwards, and the
        exception if the rung failed, else ``None``. A trim that gave nothing back is no remedy, and
        is not reported. KeyboardInterrupt and the like pass through.
        """
        before = before or self._measure()
        started = self._clock()
        error: BaseException | None = None
        try:
            waiting = (remedy or self._remedies[rung])()
            if waiting is not None:
                yield from waiting
        except (Exception, SystemExit) as raised:  # a user's loader may raise anything
            logger.debug("rung %s failed", rung.name, exc_info=True)
            error = raised.with_traceback(None)  # its frames hold the rejected model
        seconds = self._clock() - started
        self._schedule(rung, seconds, failed=error is not None)
        after = self._measure()
        self._lower_floors(after, rung)
        if error is None and not _is_idle_trim(rung, before, after):
            self._tell(Event("remedy", text, rung, before, after, seconds))
        elif error is not None:
            self._tell(Event("failed", text, rung, before, after, seconds, type(error).__name__))
        return after, error

    def _route(self, reason: Reason) -> list[Rung]:
        """Return the rungs to take, in order: cheapest first; those that missed last time last."""
        now = self._clock()
        open_rungs = [
            rung for rung in sorted(self._remedies) if now >= self._not_before.get(rung, now)
        ]
        if reason.rung is not None:
            return [rung for rung in open_rungs if rung == reason.rung]
        learned = self._learned.get(reason.at_most, Rung.TRIM)
        if learned not in open_rungs:  # the rung that helped last time is not available now
            learned = Rung.TRIM
        allowed = [rung for rung in open_rungs if rung <= reason.at_most]
        return sorted(allowed, key=lambda rung: (Rung.TRIM < rung < learned, rung))

    def _schedule(self, rung: Rung, seconds: float, *, failed: bool) -> None:
        """Set the time from which on a climb may take a rung again."""
        self._failures[rung] = self._failures.get(rung, 0) + 1 if failed else 0
        if failed:
            doublings = min(self._failures[rung] - 1, _MOST_DOUBLINGS)
            wait = min(_FIRST_RETRY_SECONDS * 2**doublings, _LAST_RETRY_SECONDS)
        else:
            wait = seconds * _COST_FACTOR if rung == Rung.TRIM else 0.0
        self._not_before[rung] = self._clock() + wait

    def is_hopeless(self, reason: Reason, sample: MemorySample) -> bool:
        """Whether this bound or a higher one was missed, and the process has hardly grown since."""
        miss = self._misses.get(reason.at_most)
        if reason.bound_bytes is None or miss is None or sample.held_bytes is None:
            return False
        if reason.bound_bytes >= miss.floor_bytes or self._may_retry(reason.at_most):
            return False
        margin = miss.floor_bytes // 10
        if reason.at_most == Rung.TRIM:
            margin = _TRIM_MARGIN_BYTES
        elif not sample.is_near_limit:
            margin <<= min(miss.times - 1, _MOST_MARGIN_DOUBLINGS)
        return sample.held_bytes <= miss.floor_bytes + margin

    def _reach(self, at_most: Rung, rung: Rung) -> None:
        """Record that *rung* reached a bound, and delete the miss of *at_most*."""
        self._learned[at_most] = rung
        self._misses.pop(at_most, None)

    def _lower_floors(self, sample: MemorySample, rung: Rung) -> None:
        """Lower the floors to what *sample* holds; mark the misses that *rung* has cured."""
        held = sample.held_bytes
        if held is None:
            return
        for at_most, miss in self._misses.items():
            floor = min(miss.floor_bytes, held)
            is_cured = miss.is_cured or (rung > at_most and held <= miss.bound_bytes)
            self._misses[at_most] = miss._replace(floor_bytes=floor, is_cured=is_cured)

    def _may_retry(self, at_most: Rung) -> bool:
        """Whether the back-off of a failed rung up to *at_most* is over."""
        now = self._clock()
        return any(
            failures and rung <= at_most and now >= self._not_before[rung]
            for rung, failures in self._failures.items()
        )


def _is_idle_trim(rung: Rung, before: MemorySample, after: MemorySample) -> bool:
    """Whether a trim gave nothing back, as where an allocator keeps all it has: no remedy."""
    held, held_after = before.held_bytes, after.held_bytes
    if rung != Rung.TRIM or held is None or held_after is None:
        return False
    return held_after >= held


def is_kept(reason: Reason, sample: MemorySample) -> bool:
    """Tell whether a process keeps the bound of a reason.

    Args:
        reason: The reason.
        sample: A measurement of the process.

    Returns:
        Whether ``sample.held_bytes`` is at most the bound; ``True`` if either is ``None``.
    """
    if reason.bound_bytes is None or sample.held_bytes is None:
        return True
    return sample.held_bytes <= reason.bound_bytes
