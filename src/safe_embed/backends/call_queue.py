"""The calls of an encoder: which task is next, and which is done again after a death.

The queue belongs to one thread, that of the backend; it knows no process and no model.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from safe_embed.backends.calls import PendingCall, PendingTask
from safe_embed.backends.priority_queue import PriorityQueue
from safe_embed.inference.tasks import LOST

# Calls that are served in turn; those behind them wait with nothing tokenized yet.
ACTIVE_CALLS = 4
# A task that so many processes have died of is parted; its parts are parted at the first death.
MOST_DEATHS = 2
# One item is given up after so many, counted while it was alone: what kills processes from outside
# hits any task, and so often it hits no single one.
MOST_DEATHS_ALONE = 3


class CallQueue:
    """Calls by priority, then in order of arrival; the first few have their tasks done in turn.

    A task of a higher priority is always done before others. So a call begins as soon as few enough
    of its own priority and of higher ones are under way, however many of lower ones there are.

    Args:
        count_call: Is told of each call that has done its work, with the number of its texts.
        most_active: How many calls of a priority are served in turn.
    """

    def __init__(self, count_call: Callable[[int], None], most_active: int = ACTIVE_CALLS) -> None:
        self._count_call = count_call
        self._most_active = most_active
        self._waiting = PriorityQueue[PendingCall](lambda call: call.future.done())
        self._active: deque[PendingCall] = deque()

    @property
    def is_quiet(self) -> bool:
        """Whether no call is under way; calls that wait have not begun."""
        return not self._active

    @property
    def is_empty(self) -> bool:
        """Whether there is no call at all."""
        return not self._active and self._waiting.first is None

    @property
    def has_tasks(self) -> bool:
        """Whether there is a task that nobody does yet."""
        return any(call.pending for call in self._active)

    def add(self, call: PendingCall) -> None:
        """Let a call wait for its turn.

        Args:
            call: The call.
        """
        self._waiting.push(call, call.priority)

    def advance(self) -> None:
        """Let every call go on that can, and begin those that wait as others end."""
        while True:
            while self._may_begin:
                call = self._waiting.pop()
                self._active.append(call)
                if call.on_begin is not None:
                    call.on_begin()
            for call in tuple(self._active):
                self._go_on(call)
            if not self._may_begin:
                return

    @property
    def _may_begin(self) -> bool:
        """Whether the turn of the first call that waits has come."""
        first = self._waiting.first
        return first is not None and self._most_active > sum(
            call.priority >= first.priority for call in self._active
        )

    def next(self) -> tuple[PendingCall, PendingTask] | None:
        """Take the task whose turn it is, call by call, those of the highest priority alone.

        Returns:
            The call and the task; ``None`` if there is nothing to do.
        """
        ready = [active for active in self._active if active.pending]
        if not ready:
            return None
        call = max(ready, key=lambda active: active.priority)  # of equals the first
        self._active.remove(call)
        self._active.append(call)
        return call, call.pending.popleft()

    def note(self, call: PendingCall, pending: PendingTask, values: Any) -> None:
        """Take the values of a task.

        Args:
            call: The call.
            pending: The task.
            values: One for each of its items.
        """
        try:
            pending.note(values)
        except BaseException as error:  # noqa: BLE001 of a progress bar: it belongs to the caller
            self.fail(call, error)

    def again(self, call: PendingCall, pending: PendingTask) -> None:
        """Have a task done that a process died of: once more, then in parts, then not at all.

        Args:
            call: The call.
            pending: The task.
        """
        pending.deaths += 1
        is_alone = len(pending.task.items) == 1
        if call.future.done():
            return
        if pending.deaths < (MOST_DEATHS_ALONE if is_alone else MOST_DEATHS):
            call.pending.appendleft(pending)
        elif is_alone:
            self.note(call, pending, [LOST])
        else:
            for half in pending.halves()[::-1]:
                half.deaths = MOST_DEATHS - 1 if len(half.task.items) > 1 else 0
                call.pending.appendleft(half)

    def fail(self, call: PendingCall, error: BaseException) -> None:
        """End a call with an error.

        Args:
            call: The call.
            error: The error.
        """
        call.fail(error)
        if call in self._active:
            self._active.remove(call)

    def fail_all(self, error: Callable[[], BaseException]) -> None:
        """End all calls with an error.

        Args:
            error: Makes it; each caller gets an error, and so a traceback, of its own.
        """
        while self._waiting.first is not None:
            self._waiting.pop().fail(error())
        while self._active:
            self._active.popleft().fail(error())

    def _go_on(self, call: PendingCall) -> None:
        """Let a call go on to its next tasks or its end; a call that was cancelled ends."""
        while call in self._active:
            if call.future.cancelled():
                self.fail(call, CancelledError())
            elif call.is_waiting:
                return
            elif call.future.done():
                self._active.remove(call)
            elif (ended := call.advance()) is not None:
                self._count_call(ended.texts)
