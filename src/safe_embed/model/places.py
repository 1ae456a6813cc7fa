"""What workers are to be, where they serve, and one in the place of another: plain values."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

from safe_embed.errors import WorkerError
from safe_embed.model.handle import UNKNOWN, Handle
from safe_embed.model.inference import Settings
from safe_embed.model.loader import ModelSource
from safe_embed.model.messages import ModelFacts
from safe_embed.model.surroundings import Surroundings
from safe_embed.types import MemorySample, Reason, ReloadPolicy


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
        surroundings: Of the processes.
        known: The model that they must have, where another fleet has loaded it before.
    """

    source: ModelSource
    settings: Settings
    policy: ReloadPolicy
    devices: Sequence[str | None]
    threads: int | None = None
    timeout_seconds: float | None = None
    surroundings: Surroundings = field(default_factory=Surroundings)
    known: ModelFacts | None = None


@dataclass(slots=True, eq=False)
class Recycling:
    """A worker is to be replaced: which and why, and who waits for it.

    Attributes:
        place: Whose worker.
        worker: That served there when this was asked for.
        reason: Why.
        future: Is done when another one serves.
        before: What the process held when its turn came.
        since: When that was.
        is_drained: Whether there was no room for two, so that it had to go first.
        is_by_hand: Whether a caller asked for it; else a worker did, which tells what came of it.
    """

    place: Place
    worker: Handle | None
    reason: Reason
    future: Future[None] = field(default_factory=Future)
    before: MemorySample = UNKNOWN
    since: float = 0.0
    is_drained: bool = False
    is_by_hand: bool = False

    def end(self, error: BaseException | None = None) -> None:
        """Tell who waits for the new worker."""
        with contextlib.suppress(InvalidStateError):  # they have given up
            if error is None:
                self.future.set_result(None)
            else:
                self.future.set_exception(error)


@dataclass(slots=True, eq=False)
class Place:
    """Where one worker serves, and another may be getting ready to take over.

    Attributes:
        device: Of its workers; ``None`` for the source's own.
        serving: Does tasks.
        coming: Loads its model.
        retry_at: When to begin one again, on the clock of ``time.monotonic``.
    """

    device: str | None
    serving: Handle | None = None
    coming: Handle | None = None
    retry_at: float | None = None


def none_begun(times: int, wait_seconds: float, error: BaseException) -> WorkerError:
    """Make the error of calls for which no worker can be had.

    Args:
        times: How often it was tried.
        wait_seconds: When it is tried again.
        error: Of the last attempt.

    Returns:
        The error, for one caller.
    """
    tried = f", {times} times in a row" if times > 1 else ""
    failed = WorkerError(
        f"No worker process could be begun{tried}; it is tried again in {wait_seconds:.0f} s. "
        f"The last error: {type(error).__name__}: {error}\n"
        "ワーカープロセスを起動できません。上のエラーを確認してください。"
    )
    failed.__cause__ = error
    return failed
