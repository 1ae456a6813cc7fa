"""Columns of numbers that are appended in blocks, so that what is there is never copied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# Columns of a block: with fewer the calls of numpy for each block take longer than their work. A
# block of 384 bits is 0.8 MB, one of 384 dimensions in float32 25 MB, of which only what is written
# takes memory.
BLOCK_COLUMNS = 16_384


class Blocks:
    """Columns of the same height; one more for each vector, say.

    How many columns there are is known to the caller, who reads no others: what was read stays as
    it is while more is written behind it, also by another thread.

    Args:
        height: Numbers of a column.
        dtype: Of the numbers.
    """

    def __init__(self, height: int, dtype: DTypeLike) -> None:
        self._height = height
        self._dtype = np.dtype(dtype)
        self._blocks: list[NDArray[Any]] = []

    @property
    def column_bytes(self) -> int:
        """What a column takes, in bytes."""
        return self._height * self._dtype.itemsize

    def write(self, at: int, columns: NDArray[Any]) -> None:
        """Write columns behind those that are there.

        Args:
            at: How many there are.
            columns: Shape (height, n).
        """
        first = 0
        while first < columns.shape[1]:
            number, place = divmod(at + first, BLOCK_COLUMNS)
            if number == len(self._blocks):
                self._blocks.append(np.empty((self._height, BLOCK_COLUMNS), self._dtype))
            last = min(first + BLOCK_COLUMNS - place, columns.shape[1])
            self._blocks[number][:, place : place + last - first] = columns[:, first:last]
            first = last

    def parts(self, count: int) -> Iterator[NDArray[Any]]:
        """Give the first columns, block by block.

        Args:
            count: How many of them.

        Yields:
            Views, shape (height, n), which together hold *count* columns.
        """
        for number in range(-(-count // BLOCK_COLUMNS)):
            yield self._blocks[number][:, : count - number * BLOCK_COLUMNS]

    def columns(self, count: int) -> NDArray[Any]:
        """Copy the first columns.

        Args:
            count: How many of them.

        Returns:
            The columns, shape (height, count).
        """
        parts = [np.empty((self._height, 0), self._dtype), *self.parts(count)]
        return np.concatenate(parts, axis=1)

    def column(self, index: int) -> NDArray[Any]:
        """Give a column.

        Args:
            index: Its number.

        Returns:
            A view, shape (height,).
        """
        return self._blocks[index // BLOCK_COLUMNS][:, index % BLOCK_COLUMNS]

    def row(self, count: int) -> NDArray[Any]:
        """Give the first numbers of columns of height 1.

        Args:
            count: How many of them.

        Returns:
            A copy, shape (*count*,).
        """
        parts = [part[0] for part in self.parts(count)]
        return np.concatenate(parts) if parts else np.empty(0, self._dtype)
