"""What the matrix product alone would take: the limit of any way to run a model of this shape."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

# Rows of a product; the best is taken, so that the limit is one.
ROWS = {"cpu": (512, 1024, 2048, 4096), "cuda": (4096, 16_384, 65_536)}


def operations(config: Any, lengths: Sequence[int]) -> int:
    """Count the floating-point operations of texts, with no padding.

    >>> from types import SimpleNamespace
    >>> shape = SimpleNamespace(hidden_size=384, intermediate_size=1536, num_hidden_layers=12)
    >>> round(operations(shape, [480]) / 480 / 1e6, 1)  # millions a token
    51.3

    Args:
        config: The shape of a BERT.
        lengths: Tokens of each text.

    Returns:
        Those of the products with weights, and of the two in attention.
    """
    width, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    weights = 2 * (4 * width * width + 2 * width * inner)
    return layers * sum(length * weights + 4 * width * length * length for length in lengths)


def products(config: Any, dtype: Any, count: int, device: str = "cpu") -> Callable[[], None]:
    """Give a function that does so many operations, all in products of the shapes of the model.

    Args:
        config: The shape of a BERT.
        dtype: Such as ``torch.float32``.
        count: Operations.
        device: Where.

    Returns:
        The function.
    """
    import torch

    width, inner = config.hidden_size, config.intermediate_size
    shapes = ((width, 3 * width), (width, width), (width, inner), (inner, width))
    weights = [torch.randn(after, before, dtype=dtype, device=device) for before, after in shapes]

    def inputs(rows: int) -> list[Any]:
        return [torch.randn(rows, before, dtype=dtype, device=device) for before, _ in shapes]

    def layer(ready: list[Any], rows: int) -> None:
        for one, weight in zip(ready, weights, strict=True):
            torch.nn.functional.linear(one[:rows], weight)

    def run(ready: list[Any], wanted: int) -> None:
        rows = len(ready[0])
        each = sum(2 * rows * before * after for before, after in shapes)
        whole, rest = divmod(wanted, each)
        with torch.inference_mode():
            for _ in range(whole):
                layer(ready, rows)
            layer(ready, rows * rest // each)
        if device != "cpu":
            torch.cuda.synchronize()

    def pace(rows: int) -> float:
        ready, trial = inputs(rows), max(count // 8, 4 * 10**9)
        run(ready, trial // 4)
        started = time.perf_counter()
        run(ready, trial)
        return time.perf_counter() - started

    best = inputs(min(ROWS[device.partition(":")[0]], key=pace))
    return lambda: run(best, count)
