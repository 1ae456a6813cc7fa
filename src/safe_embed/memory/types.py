"""Memory: measurements, usage, reasons and events; the protocols that users may implement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, NamedTuple, Protocol, runtime_checkable

# From this share of a limit on, a policy that may take every rung has no cool-down.
_NEAR_LIMIT = 0.8


class Rung(IntEnum):
    """What can be given back, cheapest first."""

    TRIM = 1
    """Garbage, free blocks of the allocator, the device's cache; milliseconds."""
    TOKENIZER_CACHE = 2
    """What tokenizer and morphological analysers remember of texts; milliseconds."""
    TOKENIZER = 3
    """A new tokenizer; a second."""
    MODEL = 4
    """A new model, and a new tokenizer where the old one cannot be made to forget; seconds."""
    PROCESS = 5
    """A new process."""


@dataclass(frozen=True, slots=True)
class MemorySample:
    """What a process holds at one moment. A figure that is not to be had is ``None``, never 0.

    Attributes:
        elapsed_seconds: When, on the clock of ``time.monotonic``.
        rss_anon_bytes: Allocated and not given back (Linux).
        rss_file_bytes: Pages of mapped files, such as weights; the system takes them back at need.
        rss_shmem_bytes: Shared memory.
        footprint_bytes: ``phys_footprint`` (macOS), or else RSS where there is nothing better.
        peak_bytes: The highest RSS so far.
        native_threads: Threads of the process, Python's and all others.
        heap_used_bytes: What the C heap has handed out (glibc).
        heap_kept_bytes: What the C heap keeps free for itself (glibc).
        device_used_bytes: What tensors use on the device (cuda, mps).
        device_kept_bytes: What the device's allocator holds besides.
        device_free_bytes: What the device has left for whoever asks (cuda).
        limit_bytes: The limit with the least room left: cgroup, RLIMIT_AS, or the machine.
        limit_used_bytes: What counts against that limit; no page cache.
    """

    elapsed_seconds: float
    rss_anon_bytes: int | None = None
    rss_file_bytes: int | None = None
    rss_shmem_bytes: int | None = None
    footprint_bytes: int | None = None
    peak_bytes: int | None = None
    native_threads: int | None = None
    heap_used_bytes: int | None = None
    heap_kept_bytes: int | None = None
    device_used_bytes: int | None = None
    device_kept_bytes: int | None = None
    device_free_bytes: int | None = None
    limit_bytes: int | None = None
    limit_used_bytes: int | None = None

    @property
    def held_bytes(self) -> int | None:
        """Anonymous memory of the process, or the best figure there is."""
        return self.footprint_bytes if self.rss_anon_bytes is None else self.rss_anon_bytes

    @property
    def room_bytes(self) -> int | None:
        """What is left below the limit."""
        if self.limit_bytes is None or self.limit_used_bytes is None:
            return None
        return self.limit_bytes - self.limit_used_bytes

    @property
    def is_near_limit(self) -> bool:
        """Whether four fifths of the limit are used."""
        if self.limit_bytes is None or self.limit_used_bytes is None:
            return False
        return self.limit_used_bytes >= _NEAR_LIMIT * self.limit_bytes


