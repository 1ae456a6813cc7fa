"""What a supervisor takes as given: the clock, its waits, the headroom and the measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from safe_embed.memory.limits import fits
from safe_embed.memory.sampling import Sampler
from safe_embed.memory.types import MemorySample


class TakesSamples(Protocol):
    """Measures the process: a :class:`safe_embed.memory.sampling.Sampler`, or a test."""

    def take(self, *, fresh: bool = False, fresh_heap: bool | None = None) -> MemorySample:
        """Take a sample, or give the last one where that is new enough."""
        ...


def has_headroom(sample: MemorySample, load_bytes: int, weights_bytes: int) -> bool:
    """Tell whether a second model fits beside the first.

    Args:
        sample: A fresh measurement.
        load_bytes: What loading the first one took in the process.
        weights_bytes: What its weights take on the device.

    Returns:
        Whether both fit, into the memory of the process and into that of the device.
    """
    return fits(load_bytes, sample.room_bytes) and fits(weights_bytes, sample.device_free_bytes)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What supervisor and backend take as given; tests exchange it.

    For ``isolation="process"`` all of it must be picklable.

    Attributes:
        clock: The time in seconds; never runs backwards.
        idle_seconds: After so long without work the memory is looked at once more, for what the
            last call left behind.
        retry_seconds: A model that is lost is not loaded more often than this.
        worker_retry_seconds: How long to wait after the first worker process that could not be
            started; doubled each time, up to a minute.
        headroom: Whether a second model fits beside the first; see :func:`has_headroom`.
        sampler: Makes what measures the process, as :class:`safe_embed.memory.sampling.Sampler`.
    """

    clock: Callable[[], float] = time.monotonic
    idle_seconds: float = 1.0
    retry_seconds: float = 10.0
    worker_retry_seconds: float = 0.5
    headroom: Callable[[MemorySample, int, int], bool] = has_headroom
    sampler: Callable[..., TakesSamples] = Sampler
