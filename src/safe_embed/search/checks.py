"""Vectors that callers hand in, checked before anything is computed with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from safe_embed.errors import ConfigError, both
from safe_embed.types import FloatArray
from safe_embed.vectors import as_numbers


def checked_rows(name: str, vectors: Any, dimension: int | None = None) -> FloatArray:
    """Check vectors.

    Args:
        name: What the message calls them, such as ``"query_vectors"``.
        vectors: What the caller passed: shape (n, dimension) or (dimension,).
        dimension: What they must have; ``None`` for any.

    Returns:
        The vectors, float32, shape (n, dimension).

    Raises:
        ConfigError: If they are no numbers, of another shape, or not finite.
    """
    rows = np.atleast_2d(as_numbers(f"{name}=", vectors))
    wanted = rows.shape[-1] if dimension is None else dimension
    if rows.ndim == 2 and rows.shape[-1] == wanted and np.isfinite(rows).all():  # noqa: PLR2004 (n, dimension)
        return rows
    msg = both(
        f"{name} has shape {rows.shape}, or holds NaN or infinity, where shape (n, {wanted}) and "
        "finite numbers are needed. Use vectors of one model, with one truncate_dim.",
        f"{name} の形が {rows.shape} か、NaN や無限大を含みます。形 (n, {wanted}) の有限の数が"
        "必要です。同じモデルと同じ truncate_dim のベクトルを使ってください。",
    )
    raise ConfigError(msg)
