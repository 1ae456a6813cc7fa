"""A user's own rule as a splitter: a regular expression, or a function of another library."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from operator import index
from typing import Any

from safe_embed.errors import ConfigError
from safe_embed.foreign import called, shown
from safe_embed.text.graphemes import at_cluster_ends, spans_between
from safe_embed.types import Span

# An expression that matches nothing too gives empty pieces between all characters, one for each of
# its groups besides. More than these are a function that never ends.
_EMPTY_PER_CHAR = 4
_MOST_EMPTY = 16
# What re says of an expression, where that holds nothing of the expression itself.
_PLAIN_WORDS = re.compile(r"[a-z][a-z, -]*")


@dataclass(frozen=True, slots=True)
class RegexSplitter:
    """Cut behind every match of a regular expression, and nowhere else.

    Where a match ends inside a grapheme cluster, the cut stands behind the cluster.

    >>> text = "春、夏。秋"
    >>> [text[start:end] for start, end in RegexSplitter("[。、]").split(text)]
    ['春、', '夏。', '秋']

    Args:
        pattern: The expression; an empty match cuts nothing.
        min_chars: Texts shorter than this, in code points, stay whole.

    Raises:
        ConfigError: If *pattern* is no valid expression.
    """

    pattern: str | re.Pattern[str]
    min_chars: int = 0

    def __post_init__(self) -> None:
        found = _compiled(self.pattern)
        if isinstance(found, str):  # not where it was caught: re's own error shows the pattern
            msg = f"pattern={shown(self.pattern)} is no regular expression: {found}."
            raise ConfigError(msg)
        object.__setattr__(self, "pattern", found)

    def split(self, text: str) -> list[Span]:
        """Cut *text* behind every match.

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


def _compiled(pattern: Any) -> re.Pattern[str] | str:
    """Compile an expression, or say in words of the module re why not, and where."""
    try:
        found = re.compile(pattern)
    except re.error as error:
        why = error.msg if _PLAIN_WORDS.fullmatch(error.msg) else "it cannot be compiled"
        return why if error.pos is None else f"{why} at position {error.pos}"
    except (TypeError, OverflowError, RecursionError) as error:
        return f"it cannot be compiled ({type(error).__name__})"
    return found if isinstance(found.pattern, str) else "it is one for bytes"


@dataclass(frozen=True, slots=True)
class FunctionSplitter:
    """Cut where another library's splitter does.

    The function may give the pieces themselves or ``(start, end)`` pairs. What it leaves out
    between two pieces (blanks, line breaks) stays with the piece before, so nothing is lost. So
    does the rest of a grapheme cluster in which a piece would begin.

    >>> text = "いち に  さん"
    >>> [text[start:end] for start, end in FunctionSplitter(str.split).split(text)]
    ['いち ', 'に  ', 'さん']

    Args:
        function: Takes a text, gives its pieces in order.
    """

    # Without its repr, which may hold a text: functools.partial(cut, "…").
    function: Callable[[str], Iterable[str | tuple[int, int]]] = field(repr=False)

    def split(self, text: str) -> list[Span]:
        """Cut *text* where the function's pieces begin.

        Args:
            text: Any string.

        Returns:
            The spans in order; they tile the text.

        Raises:
            ConfigError: If a piece is neither a str nor a pair, is not in the text, or is out of
                order, or if empty ones never end.
        """
        return called("The splitter", self._split, text, here=True)

    def _split(self, text: str) -> list[Span]:
        starts: list[int] = []
        at = 0
        most = _EMPTY_PER_CHAR * len(text) + _MOST_EMPTY
        for number, piece in enumerate(_items(self.function(text), "The splitter function")):
            start, end = self._locate(text, piece, at)
            if number - len(starts) > most:
                msg = (
                    f"The splitter function gave {number} pieces of a text of {len(text)} "
                    "characters, most of them empty. Let it come to an end."
                )
                raise ConfigError(msg)
            if start < at or not start <= end <= len(text):
                msg = (
                    f"The splitter function gave a piece (number {number}) that does not follow "
                    f"the one before it in the text of {len(text)} characters. A splitter must "
                    "give unchanged pieces of the text, in order."
                )
                raise ConfigError(msg)
            if start < end:
                starts.append(start)
            at = end
        cuts = [start for start in starts[1:] if start]
        return spans_between(at_cluster_ends(text, cuts), len(text))

    @staticmethod
    def _locate(text: str, piece: Any, at: int) -> tuple[int, int]:
        if isinstance(piece, str):
            start = text.find(piece, at)
            return start, start + len(piece)
        span = _span_of(piece)
        if span is None:
            msg = (
                f"A splitter function gave {type(piece).__name__}. It must give the pieces of the "
                "text as str, or (start, end) pairs of int."
            )
            raise ConfigError(msg)
        return span


def check_tiling(text: str, spans: Any, splitter: object) -> list[Span]:
    """Make sure that a user's splitter lost nothing.

    Args:
        text: The text that was split.
        spans: What the splitter gave; nothing is taken from it behind what does not fit the text.
        splitter: The splitter, for the message.

    Returns:
        The spans.

    Raises:
        ConfigError: If the spans are none, or do not tile the text.
    """
    name = f"{type(splitter).__name__}.split"
    found: list[Span] = []
    at = 0
    for given in _items(spans, name):
        span = _span_of(given)
        if span is None:
            msg = (
                f"{name} gave span {len(found)} as {type(given).__name__}. It must be a "
                "(start, end) pair of int. A function that gives the pieces can be passed as it is."
            )
            raise ConfigError(msg)
        start, end = span
        if start != at or end <= start:
            msg = (
                f"{name} gave span {len(found)} as ({shown(start)}, {shown(end)}) where one that "
                f"starts at {at} was needed. Spans must tile the text: each starts where the one "
                "before ends, and none is empty."
            )
            raise ConfigError(msg)
        found.append(span)
        at = end
        if at > len(text):
            break
    if at != len(text):
        msg = (
            f"{name} gave spans up to {shown(at)} for a text of {len(text)} characters. Spans must "
            "cover the whole text."
        )
        raise ConfigError(msg)
    return found


def _items(found: Any, name: str) -> Iterator[Any]:
    """Go through what a splitter gave."""
    try:
        return iter(found)
    except TypeError:
        msg = f"{name} gave {type(found).__name__}. It must give (start, end) pairs, one a piece."
        raise ConfigError(msg) from None


def _span_of(given: Any) -> Span | None:
    """Take a pair of whole numbers, numpy's too, as a span; ``None`` for all else."""
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
