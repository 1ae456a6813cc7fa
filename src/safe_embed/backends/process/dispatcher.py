"""The one thread that deals with worker processes: tasks, replacements, deaths.

Each worker is active in a slot; a worker that is to take another's place loads as its standby while
that one goes on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, assert_never

from safe_embed.backends.call_queue import ACTIVE_CALLS, CallQueue
from safe_embed.backends.calls import PendingCall
from safe_embed.backends.event_loop import EventLoop
from safe_embed.backends.process.messages import (
    Configure,
    CountCall,
    EventReport,
    ExpectReplacement,
    FromWorker,
    Idle,
    LoadFailed,
    LogRecord,
    MemoryReport,
    ReplacementFailed,
    RequestReplacement,
    StartWorker,
    TaskDone,
    TaskStarted,
    WorkerReady,
)
from safe_embed.backends.process.replacement import Replacement, Replacements
from safe_embed.backends.process.slots import Slot, WorkerSpec, no_worker_error
from safe_embed.backends.process.worker_handle import WorkerHandle
from safe_embed.errors import ReloadError, WorkerError
from safe_embed.inference.pipeline import Pipeline
from safe_embed.inference.request import Call, Settings
from safe_embed.inference.tasks import Flow, Work
from safe_embed.memory.event_log import EventLog
from safe_embed.memory.remedies import BelowNeed
from safe_embed.model.attributes import ModelFacts, ModelState
from safe_embed.model.canary import difference
from safe_embed.model.loader import ModelSource
from safe_embed.types import Event, Hook, Reason, Rung, Stats, WorkerState

logger = logging.getLogger("safe_embed")

# After so many workers in a row that could not be started the calls that wait get an error.
MOST_FAILURES = 3
_LAST_RETRY_SECONDS = 60.0


class Dispatcher(EventLoop):
    """Deals with the workers of one encoder.

    Args:
        spec: What every worker is to be.
        settings: What the encoder does with every text, its own pooling included.
        hooks: Are told what was done about memory.
        before: What was known of the model in another process, whose forked copy this is; what
            users have set there holds here.

    Attributes:
        model: What is known of the model; ``None`` before the first worker is ready.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        settings: Settings,
        hooks: Sequence[Hook],
        before: ModelState | None = None,
    ) -> None:
        super().__init__()
        self.calls = CallQueue(self._count_call, max(ACTIVE_CALLS, 2 * len(spec.devices)))
        self.model = None if before is None else ModelState(before.facts, before.settings)
        self._settings = settings
        self._spec = spec
        self._clock = spec.conditions.clock
        self._log = EventLog(hooks)
        self._done = Work()
        self._reloads = 0
        self._uncounted: deque[int] = deque()
        self._slots = [Slot(device) for device in spec.devices]
        self._workers: dict[WorkerHandle, Slot] = {}
        self._replacements = Replacements()
        self._sampler = spec.conditions.sampler()
        self._last: WorkerHandle | None = None
        self._failures = 0
        self._below_need: BelowNeed | None = None
        self._has_changed = False

    # What other threads may call

    def stages(self, call: Call) -> Flow[Any]:
        """Give the stages of a call; see :meth:`Pipeline.stages`."""
        return Pipeline(self._settings, self.known_model).stages(call)

    @property
    def known_model(self) -> ModelState:
        """What is known of the model; no call is begun before the first worker is ready."""
        if self.model is None:
            raise WorkerError("The first worker is not ready yet.")
        return self.model

    def configure(self, **changes: Any) -> None:
        """Change settings on every model, and on those that come later.

        Args:
            **changes: Fields of :class:`safe_embed.model.attributes.ModelSettings`.
        """
        self.post(partial(self._send_all, Configure(self.known_model.change(**changes))))

    def reload(self, reason: str) -> list[Future[Any]]:
        """Replace every worker.

        Args:
            reason: Why.

        Returns:
            One future for each, done when another worker is active.
        """
        return [self.promise(partial(self._reload, slot, reason)) for slot in self._slots]

    def abandon(self) -> None:
        """Let go of all workers in a forked copy, without a word to them."""
        for worker in self._workers:
            worker.abandon()

    @property
    def stats(self) -> Stats:
        """What was done so far."""
        latest = self._latest
        serving = [slot.active for slot in self._slots]
        workers = tuple(WorkerState(one.pid, one.sample, one.baseline) for one in serving if one)
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
        active = [slot.active for slot in self._slots if slot.active is not None]
        return self._last if self._last in active else next(iter(active), None)

    # The thread

    def begin(self) -> None:
        """Start a worker in every slot."""
        for slot in self._slots:
            self._start(slot)

    def turn(self) -> float | None:
        """Give every free worker a task, and look what is due."""
        self._look_at_the_clock()
        self._begin_replacements()
        self._assign()
        times = [worker.deadline for worker in self._workers]
        times += [slot.retry_at for slot in self._slots]
        due = [time for time in times if time is not None]
        return min(3600.0, max(0.0, min(due) - self._clock())) if due else None

    def check_idle(self) -> bool:
        """Tell whether there is no call and no replacement; ask the workers about themselves."""
        workers = [slot.active for slot in self._slots if slot.active is not None]
        if not self.calls.is_empty or self._replacements or len(workers) < len(self._slots):
            return False
        for worker in workers:
            worker.ask_idle()
        return all(worker.is_idle for worker in workers)

    def end(self) -> None:
        """End all workers."""
        self._replacements.fail_all(self.closed_error)
        for worker in self._workers:
            worker.hang_up()
        for worker in self._workers:
            worker.join()

    def _look_at_the_clock(self) -> None:
        now = self._clock()
        for worker in self._workers:
            if worker.deadline is not None and now >= worker.deadline:
                worker.kill(f"a task took longer than {self._spec.timeout_seconds:g} s")
        for slot in self._slots:
            if slot.retry_at is not None and now >= slot.retry_at:
                self._start(slot)

    # Calls and their tasks

    def _add(self, call: PendingCall) -> None:
        super()._add(call)
        self._retry_changed()

    def _assign(self) -> None:
        """Let every call go on that can, and give every free worker a task."""
        self.calls.advance()
        self._send_counts()
        active = [slot.active for slot in self._slots]
        for worker in [one for one in active if one is not None and one.is_free]:
            pending = self.calls.next()
            if pending is None:
                return
            try:
                worker.begin(*pending)
            except BaseException as error:  # noqa: BLE001 of an argument that is pickled
                worker.put_down()
                self.calls.fail(pending[0], error)

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

    def _on_task_done(self, worker: WorkerHandle, done: TaskDone) -> None:
        call, pending = worker.put_down()
        self._last = worker
        if call is None or pending is None:
            return
        if done.outcome is None:
            self.calls.fail(call, done.error or WorkerError("A task gave nothing."))
            return
        self._done = self._done.plus(done.outcome.work)
        if done.outcome.device is not None:  # which works: later workers go there
            self.known_model.change(device=done.outcome.device)
        self.calls.note(call, pending, done.outcome.values)

    # Workers come and go

    def _start(self, slot: Slot) -> None:
        """Start a worker; it is active in this slot once its model is loaded."""
        slot.retry_at = None
        if self._is_closed:
            return
        spec, source = self._spec, self._source(slot)
        if self._is_changed(slot, source):
            return
        try:
            worker = WorkerHandle(spec.surroundings, self._hear, self._hear_end)
        except (OSError, RuntimeError) as error:  # no memory, or no more of them allowed
            self._on_failure(slot, error)
            return
        slot.standby = worker
        self._workers[worker] = slot
        start = StartWorker(
            source,
            spec.settings,
            spec.policy,
            None if self.model is None else self.model.settings,
            spec.threads,
            logger.getEffectiveLevel(),
            reports_start=spec.timeout_seconds is not None,
            conditions=spec.conditions,
            below_need=self._below_need,
        )
        try:
            worker.send(start)
        except BaseException as error:  # noqa: BLE001 of what could be pickled, and was changed
            worker.refuse(error)

    def _retry_changed(self) -> None:
        """Start workers at once where files had changed: they may be back by now."""
        if self._has_changed and not any(slot.active for slot in self._slots):
            for slot in self._slots:
                if slot.retry_at is not None:
                    self._start(slot)

    @property
    def _known(self) -> ModelFacts | None:
        """The model that every worker must have."""
        return self._spec.known if self.model is None else self.model.facts

    def _source(self, slot: Slot) -> ModelSource:
        """Give what a worker is to load: what the first one has loaded, or nothing."""
        source, known = self._spec.source, self._known
        if known is not None:
            source = source.held_to(known.identity)
        return source if slot.device is None else source.on_device(slot.device)

    def _is_changed(self, slot: Slot, source: ModelSource) -> bool:
        """Look at the model's files before a process is started, or ended, for them."""
        try:
            source.check_held()
        except ReloadError as error:
            self._has_changed = True
            self._on_failure(slot, error)
            return True
        self._has_changed = False
        return False

    def _hear(self, worker: WorkerHandle, message: FromWorker) -> None:
        self.post(partial(self._on_message, worker, message))

    def _hear_end(self, worker: WorkerHandle) -> None:
        self.post(partial(self._on_end, worker))

    def _on_message(self, worker: WorkerHandle, message: FromWorker) -> None:
        match message:
            case TaskDone():
                self._on_task_done(worker, message)
            case MemoryReport():
                worker.sample, worker.baseline = message.sample, message.baseline
                self._below_need = self._below_need or message.below_need
            case TaskStarted():
                worker.expect_end(self._clock, self._spec.timeout_seconds)
            case WorkerReady():
                self._on_ready(worker, message)
            case LoadFailed():
                worker.refuse(message.error)
            case EventReport():
                self._report(message.event)
            case LogRecord():
                logger.log(message.level, "%s", message.message)
            case RequestReplacement():
                self._request_replacement(worker, message.reason)
            case Idle():
                worker.is_idle = True
            case _:
                assert_never(message)

    def _on_ready(self, worker: WorkerHandle, ready: WorkerReady) -> None:
        slot, known = self._workers[worker], self._known
        if known is not None:
            is_own = self.model is not None
            error = difference(known, ready.facts, in_one_pool=is_own)
            if error is not None:
                worker.refuse(error)
                return
        if self.model is None:
            self.model = ModelState(ready.facts)
        self._failures = 0
        worker.facts, worker.sample = ready.facts, ready.sample
        old, slot.active, slot.standby = slot.active, worker, None
        if old is not None:
            old.leave()
        replacement = self._replacements.take(slot)
        if replacement is not None:
            self._report_replacement(replacement, worker)
            replacement.end()
        if not self.begun.done() and all(slot.active for slot in self._slots):
            self.begun.set_result(None)

    def _on_end(self, worker: WorkerHandle) -> None:
        slot = self._workers.pop(worker)
        if self._is_closed:
            return
        if worker.facts is None:
            slot.standby = None
            ended = WorkerError(
                f"The worker process ended before its model was loaded: {worker.ending}. What it "
                "wrote last stands in the standard error output.\n"
                "モデルを読み込む前にワーカープロセスが終了しました。"
            )
            self._on_failure(slot, worker.error or ended)
            return
        if slot.active is worker:
            slot.active = None
            if not worker.is_leaving:
                self._report_death(worker)
        call, pending = worker.put_down()
        if call is not None and pending is not None:
            self.calls.again(call, pending)
        if slot.active is None and slot.standby is None:
            self._start(slot)

    def _on_failure(self, slot: Slot, error: BaseException) -> None:
        """Deal with a worker that could not be started: the old one stays, or it is tried again."""
        self._failures += 1
        if not self.begun.done():
            self.begun.set_exception(error)
            self._is_closed = True
            return
        replacement = self._replacements.take(slot)
        if replacement is not None:
            self._report_failure(replacement, error)
            replacement.end(error)
        if slot.active is not None:
            slot.active.send(ReplacementFailed(error))
            return
        logger.warning("PROCESS: a worker could not be begun: %s", type(error).__name__)
        first = self._spec.conditions.worker_retry_seconds
        wait = min(first * 2 ** min(self._failures, 10), _LAST_RETRY_SECONDS)
        slot.retry_at = self._clock() + wait
        is_hopeless = self._failures >= MOST_FAILURES or isinstance(error, ReloadError)
        if is_hopeless and not any(slot.active for slot in self._slots):
            failed = partial(no_worker_error, self._failures, wait, error)
            self.calls.fail_all(failed)
            self._replacements.fail_all(failed)

    # One worker in the place of another

    def _reload(self, slot: Slot, reason: str, future: Future[Any]) -> None:
        why = Reason(reason, rung=Rung.PROCESS)
        self._replacements.add(Replacement(slot, slot.active, why, future))
        self._retry_changed()

    def _request_replacement(self, worker: WorkerHandle, reason: Reason) -> None:
        """Let a worker be replaced that asked for it, unless it is to be already."""
        slot = self._workers[worker]
        if worker is slot.active and not self._replacements.includes(worker):
            below = self._below_need
            if below is not None and reason.bound_bytes is not None:
                self._below_need = below._replace(times=below.times + 1)
            self._replacements.add(Replacement(slot, worker, reason))

    def _begin_replacements(self) -> None:
        """Replace the next worker: beside it while both have room, else after it."""
        while (replacement := self._replacements.next(self._clock())) is not None:
            slot, active = replacement.slot, replacement.slot.active
            if active is None:
                return  # another one is loading already
            replacement.before = active.sample
            if self._is_changed(slot, self._source(slot)):
                continue  # the old one does not go for nothing
            if self._has_room(active):
                self._start(slot)
            else:
                replacement.is_drained = True
                slot.active = None
                active.leave()

    def _has_room(self, worker: WorkerHandle) -> bool:
        facts = worker.facts
        if facts is None:
            return False
        mine = self._sampler.take(fresh=True)
        sample = replace(mine, device_free_bytes=worker.sample.device_free_bytes)
        return self._spec.conditions.headroom(sample, facts.load_bytes, facts.weights_bytes)

    def _send_all(self, message: Configure) -> None:
        for worker in self._workers:
            worker.send(message)

    # What is reported

    def _report_replacement(self, replacement: Replacement, worker: WorkerHandle) -> None:
        seconds = self._clock() - replacement.since
        self._reloads += 1
        if replacement.reason.bound_bytes is not None:
            worker.send(ExpectReplacement(seconds))
        text, before = replacement.reason.text, replacement.before
        if replacement.is_drained:
            text += "; no room for two, so that calls waited"
        logger.info("PROCESS: remedy (%s) in %.3f s", text, seconds)
        self._report(Event("remedy", text, Rung.PROCESS, before, worker.sample, seconds))

    def _report_death(self, worker: WorkerHandle) -> None:
        why = f"the worker process ended: {worker.ending}"
        logger.warning("PROCESS: %s; it is replaced, and its task done again", why)
        self._report(Event("died", why, Rung.PROCESS, worker.sample, worker.sample, 0.0))

    def _report_failure(self, replacement: Replacement, error: BaseException) -> None:
        if replacement.future is None:
            return  # the worker that asked for it reports
        why, seconds = replacement.reason.text, self._clock() - replacement.since
        logger.warning("PROCESS: failed (%s): %s", why, type(error).__name__)
        held, name = replacement.before, type(error).__name__
        self._report(Event("failed", why, Rung.PROCESS, held, held, seconds, name))

    def _report(self, event: Event) -> None:
        self._reloads += (event.kind, event.rung) == ("remedy", Rung.MODEL)
        self._log.add(event)
