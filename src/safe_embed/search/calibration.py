"""Where the vectors of a model lie, and their chunks in 1 or 8 bits a dimension."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Literal, Protocol, Self, overload

import numpy as np

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import shown
from safe_embed.search.checks import checked_rows
from safe_embed.search.codes import Codes, decoded, encoded, steps_of
from safe_embed.search.files import read_arrays, write_arrays
from safe_embed.search.sample import Sums, is_same, other_model
from safe_embed.types import ChunkedText, FloatArray, Span
from safe_embed.vectors import normalize

Bits = Literal[1, 8]
# Of a dimension that is not packed.
WHOLE_BITS = 32


class HasFingerprint(Protocol):
    """An encoder whose model has a fingerprint."""

    @property
    def fingerprint(self) -> FloatArray:
        """The vector of a fixed text, of length 1, shape (dimension,)."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class PackedText:
    """The embeddings of the chunks of one text, in 1 or 8 bits a dimension.

    Attributes:
        spans: The chunks as ``(start, end)`` in code points, in order.
        token_counts: Number of tokens of each chunk, with special tokens and prompt.
        codes: With 1 bit uint8, shape (n_chunks, dimension / 8) rounded up; with 8 bits int8,
            shape (n_chunks, dimension).
        bits: 1 or 8.
        calibration: By which they are packed.
        is_long: As for :class:`safe_embed.ChunkedText`.
        cut_clusters: As for :class:`safe_embed.TextPlan`.
    """

    spans: tuple[Span, ...]
    token_counts: tuple[int, ...]
    codes: Codes
    bits: Bits
    calibration: Calibration = field(repr=False)
    is_long: bool
    cut_clusters: tuple[int, ...] = ()

    def unpacked(self) -> FloatArray:
        """Give the vectors that the codes stand for.

        Returns:
            Near to those that were packed, float32, shape (n_chunks, dimension).
        """
        return self.calibration.decode(self.codes, self.bits)


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """The centre and the spread of the vectors of a model, of which their codes are made.

    The vectors of most models lie in a narrow cone: a bit that says whether a number is above 0 is
    the same for nearly all of them. One that says whether it is above the mean is not.

    All vectors are scaled to length 1 first: scores are cosines.

    Attributes:
        center: Mean of each dimension, float32, shape (dimension,).
        spread: Standard deviation of each dimension, float32, shape (dimension,).
        n_vectors: How many vectors it was fitted on.
        fingerprint: Of the model, shape (dimension of the model,); ``None`` if it is not known.
    """

    center: FloatArray
    spread: FloatArray
    n_vectors: int
    fingerprint: FloatArray | None = None

    @classmethod
    def fit(cls, vectors: Any, encoder: HasFingerprint | None = None) -> Self:
        """Fit a calibration on a sample of vectors, which are read once.

        Some hundred chunks of the texts that are to be searched, or of texts like them, will do.

        Args:
            vectors: What ``encode_chunks`` gave; or vectors, shape (n, dimension); or an iterable
                of either, such as a generator, of which nothing is kept.
            encoder: The SafeEncoder that has made the vectors, for its fingerprint. It is not
                needed for what ``encode_chunks`` gave.

        Returns:
            The calibration.

        Raises:
            ConfigError: If there are fewer than two vectors, or they do not fit together.
        """
        sums = Sums(None if encoder is None else encoder.fingerprint)
        for rows, fingerprint in _rows(vectors):
            sums.add(rows, fingerprint)
        return cls(*sums.result(), sums.fingerprint)

    def __repr__(self) -> str:
        """Sizes only."""
        return f"Calibration({len(self.center)} dimensions, {self.n_vectors} vectors)"

    def codes(self, vectors: Any, bits: Bits) -> Codes:
        """Give the codes of vectors, such as for a store that compares bits.

        Args:
            vectors: Shape (n, dimension) or (dimension,).
            bits: 1 or 8 a dimension.

        Returns:
            As :attr:`PackedText.codes`, without the first axis for a single vector.

        Raises:
            ConfigError: If *bits* or the shape of *vectors* is another, or they are not finite.
        """
        check_bits(bits)
        rows = checked_rows("vectors", vectors)
        self.check_shape(rows.shape)
        deviations: FloatArray = normalize(rows) - self.center
        codes = encoded(deviations, steps_of(self.spread, bits), bits)
        return codes[0] if np.ndim(vectors) == 1 else codes

    def decode(self, codes: Codes, bits: Bits) -> FloatArray:
        """Give the vectors that codes stand for.

        Args:
            codes: As :meth:`codes` gives them.
            bits: 1 or 8 a dimension.

        Returns:
            float32, shape (n, dimension) or (dimension,).
        """
        check_bits(bits)
        vectors: FloatArray = self.center + decoded(codes, steps_of(self.spread, bits), bits)
        return vectors

    @overload
    def pack(self, chunked: ChunkedText, bits: Bits) -> PackedText: ...

    @overload
    def pack(self, chunked: Iterable[ChunkedText], bits: Bits) -> list[PackedText]: ...

    def pack(
        self, chunked: ChunkedText | Iterable[ChunkedText], bits: Bits
    ) -> PackedText | list[PackedText]:
        """Pack the vectors of chunks.

        Args:
            chunked: What ``encode_chunks`` gave for a text, or for several.
            bits: 1 or 8 a dimension.

        Returns:
            The same texts and chunks with codes in place of vectors.

        Raises:
            ConfigError: If the vectors are those of another model or have another dimension; if
                *bits* is not 1 or 8.
        """
        check_bits(bits)
        if isinstance(chunked, ChunkedText) or not isinstance(chunked, Iterable):
            return self._packed(chunked, bits)
        return [self._packed(text, bits) for text in chunked]

    def check_model(self, fingerprint: FloatArray | None) -> None:
        """Refuse vectors of another model.

        Args:
            fingerprint: Of the model that makes the vectors; ``None`` if it is not known.

        Raises:
            ConfigError: If both fingerprints are known, and differ.
        """
        if not is_same(self.fingerprint, fingerprint):
            raise other_model()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the calibration into a file, whole or not at all.

        Args:
            path: Of the file, in numpy's npz format. One that is there is replaced.
        """
        arrays: dict[str, Any] = {
            "center": self.center,
            "spread": self.spread,
            "n_vectors": self.n_vectors,
        }
        if self.fingerprint is not None:
            arrays["fingerprint"] = self.fingerprint
        write_arrays(Path(path), arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a calibration from a file.

        Args:
            path: Of the file.

        Returns:
            The calibration.

        Raises:
            ConfigError: If the file is no calibration, or of a later version.
        """
        arrays = read_arrays(Path(path), ("center", "spread", "n_vectors"))
        fingerprint = arrays.get("fingerprint")
        return cls(arrays["center"], arrays["spread"], int(arrays["n_vectors"]), fingerprint)

    def _packed(self, text: Any, bits: Bits) -> PackedText:
        if not isinstance(text, ChunkedText):
            kind = type(text).__name__
            msg = both(
                f"chunked holds a {kind}. Pass what encode_chunks gave, without bits; codes(…) "
                "takes plain vectors.",
                f"chunked に {kind} があります。encode_chunks が（bits なしで）返したものを渡して"
                "ください。ベクトルだけなら codes(…) を使います。",
            )
            raise ConfigError(msg)
        self.check_model(text.fingerprint)
        codes = self.codes(text.vectors, bits)
        chunks = text.spans, text.token_counts
        return PackedText(*chunks, codes, bits, self, text.is_long, text.cut_clusters)

    def check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse vectors of another dimension.

        Args:
            shape: Of the vectors, (n, dimension) or (dimension,).

        Raises:
            ConfigError: If the calibration was fitted on another dimension.
        """
        known = len(self.center)
        if len(shape) not in (1, 2) or shape[-1] != known:
            msg = both(
                f"The vectors have shape {shape}, and the calibration was fitted on {known} "
                "dimensions. Fit another one on vectors of this model and this truncate_dim.",
                f"ベクトルの形が {shape} ですが、キャリブレーションは {known} 次元のもの"
                "です。このモデルと truncate_dim のベクトルで作り直してください。",
            )
            raise ConfigError(msg)


def check_bits(bits: Any) -> None:
    """Check how many bits a dimension is packed into.

    Args:
        bits: What the caller passed.

    Raises:
        ConfigError: If it is not 1 or 8.
    """
    if isinstance(bits, bool) or bits not in (1, 8):
        msg = both(
            f"bits={shown(bits)} is not supported. Use 1 or 8.",
            f"bits={shown(bits)} は使えません。1 か 8 にしてください。",
        )
        raise ConfigError(msg)


def check_packing(calibration: Any, bits: Any, dimension: int | None) -> None:
    """Check the arguments ``calibration`` and ``bits`` of ``encode_chunks``.

    Args:
        calibration: What the caller passed.
        bits: What the caller passed.
        dimension: Of the vectors of the call; ``None`` if it is not known.

    Raises:
        ConfigError: If the one needs the other, or they do not fit to the vectors.
    """
    if calibration is None:
        if isinstance(bits, bool) or bits != WHOLE_BITS:
            msg = both(
                f"bits={shown(bits)} needs calibration=…, which says where the vectors of the "
                "model lie: Calibration.fit(encoder.encode_chunks(some_texts)). Without it, leave "
                "bits out.",
                f"bits={shown(bits)} には calibration=… が必要です（"
                "Calibration.fit(encoder.encode_chunks(some_texts)) で作ります）。使わないなら "
                "bits を外してください。",
            )
            raise ConfigError(msg)
        return
    if not isinstance(calibration, Calibration):
        msg = both(
            f"calibration={shown(calibration)} is no Calibration. Pass what Calibration.fit(…) or "
            "Calibration.load(…) gave.",
            f"calibration={shown(calibration)} は使えません。Calibration.fit(…) か "
            "Calibration.load(…) が返したものを渡してください。",
        )
        raise ConfigError(msg)
    check_bits(bits)
    if dimension is not None:
        calibration.check_shape((dimension,))


def _rows(vectors: Any) -> Iterator[tuple[Any, FloatArray | None]]:
    """Yield the vectors of a sample, part by part, and the fingerprint of each if it is known."""
    if isinstance(vectors, ChunkedText):
        yield vectors.vectors, vectors.fingerprint
    elif isinstance(vectors, PackedText):
        msg = both(
            "A calibration cannot be fitted on packed texts. Pass what encode_chunks gives without "
            "bits.",
            "bits を指定して作ったものからは、キャリブレーションを作れません。encode_chunks が "
            "bits なしで返すものを渡してください。",
        )
        raise ConfigError(msg)
    elif hasattr(vectors, "shape") or not isinstance(vectors, Iterable) or isinstance(vectors, str):
        yield vectors, None
    else:
        for part in vectors:
            if isinstance(part, Real):  # a row of plain numbers
                yield vectors, None
                return
            yield from _rows(part)
