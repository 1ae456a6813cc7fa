"""One worker process as it is seen from the encoder's side."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable
from typing import Any

from safe_embed.backends.calls import PendingCall, PendingTask
from safe_embed.backends.process.heartbeat import Heartbeat
from safe_embed.backends.process.messages import (
    FromWorker,
    LoadFailed,
    Ping,
    Pong,
    ReportIdle,
    TaskDone,
)
from safe_embed.errors import WorkerError, both
from safe_embed.foreign import as_error
from safe_embed.ipc.connection import ConnectionClosedError, UnreadableMessageError
from safe_embed.ipc.spawn import start_process
from safe_embed.ipc.surroundings import Surroundings
from safe_embed.memory.types import MemorySample
from safe_embed.upstream.settings import ModelFacts

# How long a process may take to end when it was told to.
EXIT_SECONDS = 5.0
UNKNOWN = MemorySample(0.0)
# What a worker process runs.
_ENTRY = "safe_embed.backends.process.worker:main"


class WorkerHandle:
    """A worker process as the dispatcher sees it: its messages, its task, and how it has ended.

    Args:
        surroundings: Module folders and environment of the process.
        said: A function of the handle and a message; called for every message of the process, on
            the thread that reads them.
        ended: A function of the handle; called on the same thread when the process has ended.

    Attributes:
        facts: The facts of the worker's model; ``None`` before the model is loaded.
        sample: The newest memory measurement of the process.
        baseline: The measurement after warm-up; ``None`` before.
        call: The call whose task the worker does; ``None`` without a task.
        pending: The task that the worker does; ``None`` without a task.
        deadline: The time, on the dispatcher's clock, at which the worker counts as hanging;
            ``None`` without a task, or without a timeout.
        heartbeat: Tells whether the process still runs.
        is_leaving: Whether the worker was asked to end.
        holds_back: Whether the worker wants no task, since it holds too much memory.
        is_idle: Whether the worker has reported that it has nothing left to do; see
            :meth:`ask_idle`.
        error: The error that kept the worker from loading its model.

    Raises:
        OSError: If the process cannot be started.
        RuntimeError: If a thread cannot be started.
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
        self.holds_back = False
        self.is_idle = False
        self._is_asked = False
        self.error: BaseException | None = None
        self._because = ""
        self._process, self._connection = start_process(surroundings, _ENTRY)
        self.heartbeat = Heartbeat(lambda: self._connection.moved_bytes, lambda: self.send(Ping()))
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
        """The id of the process."""
        return self._process.pid

    @property
    def is_loaded(self) -> bool:
        """Whether the worker has reported that its model is loaded."""
        return self.facts is not None

    @property
    def is_free(self) -> bool:
        """Whether the worker can do a task, and has none."""
        can_work = self.facts is not None and not self.is_leaving and not self.holds_back
        return can_work and self.pending is None

    def send(self, message: Any) -> None:
        """Send a message to the process without waiting until it is read.

        A connection that is closed is no error here: the listener reports the end of the process.

        Args:
            message: Any picklable object.
        """
        if not isinstance(message, ReportIdle | Ping):
            self.is_idle = self._is_asked = False
        with contextlib.suppress(ConnectionClosedError):
            self._connection.post(message)

    def begin(self, call: PendingCall, pending: PendingTask) -> None:
        """Send a task to the process.

        Args:
            call: The call that the task belongs to.
            pending: The task.
        """
        self.call, self.pending = call, pending
        self.send(pending.task)

    def put_down(self) -> tuple[PendingCall | None, PendingTask | None]:
        """Forget the task, done or not.

        Returns:
            The call and the task; ``None`` for both if there was no task.
        """
        task = self.call, self.pending
        self.call = self.pending = self.deadline = None
        if self.is_leaving:
            self._connection.hang_up()
        return task

    def expect_end(self, clock: Callable[[], float], limit_seconds: float | None) -> None:
        """Set the deadline of the task that the worker has just started.

        Args:
            clock: Gives the time in seconds.
            limit_seconds: How long one task may take; ``None`` for no deadline.
        """
        if self.pending is not None and limit_seconds is not None:
            self.deadline = clock() + limit_seconds

    def ask_idle(self) -> None:
        """Ask the worker to report when it has nothing left to do; once until the next message."""
        if not self._is_asked:
            self._is_asked = True
            self.send(ReportIdle())

    def leave(self) -> None:
        """End the process after its current task."""
        self.is_leaving = True
        if self.pending is None:
            self._connection.hang_up()

    def refuse(self, error: BaseException) -> None:
        """End the process because its model could not be loaded, or is another model."""
        self.error = as_error("The start of a worker process", error)
        self._connection.hang_up()

    def kill(self, reason: str) -> None:
        """Kill the process; *reason* is the first part of :attr:`ending`."""
        self._because = self._because or reason
        self.deadline = None
        self._process.kill()

    def hang_up(self) -> None:
        """End the process now, also during a task."""
        self.is_leaving = True
        self._connection.hang_up()

    def join(self) -> None:
        """Wait until the process has ended, for ten seconds at most."""
        self._listener.join(2 * EXIT_SECONDS)

    def abandon(self) -> None:
        """Close the connection in a forked copy of this process; the worker serves the parent."""
        self._connection.abandon()
        self._process.returncode = 0  # it is not ours to wait for

    @property
    def ending(self) -> str:
        """How the worker process has ended, for messages.

        Why the encoder has ended it, if it has; else the exit status, or the name of the signal.
        """
        code = self._process.returncode
        if self._because:
            return self._because
        if self._connection.is_stuck:
            return "it reads no messages any more"
        if code is None or (code == 0 and signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN):
            return "its exit status is not known, as this program ignores SIGCHLD"
        if code >= 0:
            return f"exit status {code}"
        known = -code in set(signal.Signals)
        name = signal.Signals(-code).name if known else f"signal {-code}"
        return f"{name} (sent when memory runs out)" if -code == signal.SIGKILL else name

    def _watch(self) -> None:
        """Wake the listener when the process ends, even if a child of it keeps the socket open."""
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
                unread = WorkerError(
                    both(
                        f"What a worker process says cannot be read here: {error}. What a "
                        "function of your own gives must be of a class that can be imported.",
                        f"ワーカープロセスの結果をここで読めません（{error}）。自作の関数の結果は、"
                        "import できるクラスのものにしてください。",
                    )
                )
                unread.__cause__ = error.__cause__
                message = LoadFailed(unread) if self.facts is None else TaskDone(error=unread)
            if not isinstance(message, Pong):
                said(self, message)
            del message  # the results of a call belong to its caller alone
        self._watcher.join(EXIT_SECONDS)
        if self._watcher.is_alive():
            self.kill("it hung up, but did not end")
            self._watcher.join()
        self._connection.close()
        ended(self)
