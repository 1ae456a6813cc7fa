"""Tell when a forward pass or a tokenizer is at work, in whatever code calls them.

For the process of an experiment alone: classes of torch and transformers are changed for good.
"""

from __future__ import annotations

import functools
import gc
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from safe_embed.upstream.tokenizer_cache import clear_tokenizer_cache

Stage = Callable[[str], AbstractContextManager[Any]]
# Modules that code calls by themselves, without a model around them.
_MOST_MODULES = 8
_depth = threading.local()


class Forwards:
    """The last forward pass of each module, as functions that repeat it; they hold their models."""

    def __init__(self) -> None:
        self._last: dict[int, functools.partial[Any]] = {}
        self._is_open = True

    def add(self, module: Any, forward: functools.partial[Any]) -> None:
        """Note the last forward pass of a module, of the first few modules."""
        if self._is_open and (id(module) in self._last or len(self._last) < _MOST_MODULES):
            self._last[id(module)] = forward

    def close(self) -> None:
        """Let the models go, and note no more: a reload calls old and new ones."""
        self._is_open = False
        self._last.clear()

    def all(self) -> list[functools.partial[Any]]:
        """List the forward passes."""
        return list(self._last.values())


def observe_stages(stage: Stage) -> Forwards:
    """Run every outermost forward pass and tokenizer call within a context.

    Only libraries that are already imported are observed: import the code to examine first. The
    bare Rust tokenizer cannot be observed, only that of transformers.

    Args:
        stage: Is given ``"forward"`` or ``"tokenizer"``, and returns a context manager.

    Returns:
        The last forward pass of each module, as functions that repeat it; filled as they come.
    """
    torch, transformers = sys.modules.get("torch"), sys.modules.get("transformers")
    upstream = sys.modules.get("sentence_transformers")
    last = Forwards()
    if torch is not None:
        _observe(torch.nn.Module, "__call__", "forward", stage, last)
    if upstream is not None:  # its encode calls forward without __call__
        _observe(upstream.SentenceTransformer, "forward", "forward", stage, last)
    if transformers is not None:
        _observe(transformers.PreTrainedTokenizerBase, "__call__", "tokenizer", stage, Forwards())
    return last


def _observe(kind: Any, name: str, stage: str, context: Stage, last: Forwards) -> None:
    original = getattr(kind, name)

    @functools.wraps(original)
    def observed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(_depth, stage, False):
            return original(self, *args, **kwargs)
        setattr(_depth, stage, True)
        try:
            if stage == "forward":
                # A forward pass adds its results to the features that it is given.
                given = tuple(dict(one) if isinstance(one, dict) else one for one in args)
                last.add(self, functools.partial(original, self, *given, **kwargs))
            with context(stage):
                return original(self, *args, **kwargs)
        finally:
            setattr(_depth, stage, False)

    setattr(kind, name, observed)


def repeat(forwards: Forwards, times: int) -> None:
    """Repeat forward passes, and drop what they give.

    Args:
        forwards: Of :func:`observe_stages`.
        times: How often.
    """
    torch = sys.modules["torch"]
    _depth.forward = True  # what is repeated is not recorded again
    try:
        with torch.inference_mode():
            for forward in forwards.all() * times:
                given = (dict(one) if isinstance(one, dict) else one for one in forward.args[1:])
                forward.func(forward.args[0], *given, **forward.keywords)
    finally:
        _depth.forward = False


def tokenizers_alive() -> list[Any]:
    """List the tokenizers of transformers that this process holds.

    Returns:
        The tokenizers; empty if transformers is not imported.
    """
    transformers = sys.modules.get("transformers")
    if transformers is None:
        return []
    base = transformers.PreTrainedTokenizerBase
    # By type: isinstance would run code of proxies.
    return [one for one in gc.get_objects() if issubclass(type(one), base)]


def empty_tokenizers() -> None:
    """Empty the caches of all tokenizers that this process holds, where that can be done."""
    for tokenizer in tokenizers_alive():
        clear_tokenizer_cache(tokenizer)


def renew_tokenizers() -> None:
    """Put a new Rust tokenizer into each fast tokenizer that this process holds."""
    for tokenizer in tokenizers_alive():
        rust = getattr(tokenizer, "_tokenizer", None)
        if rust is not None:
            tokenizer._tokenizer = type(rust).from_str(rust.to_str())  # noqa: SLF001 as copies do


def random_features(model: Any, tokens: int, seed: int) -> dict[str, Any]:
    """Make the input of a forward pass of one text of random tokens.

    Args:
        model: A SentenceTransformer.
        tokens: Number of tokens.
        seed: Of the random tokens.

    Returns:
        Token ids and attention mask, each of shape (1, *tokens*), on the model's device.
    """
    import torch

    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, len(model.tokenizer), (1, tokens), generator=random)
    features = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return {name: tensor.to(model.device) for name, tensor in features.items()}
