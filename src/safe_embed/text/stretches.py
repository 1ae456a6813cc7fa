"""Cut a long text in stretches, so that memory is taken for one of them at a time.

A stretch ends where the first splitter cuts, at a paragraph or a line if it can; where that
splitter cuts nowhere, a finer one. It is looked at in a window that has some of the characters
before and behind, so that rules which look at their neighbours find what they find in the whole
text. What depends on more is found within the window: a pair of brackets, a code fence, whether
lines are wrapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from safe_embed.text.boundaries import boundary_levels, outside_headings
from safe_embed.text.graphemes import cluster_cuts, spans_between
from safe_embed.text.user_splitters import checked_split
from safe_embed.types import Chunk, Span, Splitter

# Characters of a window before its stretch, at least, and behind it.
_BEFORE_CHARS = 256
_BEHIND_CHARS = 2048
# A window begins at a cut at most so many characters before its stretch, or at the stretch.
_MOST_BEFORE_CHARS = 4096
# Characters at the end of a stretch in which a finer splitter is to find where it ends.
_TAIL_CHARS = 4096


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a long text that is looked at to cut its next stretch.

    Attributes:
        text: Its characters.
        start: Where the stretch begins in it.
        limit: Where the stretch must end at the latest; the end of *text* in the last window, whose
            stretch ends just there.
    """

    text: str
    start: int
    limit: int


class Stretch(NamedTuple):
    """What a window gave; positions are in the window.

    Attributes:
        chunks: The chunks in order, which tile the stretch.
        cut_clusters: Ends of chunks that lie inside a grapheme cluster.
        end: Where the stretch ends.
        resume: Where the next window begins.
    """

    chunks: tuple[Chunk, ...]
    cut_clusters: tuple[int, ...]
    end: int
    resume: int


def window_at(text: str, resume: int, start: int, size: int) -> Window:
    """Make the window of the next stretch.

    Args:
        text: The whole text.
        resume: Where the window begins.
        start: Where the stretch begins.
        size: Most characters of a stretch. The last may have half as many again: no stretch is
            much shorter than the others.

    Returns:
        The window.
    """
    if len(text) - start <= size + size // 2:
        return Window(text[resume:], start - resume, len(text) - resume)
    limit = start + size
    return Window(text[resume : limit + _BEHIND_CHARS], start - resume, limit - resume)


def stretched_spans(splitter: Splitter, text: str, size: int) -> Iterator[Span]:
    """Split a text of any length, a stretch at a time.

    Args:
        splitter: The splitter.
        text: Any string.
        size: Most characters of a stretch.

    Yields:
        The spans, which tile the text.
    """
    resume = start = 0
    while start < len(text):
        window = window_at(text, resume, start, size)
        tops, following = tops_of_stretch(window, (splitter,), ())
        yield from (Span(resume + top.start, resume + top.end) for top in tops)
        start, resume = resume + tops[-1].end, resume + following


def tops_of_stretch(
    window: Window, ladder: Sequence[Splitter], headings: Sequence[Span]
) -> tuple[list[Span], int]:
    """Find where a stretch ends, and its spans by the first splitter.

    Args:
        window: The window.
        ladder: Splitters from coarse to fine; the stretch ends at a cut of the first that has one.
        headings: The headings of the window: no stretch ends in one, or at its end.

    Returns:
        The spans, which tile the stretch, and where the next window begins.
    """
    start, limit = window.start, window.limit
    cuts = [end for _, end in checked_split(ladder[0], window.text)]
    inside = [cut for cut in cuts if start < cut < limit]
    if limit == len(window.text):
        end = limit
    else:
        within = [cut for cut in cuts if start < cut <= limit]
        ends = outside_headings(within, headings) or within
        end = _best(window, ends) if ends else _finer_end(window, ladder[1:])
    tops = spans_between([cut - start for cut in inside if cut < end], end - start)
    resume = max((cut for cut in cuts if cut <= end - _BEFORE_CHARS), default=end)
    if end not in cuts or end - resume > _MOST_BEFORE_CHARS:
        resume = end
    return [Span(start + first, start + last) for first, last in tops], resume


def _best(window: Window, ends: Sequence[int]) -> int:
    """Return the last of the strongest boundaries in the second half of a stretch."""
    middle = (window.start + window.limit) // 2
    late = [end for end in ends if end >= middle] or ends[-1:]
    first = max((end for end in ends if end < late[0]), default=window.start)
    levels = boundary_levels(window.text, late, first)
    return max(zip(late, levels, strict=True), key=lambda pair: (-pair[1], pair[0]))[0]


def _finer_end(window: Window, ladder: Sequence[Splitter]) -> int:
    """Return the last place up to the limit at which a finer splitter cuts, or where one can.

    Only the end of the stretch is looked at.
    """
    least = max((window.start + window.limit) // 2, window.limit - _TAIL_CHARS)
    tail = window.text[least:]
    for splitter in ladder if tail.strip() else ():
        ends = [least + end for _, end in checked_split(splitter, tail)]
        within = [end for end in ends if least + _BEFORE_CHARS <= end <= window.limit]
        if within:
            return within[-1]
    clusters = cluster_cuts(window.text, 1, least, window.limit)
    return clusters[-1] if clusters else window.limit
