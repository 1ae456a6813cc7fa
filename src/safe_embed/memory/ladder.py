"""The ladder of remedies, climbed towards a bound.

One rung after the other, cheapest first; it remembers how far it had to go. It knows no model: the
higher rungs are given to it.
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


# A trim may take one part in a hundred of the time.
_COST_FACTOR = 100


# A failed rung is tried again after half a minute, then ever more rarely, at last once an hour.
_FIRST_RETRY_SECONDS = 30.0


_LAST_RETRY_SECONDS = 3600.0


_MOST_DOUBLINGS = 10  # and no more: 2 ** 1024 is no float


# After each miss in a row the process must have grown by more before the next: 10, 20, 40 %. Near a
# limit it is 10 % each time.
_MOST_MARGIN_DOUBLINGS = 2


# How much a process must grow beyond what a trim could reach before it is trimmed again.
_TRIM_MARGIN_BYTES = 4 * 2**20


class BelowNeed(NamedTuple):
    """A bound that a new process does not keep is reported once, and known to all later ones.

    Attributes:
        floor_bytes: What such a process held.
        times: How often in a row processes were replaced for such a bound.
    """

    floor_bytes: int
    times: int


class Miss(NamedTuple):
    """A climb that took every rung it was allowed, and did not get under its bound.

    Attributes:
        bound_bytes: The bound.
        held_bytes: What the process held when the climb ended.
        floor_bytes: What the process holds at least, as far as is known.
        seconds: When the climb ended, on the ladder's clock.
        times: How often in a row.
        is_cured: Whether a rung above those of the climb helped since.
    """

    bound_bytes: int
    held_bytes: int
    floor_bytes: int
    seconds: float
    times: int = 1
    is_cured: bool = False


class Ladder:
    """Climbs from remedy to remedy until a bound is kept.

    Args:
        remedies: What to do at each rung. One that must wait for something is a generator, and is
            driven on while it waits.
        measure: Takes a fresh sample.
        tell: Is told of every step.
        clock: Seconds; for tests.
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
        # By the highest rung of a reason: which rung worked, and which bound was missed.
        self._learned: dict[Rung, Rung] = {}
        self._misses: dict[Rung, Miss] = {}
        self._failures: dict[Rung, int] = {}
        self._not_before: dict[Rung, float] = {}

    def climb(self, reason: Reason, seen: MemorySample | None = None) -> Iterator[None]:
        """Do what *reason* asks for, and report each step; pause while a rung waits.

        A rung that fails is reported and tried again later, with back-off; the climb goes on. A
        bound that the highest rung does not reach is reported once, and obeyed again only when
        the process has grown further, or a rung that failed may be tried again. *seen* is the
        sample that gave the reason; without it one is taken.
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
        """Take it as known that this rung helps, and cheaper ones but for the trim do not."""
        self._learned[rung] = rung

    def miss(self, reason: Reason, sample: MemorySample, rung: Rung) -> None:
        """Note, and report, that nothing up to *rung* leads below the bound of *reason*."""
        held, at_most = sample.held_bytes, reason.at_most
        if held is None or reason.bound_bytes is None:
            return
        before = self._misses.get(at_most)
        times = 1 if before is None or before.is_cured else before.times + 1
        self._misses[at_most] = Miss(reason.bound_bytes, held, held, self._clock(), times)
        if at_most > Rung.TRIM:
            self._tell(Event("unreached", reason.text, rung, sample, sample, 0.0))

    def expect_miss(self, at_most: Rung, floor_bytes: int, times: int) -> None:
        """Take it as known that no rung up to *at_most* leads below a floor."""
        self._misses[at_most] = Miss(0, floor_bytes, floor_bytes, -math.inf, times)

    def look(self, sample: MemorySample, *, need_bytes: float = 0) -> None:
        """Take note of what is held between two climbs.

        Less than a floor: the floor falls. Much less than when a bound was missed, though nothing
        was done about it: it was missed for something that is gone, and is obeyed again at once.
        A new model takes back what it needs to work, *need_bytes*: floors rise up to that.
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
        """Highest rung that was allowed -> when such a climb missed its bound."""
        now = self._clock()
        return {
            at_most: Missed(now - miss.seconds, miss.held_bytes)
            for at_most, miss in self._misses.items()
        }

    @property
    def highest_rung(self) -> Rung:
        """The highest rung that there is."""
        return max(self._remedies, default=Rung.TRIM)

    def take(
        self,
        rung: Rung,
        text: str,
        before: MemorySample | None = None,
        remedy: Remedy | None = None,
    ) -> Generator[None, None, tuple[MemorySample, BaseException | None]]:
        """Take one rung now, even if it failed a moment ago, and report it.

        *text* says why, *before* is a sample just taken, if there is one, and *remedy* what to do
        instead of the usual. Gives a sample taken after it, and what made it fail, if anything.
        """
        before = before or self._measure()
        started = self._clock()
        error: BaseException | None = None
        try:
            waiting = (remedy or self._remedies[rung])()
            if waiting is not None:
                yield from waiting
        except (Exception, SystemExit) as raised:  # a loader is code of the user's own
            logger.debug("the failed rung", exc_info=True)
            error = raised.with_traceback(None)  # its frames hold the model that was refused
        seconds = self._clock() - started
        self._schedule(rung, seconds, failed=error is not None)
        after = self._measure()
        self._lower_floors(after, rung)
        if error is None:
            self._tell(Event("remedy", text, rung, before, after, seconds))
        else:
            self._tell(Event("failed", text, rung, before, after, seconds, type(error).__name__))
        return after, error

    def _route(self, reason: Reason) -> list[Rung]:
        """List the rungs to take: cheapest first; those that did not help last time come last."""
        now = self._clock()
        open_rungs = [
            rung for rung in sorted(self._remedies) if now >= self._not_before.get(rung, now)
        ]
        if reason.rung is not None:
            return [rung for rung in open_rungs if rung == reason.rung]
        learned = self._learned.get(reason.at_most, Rung.TRIM)
        if learned not in open_rungs:  # what helped last time cannot now
            learned = Rung.TRIM
        allowed = [rung for rung in open_rungs if rung <= reason.at_most]
        return sorted(allowed, key=lambda rung: (Rung.TRIM < rung < learned, rung))

    def _schedule(self, rung: Rung, seconds: float, *, failed: bool) -> None:
        """Say when a rung may be taken next."""
        self._failures[rung] = self._failures.get(rung, 0) + 1 if failed else 0
        if failed:
            doublings = min(self._failures[rung] - 1, _MOST_DOUBLINGS)
            wait = min(_FIRST_RETRY_SECONDS * 2**doublings, _LAST_RETRY_SECONDS)
        else:
            wait = seconds * _COST_FACTOR if rung == Rung.TRIM else 0.0
        self._not_before[rung] = self._clock() + wait

    def is_hopeless(self, reason: Reason, sample: MemorySample) -> bool:
        """Whether this bound was out of reach, and the process has hardly grown since."""
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
        """Remember which rung led below a bound."""
        self._learned[at_most] = rung
        self._misses.pop(at_most, None)

    def _lower_floors(self, sample: MemorySample, rung: Rung) -> None:
        """Forget that less could not be had, where less is held after *rung*."""
        held = sample.held_bytes
        if held is None:
            return
        for at_most, miss in self._misses.items():
            floor = min(miss.floor_bytes, held)
            is_cured = miss.is_cured or (rung > at_most and held <= miss.bound_bytes)
            self._misses[at_most] = miss._replace(floor_bytes=floor, is_cured=is_cured)

    def _may_retry(self, at_most: Rung) -> bool:
        """Whether a rung that failed, and might have reached the bound, has waited long enough."""
        now = self._clock()
        return any(
            failures and rung <= at_most and now >= self._not_before[rung]
            for rung, failures in self._failures.items()
        )


def is_kept(reason: Reason, sample: MemorySample) -> bool:
    """Tell whether the bound of a reason is kept.

    Args:
        reason: The reason; without a bound there is nothing to keep.
        sample: What the process holds; without a figure nothing can be said against it.

    Returns:
        Whether it is.
    """
    if reason.bound_bytes is None or sample.held_bytes is None:
        return True
    return sample.held_bytes <= reason.bound_bytes
