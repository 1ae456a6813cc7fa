"""Vectors after pooling: truncated, normalised, quantised, and in the form that callers ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import shown
from safe_embed.types import ChunkedText, FloatArray

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]


def in_form(
    vectors: np.ndarray[Any, Any] | None, *, dtype: str, device: Any, tensor: bool, array: bool
) -> Any:
    """Give vectors in the form that the caller asked for; ``None`` for no texts at all.

    *dtype*, by name, and *device* are those of the model: as upstream, a tensor has both, and an
    array of a float16 model is float16; bfloat16 has no numpy type.
    """
    if array and not tensor:
        if vectors is None:
            return np.array([])
        is_half = dtype == "torch.float16" and vectors.dtype == np.float32
        return vectors.astype(np.float16) if is_half else vectors
    import torch

    if vectors is None:
        return torch.tensor([], device=device) if tensor else []
    found = torch.from_numpy(vectors)
    if vectors.dtype.kind == "f":
        # An engine without weights of torch's, such as ONNX, has no dtype.
        found = found.to(device, getattr(torch, dtype.removeprefix("torch."), found.dtype))
    return found if tensor else list(found)


def map_vectors(text: ChunkedText, change: Callable[[FloatArray], FloatArray]) -> ChunkedText:
    """Change the vectors of a text's chunks, and that of the text.

    Args:
        text: The text.
        change: Takes vectors, shape (n, dimension) or (dimension,), and gives others.

    Returns:
        The text with the changed vectors.
    """
    return ChunkedText(
        text.spans,
        text.token_counts,
        change(text.vectors),
        text.is_long,
        change(text.pooled()),
        text.cut_clusters,
        text.fingerprint,
    )


def finish_others(results: Sequence[Any], finished: Callable[[FloatArray], Any]) -> list[Any]:
    """Finish the vectors that there are, and leave ``None`` where there are none."""
    there = [one for one in results if one is not None]
    vectors = iter(finished(np.stack(there)) if there else ())
    return [None if one is None else next(vectors) for one in results]


_NEARLY_ALL = 0.95
_SMALLEST_NORM = 1e-12  # as torch.nn.functional.normalize


def normalize(vectors: FloatArray) -> FloatArray:
    """Scale vectors to length 1.

    Args:
        vectors: Shape (dimension,) or (n, dimension); zero vectors stay zero.

    Returns:
        An array of the same shape; rows are unit vectors.
    """
    with np.errstate(over="ignore"):
        norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if np.isinf(norms).any() and np.isfinite(vectors).all():  # squares above 3e38 overflow
        largest = np.abs(vectors).max(axis=-1, keepdims=True)
        return normalize(vectors / np.maximum(largest, 1))
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
        msg = both(
            f"dim={shown(dim)} is not a valid dimension. Use a positive integer.",
            f"dim={shown(dim)} は次元として使えません。正の整数にしてください。",
        )
        raise ConfigError(msg)
    kept = normalize(as_numbers("vectors=", vectors)[..., :dim])
    width = [(0, 0)] * (kept.ndim - 1) + [(0, dim - kept.shape[-1])]
    padded: FloatArray = np.pad(kept, width)
    return padded


def truncate_and_normalize(
    vectors: FloatArray, truncate_dim: int | None, *, unit_length: bool
) -> FloatArray:
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
        msg = both(
            f"precision={precision!r} is calibrated on the texts of a call, and a single text has "
            "no range. Pass two or more texts, or use encode_stream with ranges=…",
            f"precision={precision!r} の範囲は呼び出しの文章から決めるので、文章が一つでは"
            "決まりません。二つ以上渡すか、encode_stream に ranges=… を渡してください。",
        )
        raise ConfigError(msg)
    if precision is not None and precision not in get_args(Precision):
        names = ", ".join(map(repr, get_args(Precision)))
        msg = both(
            f"precision={shown(precision)} is not supported. Use one of {names}.",
            f"precision={shown(precision)} は使えません。{names} のどれかにしてください。",
        )
        raise ConfigError(msg)


def count_constant_signs(vectors: FloatArray) -> int:
    """Count the dimensions in which nearly all vectors have the same sign.

    Args:
        vectors: Shape (n, dimension).

    Returns:
        How many dimensions have one sign in 95 % of the vectors or more.
    """
    positive = (vectors > 0).mean(axis=0)
    return int((np.maximum(positive, 1 - positive) >= _NEARLY_ALL).sum())


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
    shape = as_numbers("ranges=", ranges).shape
    if dim is not None and shape != (2, dim):
        msg = both(
            f"ranges has shape {shape}. It must have shape (2, {dim}): smallest, largest.",
            f"ranges の形が {shape} です。(2, {dim})（最小値と最大値）にしてください。",
        )
        raise ConfigError(msg)


def as_numbers(prefix: str, value: Any, dtype: Any = np.float32) -> FloatArray:
    """Convert a value to an array of numbers; numpy's own error may show a text.

    Args:
        prefix: Begins the message of the error, up to the value.
        value: Any value.
        dtype: Of the array.

    Returns:
        The array.

    Raises:
        ConfigError: If *value* is not an array of numbers.
    """
    try:
        return np.asarray(value, dtype=dtype)
    except (TypeError, ValueError) as error:
        kind = type(error).__name__
    msg = both(
        f"{prefix}{shown(value)}, which is not an array of numbers ({kind}).",
        f"{prefix}{shown(value)} は数の配列ではありません（{kind}）。",
    )
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
