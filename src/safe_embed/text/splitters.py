"""What a user may name as a splitter, and the ladder below it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from safe_embed.errors import ConfigError
from safe_embed.foreign import shown
from safe_embed.text.morphemes import MorphemeSplitter
from safe_embed.text.punctuation import PunctuationSplitter
from safe_embed.text.user_splitters import FunctionSplitter, RegexSplitter
from safe_embed.types import Splitter

SplitterLike = str | re.Pattern[str] | Splitter | Callable[[str], Any]


def resolve_splitter(spec: SplitterLike) -> Splitter:
    """Turn what a user passed as ``splitter`` into a splitter.

    Args:
        spec: ``"punctuation"``, ``"morphemes"``, a compiled regular expression, an object with
            ``split``, or a function that gives the pieces of a text.

    Returns:
        The splitter.

    Raises:
        ConfigError: If *spec* is none of these.
    """
    if spec == "punctuation":
        return PunctuationSplitter()
    if spec == "morphemes":
        return MorphemeSplitter()
    if isinstance(spec, re.Pattern):
        return RegexSplitter(spec)
    if not isinstance(spec, str) and isinstance(spec, Splitter):
        return spec
    if callable(spec):
        return FunctionSplitter(spec)
    msg = (
        f"splitter={shown(spec)} is no splitter. Use 'punctuation', 'morphemes', a compiled "
        "regular expression, an object with split(text), or a function from a text to its pieces."
    )
    raise ConfigError(msg)


def ladder(splitter: Splitter) -> tuple[Splitter, ...]:
    """Put below *splitter* the finer ones that a piece goes down if it does not fit.

    長い文 -> clauses -> inside brackets, level by level -> bunsetsu -> morphemes. Text that no rung
    can cut is cut between grapheme clusters by the chunker.

    Args:
        splitter: The user's own, the first rung.

    Returns:
        The rungs from coarse to fine.
    """
    if isinstance(splitter, MorphemeSplitter):
        return (splitter, *_morphemes())
    return (
        splitter,
        *(
            PunctuationSplitter(level, depth=depth)
            for depth in (0, 1, None)
            for level in ("sentence", "clause")
        ),
        *_morphemes(),
    )


def _morphemes() -> tuple[MorphemeSplitter, ...]:
    return (
        MorphemeSplitter("bunsetsu", depth=0),
        MorphemeSplitter("bunsetsu", depth=None),
        MorphemeSplitter("morpheme", depth=None),
    )
