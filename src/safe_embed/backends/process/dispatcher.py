"""The one thread that deals with worker processes: which worker does which task, and what it says.

Each worker is active in a slot; a worker that is to take another's place loads as its standby while
that one goes on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import cached_property, partial
from typing import Any, assert_never

from safe_embed.backends.admission import Admission
from safe_embed.backends.call_queue import ACTIVE_CALLS, CallQueue
from safe_embed.backends.calls import PendingCall
from safe_embed.backends.event_loop import EventLoop
from safe_embed.backends.process.heartbeat import HangWatch
from safe_embed.backends.process.messages import (
    Configure,
    CountCall,
    EventReport,
    FromWorker,
    HoldBack,
    Idle,
    LoadFailed,
    LogRecord,
    MemoryReport,
    RequestReplacement,
    TaskDone,
    TaskStarted,
    WorkerReady,
)
from safe_embed.backends.process.slots import WorkerSpec
from safe_embed.backends.process.worker_handle import WorkerHandle
from safe_embed.backends.process.workers import Listener, Workers
from safe_embed.errors import WorkerError, both
from safe_embed.inference.pipeline import Pipeline
from safe_embed.inference.request import Call, Settings
from safe_embed.inference.tasks import Flow, Work
from safe_embed.memory.event_log import EventLog
from safe_embed.memory.types import Event, Hook, Rung, Stats, WorkerState
from safe_embed.upstream.settings import ModelState

logger = logging.getLogger("safe_embed")

_NOTHING = both(
    "A task gave nothing. Call it again; if it comes again, make a new SafeEncoder.",
    "処理の結果がありません。もう一度呼び、繰り返すなら SafeEncoder を作り直してください。",
)


class Dispatcher(EventLoop):
    """Deals with the workers of one encoder.

    Args:
        spec: What every worker is to be.
        settings: What the encoder does with every text, its own pooling included.
        hooks: Functions that receive every event.
        before: What was known of the model in another process, whose forked copy this is; what
            users have set there holds here.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        settings: Settings,
        hooks: Iterable[Hook],
        before: ModelState | None = None,
    ) -> None:
        super().__init__(Admission(settings.max_waiting_texts, settings.when_full))
        self.calls = CallQueue(self._count_call, max(ACTIVE_CALLS, 2 * len(spec.devices)))
        self._settings = settings
        self._spec = spec
        self._clock = spec.conditions.clock
        self._log = EventLog(hooks)
        self._done = Work()
        self._reloads = 0
        self._uncounted: deque[int] = deque()
        self._last: WorkerHandle | None = None
        listener = Listener(self._hear, self._hear_end, self._report, self._fail_calls)
        known = None if before is None else ModelState(before.facts, before.settings)
        self._workers = Workers(spec, listener, known)
        self.begun = self._workers.begun
        self._sampler = spec.conditions.sampler()
        self._watch = HangWatch(self._clock, spec.timeout_seconds)

    # What other threads may call

    def stages(self, call: Call) -> Flow[Any]:
        """Give the stages of a call; see :meth:`Pipeline.stages`."""
        return self._pipeline.stages(call)

    @cached_property
    def _pipeline(self) -> Pipeline:
        return Pipeline(self._settings, self.model)

    @property
    def model(self) -> ModelState:
        """What is known of the model.

        Raises:
            WorkerError: If the first worker is not ready yet.
        """
        if self._workers.model is None:
            raise WorkerError(
                both(
                    "The first worker is not ready yet. Call it again a moment later.",
                    "最初のワーカープロセスの準備ができていません。少し待ってから呼んでください。",
                )
            )
        return self._workers.model

    def configure(self, **changes: Any) -> None:
        """Change settings on every model, and on those that come later.

        Args:
            **changes: Fields of :class:`safe_embed.upstream.settings.ModelSettings`.
        """
        self.post(partial(self._send_all, Configure(self.model.change(**changes))))

    def reload(self, reason: str) -> list[Future[Any]]:
        """Replace every worker.

        Args:
            reason: Why.

        Returns:
            One future for each, done when another worker is active.
        """
        return [
            self.promise(partial(self._workers.reload, slot, reason))
            for slot in self._workers.slots
        ]

    def abandon(self) -> None:
        """Let go of all workers in a forked copy, without a word to them."""
        for worker in self._workers:
            worker.abandon()

    @property
    def stats(self) -> Stats:
        """Counts of the work since the encoder was made, and memory, as of now."""
        latest = self._latest
        workers = tuple(
            WorkerState(worker.pid, worker.sample, worker.baseline)
            for worker in self._workers.active
        )
        return Stats(
            *self._done,
            self._reloads,
            self._sampler.take() if latest is None else latest.sample,
            next((worker.baseline for worker in workers), None),
            tuple(self._log.events),
            workers,
        )

    @property
    def _latest(self) -> WorkerHandle | None:
        """The worker that did something last, or any that is active."""
        active = self._workers.active
        return self._last if self._last in active else next(iter(active), None)

    # The thread

    def begin(self) -> None:
        """Start a worker in every slot."""
        for slot in self._workers.slots:
            self._workers.start(slot)

    def turn(self) -> float | None:
        """Give every free worker a task, and look what is due."""
        self._watch.kill_hanging(self._workers)
        self._workers.retry_due()
        self._workers.begin_replacements()
        self._assign()
        if self.begun.done() and self.begun.exception() is not None:
            self._is_closed = True
            return 0.0
        times = [slot.retry_at for slot in self._workers.slots]
        times.append(self._watch.next_look(self._workers))
        due = [time for time in times if time is not None]
        return min(3600.0, max(0.0, min(due) - self._clock())) if due else None

    def check_idle(self) -> bool:
        """Tell whether there is no call and no replacement; ask the workers about themselves."""
        active = self._workers.active
        is_busy = not self.calls.is_empty or bool(self._workers.replacements)
        if is_busy or len(active) < len(self._workers.slots):
            return False
        for worker in active:
            worker.ask_idle()
        return all(worker.is_idle for worker in active)

    def end(self) -> None:
        """End all workers."""
        self._workers.close(self.closed_error)

    # Calls and their tasks

    def _add(self, call: PendingCall) -> None:
        super()._add(call)
        self._workers.retry_changed()

    def _assign(self) -> None:
        """Let every call go on that can, and give every free worker a task."""
        self.calls.advance()
        self._send_counts()
        for worker in self._workers.active:
            if not worker.is_free:
                continue
            pending = self.calls.next()
            if pending is None:
                return
            try:
                worker.begin(*pending)
            except BaseException as error:  # noqa: BLE001 of an argument that is pickled
                worker.put_down()
                self.calls.fail(pending[0], error)

    def _fail_calls(self, error: Callable[[], BaseException]) -> None:
        # Calls that wait for room come first: calls under way make room when they end.
        self.admission.fail_waiting(error)
        self.calls.fail_all(error)

    def _count_call(self, texts: int) -> None:
        self._done = self._done.plus(Work(calls=1, texts=texts))
        self._uncounted.append(texts)

    def _send_counts(self) -> None:
        """Let a worker know of calls that have ended, for policies that count them."""
        worker = self._latest
        if worker is None or worker.is_leaving:
            return  # the next one is told
        while self._uncounted:
            worker.send(CountCall(self._uncounted.popleft()))

    def _send_all(self, message: Configure) -> None:
        for worker in self._workers:
            worker.send(message)

    # What workers say

    def _hear(self, worker: WorkerHandle, message: FromWorker) -> None:
        self.post(partial(self._on_message, worker, message))

    def _hear_end(self, worker: WorkerHandle) -> None:
        self.post(partial(self._on_end, worker))

    def _on_message(self, worker: WorkerHandle, message: FromWorker) -> None:
        match message:
            case TaskDone():
                self._on_task_done(worker, message)
            case TaskStarted():
                worker.expect_end(self._clock, self._spec.timeout_seconds)
            case WorkerReady():
                self._workers.ready(worker, message)
            case LoadFailed():
                worker.refuse(message.error)
            case Idle():
                worker.is_idle = True
            case HoldBack():
                worker.holds_back = message.holds_back
            case _:
                self._on_report(worker, message)

    def _on_report(
        self,
        worker: WorkerHandle,
        message: MemoryReport | EventReport | LogRecord | RequestReplacement,
    ) -> None:
        match message:
            case MemoryReport():
                self._workers.note_memory(worker, message)
            case EventReport():
                self._report(message.event)
            case LogRecord():
                logger.log(message.level, "%s", message.message)
            case RequestReplacement():
                self._workers.request_replacement(worker, message.reason)
            case _:
                assert_never(message)

    def _on_task_done(self, worker: WorkerHandle, done: TaskDone) -> None:
        call, pending = worker.put_down()
        self._last = worker
        if call is None or pending is None:
            return
        if done.outcome is None:
            self.calls.fail(call, done.error or WorkerError(_NOTHING))
            return
        self._done = self._done.plus(done.outcome.work)
        if done.outcome.device is not None:  # which works: later workers go there
            self.model.change(device=done.outcome.device)
        self.calls.note(call, pending, done.outcome.values)

    def _on_end(self, worker: WorkerHandle) -> None:
        slot = self._workers.ended(worker)
        if self._is_closed or worker.facts is None:
            return
        call, pending = worker.put_down()
        if call is not None and pending is not None:
            self.calls.again(call, pending)
        if slot.is_vacant:
            self._workers.start(slot)

    def _report(self, event: Event) -> None:
        self._reloads += event.kind == "remedy" and event.rung >= Rung.MODEL
        self._log.add(event)
