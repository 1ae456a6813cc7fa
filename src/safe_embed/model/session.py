"""The one thread on which an encoder's tokenizer and model work, and the exchange of what grew.

OpenMP and the allocator keep state for every thread that calls in: 60 calling threads cost 265 MB
and 120 native threads with sentence-transformers alone (docs/ja/growth.md). Here they cost a queue.

Calls are served in turn, one batch each, so that a short one need not wait for a long one to end.
Between two batches the session looks at its memory, and climbs the ladder where a policy says so.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from safe_embed.errors import ReloadError, WorkerError
from safe_embed.model.inference import Inference, Settings
from safe_embed.model.keeper import Keeper
from safe_embed.model.loader import ModelSource
from safe_embed.types import Hook, Reason, ReloadPolicy, Rung

P = ParamSpec("P")
T = TypeVar("T")

# Calls whose batches are interleaved; the others wait, first come, first served, with nothing
# tokenized yet.
_ACTIVE_CALLS = 4
# An idle session looks at its memory once more after this time, for what the last call left behind.
_IDLE_SECONDS = 1.0
# How long close() waits for the batch in progress.
_CLOSE_SECONDS = 30.0

logger = logging.getLogger("safe_embed")


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    """A call: what to run, and where its result goes."""

    start: Callable[[], Generator[None, None, T] | T]
    texts: int
    future: Future[T] = field(default_factory=Future)
    steps: Generator[None, None, T] | None = None

    def step(self) -> bool:
        """Run up to the next pause; give whether the call has ended."""
        try:
            if self.steps is None:
                found = self.start()
                if not isinstance(found, Generator):
                    self._end(lambda: self.future.set_result(found))
                    return True
                self.steps = found
            next(self.steps)
        except StopIteration as done:
            self._end(lambda: self.future.set_result(done.value))
            return True
        except BaseException as raised:  # noqa: BLE001 it belongs to the caller
            error = raised
            self._end(lambda: self.future.set_exception(error))
            return True
        return False
