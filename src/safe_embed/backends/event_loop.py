"""The one thread of a backend.

Whatever happens reaches it as an event, so that what it holds needs no lock.
"""

from __future__ import annotations

import contextlib
import queue
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from safe_embed.backends.admission import Admission
from safe_embed.backends.call_queue import CallQueue
from safe_embed.backends.calls import CLOSED, PendingCall, settle
from safe_embed.errors import WorkerError, both


class EventLoop(ABC):
    """Handles events in order, until it is closed.

    Args:
        admission: Says which callers may queue a call; ``None`` for all.

    Attributes:
        admission: As given.
        begun: Is done when the first model is loaded; has the error if that failed.
        calls: The calls of the encoder.
    """

    calls: CallQueue

    def __init__(self, admission: Admission | None = None) -> None:
        self.admission = admission or Admission(None, "wait")
        self.begun: Future[None] = Future()
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._promises: deque[Future[Any]] = deque()
        self._callers: set[Future[Any]] = set()
        self._idle: list[Future[None]] = []
        self._is_closed = False
        self._has_ended = False
        self._broke: BaseException | None = None

    # What other threads may call

    def post(self, event: Callable[[], None]) -> None:
        """Let the thread call a function.

        Args:
            event: The function.
        """
        self._events.put(event)

    def add(self, call: PendingCall) -> None:
        """Let a call wait for its turn.

        Args:
            call: The call; it fails at once if the loop has ended.
        """
        self._callers.add(call.future)
        call.future.add_done_callback(self._callers.discard)
        self.post(partial(self._add, call))
        if self._has_ended:
            call.fail(self.closed_error())

    def promise(self, event: Callable[[Future[Any]], None]) -> Future[Any]:
        """Let the thread call a function that settles a future, now or later.

        Args:
            event: Takes the future.

        Returns:
            The future; it gets a WorkerError if the loop ends before it is settled.
        """
        future: Future[Any] = Future()
        self._promises.append(future)
        self.post(partial(self._promised, event, future))
        if self._has_ended:
            settle(future, error=self.closed_error())
        return future

    def idle(self) -> Future[None]:
        """Give a future that is done once there is nothing left to do."""
        return self.promise(self._idle.append)

    def close(self) -> None:
        """End the thread; all calls get an error at once, however long the task in progress is."""
        self.post(self._close)
        self.admission.close(self.closed_error)
        for future in (*self._callers.copy(), *self._promises.copy()):
            settle(future, error=self.closed_error())

    def closed_error(self) -> WorkerError:
        """Make the error of a call that comes too late."""
        if self._broke is None:
            return WorkerError(CLOSED)
        error = WorkerError(
            both(
                "The thread of this SafeEncoder ended of an error of its own; see the error before "
                "this one. Make a new SafeEncoder.",
                "この SafeEncoder のスレッドはエラーで終了しました。直前のエラーを見て、"
                "SafeEncoder を作り直してください。",
            )
        )
        error.__cause__ = self._broke
        return error

    # The thread

    def run(self) -> None:
        """Handle events until the loop is closed: the whole life of the thread."""
        try:
            self.begin()
            while not self._is_closed:
                seconds = self.turn()
                if self._idle and self.check_idle():
                    self._end_idle()
                with contextlib.suppress(queue.Empty):
                    self._events.get(timeout=seconds)()
                    while not self._is_closed:
                        self._events.get_nowait()()
        except BaseException as error:  # noqa: BLE001 nobody may be left waiting, whatever it is
            self._broke = error
        finally:
            self._shut_down()

    @abstractmethod
    def begin(self) -> None:
        """Do what comes before the first event; settle :attr:`begun` now or later."""

    @abstractmethod
    def turn(self) -> float | None:
        """Do what there is to do now.

        Returns:
            After how many seconds to do so again if nothing happens; ``None`` for never.
        """

    @abstractmethod
    def check_idle(self) -> bool:
        """Tell whether no call is under way and nothing is being done about memory."""

    @abstractmethod
    def end(self) -> None:
        """Let go of what the loop holds; calls have got their errors."""

    def _add(self, call: PendingCall) -> None:
        if self._is_closed:
            call.fail(self.closed_error())
        else:
            self.calls.add(call)

    def _promised(self, event: Callable[[Future[Any]], None], future: Future[Any]) -> None:
        while self._promises and self._promises[0].done():
            self._promises.popleft()
        if self._is_closed:
            settle(future, error=self.closed_error())
        else:
            event(future)

    def _end_idle(self) -> None:
        waiting, self._idle[:] = list(self._idle), []
        for future in waiting:
            settle(future)

    def _close(self) -> None:
        self._is_closed = True

    def _shut_down(self) -> None:
        self._is_closed = True
        if not self.begun.done():
            self.begun.set_exception(self.closed_error())
        self.admission.close(self.closed_error)
        self.calls.fail_all(self.closed_error)
        self.end()
        self._has_ended = True
        for future in self._promises.copy():
            settle(future, error=self.closed_error())
        while not self._events.empty():  # what came too late
            with contextlib.suppress(Exception):
                self._events.get_nowait()()
