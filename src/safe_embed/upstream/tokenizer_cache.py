"""The cache of a tokenizer, which remembers the words of texts: bounded, emptied, or given up."""

from __future__ import annotations

from copy import copy
from typing import Any

from safe_embed.upstream.shared_mecab import share_mecab

# Size of a tokenizer's cache: enough for the frequent words of Latin text; about 1 MB.
_CACHED_WORDS = 1000


def clear_tokenizer_cache(tokenizer: Any) -> None:
    """Empty the cache of a tokenizer.

    tokenizers 0.21 and newer cache short words only and have a method for it. Older versions do
    not, and the BPE of 0.23 keeps old generations of its cache: both need a new tokenizer, and this
    function does nothing.

    Args:
        tokenizer: A fast or slow tokenizer of transformers, or a bare ``tokenizers.Tokenizer``.
    """
    model: Any = getattr(getattr(tokenizer, "_tokenizer", tokenizer), "model", None)
    if hasattr(model, "_clear_cache") and type(model).__name__ != "BPE":
        model._clear_cache()  # noqa: SLF001 there is no public method
    if hasattr(tokenizer, "word_tokenizer"):
        # Of a BertJapaneseTokenizer a copy has the process's MeCab, which remembers nothing.
        share_mecab(tokenizer)
        tokenizer.word_tokenizer = copy(tokenizer).word_tokenizer


def bound_tokenizer_cache(tokenizer: Any) -> None:
    """Reduce the cache of a tokenizer from the default of 10,000 words to 1,000.

    The cache never evicts, so that it costs memory and saves little: 9 MB in 1,000 Japanese texts,
    with no measurable gain in speed.

    Args:
        tokenizer: As for :func:`clear_tokenizer_cache`; no effect in tokenizers 0.20.
    """
    model: Any = getattr(getattr(tokenizer, "_tokenizer", tokenizer), "model", None)
    if hasattr(model, "_resize_cache"):
        model._resize_cache(_CACHED_WORDS)  # noqa: SLF001 there is no public method


def forgets(tokenizer: Any) -> bool:
    """Tell whether the memory of a tokenizer's cache can be released without a new tokenizer.

    Args:
        tokenizer: As for :func:`clear_tokenizer_cache`, or ``None``.

    Returns:
        Whether its cache is small (tokenizers 0.21 and newer), absent, or can be emptied.
    """
    model = getattr(getattr(tokenizer, "_tokenizer", tokenizer), "model", None)
    if hasattr(model, "_clear_cache") or type(model).__name__ in {"WordPiece", "WordLevel"}:
        return True
    return hasattr(tokenizer, "word_tokenizer")