class Missed(NamedTuple):
    """A bound that could not be reached.

    Attributes:
        seconds: Time since then.
        held_bytes: What the process held in spite of all that was done.
    """

    seconds: float
    held_bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What an encoder has done, and what its process holds: all that a policy may look at.

    Attributes:
        calls: Calls since the model was loaded.
        texts: Texts since then.
        tokens: Tokens since then, special tokens and prompts included.
        seconds: Time since then.
        sample: The newest measurement.
        baseline: The smallest measurement since warm-up while no call was under way; ``None``
            before.
        seconds_since_remedy: Time since memory was last given back on purpose; ``None`` if never.
        seconds_since_renewal: Time since more was done than a trim; ``None`` if never.
        renewal_rung: The rung that was taken then.
        held_after_renewal_bytes: What the process held right after it; ``None`` if unknown.
        missed: Highest rung that was allowed -> the last time that all rungs up to it were taken
            and the bound was still exceeded.
        highest_rung: The highest rung that can be taken here.
        luck: Drawn anew from [0, 1) for every loaded model, for jitter: a fleet does not reload
            at once.
    """

    calls: int
    texts: int
    tokens: int
    seconds: float
    sample: MemorySample
    baseline: MemorySample | None = None
    seconds_since_remedy: float | None = None
    seconds_since_renewal: float | None = None
    luck: float = 0.0
    renewal_rung: Rung = Rung.PROCESS
    held_after_renewal_bytes: int | None = None
    missed: Mapping[Rung, Missed] = field(default_factory=dict)
    highest_rung: Rung = Rung.PROCESS

    @property
    def growth_bytes(self) -> int | None:
        """What the process holds more than after warm-up; ``None`` before, or if not to be had."""
        if self.baseline is None:
            return None
        now, then = self.sample.held_bytes, self.baseline.held_bytes
        return None if now is None or then is None else now - then


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something must be done: with a bound to get under, or a rung to take.

    Attributes:
        text: For logs and reports; never a user's text.
        bound_bytes: What the process may hold; the ladder is climbed until it does.
        rung: The one rung to take, if there is no bound.
        at_most: The highest rung that may be taken.
    """

    text: str
    bound_bytes: int | None = None
    rung: Rung | None = None
    at_most: Rung = Rung.PROCESS


@runtime_checkable
class ReloadPolicy(Protocol):
    """Says when something must be done; a small value without state."""

    def reason(self, usage: Usage) -> Reason | None:
        """Look at what was used.

        Args:
            usage: Counts and measurements.

        Returns:
            Why something must be done, or ``None``.
        """
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """One thing the encoder did about its memory, for hooks, logs and ``stats``.

    Attributes:
        kind: ``"remedy"`` (a rung was taken), ``"failed"`` (a rung failed; the old model serves),
            ``"unreached"`` (all rungs were taken and the bound is still exceeded), or ``"died"``
            (a worker process ended by itself; it is replaced and its work done again).
        reason: Why.
        rung: Which rung.
        before: The measurement before.
        after: The measurement after.
        seconds: How long it took.
        error: Type of the error that made it fail, without its message; ``None`` otherwise.
    """

    kind: Literal["remedy", "failed", "unreached", "died"]
    reason: str
    rung: Rung
    before: MemorySample
    after: MemorySample
    seconds: float
    error: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker process of an encoder with ``isolation="process"``.

    Attributes:
        pid: Of the process.
        sample: The newest measurement of it.
        baseline: The smallest measurement after warm-up; ``None`` before.
    """

    pid: int
    sample: MemorySample
    baseline: MemorySample | None


@dataclass(frozen=True, slots=True)
class Stats:
    """What an encoder has done so far.

    Attributes:
        calls: Calls that have ended.
        texts: Texts of those calls.
        tokens: Tokens the model has read, special tokens and prompts included.
        padding_tokens: Padding it has read besides.
        reloads: How often the model was loaded anew.
        sample: The newest measurement.
        baseline: The smallest measurement since warm-up while no call was under way; growth counts
            from there. ``None`` before.
        events: The last hundred things done about memory, oldest first.
        workers: The processes that hold the model, with ``isolation="process"``; *sample* and
            *baseline* are those of one of them then.
    """

    calls: int
    texts: int
    tokens: int
    padding_tokens: int
    reloads: int
    sample: MemorySample
    baseline: MemorySample | None
    events: tuple[Event, ...]
    workers: tuple[WorkerState, ...] = ()


class Hook(Protocol):
    """Is told what the encoder did about its memory."""

    def __call__(self, event: Event) -> None:
        """Take note of an event; called on the encoder's own thread, so be quick.

        Args:
            event: What happened.
        """
        ...
