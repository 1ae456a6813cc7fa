"""Find what must not be cut: grapheme clusters, addresses, numbers, runs of marks, ruby.

Pure functions. Each takes time and memory linear in the length of the text, for any text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain, pairwise

import regex

from safe_embed.text.brackets import ALL_CLOSERS, ALL_OPENERS, directed, enclosed
from safe_embed.text.marks import (
    CLOSERS,
    DIGIT,
    ELLIPSIS,
    END_MARK,
    KANJI,
    LINE_BREAK,
    OPENERS,
)
from safe_embed.types import Span

# The characters that the functions here look at are part of what this module offers.
__all__ = [
    "CLOSERS",
    "ELLIPSIS",
    "END_MARK",
    "JOINER",
    "LINE_BREAK",
    "OPENERS",
    "RUBY",
    "at_cluster_ends",
    "between_clusters",
    "bracket_spans",
    "cluster_cuts",
    "cluster_spans",
    "join_wordless",
    "joined_clusters",
    "keep_whole",
    "outside",
    "spans_between",
]

# The voicing marks with a width of their own (U+309B, U+309C) belong to the kana before them,
# although Unicode makes them separate clusters; they never join a line break.  か゛ -> か゛
# Flags are paired here, since \X would look back over all of them for each.  🇯🇵🇫🇷 -> 🇯🇵|🇫🇷
_EXTENDED = r"[\p{GCB=Extend}\p{GCB=SpacingMark}\u200D]*+"
_VOICED = r"[\u309B\u309C](?<![\p{GCB=Control}\p{GCB=CR}\p{GCB=LF}].)"
_CLUSTER = regex.compile(rf"(?:[🇦-🇿]{{2}}{_EXTENDED}|\X)(?:{_VOICED}{_EXTENDED})*+", regex.DOTALL)

# 行頭禁則: what must not start a piece.  あ。 -> あ。; コーヒー -> コーヒー; 人々 -> 人々
_NO_START = frozenset(
    ALL_CLOSERS + END_MARK + ELLIPSIS + "、，､．ー々〻" + "ぁぃぅぇぉっゃゅょァィゥェォッャュョ"
)

# Every cluster of several code points has at least one of these.
_JOINED = regex.compile(r"[^\p{GCB=Other}\p{GCB=Control}\p{GCB=LF}]|[\u309B\u309C]")
# Joins the character before it, unless that is a line break or a control character.
JOINER = regex.compile(r"[\p{GCB=Extend}\p{GCB=SpacingMark}\u200D\u309B\u309C]")
# Matches every two neighbours that belong to one cluster, and some that do not.
_MAY_JOIN = regex.compile(
    r"[^\n][\p{GCB=Extend}\p{GCB=SpacingMark}\p{GCB=V}\p{GCB=T}\u200D\u309B\u309C]"
    r"|[\p{GCB=Prepend}\p{GCB=Extend}\p{GCB=L}\u200D][^\n]|\r\n|[🇦-🇿]{2}"
)

# The reading of a word, as Aozora Bunko writes it (30: longer ones are no readings).
RUBY = "《[ぁ-ゖァ-ヺー・゛゜]{1,30}》"

_ATOM = re.compile(
    "|".join(
        (
            # https://a.jp/b?c=d!e を見た。 -> https://a.jp/b?c=d!e (without the 。 or . after it)
            r"[A-Za-z][A-Za-z0-9+.-]{1,15}://[!-~]*[A-Za-z0-9/_=&#%~+-]",
            # user.name@example.jp -> user.name@example.jp (64: the longest local part, RFC 5321)
            r"(?<![A-Za-z0-9_.+-])[A-Za-z0-9_.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})++",
            # 3.14 -> 3.14; ３．１４ -> ３．１４; 1,000 -> 1,000; 12:30 -> 12:30; 2026/11/22
            rf"[{DIGIT}]++(?:[.,:/．，：／][{DIGIT}]++)*+",
            # え……そう -> ……; 本当！？ -> ！？; ―― -> ――
            rf"[{END_MARK}{ELLIPSIS}]{{2,}}|[─―—]{{2,}}",
            # 吾輩《わがはい》は -> 吾輩《わがはい》は
            rf"[{KANJI}]{RUBY}",
        )
    )
)


_LETTER = re.compile(r"[^\W_]")

# Makes a Span without running Python code: there are many spans.
_new_span: Callable[[tuple[int, int]], Span] = partial(tuple.__new__, Span)


def cluster_spans(text: str) -> list[Span]:
    """Cut *text* into grapheme clusters, the characters as a reader sees them.

    Invariant: the spans tile the text.

    Args:
        text: Any string.

    Returns:
        The span of each cluster, in order.

    Source:
        Unicode Standard Annex 29, as implemented by the package ``regex``.
    """
    return [Span(*match.span()) for match in _CLUSTER.finditer(text)]


def cluster_cuts(text: str, size: int, start: int = 0, stop: int | None = None) -> list[int]:
    """Find cuts between grapheme clusters, each at least *size* after the previous cut.

    The clusters are those of the whole text, even if *start* lies inside one.

    Args:
        text: Any string.
        size: Least distance between cuts, in code points, at least 1.
        start: Position to start from; the first cut is at least *size* after it.
        stop: Position to end at; ``None`` is the end of the text.

    Returns:
        Positions in ascending order, ``start < cut < stop``.
    """
    cuts: list[int] = []
    last = len(text) if stop is None else stop
    for match in _CLUSTER.finditer(text, start, last):
        end = match.end()
        if end - start >= size and end < last:
            cuts.append(end)
            start = end
    return cuts


def at_cluster_ends(text: str, cuts: Sequence[int]) -> list[int]:
    """Move every cut inside a grapheme cluster to the end of the cluster.

    Args:
        text: Any string.
        cuts: Positions in ascending order, ``0 < cut < len(text)``.

    Returns:
        Positions in ascending order, without duplicates; a cut that would move to the end of the
        text is left out.
    """
    clusters = _clusters_at(text, cuts)
    if not clusters:
        return list(cuts)
    last = len(text)
    moved: dict[int, None] = {}
    following = iter(clusters)
    start = end = 0
    for cut in cuts:
        while end <= cut:
            start, end = next(following, (last, last))
        moved[end if start < cut else cut] = None
    moved.pop(last, None)
    return list(moved)


def between_clusters(text: str, cuts: Sequence[int]) -> list[int]:
    """Drop the cuts inside a grapheme cluster.

    Args:
        text: Any string.
        cuts: Positions in ascending order, ``0 < cut < len(text)``.

    Returns:
        The remaining cuts, in ascending order.
    """
    return outside(cuts, _clusters_at(text, cuts))


def joined_clusters(text: str) -> list[Span]:
    """Find the grapheme clusters of more than one code point; most texts have none.

    Args:
        text: Any string.

    Returns:
        Their spans in order.
    """
    if not _JOINED.search(text):
        return []
    clusters = (match.span() for match in _CLUSTER.finditer(text))
    return [Span(start, end) for start, end in clusters if end - start > 1]


def bracket_spans(text: str, depth: int | None = 0) -> list[Span]:
    """Find the spans of matched brackets and code fences, in which no cut should be made.

    An unmatched bracket has no span, and no pair extends over a blank line: an unclosed 「 must
    not keep the rest of a document from being cut.

    Args:
        text: Any string.
        depth: How many levels of brackets may be cut inside: 0 returns the outermost pairs, 1 the
            pairs inside those, ``None`` no pairs. A code fence counts as one level.

    Returns:
        Disjoint spans in order, each with its opening and its closing bracket.
    """
    return list(map(_new_span, enclosed(directed(text), depth)))


def keep_whole(
    text: str, cuts: Iterable[int], *, depth: int | None = 0, atoms: bool = False
) -> list[int]:
    """Drop the cuts inside brackets and, with *atoms*, inside other text that belongs together.

    Args:
        text: The text that the cuts are for.
        cuts: Candidate positions in ascending order, ``0 < cut < len(text)``.
        depth: As for :func:`bracket_spans`.
        atoms: Whether to drop cuts inside addresses, numbers, runs of marks and clusters, and
            those before a closing or after an opening mark, too. For cuts that punctuation rules
            did not find.

    Returns:
        The remaining cuts, in ascending order.
    """
    text = directed(text)
    kept = outside(cuts, enclosed(text, depth))
    if not atoms:
        return kept
    kept = outside(kept, [Span(*match.span()) for match in _ATOM.finditer(text)])
    # あ|。 and （|注 would separate a mark from the word it belongs to.
    kept = [cut for cut in kept if text[cut] not in _NO_START and text[cut - 1] not in ALL_OPENERS]
    return outside(kept, joined_clusters(text))


def join_wordless(text: str, spans: Sequence[Span]) -> list[Span]:
    """Join each span without a letter or digit to the span before; at the start, to the next.

    Args:
        text: The text of the spans.
        spans: Spans in order, which tile the text.

    Returns:
        The spans with a letter or digit, with what was joined to them; one span if there is none.
    """
    starts = [start for start, end in spans if _LETTER.search(text, start, end)]
    return spans_between(starts[1:], len(text))


def spans_between(cuts: Sequence[int], length: int) -> list[Span]:
    """Return the spans between cut positions; they tile the text.

    Args:
        cuts: Ascending positions, ``0 < cut < length``.
        length: Length of the text in code points.

    Returns:
        ``len(cuts) + 1`` spans, or none for an empty text.
    """
    if not length:
        return []
    return list(map(_new_span, pairwise(chain((0,), cuts, (length,)))))


def _clusters_at(text: str, cuts: Sequence[int]) -> list[Span]:
    """Return the clusters of several code points, or none if no cut can lie inside a cluster."""
    neighbours = "\n".join([text[cut - 1 : cut + 1] for cut in cuts])
    return joined_clusters(text) if _MAY_JOIN.search(neighbours) else []


def outside(cuts: Iterable[int], spans: Sequence[tuple[int, int]]) -> list[int]:
    """Keep the cuts that lie strictly inside none of the spans.

    Args:
        cuts: Positions in ascending order.
        spans: Disjoint spans, in order.

    Returns:
        The remaining cuts, in ascending order.
    """
    if not spans:
        return list(cuts)
    kept, place, last = [], 0, len(spans) - 1
    start, end = spans[0]
    for cut in cuts:
        while end <= cut and place < last:
            place += 1
            start, end = spans[place]
        if not start < cut < end:
            kept.append(cut)
    return kept
