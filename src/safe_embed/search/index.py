"""The chunks of many documents, ready to be ranked."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import shown
from safe_embed.search.blocks import Blocks
from safe_embed.search.calibration import WHOLE_BITS, Calibration, PackedText
from safe_embed.search.checks import checked_rows
from safe_embed.search.codes import Codes, products, steps_of
from safe_embed.types import ChunkedText, FloatArray, Span
from safe_embed.vectors import normalize

Chunked: TypeAlias = ChunkedText | PackedText

# Documents that are appended at once.
_PORTION = 1000


class _Form(NamedTuple):
    """How the vectors of an index are written; the same for all of its documents."""

    bits: int
    calibration: Calibration | None
    dimension: int
    width: int
    dtype: Any

    @classmethod
    def of(cls, text: Chunked) -> _Form:
        """Read it from a text."""
        if isinstance(text, PackedText):
            dimension = len(text.calibration.center)
            width = text.codes.shape[-1]
            return cls(text.bits, text.calibration, dimension, width, text.codes.dtype)
        dimension = text.vectors.shape[-1]
        return cls(WHOLE_BITS, None, dimension, dimension, np.dtype(np.float32))

    def agrees(self, other: _Form) -> bool:
        """Tell whether vectors of the two forms may be compared."""
        mine, theirs = self.calibration, other.calibration
        same = mine is theirs or (
            mine is not None
            and theirs is not None
            and np.array_equal(mine.center, theirs.center)
            and np.array_equal(mine.spread, theirs.spread)
        )
        return same and self[0] == other[0] and self[2:] == other[2:]

    def codes(self, text: Any) -> Codes:
        """Give what is kept of the vectors of a text, shape (n_chunks, width)."""
        return text.codes if isinstance(text, PackedText) else normalize(text.vectors)

    def weights(self, queries: FloatArray) -> tuple[FloatArray, FloatArray | float]:
        """Give what codes are multiplied with, and what is added to the products.

        The first has shape (n_queries, dimension), the second (n_queries, 1).

        query · vector = query · center + (query - center) · deviation + center · deviation. The
        last part is 0 in the mean, since vectors have length 1. A bit tells nothing of it: there it
        is left out, where it would be noise.
        """
        if self.calibration is None:
            return queries, 0.0
        center, steps = self.calibration.center, steps_of(self.calibration.spread, self.bits)
        told = queries - center if self.bits == 1 else queries
        return told * steps, (queries @ center)[:, None]


class Scores(NamedTuple):
    """The scores of all chunks for some queries.

    Attributes:
        values: Cosines, shape (n_queries, n_chunks).
        starts: The first chunk of each document, shape (n_documents,).
    """

    values: FloatArray
    starts: NDArray[np.int64]


class ChunkIndex:
    """The vectors and spans of the chunks of documents, for :func:`safe_embed.search.rank`.

    It holds vectors or codes, and 8 bytes a chunk for its span; no text. Documents are numbered in
    the order in which they are added. One thread may add documents while others rank. An index can
    be pickled, also while documents are added: the copy has those that were added as a whole.

    Args:
        chunked: The first documents, as for :meth:`add`.
    """

    def __init__(self, chunked: Iterable[Chunked] = ()) -> None:
        self._adding = threading.Lock()
        self._form: _Form | None = None
        self._codes = Blocks(0, np.float32)
        self._spans = Blocks(2, np.uint32)
        self._starts = Blocks(1, np.int64)
        # Documents and chunks that are there as a whole: replaced at once, after they were added.
        self._sizes = (0, 0)
        self.add(chunked)

    def __len__(self) -> int:
        """Number of documents."""
        return self._sizes[0]

    def __repr__(self) -> str:
        """Sizes only."""
        documents, chunks = self._sizes
        bits = "" if self._form is None else f", {self._form.bits} bits a dimension"
        return f"ChunkIndex({documents} documents, {chunks} chunks{bits})"

    def __getstate__(self) -> dict[str, Any]:
        """Give what is pickled: of each column what is written, in one piece."""
        documents, chunks = self._sizes
        return {
            "form": self._form,
            "codes": self._codes.columns(chunks),
            "spans": self._spans.columns(chunks),
            "starts": self._starts.columns(documents),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the index that was pickled."""
        self.__init__()  # type: ignore[misc] # a fresh lock, and no documents
        self._form = state["form"]
        if self._form is None:
            return
        self._codes = Blocks(self._form.width, self._form.dtype)
        self._codes.write(0, state["codes"])
        self._spans.write(0, state["spans"])
        self._starts.write(0, state["starts"])
        self._sizes = (state["starts"].shape[1], state["codes"].shape[1])

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return self._sizes[1]

    @property
    def dimension(self) -> int | None:
        """Of the vectors; ``None`` before the first document."""
        return None if self._form is None else self._form.dimension

    @property
    def nbytes(self) -> int:
        """What vectors or codes, and spans, take, in bytes."""
        documents, chunks = self._sizes
        each = self._codes.column_bytes + self._spans.column_bytes
        return chunks * each + documents * self._starts.column_bytes

    def add(self, chunked: Iterable[Chunked]) -> None:
        """Append documents.

        Args:
            chunked: What ``encode_chunks`` gives, packed or not, in any number of calls; a
                generator is read in portions of 1,000 documents.

        Raises:
            ConfigError: If a document is of another form than those before: not packed, or by
                another calibration, or of another dimension; if its vectors are not finite, or not
                as many as its spans. Of its portion nothing is added.
        """
        documents = _documents(chunked)
        with self._adding:
            while portion := list(islice(documents, _PORTION)):
                self._append(portion)

    def scores(self, queries: FloatArray) -> Scores:
        """Compare queries with all chunks.

        Args:
            queries: Vectors of length 1, shape (n_queries, dimension).

        Returns:
            The scores of the chunks that are there as the call begins.
        """
        documents, chunks = self._sizes
        if self._form is None:
            return Scores(np.empty((len(queries), 0), np.float32), np.empty(0, np.int64))
        weights, offsets = self._form.weights(queries)
        values = np.empty((len(queries), chunks), np.float32)
        start = 0
        for part in self._codes.parts(chunks):
            stop = start + part.shape[1]
            values[:, start:stop] = products(weights, part, self._form.bits)
            start = stop
        values += offsets
        return Scores(values, self._starts.row(documents))

    def span(self, chunk: int) -> Span:
        """Give the span of a chunk in its document.

        Args:
            chunk: Its number among all chunks.

        Returns:
            Start and end in code points.
        """
        return Span(*map(int, self._spans.column(chunk)))

    def _append(self, portion: Sequence[Any]) -> None:
        form = self._form
        for place, text in enumerate(portion, len(self)):
            form = _agreed(form, text, place)
        if form is None:
            return
        if self._form is None:
            self._codes = Blocks(form.width, form.dtype)
        documents, chunks = self._sizes
        counts = [len(text.spans) for text in portion]
        ends = chunks + np.cumsum(counts)
        spans = [span for text in portion for span in text.spans]
        self._codes.write(chunks, np.concatenate([form.codes(text) for text in portion]).T)
        self._spans.write(chunks, np.array(spans, np.uint32).T)
        self._starts.write(documents, (ends - counts)[None])
        self._form = form
        self._sizes = (documents + len(portion), int(ends[-1]))


