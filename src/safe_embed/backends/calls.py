"""A call on its way: how far it is, which tasks it waits for, and where its result goes."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import InitVar, dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from safe_embed.errors import ConfigError, WorkerError, both
from safe_embed.foreign import deliverable
from safe_embed.inference.tasks import CallEnded, Flow, Task, Wave

T = TypeVar("T")

CLOSED = both(
    "This SafeEncoder is closed. Make a new one, or close it later.",
    "この SafeEncoder は閉じられています。作り直すか、あとで閉じてください。",
)

ENDING = both(
    "Python is ending, and has closed this SafeEncoder. A function that still embeds must be "
    "registered with atexit after the SafeEncoder was made; then it is called before that.",
    "Python の終了にともない、この SafeEncoder は閉じられました。終了時に使う関数は、SafeEncoder を"
    "作ったあとで atexit に登録してください。",
)


# Threads that wait for an encoder: all that runs on them meanwhile is a signal handler. By number,
# not by a thread-local value: greenlets that are made to pass for threads have numbers, too.
_WAITING: set[int] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_WAITING.clear)


@contextmanager
def waiting() -> Iterator[None]:
    """Take note that this thread waits for an encoder.

    Yields:
        Nothing.

    Raises:
        WorkerError: If it waits already, and a signal handler has interrupted that: locks that it
            holds then would never be released.
    """
    refuse_handlers()
    number = threading.get_ident()
    try:
        _WAITING.add(number)
        yield
    finally:
        _WAITING.discard(number)


def refuse_handlers() -> None:
    """Refuse to wait in a signal handler that has interrupted a call.

    Raises:
        WorkerError: If this thread waits for an encoder already.
    """
    if threading.get_ident() in _WAITING:
        raise WorkerError(
            both(
                "The encoder was called by a signal handler that has interrupted another call of "
                "the same thread, and could wait for itself for ever. Let the handler set a flag, "
                "and call the encoder outside of it.",
                "呼び出しの途中に割り込んだシグナルハンドラーからは、エンコーダーを呼べません。"
                "ハンドラーでは印だけを付け、その外で呼んでください。",
            )
        )


def wait_for(future: Future[T]) -> T:
    """Wait for the result of a call; cancel the call if the wait is broken off, as by Ctrl-C.

    Args:
        future: What a backend gave.

    Returns:
        The result.
    """
    try:
        with waiting():
            return future.result()
    except BaseException:
        future.cancel()
        raise


def drive(steps: Generator[Future[Any], Any, T]) -> T:
    """Wait for the futures of a generator one by one, on the caller's thread.

    Args:
        steps: Yields futures, is sent their results or errors, and returns the value.

    Returns:
        The value.
    """
    try:
        future = next(steps)
        while True:
            try:
                result = wait_for(future)
            except BaseException as error:  # noqa: BLE001 the steps may have something to end
                future = steps.throw(error)
            else:
                future = steps.send(result)
    except StopIteration as done:
        value: T = done.value
        return value


def settle(future: Future[Any], value: Any = None, error: BaseException | None = None) -> None:
    """Give a future its result or error, unless it has been cancelled or has either already.

    Args:
        future: Any future.
        value: The result.
        error: The error; wins over *value*.
    """
    with suppress(RuntimeError, InvalidStateError):
        if not future.done() and future.set_running_or_notify_cancel():
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(deliverable(error))


def check_caller(thread: threading.Thread) -> None:
    """Refuse a caller that would wait for itself.

    Args:
        thread: The thread of the backend.

    Raises:
        WorkerError: If the caller runs on it, or is a signal handler that has interrupted a call.
    """
    refuse_handlers()
    if threading.current_thread() is thread:
        raise WorkerError(
            both(
                "The encoder was called from its own thread, by a hook or a pooling function, and "
                "would wait for itself for ever. Call it from elsewhere.",
                "フックやプーリング関数の中からエンコーダーを呼ぶと、自分を待ち続けてしまいます。"
                "ほかの場所から呼んでください。",
            )
        )


def check_pool(pool: Any, *, has_workers: bool) -> None:
    """Refuse a pool that an encoder with another isolation has started.

    Args:
        pool: What the caller passed.
        has_workers: Whether it must have worker processes of ours, and not upstream's own.

    Raises:
        ConfigError: If *pool* is none.
    """
    is_record = isinstance(pool, Mapping) and "input" in pool
    if not is_record or ("worker_pool" in pool) != has_workers:
        raise ConfigError(
            both(
                "pool=… was not started by an encoder of this kind. Pass what this encoder's own "
                "start_multi_process_pool() gives.",
                "pool=… は、この種類のエンコーダーのものではありません。このエンコーダーの "
                "start_multi_process_pool() の結果を渡してください。",
            )
        )


@dataclass(slots=True, eq=False)
class PendingTask:
    """A task that waits for its turn, or is being done.

    Attributes:
        task: What to do.
        note: Takes the values: the call, or what puts the two halves of a parted task together.
        deaths: How many worker processes have died of the task.
    """

    task: Task
    note: Callable[[Any], None]
    deaths: int = 0

    def halves(self) -> tuple[PendingTask, PendingTask]:
        """Part a task that has more than one item in two; their values become one list again."""
        middle = len(self.task.items) // 2
        values: dict[int, Any] = {}

        def note(half: int, part: Any) -> None:
            values[half] = part
            if len(values) > 1:
                self.note([*values[0], *values[1]])

        # mypy sees the union of the kinds of items only.
        first = replace(self.task, items=self.task.items[:middle])  # type: ignore[arg-type]
        second = replace(self.task, items=self.task.items[middle:])  # type: ignore[arg-type]
        return PendingTask(first, partial(note, 0)), PendingTask(second, partial(note, 1))


@dataclass(slots=True, eq=False)
class PendingCall:
    """A call that waits, or is under way.

    Args:
        begin: Gives the stages of the call, once its turn has come. It holds the texts, and is
            forgotten when the call has its result, or is cancelled.

    Attributes:
        future: Of the caller.
        priority: Calls of a higher priority are served first.
        on_begin: Is called when the turn of the call has come: it waits no longer.
        pending: Tasks of the current stage that nobody does yet.
    """

    begin: InitVar[Callable[[], Flow[Any]]]
    future: Future[Any] = field(default_factory=Future)
    priority: int = 0
    on_begin: Callable[[], None] | None = None
    pending: deque[PendingTask] = field(default_factory=deque)
    _flow: Flow[Any] | None = None
    _wave: Wave | None = None
    _values: list[Any] = field(default_factory=list)
    _open: int = 0
    _begin: list[Callable[[], Flow[Any]]] = field(init=False)

    def __post_init__(self, begin: Callable[[], Flow[Any]]) -> None:
        # The future must not refer to the call: results would wait for the garbage collector.
        kept = self._begin = [begin]
        self.future.add_done_callback(lambda _: kept.clear())

    @property
    def is_waiting(self) -> bool:
        """Whether tasks are under way that the next stage needs."""
        return self._open > 0

    def advance(self) -> CallEnded | None:
        """Move the call on to its next stage, or end it.

        The result of the call, or its error, is set on :attr:`future`; nothing is raised here.

        Returns:
            A record of the texts of a call that has done its work, for the counts of ``stats``;
            ``None`` at any other stage.
        """
        try:
            # An IndexError if the call was cancelled a moment ago: nobody waits for it.
            flow = self._flow = self._flow or self._begin[0]()
        except BaseException as raised:  # noqa: BLE001 it belongs to the caller
            settle(self.future, error=raised)
            return None
        try:
            stage = flow.send(None if self._wave is None else self._values)
        except StopIteration as done:  # of a generator it is its end, and nothing else
            settle(self.future, done.value)
            return None
        except BaseException as raised:  # noqa: BLE001 it belongs to the caller
            settle(self.future, error=raised)
            return None
        if isinstance(stage, CallEnded):
            self._wave = None
            return stage
        self._wave = stage
        self.pending.extend(
            PendingTask(task, partial(self._note, index)) for index, task in enumerate(stage.tasks)
        )
        self._values = [None] * len(stage.tasks)
        self._open = len(stage.tasks)
        return None

    def fail(self, error: BaseException) -> None:
        """End the call with an error.

        Args:
            error: The error.
        """
        self.pending.clear()
        if self._flow is not None:
            with suppress(BaseException):  # of a progress bar: there is an error to tell already
                self._flow.close()
        settle(self.future, error=error)

    def _note(self, index: int, values: Any) -> None:
        """Take the values of a task of the stage."""
        self._values[index] = values
        self._open -= 1
        if self._wave is not None and self._wave.bar is not None:
            self._wave.bar.update()
