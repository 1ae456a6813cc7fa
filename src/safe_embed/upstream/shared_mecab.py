"""Japanese tokenizers with MeCab inside: copies share the dictionary of the original.

A ``BertJapaneseTokenizer`` makes a tagger when it is made, copied or unpickled, and fugashi never
frees one. So its taggers are those of the process, see :mod:`safe_embed.text.taggers`.
"""

from __future__ import annotations

import copyreg
from contextlib import AbstractContextManager
from typing import Any

from safe_embed.text.taggers import shared


def shared_mecab() -> AbstractContextManager[None]:
    """Give the tokenizers that transformers makes on this thread the process's tagger.

    Returns:
        A context.
    """
    return shared("transformers")


def share_mecab(tokenizer: Any) -> None:
    """Let the copies of a tokenizer, and what is unpickled from it, use the process's tagger.

    Args:
        tokenizer: Any tokenizer; changes nothing unless it has MeCab inside.
    """
    if hasattr(getattr(tokenizer, "word_tokenizer", None), "mecab"):
        copyreg.pickle(type(tokenizer), _reduced)


def _reduced(tokenizer: Any) -> tuple[Any, ...]:
    """Return how to rebuild a tokenizer: from its state, which has no tagger in it."""
    return _rebuilt, (type(tokenizer), tokenizer.__getstate__())


def _rebuilt(kind: type, state: dict[str, Any]) -> Any:
    tokenizer: Any = object.__new__(kind)
    with shared_mecab():
        tokenizer.__setstate__(state)
    return tokenizer
