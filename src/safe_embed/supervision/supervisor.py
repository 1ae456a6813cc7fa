"""Keeps one loaded model in shape: counts its work, asks the policy, renews what has grown.

Everything here runs on one thread, that of the model, except loading a new model beside the old.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from safe_embed.foreign import called
from safe_embed.inference.engine import Engine
from safe_embed.inference.request import Settings
from safe_embed.inference.tasks import Outcome, Task
from safe_embed.memory.event_log import EventLog, log_event
from safe_embed.memory.forecast import early_reason
from safe_embed.memory.hard_limit import hard_limit_of
from safe_embed.memory.ladder import BelowNeed, Ladder, Remedy, is_kept
from safe_embed.memory.remedies import trim
from safe_embed.memory.types import (
    Event,
    Hook,
    MemorySample,
    Reason,
    ReloadPolicy,
    Rung,
    Stats,
    Usage,
)
from safe_embed.supervision.conditions import Conditions
from safe_embed.supervision.handover import Handover
from safe_embed.supervision.hard_mark import HardMark, no_call_fails
from safe_embed.supervision.model_swap import ModelSwap
from safe_embed.supervision.outside import OutsideGrowth
from safe_embed.supervision.reload_request import ReloadRequest, model_is_lost, not_loaded_here
from safe_embed.supervision.usage import UsageMeter
from safe_embed.upstream.settings import ModelFacts, ModelSettings
from safe_embed.upstream.source import ModelSource
from safe_embed.upstream.tokenizer_cache import bound_tokenizer_cache, forgets
from safe_embed.upstream.unpadded import is_supported

logger = logging.getLogger("safe_embed")

# How old a look at memory may be: a call that loses 50 MiB takes longer than that. A look takes
# 0.05 ms, so that it costs half a percent of the time.
_LOOK_SECONDS = 0.01


class Supervisor:
    """A loaded model, and all that is done to keep it small.

    Args:
        source: Where the model comes from.
        settings: What the encoder does with every text.
        policy: When something must be done.
        hooks: Functions that receive every event.
        conditions: Clock, waits, headroom and measurement.
        request_replacement: Asks for another process in the place of this one; ``None`` where
            there is none.

    Attributes:
        holds_back: Whether no task may begin: too much is held, and something is done about it.
        engine: Does the tasks.
        handover: Asks for another process in the place of this one.
        swap: Exchanges model and tokenizer.
        meter: Counts, and keeps the baseline.
    """

    def __init__(
        self,
        source: ModelSource,
        settings: Settings,
        policy: ReloadPolicy,
        hooks: Iterable[Hook] = (),
        conditions: Conditions | None = None,
        request_replacement: Callable[[Reason], None] | None = None,
    ) -> None:
        given = conditions or Conditions()
        began = given.clock()
        self._climbs_for: Reason | None = None
        self._policy = policy
        self._log = EventLog(hooks)
        before = given.sampler().take(fresh=True)
        model = source.load()
        self.engine = Engine(settings, model, source.tokenizer_of(model))
        self.engine.unpadded = not settings.few_shapes and is_supported(model)
        bound_tokenizer_cache(self.engine.tokenizer)
        self._trim = partial(trim, model.device.type)
        self._sampler = given.sampler(model.device.type, min_seconds=_LOOK_SECONDS)
        after = self._sampler.take(fresh=True)
        self._mark = HardMark(hard_limit_of(policy), after)
        self.holds_back = False
        self.handover = Handover(request_replacement, given.clock() - began)
        self.swap = ModelSwap(
            source.pinned(model),
            self.engine,
            self._measure,
            self._trim,
            given,
            load_bytes=max(0, (after.held_bytes or 0) - (before.held_bytes or 0)),
        )
        self._ladder = Ladder(self._remedies(), self._measure, self._report, given.clock)
        self._climb: Iterator[None] | None = None
        self._requests: deque[ReloadRequest] = deque()
        self._reloads = 0
        self._below_need: BelowNeed | None = None
        self.meter = UsageMeter(self._sampler, self._trim, given.clock)
        self._outside = OutsideGrowth(self.meter, is_alone=self.handover.is_possible)

    def facts(self, *, with_canary: bool) -> ModelFacts:
        """Say what is known of the model as it was loaded; to be asked before any work.

        Args:
            with_canary: Whether to embed the canary, for a comparison with other processes.

        Returns:
            The facts.
        """
        return self.swap.facts(self.sample.held_bytes or 0, with_canary=with_canary)

    @property
    def stats(self) -> Stats:
        """Counts of the work since the encoder was made, and memory, as of now."""
        events = tuple(self._log.events)
        return Stats(*self.meter.done, self._reloads, self.sample, self.meter.baseline, events)

    @property
    def sample(self) -> MemorySample:
        """The newest measurement."""
        return self._sampler.take()

    def configure(self, settings: ModelSettings) -> None:
        """Push settings into the model, and into those to come.

        Args:
            settings: Their current value.
        """
        try:
            self.swap.configure(settings)
        except Exception as error:  # noqa: BLE001 a module of the user's own
            logger.warning("a setting could not be pushed: %s", type(error).__name__)

    def do(self, task: Task) -> Outcome:
        """Do a task; load the model first if that failed after the old one was dropped.

        Args:
            task: Any task.

        Returns:
            Its outcome, which has been counted.

        Raises:
            ReloadError: If there is no model, and none can be loaded yet.
        """
        if self.swap.is_due:
            for _ in self._ladder.take(Rung.MODEL, "the model is missing"):
                pass
        if self.swap.is_lost:
            raise model_is_lost()
        with no_call_fails():
            self._mark.task_begins(self._measure(fresh=self._outside.is_measured))
        outcome = self.engine.do(task)
        self.meter.count(outcome.work)
        with no_call_fails():
            self._outside.add(self._mark.task_ended(self._measure(fresh=self._outside.is_measured)))
            self._ask_mark(self.meter.usage(self._ladder))
        return outcome

    def watch(self, *, is_quiet: bool = True) -> bool:
        """Ask the policy, and take the next step of what it asks for.

        Args:
            is_quiet: Whether no call is under way, whose texts and results would be counted.

        Returns:
            Whether a step is under way that has to wait for something.
        """
        if self.handover.is_requested:
            return False  # another process will take over, however long it takes to load
        if self._climb is None and not self.swap.is_lost:
            self.meter.settle(is_quiet=is_quiet)
        try:
            if self._climb is None:
                self._climb = self._requested_climb() or self._climb_of_policy()
            next(self._climb or iter(()))
        except StopIteration:
            self._climb = None
        except BaseException:  # a policy is code of the user's own, and must not end the thread
            logger.warning("the policy, or what it asked for, failed", exc_info=True)
            self._climb = None
        # A climb has done what it could: the next task may begin, if only that one.
        self.holds_back = self.holds_back and self._climb is not None
        return self._climb is not None or bool(self._requests)

    # A new model on request

    def request_reload(self, request: ReloadRequest) -> None:
        """Let :meth:`watch` reload model and tokenizer, because a caller asks for it.

        Args:
            request: Is told what became of it.
        """
        if self.swap.can_load:
            self._requests.append(request)
        else:
            request.done(not_loaded_here())

    def _requested_climb(self) -> Iterator[None] | None:
        if not self._requests:
            return None
        self._climbs_for = None
        request = self._requests.popleft()
        tokenizer = self.engine.tokenizer if request.keep_tokenizer else None
        return request.climb(self._ladder, partial(self._renew, tokenizer), self.swap)

    # Another process in the place of this one

    @property
    def below_need(self) -> BelowNeed | None:
        """What is known of a bound that a new model or process does not keep."""
        return self._below_need

    def expect_replacement(self, lead_seconds: float) -> None:
        """Take it as known that another process helps, and how long it takes to take over.

        Args:
            lead_seconds: How long the process before this one waited for this one.
        """
        self.meter.is_for_bound = True
        self.handover.expect(lead_seconds)
        self._ladder.learn(Rung.PROCESS)

    def expect_miss(self, known: BelowNeed) -> None:
        """Take it as known that a new process does not lead below a bound of the policy.

        Args:
            known: What an earlier process has seen.
        """
        self._below_need = known
        self._ladder.expect_miss(Rung.PROCESS, *known)

    def _replace_process(self) -> Iterator[None]:
        reason = self._climbs_for
        return iter(()) if reason is None else self._beside(self.handover.replace(reason))

    # The policy

    def _climb_of_policy(self) -> Iterator[None] | None:
        """Ask the policy; give the climb that it asks for."""
        if self.swap.is_lost:
            return None
        usage = self.meter.usage(self._ladder)
        self._ladder.look(usage.sample, need_bytes=self.meter.baseline_bytes)
        self._outside.look(usage.sample)
        reason = self._ask_mark(usage) or self._ask_policy(usage)
        # What is only forecast says nothing of what the process needs.
        is_below_need = reason is not None and self.meter.is_below_need(reason, usage)
        if reason is None and self.handover.is_possible:
            reason = early_reason(usage, self.handover.lead_seconds, self._ask_policy)
        if self.holds_back and self.handover.is_possible:
            self._ladder.learn(Rung.PROCESS)  # gives all back, and does not load here first
        if reason is not None and reason.rung == Rung.MODEL and self.handover.is_possible:
            # A new process has a new model too, and nobody waits for it.
            reason = replace(reason, rung=Rung.PROCESS)
        self._climbs_for = reason
        if reason is None:
            return None
        if self._outside.explains(reason, usage.sample):
            return self._ladder.climb(replace(reason, at_most=Rung.TRIM), usage.sample)
        if is_below_need:
            return self._report_below_need(reason, usage.sample)
        return self._ladder.climb(reason, usage.sample)

    def _ask_policy(self, usage: Usage) -> Reason | None:
        reason: Reason | None = called("The policy", self._policy.reason, usage)
        return reason

    def _ask_mark(self, usage: Usage) -> Reason | None:
        """Hold tasks back where the hard limit is passed, and memory can be given back."""
        reason = self._mark.reason(usage)
        checks = (self._ladder.is_hopeless, self._outside.explains)
        if reason is not None and any(check(reason, usage.sample) for check in checks):
            reason = None
        self.holds_back = reason is not None
        return reason

    def _report_below_need(self, reason: Reason, sample: MemorySample) -> Iterator[None]:
        """Report once that a new model does not keep a bound, if a trim does not help either."""
        if self._ladder.is_hopeless(reason, sample):
            return
        sample, _ = yield from self._ladder.take(Rung.TRIM, reason.text)
        if not is_kept(reason, sample):
            self._below_need = BelowNeed(sample.held_bytes or 0, 1)
            self._ladder.miss(reason, sample, self._ladder.highest_rung)

    # Remedies

    def _beside(self, loading: Iterator[None]) -> Iterator[None]:
        """Keep room for another model while it loads, and calls go on."""
        self._mark.reserve(self._measure(), self.swap.load_bytes)
        try:
            with self._outside.loading():
                yield from loading
        finally:
            self._mark.release()

    def _measure(self, *, fresh: bool = True) -> MemorySample:
        return self._sampler.take(fresh=fresh, fresh_heap=False)

    def _report(self, event: Event) -> None:
        """Report a step to log, stats and hooks."""
        self.meter.note(event)
        if (told := self._outside.told_apart(event, self._climbs_for, self._ladder)) is not None:
            log_event(told)
            self._log.add(told)

    def _remedies(self) -> dict[Rung, Remedy]:
        """List what can be done for this model."""
        remedies: dict[Rung, Remedy] = {
            Rung.TRIM: self._trim,
            Rung.TOKENIZER_CACHE: self.swap.clear_caches,
            Rung.TOKENIZER: self.swap.tokenizer,
        }
        if self.swap.can_load:
            remedies[Rung.MODEL] = self._renew_model
        if self.handover.is_possible:
            remedies[Rung.PROCESS] = self._replace_process
        return remedies

    def _renew_model(self) -> Iterator[None]:
        """Reload the model. Its tokenizer stays, unless it cannot be made to forget."""
        tokenizer = self.engine.tokenizer
        return self._renew(tokenizer if forgets(tokenizer) else None)

    def _renew(self, tokenizer: Any) -> Iterator[None]:
        """Reload the model, with this tokenizer or one of its own, and count from there."""
        reason = self._climbs_for
        yield from self._beside(self.swap.model(tokenizer, after_drop=self.holds_back))
        self._mark.loaded(self._measure())
        self._reloads += 1
        self.meter.begin(is_for_bound=reason is not None and reason.bound_bytes is not None)
