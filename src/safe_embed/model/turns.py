"""Calls and their turns: who waits, who is served, and how far each call is."""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar

from safe_embed._errors_foreign import deliverable
from safe_embed.errors import ConfigError, WorkerError
from safe_embed.model.inference import Inference, Task, Wave

Model = TypeVar("Model", bound=Inference)
P = ParamSpec("P")
T = TypeVar("T")

# Calls that are served in turn; those behind them wait with nothing tokenized yet.
ACTIVE_CALLS = 4
CLOSED = "This SafeEncoder is closed. Make a new one, or close it later."


def wait_for(future: Future[T]) -> T:
    """Wait for the result of a call; give up its place if the wait is broken off, by Ctrl-C say.

    Args:
        future: What a session gave.

    Returns:
        The result.
    """
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


class Piece(NamedTuple):
    """A task of a call, and who takes its result: the call, or what puts two halves together."""

    task: Task
    note: Callable[[Any], None]

    def halves(self) -> tuple[Piece, Piece]:
        """Part a task with more than one item in two; their results become one again."""
        middle = len(self.task.items) // 2
        found: dict[int, Any] = {}

        def note(place: int, result: Any) -> None:
            found[place] = result
            if len(found) > 1:
                self.note([*found[0], *found[1]])

        items = self.task.items[:middle], self.task.items[middle:]
        first, second = (replace(self.task, items=one) for one in items)
        return Piece(first, partial(note, 0)), Piece(second, partial(note, 1))


def check_caller(thread: threading.Thread) -> None:
    """Refuse a caller that would wait for itself.

    Args:
        thread: The one that serves calls.

    Raises:
        WorkerError: If this is it.
    """
    if threading.current_thread() is thread:
        raise WorkerError(
            "The encoder was called from its own thread, by a hook or a pooling function, and "
            "would wait for itself for ever. Call it from elsewhere."
        )


def check_pool(pool: Any, key: str) -> None:
    """Refuse a pool that another kind of encoder has started.

    Args:
        pool: What was passed.
        key: What a pool of the right kind holds.

    Raises:
        ConfigError: If it is another.
    """
    if not isinstance(pool, Mapping) or key not in pool:
        raise ConfigError(
            "pool=… was not started by an encoder of this kind. Pass what this encoder's own "
            "start_multi_process_pool() gives."
        )


@dataclass(slots=True, eq=False)
class Job:
    """A call: what to run, where its result goes, and what there is to do for it now.

    Args:
        work: Takes whoever has the model; gives a result, or a flow that leads to one.
        needs_model: Whether it must wait for the model, where that is being exchanged.
    """

    work: Callable[[Any], Any]
    needs_model: bool = True
    future: Future[Any] = field(default_factory=Future)
    pending: deque[Piece] = field(default_factory=deque)
    _flow: Generator[Wave | None, Any, Any] | None = None
    _wave: Wave | None = None
    _found: list[Any] = field(default_factory=list)
    _open: int = 0

    @property
    def is_waiting(self) -> bool:
        """Whether tasks of it are under way, so that its flow cannot go on yet."""
        return self._open > 0

    def go_on(self, inference: Inference) -> bool:
        """Let the flow go on to its next tasks, its next pause, or its end.

        Args:
            inference: Whoever has the model.

        Returns:
            Whether the call has ended.
        """
        try:
            if self._flow is None:
                found = self.work(inference)
                if not isinstance(found, Generator):
                    return self.end(found)
                self._flow = found
        except BaseException as raised:  # noqa: BLE001 it belongs to the caller
            return self.end(error=raised)
        if self.future.cancelled():
            return self._give_up()
        try:
            self._wave = self._flow.send(None if self._wave is None else self._found)
        except StopIteration as done:  # of a generator it is its end, and nothing else
            return self.end(done.value)
        except BaseException as raised:  # noqa: BLE001 it belongs to the caller
            return self.end(error=raised)
        tasks = [] if self._wave is None else self._wave.tasks
        self.pending.extend(Piece(task, partial(self._note, at)) for at, task in enumerate(tasks))
        self._found = [None] * len(tasks)
        self._open = len(tasks)
        return False

    def _note(self, place: int, found: Any) -> None:
        """Take the result of a task of the wave."""
        self._found[place] = found
        self._open -= 1
        if self._wave is not None and self._wave.bar is not None:
            self._wave.bar.update()

    def fail(self, error: BaseException) -> bool:
        """Let the flow deal with the error of a task; it ends of it.

        Args:
            error: The error.

        Returns:
            Whether the call has ended: ``True``.
        """
        self._close()
        return self.end(error=error)

    def end(self, found: Any = None, error: BaseException | None = None) -> bool:
        """Give the caller a result, or an error.

        Args:
            found: The result.
            error: The error, if there is one.

        Returns:
            ``True``.
        """
        if self.future.done() and not self.future.cancelled():
            return True  # it has ended already, of another of its tasks or with its session
        with suppress(RuntimeError, InvalidStateError):  # likewise, at this very moment
            if self.future.set_running_or_notify_cancel():
                if error is None:
                    self.future.set_result(found)
                else:
                    self.future.set_exception(deliverable(error))
        return True

    def _give_up(self) -> bool:
        self._close()
        return True

    def _close(self) -> None:
        self.pending.clear()
        if self._flow is not None:
            with suppress(BaseException):  # of a progress bar: there is an error to tell already
                self._flow.close()


