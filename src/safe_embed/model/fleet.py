"""A session whose model lives in processes of their own: the encoder's side of it."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from safe_embed.errors import ConfigError, ReloadError, WorkerError
from safe_embed.model.dispatch import Dispatcher
from safe_embed.model.inference import Inference, Request, Settings
from safe_embed.model.loader import ModelSource
from safe_embed.model.messages import ModelFacts
from safe_embed.model.places import Plan
from safe_embed.model.remote import RemoteModel
from safe_embed.model.surroundings import Surroundings, working_directory
from safe_embed.model.turns import CLOSED, Job, Queue, check_caller, check_pool
from safe_embed.pooling import mean_pool
from safe_embed.types import Hook, ReloadPolicy, Stats

_CLOSE_SECONDS = 30.0
# Whatever splits work among the cores reads one of these when it is first used.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
# Those that a fork must leave to the parent.
_FLEETS: weakref.WeakSet[Fleet] = weakref.WeakSet()


class Fleet(Queue[Inference]):
    """Runs calls on a model in worker processes; what a :class:`Session` is for a thread.

    Args:
        source: Where the model comes from.
        settings: What the encoder does with every text.
        policy: When memory must be given back, up to a new process.
        hooks: Who is told of it.
        workers: How many processes.
        devices: Of the workers, in turn; ``None`` for the source's own.
        timeout_seconds: After which a task's process is taken to hang; ``None`` for never.
        opener: Whose pool this is; ``None`` for an encoder's own fleet.

    Raises:
        ConfigError: If something cannot be passed to another process.
        WorkerError: If a worker ended before its model was loaded.
    """

    def __init__(
        self,
        source: ModelSource,
        settings: Settings,
        policy: ReloadPolicy,
        hooks: Sequence[Hook] = (),
        *,
        workers: int = 1,
        devices: Sequence[str] | None = None,
        timeout_seconds: float | None = None,
        opener: Fleet | None = None,
    ) -> None:
        if sys.platform == "win32":
            raise ConfigError("isolation='process' needs Linux or macOS. Use isolation='none'.")
        if source.is_loaded:
            raise ConfigError(
                "isolation='process' needs a model that a worker can load: a name, a folder or a "
                "loader, not a SentenceTransformer that is loaded here."
            )
        # Texts are pooled here, and so a function of the user's own may be anything.
        sent = replace(settings, pooling=mean_pool)
        for name, value in (("model", source), ("splitter", sent), ("reload", policy)):
            _check_portable(name, value)
        threads = None if workers == 1 else max(1, _cores() // workers)
        names = _THREAD_VARIABLES if threads else ()
        places = [devices[at % len(devices)] if devices else None for at in range(workers)]
        self._hooks = tuple(hooks)
        self._settings = settings
        self._plan = Plan(
            source,
            sent,
            policy,
            places,
            threads,
            timeout_seconds,
            Surroundings(
                # A worker that takes over draws no bars; those of a call are drawn here.
                {"TQDM_DISABLE": "1"}
                | {name: os.environ.get(name, str(threads)) for name in names},
                working_directory() if opener is None else opener.folder,
            ),
            None if opener is None else opener.facts,
        )
        self._is_closed = False
        self._starting = threading.Lock()
        self._dispatcher = Dispatcher(self._plan, settings, self._hooks)
        self._begin()
        _FLEETS.add(self)

    def _begin(self) -> None:
        """Begin the thread and the workers, in this process."""
        dispatcher = self._dispatcher
        self._thread = threading.Thread(target=dispatcher.run, name="safe_embed", daemon=True)
        self._thread.start()
        # The thread knows the dispatcher, not the fleet: an encoder that is dropped ends them all.
        self._stop = weakref.finalize(self, _stop, dispatcher, self._thread, os.getpid())
        self._is_foreign = False
        try:
            dispatcher.begun.result()
        except BaseException:
            self._stop()
            self._is_foreign = True  # in a forked copy, the next call tries again
            raise

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
        with self._starting:
            if self._is_foreign:
                old = self._dispatcher
                self._dispatcher = Dispatcher(self._plan, self._settings, self._hooks, old)
                self._begin()
        return self._dispatcher

    @property
    def _checked(self) -> Dispatcher:
        """The same for a caller that will wait, which must not be the dispatcher's thread."""
        check_caller(self._thread)
        return self._ready

    def _add(self, job: Job) -> None:
        self._checked.add(job)

    def reload(self, reason: str, *, keep_tokenizer: bool = False) -> None:
        """Replace every worker, one after the other, while the others serve.

        Args:
            reason: Why, for log and ``stats``.
            keep_tokenizer: Means nothing here: a new process has a new one, and nobody waits.

        Raises:
            ReloadError: If a new one could not be had; the old one serves on if it is still there.
        """
        del keep_tokenizer
        for future in self._checked.reload(reason):
            try:
                future.result()
            except WorkerError:
                raise
            except Exception as error:
                msg = "A worker process could not be replaced. See the error before this one."
                raise ReloadError(msg) from error

    @property
    def facts(self) -> ModelFacts | None:
        """What is known of the model."""
        return self._ready.inference.facts

    @property
    def folder(self) -> str | None:
        """What relative entries of ``sys.path`` mean to the workers."""
        return self._plan.surroundings.folder

    @property
    def model(self) -> RemoteModel:
        """The model's settings, for reading and changing."""
        return self._ready.inference.known

    @property
    def is_between_models(self) -> bool:
        """Whether settings cannot be read just now: never, they are here."""
        return False

    @property
    def model_form(self) -> tuple[str, str]:
        """Names of the type of the model's weights, and of its device."""
        return self.model.dtype_name, self.model.device_name

    @property
    def limit_tokens(self) -> float | None:
        """Tokens that the model reads of one chunk; ``None`` for any number."""
        return self.model.max_seq_length

    def set_limit(self, tokens: int) -> None:
        """Set how many tokens the model reads of one chunk.

        Args:
            tokens: A positive number.
        """
        self.model.max_seq_length = tokens
        self._ready.change(max_seq_length=tokens)

    @contextmanager
    def lent(self, request: Request) -> Iterator[tuple[Fleet, Request]]:
        """Say who does a call: a pool that it names, one for it alone, or this fleet.

        Args:
            request: The call.

        Yields:
            The fleet, and the request without its pool.

        Raises:
            ConfigError: If the pool is another library's.
        """
        options = request.pool_options
        request = replace(request, pool_options={})
        if not options:
            yield self, request
        elif options["pool"] is not None:
            check_pool(options["pool"], "fleet")
            yield options["pool"]["fleet"], request
        else:
            fleet = self.start_pool(options["device"])["fleet"]
            try:
                yield fleet, request
            finally:
                fleet.close()

    def start_pool(self, devices: list[str] | None) -> dict[str, Any]:
        """Begin further workers, for calls that name them.

        Args:
            devices: One a worker; ``None`` for two on this one's device.

        Returns:
            A record, as upstream gives one.
        """
        plan = self._plan
        devices = [str(one) for one in devices or [self.model.device_name] * 2]
        pool = Fleet(
            plan.source,
            self._settings,
            plan.policy,
            self._hooks,
            workers=len(devices),
            devices=devices,
            timeout_seconds=plan.timeout_seconds,
            opener=self,
        )
        limit = self.model.max_seq_length
        if limit is not None and limit != pool.model.max_seq_length:
            pool.set_limit(int(limit))
        return {"fleet": pool, "processes": [one.pid for one in pool.stats.workers]}

    @property
    def stats(self) -> Stats:
        """What was done so far."""
        dispatcher = self._ready
        workers = dispatcher.workers
        return Stats(
            *dispatcher.inference.done,
            dispatcher.reloads,
            dispatcher.newest_sample,
            next((one.baseline for one in workers), None),
            tuple(dispatcher.record.events),
            workers,
        )

    def close(self) -> None:
        """End all workers; calls that wait get an error. May be called again."""
        self._is_closed = True
        if not self._is_foreign:
            self._stop()


def _stop(dispatcher: Dispatcher, thread: threading.Thread, pid: int) -> None:
    if os.getpid() != pid:
        return
    dispatcher.close()
    if thread is not threading.current_thread():
        thread.join(_CLOSE_SECONDS)


def _check_portable(name: str, value: Any) -> None:
    """Refuse what cannot be passed to another process, before one is begun."""
    try:
        pickle.dumps(value)
    except Exception as error:
        msg = (
            f"isolation='process' cannot pass {name}=… to another process: "
            f"{type(error).__name__}. Use functions and classes that stand at the top of a module, "
            "not lambdas or what is made inside a function.\n"
            "isolation='process' では、lambda や関数の中で定義したものは使えません。"
        )
        raise ConfigError(msg) from error


def _cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _after_fork() -> None:
    for fleet in tuple(_FLEETS):
        fleet.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
