"""What a dispatcher and its worker processes send each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from safe_embed.inference.request import Settings
from safe_embed.inference.tasks import Outcome, Task
from safe_embed.memory.ladder import BelowNeed
from safe_embed.memory.types import Event, MemorySample, Reason, ReloadPolicy
from safe_embed.supervision.conditions import Conditions
from safe_embed.upstream.settings import ModelFacts, ModelSettings
from safe_embed.upstream.source import ModelSource

# To a worker


@dataclass(frozen=True, slots=True)
class StartWorker:
    """The first message to a worker process.

    Attributes:
        source: Where the model comes from.
        settings: What the encoder does with every text.
        policy: When memory must be given back.
        model_settings: What users have set on the model; ``None`` for what it is loaded with.
        threads: How many threads torch uses; ``None`` for its own choice.
        log_level: Of the logger ``safe_embed``, whose records are sent to the dispatcher.
        reports_start: Whether the worker says when it starts a task, for a timeout.
        conditions: Clock, waits, headroom and measurement.
        below_need: What is known of a bound that a new process does not keep; ``None`` if nothing.
    """

    source: ModelSource
    settings: Settings
    policy: ReloadPolicy
    model_settings: ModelSettings | None
    threads: int | None
    log_level: int
    reports_start: bool
    conditions: Conditions
    below_need: BelowNeed | None = None


@dataclass(frozen=True, slots=True)
class Configure:
    """A user has changed settings of the model.

    Attributes:
        model_settings: Their new value.
    """

    model_settings: ModelSettings


@dataclass(frozen=True, slots=True)
class CountCall:
    """A call has ended whose last task was done by the worker.

    Attributes:
        texts: How many texts it had.
    """

    texts: int


@dataclass(frozen=True, slots=True)
class ExpectReplacement:
    """The worker has replaced another one because of a bound, and may have to be replaced too.

    Attributes:
        lead_seconds: How long the other one waited for its replacement.
    """

    lead_seconds: float


@dataclass(frozen=True, slots=True)
class ReplacementFailed:
    """The process that the worker has asked for could not be started.

    Attributes:
        error: Why.
    """

    error: BaseException


@dataclass(frozen=True, slots=True)
class ReportIdle:
    """The worker is to say when it has nothing left to do."""


@dataclass(frozen=True, slots=True)
class Ping:
    """The worker is to answer at once, whatever it is doing."""


# Ping is not among them: the thread that reads answers it.
ToWorker: TypeAlias = (
    Task | Configure | CountCall | ExpectReplacement | ReplacementFailed | ReportIdle
)

# From a worker


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """The model is loaded.

    Attributes:
        facts: Of the model.
        sample: What the process holds.
    """

    facts: ModelFacts
    sample: MemorySample


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The model could not be loaded, or the first message could not be read.

    Attributes:
        error: Why.
    """

    error: BaseException


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """The worker has started its task; before, it was doing something about its memory."""


@dataclass(frozen=True, slots=True)
class TaskDone:
    """The worker has done its task.

    Attributes:
        outcome: Its values and counts; ``None`` if it failed.
        error: Why it failed.
    """

    outcome: Outcome | None = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """What the process of the worker holds.

    Attributes:
        sample: The newest measurement.
        baseline: The measurement after warm-up; ``None`` before.
        below_need: What is known of a bound that a new process does not keep.
    """

    sample: MemorySample
    baseline: MemorySample | None
    below_need: BelowNeed | None = None


@dataclass(frozen=True, slots=True)
class EventReport:
    """The supervisor of the worker has done something about memory."""

    event: Event


@dataclass(frozen=True, slots=True)
class LogRecord:
    """The worker has written to the log ``safe_embed``."""

    level: int
    message: str


@dataclass(frozen=True, slots=True)
class RequestReplacement:
    """The policy of the worker wants its process replaced."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class HoldBack:
    """Whether the worker is to get no task: it holds too much, and does something about it."""

    holds_back: bool


@dataclass(frozen=True, slots=True)
class Idle:
    """The worker has nothing left to do."""


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a :class:`Ping`; the bytes that come are what counts."""


FromWorker: TypeAlias = (
    WorkerReady
    | LoadFailed
    | TaskStarted
    | TaskDone
    | MemoryReport
    | EventReport
    | LogRecord
    | RequestReplacement
    | HoldBack
    | Idle
)
