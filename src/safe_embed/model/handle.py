"""One worker process as it is seen from the encoder's side."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from safe_embed.errors import WorkerError
from safe_embed.model.messages import ModelFacts, Refused, Result
from safe_embed.model.surroundings import Surroundings
from safe_embed.model.turns import Job, Piece
from safe_embed.model.wire import ConnectionClosedError, UnreadableMessageError, begin_process
from safe_embed.types import MemorySample

# How long a process may take to end when it was told to.
EXIT_SECONDS = 5.0
UNKNOWN = MemorySample(0.0)


class Handle:
    """A worker process: what is said to it, what it is doing, and how it has ended.

    Args:
        surroundings: Of the process.
        said: Is called with every message of it, on a thread of its own.
        ended: Is called when the process is gone, likewise.

    Attributes:
        facts: What it says of its model; ``None`` before that is loaded.
        sample: The newest measurement of it.
        baseline: The measurement after warm-up; ``None`` before.
        job: The call that it is doing something for.
        piece: The task that it is doing.
        deadline: When it is taken to hang, on the clock of ``time.monotonic``; ``None`` while it
            does no task.
        is_leaving: Whether it was told to end.
        error: Why its model could not be loaded.

    Raises:
        OSError: If no process can be begun.
        RuntimeError: If no thread can.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        said: Callable[[Handle, Any], None],
        ended: Callable[[Handle], None],
    ) -> None:
        self.facts: ModelFacts | None = None
        self.sample = UNKNOWN
        self.baseline: MemorySample | None = None
        self.job: Job | None = None
        self.piece: Piece | None = None
        self.deadline: float | None = None
        self.is_leaving = False
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
        return self.facts is not None and self.piece is None and not self.is_leaving

    def send(self, message: Any) -> None:
        """Say something to it, without waiting for it; should it be gone, its listener notices.

        Args:
            message: Anything that can be pickled.
        """
        with contextlib.suppress(ConnectionClosedError):
            self._connection.post(message)

    def begin(self, job: Job, piece: Piece) -> None:
        """Give it a task.

        Args:
            job: The call that the task belongs to.
            piece: The task.
        """
        self.job, self.piece = job, piece
        self.send(piece.task)

    def put_down(self) -> tuple[Job | None, Piece | None]:
        """Take its task away from it, done or not; give what it was."""
        found = self.job, self.piece
        self.job = self.piece = self.deadline = None
        if self.is_leaving:
            self._connection.hang_up()
        return found

    def leave(self) -> None:
        """Let it end, after the task that it is doing."""
        self.is_leaving = True
        if self.piece is None:
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

    def _listen(self, said: Callable[[Handle, Any], None], ended: Callable[[Handle], None]) -> None:
        while True:
            try:
                message = self._connection.receive()
            except ConnectionClosedError:
                break
            except UnreadableMessageError as error:
                unread = WorkerError(f"What a worker process says cannot be read here: {error}.")
                unread.__cause__ = error.__cause__
                message = Refused(unread) if self.facts is None else Result(error=unread)
            said(self, message)
            del message  # the results of a call belong to its caller alone
        self._watcher.join(EXIT_SECONDS)
        if self._watcher.is_alive():
            self._process.kill()
            self._watcher.join()
        self._connection.close()
        ended(self)
