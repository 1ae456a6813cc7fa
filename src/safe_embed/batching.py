"""Group chunks into batches under a token budget, with little padding; shape bucketing."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import NamedTuple

_SHORTEST = 32
_STEPS_PER_OCTAVE = 2
_STEPPED_FROM = 64
# Token counts are rounded up to multiples of this: oneDNN caches a kernel for each count.
STEP = 8


class Batch(NamedTuple):
    """The chunks and the shape of one input of the model.

    Attributes:
        indices: Indices of the chunks, longest chunk first.
        rows: Number of rows of the input; with shape bucketing it may exceed the number of chunks.
        columns: Number of tokens of a row, padding included.
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
    """Group chunks into batches of at most *max_tokens* tokens, padding included.

    The longest chunks come first, so that running out of memory happens at once. A chunk that alone
    exceeds the budget gets a batch of its own.

    Args:
        lengths: Number of tokens of each chunk.
        max_tokens: Largest number of tokens of a batch: chunks times columns.
        limit: Largest number of columns that the model accepts; ``None`` for no limit.
        few_shapes: Whether to round columns and rows up to few values, for devices that cache data
            for every shape: up to 512 tokens there are 9 lengths, with 1, 2, 4 … rows.
        fewer_shapes: Whether to round lengths above 64 up to multiples of 8. oneDNN caches up to
            1,024 kernels, one for each number of tokens of a batch and each kind of layer. 400
            texts of all lengths with two layers: 5.6 MB instead of 9.6.

    Returns:
        Batches that together hold each chunk exactly once, longest first.
    """
    grouped: list[Batch] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        columns = lengths[index]
        if few_shapes:
            columns = rounded_length(columns, limit)
        elif fewer_shapes and columns > _STEPPED_FROM:
            stepped = -(-columns // STEP) * STEP
            columns = stepped if limit is None else max(columns, min(stepped, limit))
        last = grouped[-1] if grouped else None
        fits = last is not None and (len(last.indices) + 1) * last.columns <= max_tokens
        if last is not None and fits and (columns == last.columns or not few_shapes):
            last.indices.append(index)
        else:
            grouped.append(Batch([index], 1, columns))
    rows = _rounded_count if few_shapes else int
    return [batch._replace(rows=rows(len(batch.indices))) for batch in grouped]


def needs_padding(chunks: Sequence[Sized]) -> bool:
    """Tell whether the chunks of a batch have different lengths.

    Args:
        chunks: The encodings of the batch; ``len`` gives their number of tokens.

    Returns:
        Whether at least two lengths differ.
    """
    return len(set(map(len, chunks))) > 1


def token_counts(
    chunks: Sequence[Sized], shape: tuple[int, int], *, is_padded: bool
) -> tuple[int, int]:
    """Count the tokens and the padding tokens of a batch.

    Args:
        chunks: The encodings of the batch; ``len`` gives their number of tokens.
        shape: The smallest rows and columns of the padded input.
        is_padded: Whether the batch is padded to a rectangle; without, all chunks are in one row,
            whose length is rounded up to a multiple of 8.

    Returns:
        The tokens, and the padding in tokens.
    """
    lengths = [len(chunk) for chunk in chunks]
    tokens = sum(lengths)
    if not is_padded:
        return tokens, -tokens % STEP
    cells = max(shape[0], len(lengths)) * max(shape[1], *lengths)
    return tokens, cells - tokens


def _rounded_count(count: int) -> int:
    """Round a number of rows, 1 or more, up to a power of two."""
    return 1 << (count - 1).bit_length()


def rounded_length(length: int, limit: int | None = None) -> int:
    """Round a length up to one of few values: 32, 48, 64, 96, 128, 192 and so on.

    >>> [rounded_length(n) for n in (3, 33, 130, 300, 512)]
    [32, 48, 192, 384, 512]

    Args:
        length: Number of tokens.
        limit: Largest length that the model accepts; ``None`` for no limit.

    Returns:
        The rounded length: at most *limit*, unless *length* itself exceeds it.
    """
    if length <= _SHORTEST:
        rounded = _SHORTEST
    else:
        step = (1 << (length - 1).bit_length()) // (2 * _STEPS_PER_OCTAVE)
        rounded = -(-length // step) * step
    return rounded if limit is None else max(length, min(rounded, limit))
