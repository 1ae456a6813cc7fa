"""Vectors in the form that the caller asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from safe_embed.types import ChunkedText, FloatArray


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
    if vectors.dtype == np.float32:
        found = found.to(device, getattr(torch, dtype.removeprefix("torch.")))
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
    )


def finish_others(results: Sequence[Any], finished: Callable[[FloatArray], Any]) -> list[Any]:
    """Finish the vectors that there are, and leave ``None`` where there are none."""
    there = [one for one in results if one is not None]
    vectors = iter(finished(np.stack(there)) if there else ())
    return [None if one is None else next(vectors) for one in results]
