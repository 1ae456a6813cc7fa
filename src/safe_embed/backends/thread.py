"""The backend whose model lives on one thread of this process, whoever calls.

OpenMP and the allocator keep state for every thread that calls in: 60 calling threads cost 265 MB
and 120 native threads with sentence-transformers alone (docs/ja/growth.md). Here they cost a queue.

Calls are served in turn, a batch at a time, so that a short one need not wait for a long one.
Between two batches the supervisor looks at memory, and gives back what a policy asks for.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any

from safe_embed.backends.admission import Admission, Place, pending_call
from safe_embed.backends.call_queue import CallQueue
from safe_embed.backends.calls import (
    CLOSED,
    ENDING,
    PendingCall,
    PendingTask,
    check_caller,
    check_pool,
    settle,
    wait_for,
)
from safe_embed.backends.event_loop import EventLoop
from safe_embed.backends.interface import Backend
from safe_embed.errors import WorkerError, both
from safe_embed.foreign import deliverable
from safe_embed.inference.pipeline import Pipeline
from safe_embed.inference.request import Call, Pool, Settings, StartPool
from safe_embed.inference.tasks import Work
from safe_embed.memory.event_log import HookList
from safe_embed.memory.remedies import trim
from safe_embed.memory.types import Hook, ReloadPolicy, Stats
from safe_embed.supervision.conditions import Conditions
from safe_embed.supervision.reload_request import ReloadRequest
from safe_embed.supervision.supervisor import Supervisor
from safe_embed.upstream.settings import ModelState, SharedModelState
from safe_embed.upstream.source import ModelSource

# How long close() waits for the batch in progress.
_CLOSE_SECONDS = 30.0


class ThreadBackend:
    """Does calls on a model in this process; a :class:`Backend`.

    Args:
        source: Where the model comes from.
        settings: What the encoder does with every text.
        policy: When memory must be given back.
        hooks: Functions that receive every event.
        conditions: Clock, waits, headroom and measurement.
    """

    def __init__(
        self,
        source: ModelSource,
        settings: Settings,
        policy: ReloadPolicy,
        hooks: Sequence[Hook] = (),
        conditions: Conditions | None = None,
    ) -> None:
        given = conditions or Conditions()
        self._hooks = HookList(hooks)
        kept = self._hooks.weakly()
        load = partial(Supervisor, source.held(), settings, policy, kept, given)
        self._pid = os.getpid()
        # The thread knows the loop, not the backend: an encoder that is dropped ends its thread.
        self._loop: _Loop | None = _Loop(load, settings, given)
        self._thread = threading.Thread(target=self._loop.run, name="safe_embed", daemon=True)
        self._stop = weakref.finalize(self, _stop, self._loop, self._thread, self._pid)
        try:
            self._thread.start()  # waits for the thread to begin: Ctrl-C may come here, too
            self._loop.begun.result()
        except BaseException as raised:
            if not isinstance(raised, Exception):  # Ctrl-C: nobody waits for the load
                self._stop.detach()
                self._loop.close()
            raise

    @property
    def model(self) -> ModelState:
        """What is known of the model."""
        return self._open.model

    def enter(self, texts: int, priority: int, *, must_wait: bool = False) -> Place:
        """Ask for a place among the calls that wait; see :meth:`Backend.enter`."""
        return self._checked.admission.enter(texts, priority, must_wait=must_wait)

    def submit(self, call: Call, place: Place | None = None) -> Future[Any]:
        """Queue a call; see :meth:`Backend.submit`."""
        loop = self._checked
        pending = pending_call(partial(loop.pipeline.stages, call), place)
        loop.add(pending)
        return pending.future

    def configure(self, **changes: Any) -> None:
        """Change settings of the model, for calls that are queued from now on."""
        loop = self._open
        loop.post(partial(loop.supervisor.configure, loop.model.change(**changes)))

    def reload(self, reason: str, *, keep_tokenizer: bool = False) -> None:
        """Reload the model; see :meth:`Backend.reload`."""
        loop = self._checked

        def request(future: Future[Any]) -> None:
            done = partial(settle, future, None)
            loop.supervisor.request_reload(ReloadRequest(reason, done, keep_tokenizer))

        wait_for(loop.promise(request))

    def start_pool(self, devices: list[str] | None) -> dict[str, Any]:
        """Start upstream's own processes; see :meth:`Backend.start_pool`."""
        record: dict[str, Any] = wait_for(self.submit(StartPool(devices)))
        return record

    @contextmanager
    def lend(self, pool: Pool | None) -> Iterator[tuple[Backend, Pool | None]]:
        """Pass a call on as it is: upstream's own pools are used from here.

        Args:
            pool: Of the call.

        Yields:
            This backend, and the pool.

        Raises:
            ConfigError: If the pool has worker processes of ours, which isolation="process" takes.
        """
        if pool is not None and pool.processes is not None:
            check_pool(pool.processes, has_workers=False)
        yield self, pool

    @property
    def is_ready(self) -> bool:
        """Whether a call can be queued at once."""
        return True

    @property
    def stats(self) -> Stats:
        """Counts of the work since the encoder was made, and memory, as of now."""
        return self._open.supervisor.stats

    def idle(self) -> None:
        """Wait until there is nothing left to do; see :meth:`Backend.idle`."""
        wait_for(self._checked.idle())

    def close(self) -> None:
        """End the thread and drop the model; calls that wait get an error. May be called again."""
        self._stop()
        if self._loop is not None:
            self._loop = None
            trim()

    @property
    def _open(self) -> _Loop:
        if self._loop is None:
            raise WorkerError(CLOSED)
        if not self._stop.alive:
            raise WorkerError(ENDING)
        return self._loop

    @property
    def _checked(self) -> _Loop:
        """The loop, for a caller that will wait for it."""
        check_caller(self._thread)
        if os.getpid() != self._pid:
            raise WorkerError(
                both(
                    f"This SafeEncoder was made in process {self._pid}; its thread and model are "
                    f"not in the forked process {os.getpid()}. Make a new one there, after the "
                    "fork.",
                    f"プロセス {self._pid} で作られたエンコーダーは、fork した子プロセス "
                    f"{os.getpid()} では使えません。子プロセスの中で作り直してください。",
                )
            )
        return self._open


