"""Work around missing options of sentence-transformers: reuse of a tokenizer, and the like."""

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

# Id of a thread -> the tokenizer that a load on this thread reuses.
_KEPT: dict[int, Any] = {}
_SUBSTITUTION = threading.Lock()


@contextmanager
def kept(tokenizer: Any) -> Iterator[None]:
    """Reuse *tokenizer* for models that are loaded on this thread within the ``with`` block.

    sentence-transformers loads a new tokenizer with every model and cannot be given one. So
    ``AutoTokenizer.from_pretrained`` is replaced meanwhile: it returns *tokenizer* if asked for the
    same name. A model that loads its tokenizer in another way gets a new one.

    Args:
        tokenizer: The tokenizer of an earlier load; ``None`` changes nothing.

    Yields:
        Nothing.
    """
    if not getattr(tokenizer, "name_or_path", None):
        yield
        return
    thread = threading.get_ident()
    with _SUBSTITUTION:
        if not _KEPT:
            _substitute()
        _KEPT[thread] = tokenizer
    try:
        yield
    finally:
        with _SUBSTITUTION:
            del _KEPT[thread]
            if not _KEPT:
                _substitute(undo=True)


def _substitute(*, undo: bool = False) -> None:
    """Replace ``AutoTokenizer.from_pretrained``, or restore it."""
    from transformers import AutoTokenizer

    factory: Any = AutoTokenizer
    current = factory.__dict__["from_pretrained"]
    if undo:
        factory.from_pretrained = current.__func__.original
        return

    def from_pretrained(kind: Any, name: Any, *args: Any, **kwargs: Any) -> Any:
        kept = _KEPT.get(threading.get_ident())
        if kept is not None and str(kept.name_or_path) == str(name):
            return kept
        return current.__get__(None, kind)(name, *args, **kwargs)

    from_pretrained.original = current  # type: ignore[attr-defined]
    factory.from_pretrained = classmethod(from_pretrained)


def snapshot_of(
    name: str, revision: str | None, folder: str | os.PathLike[str] | None, model: Any = None
) -> Path | None:
    """Find the snapshot folder of a model in the Hugging Face cache.

    Args:
        name: Name of the model, as users write it: with or without its organization.
        revision: A branch, tag or commit; ``None`` for the default branch.
        folder: The cache folder; ``None`` for the default one.
        model: The model that was loaded by this name, if available; its configuration holds the
            full name.

    Returns:
        The folder, whose name is the commit; ``None`` if the model is not in the cache.
    """
    from huggingface_hub import try_to_load_from_cache

    cache = folder or os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    names = [name] if "/" in name else [f"sentence-transformers/{name}", name]
    config = getattr(getattr(next(iter(model or ()), None), "auto_model", None), "config", None)
    names.sort(key=lambda candidate: candidate != getattr(config, "_name_or_path", None))
    for repository, file in product(names, ("modules.json", "config.json")):
        with suppress(ValueError):  # not a valid name of a repository
            path = try_to_load_from_cache(repository, file, cache and os.fspath(cache), revision)
            if isinstance(path, str):
                return Path(path).parent
    return None


def is_commit(revision: str | None) -> bool:
    """Tell whether a revision is a full commit hash, which always means the same snapshot.

    Args:
        revision: A branch, tag or commit, or ``None``.

    Returns:
        Whether it consists of 40 hexadecimal digits in lower case.
    """
    return re.fullmatch("[0-9a-f]{40}", revision or "") is not None


def uncycle(model: Any) -> None:
    """Break the reference cycle of a model, so that it is freed as soon as it is dropped.

    The data of its model card refer to the model. Only a full garbage collection would free it,
    which stops all Python threads for 0.2 s or more if torch is loaded.

    Args:
        model: Any SentenceTransformer; modified in place.
    """
    card: Any = getattr(model, "model_card_data", None)
    if getattr(card, "model", None) is model:
        card.model = weakref.proxy(model)
