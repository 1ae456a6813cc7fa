"""Cut Japanese text at its punctuation: paragraphs, sentences, clauses."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from heapq import merge
from operator import itemgetter
from typing import Literal, get_args

import regex

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import shown
from safe_embed.text.brackets import ALL_CLOSERS, ALL_OPENERS, directed, enclosed, pairs
from safe_embed.text.graphemes import (
    JOINER,
    at_cluster_ends,
    between_clusters,
    joined_clusters,
    outside,
    spans_between,
)
from safe_embed.text.marks import BLANK, KANJI, KATAKANA, LATIN
from safe_embed.text.rules import BREAK_TAG, Level, Words, compile_marks, compile_rules
from safe_embed.text.user_splitters import RegexSplitter
from safe_embed.text.words import checked_words
from safe_embed.text.wraps import wraps
from safe_embed.types import Span

# List marks before which a cut is possible.
# ①りんご②みかん -> ①りんご|②みかん; りんご ・みかん -> りんご |・みかん
_NUMBERED = "①-⑳㋐-㋾"
_LIST_MARK = re.compile(f"[{_NUMBERED}・●■◆▪•](?:(?<=[{_NUMBERED}])|(?<=[{BLANK}].))")

# A quotation behind these stands in the middle of its sentence.
# 最後に「完了！」ボタン -> 最後に「完了！」ボタン; 「待て！」もう遅い -> 「待て！」|もう遅い
_LEADS_ON = regex.compile(f"[にのでをへや、，]{JOINER.pattern}{{0,4}}[{re.escape(ALL_OPENERS)}]\\Z")
_NOUN = re.compile(f"[{KANJI}{KATAKANA}{LATIN}]")
_CLOSES = frozenset(ALL_CLOSERS)

# No character in these ranges joins the one before it; most Japanese text has no others.
_JOINS_NOTHING = (
    "\x00-\u02ff\u0370-\u0482\u200e-\u20cf\u2100-\u2cee\u3000-\u3029\u3030-\u3098\u309d-\ua66e"
)
_MAY_JOIN = re.compile(f"[^{_JOINS_NOTHING}\uac00-\ud7a3\uff01-\uff9d\uffe0-\uffee]")


def _any_joins(characters: str) -> bool:
    """Return whether any of these characters joins the one before it in a grapheme cluster."""
    return bool(_MAY_JOIN.search(characters) and JOINER.search(characters))


def _strip_joiners(text: str, mark: re.Pattern[str]) -> tuple[str, list[int], list[int]]:
    """Remove the characters that join a mark in a cluster, so that the rules see the mark alone.

    A joined blank is visible, so it is replaced by the character that joins it.
    すごい‼\ufe0f次 -> すごい‼次

    Returns the bare text, the positions in it after each such mark, and how many characters were
    removed before each of these positions, and in all.
    """
    parts: list[str] = []
    places: list[int] = []
    removed = [0]
    last = 0
    for start, end in joined_clusters(text):
        match = mark.search(text, start, end)
        if match is None or match.end() == end:
            continue
        at = match.start()
        parts += (text[last:at], text[at + 1] if text[at] in BLANK else text[at])
        removed.append(removed[-1] + end - at - 1)
        places.append(end - removed[-1])
        last = end
    return "".join((*parts, text[last:])), places, removed


def _after_quotations(text: str, cuts: list[int], spans: list[tuple[int, int]]) -> frozenset[int]:
    """Return the cuts directly behind a pair of brackets in the middle of a sentence.

    *spans* are those of all pairs that end at a cut.
    """
    starts = {end: start for start, end in spans}
    return frozenset(
        cut
        for cut in starts.keys() & cuts
        if text[cut - 1] in _CLOSES and _NOUN.match(text, cut) and _leads_on(text, starts[cut])
    )


def _leads_on(text: str, start: int) -> bool:
    """Return whether the bracket that opens at *start* stands in the middle of a sentence."""
    return _LEADS_ON.search(text, max(0, start - 5), start + 1) is not None


@dataclass(frozen=True, slots=True, repr=False)
class PunctuationSplitter:
    """Cut text at its punctuation.

    No cut is made inside brackets, addresses, numbers, runs of ``！？…``, names such as モー娘。 or
    grapheme clusters. Blanks and line breaks belong to the span before them, as does a character
    that joins a mark, such as a variation selector.

    >>> text = "「今日は。明日も。」と言った。円周率は3.14です。本当！？"
    >>> [text[start:end] for start, end in PunctuationSplitter().split(text)]
    ['「今日は。明日も。」と言った。', '円周率は3.14です。', '本当！？']

    Args:
        level: The finest cut: ``"paragraph"`` cuts at blank lines, ``"sentence"`` after sentences
            too, ``"clause"`` after clauses too.
        depth: How many levels of brackets may be cut inside; ``None`` for any.
        line_breaks: Whether a single line break ends a sentence. ``False`` for text with hard
            line wraps, in which only a blank line does; ``"auto"`` tells wraps by the lines: they
            are of nearly one width and end without a mark.
        names: Names that hold marks which end no sentence, such as ``"君の名は。"``; added to ours.
        end_marks: Marks or words that end a sentence, such as ``"♪"``; added to ours.
        abbreviations: Latin abbreviations whose full stop ends no sentence, such as ``"Tel"``;
            added to ours.

    Raises:
        ConfigError: If *level* or *line_breaks* is none of these, *depth* is negative, or *names*,
            *end_marks* or *abbreviations* is not a tuple of strings that are not blank.
    """

    level: Level = "sentence"
    depth: int | None = 0
    line_breaks: bool | Literal["auto"] = "auto"
    names: tuple[str, ...] = field(default=(), kw_only=True)
    end_marks: tuple[str, ...] = field(default=(), kw_only=True)
    abbreviations: tuple[str, ...] = field(default=(), kw_only=True)
    _of_part: bool = field(default=False, init=False)
    _words: Words = field(init=False, compare=False)
    _pattern: re.Pattern[str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if self.level not in get_args(Level):
            levels = ", ".join(get_args(Level))
            msg = both(
                f"level={shown(self.level)} is not known. Use one of {levels}.",
                f"level={shown(self.level)} は使えません。{levels} のどれかにしてください。",
            )
            raise ConfigError(msg)
        if self.depth is not None and self.depth < 0:
            msg = both(
                f"depth={shown(self.depth)} is negative. Use 0 or more, or None for any depth.",
                f"depth={shown(self.depth)} は負です。0以上か、無制限なら None にしてください。",
            )
            raise ConfigError(msg)
        if self.line_breaks not in (True, False, "auto"):
            msg = both(
                f"line_breaks={shown(self.line_breaks)} is not known. Use True, False or 'auto'.",
                f"line_breaks={shown(self.line_breaks)} は使えません。True、False、'auto' の"
                "どれかにしてください。",
            )
            raise ConfigError(msg)
        for name in Words._fields:
            object.__setattr__(self, name, checked_words(name, getattr(self, name)))
        words = Words(self.names, self.end_marks, self.abbreviations)
        object.__setattr__(self, "_words", words)
        pattern = compile_rules(self.level, words, line_breaks=self.line_breaks is not False)
        object.__setattr__(self, "_pattern", pattern)

    def __repr__(self) -> str:
        """Return the call that makes this splitter; of names and the like only what is given."""
        words = "".join(
            f", {name}={words!r}" for name, words in self._words._asdict().items() if words
        )
        return (
            f"PunctuationSplitter(level={self.level!r}, depth={self.depth!r}, "
            f"line_breaks={self.line_breaks!r}{words})"
        )

    def finer(self, level: Level, depth: int | None) -> PunctuationSplitter:
        """Return a splitter for the spans of this one, with its names, marks and line breaks.

        Lines that are not wrapped were cut apart by this splitter, so what it left together is
        taken to be wrapped unless its lines are of different widths.

        Args:
            level: The finest cut.
            depth: How many levels of brackets may be cut inside; ``None`` for any.

        Returns:
            The splitter.
        """
        splitter = PunctuationSplitter(level, depth, self.line_breaks, **self._words._asdict())
        object.__setattr__(splitter, "_of_part", self.level != "paragraph")
        return splitter

    def split(self, text: str) -> list[Span]:
        """Cut *text* into paragraphs, sentences or clauses.

        Invariant: ``"".join(text[s:e] for s, e in split(text)) == text``; time and memory grow
        linearly with the text.

        Args:
            text: Any string.

        Returns:
            The spans in order, none empty; no spans for the empty string.
        """
        text = directed(text)
        cuts = self._ends(text)
        if cuts and _any_joins("".join(itemgetter(*cuts)(text))):
            cuts = self._ends_with_joiners(text)
        if self.level == "clause" and _LIST_MARK.search(text, 1):
            marks = between_clusters(text, [m.start() for m in _LIST_MARK.finditer(text, 1)])
            cuts = list(dict.fromkeys(merge(cuts, marks)))
        spans = enclosed(text, self.depth)
        cuts = outside(cuts, spans)
        # A cut outside all spans is behind none of the pairs inside them.
        if inside := _after_quotations(text, cuts, spans if self.depth == 0 else pairs(text)):
            cuts = [cut for cut in cuts if cut not in inside]
        return spans_between(cuts, len(text))

    def _ends(self, text: str) -> list[int]:
        """Return the positions after which the rules allow a cut, but the end of the text."""
        pattern = self._pattern
        if ">" in text and BREAK_TAG.search(text):
            pattern = self._compiled(line_breaks=self.line_breaks is not False, tags=True)
        cuts = [m.end() for m in pattern.finditer(text) if m.lastindex is None]
        if cuts and cuts[-1] == len(text):
            cuts.pop()
        if self.line_breaks == "auto" and (wrapped := wraps(text, part=self._of_part)):
            matches = self._compiled(line_breaks=False, tags=True).finditer(text)
            kept = {m.end() for m in matches if m.lastindex is None}
            cuts = [cut for cut in cuts if cut in kept or cut not in wrapped]
        return cuts

    def _compiled(self, *, line_breaks: bool, tags: bool) -> re.Pattern[str]:
        return compile_rules(self.level, self._words, line_breaks=line_breaks, tags=tags)

    def _ends_with_joiners(self, text: str) -> list[int]:
        """Return the cuts of the rules in a text in which characters join the marks."""
        bare, places, removed = _strip_joiners(text, compile_marks(self._words))
        cuts = [cut + removed[bisect_right(places, cut)] for cut in self._ends(bare)]
        if cuts and cuts[-1] == len(text):
            cuts.pop()
        return at_cluster_ends(text, cuts)

    @staticmethod
    def incident() -> RegexSplitter:
        """Return the splitter of the production incident that led to this library.

        It cuts texts of more than 200 characters at every 。 and 、, whatever surrounds them; with
        ``chunks="spans"`` the spans are embedded one by one and averaged.

        Returns:
            A splitter for comparison, not a recommendation.
        """
        return RegexSplitter("[。、]", min_chars=201)
