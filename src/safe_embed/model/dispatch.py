"""The one thread that deals with worker processes: who does what, who is replaced, who has died.

Everything that happens reaches it as a call in its inbox, so that nothing here needs a lock. Each
worker has a place; a worker that is to take another's place loads while that one serves.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from safe_embed.errors import ReloadError, WorkerError
from safe_embed.memory.limits import fits
from safe_embed.memory.remedies import BelowNeed
from safe_embed.memory.sampling import Sampler
from safe_embed.model.calls import Calls
from safe_embed.model.canary import difference
from safe_embed.model.handle import Handle
from safe_embed.model.inference import Settings
from safe_embed.model.loader import ModelSource
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
from safe_embed.model.places import Place, Plan, Recycling, none_begun
from safe_embed.model.record import Record
from safe_embed.model.remote import RemoteInference
from safe_embed.model.turns import CLOSED, Job
from safe_embed.types import Event, Hook, MemorySample, Reason, Rung, WorkerState

logger = logging.getLogger("safe_embed")

# After so many workers in a row that could not be begun the calls that wait get an error.
MOST_REFUSALS = 3
_FIRST_RETRY_SECONDS = 0.5
_LAST_RETRY_SECONDS = 60.0


class Dispatcher:
    """Deals with the workers of one encoder.

    Args:
        plan: What every worker is to be.
        settings: What the encoder does with every text, its own pooling included.
        hooks: Who is told of what is done about memory.
        before: The dispatcher of another process, whose forked copy this is; what users have set
            there holds here.

    Attributes:
        begun: Is done when all workers are ready for the first time.
        inference: What flows are given; has a model's facts once *begun* is done.
        record: What was done about memory.
        reloads: How often a model was loaded anew.
        changes: What users have set on the model, for workers that come later.
    """

    def __init__(
        self,
        plan: Plan,
        settings: Settings,
        hooks: Sequence[Hook],
        before: Dispatcher | None = None,
    ) -> None:
        self.begun: Future[None] = Future()
        self.changes: dict[str, Any] = {}
        self.inference = RemoteInference(settings, self.changes)
        if before is not None:
            self.inference.learn_from(before.inference)
            self.changes |= before.changes
        self.record = Record(hooks)
        self.reloads = 0
        self._plan = plan
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._calls = Calls(self.inference, len(plan.devices))
        self._places = [Place(device) for device in plan.devices]
        self._workers: dict[Handle, Place] = {}
        self._recycling: Recycling | None = None
        self._recyclings: deque[Recycling] = deque()
        self._sampler = Sampler()
        self._last: Handle | None = None
        self._refusals = 0
        self._below_need: BelowNeed | None = None
        self._has_changed = False
        self._is_closed = False
        self._broke: BaseException | None = None
        self._has_ended = False
        self._heard: dict[type, Callable[[Handle, Any], None]] = {
            Begun: self._on_begun,
            Result: self._on_result,
            State: self._on_state,
            Ready: self._on_ready,
            Refused: self._on_refused,
            Told: self._on_told,
            Logged: self._on_logged,
            Leave: self._on_leave,
        }

    # What other threads may call

    def post(self, call: Callable[[], None]) -> None:
        """Let the dispatcher's thread call something."""
        self._inbox.put(call)

    def add(self, job: Job) -> None:
        """Let a call wait for its turn."""
        self.post(partial(self._add, job))
        if self._has_ended:
            job.fail(self._closed())

    def change(self, **changes: Any) -> None:
        """Set something on every model, and on those that come later."""
        self.post(partial(self._change, changes))

    def reload(self, reason: str) -> list[Future[None]]:
        """Replace every worker; one future for each."""
        futures: list[Future[None]] = [Future() for _ in self._places]
        self.post(partial(self._reload, reason, futures))
        if self._has_ended:
            self._reload(reason, futures)
        return futures

    def close(self) -> None:
        """End all workers; calls that wait get an error."""
        self.post(self._close)

    def abandon(self) -> None:
        """Let go of all workers in a forked copy, without a word to them."""
        for worker in self._workers:
            worker.abandon()

    @property
    def workers(self) -> tuple[WorkerState, ...]:
        """Those that serve now."""
        serving = [place.serving for place in self._places]
        return tuple(WorkerState(one.pid, one.sample, one.baseline) for one in serving if one)

    @property
    def newest_sample(self) -> MemorySample:
        """Of the worker that did something last, or of this process while there is none."""
        last = self._latest
        return self._sampler.take() if last is None else last.sample

    @property
    def _latest(self) -> Handle | None:
        """The worker that did something last, or any that serves."""
        serving = [one for place in self._places if (one := place.serving) is not None]
        last = self._last
        return last if last in serving else next(iter(serving), None)

    # The thread

    def run(self) -> None:
        """Deal with everything until it is closed: the whole life of the thread."""
        try:
            for place in self._places:
                self._begin(place)
            while not self._is_closed:
                self._assign()
                with contextlib.suppress(queue.Empty):
                    self._inbox.get(timeout=self._patience())()
                self._look_at_the_clock()
                self._recycle()
        except BaseException as error:  # noqa: BLE001 nobody may be left waiting, whatever it is
            self._broke = error
        finally:
            self._shut_down()

    def _shut_down(self) -> None:
        self._is_closed = True
        if not self.begun.done():
            self.begun.set_exception(self._closed())
        self._fail_all(self._closed)
        for worker in self._workers:
            worker.hang_up()
        for worker in self._workers:
            worker.join()
        self._has_ended = True
        while not self._inbox.empty():  # what came too late
            with contextlib.suppress(Exception):
                self._inbox.get()()

    def _close(self) -> None:
        self._is_closed = True

    def _closed(self) -> WorkerError:
        """Make the error of a call that comes too late."""
        if self._broke is None:
            return WorkerError(CLOSED)
        error = WorkerError(
            "The thread of this SafeEncoder ended of an error of its own; see the error before "
            "this one. Make a new SafeEncoder."
        )
        error.__cause__ = self._broke
        return error

    def _fail_all(self, error: Callable[[], BaseException]) -> None:
        self._calls.fail_all(error)
        waiting = [one for one in (self._recycling, *self._recyclings) if one is not None]
        self._recycling = None
        self._recyclings.clear()
        for recycling in waiting:
            recycling.end(error())

    def _patience(self) -> float | None:
        """How long nothing need be done unless something happens."""
        times = [worker.deadline for worker in self._workers]
        times += [place.retry_at for place in self._places]
        due = [one for one in times if one is not None]
        return min(3600.0, max(0.0, min(due) - time.monotonic())) if due else None

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if worker.deadline is not None and now >= worker.deadline:
                worker.kill(f"a task took longer than {self._plan.timeout_seconds:g} s")
        for place in self._places:
            if place.retry_at is not None and now >= place.retry_at:
                self._begin(place)

    # Calls and their tasks

    def _add(self, job: Job) -> None:
        if self._is_closed:
            job.fail(self._closed())
            return
        self._calls.add(job)
        self._look_again()

    def _assign(self) -> None:
        """Let every flow go on that can, and give every free worker a task."""
        self._calls.advance()
        self._count_calls()
        free = [one.serving for one in self._places if one.serving and one.serving.is_free]
        for worker in free:
            found = self._calls.next()
            if found is None:
                return
            try:
                worker.begin(*found)
            except BaseException as error:  # noqa: BLE001 of an argument that is pickled
                worker.put_down()
                self._calls.fail(found[0], error)

    def _count_calls(self) -> None:
        """Let a worker know of calls that have ended, for policies that count them."""
        worker = self._latest
        if worker is None or worker.is_leaving:
            return  # the next one is told
        while self.inference.ended:
            worker.send(Tally(self.inference.ended.popleft()))

    def _on_result(self, worker: Handle, result: Result) -> None:
        job, piece = worker.put_down()
        self._last = worker
        if job is None or piece is None:
            return
        if result.error is None:
            self.inference.count(piece.task)
            self._calls.note(job, piece, result.found)
        else:
            self._calls.fail(job, result.error)

    # Workers come and go

    def _begin(self, place: Place) -> None:
        """Begin a worker; it serves in this place once its model is loaded."""
        place.retry_at = None
        if self._is_closed:
            return
        plan, source = self._plan, self._source(place)
        if self._is_changed(place, source):
            return
        start = Start(
            source,
            plan.settings,
            plan.policy,
            dict(self.changes),
            plan.threads,
            logger.getEffectiveLevel(),
            tells_begun=plan.timeout_seconds is not None,
            below_need=self._below_need,
        )
        try:
            worker = Handle(plan.surroundings, self._hear, self._hear_end)
        except (OSError, RuntimeError) as error:  # no memory, or no more of them allowed
            self._on_refusal(place, error)
            return
        place.coming = worker
        self._workers[worker] = place
        try:
            worker.send(start)
        except BaseException as error:  # noqa: BLE001 of what could be pickled, and was changed
            worker.refuse(error)

    def _look_again(self) -> None:
        """Let nobody wait for the clock where files had changed: they may be back by now."""
        if self._has_changed and not any(one.serving for one in self._places):
            for place in self._places:
                if place.retry_at is not None:
                    self._begin(place)

    @property
    def _known(self) -> ModelFacts | None:
        """The model that every worker must have."""
        return self.inference.facts or self._plan.known

    def _source(self, place: Place) -> ModelSource:
        """Give what a worker is to load: what the first one has loaded, or nothing."""
        source, known = self._plan.source, self._known
        if known is not None:
            source = source.held_to(known.identity)
        return source if place.device is None else source.on_device(place.device)

    def _is_changed(self, place: Place, source: ModelSource) -> bool:
        """Look at the model's files before a process is begun, or ended, for them."""
        try:
            source.check_held()
        except ReloadError as error:
            self._has_changed = True
            self._on_refusal(place, error)
            return True
        self._has_changed = False
        return False

    def _hear(self, worker: Handle, message: Any) -> None:
        self.post(partial(self._on_message, worker, message))

    def _hear_end(self, worker: Handle) -> None:
        self.post(partial(self._on_end, worker))

    def _on_message(self, worker: Handle, message: Any) -> None:
        self._heard[type(message)](worker, message)

    def _on_begun(self, worker: Handle, _: Begun) -> None:
        limit = self._plan.timeout_seconds
        if worker.piece is not None and limit is not None:
            worker.deadline = time.monotonic() + limit

    def _on_state(self, worker: Handle, state: State) -> None:
        worker.sample, worker.baseline = state.sample, state.baseline
        self._below_need = self._below_need or state.below_need

    def _on_refused(self, worker: Handle, refused: Refused) -> None:
        worker.refuse(refused.error)

    def _on_told(self, _: Handle, told: Told) -> None:
        self._tell(told.event)

    def _on_logged(self, _: Handle, logged: Logged) -> None:
        logger.log(logged.level, "%s", logged.message)

    def _on_ready(self, worker: Handle, ready: Ready) -> None:
        place, known, mine = self._workers[worker], self._known, self.inference.facts
        if known is not None:
            error = difference(known, ready.facts, in_one_fleet=known is mine)
            if error is not None:
                worker.refuse(error)
                return
        self.inference.learn(ready.facts)
        self._refusals = 0
        worker.facts, worker.sample = ready.facts, ready.sample
        old, place.serving, place.coming = place.serving, worker, None
        if old is not None:
            old.leave()
        recycling = self._recycling
        if recycling is not None and recycling.place is place:
            self._recycling = None
            self._report(recycling, worker)
            recycling.end()
        if not self.begun.done() and all(one.serving for one in self._places):
            self.begun.set_result(None)

    def _report(self, recycling: Recycling, worker: Handle) -> None:
        seconds = time.monotonic() - recycling.since
        self.reloads += 1
        if recycling.reason.bound_bytes is not None:
            worker.send(Expect(seconds))
        text = recycling.reason.text
        if recycling.is_drained:
            text += "; no room for two, so that calls waited"
        logger.info("PROCESS: remedy (%s) in %.3f s", text, seconds)
        self._tell(Event("remedy", text, Rung.PROCESS, recycling.before, worker.sample, seconds))

    def _on_end(self, worker: Handle) -> None:
        place = self._workers.pop(worker)
        if self._is_closed:
            return
        if worker.facts is None:
            place.coming = None
            ended = WorkerError(
                f"The worker process ended before its model was loaded: {worker.ending}. What it "
                "wrote last stands in the standard error output.\n"
                "モデルを読み込む前にワーカープロセスが終了しました。"
            )
            self._on_refusal(place, worker.error or ended)
            return
        if place.serving is worker:
            place.serving = None
            if not worker.is_leaving:
                self._on_death(worker)
        job, piece = worker.put_down()
        if job is not None and piece is not None:
            self._calls.again(job, piece)
        if place.serving is None and place.coming is None:
            self._begin(place)

    def _on_death(self, worker: Handle) -> None:
        why = f"the worker process ended: {worker.ending}"
        logger.warning("PROCESS: %s; it is replaced, and its task done again", why)
        self._tell(Event("died", why, Rung.PROCESS, worker.sample, worker.sample, 0.0))

    def _on_refusal(self, place: Place, error: BaseException) -> None:
        """Deal with a worker that could not be begun: the old one stays, or it is tried again."""
        self._refusals += 1
        if not self.begun.done():
            self.begun.set_exception(error)
            self._is_closed = True
            return
        recycling = self._recycling
        if recycling is not None and recycling.place is place:
            self._recycling = None
            self._report_failure(recycling, error)
            recycling.end(error)
        if place.serving is not None:
            place.serving.send(Stay(error))
            return
        logger.warning("PROCESS: a worker could not be begun: %s", type(error).__name__)
        wait = min(_FIRST_RETRY_SECONDS * 2 ** min(self._refusals, 10), _LAST_RETRY_SECONDS)
        place.retry_at = time.monotonic() + wait
        is_hopeless = self._refusals >= MOST_REFUSALS or isinstance(error, ReloadError)
        if is_hopeless and not any(one.serving for one in self._places):
            self._fail_all(partial(none_begun, self._refusals, wait, error))

    def _report_failure(self, recycling: Recycling, error: BaseException) -> None:
        if not recycling.is_by_hand:
            return  # the worker that asked for it tells
        why, seconds = recycling.reason.text, time.monotonic() - recycling.since
        logger.warning("PROCESS: failed (%s): %s", why, type(error).__name__)
        held, name = recycling.before, type(error).__name__
        self._tell(Event("failed", why, Rung.PROCESS, held, held, seconds, name))

    # One worker in the place of another

    def _reload(self, reason: str, futures: Sequence[Future[None]]) -> None:
        for place, future in zip(self._places, futures, strict=True):
            why = Reason(reason, rung=Rung.PROCESS)
            recycling = Recycling(place, place.serving, why, future, is_by_hand=True)
            if self._is_closed:
                recycling.end(self._closed())
            else:
                self._recyclings.append(recycling)
        self._look_again()

    def _on_leave(self, worker: Handle, leave: Leave) -> None:
        """Let a worker be replaced that asked for it, unless it is to be already."""
        place = self._workers[worker]
        known = [one.worker for one in (self._recycling, *self._recyclings) if one is not None]
        if worker is place.serving and worker not in known:
            below = self._below_need
            if below is not None and leave.reason.bound_bytes is not None:
                self._below_need = below._replace(times=below.times + 1)
            self._recyclings.append(Recycling(place, worker, leave.reason))

    def _recycle(self) -> None:
        """Replace the next worker, one at a time: beside it while both have room, else after it."""
        while self._recycling is None and self._recyclings:
            recycling = self._recyclings.popleft()
            place, serving = recycling.place, recycling.place.serving
            if serving is not None and serving is not recycling.worker:
                recycling.end()  # another one has taken over since
                continue
            recycling.since = time.monotonic()
            self._recycling = recycling
            if serving is None:
                return  # another one is coming already
            recycling.before = serving.sample
            if self._is_changed(place, self._source(place)):
                continue  # the old one does not go for nothing
            if self._has_room(serving):
                self._begin(place)
            else:
                recycling.is_drained = True
                place.serving = None
                serving.leave()

    def _has_room(self, worker: Handle) -> bool:
        facts = worker.facts
        if facts is None:
            return False
        return fits(facts.load_bytes, self._sampler.take(fresh=True).room_bytes) and fits(
            facts.weights_bytes, worker.sample.device_free_bytes
        )

    def _change(self, changes: Mapping[str, Any]) -> None:
        self.changes |= changes
        for worker in self._workers:
            worker.send(Change(dict(changes)))

    def _tell(self, event: Event) -> None:
        self.reloads += (event.kind, event.rung) == ("remedy", Rung.MODEL)
        self.record.add(event)
