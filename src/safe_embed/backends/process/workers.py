"""The worker processes of a pool: started into slots, replaced, and started again after a death.

Everything here runs on the dispatcher's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from safe_embed.backends.process.messages import (
    ExpectReplacement,
    FromWorker,
    MemoryReport,
    ReplacementFailed,
    StartWorker,
    WorkerReady,
)
from safe_embed.backends.process.replacement import Replacement, Replacements
from safe_embed.backends.process.slots import Slot, WorkerSpec, ended_early, no_worker_error
from safe_embed.backends.process.worker_handle import WorkerHandle
from safe_embed.errors import ReloadError
from safe_embed.memory.event_log import log_event
from safe_embed.memory.ladder import BelowNeed
from safe_embed.memory.types import Event, Reason, Rung
from safe_embed.upstream.same_model import difference
from safe_embed.upstream.settings import ModelFacts, ModelState
from safe_embed.upstream.source import ModelSource

logger = logging.getLogger("safe_embed")

# After so many workers in a row that could not be started the calls that wait get an error.
MOST_FAILURES = 3
_LAST_RETRY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Listener:
    """What the dispatcher wants to know of its workers.

    Attributes:
        message: Is called with every message of a worker, on a thread of that worker's own.
        end: Is called when the process of a worker is gone, likewise.
        event: Receives every event about memory.
        failure: Ends all calls, as no worker can be started; receives a function that makes the
            error of each.
    """

    message: Callable[[WorkerHandle, FromWorker], None]
    end: Callable[[WorkerHandle], None]
    event: Callable[[Event], None]
    failure: Callable[[Callable[[], BaseException]], None]


class Workers:
    """Starts, replaces and ends worker processes.

    Args:
        spec: What every worker is to be.
        listener: Functions that receive messages, ends of processes, and events.
        model: What another process knew of the model, whose forked copy this is.

    Attributes:
        model: What is known of the model; ``None`` before the first worker is ready.
        slots: Where workers are active.
        replacements: Which workers are to be replaced.
        begun: Is done when all slots have an active worker; has the error if there is none.
    """

    def __init__(self, spec: WorkerSpec, listener: Listener, model: ModelState | None) -> None:
        self.model = model
        self.slots = [Slot(device) for device in spec.devices]
        self.replacements = Replacements()
        self.begun: Future[None] = Future()
        self._spec = spec
        self._listener = listener
        self._clock = spec.conditions.clock
        self._sampler = spec.conditions.sampler()
        self._all: dict[WorkerHandle, Slot] = {}
        self._failures = 0
        self._below_need: BelowNeed | None = None
        self._has_changed = False
        self._is_closed = False

    def __iter__(self) -> Iterator[WorkerHandle]:
        """Give all workers: active, loading, or about to end."""
        return iter(tuple(self._all))

    @property
    def active(self) -> list[WorkerHandle]:
        """The workers that do tasks."""
        return [slot.active for slot in self.slots if slot.active is not None]

    def close(self, error: Callable[[], BaseException]) -> None:
        """End all workers, and wait until they are gone.

        Args:
            error: Makes the error of callers who wait for a replacement.
        """
        self._is_closed = True
        self.replacements.fail_all(error)
        for worker in self:
            if not worker.is_loaded:  # an import may keep it from noticing
                worker.kill("the encoder was closed")
            worker.hang_up()
        for worker in self:
            worker.join()

    # Starting

    def start(self, slot: Slot) -> None:
        """Start a worker; it is active in this slot once its model is loaded.

        Args:
            slot: The slot.
        """
        slot.retry_at = None
        source = self._source(slot)
        if self._is_closed or self._is_changed(slot, source):
            return
        listener = self._listener
        try:
            worker = WorkerHandle(self._spec.surroundings, listener.message, listener.end)
        except Exception as error:  # noqa: BLE001 no memory, no interpreter, a strange environment
            self._on_failure(slot, error)
            return
        slot.standby = worker
        self._all[worker] = slot
        try:
            worker.send(self._first_message(source))
        except BaseException as error:  # noqa: BLE001 of what could be pickled, and was changed
            worker.refuse(error)

    def retry_due(self) -> None:
        """Start workers again whose wait is over."""
        for slot in self.slots:
            if slot.retry_at is not None and self._clock() >= slot.retry_at:
                self.start(slot)

    def retry_changed(self) -> None:
        """Start workers at once where files had changed: they may be back by now."""
        if self._has_changed and not self.active:
            for slot in self.slots:
                if slot.retry_at is not None:
                    self.start(slot)

    def _first_message(self, source: ModelSource) -> StartWorker:
        spec = self._spec
        return StartWorker(
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
        except Exception as error:  # noqa: BLE001 changed, or not to be looked at
            self._has_changed = True
            self._on_failure(slot, error)
            return True
        self._has_changed = False
        return False

    # What workers report

    def ready(self, worker: WorkerHandle, ready: WorkerReady) -> None:
        """Let a worker be active that has loaded the right model; the one before it ends.

        Args:
            worker: The worker.
            ready: Its message.
        """
        slot, known = self._all[worker], self._known
        if known is not None:
            error = difference(known, ready.facts, in_one_pool=self.model is not None)
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
        replacement = self.replacements.take(slot)
        if replacement is not None:
            self._report_replacement(replacement, worker)
            replacement.end()
        if not self.begun.done() and len(self.active) == len(self.slots):
            self.begun.set_result(None)

    def note_memory(self, worker: WorkerHandle, report: MemoryReport) -> None:
        """Take note of what a worker holds.

        Args:
            worker: The worker.
            report: Its message.
        """
        worker.sample, worker.baseline = report.sample, report.baseline
        self._below_need = self._below_need or report.below_need

    def ended(self, worker: WorkerHandle) -> Slot:
        """Take note that the process of a worker is gone.

        Args:
            worker: The worker.

        Returns:
            Its slot.
        """
        slot = self._all.pop(worker)
        if self._is_closed:
            return slot
        if worker.facts is None:
            slot.standby = None
            self._on_failure(slot, worker.error or ended_early(worker.ending))
        elif slot.active is worker:
            slot.active = None
            if not worker.is_leaving:
                self._report_death(worker)
        return slot

    def _on_failure(self, slot: Slot, error: BaseException) -> None:
        """Deal with a worker that could not be started: the old one stays, or it is tried again."""
        self._failures += 1
        if not self.begun.done():
            self.begun.set_exception(error)
            return
        replacement = self.replacements.take(slot)
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
        if is_hopeless and not self.active:
            failed = partial(no_worker_error, self._failures, wait, error)
            self._listener.failure(failed)
            self.replacements.fail_all(failed)

    # One worker in the place of another

    def reload(self, slot: Slot, reason: str, future: Future[Any]) -> None:
        """Replace the worker of a slot, because a caller asks for it.

        Args:
            slot: The slot.
            reason: Why.
            future: Is done when another worker is active.
        """
        why = Reason(reason, rung=Rung.PROCESS)
        self.replacements.add(Replacement(slot, slot.active, why, future))
        self.retry_changed()

    def request_replacement(self, worker: WorkerHandle, reason: Reason) -> None:
        """Replace a worker that asks for it, unless it is to be replaced already.

        Args:
            worker: The worker.
            reason: Why.
        """
        slot = self._all[worker]
        if worker is slot.active and not self.replacements.includes(worker):
            below = self._below_need
            if below is not None and reason.bound_bytes is not None:
                self._below_need = below._replace(times=below.times + 1)
            self.replacements.add(Replacement(slot, worker, reason))

    def begin_replacements(self) -> None:
        """Replace the next worker: beside it while both have room, else after it."""
        while (replacement := self.replacements.next(self._clock())) is not None:
            slot, active = replacement.slot, replacement.slot.active
            if active is None:
                return  # another one is loading already
            replacement.before = active.sample
            if self._is_changed(slot, self._source(slot)):
                continue  # the old one does not go for nothing
            if self._has_room(active):
                self.start(slot)
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

    # What is reported

    def _report_replacement(self, replacement: Replacement, worker: WorkerHandle) -> None:
        seconds = self._clock() - replacement.since
        if replacement.reason.bound_bytes is not None:
            worker.send(ExpectReplacement(seconds))
        text, before = replacement.reason.text, replacement.before
        if replacement.is_drained:
            text += "; no room for two, so that calls waited"
        event = Event("remedy", text, Rung.PROCESS, before, worker.sample, seconds)
        log_event(event)
        self._listener.event(event)

    def _report_death(self, worker: WorkerHandle) -> None:
        why = f"the worker process ended: {worker.ending}"
        logger.warning("PROCESS: %s; it is replaced, and its task done again", why)
        self._listener.event(Event("died", why, Rung.PROCESS, worker.sample, worker.sample, 0.0))

    def _report_failure(self, replacement: Replacement, error: BaseException) -> None:
        if replacement.future is None:
            return  # the worker that asked for it reports
        why, seconds = replacement.reason.text, self._clock() - replacement.since
        logger.warning("PROCESS: failed (%s): %s", why, type(error).__name__)
        held, name = replacement.before, type(error).__name__
        self._listener.event(Event("failed", why, Rung.PROCESS, held, held, seconds, name))
