"""When a policy keeps silent after a remedy: while it could do no more than what was just done."""

from __future__ import annotations

from dataclasses import dataclass

from safe_embed.memory.types import Rung, Usage

# Within the cool-down the same remedy is repeated only if memory has grown again by one of these: a
# share of what the process held after the remedy, or a share of the memory that is allowed.
_REGROWN_OF_HELD = 0.1
_REGROWN_OF_ALLOWED = 0.25


@dataclass(frozen=True, slots=True)
class CoolDown:
    """The cool-down of one policy.

    Attributes:
        seconds: How long it lasts.
        at_most: The highest rung that the policy may ask for.
        allowed_bytes: The growth that the policy allows; ``None`` if it allows a share.
    """

    seconds: float
    at_most: Rung
    allowed_bytes: int | None

    def holds(self, usage: Usage, bound_bytes: int) -> bool:
        """Tell whether the policy must stay silent: its remedy was taken within the cool-down.

        Near a limit a policy that may take every rung has no cool-down: the system kills a process
        that exceeds it.

        Args:
            usage: What was done, and what the process holds.
            bound_bytes: The bound that the policy would ask for.

        Returns:
            Whether its remedies could do no more than what was just done.
        """
        if self.at_most == Rung.TRIM:
            return self._includes(usage.seconds_since_remedy)
        highest = min(self.at_most, usage.highest_rung)
        if usage.sample.is_near_limit and highest == usage.highest_rung:
            return False
        for rung, missed in usage.missed.items():
            would_miss = bound_bytes < missed.held_bytes
            if rung >= highest and would_miss and self._includes(missed.seconds):
                return True
        was_as_high = usage.renewal_rung >= highest
        is_recent = self._includes(usage.seconds_since_renewal)
        return was_as_high and is_recent and not self._has_regrown(usage)

    def _includes(self, seconds: float | None) -> bool:
        """Whether *seconds* is a time within the cool-down; ``None`` means never."""
        return seconds is not None and seconds < self.seconds

    def _has_regrown(self, usage: Usage) -> bool:
        """Whether memory has grown enough since the last rung above ``TRIM`` to take it again."""
        held, held_before = usage.sample.held_bytes, usage.held_after_renewal_bytes
        if held is None or held_before is None:
            return False
        enough = held_before * _REGROWN_OF_HELD
        if self.allowed_bytes is not None:
            enough = min(enough, self.allowed_bytes * _REGROWN_OF_ALLOWED)
        return held - held_before >= enough
