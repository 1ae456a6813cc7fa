"""One worker process as it is seen from the encoder's side."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from safe_embed.backends.calls import PendingCall, PendingTask
from safe_embed.backends.process.messages import FromWorker, LoadFailed, ReportIdle, TaskDone
from safe_embed.errors import WorkerError
from safe_embed.ipc.connection import ConnectionClosedError, UnreadableMessageError, begin_process
from safe_embed.ipc.surroundings import Surroundings
from safe_embed.memory.types import MemorySample
from safe_embed.upstream.settings import ModelFacts

# How long a process may take to end when it was told to.
EXIT_SECONDS = 5.0
UNKNOWN = MemorySample(0.0)


class WorkerHandle:
    """A worker process: what is said to it, what it is doing, and how it has ended.

    Args:
        surroundings: Of the process.
        said: Is called with every message of it, on a thread of its own.
        ended: Is called when the process is gone, likewise.

    Attributes:
        facts: What it says of its model; ``None`` before that is loaded.
        sample: The newest measurement of it.
        baseline: The measurement after warm-up; ``None`` before.
        call: The call that it is doing something for.
        pending: The task that it is doing.
        deadline: When it is taken to hang, on the clock of ``time.monotonic``; ``None`` while it
            does no task.
        is_leaving: Whether it was told to end.
        is_idle: Whether it has reported that it has nothing left to do; see :meth:`ask_idle`.
        error: Why its model could not be loaded.

    Raises:
        OSError: If no process can be begun.
        RuntimeError: If no thread can.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        said: Callable[[WorkerHandle, FromWorker], None],
        ended: Callable[[WorkerHandle], None],
    ) -> None:
        self.facts: ModelFacts | None = None
        self.sample = UNKNOWN
        self.baseline: MemorySample | None = None
        self.call: PendingCall | None = None
        self.pending: PendingTask | None = None
        self.deadline: float | None = None
        self.is_leaving = False
        self.is_idle = False
        self._is_asked = False
        self.error: BaseException | None = None
        self._because = ""
        self._process, self._connection = begin_process(surroundings)
        self._watcher = threading.Thread(target=self._watch, name="safe_embed-watch", daemon=True)
        self._listener = threading.Thread(
            target=self._listen, args=(said, ended), name="safe_embed-listen", daemon=True
        )
        try:
            self._watcher.start()
            self._listener.start()
        except RuntimeError:  # no more threads are allowed
            self._process.kill()
            self._process.wait()
            self._connection.close()
            raise

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def is_free(self) -> bool:
        """Whether it can be given a task."""
        return self.facts is not None and self.pending is None and not self.is_leaving

    def send(self, message: Any) -> None:
        """Say something to it, without waiting for it; should it be gone, its listener notices.

        Args:
            message: Anything that can be pickled.
        """
        if not isinstance(message, ReportIdle):
            self.is_idle = self._is_asked = False
        with contextlib.suppress(ConnectionClosedError):
            self._connection.post(message)

    def begin(self, call: PendingCall, pending: PendingTask) -> None:
        """Give it a task.

        Args:
            call: The call that the task belongs to.
            pending: The task.
        """
        self.call, self.pending = call, pending
        self.send(pending.task)

    def put_down(self) -> tuple[PendingCall | None, PendingTask | None]:
        """Take its task away from it, done or not; give what it was."""
        found = self.call, self.pending
        self.call = self.pending = self.deadline = None
        if self.is_leaving:
            self._connection.hang_up()
        return found

    def expect_end(self, clock: Callable[[], float], limit_seconds: float | None) -> None:
        """Take it to hang if its task, which it has started, takes too long.

        Args:
            clock: The time in seconds.
            limit_seconds: How long that is; ``None`` for never.
        """
        if self.pending is not None and limit_seconds is not None:
            self.deadline = clock() + limit_seconds

    def ask_idle(self) -> None:
        """Let it set :attr:`is_idle` when it has nothing left to do."""
        if not self._is_asked:
            self._is_asked = True
            self.send(ReportIdle())

    def leave(self) -> None:
        """Let it end, after the task that it is doing."""
        self.is_leaving = True
        if self.pending is None:
            self._connection.hang_up()

    def refuse(self, error: BaseException) -> None:
        """Let it end, as one whose model cannot be used."""
        self.error = error
        self._connection.hang_up()

    def kill(self, reason: str) -> None:
        """End it at once, and remember why."""
        self._because = self._because or reason
        self.deadline = None
        self._process.kill()

    def hang_up(self) -> None:
        """Let it end now, whatever it is doing."""
        self.is_leaving = True
        self._connection.hang_up()

    def join(self) -> None:
        """Wait until it is gone."""
        self._listener.join(2 * EXIT_SECONDS)

    def abandon(self) -> None:
        """Let go of it in a forked copy of this process, without a word to it."""
        self._connection.abandon()
        self._process.returncode = 0  # it is not ours to wait for

    @property
    def ending(self) -> str:
        """How the process has ended."""
        code = self._process.returncode
        if self._because:
            return self._because
        if self._connection.is_stuck:
            return "it reads no messages any more"
        if code is None or code >= 0 or sys.platform == "win32":
            return f"exit status {code}"
        known = -code in set(signal.Signals)
        name = signal.Signals(-code).name if known else f"signal {-code}"
        return f"{name} (sent when memory runs out)" if -code == signal.SIGKILL else name

    def _watch(self) -> None:
        """End the listening with the process, even if one that it began keeps the socket open."""
        self._process.wait()
        self._connection.hang_up()

    def _listen(
        self,
        said: Callable[[WorkerHandle, FromWorker], None],
        ended: Callable[[WorkerHandle], None],
    ) -> None:
        while True:
            try:
                message = self._connection.receive()
            except ConnectionClosedError:
                break
            except UnreadableMessageError as error:
                unread = WorkerError(f"What a worker process says cannot be read here: {error}.")
                unread.__cause__ = error.__cause__
                message = LoadFailed(unread) if self.facts is None else TaskDone(error=unread)
            said(self, message)
            del message  # the results of a call belong to its caller alone
        self._watcher.join(EXIT_SECONDS)
        if self._watcher.is_alive():
            self._process.kill()
            self._watcher.join()
        self._connection.close()
        ended(self)