def _documents(chunked: Any) -> Iterator[Any]:
    """Go through documents; ConfigError for what holds none, such as a single document."""
    if isinstance(chunked, Iterable) and not isinstance(chunked, str | bytes | Mapping):
        return iter(chunked)
    kind = type(chunked).__name__
    msg = both(
        f"chunked is {kind}. Pass a list of documents, as encode_chunks gives it; a single "
        "document in a list.",
        f"chunked が {kind} です。encode_chunks が返すリストを渡してください。文書が一つでも"
        "リストにします。",
    )
    raise ConfigError(msg)


def _agreed(form: _Form | None, text: Any, place: int) -> _Form:
    """Check that a document fits to those before it; give the form of both."""
    if not isinstance(text, ChunkedText | PackedText):
        kind = shown(text)
        msg = both(
            f"Document {place} is {kind}. Pass what encode_chunks gives: a list of ChunkedText or "
            "PackedText.",
            f"文書 {place} が {kind} です。encode_chunks が返すリストを渡してください。",
        )
        raise ConfigError(msg)
    _check_vectors(text, place)
    found = _Form.of(text)
    if form is not None and not form.agrees(found):
        msg = both(
            f"Document {place} has {found.dimension} dimensions in {found.bits} bits, and those "
            f"before it have {form.dimension} in {form.bits}, or another calibration. All "
            "documents of an index need the same dimension, bits and calibration.",
            f"文書 {place} は {found.dimension} 次元・{found.bits} ビットで、前の文書は "
            f"{form.dimension} 次元・{form.bits} ビットか、別のキャリブレーションです。同じ次元、"
            "同じ bits、同じキャリブレーションで作ってください。",
        )
        raise ConfigError(msg)
    return found if form is None else form


def _check_vectors(text: Chunked, place: int) -> None:
    """Check that a document has a vector for each of its spans, of finite numbers."""
    kept = text.codes if isinstance(text, PackedText) else text.vectors
    if isinstance(text, ChunkedText):
        checked_rows(f"The vectors of document {place}", kept)
    if len(text.spans) == 0 or len(text.spans) != len(kept):
        msg = both(
            f"Document {place} has {len(text.spans)} spans and {len(kept)} vectors. It needs a "
            "vector for each span, and one at least.",
            f"文書 {place} の範囲は {len(text.spans)}、ベクトルは {len(kept)} です。範囲ごとに"
            "一本、少なくとも一本のベクトルが必要です。",
        )
        raise ConfigError(msg)
