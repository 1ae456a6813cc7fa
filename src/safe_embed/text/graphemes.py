"""What must stay together: grapheme clusters, addresses, numbers, runs of marks, brackets.

Pure functions of a text. Each takes time and memory linear in its length, on hostile input too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain, pairwise

import regex

from safe_embed.types import Span

OPENERS = "「『（(【〔［[〈《“"
CLOSERS = "」』）)】〕］]〉》”"
_OPENER_OF = dict(zip(CLOSERS, OPENERS, strict=True))

BLANK = " \t\u3000"
LINE_BREAK = "\n\r\v\f\x85\u2028\u2029"
DIGIT = "0-9０-９"
END_MARK = "。｡！？!?‼⁇⁈⁉"
ELLIPSIS = "…‥"

# One class of characters per search: a set at the front is what `re` can scan for quickly.
# A bracket, or all of a pair with no other inside: most are such.  （注）と「 -> （注）|「
_INSIDE = f"[^{re.escape(OPENERS + CLOSERS)}]*+"
_PAIR = "|".join(
    f"(?<={re.escape(opener)}){_INSIDE}{re.escape(closer)}" for closer, opener in _OPENER_OF.items()
)
_BRACKET = re.compile(f"[{re.escape(OPENERS + CLOSERS)}](?:{_PAIR})?+")
# A line with nothing on it, and the end of the line before; \r\n is one line break.
_BLANK_LINE = re.compile(f"[{LINE_BREAK}](?:(?<=\r)\n)?+[^\\S{LINE_BREAK}]*+[{LINE_BREAK}]")
_FENCE = re.compile(r"^[ ]{0,3}(```|~~~)[^\r\n]*(?:\r\n|[\r\n])?", re.MULTILINE)

# The voicing marks with a width of their own (U+309B, U+309C) belong to the kana before them,
# although Unicode makes them clusters of their own; no mark joins a line break.  か゛ -> か゛
# Flags are paired here, since \X looks back over all of them each time.  🇯🇵🇫🇷 -> 🇯🇵|🇫🇷
_EXTENDED = r"[\p{GCB=Extend}\p{GCB=SpacingMark}\u200D]*+"
_VOICED = r"[\u309B\u309C](?<![\p{GCB=Control}\p{GCB=CR}\p{GCB=LF}].)"
_CLUSTER = regex.compile(rf"(?:[🇦-🇿]{{2}}{_EXTENDED}|\X)(?:{_VOICED}{_EXTENDED})*+", regex.DOTALL)

# 行頭禁則: what must not begin a piece.  あ。 -> あ。; コーヒー -> コーヒー; 人々 -> 人々
_NO_START = frozenset(
    CLOSERS + END_MARK + ELLIPSIS + "、，､．ー々〻" + "ぁぃぅぇぉっゃゅょァィゥェォッャュョ"
)

# What can make a cluster of several code points: whatever does not break on both sides.
_JOINED = regex.compile(r"[^\p{GCB=Other}\p{GCB=Control}\p{GCB=LF}]|[\u309B\u309C]")
# What joins the character before it, whichever that is: all but line breaks and controls.
JOINER = regex.compile(r"[\p{GCB=Extend}\p{GCB=SpacingMark}\u200D\u309B\u309C]")
# Two characters that may be of one cluster, as all that are of one do.
_MAY_JOIN = regex.compile(
    r"[^\n][\p{GCB=Extend}\p{GCB=SpacingMark}\p{GCB=V}\p{GCB=T}\u200D\u309B\u309C]"
    r"|[\p{GCB=Prepend}\p{GCB=Extend}\p{GCB=L}\u200D][^\n]|\r\n|[🇦-🇿]{2}"
)

_ATOM = re.compile(
    "|".join(
        (
            # https://a.jp/b?c=d!e を見た。 -> https://a.jp/b?c=d!e (not the 。 or . behind it)
            r"[A-Za-z][A-Za-z0-9+.-]{1,15}://[!-~]*[A-Za-z0-9/_=&#%~+-]",
            # user.name@example.jp -> user.name@example.jp (64: the longest local part, RFC 5321)
            r"(?<![A-Za-z0-9_.+-])[A-Za-z0-9_.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})++",
            # 3.14 -> 3.14; ３．１４ -> ３．１４; 1,000 -> 1,000; 12:30 -> 12:30; 2026/11/22
            rf"[{DIGIT}]++(?:[.,:/．，：／][{DIGIT}]++)*+",
            # え……そう -> ……; 本当！？ -> ！？; ―― -> ――
            rf"[{END_MARK}{ELLIPSIS}]{{2,}}|[─―—]{{2,}}",
        )
    )
)


# Span(start, end) in one call of C: there are many spans.
_new_span: Callable[[tuple[int, int]], Span] = partial(tuple.__new__, Span)


def cluster_spans(text: str) -> list[Span]:
    """Cut *text* into grapheme clusters, the smallest pieces that a reader sees as one.

    Invariant: the spans tile the text.

    Args:
        text: Any string.

    Returns:
        One span a cluster.

    Source:
        Unicode Standard Annex 29, as implemented by the package ``regex``.
    """
    return [Span(*match.span()) for match in _CLUSTER.finditer(text)]


def cluster_cuts(text: str, size: int, start: int = 0, stop: int | None = None) -> list[int]:
    """Find cuts between grapheme clusters, each at least *size* behind the one before.

    The clusters are those of the whole text, wherever *start* lies in one.

    Args:
        text: Any string.
        size: Code points, at least 1.
        start: Where to begin; the first cut is at least *size* behind it.
        stop: Where to end; the end of the text by default.

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
    """Move every cut that lies inside a grapheme cluster to the end of the cluster.

    Args:
        text: Any string.
        cuts: Positions in ascending order, ``0 < cut < len(text)``.

    Returns:
        Positions of the same kind, none twice; a cut that would move to the end of the text is
        left out.
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
    """Drop the cuts that lie inside a grapheme cluster.

    Args:
        text: Any string.
        cuts: Positions in ascending order, ``0 < cut < len(text)``.

    Returns:
        The other cuts, in ascending order.
    """
    return _outside(cuts, _clusters_at(text, cuts))


def joined_clusters(text: str) -> list[Span]:
    """Find the grapheme clusters of more than one code point; most texts have none.

    Args:
        text: Any string.

    Returns:
        Their spans in order.
    """
    if not _JOINED.search(text):
        return []
    found = (match.span() for match in _CLUSTER.finditer(text))
    return [Span(start, end) for start, end in found if end - start > 1]


def bracket_spans(text: str, depth: int | None = 0) -> list[Span]:
    """Find what matched brackets and code fences enclose, so that it can be kept whole.

    A bracket without its partner protects nothing, and no pair reaches over a blank line: an
    unclosed 「 must not hold the rest of a document together.

    Args:
        text: Any string.
        depth: How many levels of brackets may be opened: 0 gives the outermost pairs, 1 the pairs
            inside those, ``None`` gives no pairs at all. A code fence counts as one level.

    Returns:
        Disjoint spans in order, each from its opening bracket to behind its closing one.
    """
    return list(map(_new_span, _enclosed(text, depth)))


def keep_whole(
    text: str, cuts: Iterable[int], *, depth: int | None = 0, atoms: bool = False
) -> list[int]:
    """Drop the cuts that would part what belongs together.

    Args:
        text: The text that the cuts are for.
        cuts: Candidate positions in ascending order, ``0 < cut < len(text)``.
        depth: As for :func:`bracket_spans`.
        atoms: Whether to mind addresses, numbers, runs of marks, clusters and the marks that
            must not stand alone; for cuts that do not already follow from punctuation.

    Returns:
        The cuts that may stay, in ascending order.
    """
    kept = _outside(cuts, _enclosed(text, depth))
    if not atoms:
        return kept
    kept = _outside(kept, [Span(*match.span()) for match in _ATOM.finditer(text)])
    # あ|。 and （|注 part a mark from what it belongs to.
    kept = [cut for cut in kept if text[cut] not in _NO_START and text[cut - 1] not in OPENERS]
    return _outside(kept, joined_clusters(text))


def spans_between(cuts: Sequence[int], length: int) -> list[Span]:
    """Turn cut positions into the spans that tile a text.

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
    """Find the clusters of a text, unless what stands around the *cuts* tells that none is cut."""
    around = "\n".join([text[cut - 1 : cut + 1] for cut in cuts])
    return joined_clusters(text) if _MAY_JOIN.search(around) else []


