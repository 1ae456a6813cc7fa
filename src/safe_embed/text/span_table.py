"""The pieces of many texts at once, as columns: few of them need an object of their own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from safe_embed.types import Span

IntArray = NDArray[np.int64]


class Unit(NamedTuple):
    """One piece: of which text, in which span of the first splitter, from where to where."""

    which: int
    top: int
    start: int
    end: int
    tokens: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Pieces of texts, in order, column by column; those of a text tile it."""

    which: IntArray
    top: IntArray
    start: IntArray
    end: IntArray
    tokens: IntArray

    @classmethod
    def of(cls, units: Iterable[Unit]) -> Pieces:
        """Put units into columns."""
        flat = np.fromiter(chain.from_iterable(units), np.int64)
        return cls(*flat.reshape(-1, len(Unit._fields)).T.copy())

    @classmethod
    def of_spans(cls, indices: Sequence[int], spans: Sequence[Sequence[Span]]) -> Pieces:
        """Put the spans of the texts with these *indices* into columns, not measured yet."""
        counts = list(map(len, spans))
        flat = np.fromiter(chain.from_iterable(chain.from_iterable(spans)), np.int64)
        start, end = flat.reshape(-1, 2).T.copy()
        top = np.fromiter(chain.from_iterable(map(range, counts)), np.int64, len(start))
        return cls(np.repeat(indices, counts), top, start, end, np.zeros_like(start))

    def __len__(self) -> int:
        """Count the pieces."""
        return len(self.which)

    def places(self) -> Iterator[tuple[int, int, int]]:
        """Give text, start and end of each."""
        return zip(self.which.tolist(), self.start.tolist(), self.end.tolist(), strict=True)

    def read(self, texts: Sequence[str]) -> list[str]:
        """Give what the model reads of each: blanks at its ends only cost tokens."""
        return [texts[which][start:end].strip() for which, start, end in self.places()]

    def units(self, places: Sequence[int] | IntArray | None = None) -> list[Unit]:
        """Give some as objects, or all."""
        which = slice(None) if places is None else np.asarray(places, np.int64)
        return list(map(Unit, *(column[which].tolist() for column in self._columns())))

    def of_more_than(self, tokens: int) -> NDArray[np.bool_]:
        """Tell which have more tokens than that."""
        return self.tokens > tokens

    def of_texts(self, indices: Sequence[int]) -> Pieces:
        """Give those of some texts."""
        return self._at(np.isin(self.which, indices))

    def without(self, places: Sequence[int] | IntArray) -> Pieces:
        """Leave some out."""
        return Pieces(*(np.delete(column, places) for column in self._columns()))

    def with_others(self, others: Pieces) -> Pieces:
        """Add others where they belong."""
        both = Pieces(*map(np.concatenate, zip(self._columns(), others._columns(), strict=True)))
        return both._at(np.lexsort((both.start, both.which)))

    def joined(self, firsts: Sequence[int], ends: Sequence[int]) -> Pieces:
        """Join each run of pieces to one, from one of *firsts* to before one of *ends*."""
        found = self._at(np.asarray(firsts, np.int64))
        found.end[:] = self.end[np.asarray(ends, np.int64) - 1]
        return found

    def groups(self, *, by_top: bool = False) -> Iterator[tuple[int, int]]:
        """Give the first and the end of the pieces of each text, or of each of its top spans."""
        is_new = self.which[1:] != self.which[:-1]
        if by_top:
            is_new |= self.top[1:] != self.top[:-1]
        starts = (np.flatnonzero(is_new) + 1).tolist()
        return pairwise((0, *starts, len(self)) if len(self) else ())

    def _at(self, places: IntArray | NDArray[np.bool_]) -> Pieces:
        return Pieces(*(column[places] for column in self._columns()))

    def _columns(self) -> tuple[IntArray, ...]:
        return self.which, self.top, self.start, self.end, self.tokens
