"""A worker process: the same keeper and engine as beside a thread, in a process of their own.

The process ends when the other end hangs up, whatever it is doing then, and with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import pickle
import queue
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from safe_embed.errors import ConfigError, SafeEmbedError, WorkerError
from safe_embed.model.attributes import embedding_dimension, user_settings, weights_bytes
from safe_embed.model.engine import Engine
from safe_embed.model.inference import Task
from safe_embed.model.keeper import Keeper
from safe_embed.model.messages import (
    Begun,
    Change,
    Expect,
    Leave,
    Logged,
    ModelFacts,
    Ready,
    Refused,
    Result,
    Start,
    State,
    Stay,
    Tally,
    Told,
)
from safe_embed.model.wire import Connection, ConnectionClosedError, UnreadableMessageError
from safe_embed.types import Event, Reason

logger = logging.getLogger("safe_embed")

# A model that loads beside a busy one leaves the processor to it; only Linux has this by thread.
_LOADING_NICE = 5
# How often a worker looks whether its parent is still there, should nobody hang up.
_PARENT_SECONDS = 1.0
# A worker without work looks at its memory once more, for what the last task left behind.
_IDLE_SECONDS = 1.0
# How old, and how wrong, what the encoder knows of a busy worker's memory may be.
_STATE_SECONDS = 0.1
_STATE_BYTES = 4 * 2**20
_PR_SET_PDEATHSIG = 1
# Tasks that are given texts; all others are given what was made of them.
_READ_TEXTS = frozenset({"chunk", "raw", "raw_elsewhere"})


def main(pipe: socket.socket) -> None:
    """Be a worker: the whole life of the process.

    Args:
        pipe: Leads to the encoder.
    """
    _die_with_parent()
    connection = Connection(pipe)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, inbox), name="read", daemon=True).start()
    threading.Thread(target=_watch_parent, args=(os.getppid(),), name="parent", daemon=True).start()
    try:
        with contextlib.suppress(ConnectionClosedError):
            _work(connection, inbox)
    finally:
        os._exit(0)  # whatever threads of libraries are doing: nobody waits for it any more


def _work(connection: Connection, inbox: queue.SimpleQueue[Any]) -> None:
    start = inbox.get()
    if isinstance(start, BaseException):
        connection.send(Refused(start))
        return
    logger.propagate = False
    logger.setLevel(start.log_level)
    logger.addHandler(_ConnectionHandler(connection))
    try:
        keeper = _in_background(lambda: _load(start, connection))
        facts = _facts(keeper)  # of the model as it is loaded, whatever users set on it
        _change(keeper.engine, start.changes)
    except BaseException as error:  # noqa: BLE001 it belongs to whoever began this worker
        connection.send(Refused(portable(error)))
        return
    connection.send(Ready(facts, keeper.sample))
    _serve(connection, inbox, keeper, tells_begun=start.tells_begun)


def _load(start: Start, connection: Connection) -> Keeper:
    def tell(event: Event) -> None:
        connection.send(Told(event))

    def leave(reason: Reason) -> None:
        connection.send(Leave(reason))

    keeper = Keeper(start.source.held(), start.settings, start.policy, [tell], leave)
    if start.below_need is not None:
        keeper.expect_miss(start.below_need)
    if start.threads is not None:
        import torch

        torch.set_num_threads(start.threads)
    return keeper


def _serve(
    connection: Connection, inbox: queue.SimpleQueue[Any], keeper: Keeper, *, tells_begun: bool
) -> None:
    """Do one task after the other; between two of them the keeper looks at memory."""
    timeout: float | None = None
    told: State | None = None
    while True:
        try:
            message = inbox.get(timeout=timeout)
        except queue.Empty:
            message = None
        if isinstance(message, Task):
            if tells_begun:
                connection.send(Begun())
            _answer(connection, _do(keeper, message))
        elif isinstance(message, BaseException):  # a task that cannot be read here
            connection.send(Result(error=message))
        else:
            _note(keeper, message)
        waits = keeper.watch()
        state = State(keeper.sample, keeper.meter.baseline, keeper.engine.done, keeper.below_need)
        if told is None or message is None or _is_news(told, state):
            told = state
            connection.send(state)
        timeout = 0.0 if waits else _IDLE_SECONDS if message is not None else None


def _is_news(told: State, state: State) -> bool:
    """Whether the encoder wants to know of a state: it reads some ten a second."""
    if state.sample.elapsed_seconds - told.sample.elapsed_seconds >= _STATE_SECONDS:
        return True
    if state.below_need != told.below_need:
        return True
    return abs((state.sample.held_bytes or 0) - (told.sample.held_bytes or 0)) >= _STATE_BYTES


def _note(keeper: Keeper, message: Any) -> None:
    match message:
        case Tally():
            keeper.engine.tally(message.texts)
        case Change():
            _change(keeper.engine, message.changes)
        case Expect():
            keeper.expect(message.lead_seconds)
        case Stay():
            keeper.stay(message.error)


def _do(keeper: Keeper, task: Task) -> Result:
    try:
        result = Result(keeper.ready().do(task))
    except BaseException as error:  # noqa: BLE001 it belongs to the caller
        result = Result(error=portable(error, reads_texts=task.name in _READ_TEXTS))
    return result


def _answer(connection: Connection, result: Result) -> None:
    try:
        connection.send(result)
    except ConnectionClosedError:
        raise
    except BaseException as error:  # noqa: BLE001 what a model gave cannot be pickled
        connection.send(Result(error=portable(error)))


def _change(engine: Engine, changes: dict[str, Any]) -> None:
    if "max_seq_length" in changes:
        engine.model.max_seq_length = changes["max_seq_length"]
    if "device" in changes:
        engine.model.to(changes["device"])


def _facts(keeper: Keeper) -> ModelFacts:
    model = keeper.engine.model
    kept = user_settings(model)
    return ModelFacts(
        keeper.engine.limit_tokens,
        str(kept.pop("device")),
        str(kept.pop("dtype")),
        keeper.engine.unit_length,
        _whole_dimension(model),
        sorted(model.get_model_kwargs()),
        kept,
        weights_bytes(model),
        keeper.sample.held_bytes or 0,
        keeper.renewal.canary(),
        keeper.engine.unpadded,
        keeper.engine.positions,
        keeper.renewal.identity,
    )


def _whole_dimension(model: Any) -> int | None:
    """Ask for the dimension of all that the model gives, however much of it users want."""
    wanted, model.truncate_dim = model.truncate_dim, None
    try:
        return embedding_dimension(model)
    finally:
        model.truncate_dim = wanted


def _in_background(load: Callable[[], Keeper]) -> Keeper:
    """Load on a thread that gives way to others; threads of the model's own are begun later."""
    found: list[Keeper] = []
    errors: list[BaseException] = []

    def run() -> None:
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOADING_NICE)
        try:
            found.append(load())
        except BaseException as error:  # noqa: BLE001 raised below
            errors.append(error)

    thread = threading.Thread(target=run, name="load")
    thread.start()
    thread.join()
    if errors:
        raise errors.pop()
    return found.pop()


