"""What was done about memory: kept for ``stats``, and told to hooks."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

from safe_embed.memory.types import Event, Hook, Rung

logger = logging.getLogger("safe_embed")

_KEPT_EVENTS = 100


class EventLog:
    """The last hundred events.

    Args:
        hooks: Functions that receive each event.

    Attributes:
        events: The last hundred, oldest first.
    """

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self.events: deque[Event] = deque(maxlen=_KEPT_EVENTS)
        self._hooks = tuple(hooks)

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
