"""Data types shared by all subpackages, and the protocols that users may implement."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


class Span(NamedTuple):
    """A half-open range of a text, in code points: ``text[start:end]``."""

    start: int
    end: int


@runtime_checkable
class Splitter(Protocol):
    """Decides where a text may be cut.

    A splitter must be picklable, copyable and usable from any thread. An encoder never cuts inside
    a grapheme cluster: it extends a span that ends inside one to the end of the cluster.
    """

    def split(self, text: str) -> Iterable[tuple[int, int]]:
        """Cut *text* into spans.

        Invariant: ``"".join(text[s:e] for s, e in split(text)) == text``; no span is empty.

        Args:
            text: Any string; an empty string has no spans.

        Returns:
            ``(start, end)`` pairs in code points, in order: any iterable, such as a list, a
            generator or an array.
        """
        ...


class Reader(Protocol):
    """The tokenizer interface that chunking needs: a model's tokenizer plus a fixed prompt."""

    @property
    def overhead_tokens(self) -> int:
        """Number of tokens that every chunk has in addition to its text: special tokens, prompt."""
        ...

    def count(self, pieces: Sequence[str]) -> Sequence[int]:
        """Return the number of tokens of each piece, without special tokens and prompt."""
        ...

    def encode(self, pieces: Sequence[str]) -> Sequence[Encoding]:
        """Return the encoding of prompt and piece for each piece, exactly as the model reads it.

        Never truncates.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """The token ids of one chunk, as the model reads it.

    Attributes:
        ids: Token ids with special tokens and prompt, int32, shape (n_tokens,).
        type_ids: Segment ids, int32, of the same shape; ``None`` if the model has none.
    """

    ids: NDArray[np.int32]
    type_ids: NDArray[np.int32] | None = None

    @classmethod
    def of(cls, ids: Sequence[int], type_ids: Sequence[int] | None = None) -> Encoding:
        """Make an encoding from lists of ids.

        Args:
            ids: Token ids.
            type_ids: Segment ids of the same length; ``None`` if the model has none.

        Returns:
            The encoding.
        """
        segments = None if type_ids is None else np.asarray(type_ids, dtype=np.int32)
        return cls(np.asarray(ids, dtype=np.int32), segments)

    def __len__(self) -> int:
        """Number of tokens, special tokens and prompt included."""
        return len(self.ids)


class Chunk(NamedTuple):
    """A span of a text and its encoding; ``len(chunk.encoding)`` is its number of tokens."""

    span: Span
    encoding: Encoding


@dataclass(frozen=True, slots=True)
class ChunkedInput:
    """A text cut into encoded chunks: the input of the model.

    Attributes:
        chunks: One or more; their spans cover the text without gaps or overlaps. With
            truncation only one, which may cover only the beginning of the text.
        is_long: Whether the whole text exceeds the token budget of one chunk.
        cut_clusters: Ends of chunks, in code points, that lie inside a grapheme cluster.
    """

    chunks: tuple[Chunk, ...]
    is_long: bool = False
    cut_clusters: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TextPlan:
    """How an encoder would cut a text, computed without running the model.

    Attributes:
        spans: The chunks as ``(start, end)`` in code points. They cover the text without gaps or
            overlaps; with ``on_long="truncate"`` the only span is what the model reads: the
            beginning, or the end if the tokenizer truncates on the left.
        token_counts: Number of tokens of each chunk, with special tokens and prompt.
        is_long: Whether the whole text exceeds the token budget of one chunk.
        cut_clusters: Ends of spans, in code points, that lie inside a grapheme cluster: the cluster
            alone exceeds the budget, or the model stops reading there (``on_long="truncate"``).
    """

    spans: tuple[Span, ...]
    token_counts: tuple[int, ...]
    is_long: bool
    cut_clusters: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class ChunkedText:
    """The embeddings of the chunks of one text, for search by chunk.

    Attributes:
        spans: The chunks as ``(start, end)`` in code points, in order.
        token_counts: Number of tokens of each chunk, with special tokens and prompt.
        vectors: Chunk embeddings, float32, shape (n_chunks, dimension).
        is_long: Whether the whole text has more tokens than one of these chunks may have.
        cut_clusters: As for :class:`TextPlan`.
        fingerprint: By which the model is known, for :class:`safe_embed.search.Calibration`: the
            vector of a fixed text, shape (dimension of the model,); ``None`` if it is not known.
    """

    spans: tuple[Span, ...]
    token_counts: tuple[int, ...]
    vectors: FloatArray
    is_long: bool
    _pooled: FloatArray = field(repr=False)
    cut_clusters: tuple[int, ...] = ()
    fingerprint: FloatArray | None = field(default=None, repr=False)

    def pooled(self) -> FloatArray:
        """Return the embedding of the whole text, pooled from the vectors of these chunks.

        It is what ``encode`` gives if its chunks are these: with the same ``max_chunk_tokens``. The
        chunks of ``encode_chunks`` are at most 512 tokens long by default, while ``encode`` reads
        a text whole if the model can.

        Returns:
            The text embedding, float32, shape (dimension,).
        """
        return self._pooled
