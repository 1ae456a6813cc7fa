"""What a model has done since its load, and what its process holds: all that a policy looks at."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from safe_embed.inference.tasks import Work
from safe_embed.memory.ladder import Ladder
from safe_embed.memory.types import Event, MemorySample, Reason, Rung, Usage
from safe_embed.supervision.conditions import TakesSamples

# After so many calls, or so much of a long one, the process holds what it needs to work, and growth
# counts from there.
WARM_UP_CALLS = 20
WARM_UP_TOKENS = 50_000
# Calls after which even a model that loses much has not lost much yet.
_FIRST_CALLS = 2


class UsageMeter:
    """Counts what is done with one model after the other, and keeps the baseline of growth.

    Args:
        sampler: Measures the process; taken once for all looks within a moment.
        trim: Gives freed memory back, before a baseline is measured.
        clock: The time in seconds.

    Attributes:
        baseline: The smallest sample since warm-up while no call was under way; ``None`` before.
        done: All that was done, with this model and those before it.
        is_for_bound: Whether the model, or its process, was loaded because the one before it
            exceeded a bound.
    """

    def __init__(
        self, sampler: TakesSamples, trim: Callable[[], None], clock: Callable[[], float]
    ) -> None:
        self._sampler = sampler
        self._trim = trim
        self._clock = clock
        self.done = Work()
        self._settlings = 0
        self._remedied_at: float | None = None
        self._renewed_at: float | None = None
        self._renewal_rung = Rung.PROCESS
        self._held_after_renewal: int | None = None
        self.baseline: MemorySample | None = None
        self.begin()

    def begin(self, *, is_for_bound: bool = False) -> None:
        """Reset the counts, after a load.

        Args:
            is_for_bound: Whether the model before it exceeded a bound.
        """
        self.is_for_bound = is_for_bound
        self._done_before = self.done
        self._loaded_at = self._clock()
        self._luck = random.random()  # noqa: S311 jitter, not secrets

    def count(self, work: Work) -> None:
        """Take note of work.

        Args:
            work: What was done.
        """
        self.done = self.done.plus(work)

    @property
    def is_warm(self) -> bool:
        """Whether the model has done so much since its load that it holds what it needs to work."""
        done, before = self.done, self._done_before
        return _is_warm(done.calls - before.calls, done.tokens - before.tokens)

    @property
    def baseline_bytes(self) -> float:
        """What the process holds at least when it works; before warm-up more than anything."""
        return _held(self.baseline)

    def is_below_need(self, reason: Reason, usage: Usage) -> bool:
        """Tell whether a model that was loaded for a bound exceeds it before it has warmed up.

        Not so above the baseline: a warm model has kept such a bound, and what exceeds it is lost.
        Nor near a limit, unless the first calls are too much already: there every load counts.

        Args:
            reason: Has the bound.
            usage: What is used now.

        Returns:
            Whether it does, so that another load would not help.
        """
        bound = reason.bound_bytes
        if bound is None or reason.at_most < Rung.MODEL or not self.is_for_bound:
            return False
        is_past_first = self.baseline is not None or usage.calls > _FIRST_CALLS
        if usage.sample.is_near_limit and is_past_first:
            return False
        return not self.is_warm and bound < self.baseline_bytes

    def settle(self, *, is_quiet: bool) -> None:
        """Set the baseline of memory, in bytes held by the process, or lower it; it never rises.

        Freed memory is given back to the system before the baseline is set. If the warm-up had
        fewer than ``WARM_UP_CALLS`` calls, because they were large, it is given back after each
        further call too, up to that number: memory that an early call held may be freed only
        later.

        Args:
            is_quiet: Whether no call is under way. The texts and results of a call under way would
                count as held, so that the baseline is set then, but not lowered.
        """
        done = self.done
        if not _is_warm(done.calls, done.tokens):
            return
        is_first = self.baseline is None
        has_few_calls = done.calls <= WARM_UP_CALLS and self._settlings < WARM_UP_CALLS
        if is_first or (is_quiet and has_few_calls):
            self._settlings += 1
            self._trim()
            sample = self._sampler.take(fresh=True, fresh_heap=False)
        else:
            sample = self._sampler.take()
        is_lower = is_quiet and self.is_warm and _held(sample) < self.baseline_bytes
        if is_first or is_lower:
            self.baseline = sample

    def note(self, event: Event) -> None:
        """Take note of a step that was taken about memory.

        Args:
            event: The step.
        """
        self._remedied_at = self._clock()
        if event.rung > Rung.TRIM and event.kind == "remedy":
            self._renewed_at = self._remedied_at
            self._renewal_rung = event.rung
            self._held_after_renewal = event.after.held_bytes

    def usage(self, ladder: Ladder) -> Usage:
        """Look at everything.

        Args:
            ladder: Knows the bounds that were missed, and the highest rung that can be taken here.

        Returns:
            What a policy is asked about.
        """
        clock, done, before = self._clock(), self.done, self._done_before
        sample = self._sampler.take()
        held, least = sample.held_bytes, self._held_after_renewal
        if held is not None and least is not None:
            self._held_after_renewal = min(held, least)
        return Usage(
            done.calls - before.calls,
            done.texts - before.texts,
            done.tokens - before.tokens,
            clock - self._loaded_at,
            sample,
            self.baseline,
            None if self._remedied_at is None else clock - self._remedied_at,
            None if self._renewed_at is None else clock - self._renewed_at,
            self._luck,
            self._renewal_rung,
            self._held_after_renewal,
            ladder.missed,
            ladder.highest_rung,
        )


def _is_warm(calls: int, tokens: int) -> bool:
    return calls >= WARM_UP_CALLS or tokens >= WARM_UP_TOKENS


def _held(sample: MemorySample | None) -> float:
    """What a sample says is held; without a figure, more than anything."""
    held = None if sample is None else sample.held_bytes
    return math.inf if held is None else held
