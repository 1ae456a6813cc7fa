"""Find pairs of brackets, quotation marks and code fences, in which no cut should be made.

Pure functions. Each takes time and memory linear in the length of the text, for any text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from heapq import merge

from safe_embed.text.marks import CLOSERS, DIGIT, LINE_BREAK, OPENERS, OTHER_CLOSERS

_OPENER_OF = dict(zip(CLOSERS, OPENERS, strict=True)) | OTHER_CLOSERS
ALL_OPENERS = OPENERS + "“"
ALL_CLOSERS = "".join(_OPENER_OF)
_OPENS = frozenset(ALL_OPENERS)

# Each search starts with one set of characters, which `re` scans for quickly. It matches a bracket,
# or a whole pair in one line without brackets inside, as most are.  （注）と「 -> （注）|「
# `code` is a pair too, and a face is no bracket.  `a。b`を -> `a。b`を; 残念 :( 次 -> 残念 :( 次
_INSIDE = f"[^{re.escape(ALL_OPENERS + ALL_CLOSERS)}`{LINE_BREAK}]*+"
_PAIR = "|".join(
    f"(?<={re.escape(opener)}){_INSIDE}{re.escape(closer)}"
    for opener, closer in [*zip(OPENERS[:9], CLOSERS[:9], strict=True), ("“", "”"), ("{", "}")]
)
_BRACKET = re.compile(
    f"[{re.escape(ALL_OPENERS + ALL_CLOSERS)}`](?<![ \u3000\n][:;][()])"
    f"(?:(?<=`)(?:(?<!``)[^`{LINE_BREAK}]++`(?!`))?+|{_PAIR})?+"
)
# An empty line, with the line break before it; \r\n is one line break.
_BLANK_LINE = re.compile(f"[{LINE_BREAK}](?:(?<=\r)\n)?+[^\\S{LINE_BREAK}]*+[{LINE_BREAK}]")

# Quotation marks of one line, whose shape does not say which side they are on, and apostrophes.
# 公開した。”成果”と -> “成果”; 彼は"はい。"と -> “はい。”; 5"の画面 -> 5"の画面
# ‘It’s’ -> “It's”
_STRAIGHT = re.compile(f'"(?<![{DIGIT}]")[^"{LINE_BREAK}]*+"')
_QUOTED = re.compile(
    f"{_STRAIGHT.pattern}|“[^“”{LINE_BREAK}]*+”|”[^“”{LINE_BREAK}]*+”"
    f"|‘(?:[^‘’{LINE_BREAK}]|(?<=[A-Za-z])’(?=[A-Za-z]))*+’"
)

# A code fence, perhaps in a quotation or a list.  > ```sh -> fence; - ```sh -> fence
_FENCE = re.compile(r"(```)[^\r\n]*(?:\r\n|[\r\n])?")
_TILDE_FENCE = re.compile(r"(~~~)[^\r\n]*(?:\r\n|[\r\n])?")
_PREFIX = re.compile(r"([ \t]*+)(?:(?:>|(?:[-*+]|\d{1,9}[.)])(?=[ \t]))[ \t]*+)*+")
# Longer prefixes are none, and longer items of a list are not looked through.
_MOST_PREFIX = 100
_MOST_ITEM = 2000
# Four blanks make a line code, and no fence, unless it belongs to an item of a list above it.
_MOST_BLANKS = 3
_ITEM = re.compile(r"\n[ \t]*+(?:[-*+]|\d{1,9}[.)])[ \t]")


def directed(text: str) -> str:
    """Replace quotation marks by those that show their side: “ before, ” after the quotation.

    All positions stay the same.

    Args:
        text: Any string.

    Returns:
        A string of the same length.
    """
    if "‘" in text or ("”" in text and ('"' in text or text.count("”") > text.count("“"))):
        return _QUOTED.sub(_nested_with_sides, text)
    # Most texts have no other marks, and `re` finds one character faster than four.
    return _STRAIGHT.sub(_with_sides, text) if '"' in text else text


def enclosed(text: str, depth: int | None) -> list[tuple[int, int]]:
    """Find the spans of matched brackets and code fences.

    Args:
        text: Any string, as :func:`directed` returns it.
        depth: How many levels of brackets may be cut inside; ``None`` for any.

    Returns:
        Disjoint spans, in order.
    """
    if depth is None:
        return []
    spans = pairs(text)
    # One character is found faster than three, and most texts have neither.
    if "`" in text or "~" in text:
        spans += fences(text)
    spans.sort()
    return _at_depth(spans, depth) if depth else _outermost(spans)


def pairs(text: str) -> list[tuple[int, int]]:
    """Find the span of each matched pair of brackets; no pair extends over a blank line.

    Args:
        text: Any string, as :func:`directed` returns it.

    Returns:
        The spans, in no order; one may lie inside another.
    """
    found = [match.span() for match in _BRACKET.finditer(text)]
    singles = [start for start, end in found if end - start == 1]
    if not singles:
        return found
    whole = [span for span in found if span[1] - span[0] > 1]
    return [*whole, *_matched(text, singles)]


def fences(text: str) -> list[tuple[int, int]]:
    """Find the span of each closed Markdown code fence; an unclosed fence has none.

    Args:
        text: Any string.

    Returns:
        The spans, in order.
    """
    spans: list[tuple[int, int]] = []
    present = [
        pattern.finditer(text)
        for mark, pattern in (("```", _FENCE), ("~~~", _TILDE_FENCE))
        if mark in text
    ]
    opened: tuple[str, int] | None = None
    for match in merge(*present, key=re.Match.start):
        mark, start = match[1], _line_start(text, match.start())
        prefix = _PREFIX.fullmatch(text, start, match.start())
        if not prefix or (len(prefix[1]) > _MOST_BLANKS and not _in_list(text, start)):
            continue
        if opened is None:
            opened = mark, start
        elif opened[0] == mark:
            spans.append((opened[1], match.end()))
            opened = None
    return spans


def _in_list(text: str, position: int) -> bool:
    """Return whether an item of a list begins shortly before a position."""
    return _ITEM.search("\n" + text[max(0, position - _MOST_ITEM) : position]) is not None


def _line_start(text: str, position: int) -> int:
    """Return the start of the line at *position*, or of the characters that may be a prefix."""
    least = max(0, position - _MOST_PREFIX)
    return max(least, text.rfind("\n", least, position) + 1, text.rfind("\r", least, position) + 1)


def _with_sides(match: re.Match[str]) -> str:
    """Return a quotation with marks that show their side."""
    return f"“{match.group()[1:-1]}”"


def _nested_with_sides(match: re.Match[str]) -> str:
    """Return a quotation, and those inside it, with marks that show their side."""
    return f"“{directed(match.group()[1:-1])}”"


def _matched(text: str, singles: list[int]) -> list[tuple[int, int]]:
    """Return the span of each pair of the brackets at these positions of *text*."""
    matched: list[tuple[int, int]] = []
    # Positions only, to save memory: a text may have 10 million open brackets.
    stack: list[int] = []
    open_counts: defaultdict[str, int] = defaultdict(int)
    last = 0
    for start in singles:
        if stack and _BLANK_LINE.search(text, last, start):
            stack.clear()
            open_counts.clear()
        last = start + 1
        mark = text[start]
        if mark in _OPENS:
            stack.append(start)
            open_counts[mark] += 1
        elif open_counts.get(opener := _OPENER_OF.get(mark, "")):
            # Brackets opened inside and not closed are unmatched.  「あ（い」 -> 「あ（い」
            while (inner := text[at := stack.pop()]) != opener:
                open_counts[inner] -= 1
            open_counts[opener] -= 1
            matched.append((at, last))
    return matched


def _outermost(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans that lie inside no other; *spans* are ordered by start."""
    picked: list[tuple[int, int]] = []
    last_end = 0
    for span in spans:
        if span[0] >= last_end:
            picked.append(span)
            last_end = span[1]
    return picked


def _at_depth(spans: Iterable[tuple[int, int]], depth: int) -> list[tuple[int, int]]:
    """Return the spans that lie inside exactly *depth* others; *spans* are ordered by start."""
    ends: list[int] = []
    picked: list[tuple[int, int]] = []
    for span in spans:
        start, end = span
        while ends and ends[-1] <= start:
            ends.pop()
        if len(ends) == depth:
            picked.append(span)
        ends.append(end)
    return picked
