"""What was done about memory: kept for ``stats``, and told to hooks."""

from __future__ import annotations

import logging
import weakref
from collections import deque
from collections.abc import Iterable, Iterator

from safe_embed.memory.types import Event, Hook, Rung

logger = logging.getLogger("safe_embed")

_KEPT_EVENTS = 100


class HookList:
    """Hooks as their encoder holds them.

    A hook may be a method of the object that owns the encoder. If the thread of the encoder held it
    as well, neither that object nor the encoder would ever be dropped.

    Args:
        hooks: Functions that receive each event.
    """

    def __init__(self, hooks: Iterable[Hook]) -> None:
        self._hooks = tuple(hooks)

    def __iter__(self) -> Iterator[Hook]:
        """Give the hooks in order."""
        return iter(self._hooks)

    def weakly(self) -> Iterable[Hook]:
        """Give the same hooks, for a thread to hold.

        Returns:
            An iterable that is empty as soon as this list is gone.
        """
        return _WeakHooks(self)


class _WeakHooks:
    def __init__(self, hooks: HookList) -> None:
        self._hooks = weakref.ref(hooks)

    def __iter__(self) -> Iterator[Hook]:
        return iter(self._hooks() or ())


class EventLog:
    """The last hundred events.

    Args:
        hooks: Functions that receive each event.

    Attributes:
        events: The last hundred, oldest first.
    """

    def __init__(self, hooks: Iterable[Hook]) -> None:
        self.events: deque[Event] = deque(maxlen=_KEPT_EVENTS)
        self._hooks = hooks

    def add(self, event: Event) -> None:
        """Keep an event, and tell it; a hook that fails stops nothing.

        Args:
            event: What was done.
        """
        self.events.append(event)
        for hook in self._hooks:
            try:
                hook(event)
            except BaseException:  # SystemExit too: a hook ends nothing
                logger.warning("a hook failed", exc_info=True)


def log_event(event: Event) -> None:
    """Write an event to the log: trims at DEBUG, as there are many; what failed at WARNING.

    Args:
        event: What was done about memory.
    """
    level = logging.INFO if event.kind == "remedy" else logging.WARNING
    if event.rung == Rung.TRIM:
        level = logging.DEBUG
    logger.log(level, "%s", event)