def _read(connection: Connection, inbox: queue.SimpleQueue[Any]) -> None:
    """Pass on what is said; when the other end hangs up the process ends at once."""
    while True:
        try:
            message = connection.receive()
        except ConnectionClosedError:
            os._exit(0)
        except UnreadableMessageError as error:
            msg = (
                "What was passed to SafeEncoder cannot be used in a process of its own: "
                f"{error}. A loader, a splitter or a policy of your own "
                "must stand in a module that can be imported, not in __main__ or a notebook.\n"
                "isolation='process' では、自作の関数やクラスは import できるモジュールに"
                "置いてください。"
            )
            message = ConfigError(msg)
        inbox.put(message)


def _watch_parent(parent: int) -> None:
    """End with the parent, even if a forked copy of it keeps the socket open."""
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(_PARENT_SECONDS)
    os._exit(0)


def _die_with_parent() -> None:
    """Ask Linux to kill this process with its parent, even inside native code that hangs."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def portable(error: BaseException, *, reads_texts: bool = False) -> BaseException:
    """Make an error such that another process can raise it without importing anything for it.

    Args:
        error: Any error.
        reads_texts: Whether it was raised over texts, which its words may hold.

    Returns:
        The error itself if it is ours or a builtin, else the builtin it descends from, or a
        WorkerError; the traceback is in its notes. Where texts were read both are without words:
        those of a builtin are its raiser's own, and those that we repeat would be ours.
    """
    kind = type(error)
    told = f"{kind.__name__} in the worker process" if reads_texts else f"{kind.__name__}: {error}"
    if isinstance(error, SafeEmbedError) or kind.__module__ == "builtins":
        found = error
    else:
        bases = [one for one in kind.__mro__ if one.__module__ == "builtins"]
        base = bases[0] if bases[0] is not Exception else WorkerError
        try:
            found = base(told)
        except TypeError:  # UnicodeError and the like want more
            found = WorkerError(told)
    try:
        found = pickle.loads(pickle.dumps(found))  # noqa: S301 what was pickled here
    except Exception:  # noqa: BLE001 whatever it holds stays here
        found = WorkerError(told)
    trace = _frames(error) if reads_texts else "".join(traceback.format_exception(error))
    found.add_note(f"In the worker process:\n{trace}")
    return found


def _frames(error: BaseException | None) -> str:
    """Say where an error was raised, and those before it, without a word of theirs."""
    found: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        where = "".join(traceback.format_tb(error.__traceback__))
        found.append(f"{where}{type(error).__name__}\n")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "and then\n".join(reversed(found))


class _ConnectionHandler(logging.Handler):
    """Sends what is logged to the encoder's process, which knows where it shall go."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, as text."""
        with contextlib.suppress(ConnectionClosedError):
            self._connection.send(Logged(record.levelno, self.format(record)))
