"""What an encoder and its worker processes say to each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from safe_embed.memory.remedies import BelowNeed
from safe_embed.model.files import Identity
from safe_embed.model.inference import Done, Settings
from safe_embed.model.loader import ModelSource
from safe_embed.types import Event, FloatArray, MemorySample, Reason, ReloadPolicy

# To a worker; besides, a Task is to be done


@dataclass(frozen=True, slots=True)
class Start:
    """The first message to a worker: what it is to be.

    Attributes:
        source: Where the model comes from.
        settings: What the encoder does with every text.
        policy: When memory must be given back.
        changes: What users have set on the model since: ``max_seq_length``, ``device``.
        threads: How many threads torch uses; ``None`` for its own choice.
        log_level: Of the logger ``safe_embed``, whose records travel.
        tells_begun: Whether somebody wants to know when a task is taken up.
        below_need: What is known of a bound that a new process does not keep; ``None`` if nothing.
    """

    source: ModelSource
    settings: Settings
    policy: ReloadPolicy
    changes: dict[str, Any]
    threads: int | None
    log_level: int
    tells_begun: bool
    below_need: BelowNeed | None = None


@dataclass(frozen=True, slots=True)
class Stay:
    """A worker that asked to be replaced is told that no other could be had.

    Attributes:
        error: What kept it.
    """

    error: BaseException


@dataclass(frozen=True, slots=True)
class Change:
    """A user has set something on the model; ``Start.changes`` brings it to later workers.

    Attributes:
        changes: Name -> value.
    """

    changes: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Expect:
    """The worker is there because only another process helped the one before it.

    Attributes:
        lead_seconds: How long that one had to wait.
    """

    lead_seconds: float


@dataclass(frozen=True, slots=True)
class Tally:
    """A call has ended, and its last task was done here.

    Attributes:
        texts: How many it had.
    """

    texts: int


# From a worker


@dataclass(slots=True)
class ModelFacts:
    """What an encoder must know of a model that it does not hold.

    Attributes:
        limit_tokens: Tokens that the model reads of one chunk.
        device: Where it is, such as ``"cuda:0"``.
        dtype: The type of its weights, such as ``"torch.float32"``.
        unit_length: Whether it ends in Normalize.
        dimension: Of its vectors, if it knows.
        model_kwargs: Which further arguments its forward takes.
        settings: What users may set on it: prompts, truncate_dim …
        weights_bytes: What its weights take on the device.
        load_bytes: Anonymous memory of the process with the model, before any work.
        canary: The vector of a fixed text, by which the model is known.
        unpadded: Whether batches go through it without padding.
        positions: Tokens that it has positions for; ``None`` for any number.
        identity: What its files are known by.
    """

    limit_tokens: float | None
    device: str
    dtype: str
    unit_length: bool
    dimension: int | None
    model_kwargs: list[str]
    settings: dict[str, Any]
    weights_bytes: int
    load_bytes: int
    canary: FloatArray = field(repr=False)
    unpadded: bool = False
    positions: int | None = None
    identity: Identity = field(default_factory=Identity)


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded."""

    facts: ModelFacts
    sample: MemorySample


@dataclass(frozen=True, slots=True)
class Refused:
    """The model could not be loaded, or the first message not be read."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Begun:
    """The worker has taken up its task; before, it was looking after its memory."""


@dataclass(frozen=True, slots=True)
class Result:
    """What the worker's task has given: a value, or an error."""

    found: Any = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class State:
    """What the worker's process holds, what it has done, and which bounds are beyond it."""

    sample: MemorySample
    baseline: MemorySample | None
    done: Done
    below_need: BelowNeed | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """The worker's keeper did something about memory."""

    event: Event


@dataclass(frozen=True, slots=True)
class Logged:
    """The worker wrote something to the log of safe_embed."""

    level: int
    message: str


@dataclass(frozen=True, slots=True)
class Leave:
    """The worker's policy wants its process replaced."""

    reason: Reason