class _Loop(EventLoop):
    """The thread of the backend: a task of a call, then a look at memory, and so on.

    Args:
        load: Loads the model; called on the thread.
        settings: What the encoder does with every text.
        conditions: Says how long to wait before the look of an idle encoder.
    """

    model: ModelState
    pipeline: Pipeline
    supervisor: Supervisor

    def __init__(
        self, load: Callable[[], Supervisor], settings: Settings, conditions: Conditions
    ) -> None:
        super().__init__(Admission(settings.max_waiting_texts, settings.when_full))
        self.calls = CallQueue(self._count_call)
        self._load: Callable[[], Supervisor] | None = load
        self._settings = settings
        self._idle_seconds = conditions.idle_seconds
        self._waits = False

    @property
    def is_loading(self) -> bool:
        """Whether the thread loads a model, which nobody needs to wait for at the end."""
        return not self.begun.done() or (
            self.begun.exception() is None and self.supervisor.swap.is_lost
        )

    def begin(self) -> None:
        """Load the model."""
        load, self._load = self._load, None
        if load is None:
            return
        try:
            self.supervisor = load()
            facts = self.supervisor.facts(with_canary=False)
            is_shared = not self.supervisor.swap.can_load
            model = self.supervisor.engine.model
            self.model = SharedModelState(facts, model) if is_shared else ModelState(facts)
        except BaseException as raised:  # noqa: BLE001 it belongs to the caller of SafeEncoder()
            self._is_closed = True
            self.begun.set_exception(deliverable(raised))
            return
        self.pipeline = Pipeline(self._settings, self.model)
        self.begun.set_result(None)

    def turn(self) -> float | None:
        """Do one task, and take a look at memory."""
        self.calls.advance()
        pending = None if self.supervisor.holds_back else self.calls.next()
        if pending is not None:
            self._do(*pending)
            self.calls.advance()
        has_worked = pending is not None
        # Texts and results belong to the callers: held here, they would count as growth.
        del pending
        self._waits = self.supervisor.watch(is_quiet=self.calls.is_quiet)
        if self._waits or self.calls.has_tasks:
            return 0.0
        return self._idle_seconds if has_worked else None

    def _do(self, call: PendingCall, pending: PendingTask) -> None:
        try:
            outcome = self.supervisor.do(pending.task)
        except BaseException as error:  # noqa: BLE001 it belongs to the caller
            self.calls.fail(call, error)
            return
        if outcome.device is not None:
            self.supervisor.configure(self.model.change(device=outcome.device))
        self.calls.note(call, pending, outcome.values)

    def _count_call(self, texts: int) -> None:
        self.supervisor.meter.count(Work(calls=1, texts=texts))

    def check_idle(self) -> bool:
        """Tell whether there is no call, and nothing that the supervisor waits for."""
        return self.calls.is_empty and not self._waits

    def end(self) -> None:
        """Nothing is left to let go of: the model goes with the loop."""


def _stop(loop: _Loop, thread: threading.Thread, pid: int) -> None:
    if os.getpid() != pid:
        return
    loop.close()
    is_other = thread.is_alive() and thread is not threading.current_thread()
    if is_other and not loop.is_loading:
        thread.join(_CLOSE_SECONDS)
