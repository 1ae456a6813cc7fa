"""Growth of the process that is not the encoder's: told apart without a reload where that is plain.

What the process holds changes while the encoder does a task, and between two tasks. If tasks have
added less than what exceeds a bound, no reload gets under it: the rest came from elsewhere. That is
assumed once; the next time a reload tries it, and each trial that gives nothing back lets twice as
many findings be assumed. Where a rung gives back more than the tasks had added, the reckoning was
wrong, and nothing is assumed until a trial has failed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from safe_embed.memory.ladder import Ladder, is_kept
from safe_embed.memory.outside import PROCESS_VIEW, ProcessView
from safe_embed.memory.sizes import format_mib
from safe_embed.memory.types import Event, MemorySample, Reason, Rung
from safe_embed.supervision.usage import UsageMeter

_MOST_ASSUMED = 8
# What a rung gives back beside what tasks have added: what a load left behind, freed blocks.
_INACCURACY_BYTES = 32 * 2**20


class OutsideGrowth:
    """Tells what an encoder's tasks have added from what the process holds besides.

    Args:
        meter: Has the baseline, which is raised by what is held outside.
        tell: Receives the events.
        is_alone: Whether the process has no other purpose than the encoder: then all is its own.
        view: What other encoders of the process have found.
    """

    def __init__(
        self,
        meter: UsageMeter,
        tell: Callable[[Event], None],
        *,
        is_alone: bool,
        view: ProcessView = PROCESS_VIEW,
    ) -> None:
        self._meter = meter
        self._tell = tell
        self._is_alone = is_alone
        self._view = view
        self._own_bytes = 0
        self._since_load_bytes = 0
        self._is_tried = False
        self._assumed = 0
        self._may_assume = 1

    def add(self, growth_bytes: int) -> None:
        """Take note of a task.

        Args:
            growth_bytes: How much more the process held after it than before.
        """
        self._own_bytes = max(0, self._own_bytes + growth_bytes)
        self._since_load_bytes = max(0, self._since_load_bytes + growth_bytes)

    def load_begins(self) -> None:
        """Take note that a model is loaded, with which what earlier tasks have added goes."""
        self._since_load_bytes = 0

    def explains(self, reason: Reason | None, sample: MemorySample) -> bool:
        """Tell whether no rung of this encoder can get under a bound.

        Args:
            reason: Has the bound; ``None`` if nothing is exceeded.
            sample: What the process holds.

        Returns:
            Whether its tasks have added less than what exceeds the bound, or another encoder has
            tried in vain; ``False`` if that was assumed before and is to be tried.
        """
        held = sample.held_bytes
        if self._is_alone or held is None:
            return False
        self._view.look(held)
        bound = None if reason is None or reason.at_most == Rung.TRIM else reason.bound_bytes
        if bound is None or self._assumed >= self._may_assume or bound < self._meter.baseline_bytes:
            return False
        return self._own_bytes < held - bound or self._view.was_tried(held)

    def report(self, reason: Reason, ladder: Ladder) -> Iterator[None]:
        """Trim, and report once what is held outside, if that was not all.

        Args:
            reason: Has the bound.
            ladder: Takes the rung.

        Returns:
            An iterator that yields while the rung waits.
        """
        sample, _ = yield from ladder.take(Rung.TRIM, reason.text)
        if not is_kept(reason, sample):
            self._assumed += 1
            self._found(sample, Rung.TRIM)

    def told_apart(self, event: Event, reason: Reason | None, highest_rung: Rung) -> bool:
        """Take note of an event, and report in its place what is held outside.

        Args:
            event: A rung that was taken, or a bound that was missed.
            reason: Why.
            highest_rung: The highest rung of this encoder.

        Returns:
            Whether the event is a miss of a bound that no rung of this encoder could keep; it has
            been reported as held outside, and not to be reported as a miss.
        """
        held, given_back = event.after.held_bytes, 0
        if event.before.held_bytes is not None and held is not None:
            given_back = event.before.held_bytes - held
        if event.kind == "remedy" and event.rung > Rung.TRIM:
            if given_back > self._own_bytes + _INACCURACY_BYTES:
                self._may_assume = 0
            rest = max(0, self._own_bytes - max(0, given_back))
            self._own_bytes = self._since_load_bytes if event.rung >= Rung.MODEL else rest
        bound = None if reason is None else reason.bound_bytes
        if event.rung == highest_rung and event.kind != "unreached":
            self._is_tried = event.kind == "remedy"
        is_miss = event.kind == "unreached" and event.rung == highest_rung and self._is_tried
        if (
            self._is_alone
            or not is_miss
            or held is None
            or bound is None
            or bound < self._meter.baseline_bytes
        ):
            return False
        if held - self._own_bytes <= bound:  # tasks were done while the model was loaded
            return False
        self._assumed = 0
        self._may_assume = min(max(1, 2 * self._may_assume), _MOST_ASSUMED)
        self._view.tried(held)
        self._found(event.after, event.rung)
        return True

    def _found(self, sample: MemorySample, rung: Rung) -> None:
        """Count growth from what is held outside, and report it unless another encoder has."""
        held = sample.held_bytes or 0
        outside = held - self._own_bytes - int(self._meter.baseline_bytes)
        self._meter.baseline = replace(sample, rss_anon_bytes=held - self._own_bytes)
        if self._view.report(held):
            text = f"{format_mib(outside)} held outside this encoder"
            self._tell(Event("outside", text, rung, sample, sample, 0.0))