class Queue(ABC, Generic[Model]):
    """Takes calls from any thread, for whoever has the model."""

    @abstractmethod
    def _add(self, job: Job) -> None:
        """Let a call wait for its turn."""

    def submit(
        self, work: Callable[Concatenate[Model, P], Any], *args: P.args, **kwargs: P.kwargs
    ) -> Future[Any]:
        """Queue *work*.

        Args:
            work: Takes the inference, then the other arguments; gives a result, or a flow that is
                served step by step.
            *args: Further arguments.
            **kwargs: Further arguments.

        Returns:
            A future of what *work* gives; cancelling it gives up its place.

        Raises:
            WorkerError: If the encoder is closed, or what it needs is not in this process.
        """
        job = Job(lambda inference: work(inference, *args, **kwargs))
        self._add(job)
        return job.future

    def run(
        self, work: Callable[Concatenate[Model, P], Any], *args: P.args, **kwargs: P.kwargs
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


class LineClosedError(Exception):
    """The line was closed."""


class Line:
    """Who waits, and whose turn it is; shared by the callers and the thread that serves them."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._active: deque[Job] = deque()
        self._is_closed = False

    def add(self, job: Job) -> None:
        """Let a call wait for its turn."""
        if os.getpid() != self._pid:
            raise WorkerError(
                f"This SafeEncoder was made in process {self._pid}; its thread and model are not "
                f"in the forked process {os.getpid()}. Make a new one there, after the fork.\n"
                "fork した子プロセスでは使えません。子プロセスの中で作り直してください。"
            )
        with self._changed:
            if self._is_closed:
                raise WorkerError(CLOSED)
            self._waiting.append(job)
            self._changed.notify()

    def next(self, timeout: float | None) -> Job | None:
        """Take the call whose turn it is, ``None`` if none came in time; raise when closed."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._active or self._waiting or self._is_closed, timeout
            )
            if self._is_closed:
                raise LineClosedError
            while self._waiting and len(self._active) < ACTIVE_CALLS:
                job = self._waiting.popleft()
                if not job.future.cancelled():
                    self._active.append(job)
            return self._active.popleft() if self._active else None

    def again(self, job: Job) -> None:
        """Put a call that has not ended behind the other active ones."""
        with self._changed:
            if not self._is_closed:
                self._active.append(job)
                return
        job.fail(WorkerError(CLOSED))

    def close(self) -> list[Job]:
        """Let nobody in any more; give those who waited."""
        with self._changed:
            self._is_closed = True
            left = [*self._active, *self._waiting]
            self._active.clear()
            self._waiting.clear()
            self._changed.notify_all()
            return left

    @property
    def is_quiet(self) -> bool:
        """Whether no call is under way; those that wait have not begun."""
        return not self._active

    @property
    def is_foreign(self) -> bool:
        """Whether this is a forked copy, whose lock nobody may ever release."""
        return os.getpid() != self._pid
