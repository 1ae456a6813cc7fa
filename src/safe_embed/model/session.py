"""The one thread on which an encoder's tokenizer and model work, whoever calls.

OpenMP and the allocator keep state for every thread that calls in: 60 calling threads cost 265 MB
and 120 native threads with sentence-transformers alone (docs/ja/growth.md). Here they cost a queue.

Calls are served in turn, a batch at a time, so that a short one need not wait for a long one.
Between two batches the keeper looks at memory, and gives back what a policy asks for.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from safe_embed.errors import WorkerError
from safe_embed.memory.remedies import trim
from safe_embed.model.inference import Inference, Settings
from safe_embed.model.keeper import Keeper
from safe_embed.model.loader import ModelSource
from safe_embed.types import Hook, ReloadPolicy, Stats

if TYPE_CHECKING:
    from safe_embed.model.loader import SentenceTransformer

P = ParamSpec("P")
T = TypeVar("T")

# Calls that are served in turn; those behind them wait with nothing tokenized yet.
_ACTIVE_CALLS = 4
# A session without work looks at its memory once more, for what the last call left behind.
_IDLE_SECONDS = 1.0
# How long close() waits for the batch in progress.
_CLOSE_SECONDS = 30.0


class Session:
    """Holds the loaded model and runs work on it, in order of arrival.

    Args:
        source: Where the model comes from.
        settings: What the encoder does with every text.
        policy: When memory must be given back.
        hooks: Who is told of it.
    """

    def __init__(
        self,
        source: ModelSource,
        settings: Settings,
        policy: ReloadPolicy,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self._line = _Line()
        loaded: Future[Keeper] = Future()
        # The thread knows the line, not the session: an encoder that is dropped ends its thread.
        self._thread = threading.Thread(
            target=_serve,
            args=(self._line, loaded, lambda: Keeper(source, settings, policy, hooks)),
            name="safe_embed",
            daemon=True,
        )
        self._thread.start()
        self._stop = weakref.finalize(self, _stop, self._line, self._thread)
        self._keeper: Keeper | None = loaded.result()

    def submit(
        self, work: Callable[Concatenate[Inference, P], Any], *args: P.args, **kwargs: P.kwargs
    ) -> Future[Any]:
        """Queue *work* for the session's thread.

        Args:
            work: Takes the loaded model's inference, then the other arguments; a generator is
                served step by step.
            *args: Further arguments.
            **kwargs: Further arguments.

        Returns:
            A future of what *work* gives; cancelling it gives up its place.

        Raises:
            WorkerError: If the session is closed, or this is another process after a fork.
        """
        return self._add(_Job(lambda inference: work(inference, *args, **kwargs)))

    def run(
        self,
        work: Callable[Concatenate[Inference, P], Any],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Any:
        """Queue *work* and wait for its result; as :meth:`submit`.

        Args:
            work: As for :meth:`submit`.
            *args: Further arguments.
            **kwargs: Further arguments.

        Returns:
            What *work* gives.
        """
        return wait_for(self.submit(work, *args, **kwargs))

    def reload(self, reason: str) -> None:
        """Load the model anew; other calls go on meanwhile.

        Args:
            reason: Why, for the log.
        """
        keeper = self.keeper
        wait_for(self._add(_Job(lambda _: keeper.reload(reason), needs_model=False)))

    def _add(self, job: _Job) -> Future[Any]:
        if threading.current_thread() is self._thread:
            raise WorkerError(
                "The encoder was called from its own thread, by a hook or a pooling function, and "
                "would wait for itself for ever. Call it from elsewhere."
            )
        self._line.add(job)
        return job.future

    @property
    def keeper(self) -> Keeper:
        """The loaded model and its record, for reading; work belongs into :meth:`run`."""
        if self._keeper is None:
            raise WorkerError(_CLOSED)
        return self._keeper

    @property
    def model(self) -> SentenceTransformer:
        """The loaded model, for reading settings; between drop and load this waits for it."""
        while (model := self.keeper.model) is None:
            self.run(lambda _: None)
        return model

    @property
    def stats(self) -> Stats:
        """What was done so far."""
        return self.keeper.stats

    def close(self) -> None:
        """End the thread and drop the model; calls that wait get an error. May be called again."""
        self._stop()
        if self._keeper is not None:
            self._keeper = None
            trim()


def wait_for(future: Future[T]) -> T:
    """Wait for the result of a call; give up its place if the wait is broken off, by Ctrl-C say.

    Args:
        future: What :meth:`Session.submit` gave.

    Returns:
        The result.
    """
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


_CLOSED = "This SafeEncoder is closed. Make a new one, or close it later."


@dataclass(slots=True, eq=False)
class _Job:
    """A call: what to run, and where its result goes."""

    work: Callable[[Inference], Any]
    needs_model: bool = True
    future: Future[Any] = field(default_factory=Future)
    steps: Generator[None, None, Any] | None = None

    def step(self, keeper: Keeper) -> bool:
        """Run to the next pause, or to the end.

        Args:
            keeper: Has the loaded model.

        Returns:
            Whether the call has ended.
        """
        try:
            inference = keeper.ready() if self.needs_model else keeper.inference
            if self.steps is None:
                found = self.work(inference)
                if not isinstance(found, Generator):
                    return self._end(found)
                self.steps = found
            if self.future.cancelled():
                self.steps.close()
                return True
            next(self.steps)
        except StopIteration as done:
            return self._end(done.value)
        except BaseException as raised:  # noqa: BLE001 it belongs to the caller
            return self._end(error=raised)
        return False

    def abort(self) -> None:
        """Give the call up, because the session was closed."""
        if self.steps is not None:
            self.steps.close()
        self._end(error=WorkerError(_CLOSED))

    def _end(self, found: Any = None, error: BaseException | None = None) -> bool:
        if self.future.set_running_or_notify_cancel():
            if error is None:
                self.future.set_result(found)
            else:
                self.future.set_exception(error)
        return True


class _LineClosedError(Exception):
    """The line was closed."""


class _Line:
    """Who waits, and whose turn it is; shared by the callers and the session's thread."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._active: deque[_Job] = deque()
        self._is_closed = False

    def add(self, job: _Job) -> None:
        """Let a call wait for its turn."""
        if os.getpid() != self._pid:
            raise WorkerError(
                f"This SafeEncoder was made in process {self._pid}; its thread and model are not "
                f"in the forked process {os.getpid()}. Make a new one there, after the fork.\n"
                "fork した子プロセスでは使えません。子プロセスの中で作り直してください。"
            )
        with self._changed:
            if self._is_closed:
                raise WorkerError(_CLOSED)
            self._waiting.append(job)
            self._changed.notify()

    def next(self, timeout: float | None) -> _Job | None:
        """Take the call whose turn it is, ``None`` if none came in time; raise when closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._active or self._waiting or self._is_closed, timeout
            )
            if self._is_closed:
                raise _LineClosedError
            while self._waiting and len(self._active) < _ACTIVE_CALLS:
                job = self._waiting.popleft()
                if not job.future.cancelled():
                    self._active.append(job)
            return self._active.popleft() if self._active else None

    def again(self, job: _Job) -> None:
        """Put a call that has not ended behind the other active ones."""
        with self._changed:
            if not self._is_closed:
                self._active.append(job)
                return
        job.abort()

    def close(self) -> list[_Job]:
        """Let nobody in any more; give those who waited."""
        with self._changed:
            self._is_closed = True
            left = [*self._active, *self._waiting]
            self._active.clear()
            self._waiting.clear()
            self._changed.notify_all()
            return left

    @property
    def is_foreign(self) -> bool:
        """Whether this is a forked copy, whose lock nobody may ever release."""
        return os.getpid() != self._pid


def _serve(line: _Line, loaded: Future[Keeper], load: Callable[[], Keeper]) -> None:
    """Load the model, then serve calls until the line is closed: the thread's whole life."""
    try:
        keeper = load()
    except BaseException as raised:  # noqa: BLE001 it belongs to the caller of SafeEncoder()
        line.close()
        loaded.set_exception(raised)
        return
    loaded.set_result(keeper)
    del loaded, load
    try:
        _serve_calls(line, keeper)
    finally:  # whatever ended the thread: nobody is to wait for it
        _stop(line)


def _serve_calls(line: _Line, keeper: Keeper) -> None:
    timeout: float | None = None
    while True:
        try:
            job = line.next(timeout)
        except _LineClosedError:
            return
        is_idle = job is None
        if job is not None and not job.step(keeper):
            line.again(job)
        # Texts and result of an ended call belong to its caller: held here, they would be growth
        # that no remedy gives back.
        del job
        waits = keeper.watch()
        timeout = 0.0 if waits else None if is_idle else _IDLE_SECONDS


def _stop(line: _Line, thread: threading.Thread | None = None) -> None:
    if line.is_foreign:
        return
    for job in line.close():
        job.abort()
    if thread not in (None, threading.current_thread()):
        thread.join(_CLOSE_SECONDS)
