"""Where memory is taken: in the forward, the tokenizer, the rest of a call, or between calls."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StageMeter:
    """Adds up how much memory the process takes in each stage of the work.

    Every moment belongs to one stage, so that the stages add up to the growth of the process. Free
    blocks blur it: a leak fills those that another stage has freed, which then takes new memory.

    Args:
        read: Reads what the process holds.
    """

    def __init__(self, read: Callable[[], int]) -> None:
        self.grown: Counter[str] = Counter()
        self.threads: set[int] = set()
        self._read = read
        self._lock = threading.Lock()
        self._stage, self._held = "between", read()

    def reset(self) -> None:
        """Forget what was taken so far."""
        self._enter("between")
        self.grown.clear()
        self.threads.clear()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Let what is taken within the context belong to a stage.

        Args:
            name: ``"forward"``, ``"tokenizer"``, ``"call"`` or ``"between"``.

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

    def _enter(self, name: str) -> str:
        with self._lock:
            held = self._read()
            self.grown[self._stage] += held - self._held
            before, self._stage, self._held = self._stage, name, held
        return before
