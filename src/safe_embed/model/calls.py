"""The calls of an encoder whose model is elsewhere: whose task is next, and what is done again.

Only the dispatcher's thread is in here; nothing here knows a process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from safe_embed.model.inference import LOST, Inference
from safe_embed.model.turns import ACTIVE_CALLS, Job, Piece

# A task that so many processes have died of is parted; its parts are parted at the first death.
MOST_DEATHS = 2
# One item is given up after so many, counted while it was alone: what kills processes from outside
# hits any task, and so often it hits no single one.
MOST_DEATHS_ALONE = 3


class Calls:
    """Calls in order of arrival; the first few have their tasks done in turn.

    Args:
        inference: What flows are given.
        workers: How many may be busy at once.
    """

    def __init__(self, inference: Inference, workers: int) -> None:
        self._inference = inference
        self._most = max(ACTIVE_CALLS, 2 * workers)
        self._waiting: deque[Job] = deque()
        self._active: deque[Job] = deque()

    def add(self, job: Job) -> None:
        """Let a call wait for its turn.

        Args:
            job: The call.
        """
        self._waiting.append(job)

    def advance(self) -> None:
        """Let every flow go on that can, and begin those that wait as others end."""
        while True:
            while self._waiting and len(self._active) < self._most:
                self._active.append(self._waiting.popleft())
            for job in tuple(self._active):
                self._go_on(job)
            if not self._waiting or len(self._active) >= self._most:
                return

    def next(self) -> tuple[Job, Piece] | None:
        """Take the task whose turn it is, call by call.

        Returns:
            The call and the task; ``None`` if there is nothing to do.
        """
        job = next((one for one in self._active if one.pending), None)
        if job is None:
            return None
        self._active.remove(job)
        self._active.append(job)
        return job, job.pending.popleft()

    def note(self, job: Job, piece: Piece, found: Any) -> None:
        """Take the result of a task.

        Args:
            job: The call.
            piece: The task.
            found: One value for each of its items.
        """
        try:
            piece.note(found)
        except BaseException as error:  # noqa: BLE001 of a progress bar: it belongs to the caller
            self.fail(job, error)

    def again(self, job: Job, piece: Piece) -> None:
        """Have a task done that a process died of: once more, then in parts, then not at all.

        Args:
            job: The call.
            piece: The task.
        """
        piece.task.deaths += 1
        is_alone = len(piece.task.items) == 1
        if job.future.done():
            return
        if piece.task.deaths < (MOST_DEATHS_ALONE if is_alone else MOST_DEATHS):
            job.pending.appendleft(piece)
        elif is_alone:
            self.note(job, piece, [LOST])
        else:
            for half in piece.halves()[::-1]:
                half.task.deaths = MOST_DEATHS - 1 if len(half.task.items) > 1 else 0
                job.pending.appendleft(half)

    def fail(self, job: Job, error: BaseException) -> None:
        """End a call with an error.

        Args:
            job: The call.
            error: The error.
        """
        job.fail(error)
        if job in self._active:
            self._active.remove(job)

    def fail_all(self, error: Callable[[], BaseException]) -> None:
        """End all calls with an error.

        Args:
            error: Makes it; each caller has one of its own, which gathers a traceback of its own.
        """
        while self._waiting or self._active:
            (self._waiting or self._active).popleft().fail(error())

    def _go_on(self, job: Job) -> None:
        """Let a flow go on to its next tasks or its end; a call that was given up ends."""
        if job.future.cancelled():
            self.fail(job, CancelledError())
        while job in self._active and not job.is_waiting:
            if job.go_on(self._inference):
                self._active.remove(job)
