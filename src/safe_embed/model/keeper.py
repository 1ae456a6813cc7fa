"""Keeps one loaded model in shape: counts its work, asks the policy, renews what grew.

Everything here runs on the session's one thread, except the loading of a new model beside the old.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from safe_embed._errors_foreign import called
from safe_embed.errors import ReloadError
from safe_embed.memory.remedies import (
    BelowNeed,
    Ladder,
    Remedy,
    bound_tokenizer_cache,
    clear_tokenizer_cache,
    forgets,
    is_kept,
    trim,
)
from safe_embed.memory.sampling import Sampler
from safe_embed.model.attributes import ends_in_normalize
from safe_embed.model.engine import Engine
from safe_embed.model.inference import Settings
from safe_embed.model.loader import ModelSource
from safe_embed.model.record import Record
from safe_embed.model.renewal import Renewal
from safe_embed.model.unpadded import is_supported
from safe_embed.model.usage import UsageMeter
from safe_embed.types import (
    Event,
    Hook,
    MemorySample,
    Reason,
    ReloadPolicy,
    Rung,
    Stats,
    Usage,
)

if TYPE_CHECKING:
    from safe_embed.model.loader import SentenceTransformer

logger = logging.getLogger("safe_embed")

# Calls after which even a model that loses much has not lost much yet.
_FIRST_CALLS = 2
# How much longer than this process another one may take to come, until one has been seen to come:
# it loads at low priority. Beside a caller that never pauses it took six times as long (2 cores).
_LEAD = 3.0
# And how much longer than the one before it, once that was seen: what it meets varies.
_KNOWN_LEAD = 2.0
# How old a look at memory may be: a call that loses 50 MiB takes longer than that. A look takes
# 0.05 ms, so that it costs half a percent of the time.
_LOOK_SECONDS = 0.01
# What a process holds jumps about for a moment, and shows no trend.
_SHORTEST_TREND_SECONDS = 2.0


class Keeper:
    """A loaded model, and all that is done to keep it small.

    Args:
        source: Where the model comes from.
        settings: What the encoder does with every text.
        policy: When something must be done.
        hooks: Who is told.
        ask: Asks for another process in the place of this one, and says why; ``None`` where that
            is not to be had.
    """

    def __init__(
        self,
        source: ModelSource,
        settings: Settings,
        policy: ReloadPolicy,
        hooks: Sequence[Hook] = (),
        ask: Callable[[Reason], None] | None = None,
    ) -> None:
        began = time.monotonic()
        self._ask = ask
        self._left: BaseException | bool = False
        self._climbs_for: Reason | None = None
        self._policy = policy
        self._record = Record(hooks)
        self._sampler = Sampler()
        before = self._sampler.take(fresh=True)
        model = source.load()
        self.engine = Engine(settings, ends_in_normalize(model), model, source.tokenizer_of(model))
        self.engine.unpadded = not settings.few_shapes and is_supported(model)
        bound_tokenizer_cache(self.engine.tokenizer)
        self._device = model.device.type
        self._sampler = Sampler(self._device, min_seconds=_LOOK_SECONDS)
        after = self._sampler.take(fresh=True)
        self.renewal = Renewal(
            source.pinned(model),
            self.engine,
            self._measure,
            self._trim,
            load_bytes=max(0, (after.held_bytes or 0) - (before.held_bytes or 0)),
        )
        self._ladder = Ladder(self._remedies(), self._measure, self._tell)
        self._climb: Iterator[None] | None = None
        self._reloads = 0
        # Whether the model was loaded because the one before it exceeded a bound.
        self._is_for_bound = False
        self._below_need: BelowNeed | None = None
        self.meter = UsageMeter(self.engine, self._sampler, self._trim)
        # Another process takes longer than this one did: it loads beside a busy one.
        self._lead_seconds = _LEAD * (time.monotonic() - began)

    @property
    def model(self) -> SentenceTransformer | None:
        """The loaded model; ``None`` between drop and load."""
        return self.engine.model

    @property
    def stats(self) -> Stats:
        """What was done so far."""
        return Stats(
            *self.engine.done,
            self._reloads,
            self._sampler.take(),
            self.meter.baseline,
            tuple(self._record.events),
        )

    @property
    def sample(self) -> MemorySample:
        """The newest measurement."""
        return self._sampler.take()

    def expect(self, lead_seconds: float) -> None:
        """Take it as known that another process is what helps, and how long it takes to come.

        Args:
            lead_seconds: As the one before this had to wait for this one.
        """
        self._is_for_bound = True
        self._lead_seconds = _KNOWN_LEAD * lead_seconds
        self._ladder.learn(Rung.PROCESS)

    @property
    def below_need(self) -> BelowNeed | None:
        """What is known of a bound that a new model or process does not keep."""
        return self._below_need

    def expect_miss(self, known: BelowNeed) -> None:
        """Take it as known that a new process does not lead below a bound of the policy.

        Args:
            known: What an earlier process has seen.
        """
        self._below_need = known
        self._ladder.expect_miss(Rung.PROCESS, *known)

    def stay(self, error: BaseException) -> None:
        """Go on in this process after all: the other one that was asked for could not be had.

        Args:
            error: What kept it.
        """
        self._left = error

    def watch(self, *, is_quiet: bool = True) -> bool:
        """Ask the policy, and take the next step of what it asks for.

        Args:
            is_quiet: Whether no call is under way, whose texts and results would be counted.

        Returns:
            Whether something is under way that has to wait.
        """
        if self._left is True:
            return False  # another process will take over, however long it takes to come
        if self._climb is None and not self.renewal.is_lost:
            self.meter.settle(is_quiet=is_quiet)
        try:
            if self._climb is None:
                self._climb = self._asked_for()
            if self._climb is None:
                return False
            next(self._climb)
        except StopIteration:
            self._climb = None
        except BaseException:  # a policy is code of the user's own, and must not end the thread
            logger.warning("the policy, or what it asked for, failed", exc_info=True)
            self._climb = None
        return self._climb is not None

    def ready(self) -> Engine:
        """Give the model for a step of work; load it if that failed after the old one was dropped.

        Returns:
            The model at work.

        Raises:
            ReloadError: If there is no model, and none to be had yet.
        """
        if self.renewal.is_due:
            for _ in self._ladder.take(Rung.MODEL, "the model is missing"):
                pass
        if self.renewal.is_lost:
            raise ReloadError(
                "There is no model: there was no room for two, and after the old one was dropped "
                "the new one could not be loaded. It is tried again with later calls; the log says "
                "why it failed."
            )
        return self.engine

    def reload(self, text: str, *, keep_tokenizer: bool) -> Generator[None, None, None]:
        """Load model and tokenizer anew, because a caller asked for it.

        Args:
            text: Why.
            keep_tokenizer: Whether the tokenizer stays.

        Yields:
            Nothing, while the new model loads.

        Raises:
            ReloadError: If it failed; the old model serves on if it is still there.
        """
        if not self.renewal.can_load:
            raise ReloadError(
                "The model was loaded elsewhere and cannot be loaded anew here. Pass a name, a "
                "folder or a loader to SafeEncoder instead of a SentenceTransformer."
            )
        while self._climb is not None:
            yield
        ended: list[BaseException | None] = []

        def climb() -> Iterator[None]:
            self._climbs_for = None
            tokenizer = self.engine.tokenizer if keep_tokenizer else None
            remedy = partial(self._renew, tokenizer)
            _, error = yield from self._ladder.take(Rung.MODEL, text, remedy=remedy)
            ended.append(error)

        self._climb = mine = climb()  # watch() drives it, and starts no other meanwhile
        while self._climb is mine:
            yield
        if ended != [None]:
            left = "there is none now" if self.renewal.is_lost else "the old one serves on"
            msg = f"The model could not be loaded anew; {left}. See the error before this one."
            raise ReloadError(msg) from next(iter(ended), None)

    def _asked_for(self) -> Iterator[None] | None:
        """Ask the policy; give the climb that it asks for."""
        if self.renewal.is_lost:
            return None
        usage = self.meter.usage(self._ladder.missed, self._ladder.highest_rung)
        self._ladder.look(usage.sample, need_bytes=self.meter.baseline_bytes)
        reason = called("The policy", self._policy.reason, usage)
        # What is only forecast says nothing of what the process needs.
        is_below_need = reason is not None and self._is_below_need(reason, usage)
        reason = reason or self._early_reason(usage)
        if reason is not None and reason.rung == Rung.MODEL and self._ask is not None:
            # A new process has a new model too, and nobody waits for it.
            reason = replace(reason, rung=Rung.PROCESS)
        self._climbs_for = reason
        if reason is None:
            return None
        if is_below_need:
            return self._report_below_need(reason, usage.sample)
        return self._ladder.climb(reason, usage.sample)

    def _is_below_need(self, reason: Reason, usage: Usage) -> bool:
        """Whether a model that was loaded for a bound exceeds it before it has warmed up.

        Not so above the baseline: a warm model has kept such a bound, and what exceeds it is lost.
        Nor near a limit, unless the first calls are too much already: there every load counts.
        """
        bound, baseline = reason.bound_bytes, self.meter.baseline
        if bound is None or reason.at_most < Rung.MODEL or not self._is_for_bound:
            return False
        if usage.sample.is_near_limit and (baseline is not None or usage.calls > _FIRST_CALLS):
            return False
        return not self.meter.is_warm and bound < self.meter.baseline_bytes

    def _report_below_need(self, reason: Reason, sample: MemorySample) -> Iterator[None]:
        """Say once that a new model does not keep a bound, if a trim does not help either."""
        if self._ladder.is_hopeless(reason, sample):
            return
        sample, _ = yield from self._ladder.take(Rung.TRIM, reason.text)
        if not is_kept(reason, sample):
            self._below_need = BelowNeed(sample.held_bytes or 0, 1)
            self._ladder.miss(reason, sample, self._ladder.highest_rung)

    def _early_reason(self, usage: Usage) -> Reason | None:
        """Ask the policy about the moment when another process could take over from now.

        Else whatever leaks would go on above the bound while that process loads. The bound that it
        gives is lowered by what is to come.
        """
        growth = usage.growth_bytes
        if self._ask is None or usage.baseline is None or not growth or growth < 0:
            return None
        lead = self._lead_seconds
        since = usage.sample.elapsed_seconds - usage.baseline.elapsed_seconds
        more = int(growth * lead / max(since, _SHORTEST_TREND_SECONDS))
        held = usage.sample.held_bytes or 0
        later = replace(usage.sample, rss_anon_bytes=held + more)
        reason = called("The policy", self._policy.reason, replace(usage, sample=later))
        if reason is None or reason.bound_bytes is None or reason.at_most < Rung.PROCESS:
            return None
        text = f"{reason.text}, in {lead:.0f} s when another process is ready"
        return replace(reason, text=text, bound_bytes=reason.bound_bytes - more)

    def _measure(self) -> MemorySample:
        return self._sampler.take(fresh=True, fresh_heap=False)

    def _tell(self, event: Event) -> None:
        """Report a step to log, stats and hooks."""
        self.meter.note(event)
        level = logging.INFO if event.kind == "remedy" else logging.WARNING
        if event.rung == Rung.TRIM:
            level = logging.DEBUG  # there are many
        logger.log(
            level,
            "%s: %s (%s), held %s -> %s bytes in %.3f s%s",
            *(event.rung.name, event.kind, event.reason, event.before.held_bytes),
            *(event.after.held_bytes, event.seconds, f", {event.error}" if event.error else ""),
        )
        self._record.add(event)

    def _remedies(self) -> dict[Rung, Remedy]:
        """List what can be done for this model."""
        remedies: dict[Rung, Remedy] = {
            Rung.TRIM: self._trim,
            Rung.TOKENIZER_CACHE: self._clear_caches,
            Rung.TOKENIZER: self.renewal.tokenizer,
        }
        if self.renewal.can_load:
            remedies[Rung.MODEL] = self._renew_model
        if self._ask is not None:
            remedies[Rung.PROCESS] = self._renew_process
        return remedies

    def _trim(self) -> None:
        trim(self._device)

    def _clear_caches(self) -> None:
        clear_tokenizer_cache(self.engine.tokenizer)
        gc.collect()
        self._trim()

    def _renew_model(self) -> Iterator[None]:
        """Load the model anew. Its tokenizer stays, unless it cannot be made to forget."""
        tokenizer = self.engine.tokenizer
        return self._renew(tokenizer if forgets(tokenizer) else None)

    def _renew(self, tokenizer: Any) -> Iterator[None]:
        """Load the model anew, with this tokenizer or one of its own, and count from there."""
        reason = self._climbs_for
        yield from self.renewal.model(tokenizer)
        self._is_for_bound = reason is not None and reason.bound_bytes is not None
        self._reloads += 1
        self.meter.begin()

    def _renew_process(self) -> Iterator[None]:
        """Ask for another process; this one goes on until it has taken over, or cannot be had."""
        self._left = True
        if self._ask is not None and self._climbs_for is not None:
            self._ask(self._climbs_for)
        while self._left is True:
            yield
        error, self._left = self._left, False
        if error:
            raise error
