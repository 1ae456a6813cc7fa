"""Splitters made from a user's regular expression or function, and checks of their spans."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from operator import index
from typing import Any

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import called, shown
from safe_embed.text.graphemes import at_cluster_ends, spans_between
from safe_embed.types import Span, Splitter

# re.split by an expression that can match nothing returns empty pieces at every character, and more
# for its groups. A function that returns more empty pieces than this is taken as endless.
_EMPTY_PER_CHAR = 4
_MOST_EMPTY = 16
# Error texts of re in plain words, which quote nothing of the expression.
_PLAIN_WORDS = re.compile(r"[a-z][a-z, -]*")


@dataclass(frozen=True, slots=True)
class RegexSplitter:
    """Cut after every match of a regular expression, and nowhere else.

    Where a match ends inside a grapheme cluster, the cut is moved to the end of the cluster.

    >>> text = "春、夏。秋"
    >>> [text[start:end] for start, end in RegexSplitter("[。、]").split(text)]
    ['春、', '夏。', '秋']

    Args:
        pattern: The expression; no cut is made at an empty match.
        min_chars: Texts shorter than this, in code points, are not cut.

    Raises:
        ConfigError: If *pattern* is not a valid expression for str.
    """

    pattern: str | re.Pattern[str]
    min_chars: int = 0

    def __post_init__(self) -> None:
        compiled = _compile(self.pattern)
        if isinstance(
            compiled, str
        ):  # raised here, without re's own error, which holds the pattern
            msg = both(
                f"pattern={shown(self.pattern)} is not a valid regular expression: {compiled}.",
                f"pattern={shown(self.pattern)} は正規表現として正しくありません（{compiled}）。",
            )
            raise ConfigError(msg)
        object.__setattr__(self, "pattern", compiled)

    def split(self, text: str) -> list[Span]:
        """Cut *text* after every match.

        Args:
            text: Any string.

        Returns:
            The spans in order; they tile the text.
        """
        if len(text) < self.min_chars:
            return spans_between((), len(text))
        matches = re.finditer(self.pattern, text)
        ends = dict.fromkeys(m.end() for m in matches if m.start() < m.end() < len(text))
        return spans_between(at_cluster_ends(text, list(ends)), len(text))


def _compile(pattern: Any) -> re.Pattern[str] | str:
    """Compile an expression; return the reason, and its position, if it is not valid."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        reason = error.msg if _PLAIN_WORDS.fullmatch(error.msg) else "it cannot be compiled"
        return reason if error.pos is None else f"{reason} at position {error.pos}"
    except (TypeError, OverflowError, RecursionError) as error:
        return f"it cannot be compiled ({type(error).__name__})"
    return compiled if isinstance(compiled.pattern, str) else "it matches bytes, not str"


@dataclass(frozen=True, slots=True)
class FunctionSplitter:
    """Cut where a function, such as another library's splitter, starts a piece.

    The function may return the pieces themselves or ``(start, end)`` pairs. Characters between two
    pieces (blanks, line breaks) are added to the piece before, so nothing is lost. If a piece
    starts inside a grapheme cluster, the cut is moved to the end of the cluster.

    >>> text = "いち に  さん"
    >>> [text[start:end] for start, end in FunctionSplitter(str.split).split(text)]
    ['いち ', 'に  ', 'さん']

    Args:
        function: Takes a text and returns its pieces in order, as str or ``(start, end)`` pairs.
    """

    # Left out of repr, as its own repr may hold a text: functools.partial(cut, "…").
    function: Callable[[str], Iterable[str | tuple[int, int]]] = field(repr=False)

    def split(self, text: str) -> list[Span]:
        """Cut *text* at the start of each of the function's pieces.

        Args:
            text: Any string.

        Returns:
            The spans in order; they tile the text.

        Raises:
            ConfigError: If a piece is neither a str nor a pair of int, is not in the text or is out
                of order, if the function returns too many empty pieces, or if it raises an
                exception such as StopIteration that would end or cancel the caller.
        """
        return called("The splitter", self._split, text, here=True)

    def _split(self, text: str) -> list[Span]:
        """Call the function and check its pieces, as :meth:`split` describes."""
        starts: list[int] = []
        last_end = 0
        most_empty = _EMPTY_PER_CHAR * len(text) + _MOST_EMPTY
        for number, piece in enumerate(_items(self.function(text), "The splitter function")):
            start, end = self._locate(text, piece, last_end)
            if number - len(starts) > most_empty:
                msg = both(
                    f"The splitter function gave {number} pieces of a text of {len(text)} "
                    "characters, most of them empty. It must give a finite number of pieces.",
                    f"分割関数が {len(text)} 字から断片を {number} 個返し、ほとんどが空です。"
                    "限りある個数にしてください。",
                )
                raise ConfigError(msg)
            if start < last_end or not start <= end <= len(text):
                if starts and _overlaps(text, piece, starts[-1], last_end):
                    raise _overlap_error("The splitter function", "分割関数", number)
                msg = both(
                    f"The splitter function gave a piece (number {number}) that does not follow "
                    f"the one before it in the text of {len(text)} characters. A splitter must "
                    "give unchanged pieces of the text, in order.",
                    f"分割関数が返した {number} 番が、{len(text)} 字で前から続いていません。"
                    "断片を、変えずに、順に返してください。",
                )
                raise ConfigError(msg)
            if start < end:
                starts.append(start)
            last_end = end
        cuts = [start for start in starts[1:] if start]
        return spans_between(at_cluster_ends(text, cuts), len(text))

    @staticmethod
    def _locate(text: str, piece: Any, first: int) -> tuple[int, int]:
        """Return (start, end) of a piece; a str is searched from *first*, start is -1 if absent."""
        if isinstance(piece, str):
            start = text.find(piece, first)
            return start, start + len(piece)
        span = _span_of(piece)
        if span is None:
            msg = both(
                f"The splitter function gave {type(piece).__name__}. It must give the pieces of "
                "the text as str, or (start, end) pairs of int.",
                f"分割関数が {type(piece).__name__} を返しました。文章の断片（str）か、整数の組 "
                "(start, end) を返してください。",
            )
            raise ConfigError(msg)
        return span


