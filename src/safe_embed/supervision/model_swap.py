"""A fresh model or tokenizer in the place of one that has grown, if it is the same model.

Everything here runs on the thread that the model is on, except the loading beside the old one.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

from safe_embed.inference.engine import Engine
from safe_embed.memory.types import MemorySample
from safe_embed.supervision.conditions import Conditions
from safe_embed.types import FloatArray
from safe_embed.upstream.attributes import (
    embedding_dimension,
    ends_in_normalize,
    set_tokenizer,
    task_limits,
    weights_bytes,
)
from safe_embed.upstream.files import other_vectors
from safe_embed.upstream.same_model import is_same
from safe_embed.upstream.settings import ModelFacts, ModelSettings, apply_settings
from safe_embed.upstream.source import Loading, ModelSource
from safe_embed.upstream.tokenizer_cache import bound_tokenizer_cache, clear_tokenizer_cache


class _Look(NamedTuple):
    """By what a model is known: the type of its weights, and the vector of the canary."""

    dtype: Any
    canary: FloatArray


class ModelSwap:
    """Exchanges the model and the tokenizer of an engine for fresh ones.

    Args:
        source: Where the model comes from.
        engine: Whose model and tokenizer are exchanged.
        measure: Takes a fresh measurement.
        trim: Gives freed memory back.
        conditions: Clock, waits and headroom.
        load_bytes: What the first load was seen to take.

    Attributes:
        settings: What users have set; pushed into every fresh model.
        load_bytes: As given.
    """

    def __init__(
        self,
        source: ModelSource,
        engine: Engine,
        measure: Callable[[], MemorySample],
        trim: Callable[[], None],
        conditions: Conditions,
        *,
        load_bytes: int,
    ) -> None:
        self.settings = ModelSettings.of(engine.model)
        self._conditions = conditions
        self._source = source
        self._engine = engine
        self._measure = measure
        self._trim = trim
        self.load_bytes = load_bytes
        self._fingerprint = source.fingerprint() if source.files is None else source.files
        self._lost: _Look | None = None
        self._retry_at = 0.0

    @property
    def can_load(self) -> bool:
        """Whether the model can be loaded here at all."""
        return not self._source.is_loaded

    @property
    def is_lost(self) -> bool:
        """Whether there is no model: the old one was dropped, and the new one is not there."""
        return self._lost is not None

    @property
    def is_due(self) -> bool:
        """Whether a lost model is to be loaded again."""
        return self.is_lost and self._conditions.clock() >= self._retry_at

    def configure(self, settings: ModelSettings) -> None:
        """Push settings into the model, and into those to come.

        Args:
            settings: Their current value.
        """
        self.settings = settings
        if not self.is_lost:
            apply_settings(self._engine.model, settings)

    def clear_caches(self) -> None:
        """Empty what the tokenizer remembers of texts, and give that back."""
        clear_tokenizer_cache(self._engine.tokenizer)
        gc.collect()
        self._trim()

    def tokenizer(self) -> None:
        """Rebuild the tokenizer from its own state, which holds no cache."""
        dropped = _watched(self._engine.tokenizer)
        fresh = deepcopy(self._engine.tokenizer)
        bound_tokenizer_cache(fresh)
        if self.can_load:  # a model that is shared keeps its own
            set_tokenizer(self._engine.model, fresh)
        self._engine.tokenizer = fresh
        self._give_back(dropped)

    def model(self, tokenizer: Any, *, after_drop: bool = False) -> Iterator[None]:
        """Reload the model: beside the old one while there is room for both, else after it.

        Args:
            tokenizer: The one to keep; ``None`` for a new one.
            after_drop: Whether the old one must go first, whatever room there is.

        Yields:
            Nothing, while the new model loads.

        Raises:
            ReloadError: If it is another model.
        """
        self._source.check_unchanged(self._fingerprint)
        dropped = _watched(self._engine.model)
        if self._lost is None and not after_drop and self._has_room():
            loading = Loading(self._source, tokenizer)
            while not loading.is_done():
                yield
            self._exchange(loading.result(), self._look())
        else:
            lost = self._lost or self._drop(tokenizer)
            try:
                self._exchange(self._source.load(tokenizer), lost)
            finally:
                self._retry_at = self._conditions.clock() + self._conditions.retry_seconds
        if tokenizer is not None:
            clear_tokenizer_cache(tokenizer)
        self._give_back(dropped)

    def facts(self, held_bytes: int, *, with_canary: bool) -> ModelFacts:
        """Say what is known of the model as it was loaded.

        Args:
            held_bytes: What the process holds with it, before any work.
            with_canary: Whether to embed the canary.

        Returns:
            The facts.
        """
        model = self._engine.model
        return ModelFacts(
            ModelSettings.of(model),
            str(model.device),
            str(model.dtype),
            ends_in_normalize(model),
            embedding_dimension(model),
            sorted(model.get_model_kwargs()),
            weights_bytes(model),
            held_bytes,
            self.canary() if with_canary else None,
            self._engine.positions,
            self._source.identity,
            task_limits(model),
            model.get_backend(),
        )

    def canary(self, engine: Engine | None = None) -> FloatArray:
        """Embed a fixed text, by which a model is known.

        Args:
            engine: With another model; ``None`` for the one that serves.

        Returns:
            A unit vector, shape (dimension,).
        """
        return (engine or self._engine).fingerprint()

    def _exchange(self, model: Any, look: _Look) -> None:
        """Put a fresh model in the place of the old one, if it is the same model."""
        apply_settings(model, self.settings)
        if model.dtype != look.dtype:
            model.to(look.dtype)
        fresh = replace(self._engine, model=model, tokenizer=self._source.tokenizer_of(model))
        if not is_same(look.canary, self.canary(fresh)):
            raise other_vectors()
        bound_tokenizer_cache(fresh.tokenizer)
        self._engine.model, self._engine.tokenizer = fresh.model, fresh.tokenizer
        self._lost = None

    def _has_room(self) -> bool:
        """Whether two models fit, into the memory of the process and that of the device."""
        weights = weights_bytes(self._engine.model)
        return self._conditions.headroom(self._measure(), self.load_bytes, weights)

    def _look(self) -> _Look:
        """Note what a fresh model must be like, at the last moment: settings may have changed."""
        return _Look(self._engine.model.dtype, self.canary())

    def _drop(self, tokenizer: Any) -> _Look:
        """Let the old model go before the new one comes; calls wait meanwhile."""
        self._lost = self._look()
        dropped = _watched(self._engine.model)
        self._engine.model = None  # type: ignore[assignment]
        self._engine.tokenizer = tokenizer
        self._give_back(dropped)
        return self._lost

    def _give_back(self, dropped: Callable[[], Any]) -> None:
        """Trim after something was dropped, which must be gone by then.

        Only what hangs in a cycle of a user's own making costs a full collection, which holds all
        Python threads for a fifth of a second and more beside torch.
        """
        if dropped() is not None:
            gc.collect()
        self._trim()


def _watched(thing: Any) -> Callable[[], Any]:
    """Give a function that tells whether something is still there: a weak reference."""
    try:
        return weakref.ref(thing)
    except TypeError:  # the Rust tokenizer of a StaticEmbedding, which is in no cycle
        return lambda: None
