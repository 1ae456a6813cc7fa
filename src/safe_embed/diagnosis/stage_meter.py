"""Where memory is taken: in the forward, the tokenizer, the rest of a call, or between calls."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STAGES = ("forward", "tokenizer", "call", "between")


class StageMeter:
    """Adds up how much memory each stage of the work has taken, in some of the calls.

    Every moment of such a call, and of the time before it, belongs to one stage.

    Args:
        read: Reads how much memory is in use.
        share: Of the time that reading may take.
    """

    def __init__(self, read: Callable[[], int], share: float = 0.1) -> None:
        self.grown: Counter[str] = Counter()
        self.threads: set[int] = set()
        self._read, self._share = read, share
        self._lock = threading.Lock()
        self._stage, self._used = "between", 0
        self._is_open = False
        self._spent = self._due = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Let what is taken within the context belong to a stage.

        Args:
            name: Of :data:`STAGES`.

        Yields:
            Nothing.
        """
        if name == "forward":
            self.threads.add(threading.get_ident())
        before = self._enter(name)
        try:
            yield
        finally:
            self._enter(before)

    def open(self) -> None:
        """Observe the next call, if reading was cheap enough so far."""
        if time.monotonic() >= self._due:
            self._spent = 0.0
            self._used, self._stage = self._timed_read(), "between"
            self._is_open = True

    def close(self) -> bool:
        """End the observation of a call; whether there was one."""
        if not self._is_open:
            return False
        self._enter("between")
        self._is_open = False
        self._due = time.monotonic() + self._spent / self._share
        return True

    def _enter(self, name: str) -> str:
        with self._lock:
            before, self._stage = self._stage, name
            if self._is_open:
                used = self._timed_read()
                self.grown[before] += used - self._used
                self._used = used
        return before

    def _timed_read(self) -> int:
        started = time.perf_counter()
        used = self._read()
        self._spent += time.perf_counter() - started
        return used
