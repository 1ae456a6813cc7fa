"""What worker processes are to be, and the slots in which they serve: plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from safe_embed.backends.process.worker_handle import WorkerHandle
from safe_embed.errors import WorkerError, both
from safe_embed.inference.request import Settings
from safe_embed.ipc.surroundings import Surroundings
from safe_embed.memory.types import ReloadPolicy
from safe_embed.supervision.conditions import Conditions
from safe_embed.upstream.settings import ModelFacts
from safe_embed.upstream.source import ModelSource


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What every worker process of a pool is to be.

    Attributes:
        source: Where the model comes from.
        settings: What the encoder does with every text.
        policy: When memory must be given back.
        devices: Of each slot, in order; ``None`` for the source's own.
        threads: How many threads torch uses in a worker; ``None`` for its own choice.
        timeout_seconds: After which a worker that does one task is taken to hang; ``None`` for
            never.
        surroundings: Folders of modules and environment of the processes.
        known: The model that they must have, where another pool has loaded it before.
        conditions: Clock, waits, headroom and measurement.
    """

    source: ModelSource
    settings: Settings
    policy: ReloadPolicy
    devices: Sequence[str | None]
    threads: int | None = None
    timeout_seconds: float | None = None
    surroundings: Surroundings = field(default_factory=Surroundings)
    known: ModelFacts | None = None
    conditions: Conditions = field(default_factory=Conditions)


@dataclass(slots=True, eq=False)
class Slot:
    """The place of one active worker, and of a standby that is loading to take over.

    Attributes:
        device: Of its workers; ``None`` for the source's own.
        active: Does tasks.
        standby: Loads its model.
        retry_at: When to start a worker again, in seconds on the dispatcher's clock.
    """

    device: str | None
    active: WorkerHandle | None = None
    standby: WorkerHandle | None = None
    retry_at: float | None = None

    @property
    def is_vacant(self) -> bool:
        """Whether there is no worker, active or loading."""
        return self.active is None and self.standby is None


def no_worker_error(times: int, wait_seconds: float, error: BaseException) -> WorkerError:
    """Make the error of calls for which no worker process can be started.

    Args:
        times: How often starting one was tried.
        wait_seconds: When it is tried again.
        error: Of the last attempt.

    Returns:
        The error, for one caller.
    """
    tried = f", {times} times in a row" if times > 1 else ""
    failed = WorkerError(
        both(
            f"No worker process could be begun{tried}; it is tried again in {wait_seconds:.0f} s. "
            f"The last error: {type(error).__name__}: {error}",
            f"ワーカープロセスを起動できません。{wait_seconds:.0f} 秒後にまた試します。"
            "上のエラーを確認してください。",
        )
    )
    failed.__cause__ = error
    return failed


def ended_early(ending: str) -> WorkerError:
    """Make the error of a worker process that has ended before its model was loaded.

    Args:
        ending: How it has ended.

    Returns:
        The error.
    """
    return WorkerError(
        both(
            f"The worker process ended before its model was loaded: {ending}. What it wrote last "
            "stands in the standard error output.",
            f"モデルを読み込む前にワーカープロセスが終了しました（{ending}）。最後の出力は標準エラー"
            "出力にあります。",
        )
    )
