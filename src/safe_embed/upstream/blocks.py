"""Layers of long texts, computed in blocks of tokens, so that less memory is needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# Tokens that are computed at once. A feed-forward layer would take 400 MB for 8,190 tokens of
# ruri-v3-310m's shape.
_BLOCK_TOKENS = 512
# Batches of no more tokens than this go through feed-forward layers at once.
_MOST_TOKENS = 2048


def attend(
    sdpa: Callable[..., tuple[torch.Tensor, None]], states: list[torch.Tensor], reach: int | None
) -> torch.Tensor:
    """Compute attention within chunks of one length, in blocks of queries if it has a window.

    A block sees only the keys that its window reaches, so that no mask of length x length is
    needed: for 8,190 tokens that would take 268 MB in float32.

    Args:
        sdpa: Attention of query, key, value and mask.
        states: Query, key and value, each of shape (n, heads, length, width).
        reach: Tokens fewer than this apart attend to each other; ``None`` for all.

    Returns:
        The output, shape (n, length, heads, width).
    """
    import torch

    query, key, value = states
    length = query.shape[2]
    if reach is None or length <= reach:
        return sdpa(query, key, value, None)[0]
    outputs = []
    for start in range(0, length, _BLOCK_TOKENS):
        end = min(start + _BLOCK_TOKENS, length)
        first, last = max(0, start - reach + 1), min(length, end + reach - 1)
        apart = torch.arange(start, end)[:, None] - torch.arange(first, last)
        mask = (apart.abs() < reach)[None, None]
        seen = slice(first, last)
        outputs.append(sdpa(query[:, :, start:end], key[:, :, seen], value[:, :, seen], mask)[0])
    return torch.cat(outputs, dim=1)


def feed_in_blocks(inner: Any, tokens: int) -> list[Callable[[], None]]:
    """Make the feed-forward layers of a ModernBERT compute a long batch in blocks of tokens.

    Args:
        inner: A model of transformers; others than ModernBERT are left as they are.
        tokens: Of the batch.

    Returns:
        What undoes that.
    """
    if tokens <= _MOST_TOKENS or inner.config.model_type != "modernbert":
        return []
    layers = [layer.mlp for layer in inner.layers]
    for layer in layers:
        layer.forward = partial(_fed, layer.forward)
    return [partial(delattr, layer, "forward") for layer in layers]


def _fed(forward: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor) -> torch.Tensor:
    """Compute a layer that works on single tokens; shape (1, tokens, width)."""
    import torch

    return torch.cat([forward(block) for block in torch.split(states, _BLOCK_TOKENS, 1)], dim=1)
