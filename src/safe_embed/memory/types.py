"""Memory: measurements, usage, reasons and events; the protocols that users may implement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from time import monotonic
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from safe_embed.memory.sizes import format_mib

# On the clock of the samples: what people read counts from here.
_START_SECONDS = monotonic()
# At and above this share of a limit, a policy that may take every rung has no cool-down.
_NEAR_LIMIT = 0.8


def since_start(elapsed_seconds: float) -> str:
    """Format a time for people.

    Args:
        elapsed_seconds: On the clock of ``time.monotonic``.

    Returns:
        The seconds since this process has loaded the package, such as ``"at 12.3 s"``.
    """
    return f"at {elapsed_seconds - _START_SECONDS:,.1f} s"


class Rung(IntEnum):
    """The steps that release memory, cheapest first. A comparison ``<`` means cheaper."""

    TRIM = 1
    """Collect garbage, release the allocators' free blocks and device caches; milliseconds."""
    TOKENIZER_CACHE = 2
    """Empty the caches of tokenizer and morphological analysers; milliseconds."""
    TOKENIZER = 3
    """Load a new tokenizer; a second."""
    MODEL = 4
    """Load a new model, and a new tokenizer if the old one's cache cannot be emptied; seconds."""
    PROCESS = 5
    """Replace the worker process; seconds."""


