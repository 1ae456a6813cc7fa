"""The values that travel between the rooms, and the protocols users may implement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable


class Span(NamedTuple):
    """A half-open piece of a text, in code points: ``text[start:end]``."""

    start: int
    end: int


@runtime_checkable
class Splitter(Protocol):
    """Says where a text may be cut.

    A splitter is a small value: it can be pickled, copied and used from any thread.
    """

    def split(self, text: str) -> Sequence[Span]:
        """Cut *text* into spans.

        Invariant: ``"".join(text[s:e] for s, e in split(text)) == text``; no span is empty.

        Args:
            text: Any string; the empty string gives no spans.

        Returns:
            The spans in order; a plain list of ``(start, end)`` tuples will do.
        """
        ...
