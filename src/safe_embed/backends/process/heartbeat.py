"""Worker processes that do not work: stopped, stuck, or too long at one task.

A worker is asked for an answer again and again, except during a task, which has a deadline. A
thread of its own answers, also while the worker loads or looks after memory; a process that is
stopped does not. Whatever a worker says, and whatever it takes of a large message, is an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

# A shorter limit would kill workers that only wait for a processor.
LEAST_SECONDS = 5.0
# While a worker loads, native code may keep all of its threads waiting: the import of torch does.
LOADING_SECONDS = 60.0
# How often a worker is asked within the limit. The last of them falls together with the limit.
_LOOKS = 4
# A dispatcher that wakes so late was stopped itself, or held up by a hook.
_LATE_SECONDS = 1.0


class Heartbeat:
    """Tells whether a process still runs.

    Args:
        moved_bytes: Gives how many bytes have come from the process, or were taken by it.
        ask: Asks the process for an answer.
    """

    def __init__(self, moved_bytes: Callable[[], int], ask: Callable[[], None]) -> None:
        self._moved_bytes = moved_bytes
        self._ask = ask
        self._seen_bytes = -1
        self._silent_since = 0.0
        self._looked_at: float | None = None

    def next_look(self, limit_seconds: float) -> float:
        """Tell when to look at the process again.

        Args:
            limit_seconds: How long it may be silent.

        Returns:
            The time, on the clock of :meth:`is_silent`.
        """
        return 0.0 if self._looked_at is None else self._looked_at + limit_seconds / _LOOKS

    def is_silent(self, now: float, limit_seconds: float) -> bool:
        """Look at the process if it is time to, and ask it for an answer.

        Args:
            now: The time in seconds.
            limit_seconds: How long the process may be silent.

        Returns:
            Whether it was silent for so long.
        """
        if now < self.next_look(limit_seconds):
            return False
        self._looked_at = now
        moved = self._moved_bytes()
        if moved != self._seen_bytes:
            self._seen_bytes, self._silent_since = moved, now
        # It was heard at any time before the look that noticed it, as long ago as the look before.
        if now - self._silent_since >= limit_seconds * (1 - 1 / _LOOKS):
            return True
        self._ask()
        return False

    def postpone(self, seconds: float) -> None:
        """Leave out a time in which nobody could hear the process.

        Args:
            seconds: How long that was.
        """
        self._silent_since += seconds


class Watched(Protocol):
    """What a :class:`HangWatch` needs of a worker."""

    deadline: float | None
    heartbeat: Heartbeat

    @property
    def is_loaded(self) -> bool:
        """Whether the worker has its model."""
        ...

    def kill(self, reason: str) -> None:
        """Kill the process."""
        ...


class HangWatch:
    """Kills worker processes that hang.

    Args:
        clock: The time in seconds.
        timeout_seconds: How long a task may take, and how long a worker may be silent without one;
            ``None`` for ever.
    """

    def __init__(self, clock: Callable[[], float], timeout_seconds: float | None) -> None:
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._planned: float | None = None

    def kill_hanging(self, workers: Iterable[Watched]) -> None:
        """Kill the workers whose time is over.

        Args:
            workers: All workers.
        """
        if self._timeout_seconds is None:
            return
        now = self._clock()
        late = 0.0 if self._planned is None else now - self._planned
        for worker in workers:
            if late > _LATE_SECONDS:
                _postpone(worker, late + _LATE_SECONDS)
            limit = self._limit(worker)
            if worker.deadline is not None:
                if now >= worker.deadline:
                    worker.kill(f"a task took longer than {self._timeout_seconds:g} s")
            elif worker.heartbeat.is_silent(now, limit):
                worker.kill(f"it has not answered for {limit:g} s, as if it was stopped")

    def next_look(self, workers: Iterable[Watched]) -> float | None:
        """Tell when to look again.

        Args:
            workers: All workers.

        Returns:
            The time on the clock; ``None`` for never.
        """
        self._planned = None
        if self._timeout_seconds is not None:
            times = [
                worker.heartbeat.next_look(self._limit(worker))
                if worker.deadline is None
                else worker.deadline
                for worker in workers
            ]
            self._planned = max(min(times), self._clock()) if times else None
        return self._planned

    def _limit(self, worker: Watched) -> float:
        least = LEAST_SECONDS if worker.is_loaded else LOADING_SECONDS
        return max(least, self._timeout_seconds or 0.0)


def _postpone(worker: Watched, seconds: float) -> None:
    """What this process slept through counts against no worker."""
    if worker.deadline is not None:
        worker.deadline += seconds
    worker.heartbeat.postpone(seconds)
