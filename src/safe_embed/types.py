"""The values that travel between the rooms, and the protocols users may implement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


class Span(NamedTuple):
    """A half-open piece of a text, in code points: ``text[start:end]``."""

    start: int
    end: int


@runtime_checkable
class Splitter(Protocol):
    """Says where a text may be cut.

    A splitter is a small value: it can be pickled, copied and used from any thread. An encoder cuts
    inside no grapheme cluster: a span that ends inside one is extended to the cluster's end.
    """

    def split(self, text: str) -> Iterable[tuple[int, int]]:
        """Cut *text* into spans.

        Invariant: ``"".join(text[s:e] for s, e in split(text)) == text``; no span is empty.

        Args:
            text: Any string; the empty string gives no spans.

        Returns:
            The spans in order; anything that gives ``(start, end)`` pairs will do, such as a list,
            a generator or an array.
        """
        ...


class Reader(Protocol):
    """What chunking asks of a model's tokenizer and the prompt in front of every chunk."""

    @property
    def overhead_tokens(self) -> int:
        """Tokens that every chunk has besides its text: special tokens and prompt."""
        ...

    def count(self, pieces: Sequence[str]) -> Sequence[int]:
        """Count the tokens of each piece by itself, without special tokens and prompt."""
        ...

    def encode(self, pieces: Sequence[str]) -> Sequence[Encoding]:
        """Encode each piece exactly as the model will read it, and never truncate."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """A chunk as the model reads it.

    Attributes:
        ids: Token ids with special tokens and prompt, int32, shape (n_tokens,).
        type_ids: Segment ids of the same shape, or ``None`` where the model has none.
    """

    ids: NDArray[np.int32]
    type_ids: NDArray[np.int32] | None = None

    @classmethod
    def of(cls, ids: Sequence[int], type_ids: Sequence[int] | None = None) -> Encoding:
        """Pack lists of ids.

        Args:
            ids: Token ids.
            type_ids: Segment ids of the same length, if the model has them.

        Returns:
            The encoding.
        """
        kinds = None if type_ids is None else np.asarray(type_ids, dtype=np.int32)
        return cls(np.asarray(ids, dtype=np.int32), kinds)

    def __len__(self) -> int:
        """Count the tokens the model is given."""
        return len(self.ids)


class Chunk(NamedTuple):
    """A piece of a text together with its encoding, whose length is its number of tokens."""

    span: Span
    encoding: Encoding


@dataclass(frozen=True, slots=True)
class ChunkedInput:
    """A text cut into chunks, on its way to the model.

    Attributes:
        chunks: At least one; their spans tile the text.
        is_long: Whether the text does not fit the budget as a whole.
        cut_clusters: The ends of chunks that lie inside a grapheme cluster of the text.
    """

    chunks: tuple[Chunk, ...]
    is_long: bool = False
    cut_clusters: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TextPlan:
    """What would happen to a text, at no model cost.

    Attributes:
        spans: The chunks as ``(start, end)`` in code points. They tile the text, except that with
            ``on_long="truncate"`` the one span ends where the model stops reading.
        token_counts: Tokens of each chunk, with special tokens and prompt.
        is_long: Whether the text does not fit the budget as a whole.
        cut_clusters: The ends of spans that lie inside a grapheme cluster of the text: the cluster
            alone exceeds the budget, or the model stops reading there (``on_long="truncate"``).
    """

    spans: tuple[Span, ...]
    token_counts: tuple[int, ...]
    is_long: bool
    cut_clusters: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ChunkedText:
    """A text as its chunks: for search, where the best chunk beats any single vector.

    Attributes:
        spans: The chunks as ``(start, end)`` in code points, in order.
        token_counts: Tokens of each chunk, with special tokens and prompt.
        vectors: Chunk embeddings, float32, shape (n_chunks, dimension).
        is_long: Whether the text does not fit the budget as a whole.
        cut_clusters: As for :class:`TextPlan`.
    """

    spans: tuple[Span, ...]
    token_counts: tuple[int, ...]
    vectors: FloatArray
    is_long: bool
    _pooled: FloatArray = field(repr=False)
    cut_clusters: tuple[int, ...] = ()

    def pooled(self) -> FloatArray:
        """Give the vector of the whole text, as ``encode`` with the same arguments does.

        Returns:
            The text embedding, float32, shape (dimension,).
        """
        return self._pooled
