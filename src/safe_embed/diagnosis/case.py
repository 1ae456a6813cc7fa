"""All that the experiments have observed, with the shape of each curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from safe_embed.diagnosis.experiments import Observation
from safe_embed.diagnosis.growth import TOLERANCE_BYTES, Growth, judge
from safe_embed.diagnosis.readings import Reading

# tracemalloc counts every byte. A rise of 250 kB is 250 bytes for each of 1,000 calls.
TRACED_TOLERANCE_BYTES = 250_000
# A cause explains growth if it accounts for half of it.
MOST = 0.5
FEWEST_CALLERS = 8


@dataclass(frozen=True)
class Case:
    """All observations, and the shape of each curve.

    Attributes:
        observations: By name; those that failed or have fewer than two calls are left out.
        growths: By the same names.
    """

    observations: dict[str, Observation]
    growths: dict[str, Growth] = field(default_factory=dict)

    def rise(self, name: str) -> int:
        """Growth of memory in an experiment, in bytes; 0 if there was no such experiment."""
        observation = self.observations.get(name)
        return 0 if observation is None else max(0, observation.rise())


def judged(observation: Observation) -> Growth:
    """Judge the curve of an experiment, with the tolerance of what it measures."""
    is_traced = observation.kind.is_traced
    return judge(observation.held_bytes, TRACED_TOLERANCE_BYTES if is_traced else TOLERANCE_BYTES)


def known(readings: Sequence[Reading], name: str) -> list[int]:
    """List the values of an attribute of readings, those that are not available left out.

    Args:
        readings: Oldest first.
        name: Of the attribute.

    Returns:
        The values.
    """
    values = (getattr(reading, name) for reading in readings)
    return [value for value in values if value is not None]