def _enclosed(text: str, depth: int | None) -> list[tuple[int, int]]:
    """Find the spans of :func:`bracket_spans`, as pairs: there are many."""
    if depth is None:
        return []
    fences = _fence_spans(text) if "```" in text or "~~~" in text else []
    spans = sorted(chain(_pairs(text), fences))
    return _at_depth(spans, depth) if depth else _outermost(spans)


def _outside(cuts: Iterable[int], spans: Sequence[tuple[int, int]]) -> list[int]:
    """Keep the cuts that lie strictly inside none of the disjoint, ordered *spans*."""
    if not spans:
        return list(cuts)
    kept, which, last = [], 0, len(spans) - 1
    start, end = spans[0]
    for cut in cuts:
        while end <= cut and which < last:
            which += 1
            start, end = spans[which]
        if not start < cut < end:
            kept.append(cut)
    return kept


def _pairs(text: str) -> list[tuple[int, int]]:
    """Match brackets; a blank line ends all that are open."""
    pairs: list[tuple[int, int]] = []
    start = 0
    for match in _BLANK_LINE.finditer(text):
        end = match.end()
        pairs += _pairs_between(text, start, end)
        start = end
    pairs += _pairs_between(text, start, len(text))
    return pairs


def _pairs_between(text: str, first: int, last: int) -> list[tuple[int, int]]:
    """Match the brackets of a part of a text; those with others inside need a stack."""
    pairs: list[tuple[int, int]] = []
    stack: list[int] = []  # positions alone: ten million open brackets are input, too
    waiting = dict.fromkeys(OPENERS, 0)
    for match in _BRACKET.finditer(text, first, last):
        start, end = span = match.span()
        if end - start > 1:
            pairs.append(span)
            continue
        mark = text[start]
        if mark in waiting:
            stack.append(start)
            waiting[mark] += 1
        elif waiting[opener := _OPENER_OF[mark]]:
            # What was opened inside and not closed is no pair.  「あ（い」 -> 「あ（い」
            while (inner := text[start := stack.pop()]) != opener:
                waiting[inner] -= 1
            waiting[opener] -= 1
            pairs.append((start, end))
    return pairs


def _fence_spans(text: str) -> list[tuple[int, int]]:
    """Pair the lines that open and close Markdown code; an open end protects nothing."""
    spans: list[tuple[int, int]] = []
    opened: tuple[str, int] | None = None
    for match in _FENCE.finditer(text):
        if opened is None:
            opened = match.group(1), match.start()
        elif opened[0] == match.group(1):
            spans.append((opened[1], match.end()))
            opened = None
    return spans


def _outermost(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pick the spans that lie inside no other; *spans* are ordered by start."""
    picked: list[tuple[int, int]] = []
    reached = 0
    for span in spans:
        if span[0] >= reached:
            picked.append(span)
            reached = span[1]
    return picked


def _at_depth(spans: Iterable[tuple[int, int]], depth: int) -> list[tuple[int, int]]:
    """Pick the spans that lie inside exactly *depth* others; *spans* are ordered by start."""
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
