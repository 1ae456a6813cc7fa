"""What a tokenizer remembers of the texts it has read: bounded, emptied, or replaced."""

from __future__ import annotations

from copy import copy
from typing import Any

# Enough for the words that text in other scripts repeats; about 1 MB.
_CACHED_WORDS = 1000


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
