"""Turn the argument ``splitter`` into a splitter, and add the finer splitters below it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import shown
from safe_embed.text.marks import BLANK, CLOSERS, END_MARK, LINE_BREAK
from safe_embed.text.morphemes import MorphemeSplitter
from safe_embed.text.punctuation import PunctuationSplitter
from safe_embed.text.user_splitters import FunctionSplitter, RegexSplitter
from safe_embed.types import Splitter

SplitterLike = str | re.Pattern[str] | Splitter | Callable[[str], Any]


# Blanks between Japanese words.  氏名 山田太郎 住所 -> 氏名 |山田太郎 |住所; 第 3 回 -> 第 3 回
_JAPANESE = f"[^\\x00-\\x7f{BLANK}{LINE_BREAK}"
_BLANKS = RegexSplitter(
    f"(?<={_JAPANESE}])[{BLANK}]++(?={_JAPANESE}{re.escape(CLOSERS)}{END_MARK}、，．])"
)


def resolve_splitter(spec: SplitterLike) -> Splitter:
    """Turn the argument ``splitter`` of the encoder into a splitter.

    Args:
        spec: ``"punctuation"``, ``"morphemes"``, a compiled regular expression, an object with
            ``split(text)``, or a function from a text to its pieces.

    Returns:
        The splitter; an object with ``split`` is returned as it is.

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
    msg = both(
        f"splitter={shown(spec)} is not a splitter. Use 'punctuation', 'morphemes', a compiled "
        "regular expression, an object with split(text), or a function from a text to its pieces.",
        f"splitter={shown(spec)} は使えません。'punctuation'、'morphemes'、コンパイルした正規表現、"
        "split(text) を持つオブジェクト、文章から断片を返す関数のどれかを渡してください。",
    )
    raise ConfigError(msg)


def ladder(splitter: Splitter) -> tuple[Splitter, ...]:
    """List *splitter* and the finer splitters that cut a piece which is still too long.

    長い文 -> clauses -> inside brackets, level by level -> blanks -> bunsetsu -> morphemes.
    The chunker cuts what is still too long between grapheme clusters.

    Args:
        splitter: The splitter that is tried first.

    Returns:
        The splitters from coarse to fine, *splitter* first.
    """
    if isinstance(splitter, MorphemeSplitter):
        return (splitter, *_morpheme_splitters(splitter))
    if isinstance(splitter, PunctuationSplitter):
        finer = splitter.finer
        words = MorphemeSplitter(names=splitter.names, line_breaks=splitter.line_breaks is True)
    else:
        finer, words = PunctuationSplitter, MorphemeSplitter()
    return (
        splitter,
        *(finer(level, depth) for depth in (0, 1, None) for level in ("sentence", "clause")),
        _BLANKS,
        *_morpheme_splitters(words),
    )


def _morpheme_splitters(splitter: MorphemeSplitter) -> tuple[MorphemeSplitter, ...]:
    """Return the splitters below the last level of punctuation, from coarse to fine."""
    return (
        replace(splitter, unit="bunsetsu", depth=0),
        replace(splitter, unit="bunsetsu", depth=None),
        replace(splitter, unit="morpheme", depth=None),
    )
