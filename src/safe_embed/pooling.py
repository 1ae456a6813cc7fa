"""Pool chunk vectors into text vectors; truncate, normalise and quantise text vectors.

Pure numpy, float32 for every dtype of the model. The steps have the order of sentence-transformers:
average, truncate to the dimension, normalise, quantise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from safe_embed._errors_foreign import called, shown
from safe_embed.errors import ConfigError
from safe_embed.types import FloatArray

Pooling = Literal["mean", "token_weighted", "max"]
PoolingFunction = Callable[[FloatArray, NDArray[np.int64]], FloatArray]
Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]

_SMALLEST_NORM = 1e-12  # as torch.nn.functional.normalize


def mean_pool(vectors: FloatArray, token_counts: NDArray[np.int64]) -> FloatArray:
    """Average the chunk vectors of a text with equal weights.

    Args:
        vectors: Chunk embeddings, shape (n_chunks, dimension).
        token_counts: Tokens of each chunk, shape (n_chunks,); not used.

    Returns:
        The text embedding, shape (dimension,). Not a unit vector, even if all rows are.
    """
    del token_counts
    pooled: FloatArray = vectors.mean(axis=0, dtype=np.float32)
    return pooled


def token_weighted_pool(vectors: FloatArray, token_counts: NDArray[np.int64]) -> FloatArray:
    """Average the chunk vectors of a text, weighted by their tokens.

    Args:
        vectors: Chunk embeddings, shape (n_chunks, dimension).
        token_counts: Tokens of each chunk, shape (n_chunks,).

    Returns:
        The text embedding, shape (dimension,).
    """
    weights = token_counts / max(token_counts.sum(), 1)
    pooled: FloatArray = weights.astype(np.float32) @ vectors
    return pooled


def max_pool(vectors: FloatArray, token_counts: NDArray[np.int64]) -> FloatArray:
    """Take the largest value of each dimension over the chunk vectors of a text.

    For comparison only: search in long Japanese articles fails with it (R@1 0.05, mean_pool 0.78).

    Args:
        vectors: Chunk embeddings, shape (n_chunks, dimension).
        token_counts: Tokens of each chunk, shape (n_chunks,); not used.

    Returns:
        The text embedding, shape (dimension,).
    """
    del token_counts
    pooled: FloatArray = vectors.max(axis=0)
    return pooled


_POOLINGS: dict[str, PoolingFunction] = {
    "mean": mean_pool,
    "token_weighted": token_weighted_pool,
    "max": max_pool,
}


def resolve_pooling(spec: Pooling | PoolingFunction) -> PoolingFunction:
    """Turn the argument ``pooling`` of the encoder into a function.

    Args:
        spec: ``"mean"``, ``"token_weighted"``, ``"max"``, or a function of the chunk vectors
            (n_chunks, dimension) and token counts (n_chunks,) that returns shape (dimension,).

    Returns:
        The function.

    Raises:
        ConfigError: If *spec* is none of these.
    """
    if callable(spec):
        return spec
    name: Any = spec
    if isinstance(name, str) and name in _POOLINGS:
        return _POOLINGS[name]
    names = ", ".join(map(repr, _POOLINGS))
    msg = f"pooling={shown(spec)} is not known. Use one of {names}, or a function."
    raise ConfigError(msg)


def pool(
    vectors: FloatArray,
    token_counts: Sequence[int],
    pooling: PoolingFunction,
    *,
    unit_length: bool,
) -> FloatArray:
    """Pool the chunk vectors of a text into one vector.

    A text of one chunk gets the vector of that chunk unchanged, for every pooling.

    Args:
        vectors: Chunk embeddings, shape (n_chunks, dimension).
        token_counts: Tokens of each chunk.
        pooling: A function as :func:`resolve_pooling` returns it.
        unit_length: Whether to normalise the pooled vector, as a model that ends in Normalize does.

    Returns:
        The text embedding, float32, shape (dimension,).

    Raises:
        ConfigError: If *pooling* returns another shape or something else than numbers, or raises an
            exception such as StopIteration that would end or cancel the caller.
    """
    pooled: FloatArray = vectors[0]
    if len(vectors) == 1:
        return pooled
    counts = np.asarray(token_counts, dtype=np.int64)
    result = called("The pooling function", pooling, vectors, counts)
    pooled = called("The pooling function", _to_float32, "The pooling function gave ", result)
    if pooled.shape != vectors.shape[1:]:
        msg = (
            f"The pooling function gave shape {pooled.shape} for chunk vectors of shape "
            f"{vectors.shape}. It must give {vectors.shape[1:]}."
        )
        raise ConfigError(msg)
    return normalize(pooled) if unit_length else pooled


def normalize(vectors: FloatArray) -> FloatArray:
    """Scale vectors to length 1.

    Args:
        vectors: Shape (dimension,) or (n, dimension); zero vectors stay zero.

    Returns:
        An array of the same shape; rows are unit vectors.
    """
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: FloatArray = vectors / np.maximum(norms, _SMALLEST_NORM)
    return scaled


def pad_to_dim(vectors: FloatArray, dim: int) -> FloatArray:
    """Convert vectors to a fixed dimension: truncate, normalise, pad with zeros.

    For a search index whose dimension is fixed and differs from the model's.

    >>> pad_to_dim(np.array([[3.0, 4.0]], dtype=np.float32), 4)
    array([[0.6, 0.8, 0. , 0. ]], dtype=float32)

    Args:
        vectors: Shape (dimension,) or (n, dimension).
        dim: Dimension of the result, at least 1.

    Returns:
        Unit vectors, float32, shape (*dim*,) or (n, *dim*).

    Raises:
        ConfigError: If *dim* is not positive, or *vectors* is not an array of numbers.
    """
    if dim < 1:
        msg = f"dim={shown(dim)} is not a valid dimension. Use a positive integer."
        raise ConfigError(msg)
    kept = normalize(_to_float32("vectors=", vectors)[..., :dim])
    width = [(0, 0)] * (kept.ndim - 1) + [(0, dim - kept.shape[-1])]
    padded: FloatArray = np.pad(kept, width)
    return padded


def finish(vectors: FloatArray, truncate_dim: int | None, *, unit_length: bool) -> FloatArray:
    """Truncate vectors to a dimension, then normalise them if asked.

    Args:
        vectors: Shape (n, dimension).
        truncate_dim: How many dimensions to keep; ``None`` for all.
        unit_length: Whether to scale the truncated vectors to length 1.

    Returns:
        Shape (n, truncate_dim), or (n, dimension) if that is smaller.
    """
    kept = vectors if truncate_dim is None else vectors[..., :truncate_dim]
    return normalize(kept) if unit_length else kept


def check_precision(precision: str | None, n_texts: int | None = None) -> None:
    """Check that a precision exists and can be calibrated.

    Args:
        precision: A name of :data:`Precision`; ``None`` means float32.
        n_texts: Number of texts to calibrate on; ``None`` if ranges are given.

    Raises:
        ConfigError: If *precision* is not known, or is int8 or uint8 and *n_texts* is 1.
    """
    if precision in ("int8", "uint8") and n_texts == 1:
        msg = (
            f"precision={precision!r} is calibrated on the texts of a call, and a single text has "
            "no range. Pass two or more texts, or use encode_stream with ranges=…"
        )
        raise ConfigError(msg)
    if precision is not None and precision not in get_args(Precision):
        names = ", ".join(map(repr, get_args(Precision)))
        msg = f"precision={shown(precision)} is not supported. Use one of {names}."
        raise ConfigError(msg)


def check_ranges(ranges: FloatArray | None, dim: int | None) -> None:
    """Check that calibration ranges fit the vectors.

    Args:
        ranges: Smallest and largest value of each dimension, shape (2, *dim*), or ``None``.
        dim: Dimension of the vectors; ``None`` skips the check of the shape.

    Raises:
        ConfigError: If *ranges* has another shape, or is not an array of numbers.
    """
    if ranges is None:
        return
    shape = _to_float32("ranges=", ranges).shape
    if dim is not None and shape != (2, dim):
        msg = f"ranges has shape {shape}. It must have shape (2, {dim}): smallest, largest."
        raise ConfigError(msg)


def _to_float32(prefix: str, value: Any) -> FloatArray:
    """Convert a value to float32; ConfigError instead of numpy's error, which may show a text."""
    try:
        return np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        kind = type(error).__name__
    msg = f"{prefix}{shown(value)}, which is not an array of numbers ({kind})."
    raise ConfigError(msg)


