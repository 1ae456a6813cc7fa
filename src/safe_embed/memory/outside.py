"""What this process holds outside its encoders: one view of it for all of them."""

from __future__ import annotations

import threading

# So much more than was reported before is reported again.
_NEWS = 0.1
# What the process holds varies by so much from one look to the next.
_SAME = 0.02


class ProcessView:
    """What encoders of this process have found to be held outside them.

    A second encoder, a data frame or a store makes the process grow for each encoder; one of them
    reports it, and what one could not give back with a fresh model the others need not try.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reported_bytes = 0
        self._tried_bytes = 0

    def report(self, held_bytes: int) -> bool:
        """Take note that some of what the process holds is held outside the caller.

        Args:
            held_bytes: What the process holds.

        Returns:
            Whether that is news: no encoder has reported it, or not nearly so much.
        """
        with self._lock:
            is_news = held_bytes > self._reported_bytes * (1 + _NEWS)
            if is_news:
                self._reported_bytes = held_bytes
            return is_news

    def tried(self, held_bytes: int) -> None:
        """Take note of what the process still held when an encoder had given back all it could.

        Args:
            held_bytes: What the process held then.
        """
        with self._lock:
            self._tried_bytes = held_bytes

    def was_tried(self, held_bytes: int) -> bool:
        """Tell whether an encoder has found that giving back all it could leaves as much.

        Args:
            held_bytes: What the process holds.

        Returns:
            Whether the last encoder that tried was left with this, or more.
        """
        with self._lock:
            return held_bytes <= self._tried_bytes * (1 + _SAME)

    def look(self, held_bytes: int) -> None:
        """Forget what is not held any more.

        Args:
            held_bytes: What the process holds.
        """
        with self._lock:
            self._reported_bytes = min(self._reported_bytes, held_bytes)
            self._tried_bytes = min(self._tried_bytes, held_bytes)


# The memory of a process is one, whichever encoder looks at it.
PROCESS_VIEW = ProcessView()
