"""How good a place a boundary is to end a chunk: levels of boundaries, and headings.

Pure functions, linear in the length of the text. People who read passages that a search has found
read them better if they end where a paragraph or a line ends, and begin with their heading.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import IntEnum

from safe_embed.text.marks import BLANK, CLOSERS, ELLIPSIS, END_MARK, LINE_BREAK
from safe_embed.types import Span


class Boundary(IntEnum):
    """The level of a boundary; the lower, the better a chunk ends there."""

    LINE = 0
    SENTENCE = 1
    CLAUSE = 2
    BLANK = 3
    WORD = 4


_SENTENCE_ENDS = END_MARK + ELLIPSIS + "．."
_CLAUSE_ENDS = "、､，,;:；：―—" + CLOSERS

# A line with its line breaks, empty lines behind it included.
_LINE = re.compile(f"[^{LINE_BREAK}]++(?:[{LINE_BREAK}](?:[{BLANK}]*+[{LINE_BREAK}])*+|\\Z)")
# 成り立ち -> a title; （目的） -> a title; ## 使い方 -> a title
# 雨が降った。 -> none; 「行こう」 -> none; ・りんご -> none; | 列 | -> none; 12 -> none
_TITLE = re.compile(
    rf"(?![・*•●■◆▪○◎+|>-]|```|~~~)(?=[\s\S]*[^\W\d_])[^{LINE_BREAK}]{{0,59}}"
    rf"[^{re.escape(_SENTENCE_ENDS)}、､，,;；」』|{LINE_BREAK}]"
)
# A run of more lines than this that could be titles is a list, or verse.
_MOST_TITLES = 2


def boundary_levels(text: str, ends: Sequence[int], start: int = 0) -> list[Boundary]:
    """Tell the level of boundaries between pieces of a text.

    Args:
        text: The text.
        ends: The end of each piece, ascending, in code points.
        start: The start of the first piece.

    Returns:
        A level for each of *ends*.
    """
    levels: list[Boundary] = []
    for end in ends:
        piece = text[start:end]
        body = piece.rstrip()
        behind = piece[len(body) :]
        last = body.rstrip(CLOSERS)[-1:] or body[-1:]
        if any(mark in behind for mark in LINE_BREAK):
            level = Boundary.LINE
        elif last in _SENTENCE_ENDS and last:
            level = Boundary.SENTENCE
        elif body[-1:] in _CLAUSE_ENDS and body:
            level = Boundary.CLAUSE
        else:
            level = Boundary.BLANK if behind else Boundary.WORD
        levels.append(level)
        start = end
    return levels


def heading_spans(text: str) -> list[Span]:
    r"""Find the headings of a text: one or two short lines without a mark, with text behind them.

    成り立ち\n簪の始まりは、縄文時代である。 -> (0, 5)

    Args:
        text: Any string.

    Returns:
        The spans in order, each with the line breaks up to its text: no chunk should end in them,
        or at their end.
    """
    spans: list[Span] = []
    titles: list[Span] = []
    for match in _LINE.finditer(text):
        line = match.group().strip()
        if _TITLE.fullmatch(line):
            titles.append(Span(*match.span()))
        elif line:
            if len(titles) <= _MOST_TITLES:
                spans += titles
            titles = []
    return spans


def outside_headings(cuts: Sequence[int], headings: Sequence[Span]) -> list[int]:
    """Drop the cuts inside headings and between a heading and its text.

    Args:
        cuts: Ascending positions.
        headings: What :func:`heading_spans` found.

    Returns:
        The other cuts.
    """
    kept: list[int] = []
    place = 0
    for cut in cuts:
        while place < len(headings) and headings[place].end < cut:
            place += 1
        if place == len(headings) or cut <= headings[place].start:
            kept.append(cut)
    return kept