def checked_split(splitter: Splitter, text: str) -> list[Span]:
    """Cut a text with any splitter, and move cuts inside a grapheme cluster to its end.

    Args:
        splitter: Perhaps a user's own.
        text: Any string.

    Returns:
        The spans in order; they tile the text.

    Raises:
        ConfigError: As :func:`check_tiling`, or if the splitter raises an exception that would end
            or cancel the caller.
    """
    spans = called("The splitter", lambda: check_tiling(text, splitter.split(text), splitter))
    cuts = [span.end for span in spans[:-1]]
    moved = at_cluster_ends(text, cuts)
    return spans if moved == cuts else spans_between(moved, len(text))


def _overlaps(text: str, piece: Any, last_start: int, last_end: int) -> bool:
    """Tell whether a piece begins in the one before it and ends behind it."""
    if isinstance(piece, str):
        start = text.find(piece, last_start + 1, last_end + len(piece))
        return last_start < start < last_end
    span = _span_of(piece)
    return span is not None and last_start < span.start < last_end < span.end


def _overlap_error(name: str, name_ja: str, number: int) -> ConfigError:
    """Make the error for pieces that overlap, as other libraries' splitters give them."""
    return ConfigError(
        both(
            f"{name} gave a piece (number {number}) that overlaps the one before it. Here each "
            "character is in exactly one chunk: set the splitter's overlap to 0 (chunk_overlap=0). "
            "What overlap does to search is measured: docs/habits.md.",
            f"{name_ja} が返した {number} 番が、前の断片と重なっています。safe_embed では、どの"
            "文字も一つのチャンクにだけ入ります。重なりを 0 にしてください（chunk_overlap=0）。"
            "検索への効果は docs/ja/habits.md にあります。",
        )
    )


def check_tiling(text: str, spans: Any, splitter: object) -> list[Span]:
    """Check that the spans from a user's splitter tile the text.

    Args:
        text: The text that was split.
        spans: What the splitter returned; reading stops at the first span that does not fit.
        splitter: The splitter; its class is named in the message.

    Returns:
        The pairs as spans.

    Raises:
        ConfigError: If *spans* holds anything but pairs of int, or does not tile the text.
    """
    name = f"{type(splitter).__name__}.split"
    checked: list[Span] = []
    last_end = 0
    for given in _items(spans, name):
        span = _span_of(given)
        if span is None:
            msg = both(
                f"{name} gave span {len(checked)} as {type(given).__name__}. It must be a (start, "
                "end) pair of int. A function that gives the pieces can be passed as it is.",
                f"{name} の {len(checked)} 番の範囲が {type(given).__name__} です。整数の組 "
                "(start, end) を返してください。断片を返す関数なら、そのまま渡せます。",
            )
            raise ConfigError(msg)
        start, end = span
        if checked and checked[-1].start < start < last_end < end:
            raise _overlap_error(name, name, len(checked))
        if start != last_end or end <= start:
            msg = both(
                f"{name} gave span {len(checked)} as ({shown(start)}, {shown(end)}) where a span "
                f"that starts at {last_end} is needed. Spans must tile the text: each starts where "
                "the previous one ends, and none is empty.",
                f"{name} の {len(checked)} 番の範囲が ({shown(start)}, {shown(end)}) ですが、"
                f"{last_end} から始まらなければなりません。範囲は隙間も重なりもなく並べ、"
                "空にしないでください。",
            )
            raise ConfigError(msg)
        checked.append(span)
        last_end = end
        if last_end > len(text):
            break
    if last_end != len(text):
        msg = both(
            f"{name} gave spans up to {shown(last_end)} for a text of {len(text)} characters. "
            "Spans must cover the whole text.",
            f"{name} の範囲が {len(text)} 字の文章の {shown(last_end)} で終わっています。"
            "文章全体を覆ってください。",
        )
        raise ConfigError(msg)
    return checked


def _items(result: Any, name: str) -> Iterator[Any]:
    """Return an iterator over a splitter's result; ConfigError if it is not iterable."""
    try:
        return iter(result)
    except TypeError:
        msg = both(
            f"{name} gave {type(result).__name__}. It must give a (start, end) pair for each "
            "piece.",
            f"{name} が {type(result).__name__} を返しました。断片ごとに (start, end) の組を"
            "返してください。",
        )
        raise ConfigError(msg) from None


def _span_of(given: Any) -> Span | None:
    """Convert a pair of integers, numpy's included, to a span; return None for other values."""
    kind = type(given)
    is_usual = (kind is Span or kind is tuple) and len(given) == 2  # noqa: PLR2004
    if is_usual and type(given[0]) is type(given[1]) is int:
        return given if kind is Span else Span(*given)
    if isinstance(given, str | bytes | bytearray | AbstractSet | Mapping):
        return None
    try:
        start, end = given
        is_number = not isinstance(start, bool) and not isinstance(end, bool)
        return Span(index(start), index(end)) if is_number else None
    except (TypeError, ValueError):
        return None