@dataclass(frozen=True, slots=True)
class MemorySample:
    """The memory use of one process at one moment. A value that is not available is ``None``.

    Attributes:
        elapsed_seconds: Time of the measurement, on the clock of ``time.monotonic``.
        rss_anon_bytes: Resident anonymous memory: allocated and not released (Linux).
        rss_file_bytes: Resident pages of mapped files, such as weights; the system can reclaim
            them (Linux).
        rss_shmem_bytes: Resident shared memory (Linux).
        footprint_bytes: ``phys_footprint`` on macOS; elsewhere the RSS, if *rss_anon_bytes* is not
            available.
        peak_bytes: The highest RSS of the process so far.
        native_threads: Number of threads of the process, those of Python included.
        heap_used_bytes: Memory that the C heap has allocated to the program (glibc's own heap).
        heap_kept_bytes: Free blocks that the C heap keeps (glibc's own heap).
        device_used_bytes: Memory of tensors on the device (cuda, mps).
        device_kept_bytes: Memory that the device's allocator has reserved in addition.
        device_free_bytes: Unused memory of the device (cuda).
        limit_bytes: The memory limit with the least room left: of the cgroup, RLIMIT_AS, or the
            total memory of the machine.
        limit_used_bytes: Memory that counts against that limit, page cache excluded.
        limit_kind: Which limit that is: ``"cgroup"``, ``"address space"`` or ``"machine"``.
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
    limit_kind: Literal["cgroup", "address space", "machine"] | None = None

    def __repr__(self) -> str:
        """Sizes in MiB, and seconds since the process has loaded the package."""
        limit = f", {format_mib(self.limit_used_bytes)} of {format_mib(self.limit_bytes)} used"
        return (
            f"<MemorySample {since_start(self.elapsed_seconds)}: holds "
            f"{format_mib(self.held_bytes)}, peak {format_mib(self.peak_bytes)}"
            f"{'' if self.limit_bytes is None else limit}>"
        )

    @property
    def held_bytes(self) -> int | None:
        """``rss_anon_bytes``, or else ``footprint_bytes``; ``None`` if neither is available."""
        return self.footprint_bytes if self.rss_anon_bytes is None else self.rss_anon_bytes

    @property
    def room_bytes(self) -> int | None:
        """``limit_bytes - limit_used_bytes``; ``None`` if either is not available."""
        if self.limit_bytes is None or self.limit_used_bytes is None:
            return None
        return self.limit_bytes - self.limit_used_bytes

    @property
    def is_near_limit(self) -> bool:
        """Whether 80 % of the limit or more are used; ``False`` if there is no known limit."""
        if self.limit_bytes is None or self.limit_used_bytes is None:
            return False
        return self.limit_used_bytes >= _NEAR_LIMIT * self.limit_bytes


class Missed(NamedTuple):
    """A memory bound that was still exceeded after all allowed rungs were taken.

    Attributes:
        seconds: Time since then.
        held_bytes: Memory that the process held afterwards.
    """

    seconds: float
    held_bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The counts and memory measurements of one loaded model: the input of a policy.

    Attributes:
        calls: Number of calls since the model was loaded.
        texts: Number of texts since the model was loaded.
        tokens: Number of tokens since the model was loaded, with special tokens and prompts.
        seconds: Time since the model was loaded.
        sample: The newest memory measurement of the process that holds the model.
        baseline: The smallest measurement after warm-up, taken while no call was running; ``None``
            until the warm-up is over.
        seconds_since_remedy: Time since any rung was last taken or failed; ``None`` if never.
        seconds_since_renewal: Time since a rung above ``TRIM`` was last taken; ``None`` if never.
        luck: A random number in [0, 1), drawn for every loaded model. Policies multiply their
            jitter by it, so that several encoders do not reload at the same moment.
        renewal_rung: The last rung above ``TRIM`` that was taken; meaningless if
            *seconds_since_renewal* is ``None``.
        held_after_renewal_bytes: The least memory that the process was seen to hold since that
            rung; ``None`` if unknown.
        missed: For each ``Reason.at_most``: the last time that all rungs up to it were taken and
            the bound was still exceeded.
        highest_rung: The highest rung that this encoder can take.
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
        """Memory growth of the process since the baseline; ``None`` if either is not available."""
        if self.baseline is None:
            return None
        held, baseline = self.sample.held_bytes, self.baseline.held_bytes
        return None if held is None or baseline is None else held - baseline


@dataclass(frozen=True, slots=True)
class Reason:
    """A policy's request to release memory: down to a bound, or by taking one given rung.

    Attributes:
        text: The explanation for logs and events; must not hold a user's text.
        bound_bytes: Memory that the process may hold at most. Rungs are taken, cheapest first,
            until it holds no more. ``None`` if *rung* says what to do.
        rung: The single rung to take; ``None`` if there is a bound.
        at_most: The highest rung that may be taken for the bound.
    """

    text: str
    bound_bytes: int | None = None
    rung: Rung | None = None
    at_most: Rung = Rung.PROCESS


@runtime_checkable
class ReloadPolicy(Protocol):
    """Decides when memory must be released or the model reloaded; holds no state."""

    def reason(self, usage: Usage) -> Reason | None:
        """Decide whether something must be done now.

        Args:
            usage: Counts and measurements of the loaded model.

        Returns:
            What must be done and why; ``None`` if nothing.
        """
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of the event log: a rung that was taken, or a worker process that ended.

    Attributes:
        kind: ``"remedy"`` (a rung was taken; a trim only if it gave something back), ``"failed"``
            (a rung failed; the old model stays in use), ``"unreached"`` (all allowed rungs were
            taken and the bound is still exceeded), ``"outside"`` (the same, and a new model shows
            that it is held outside this encoder), or ``"died"`` (a worker process ended
            unexpectedly; it is replaced and its work repeated).
        reason: Why the rung was taken, such as the text of the policy's
            :class:`~safe_embed.policies.Reason`.
        rung: The rung that was taken; for ``"unreached"`` and ``"outside"`` the highest of them.
        before: The measurement before the rung.
        after: The measurement after the rung.
        seconds: Duration.
        error: For ``"failed"``, the type name of the exception, without its message; else ``None``.
    """

    kind: Literal["remedy", "failed", "unreached", "outside", "died"]
    reason: str
    rung: Rung
    before: MemorySample
    after: MemorySample
    seconds: float
    error: str | None = None

    def __repr__(self) -> str:
        """As the log tells it."""
        return f"<Event {self}>"

    def __str__(self) -> str:
        """What was done and why, sizes in MiB, and seconds since the process has begun."""
        error = f", {self.error}" if self.error else ""
        return (
            f"{self.rung.name}: {self.kind} ({self.reason}), held "
            f"{format_mib(self.before.held_bytes)} -> {format_mib(self.after.held_bytes)} in "
            f"{self.seconds:.3f} s{error}, {since_start(self.after.elapsed_seconds)}"
        )


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker process of an encoder with ``isolation="process"``.

    Attributes:
        pid: Process id.
        sample: The newest memory measurement of the process.
        baseline: The smallest measurement after warm-up; ``None`` until the warm-up is over.
    """

    pid: int
    sample: MemorySample
    baseline: MemorySample | None


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts, memory measurements and event log of an encoder since it was made.

    Attributes:
        calls: Number of calls that have ended.
        texts: Number of texts of those calls.
        tokens: Number of tokens that the model has read, with special tokens and prompts.
        padding_tokens: Number of padding tokens that the model has read in addition.
        reloads: How often the model was reloaded.
        sample: The newest memory measurement.
        baseline: The smallest measurement after warm-up, taken while no call was running. Memory
            growth is counted from it. ``None`` until the warm-up is over.
        events: The last 100 events, oldest first.
        workers: The worker processes, with ``isolation="process"``; *sample* and *baseline* are
            then those of one of them.
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

    def __repr__(self) -> str:
        """Counts, and sizes in MiB; the events and workers by number."""
        held = self.sample.held_bytes
        warm = None if self.baseline is None else self.baseline.held_bytes
        growth = "" if held is None or warm is None else f" ({(held - warm) / 2**20:+,.0f} MiB)"
        workers = f", {len(self.workers)} workers" if self.workers else ""
        return (
            f"<Stats {since_start(self.sample.elapsed_seconds)}: {self.calls:,} calls, "
            f"{self.texts:,} texts, {self.tokens:,} tokens and {self.padding_tokens:,} of padding, "
            f"{self.reloads:,} reloads, {len(self.events)} events{workers}; holds "
            f"{format_mib(held)}{growth}>"
        )


class Hook(Protocol):
    """A callback that receives every :class:`~safe_embed.Event` of an encoder."""

    def __call__(self, event: Event) -> None:
        """Handle an event. Runs on the encoder's own thread, so that a slow hook delays calls.

        Args:
            event: The event.
        """
        ...
