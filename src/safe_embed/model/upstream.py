"""What sentence-transformers has no way to be told: how a load is to spare its neighbours."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# By thread: the tokenizer that a load on it is to keep.
_KEPT: dict[int, Any] = {}
_SUBSTITUTION = threading.Lock()


@contextmanager
def kept(tokenizer: Any) -> Iterator[None]:
    """Give *tokenizer* to whoever loads the one of the same name on this thread.

    sentence-transformers loads a tokenizer with every model and has no way to be handed one, so
    transformers' own entry is changed meanwhile. Where a model is loaded by another entry, it gets
    a new tokenizer as usual.

    Args:
        tokenizer: Of an earlier load; ``None`` changes nothing.

    Yields:
        Nothing.
    """
    if not getattr(tokenizer, "name_or_path", None):
        yield
        return
    me = threading.get_ident()
    with _SUBSTITUTION:
        if not _KEPT:
            _substitute()
        _KEPT[me] = tokenizer
    try:
        yield
    finally:
        with _SUBSTITUTION:
            del _KEPT[me]
            if not _KEPT:
                _substitute(undo=True)


def _substitute(*, undo: bool = False) -> None:
    """Change ``AutoTokenizer.from_pretrained``, or put it right again."""
    from transformers import AutoTokenizer

    entry: Any = AutoTokenizer  # whose method it is to change
    found = entry.__dict__["from_pretrained"]
    if undo:
        entry.from_pretrained = found.__func__.usual
        return

    def from_pretrained(kind: Any, name: Any, *args: Any, **kwargs: Any) -> Any:
        kept = _KEPT.get(threading.get_ident())
        if kept is not None and str(kept.name_or_path) == str(name):
            return kept
        return found.__get__(None, kind)(name, *args, **kwargs)

    from_pretrained.usual = found  # type: ignore[attr-defined]
    entry.from_pretrained = classmethod(from_pretrained)


def revision_of(model: Any, folder: str | os.PathLike[str] | None) -> str | None:
    """Find which snapshot in the cache of the hub a model was just loaded from.

    Args:
        model: Any SentenceTransformer.
        folder: The cache, where it is not the usual one.

    Returns:
        The snapshot's revision; ``None`` for what came from elsewhere.
    """
    from huggingface_hub import try_to_load_from_cache

    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    name = getattr(config, "_name_or_path", "")  # sentence-transformers completes short names
    if name.count("/") != 1 or Path(name).exists():
        return None
    cache = folder or os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    found = try_to_load_from_cache(name, "config.json", cache and os.fspath(cache))
    return Path(found).parent.name if isinstance(found, str) else None


def uncycle(model: Any) -> None:
    """Let a model go at once when it is dropped.

    The data of its model card point back at it, so that only a full collection would free it,
    which holds all Python threads for a fifth of a second and more beside torch.

    Args:
        model: Any SentenceTransformer.
    """
    card: Any = getattr(model, "model_card_data", None)
    if getattr(card, "model", None) is model:
        card.model = weakref.proxy(model)
