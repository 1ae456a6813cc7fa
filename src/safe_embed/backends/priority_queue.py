"""A queue by priority, and within a priority in order of arrival."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

# With fewer items than this, those that are gone are not worth a look.
_FEWEST_TO_PURGE = 64


class PriorityQueue(Generic[T]):
    """Items that wait, highest priority first; those that have gone away in between are dropped.

    Args:
        is_gone: Whether an item waits no longer, such as a call that was cancelled.
    """

    def __init__(self, is_gone: Callable[[T], bool]) -> None:
        self._is_gone = is_gone
        self._heap: list[tuple[int, int, T]] = []
        self._numbers = itertools.count()
        self._purge_at = _FEWEST_TO_PURGE

    def push(self, item: T, priority: int) -> None:
        """Let an item wait behind all others of its priority.

        Args:
            item: The item.
            priority: Its priority; higher is earlier.
        """
        heapq.heappush(self._heap, (-priority, next(self._numbers), item))
        # Otherwise items of a low priority that were given up would stay as long as others come.
        if len(self._heap) >= self._purge_at:
            self._heap = [entry for entry in self._heap if not self._is_gone(entry[2])]
            heapq.heapify(self._heap)
            self._purge_at = max(_FEWEST_TO_PURGE, 2 * len(self._heap))

    @property
    def first(self) -> T | None:
        """The item whose turn it is; ``None`` if nothing waits."""
        while self._heap and self._is_gone(self._heap[0][2]):
            heapq.heappop(self._heap)
        return self._heap[0][2] if self._heap else None

    def pop(self) -> T:
        """Take out the item whose turn it is.

        Returns:
            The item that :attr:`first` has shown.
        """
        return heapq.heappop(self._heap)[2]
