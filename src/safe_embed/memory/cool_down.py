"""When a policy keeps silent after a remedy: while it could do no more than what was just done."""

from __future__ import annotations

from dataclasses import dataclass

from safe_embed.memory.types import Rung, Usage

# What a process must have grown by for the same remedy to be worth its price again within the
# cool-down, as shares of what it held and of what is allowed: no reload every few calls for little.
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
        """Tell whether the policy must keep silent.

        Near a limit a policy that may take every rung never waits: the system ends a process that
        is over it.

        Args:
            usage: What was done and is held.
            bound_bytes: What the policy would ask for.

        Returns:
            Whether what it may do could do no more than what was done a moment ago.
        """
        if self.at_most == Rung.TRIM:
            return self._includes(usage.seconds_since_remedy)
        highest = min(self.at_most, usage.highest_rung)
        if usage.sample.is_near_limit and highest == usage.highest_rung:
            return False
        for rung, missed in usage.missed.items():
            is_as_low = bound_bytes < missed.held_bytes
            if rung >= highest and is_as_low and self._includes(missed.seconds):
                return True
        as_much_was_done = usage.renewal_rung >= highest
        is_recent = self._includes(usage.seconds_since_renewal)
        return as_much_was_done and is_recent and not self._has_regrown(usage)

    def _includes(self, seconds: float | None) -> bool:
        """Whether something was done, and that less than the cool-down ago."""
        return seconds is not None and seconds < self.seconds

    def _has_regrown(self, usage: Usage) -> bool:
        """Whether there is much to give back again since the last remedy above a trim."""
        held, then = usage.sample.held_bytes, usage.held_after_renewal_bytes
        if held is None or then is None:
            return False
        enough = then * _REGROWN_OF_HELD
        if self.allowed_bytes is not None:
            enough = min(enough, self.allowed_bytes * _REGROWN_OF_ALLOWED)
        return held - then >= enough
