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
from concurrent.futures import CancelledError, Future, InvalidStateError
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from safe_embed.errors import ReloadError, WorkerError
from safe_embed.memory.sampling import Sampler
from safe_embed.model.handle import UNKNOWN, Handle
from safe_embed.model.inference import LOST, Settings
from safe_embed.model.loader import ModelSource
from safe_embed.model.messages import (
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
from safe_embed.model.remote import RemoteInference
from safe_embed.model.turns import ACTIVE_CALLS, CLOSED, Job, Piece
from safe_embed.types import Event, Hook, MemorySample, Reason, ReloadPolicy, Rung, WorkerState

logger = logging.getLogger("safe_embed")

# A task that so many processes have died of is parted; one of a single item is given up.
MOST_DEATHS = 2
# After so many workers in a row that could not be begun the calls that wait get an error.
MOST_REFUSALS = 3
_FIRST_RETRY_SECONDS = 0.5
_LAST_RETRY_SECONDS = 60.0
# How much more room a second worker must have than the first was seen to take.
_HEADROOM = 1.2
_SAME_MODEL_COSINE = 0.9999
_KEPT_EVENTS = 100


@dataclass(frozen=True, slots=True)
class Plan:
    """What every worker is to be.

    Attributes:
        source: Where the model comes from.
        settings: What the encoder does with every text.
        policy: When memory must be given back.
        devices: Of each place, in order; ``None`` for the source's own.
        threads: How many threads torch uses in a worker; ``None`` for its own choice.
        timeout_seconds: After which a task's process is taken to hang; ``None`` for never.
        environment: Of the processes, besides this one's.
    """

    source: ModelSource
    settings: Settings
    policy: ReloadPolicy
    devices: Sequence[str | None]
    threads: int | None = None
    timeout_seconds: float | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Recycling:
    """A worker is to be replaced: why, and who waits for it."""

    reason: Reason
    before: MemorySample
    since: float
    future: Future[None]
    is_drained: bool = False


@dataclass(slots=True, eq=False)
class _Place:
    """Where one worker serves, one may be getting ready, and then another."""

    device: str | None
    serving: Handle | None = None
    coming: Handle | None = None
    recycling: _Recycling | None = None
    retry_at: float | None = None


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
        events: The last hundred things done about memory.
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
        self.events: deque[Event] = deque(maxlen=_KEPT_EVENTS)
        self.reloads = 0
        self._plan = plan
        self._hooks = tuple(hooks)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._places = [_Place(device) for device in plan.devices]
        self._workers: dict[Handle, _Place] = {}
        self._waiting: deque[Job] = deque()
        self._active: deque[Job] = deque()
        self._recyclings: deque[tuple[_Place, _Recycling]] = deque()
        self._sampler = Sampler()
        self._last: Handle | None = None
        self._refusals = 0
        self._is_closed = False
        self._has_ended = False

    # What other threads may call

    def post(self, call: Callable[[], None]) -> None:
        """Let the dispatcher's thread call something."""
        self._inbox.put(call)

    def add(self, job: Job) -> None:
        """Let a call wait for its turn."""
        self.post(partial(self._add, job))
        if self._has_ended:
            job.fail(WorkerError(CLOSED))

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
        last = self._last  # which the thread may change meanwhile
        return self._sampler.take() if last is None else last.sample

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
        finally:
            self._shut_down()

    def _shut_down(self) -> None:
        self._is_closed = True
        if not self.begun.done():
            self.begun.set_exception(WorkerError(CLOSED))
        self._fail_all(WorkerError(CLOSED))
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

    def _fail_all(self, error: WorkerError) -> None:
        for job in (*self._active, *self._waiting):
            job.fail(error)
        self._active.clear()
        self._waiting.clear()
        waiting, self._recyclings = self._recyclings, deque()
        for place in self._places:
            self._end_recycling(place, error)
        for _, recycling in waiting:
            recycling.future.set_exception(error)

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
            job.fail(WorkerError(CLOSED))
            return
        self._waiting.append(job)

    def _assign(self) -> None:
        """Let every flow go on that can, and give every free worker a task, call by call."""
        self._advance()
        free = [one.serving for one in self._places if one.serving and one.serving.is_free]
        for worker in free:
            job = next((one for one in self._active if one.pending), None)
            if job is None:
                return
            self._active.remove(job)
            self._active.append(job)
            limit = self._plan.timeout_seconds
            deadline = None if limit is None else time.monotonic() + limit
            try:
                worker.begin(job, job.pending.popleft(), deadline)
            except Exception as error:  # noqa: BLE001 an argument of the call cannot be pickled
                worker.put_down()
                job.fail(error)
                self._active.remove(job)

    def _advance(self) -> None:
        most = max(ACTIVE_CALLS, 2 * len(self._places))
        while True:
            while self._waiting and len(self._active) < most:
                self._active.append(self._waiting.popleft())
            for job in tuple(self._active):
                self._go_on(job)
            if not self._waiting or len(self._active) >= most:
                return

    def _go_on(self, job: Job) -> None:
        """Let a flow go on to its next tasks or its end; a call that was given up ends."""
        if job.future.cancelled():
            job.fail(CancelledError())
            self._active.remove(job)
        while job in self._active and not job.is_waiting:
            if job.go_on(self.inference):
                self._active.remove(job)
                self._count_calls()

    def _count_calls(self) -> None:
        """Let a worker know of calls that have ended, for policies that count them."""
        while self.inference.ended:
            texts = self.inference.ended.popleft()
            if self._last is not None and not self._last.is_leaving:
                self._last.send(Tally(texts))

    def _on_result(self, worker: Handle, result: Result) -> None:
        job, piece = worker.put_down()
        self._last = worker
        if job is None or piece is None:
            return
        if result.error is None:
            self.inference.count(piece.task)
            piece.note(result.found)
        elif not job.future.done() and job.fail(result.error) and job in self._active:
            self._active.remove(job)

    def _again(self, job: Job, piece: Piece) -> None:
        """Have a task done that a process died of: once more, then in halves, then not at all."""
        piece.task.deaths += 1
        if job.future.done():
            return
        if piece.task.deaths < MOST_DEATHS:
            job.pending.appendleft(piece)
        elif len(piece.task.items) > 1:
            for half in piece.halves()[::-1]:
                half.task.deaths = MOST_DEATHS - 1
                job.pending.appendleft(half)
        else:
            piece.note([LOST])

    # Workers come and go

    def _begin(self, place: _Place) -> None:
        """Begin a worker; it serves in this place once its model is loaded."""
        place.retry_at = None
        plan = self._plan
        source = plan.source if place.device is None else plan.source.on_device(place.device)
        try:
            worker = Handle(plan.environment, self._hear, self._hear_end)
        except (OSError, RuntimeError) as error:  # no memory, or no more of them allowed
            self._on_refusal(place, error)
            return
        place.coming = worker
        self._workers[worker] = place
        worker.send(
            Start(
                source,
                plan.settings,
                plan.policy,
                dict(self.changes),
                plan.threads,
                logger.getEffectiveLevel(),
            )
        )

    def _hear(self, worker: Handle, message: Any) -> None:
        self.post(partial(self._on_message, worker, message))

    def _hear_end(self, worker: Handle) -> None:
        self.post(partial(self._on_end, worker))

    def _on_message(self, worker: Handle, message: Any) -> None:
        match message:
            case Result():
                self._on_result(worker, message)
            case State():
                worker.sample, worker.baseline = message.sample, message.baseline
            case Ready():
                self._on_ready(worker, message)
            case Refused():
                worker.error = message.error
            case Told():
                self._tell(message.event)
            case Logged():
                logger.log(message.level, "%s", message.message)
            case Leave() if not self._is_closed and worker is self._workers[worker].serving:
                self._recycle(self._workers[worker], message.reason, Future())

    def _on_ready(self, worker: Handle, ready: Ready) -> None:
        place, known = self._workers[worker], self.inference.facts
        if known is not None and not _is_same(known, ready.facts):
            msg = "The model that was loaded gives other vectors than the one before."
            worker.refuse(ReloadError(msg))
            return
        self.inference.learn(ready.facts)
        self._refusals = 0
        worker.facts, worker.sample = ready.facts, ready.sample
        old, place.serving, place.coming = place.serving, worker, None
        self._last = self._last or worker
        if old is not None:
            old.leave()
        if place.recycling is not None:
            self._report(place.recycling, worker)
        self._end_recycling(place)
        if not self.begun.done() and all(one.serving for one in self._places):
            self.begun.set_result(None)

    def _report(self, recycling: _Recycling, worker: Handle) -> None:
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
        if self._last is worker:
            self._last = None
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
            self._again(job, piece)
        if place.serving is None and place.coming is None:
            self._begin(place)

    def _on_death(self, worker: Handle) -> None:
        why = f"the worker process ended: {worker.ending}"
        logger.warning("PROCESS: %s; it is replaced, and its task done again", why)
        self._tell(Event("died", why, Rung.PROCESS, worker.sample, worker.sample, 0.0))

    def _on_refusal(self, place: _Place, error: BaseException) -> None:
        """Deal with a worker that could not be begun: the old one stays, or it is tried again."""
        self._refusals += 1
        if not self.begun.done():
            self.begun.set_exception(error)
            self._is_closed = True
            return
        if place.serving is not None:
            place.serving.send(Stay(error))
            self._end_recycling(place, error)
            return
        logger.warning("PROCESS: a worker could not be begun: %s", type(error).__name__)
        self._end_recycling(place, error)
        wait = min(_FIRST_RETRY_SECONDS * 2 ** min(self._refusals, 10), _LAST_RETRY_SECONDS)
        place.retry_at = time.monotonic() + wait
        if self._refusals >= MOST_REFUSALS and not any(one.serving for one in self._places):
            failed = WorkerError(
                f"No worker process could be begun, {self._refusals} times in a row; it is tried "
                f"again in {wait:.0f} s. The last error: {type(error).__name__}: {error}\n"
                "ワーカープロセスを起動できません。上のエラーを確認してください。"
            )
            failed.__cause__ = error
            self._fail_all(failed)

    # One worker in the place of another

    def _reload(self, reason: str, futures: Sequence[Future[None]]) -> None:
        if self._is_closed:
            for future in futures:
                with contextlib.suppress(InvalidStateError):
                    future.set_exception(WorkerError(CLOSED))
            return
        for place, future in zip(self._places, futures, strict=True):
            self._recycle(place, Reason(reason, rung=Rung.PROCESS), future)

    def _recycle(self, place: _Place, reason: Reason, future: Future[None]) -> None:
        """Replace a worker, one at a time: beside it while there is room for both, else after."""
        serving = place.serving
        before = UNKNOWN if serving is None else serving.sample
        recycling = _Recycling(reason, before, time.monotonic(), future)
        if any(one.recycling for one in self._places):
            self._recyclings.append((place, recycling))
            return
        place.recycling = recycling
        if serving is None:
            return  # another is coming already
        if self._has_room(serving):
            self._begin(place)
        else:
            recycling.is_drained = True
            place.serving = None
            serving.leave()

    def _end_recycling(self, place: _Place, error: BaseException | None = None) -> None:
        """Tell who waits for a new worker, and let the next place have its turn."""
        recycling, place.recycling = place.recycling, None
        if recycling is None:
            return
        if error is None:
            recycling.future.set_result(None)
        else:
            recycling.future.set_exception(error)
        if self._recyclings:
            place, waiting = self._recyclings.popleft()
            self._recycle(place, waiting.reason, waiting.future)

    def _has_room(self, worker: Handle) -> bool:
        facts = worker.facts
        if facts is None:
            return False
        rooms = (
            (self._sampler.take(fresh=True).room_bytes, facts.load_bytes),
            (worker.sample.device_free_bytes, facts.weights_bytes),
        )
        return all(room is None or room > _HEADROOM * needed for room, needed in rooms)

    def _change(self, changes: Mapping[str, Any]) -> None:
        self.changes |= changes
        for worker in self._workers:
            worker.send(Change(dict(changes)))

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        self.reloads += (event.kind, event.rung) == ("remedy", Rung.MODEL)
        for hook in self._hooks:
            try:
                hook(event)
            except Exception:
                logger.warning("a hook failed", exc_info=True)


def _is_same(known: ModelFacts, fresh: ModelFacts) -> bool:
    if known.canary.shape != fresh.canary.shape:
        return False
    return float(known.canary @ fresh.canary) >= _SAME_MODEL_COSINE
