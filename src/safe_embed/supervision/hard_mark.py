"""The moment when calls must wait for memory, looked for after every task."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from safe_embed.memory.hard_limit import HardLimit
from safe_embed.memory.limits import room_beside
from safe_embed.memory.sizes import format_mib
from safe_embed.memory.types import MemorySample, Reason, Usage

logger = logging.getLogger("safe_embed")

# Of so many tasks the largest growth is what the next one may add: a peak of long ago says nothing.
_RECENT_TASKS = 16


class HardMark:
    """Tells when a process holds so much that no further task may begin.

    Args:
        limit: How much that is.
        loaded: What the process held when its model was loaded.
    """

    def __init__(self, limit: HardLimit, loaded: MemorySample) -> None:
        self._limit = limit
        self._growths: deque[int] = deque(maxlen=_RECENT_TASKS)
        self._before = loaded
        self._ceiling = math.inf
        self.loaded(loaded)

    def loaded(self, sample: MemorySample) -> None:
        """Take note of a model that was loaded.

        Args:
            sample: What the process holds with it.
        """
        self._loaded_bytes = sample.held_bytes or 0

    def task_begins(self, sample: MemorySample) -> None:
        """Take note of what is held before a task.

        Args:
            sample: A measurement.
        """
        self._before = sample

    def task_ended(self, sample: MemorySample) -> int:
        """Take note of what is held after a task.

        Args:
            sample: A measurement; of a task that was too short for one, that before it.

        Returns:
            How much more that is than before the task, in bytes.
        """
        if sample is self._before:
            return 0
        growth = (sample.held_bytes or 0) - (self._before.held_bytes or 0)
        self._growths.append(max(0, growth))
        self._before = sample
        return growth

    def reserve(self, sample: MemorySample, load_bytes: int) -> None:
        """Keep room for a model that is about to be loaded beside this one, while calls go on.

        Args:
            sample: A measurement.
            load_bytes: What a load takes.
        """
        room = room_beside(load_bytes, self._limit.room_bytes(sample, self._batch_bytes))
        # Without such room the model is not loaded beside this one, but after it.
        self._ceiling = (sample.held_bytes or 0) + room if room > 0 else math.inf

    def release(self) -> None:
        """Give the room for the other model free: it was loaded, or could not be."""
        self._ceiling = math.inf

    def reason(self, usage: Usage) -> Reason | None:
        """Tell whether calls must wait, and what for.

        Args:
            usage: Counts and measurements of the loaded model.

        Returns:
            A reason with the bound under which the process must come; ``None`` if calls may go on.
        """
        held = usage.sample.held_bytes
        if held is not None and held > self._ceiling:
            text = f"{format_mib(held)} held, the rest is kept for the model that loads"
            return Reason(text, bound_bytes=int(self._ceiling))
        return self._limit.reason(usage, self._loaded_bytes, self._batch_bytes)

    @property
    def _batch_bytes(self) -> int:
        """What a task is expected to add at most."""
        return max(self._growths, default=0)


@contextmanager
def no_call_fails() -> Iterator[None]:
    """Log an error of a look at memory: the call that is under way goes on.

    Yields:
        Nothing.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 the system's files, or a sampler of a test
        logger.warning("memory could not be looked at: %s", type(error).__name__)
