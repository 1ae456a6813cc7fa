"""Another process in the place of this one: how far that is, and how long it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum, auto

from safe_embed.memory.types import Reason

# How much longer than this process another one may take to start, until one has been seen to start:
# it loads at low priority. Beside a caller that never pauses it took six times as long (2 cores).
_LEAD = 3.0
# And how much longer than the one before it, once that was seen: what it meets varies.
_KNOWN_LEAD = 2.0


class Replacement(Enum):
    """How far the replacement of this process by another one is."""

    NONE = auto()
    REQUESTED = auto()
    FAILED = auto()


class Handover:
    """Asks for another process, and waits for it.

    Args:
        request: Asks for another process and says why; ``None`` where there is none.
        load_seconds: How long this process took to load its model.

    Attributes:
        lead_seconds: How long another process may take to take over.
    """

    def __init__(self, request: Callable[[Reason], None] | None, load_seconds: float) -> None:
        self._request = request
        self._state = Replacement.NONE
        self._error: BaseException | None = None
        self.lead_seconds = _LEAD * load_seconds

    @property
    def is_possible(self) -> bool:
        """Whether there can be another process."""
        return self._request is not None

    @property
    def is_requested(self) -> bool:
        """Whether another process was asked for, and neither took over nor failed yet."""
        return self._state is Replacement.REQUESTED

    def expect(self, lead_seconds: float) -> None:
        """Take note of how long a process waited for its replacement.

        Args:
            lead_seconds: How long the process before this one waited for this one.
        """
        self.lead_seconds = _KNOWN_LEAD * lead_seconds

    def failed(self, error: BaseException) -> None:
        """Take note that the other process could not be started.

        Args:
            error: Why.
        """
        self._state, self._error = Replacement.FAILED, error

    def replace(self, reason: Reason) -> Iterator[None]:
        """Ask the encoder's process for a new worker process in the place of this one.

        Args:
            reason: Why this process is to be replaced.

        Yields:
            ``None``, again and again while the new process loads. Once it has the model, it takes
            the calls, and this process is ended from outside.

        Raises:
            BaseException: The error that kept the new process from starting or loading; this
                process goes on.
        """
        self._state = Replacement.REQUESTED
        if self._request is not None:
            self._request(reason)
        while self.is_requested:
            yield
        self._state = Replacement.NONE
        if self._error is not None:
            raise self._error
