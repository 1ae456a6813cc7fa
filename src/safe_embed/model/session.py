"""The one thread on which an encoder's tokenizer and model work, whoever calls.

OpenMP and the allocator keep state for every thread that calls in: 60 calling threads cost 265 MB
and 120 native threads with sentence-transformers alone (docs/ja/growth.md). Here they cost a queue.

Calls are served in turn, a batch at a time, so that a short one need not wait for a long one.
Between two batches the keeper looks at memory, and gives back what a policy asks for.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from safe_embed._errors_foreign import deliverable
from safe_embed.errors import WorkerError
from safe_embed.memory.remedies import trim
from safe_embed.model.attributes import least
from safe_embed.model.engine import Engine
from safe_embed.model.inference import Request, Settings
from safe_embed.model.keeper import Keeper
from safe_embed.model.loader import ModelSource
from safe_embed.model.turns import (
    CLOSED,
    Job,
    Line,
    LineClosedError,
    Queue,
    check_caller,
    check_pool,
    wait_for,
)
from safe_embed.types import Hook, ReloadPolicy, Stats

if TYPE_CHECKING:
    from safe_embed.model.loader import SentenceTransformer

# A session without work looks at its memory once more, for what the last call left behind.
_IDLE_SECONDS = 1.0
# How long close() waits for the batch in progress.
_CLOSE_SECONDS = 30.0


class Session(Queue[Engine]):
    """Holds the loaded model and runs work on it, in order of arrival.

    Args:
        source: Where the model comes from.
        settings: What the encoder does with every text.
        policy: When memory must be given back.
        hooks: Who is told of it.
    """

    def __init__(
        self,
        source: ModelSource,
        settings: Settings,
        policy: ReloadPolicy,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self._line = Line()
        loaded: Future[Keeper] = Future()
        # The thread knows the line, not the session: an encoder that is dropped ends its thread.
        self._thread = threading.Thread(
            target=_serve,
            args=(self._line, loaded, lambda: Keeper(source.held(), settings, policy, hooks)),
            name="safe_embed",
            daemon=True,
        )
        self._thread.start()
        self._stop = weakref.finalize(self, _stop, self._line, self._thread)
        self._keeper: Keeper | None = loaded.result()

    def reload(self, reason: str, *, keep_tokenizer: bool = False) -> None:
        """Load the model anew; other calls go on meanwhile.

        Args:
            reason: Why, for the log.
            keep_tokenizer: Whether the tokenizer stays.
        """
        keeper = self.keeper

        def work(_: Engine) -> Any:
            return keeper.reload(reason, keep_tokenizer=keep_tokenizer)

        job = Job(work, needs_model=False)
        self._add(job)
        wait_for(job.future)

    def _add(self, job: Job) -> None:
        check_caller(self._thread)
        self._line.add(job)

    @property
    def keeper(self) -> Keeper:
        """The loaded model and its record, for reading; work belongs into :meth:`run`."""
        if self._keeper is None:
            raise WorkerError(CLOSED)
        return self._keeper

    @property
    def model(self) -> SentenceTransformer:
        """The loaded model, for reading settings; between drop and load this waits for it."""
        while (model := self.keeper.model) is None:
            self.run(lambda _: None)
        return model

    @property
    def is_between_models(self) -> bool:
        """Whether settings cannot be read just now: between drop and load."""
        return self.keeper.model is None

    @property
    def model_form(self) -> tuple[str, str]:
        """Names of the type of the model's weights, and of its device."""
        model = self.model
        return str(model.dtype), str(model.device)

    @property
    def limit_tokens(self) -> float | None:
        """Tokens that the model reads of one chunk; ``None`` for any number."""
        return least(self.model.max_seq_length, self.keeper.engine.positions)

    def set_limit(self, tokens: int) -> None:
        """Set how many tokens the model reads of one chunk.

        Args:
            tokens: A positive number.
        """

        def change(engine: Engine) -> None:
            engine.model.max_seq_length = tokens

        self.run(change)

    @contextmanager
    def lent(self, request: Request) -> Iterator[tuple[Session, Request]]:
        """Say who does a call; upstream's own pools are used from here.

        Args:
            request: The call.

        Yields:
            This session, and the request as it is.

        Raises:
            ConfigError: If the pool has worker processes of ours, which isolation="process" takes.
        """
        pool = request.pool_options.get("pool")
        if pool is not None:
            check_pool(pool, "input")
        yield self, request

    def start_pool(self, devices: list[str] | None) -> dict[str, Any]:
        """Start upstream's own processes.

        Args:
            devices: One a process; ``None`` for upstream's choice.

        Returns:
            Upstream's record of them.
        """
        found: dict[Any, Any] = self.run(
            lambda engine: engine.model.start_multi_process_pool(devices)
        )
        return found

    @property
    def stats(self) -> Stats:
        """What was done so far."""
        return self.keeper.stats

    def close(self) -> None:
        """End the thread and drop the model; calls that wait get an error. May be called again."""
        self._stop()
        if self._keeper is not None:
            self._keeper = None
            trim()


def _serve(line: Line, loaded: Future[Keeper], load: Callable[[], Keeper]) -> None:
    """Load the model, then serve calls until the line is closed: the thread's whole life."""
    try:
        keeper = load()
    except BaseException as raised:  # noqa: BLE001 it belongs to the caller of SafeEncoder()
        line.close()
        loaded.set_exception(deliverable(raised))
        return
    loaded.set_result(keeper)
    del loaded, load
    try:
        _serve_calls(line, keeper)
    finally:  # whatever ended the thread: nobody is to wait for it
        _stop(line)


def _serve_calls(line: Line, keeper: Keeper) -> None:
    timeout: float | None = None
    while True:
        try:
            job = line.next(timeout)
        except LineClosedError:
            return
        is_idle = job is None
        if job is not None and not _step(job, keeper):
            line.again(job)
        # Texts and result of an ended call belong to its caller: held here, they would be growth
        # that no remedy gives back.
        del job
        waits = keeper.watch(is_quiet=line.is_quiet)
        timeout = 0.0 if waits else None if is_idle else _IDLE_SECONDS


def _step(job: Job, keeper: Keeper) -> bool:
    """Do one task of a call, or let its flow go on to its first; tell whether it has ended."""
    try:
        engine = keeper.ready() if job.needs_model else keeper.engine
    except BaseException as raised:  # noqa: BLE001 it belongs to the caller
        return job.fail(raised)
    if job.pending and not job.future.cancelled():
        task, note = job.pending.popleft()
        try:
            note(engine.do(task))
        except BaseException as raised:  # noqa: BLE001 likewise
            return job.fail(raised)
        if job.pending:
            return False
    return job.go_on(engine)


def _stop(line: Line, thread: threading.Thread | None = None) -> None:
    if line.is_foreign:
        return
    for job in line.close():
        job.fail(WorkerError(CLOSED))
    if thread not in (None, threading.current_thread()):
        thread.join(_CLOSE_SECONDS)
