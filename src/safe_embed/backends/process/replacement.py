"""Workers that are to be replaced: which, why, and whose turn it is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from safe_embed.backends.calls import settle
from safe_embed.backends.process.slots import Slot
from safe_embed.backends.process.worker_handle import UNKNOWN, WorkerHandle
from safe_embed.memory.types import MemorySample, Reason


@dataclass(slots=True, eq=False)
class Replacement:
    """A worker is to be replaced.

    Attributes:
        slot: Its slot.
        worker: The worker that was active there when the replacement was requested.
        reason: Why.
        future: Is done when another worker is active; ``None`` where the worker itself has asked,
            which reports what became of it.
        before: What the process held when the turn came.
        since: When that was, in seconds on the dispatcher's clock.
        is_drained: Whether there was no room for two, so that the old worker had to go first.
    """

    slot: Slot
    worker: WorkerHandle | None
    reason: Reason
    future: Future[Any] | None = None
    before: MemorySample = UNKNOWN
    since: float = 0.0
    is_drained: bool = False

    def end(self, error: BaseException | None = None) -> None:
        """Let the caller know that another worker is active, or why not.

        Args:
            error: Why not.
        """
        if self.future is not None:
            settle(self.future, error=error)


class Replacements:
    """Replacements in the order of their requests, one at a time.

    Attributes:
        current: The replacement that is under way.
    """

    def __init__(self) -> None:
        self.current: Replacement | None = None
        self._waiting: deque[Replacement] = deque()

    def __bool__(self) -> bool:
        """Whether any is under way or waits."""
        return self.current is not None or bool(self._waiting)

    def add(self, replacement: Replacement) -> None:
        """Let a replacement wait for its turn.

        Args:
            replacement: The replacement.
        """
        self._waiting.append(replacement)

    def includes(self, worker: WorkerHandle) -> bool:
        """Tell whether a worker is to be replaced already.

        Args:
            worker: The worker.

        Returns:
            Whether it is.
        """
        known = [*self._waiting] if self.current is None else [self.current, *self._waiting]
        return any(replacement.worker is worker for replacement in known)

    def next(self, now: float) -> Replacement | None:
        """Begin the next replacement, if none is under way.

        A slot where another worker has become active since the request needs none.

        Args:
            now: In seconds on the dispatcher's clock.

        Returns:
            The replacement; ``None`` if there is nothing to begin.
        """
        while self.current is None and self._waiting:
            replacement = self._waiting.popleft()
            active = replacement.slot.active
            if active is not None and active is not replacement.worker:
                replacement.end()
                continue
            replacement.since = now
            self.current = replacement
            return replacement
        return None

    def take(self, slot: Slot) -> Replacement | None:
        """Take the replacement that is under way, if it is in this slot.

        Args:
            slot: The slot.

        Returns:
            The replacement, which is under way no more; ``None`` if it is elsewhere.
        """
        current = self.current
        if current is None or current.slot is not slot:
            return None
        self.current = None
        return current

    def fail_all(self, error: Callable[[], BaseException]) -> None:
        """End all replacements with an error.

        Args:
            error: Makes it.
        """
        ended = [*self._waiting] if self.current is None else [self.current, *self._waiting]
        self.current = None
        self._waiting.clear()
        for replacement in ended:
            replacement.end(error())
