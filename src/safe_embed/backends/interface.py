"""What an encoder asks of the place where its model lives: all that the façade knows."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Protocol

from safe_embed.backends.admission import Place
from safe_embed.inference.request import Call, Pool
from safe_embed.memory.types import Stats
from safe_embed.upstream.settings import ModelState


class Backend(Protocol):
    """Does calls on a model, from any thread, and keeps its memory within the policy's bound.

    Both kinds fulfil the same contract, which ``tests/test_backends.py`` runs on each: results do
    not depend on the backend, and neither do counts, errors, or what a reload may lose (nothing).
    """

    @property
    def model(self) -> ModelState:
        """What is known of the model: facts, and settings as users have set them.

        Raises:
            WorkerError: If the backend is closed.
        """
        ...

    def enter(self, texts: int, priority: int, *, must_wait: bool = False) -> Place:
        """Ask for a place among the calls that wait, before the texts of a call are read.

        Args:
            texts: How many texts the call has.
            priority: Of the call; higher is earlier.
            must_wait: Whether the call waits for a place also where others are refused.

        Returns:
            The place; the call may be queued when ``admitted`` is done.

        Raises:
            QueueFullError: If there is no room, and callers are not to wait.
            WorkerError: As for :meth:`submit`.
        """
        ...

    def submit(self, call: Call, place: Place | None = None) -> Future[Any]:
        """Queue a call.

        Args:
            call: What to do.
            place: Of the call, which has been admitted; ``None`` for a call without texts.

        Returns:
            A future of the result of the call; cancelling it gives up the place in the queue.

        Raises:
            WorkerError: If the backend is closed, or if its own thread is the caller.
        """
        ...

    def configure(self, **changes: Any) -> None:
        """Change settings of the model, for all calls that are queued from now on.

        Args:
            **changes: Fields of :class:`safe_embed.upstream.settings.ModelSettings`.
        """
        ...

    def reload(self, reason: str, *, keep_tokenizer: bool = False) -> None:
        """Reload the model, and wait for that; calls go on meanwhile.

        Args:
            reason: Why, for log and ``stats``.
            keep_tokenizer: Whether the tokenizer stays, where the process does.

        Raises:
            ReloadError: If it failed; the old model serves on if it is still there.
        """
        ...

    def start_pool(self, devices: list[str] | None) -> dict[str, Any]:
        """Start further processes, for calls that name them.

        Args:
            devices: One for each process; ``None`` for the backend's choice.

        Returns:
            A record, as upstream's ``start_multi_process_pool`` gives one.
        """
        ...

    def lend(self, pool: Pool | None) -> AbstractContextManager[tuple[Backend, Pool | None]]:
        """Say which backend does a call that names a pool.

        Args:
            pool: The pool; ``None`` for none.

        Returns:
            A context for the time of the call: its backend, and the pool to pass on to it.

        Raises:
            ConfigError: If the pool is of another kind of backend.
        """
        ...

    @property
    def is_ready(self) -> bool:
        """Whether a call can be queued at once; in a forked copy workers may have to start."""
        ...

    @property
    def stats(self) -> Stats:
        """Counts of the work since the encoder was made, and memory, as of now."""
        ...

    def idle(self) -> None:
        """Wait until no call is under way and nothing is being done about memory.

        Raises:
            WorkerError: If the backend is closed meanwhile.
        """
        ...

    def close(self) -> None:
        """End threads and processes; calls that wait get a WorkerError. May be called again."""
        ...
