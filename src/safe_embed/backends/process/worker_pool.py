"""The backend whose models live in worker processes: what their encoder sees of it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from safe_embed.backends.admission import Place, pending_call
from safe_embed.backends.calls import (
    CLOSED,
    ENDING,
    check_caller,
    check_pool,
    wait_for,
    waiting,
)
from safe_embed.backends.interface import Backend
from safe_embed.backends.process.dispatcher import Dispatcher
from safe_embed.backends.process.pool_handle import PoolHandle
from safe_embed.backends.process.requirements import check_possible
from safe_embed.backends.process.slots import WorkerSpec
from safe_embed.errors import ReloadError, WorkerError, both
from safe_embed.inference.request import Call, Pool, Settings
from safe_embed.ipc.surroundings import Surroundings, working_directory
from safe_embed.memory.event_log import HookList
from safe_embed.memory.types import Hook, ReloadPolicy, Stats
from safe_embed.pooling import mean_pool
from safe_embed.supervision.conditions import Conditions
from safe_embed.upstream.settings import ModelState
from safe_embed.upstream.source import ModelSource

_CLOSE_SECONDS = 30.0
# Whatever splits work among the cores reads one of these when it is first used.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
# Those that a fork must leave to the parent.
_POOLS: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


class WorkerPool:
    """Does calls on models in worker processes; a :class:`Backend`.

    Args:
        source: Where the model comes from.
        settings: What the encoder does with every text.
        policy: When memory must be given back, up to a new process.
        hooks: Functions that receive every event.
        conditions: Clock, waits, headroom and measurement.
        workers: How many processes.
        devices: Of the workers, in turn; ``None`` for the source's own.
        timeout_seconds: After which a worker that does one task is taken to hang; ``None`` for
            never.
        opener: Whose further processes these are; ``None`` for an encoder's own.

    Raises:
        ConfigError: If something cannot be passed to another process.
        WorkerError: If a worker ended before its model was loaded.
    """

    def __init__(
        self,
        source: ModelSource,
        settings: Settings,
        policy: ReloadPolicy,
        hooks: Iterable[Hook] = (),
        conditions: Conditions | None = None,
        *,
        workers: int = 1,
        devices: Sequence[str] | None = None,
        timeout_seconds: float | None = None,
        opener: WorkerPool | None = None,
    ) -> None:
        check_possible(source, _sent(settings), policy)
        threads = None if workers == 1 else max(1, _cores() // workers)
        self._hooks = HookList(hooks)
        self._settings = settings
        self._spec = WorkerSpec(
            source,
            _sent(settings),
            policy,
            [devices[at % len(devices)] if devices else None for at in range(workers)],
            threads,
            timeout_seconds,
            _surroundings(threads, working_directory() if opener is None else opener.folder),
            None if opener is None else opener.model.facts,
            conditions or Conditions(),
        )
        self._is_closed = self._is_foreign = False
        self._starting = threading.Lock()
        self._dispatcher = Dispatcher(self._spec, settings, self._hooks.weakly())
        self._begin()
        _POOLS.add(self)

    def _begin(self) -> None:
        """Begin the thread and the workers, in this process."""
        dispatcher = self._dispatcher
        self._thread = threading.Thread(target=dispatcher.run, name="safe_embed", daemon=True)
        # The thread knows the dispatcher, not the pool: an encoder that is dropped ends them all.
        self._stop = weakref.finalize(self, _stop, dispatcher, self._thread, os.getpid())
        try:
            self._thread.start()  # waits for the thread to begin: Ctrl-C may come here, too
            dispatcher.begun.result()
        except BaseException:
            self._stop()
            raise  # in a forked copy, the next call tries again
        self._is_foreign = False

    def forked(self) -> None:
        """Leave the workers to the parent: this is a forked copy, which begins its own later."""
        self._dispatcher.abandon()
        self._stop.detach()
        self._starting = threading.Lock()  # nobody may be left here to release the old one
        self._is_foreign = True

    @property
    def _ready(self) -> Dispatcher:
        """The dispatcher, begun; in a forked copy that is another one."""
        if self._is_closed:
            raise WorkerError(CLOSED)
        if threading.current_thread() is self._thread:  # a hook that reads stats
            return self._dispatcher
        if self._is_foreign:
            self._begin_here()
        elif not self._stop.alive:
            raise WorkerError(ENDING)
        return self._dispatcher

    def _begin_here(self) -> None:
        """Begin workers of this process's own; other callers wait for that."""
        with waiting(), self._starting:
            if self._is_foreign:
                old = self._dispatcher
                hooks = self._hooks.weakly()
                self._dispatcher = Dispatcher(self._spec, self._settings, hooks, old.model)
                self._begin()

    @property
    def _checked(self) -> Dispatcher:
        """The same for a caller that will wait, which must not be the dispatcher's thread."""
        check_caller(self._thread)
        return self._ready

    @property
    def model(self) -> ModelState:
        """What is known of the model."""
        return self._ready.model

    def enter(self, texts: int, priority: int, *, must_wait: bool = False) -> Place:
        """Ask for a place among the calls that wait; see :meth:`Backend.enter`."""
        return self._checked.admission.enter(texts, priority, must_wait=must_wait)

    def submit(self, call: Call, place: Place | None = None) -> Future[Any]:
        """Queue a call; see :meth:`Backend.submit`."""
        dispatcher = self._checked
        pending = pending_call(partial(dispatcher.stages, call), place)
        dispatcher.add(pending)
        return pending.future

    def configure(self, **changes: Any) -> None:
        """Change settings of the model, for calls that are queued from now on."""
        self._ready.configure(**changes)

    def reload(self, reason: str, *, keep_tokenizer: bool = False) -> None:
        """Replace every worker, one after the other, while the others serve.

        Args:
            reason: Why, for log and ``stats``.
            keep_tokenizer: Means nothing here: a new process has a new one, and nobody waits.

        Raises:
            ReloadError: If a new process could not be started; the old one serves on if it is
                still there.
        """
        del keep_tokenizer
        for future in self._checked.reload(reason):
            try:
                wait_for(future)
            except WorkerError:
                raise
            except Exception as error:
                msg = both(
                    "A worker process could not be replaced. See the error before this one.",
                    "ワーカープロセスを交代できませんでした。直前のエラーを見てください。",
                )
                raise ReloadError(msg) from error

    def idle(self) -> None:
        """Wait until there is nothing left to do; see :meth:`Backend.idle`."""
        wait_for(self._checked.idle())

    @property
    def folder(self) -> str | None:
        """What relative entries of ``sys.path`` mean to the workers."""
        return self._spec.surroundings.folder

    @contextmanager
    def lend(self, pool: Pool | None) -> Iterator[tuple[Backend, None]]:
        """Give the processes that do a call: those it names, some for it alone, or these.

        Args:
            pool: Of the call; ``None`` for these.

        Yields:
            The backend, and no pool.

        Raises:
            ConfigError: If the pool is another library's.
        """
        if pool is None:
            yield self, None
        elif pool.processes is not None:
            check_pool(pool.processes, has_workers=True)
            yield pool.processes["worker_pool"], None
        else:
            lent = self.start_pool(pool.devices)["worker_pool"]
            try:
                yield lent, None
            finally:
                lent.close()

    def start_pool(self, devices: list[str] | None) -> dict[str, Any]:
        """Begin further workers, for calls that name them.

        Args:
            devices: One a worker; ``None`` for two on this one's device.

        Returns:
            A record, as upstream gives one.
        """
        spec, model = self._spec, self.model
        devices = [str(device) for device in devices or [model.device] * 2]
        pool = WorkerPool(
            spec.source,
            self._settings,
            spec.policy,
            self._hooks,
            spec.conditions,
            workers=len(devices),
            devices=devices,
            timeout_seconds=spec.timeout_seconds,
            opener=self,
        )
        limit = model.settings.max_seq_length
        if limit != pool.model.settings.max_seq_length:
            pool.configure(max_seq_length=limit)
        ends = PoolHandle(pool.close)
        processes = [PoolHandle(pool.close, worker.pid) for worker in pool.stats.workers]
        return {"worker_pool": pool, "processes": processes, "input": ends, "output": ends}

    @property
    def is_ready(self) -> bool:
        """Whether a call can be queued at once, with no worker to be started first."""
        return not self._is_foreign

    @property
    def stats(self) -> Stats:
        """Counts of the work since the encoder was made, and memory, as of now."""
        return self._ready.stats

    def close(self) -> None:
        """End all workers; calls that wait get an error. May be called again."""
        self._is_closed = True
        self._stop()


def _stop(dispatcher: Dispatcher, thread: threading.Thread, pid: int) -> None:
    if os.getpid() != pid:
        return
    dispatcher.close()
    if thread.is_alive() and thread is not threading.current_thread():
        thread.join(_CLOSE_SECONDS)


def _sent(settings: Settings) -> Settings:
    """Leave out the pooling function: texts are pooled here, and it may be a lambda."""
    return replace(settings, pooling=mean_pool)


def _surroundings(threads: int | None, folder: str | None) -> Surroundings:
    """Say what workers find around them; *folder* is what relative entries of sys.path mean."""
    names = _THREAD_VARIABLES if threads else ()
    given = {name: os.environ.get(name, str(threads)) for name in names}
    # A worker that takes over draws no bars; those of a call are drawn here.
    return Surroundings({"TQDM_DISABLE": "1", **given}, folder)


def _cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _after_fork() -> None:
    for pool in tuple(_POOLS):
        pool.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