def quantize(
    vectors: FloatArray, precision: Precision | None, ranges: FloatArray | None = None
) -> NDArray[np.generic]:
    """Quantise vectors, as ``sentence_transformers.quantize_embeddings`` does.

    Args:
        vectors: Shape (n, dimension).
        precision: ``"int8"`` and ``"uint8"`` scale by ranges; ``"binary"`` and ``"ubinary"`` keep
            the sign of each dimension; ``"float32"`` and ``None`` return *vectors*.
        ranges: Smallest and largest value of each dimension, shape (2, dimension). ``None``
            calibrates on *vectors*, so that each result depends on the other vectors.

    Returns:
        Shape (n, dimension); (n, dimension / 8), rounded up, for ``"binary"`` and ``"ubinary"``.
    """
    if precision in (None, "float32"):
        return vectors
    if precision in ("binary", "ubinary"):
        bits = np.packbits(vectors > 0, axis=-1)
        return bits if precision == "ubinary" else (bits - np.uint8(128)).view(np.int8)
    low, high = np.asarray(
        (vectors.min(axis=0), vectors.max(axis=0)) if ranges is None else ranges, dtype=np.float32
    )
    step = np.where(high > low, (high - low) / 255, 1)
    levels: FloatArray = np.clip(np.floor((vectors - low) / step), 0, 255)
    if precision == "uint8":
        return levels.astype(np.uint8)
    return (levels - 128).astype(np.int8)
