"""Tell line breaks inside a sentence, at the edge of a page, from those that end something.

Mail, books and PDFs wrap their text: lines of nearly one width that end without a mark.
"""

from __future__ import annotations

import re
from bisect import bisect_left

from safe_embed.text.brackets import fences
from safe_embed.text.graphemes import outside
from safe_embed.text.marks import BLANK, CLOSERS, DIGIT, END_MARK, LINE_BREAK

# Widths are in columns: a full-width character has two. Narrower lines are lists and verse.
_LEAST_WIDTH = 24
# Lines differ by a word or by what must not begin a line; a hanging mark makes one wider.
_NARROWER_BY = 6
_WIDER_BY = 2
# So many of all lines are continued, so many of those have that width, and so few are wider.
_LEAST_CONTINUED = 0.2
_LEAST_SHARE = 0.6
_MOST_WIDER = 0.1

# The end of a line without a mark, before a line that begins no item, heading, row or paragraph.
# One of the two is Japanese at the break: lines of code are none, nor is Latin text.
_MARKS = f"{END_MARK}．.:：{re.escape(CLOSERS)}"
_CONTINUED = re.compile(
    f"\n(?:(?<=[^\\x00-\\x7f]\n)|(?<=[^\\x00-\\x7f]\r\n)|(?<=[A-Za-z]\n)(?=[^\\x00-\\x7f]))"
    f"(?:(?<=[^{_MARKS}{BLANK}\n\r|]\n)|(?<=[^{_MARKS}{BLANK}\n\r|]\r\n))"
    f"(?![{BLANK}]*+(?:[-*+•・●■◆▪※○◎□◇▼▲①-⑳#|｜【\n\r]|[{DIGIT}]{{1,3}}[.．)）、]"
    f"|[（(][{DIGIT}ア-ン一-十]{{1,2}}[）)]|\\Z)|\u3000)"
)
_LONG = re.compile(f"{_CONTINUED.pattern}(?<=[^{LINE_BREAK}]{{{_LEAST_WIDTH // 2}}}\n)")
_QUOTATION = re.compile(f"[{BLANK}]*+[>＞]")


def wraps(text: str, *, part: bool = False) -> frozenset[int]:
    """Find the line breaks at which a line is wrapped.

    Args:
        text: Any string.
        part: Whether the text is a part of another, whose lines that are not wrapped are cut apart
            already: then lines are taken to be wrapped unless they are of different widths.

    Returns:
        The position behind each of these line breaks.
    """
    if "\n" not in text:
        return frozenset()
    least = 1 if part else 2
    ends = [match.end() for match in (_CONTINUED if part else _LONG).finditer(text)]
    # Most texts end here: few of their lines are long and continued.
    if len(ends) < least or len(ends) < _LEAST_CONTINUED * text.count("\n"):
        return frozenset()
    starts = [text.rfind("\n", 0, end - 1) + 1 for end in ends]
    widths = list(map(_columns, map(text.__getitem__, map(slice, starts, ends))))
    inner = sorted(widths[starts[0] == 0 :] if part else widths)
    if not inner:  # a part of two lines says nothing about their width
        return frozenset(outside(ends, fences(text)))
    width = _common_width(inner)
    most = width + _WIDER_BY
    full = [
        end
        for end, columns in zip(ends, widths, strict=True)
        if width - _NARROWER_BY <= columns <= most
    ]
    if width < _LEAST_WIDTH or len(full) < max(least, _LEAST_SHARE * len(inner)):
        return frozenset()
    continued = [match.end() for match in _CONTINUED.finditer(text)]
    if len(full) < _LEAST_SHARE * (len(continued) - part) or _many_are_wider(text, most):
        return frozenset()
    kept = outside(continued if part else full, fences(text))
    return frozenset(end for end in kept if not _parts_quotation(text, end))


def _parts_quotation(text: str, end: int) -> bool:
    """Return whether of the lines before and behind *end* just one is quoted, as in mail."""
    start = text.rfind("\n", 0, end - 1) + 1
    return bool(_QUOTATION.match(text, start)) != bool(_QUOTATION.match(text, end))


def _columns(line: str) -> int:
    """Return the width of a line: kana and kanji have three bytes in UTF-8, and two columns."""
    line = line.rstrip()
    return (len(line) + len(line.encode("utf-8", "surrogatepass"))) // 2


def _many_are_wider(text: str, most: int) -> bool:
    """Return whether many lines have more than *most* columns; a character counts for at most 3."""
    lines = text.splitlines()
    wider = sum(_columns(line) > most for line in lines if 3 * len(line) > most)
    return wider > _MOST_WIDER * len(lines)


def _common_width(widths: list[int]) -> int:
    """Return the width that most lines have or nearly reach; *widths* ascend."""
    counts = [
        (place + 1 - bisect_left(widths, columns - _NARROWER_BY), columns)
        for place, columns in enumerate(widths)
    ]
    return max(counts)[1]
