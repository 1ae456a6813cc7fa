"""Growth that is not the encoder's: tried once, reported, and then told from growth of its own.

A new model gives back all that the old one held. What exceeds a bound after that is held outside
the encoder: by another encoder, a data frame, a store. From then on the growth during tasks is
measured by itself, and the encoder reloads again once its own tasks have added what the bound
allows. Growth between tasks is taken for that of others, until it has doubled: a model may lose
memory on threads of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from safe_embed.memory.ladder import Ladder
from safe_embed.memory.outside import PROCESS_MEMORY
from safe_embed.memory.sizes import format_mib
from safe_embed.memory.types import Event, MemorySample, Reason, Rung
from safe_embed.supervision.usage import UsageMeter

# Near a memory limit a reload is tried when this share of what the last one left has been added.
_NEAR_LIMIT = 0.1
# Growth of its own that is worth a reload, where a bound allows next to nothing.
_LEAST_OWN_BYTES = 32 * 2**20
_MOST_DOUBLINGS = 10


class OutsideGrowth:
    """Tells whether a reload can be of use against growth.

    Args:
        meter: Has the baseline of growth.
        is_alone: Whether the process does nothing but work for the encoder: all growth is its own.
    """

    def __init__(self, meter: UsageMeter, *, is_alone: bool) -> None:
        self._meter = meter
        self._is_alone = is_alone
        self._left_bytes = 0
        self._own_bytes = 0
        self._is_loading = False
        self._loaded_bytes = 0
        self._is_tried = False
        self._given_back_bytes = 0
        self._vain = 0

    @property
    def is_measured(self) -> bool:
        """Whether growth must be measured exactly, before and after each task."""
        return not self._is_alone and (self._is_loading or PROCESS_MEMORY.left_bytes > 0)

    def add(self, growth_bytes: int) -> None:
        """Take note of a task.

        Args:
            growth_bytes: How much more the process held after it than before.
        """
        self._own_bytes = max(0, self._own_bytes + growth_bytes)
        self._loaded_bytes = max(0, self._loaded_bytes + growth_bytes)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Take note that a model is loaded, beside which tasks may go on.

        Yields:
            Nothing.
        """
        self._is_loading, self._loaded_bytes = True, 0
        try:
            yield
        finally:
            self._is_loading = False

    def look(self, sample: MemorySample) -> None:
        """Update what is known by a sample taken between two climbs.

        Args:
            sample: A measurement.
        """
        held = sample.held_bytes
        if held is None:
            return
        PROCESS_MEMORY.look(held)
        if self._left_bytes != PROCESS_MEMORY.left_bytes:
            self._left_bytes = PROCESS_MEMORY.left_bytes
            self._own_bytes = 0
        # Tasks leave free blocks that are given back between them: no more than is held is growth.
        grown = max(0.0, held - (self._left_bytes or self._meter.baseline_bytes))
        self._own_bytes = min(self._own_bytes, int(grown))

    def explains(self, reason: Reason, sample: MemorySample) -> bool:
        """Tell whether what exceeds a bound is known to be held outside the encoder.

        Args:
            reason: Has the bound.
            sample: What the process holds.

        Returns:
            Whether a climb was in vain, and there is no sign that another would not be.
        """
        held, bound, left = sample.held_bytes, reason.bound_bytes, self._left_bytes
        if not left or held is None or bound is None or reason.rung is not None:
            return False
        if self._is_alone or reason.at_most < Rung.MODEL:
            return False
        baseline = self._meter.baseline_bytes
        own, elsewhere = bound - baseline, left - baseline
        if sample.is_near_limit:
            own, elsewhere = min(own, left * _NEAR_LIMIT), left * _NEAR_LIMIT
        own = max(own, _LEAST_OWN_BYTES) * 2 ** min(self._vain, _MOST_DOUBLINGS)
        return self._own_bytes < own and held - left < elsewhere

    def told_apart(self, event: Event, reason: Reason | None, ladder: Ladder) -> Event | None:
        """Tell what an event says of growth outside the encoder.

        Args:
            event: A rung that was taken, or a bound that was missed.
            reason: Why.
            ladder: Forgets a miss that is not the encoder's.

        Returns:
            The event to report: a bound that a new model does not keep is reported as memory that
            is held outside, and not at all if another encoder has reported that.
        """
        held = event.after.held_bytes
        if self._is_alone or held is None or reason is None or reason.bound_bytes is None:
            return event
        if event.kind == "remedy":
            self._given_back_bytes += max(0, (event.before.held_bytes or 0) - held)
        if event.rung >= Rung.MODEL and event.kind in ("remedy", "failed"):
            self._tried(is_done=event.kind == "remedy")
        is_miss = event.kind == "unreached" and event.rung >= Rung.MODEL and self._is_tried
        # What tasks have added while the model was loaded is their own.
        most = held - self._own_bytes
        if not is_miss or not self._meter.baseline_bytes <= reason.bound_bytes < most:
            return event
        ladder.forget(reason.at_most)
        outside = format_mib(held - int(self._meter.baseline_bytes))
        is_news = PROCESS_MEMORY.leave(held)
        self._left_bytes = held
        if not is_news:
            return None
        return replace(event, kind="outside", reason=f"{outside} held outside this encoder")

    def _tried(self, *, is_done: bool) -> None:
        """Take note of a model that was loaded, or could not be."""
        self._is_tried = is_done
        if is_done:
            # What tasks seemed to add was others' if it was not given back.
            self._vain = self._vain + 1 if self._given_back_bytes < self._own_bytes / 2 else 0
            self._own_bytes = self._loaded_bytes
        self._given_back_bytes = 0
