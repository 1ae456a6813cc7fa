"""Chunks into batches under a token budget, padded little, and in few shapes where that matters."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import NamedTuple

_SHORTEST = 32
_STEPS_PER_OCTAVE = 2
_STEPPED_FROM = 64
# Numbers of tokens are rounded up to multiples of it: kernels keep something for each.
STEP = 8


class Batch(NamedTuple):
    """Chunks that go through the model together.

    Attributes:
        indices: Which chunks, by falling length.
        rows: Rows of the input; more than there are chunks where shapes are fixed.
        columns: Tokens of a row, padding included.
    """

    indices: list[int]
    rows: int
    columns: int


def batches(
    lengths: Sequence[int],
    max_tokens: int,
    *,
    limit: int | None = None,
    few_shapes: bool = False,
    fewer_shapes: bool = False,
) -> list[Batch]:
    """Group chunks so that every batch, padded to its longest, has at most *max_tokens*.

    The longest come first: what does not fit in memory fails at once, not after an hour. A chunk
    that alone is larger than the budget runs alone.

    Args:
        lengths: Tokens of each chunk.
        max_tokens: Tokens of a padded batch.
        limit: Columns that the model can take at most; ``None`` for any.
        few_shapes: Whether to round lengths and numbers of rows up: some devices keep something for
            every shape they have seen. Up to 512 tokens there are 9 lengths, with 1, 2, 4 … rows.
        fewer_shapes: Whether to round lengths above 64 up to multiples of 8, less than 8 tokens
            of padding a row: oneDNN keeps up to 1,024 things, one for each number of tokens of a
            batch and each kind of layer. 400 texts of all lengths with two layers: 5.6 MB, not 9.6.

    Returns:
        Batches that hold each chunk exactly once.
    """
    found: list[Batch] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        columns = lengths[index]
        if few_shapes:
            columns = rounded_length(columns, limit)
        elif fewer_shapes and columns > _STEPPED_FROM:
            stepped = -(-columns // STEP) * STEP
            columns = stepped if limit is None else max(columns, min(stepped, limit))
        last = found[-1] if found else None
        fits = last is not None and (len(last.indices) + 1) * last.columns <= max_tokens
        if last is not None and fits and (columns == last.columns or not few_shapes):
            last.indices.append(index)
        else:
            found.append(Batch([index], 1, columns))
    rows = _rounded_count if few_shapes else int
    return [one._replace(rows=rows(len(one.indices))) for one in found]


def needs_padding(chunks: Sequence[Sized]) -> bool:
    """Tell whether the chunks of a batch are of different lengths.

    Args:
        chunks: Of one batch.

    Returns:
        Whether they are.
    """
    return len(set(map(len, chunks))) > 1


def token_counts(
    chunks: Sequence[Sized], shape: tuple[int, int], *, is_padded: bool
) -> tuple[int, int]:
    """Count what a batch gives the model to read.

    Args:
        chunks: Of the batch.
        shape: Rows and columns that it is padded to.
        is_padded: Whether it is padded.

    Returns:
        Its tokens, and its padding in tokens.
    """
    lengths = [len(chunk) for chunk in chunks]
    tokens = sum(lengths)
    if not is_padded:
        return tokens, -tokens % STEP
    cells = max(shape[0], len(lengths)) * max(shape[1], *lengths)
    return tokens, cells - tokens


def _rounded_count(count: int) -> int:
    """Round a number of rows up to a power of two."""
    return 1 << (count - 1).bit_length()


def rounded_length(length: int, limit: int | None = None) -> int:
    """Round a length up to one of few: two to a doubling, from 32 on.

    >>> [rounded_length(n) for n in (3, 33, 130, 300, 512)]
    [32, 48, 192, 384, 512]

    Args:
        length: Tokens.
        limit: The largest length there is; ``None`` for any.

    Returns:
        The length to pad to.
    """
    if length <= _SHORTEST:
        rounded = _SHORTEST
    else:
        step = (1 << (length - 1).bit_length()) // (2 * _STEPS_PER_OCTAVE)
        rounded = -(-length // step) * step
    return rounded if limit is None else max(length, min(rounded, limit))
