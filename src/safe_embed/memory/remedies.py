"""Give memory back, cheapest first.

The single remedies are functions; the :class:`Ladder` climbs them towards a bound, one rung after
the other, and remembers how far it had to go. It knows no model: the higher rungs are given to it.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from copy import copy
from typing import Any

from safe_embed.memory.sampling import trim_heap
from safe_embed.types import Event, MemorySample, Reason, Rung

Remedy = Callable[[], Iterator[None] | None]

logger = logging.getLogger("safe_embed")

# A trim may take one part in a hundred of the time.
_COST_FACTOR = 100
# A failed rung is tried again after half a minute, then ever more rarely, at last once an hour.
_FIRST_RETRY_SECONDS = 30.0
_LAST_RETRY_SECONDS = 3600.0
_MOST_DOUBLINGS = 10  # and no more: 2 ** 1024 is no float
# Enough for the words that text in other scripts repeats; about 1 MB.
_CACHED_WORDS = 1000
# How much a process must grow beyond what a trim could reach before it is trimmed again.
_TRIM_MARGIN_BYTES = 4 * 2**20


def trim(device: str | None = None) -> None:
    """Give back garbage and the free blocks that allocators keep.

    Args:
        device: Kind of the model's device; the cache of ``"cuda"`` and ``"mps"`` is emptied too.
    """
    gc.collect(1)  # the young ones: all generations take half a second beside torch
    torch = sys.modules.get("torch")
    if torch is not None and device in ("cuda", "mps"):
        getattr(torch, device).empty_cache()
    trim_heap()


def clear_tokenizer_cache(tokenizer: Any) -> None:
    """Empty what a tokenizer remembers of the texts it has read.

    tokenizers 0.21 and newer cache short words only and can be told to forget. Older ones cannot,
    and the BPE of 0.23 leaves old generations of its cache behind: both need a new tokenizer.

    Args:
        tokenizer: A fast or slow tokenizer of transformers, or a bare ``tokenizers.Tokenizer``.
    """
    model: Any = getattr(getattr(tokenizer, "_tokenizer", tokenizer), "model", None)
    if hasattr(model, "_clear_cache") and type(model).__name__ != "BPE":
        model._clear_cache()  # noqa: SLF001 there is no public way
    if hasattr(tokenizer, "word_tokenizer"):
        # BertJapaneseTokenizer leaves MeCab out of its state, so that a copy loads it anew.
        tokenizer.word_tokenizer = copy(tokenizer).word_tokenizer


def bound_tokenizer_cache(tokenizer: Any) -> None:
    """Let a tokenizer remember fewer words than the 10,000 it does by default.

    The cache is never cleaned up, so that after the first words it only costs memory: 9 MB in
    1,000 Japanese texts, and no time was seen to be saved.

    Args:
        tokenizer: As for :func:`clear_tokenizer_cache`; tokenizers 0.20 cannot be told.
    """
    model: Any = getattr(getattr(tokenizer, "_tokenizer", tokenizer), "model", None)
    if hasattr(model, "_resize_cache"):
        model._resize_cache(_CACHED_WORDS)  # noqa: SLF001 there is no public way


def forgets(tokenizer: Any) -> bool:
    """Tell whether a tokenizer need not be made anew to give back what it remembers.

    Args:
        tokenizer: As for :func:`clear_tokenizer_cache`; ``None`` for none.

    Returns:
        Whether its cache is small (tokenizers 0.21 and newer), absent, or can be emptied.
    """
    model = getattr(getattr(tokenizer, "_tokenizer", tokenizer), "model", None)
    if hasattr(model, "_clear_cache") or type(model).__name__ in {"WordPiece", "WordLevel"}:
        return True
    return hasattr(tokenizer, "word_tokenizer")


class Ladder:
    """Climbs from remedy to remedy until a bound is kept.

    Args:
        remedies: What to do at each rung. One that must wait for something is a generator, and is
            driven on while it waits.
        measure: Takes a fresh sample.
        tell: Is told of every step.
        clock: Seconds; for tests.
    """

    def __init__(
        self,
        remedies: Mapping[Rung, Remedy],
        measure: Callable[[], MemorySample],
        tell: Callable[[Event], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._remedies = remedies
        self._measure = measure
        self._tell = tell
        self._clock = clock
        # By the highest rung of a reason: which rung worked, and what could not be got under.
        self._learned: dict[Rung, Rung] = {}
        self._floors: dict[Rung, int] = {}
        self._failures: dict[Rung, int] = {}
        self._not_before: dict[Rung, float] = {}

    def climb(self, reason: Reason, seen: MemorySample | None = None) -> Iterator[None]:
        """Do what *reason* asks for, and report each step; pause while a rung waits.

        A rung that fails is reported and tried again later, with back-off; the climb goes on. A
        bound that the highest rung does not reach is reported once, and obeyed again only when
        the process has grown further, or a rung that failed may be tried again. *seen* is the
        sample that gave the reason; without it one is taken.
        """
        rungs = self._route(reason)
        if not rungs or self._is_hopeless(reason, seen or self._measure()):
            return
        sample: MemorySample | None = None
        for rung in rungs:
            sample, error = yield from self.take(rung, reason.text, sample)
            if _is_kept(reason, sample):
                if error is None and reason.bound_bytes is not None:
                    self._learned[reason.at_most] = rung
                    self._floors.pop(reason.at_most, None)
                return
        if sample is not None and sample.held_bytes is not None and reason.rung is None:
            self._floors[reason.at_most] = sample.held_bytes
            if reason.at_most > Rung.TRIM:
                self._tell(Event("unreached", reason.text, max(rungs), sample, sample, 0.0))

    def learn(self, rung: Rung) -> None:
        """Take it as known that this rung helps, and cheaper ones but for the trim do not."""
        self._learned[rung] = rung

    def take(
        self,
        rung: Rung,
        text: str,
        before: MemorySample | None = None,
        remedy: Remedy | None = None,
    ) -> Generator[None, None, tuple[MemorySample, BaseException | None]]:
        """Take one rung now, even if it failed a moment ago, and report it.

        *text* says why, *before* is a sample just taken, if there is one, and *remedy* what to do
        instead of the usual. Gives a sample taken after it, and what made it fail, if anything.
        """
        before = before or self._measure()
        started = self._clock()
        error: BaseException | None = None
        try:
            waiting = (remedy or self._remedies[rung])()
            if waiting is not None:
                yield from waiting
        except (Exception, SystemExit) as raised:  # a loader is code of the user's own
            logger.debug("the failed rung", exc_info=True)
            error = raised.with_traceback(None)  # its frames hold the model that was refused
        seconds = self._clock() - started
        self._schedule(rung, seconds, failed=error is not None)
        after = self._measure()
        self._lower_floors(after)
        if error is None:
            self._tell(Event("remedy", text, rung, before, after, seconds))
        else:
            self._tell(Event("failed", text, rung, before, after, seconds, type(error).__name__))
        return after, error

    def _route(self, reason: Reason) -> list[Rung]:
        """List the rungs to take: cheapest first; those that did not help last time come last."""
        now = self._clock()
        open_rungs = [
            rung for rung in sorted(self._remedies) if now >= self._not_before.get(rung, now)
        ]
        if reason.rung is not None:
            return [rung for rung in open_rungs if rung == reason.rung]
        learned = self._learned.get(reason.at_most, Rung.TRIM)
        if learned not in open_rungs:  # what helped last time cannot now
            learned = Rung.TRIM
        allowed = [rung for rung in open_rungs if rung <= reason.at_most]
        return sorted(allowed, key=lambda rung: (Rung.TRIM < rung < learned, rung))

    def _schedule(self, rung: Rung, seconds: float, *, failed: bool) -> None:
        """Say when a rung may be taken next."""
        self._failures[rung] = self._failures.get(rung, 0) + 1 if failed else 0
        if failed:
            doublings = min(self._failures[rung] - 1, _MOST_DOUBLINGS)
            wait = min(_FIRST_RETRY_SECONDS * 2**doublings, _LAST_RETRY_SECONDS)
        else:
            wait = seconds * _COST_FACTOR if rung == Rung.TRIM else 0.0
        self._not_before[rung] = self._clock() + wait

    def _is_hopeless(self, reason: Reason, sample: MemorySample) -> bool:
        """Whether this bound was out of reach, and the process has hardly grown since."""
        floor = self._floors.get(reason.at_most)
        if reason.bound_bytes is None or floor is None or sample.held_bytes is None:
            return False
        if reason.bound_bytes >= floor or self._may_retry(reason.at_most):
            return False
        margin = _TRIM_MARGIN_BYTES if reason.at_most == Rung.TRIM else floor // 10
        return sample.held_bytes <= floor + margin

    def _lower_floors(self, sample: MemorySample) -> None:
        """Forget that less could not be had, where less is held by now."""
        held = sample.held_bytes
        if held is not None:
            self._floors = {at_most: min(floor, held) for at_most, floor in self._floors.items()}

    def _may_retry(self, at_most: Rung) -> bool:
        """Whether a rung that failed, and might have reached the bound, has waited long enough."""
        now = self._clock()
        return any(
            failures and rung <= at_most and now >= self._not_before[rung]
            for rung, failures in self._failures.items()
        )


def _is_kept(reason: Reason, sample: MemorySample) -> bool:
    if reason.bound_bytes is None or sample.held_bytes is None:
        return True
    return sample.held_bytes <= reason.bound_bytes
