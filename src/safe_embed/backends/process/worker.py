"""A worker process: the same supervisor and engine as in a thread backend.

The process ends when the other end hangs up, whatever it is doing then, and with its parent.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import queue
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, assert_never

from safe_embed.backends.process.messages import (
    Configure,
    CountCall,
    EventReport,
    ExpectReplacement,
    HoldBack,
    Idle,
    LoadFailed,
    LogRecord,
    MemoryReport,
    Ping,
    Pong,
    ReplacementFailed,
    ReportIdle,
    RequestReplacement,
    StartWorker,
    TaskDone,
    TaskStarted,
    ToWorker,
    WorkerReady,
)
from safe_embed.errors import ConfigError, both
from safe_embed.inference.tasks import (
    ChunkStretch,
    ChunkTexts,
    CopyTokenizer,
    EmbedBatch,
    EmbedFixedText,
    EncodeUpstream,
    MoveModel,
    Preprocess,
    StartProcesses,
    Task,
    Work,
)
from safe_embed.ipc.connection import Connection, ConnectionClosedError, UnreadableMessageError
from safe_embed.ipc.parent import end_with_parent
from safe_embed.ipc.portable_errors import portable
from safe_embed.ipc.signals import leave_to_parent
from safe_embed.memory.types import Event, Reason
from safe_embed.supervision.supervisor import Supervisor
from safe_embed.upstream.attributes import sentence_transformer

logger = logging.getLogger("safe_embed")

# A model that loads beside a busy one leaves the processor to it; only Linux has this by thread.
_LOADING_NICE = 5
# How old, and how wrong, what the encoder knows of a busy worker's memory may be.
_REPORT_SECONDS = 0.1
_REPORT_BYTES = 4 * 2**20


def main(pipe: socket.socket) -> None:
    """Be a worker: the whole life of the process.

    Args:
        pipe: Leads to the encoder.
    """
    end_with_parent()
    leave_to_parent()
    connection = Connection(pipe)
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(connection, inbox), name="read", daemon=True).start()
    status = 1
    try:
        with contextlib.suppress(ConnectionClosedError):
            _work(connection, inbox)
        status = 0
    except BaseException:  # noqa: BLE001 said where the message of the encoder points to
        traceback.print_exc()
    finally:
        os._exit(status)  # threads of libraries may still run; nothing waits for them


def _work(connection: Connection, inbox: queue.SimpleQueue[Any]) -> None:
    start = inbox.get()
    if isinstance(start, BaseException):
        connection.send(LoadFailed(start))
        return
    logger.propagate = False
    logger.setLevel(start.log_level)
    logger.addHandler(_ConnectionHandler(connection))
    try:
        supervisor = _in_background(lambda: _load(start, connection))
        facts = supervisor.facts(
            with_canary=True
        )  # of the model as it is loaded, whatever users set on it
        if start.model_settings is not None:
            supervisor.configure(start.model_settings)
    except BaseException as error:  # noqa: BLE001 it belongs to the process that started this worker
        connection.send(LoadFailed(portable(error)))
        return
    connection.send(WorkerReady(facts, supervisor.sample))
    worker = Worker(
        connection,
        inbox,
        supervisor,
        reports_start=start.reports_start,
        idle_seconds=start.conditions.idle_seconds,
    )
    worker.serve()


def _load(start: StartWorker, connection: Connection) -> Supervisor:
    if not callable(start.source.spec):  # a loader imports what it needs
        _import_upstream()

    def report(event: Event) -> None:
        connection.send(EventReport(event))

    def request_replacement(reason: Reason) -> None:
        connection.send(RequestReplacement(reason))

    supervisor = Supervisor(
        start.source.held(),
        start.settings,
        start.policy,
        [report],
        start.conditions,
        request_replacement,
    )
    if start.below_need is not None:
        supervisor.expect_miss(start.below_need)
    if start.threads is not None:
        import torch

        torch.set_num_threads(start.threads)
    return supervisor


def _import_upstream() -> None:
    """Import sentence-transformers, without searching its modules for garbage now or later.

    The import took 5.2 s of processor time in the place of 6.9, and a full collection of garbage
    afterwards no time in the place of 0.3 s (Python 3.11, sentence-transformers 6.2).
    """
    gc.disable()
    try:
        sentence_transformer()
    finally:
        gc.freeze()
        gc.enable()


class Worker:
    """Does one task after the other; between two of them the supervisor looks at memory.

    Args:
        connection: Leads to the dispatcher.
        inbox: Messages from there, and errors of those that cannot be read.
        supervisor: Holds the model.
        reports_start: Whether to say when a task is started.
        idle_seconds: After so long without a message the memory is looked at once more.
    """

    def __init__(
        self,
        connection: Connection,
        inbox: queue.SimpleQueue[Any],
        supervisor: Supervisor,
        *,
        reports_start: bool,
        idle_seconds: float,
    ) -> None:
        self._connection = connection
        self._inbox = inbox
        self._supervisor = supervisor
        self._reports_start = reports_start
        self._idle_seconds = idle_seconds
        self._reported: MemoryReport | None = None
        self._is_asked = False
        self._holds_back = False

    def serve(self) -> None:
        """Handle messages for ever; the process ends when the dispatcher hangs up."""
        timeout: float | None = None
        while True:
            try:
                message = self._inbox.get(timeout=timeout)
            except queue.Empty:
                message = None
            if message is not None:
                self.handle(message)
            waits = self._supervisor.watch()
            self._report_hold()
            self._report_memory(is_due=message is None)
            if self._is_asked and not waits and self._inbox.empty():
                self._is_asked = False
                self._connection.send(Idle())
            timeout = 0.0 if waits else self._idle_seconds if message is not None else None

    def handle(self, message: ToWorker | BaseException) -> None:
        """Do what a message asks for.

        Args:
            message: The message, or the error of one that cannot be read here.

        Raises:
            AssertionError: If the message is unknown.
        """
        match message:
            case BaseException():  # a task that cannot be read here
                self._connection.send(TaskDone(error=message))
            case CountCall():
                self._supervisor.meter.count(Work(calls=1, texts=message.texts))
            case Configure():
                self._supervisor.configure(message.model_settings)
            case ExpectReplacement():
                self._supervisor.expect_replacement(message.lead_seconds)
            case ReplacementFailed():
                self._supervisor.handover.failed(message.error)
            case ReportIdle():
                self._is_asked = True
            case (
                ChunkTexts()
                | ChunkStretch()
                | EmbedBatch()
                | EncodeUpstream()
                | CopyTokenizer()
                | EmbedFixedText()
                | Preprocess()
                | MoveModel()
                | StartProcesses()
            ):
                self._do(message)
            case _:
                assert_never(message)

    def _do(self, task: Task) -> None:
        if self._reports_start:
            self._connection.send(TaskStarted())
        try:
            done = TaskDone(self._supervisor.do(task))
        except BaseException as error:  # noqa: BLE001 it belongs to the caller
            done = TaskDone(error=portable(error, reads_texts=task.reads_texts))
        self._report_hold()  # before the task is done, so that no other one comes
        try:
            self._connection.send(done)
        except ConnectionClosedError:
            raise
        except BaseException as error:  # noqa: BLE001 what a model gave cannot be pickled
            self._connection.send(TaskDone(error=portable(error)))

    def _report_hold(self) -> None:
        """Say whether tasks are wanted, where that has changed."""
        if self._holds_back != self._supervisor.holds_back:
            self._holds_back = self._supervisor.holds_back
            self._connection.send(HoldBack(self._holds_back))

    def _report_memory(self, *, is_due: bool) -> None:
        """Send what the process holds, where that is news or due."""
        supervisor, last = self._supervisor, self._reported
        report = MemoryReport(supervisor.sample, supervisor.meter.baseline, supervisor.below_need)
        if is_due or last is None or _is_news(last, report):
            self._reported = report
            self._connection.send(report)


def _is_news(last: MemoryReport, report: MemoryReport) -> bool:
    """Whether a report is late, or says something else than the last one."""
    if report.sample.elapsed_seconds - last.sample.elapsed_seconds >= _REPORT_SECONDS:
        return True
    if report.below_need != last.below_need:
        return True
    return abs((report.sample.held_bytes or 0) - (last.sample.held_bytes or 0)) >= _REPORT_BYTES


def _in_background(load: Callable[[], Supervisor]) -> Supervisor:
    """Load on a thread that gives way to others; threads of the model's own are begun later."""
    supervisors: list[Supervisor] = []
    errors: list[BaseException] = []

    def run() -> None:
        if sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOADING_NICE)
        try:
            supervisors.append(load())
        except BaseException as error:  # noqa: BLE001 raised below
            errors.append(error)

    thread = threading.Thread(target=run, name="load")
    thread.start()
    thread.join()
    if errors:
        raise errors.pop()
    return supervisors.pop()


def _read(connection: Connection, inbox: queue.SimpleQueue[Any]) -> None:
    """Pass on what is said, and answer pings; when the other end hangs up the process ends."""
    while True:
        try:
            message = connection.receive()
            if isinstance(message, Ping):
                connection.send(Pong())
                continue
        except ConnectionClosedError:
            os._exit(0)
        except UnreadableMessageError as error:
            msg = both(
                "What was passed to SafeEncoder cannot be used in a process of its own: "
                f"{error}. A loader, a splitter or a policy of your own "
                "must stand in a module that can be imported, not in __main__ or a notebook.",
                "isolation='process' では、自作の関数やクラスは import できるモジュールに"
                "置いてください（__main__ やノートブックには置けません）。",
            )
            message = ConfigError(msg)
        inbox.put(message)


class _ConnectionHandler(logging.Handler):
    """Sends what is logged to the encoder's process, which knows where it shall go."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, as text."""
        with contextlib.suppress(ConnectionClosedError):
            self._connection.send(LogRecord(record.levelno, self.format(record)))
