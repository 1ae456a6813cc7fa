"""What this process holds outside its encoders: one view of it for all of them."""

from __future__ import annotations

# What the process holds varies by so much without a cause; less than that is no news, and not gone.
_VARIATION = 0.1


class OutsideMemory:
    """What an encoder of this process still held when it had taken every rung in vain.

    A second encoder, a data frame or a store makes the process grow for each of its encoders. What
    one of them could not give back the others need not try, nor report. A process that is forked
    copies the view without harm: it has no lock, and is exact enough where two threads write it.

    Attributes:
        left_bytes: What the process held after the last climb that gave too little back; 0 if there
            was none, or if much of that is not held any more.
    """

    def __init__(self) -> None:
        self.left_bytes = 0

    def leave(self, held_bytes: int) -> bool:
        """Take note of what the process holds after a climb in vain.

        Args:
            held_bytes: What the process holds.

        Returns:
            Whether that is news: no encoder has been left with nearly as much.
        """
        is_news = held_bytes > self.left_bytes * (1 + _VARIATION)
        self.left_bytes = held_bytes
        return is_news

    def look(self, held_bytes: int) -> None:
        """Forget what is not held any more.

        Args:
            held_bytes: What the process holds.
        """
        if held_bytes <= self.left_bytes * (1 - _VARIATION):
            self.left_bytes = 0


# The memory of a process is one, whichever encoder looks at it.
PROCESS_MEMORY = OutsideMemory()
