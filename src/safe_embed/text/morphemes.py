"""Cut Japanese text between morphemes or bunsetsu, with MeCab and UniDic.

For text without punctuation, and for sentences that are too long.

MeCab parses one window of the text at a time. On longer input its time grows with the square of the
longest run of one character class, the sum of its costs overflows (a crash), and it loses what
follows 64 KiB of blanks. Windows overlap and are joined where two parses agree, so that the cuts
are those of one parse of the whole text.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import shown
from safe_embed.text.bunsetsu import CONTROLS, compile_ending
from safe_embed.text.dictionaries import checked_dictionary, dictionary_options, refused
from safe_embed.text.graphemes import keep_whole, outside, spans_between
from safe_embed.text.marks import BLANK
from safe_embed.text.removals import READING, WRAP, without
from safe_embed.text.taggers import Node, tagger_of
from safe_embed.text.words import checked_words
from safe_embed.types import Span

_BLANKS = frozenset(BLANK + "\n\r\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029")

Unit = Literal["bunsetsu", "morpheme"]

# Length of a window that MeCab parses at once, and of the overlap of two neighbouring windows.
# Source: 526,000 characters of 43 novels and articles without 。, 、 and line breaks, compared with
# one parse of each. Of 337,541 boundaries differ at 1,024/64: 0; 256/16: 0; 256/8: 3; 128/4: 72.
# test_windows_cut_as_one_parse repeats the first measurement.
WINDOW_CHARS = 1024
OVERLAP_CHARS = 64

# MeCab stops at NUL, and takes other control characters for words; it gets blanks instead.
# 今日は\0晴れ -> 今日は\0|晴れ
_CONTROL = re.compile(f"[{CONTROLS}]")
_WORD = re.compile(rf"[^\s{CONTROLS}{BLANK}]")
_STRONG_MARK = re.compile(r"[。｡！？\n]")


class _Analyser:
    """MeCab with a dictionary, and its cache of compiled rules."""

    def __init__(self, dictionary: str | None = None) -> None:
        self.parse = _load_mecab(dictionary)
        # Rules by parts of speech before and after; bounded: UniDic has about 70 of them.
        self._endings: dict[tuple[str, str], re.Pattern[str]] = {}

    def bunsetsu(self, text: str) -> Iterator[int]:
        """Yield the start of each bunsetsu but the first."""
        endings = self._endings
        for (_, before), (start, after) in pairwise(self.morphemes(text)):
            pair = before, after
            if pair not in endings:
                endings[pair] = compile_ending(*pair)
            if endings[pair].match(text, start):
                yield start

    def morphemes(self, text: str) -> Iterator[Node]:
        """Yield the morphemes of a text of any length, parsed in overlapping windows."""
        end = min(WINDOW_CHARS, len(text))
        nodes = self._parse(text, 0, end)
        while end < len(text):
            start = _next_start(text, end)
            stop = min(start + WINDOW_CHARS, len(text))
            following = self._parse(text, start, stop)
            seam = _seam(nodes, following, (start + end) // 2)
            yield from nodes[: bisect_left(nodes, (seam,))]
            nodes, end = following[bisect_left(following, (seam,)) :], stop
        yield from nodes

    def _parse(self, text: str, start: int, end: int) -> list[Node]:
        """Return the morphemes of the window ``text[start:end]``, with positions in the text."""
        return self.parse(_CONTROL.sub(" ", text[start:end]), start)


# By dictionary. An analyser stays for ever, as its tagger does.
_ANALYSERS: dict[str | None, _Analyser] = {}


def _analyser(dictionary: str | None = None) -> _Analyser:
    """Return the analyser of this process with a dictionary."""
    if dictionary not in _ANALYSERS:
        _ANALYSERS[dictionary] = _Analyser(dictionary)
    return _ANALYSERS[dictionary]


def _next_start(text: str, end: int) -> int:
    """Return the start of the window after one up to *end*: behind a sentence mark if possible."""
    latest = end - OVERLAP_CHARS
    marks = [match.end() for match in _STRONG_MARK.finditer(text, latest - OVERLAP_CHARS, latest)]
    return marks[-1] if marks else latest


def _seam(nodes: list[Node], following: list[Node], middle: int) -> int:
    """Return the start nearest to *middle* of a morpheme that both windows have, or *middle*."""
    first = following[0][0] if following else middle
    shared = set(nodes[bisect_left(nodes, (first,)) :]).intersection(following)
    starts = (start for start, _ in shared)
    return min(starts, key=lambda start: (abs(start - middle), start), default=middle)


def _load_mecab(dictionary: str | None) -> Callable[[str, int], list[Node]]:
    """Return MeCab's parse function, with unidic-lite even if other dictionaries are installed.

    ConfigError if it fails.
    """
    try:
        import unidic_lite

        tagger = tagger_of(dictionary_options(dictionary, Path(unidic_lite.DICDIR)))
    except ImportError as err:
        raise refused(None) from err
    except RuntimeError as err:
        raise refused(dictionary) from err
    _, tags = tagger.nodes("。")[0]
    if not tags.startswith("補助記号,句点"):
        raise refused(dictionary)
    return tagger.nodes


@dataclass(frozen=True, slots=True, repr=False)
class MorphemeSplitter:
    """Cut text between bunsetsu (文節) or morphemes.

    No cut is made inside brackets, addresses, numbers and grapheme clusters. Blanks and control
    characters belong to the span before them. Texts of up to :data:`WINDOW_CHARS` characters are
    parsed at once, longer ones in windows. It can be used from any thread, and keeps no text.

    >>> text = "今日は良い天気なので図書館で本を読んでいる"
    >>> [text[start:end] for start, end in MorphemeSplitter().split(text)]
    ['今日は', '良い', '天気なので', '図書館で', '本を', '読んでいる']

    Args:
        unit: ``"bunsetsu"`` (a word with the particles after it) or ``"morpheme"``.
        depth: How many levels of brackets may be cut inside; ``None`` for any.
        dictionary: ``None`` for the package unidic-lite, which is always there; ``"unidic"`` for
            the larger package of that name; or a path to the folder of another UniDic, or to a
            user dictionary (``.dic``) that is added to unidic-lite.
        line_breaks: ``False`` for text with hard line wraps, which may stand inside words.
        names: Words that are kept whole.

    Raises:
        ConfigError: If *unit* is neither of these, *depth* is negative, *dictionary* is no str or
            path, or *names* is not a tuple of strings that are not blank.
    """

    unit: Unit = "bunsetsu"
    depth: int | None = field(default=0, kw_only=True)
    dictionary: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    line_breaks: bool = field(default=True, kw_only=True)
    names: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            units = ", ".join(get_args(Unit))
            msg = both(
                f"unit={shown(self.unit)} is not known. Use one of {units}.",
                f"unit={shown(self.unit)} は使えません。{units} のどれかにしてください。",
            )
            raise ConfigError(msg)
        if self.depth is not None and self.depth < 0:
            msg = both(
                f"depth={shown(self.depth)} is negative. Use 0 or more, or None for any depth.",
                f"depth={shown(self.depth)} は負です。0以上か、無制限なら None にしてください。",
            )
            raise ConfigError(msg)
        if self.dictionary is not None:
            object.__setattr__(self, "dictionary", checked_dictionary(self.dictionary))
        object.__setattr__(self, "names", checked_words("names", self.names))

    def __repr__(self) -> str:
        """Return the call that makes this splitter; of the later arguments only what is given."""
        later = {"dictionary": None, "line_breaks": True, "names": ()}
        others = "".join(
            f", {name}={getattr(self, name)!r}"
            for name, default in later.items()
            if getattr(self, name) != default
        )
        return f"MorphemeSplitter(unit={self.unit!r}, depth={self.depth!r}{others})"

    def split(self, text: str) -> list[Span]:
        """Cut *text* into bunsetsu or morphemes.

        Invariant: ``"".join(text[s:e] for s, e in split(text)) == text``; time and memory grow
        linearly with the text.

        Args:
            text: Any string without lone surrogates.

        Returns:
            The spans in order, none empty; no spans for the empty string.

        Raises:
            ConfigError: If MeCab or its dictionary cannot be loaded.
        """
        word = _WORD.search(text)
        first = word.start() if word else len(text)
        patterns = (READING,) if self.line_breaks else (READING, WRAP)
        bare, place_of = without(text, *patterns)
        analyser = _analyser(None if self.dictionary is None else str(self.dictionary))
        starts = (
            analyser.bunsetsu(bare)
            if self.unit == "bunsetsu"
            else (start for start, _ in analyser.morphemes(bare))
        )
        places = map(place_of, starts)
        cuts = [at for at in places if at > first and text[at] not in _BLANKS]
        if self.names:
            names = re.compile("|".join(map(re.escape, self.names)))
            cuts = outside(cuts, [match.span() for match in names.finditer(text)])
        return spans_between(keep_whole(text, cuts, depth=self.depth, atoms=True), len(text))
