"""What sentence-transformers has no way to be told: how a load is to spare its neighbours."""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import product
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


def snapshot_of(
    name: str, revision: str | None, folder: str | os.PathLike[str] | None, model: Any = None
) -> Path | None:
    """Find the snapshot in the cache of the hub that a model is loaded from.

    Args:
        name: Of the model, as users write it.
        revision: A branch, a tag or a commit; ``None`` for the usual branch.
        folder: The cache, where it is not the usual one.
        model: What was just loaded by that name, if it was: it knows its whole name.

    Returns:
        The snapshot's folder, named by its commit; ``None`` if there is none.
    """
    from huggingface_hub import try_to_load_from_cache

    cache = folder or os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    names = [name] if "/" in name else [f"sentence-transformers/{name}", name]
    config = getattr(getattr(next(iter(model or ()), None), "auto_model", None), "config", None)
    names.sort(key=lambda one: one != getattr(config, "_name_or_path", None))
    for repository, file in product(names, ("modules.json", "config.json")):
        with suppress(ValueError):  # it can be no name on a hub
            found = try_to_load_from_cache(repository, file, cache and os.fspath(cache), revision)
            if isinstance(found, str):
                return Path(found).parent
    return None


def is_commit(revision: str | None) -> bool:
    """Tell whether a revision always means the same snapshot.

    Args:
        revision: As users write it.

    Returns:
        Whether it is the whole name of a commit.
    """
    return re.fullmatch("[0-9a-f]{40}", revision or "") is not None


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
