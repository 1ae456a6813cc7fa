"""Texts that come one after the other: embedded in portions of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np

from safe_embed.backends.calls import wait_for
from safe_embed.backends.interface import Backend
from safe_embed.errors import ConfigError, WorkerError, both
from safe_embed.foreign import shown
from safe_embed.inference.request import Embed, Request
from safe_embed.types import FloatArray
from safe_embed.validation import portions
from safe_embed.vectors import check_precision
from safe_embed.waiting import enter


def check_stream(inputs: Any, precision: Any, ranges: Any) -> None:
    """Refuse what cannot be streamed, before anything is read.

    Args:
        inputs: What the caller passed.
        precision: Of the vectors.
        ranges: What integers are calibrated on; ``None`` for nothing.

    Raises:
        ConfigError: If *inputs* is a single text, has no order, or is no iterable; if *precision*
            is unknown, or needs ranges that are missing.
    """
    check_precision(precision)
    if precision in ("int8", "uint8") and ranges is None:
        msg = both(
            f"precision={shown(precision)} needs ranges=… in a stream, which has no whole to "
            "calibrate on. Pass the smallest and largest values of a sample, shape "
            "(2, dimension).",
            f"encode_stream の precision={shown(precision)} には ranges=… が必要です。"
            "標本の最小値と最大値を、形 (2, 次元) で渡してください。",
        )
        raise ConfigError(msg)
    if isinstance(inputs, str | bytes | Mapping | set | frozenset) or not isinstance(
        inputs, Iterable
    ):
        kind = type(inputs).__name__
        msg = both(
            f"inputs is {kind}. Pass an iterable of str; encode takes a single text.",
            f"inputs が {kind} です。str を順に返すものを渡してください。一つの文章なら encode を"
            "使います。",
        )
        raise ConfigError(msg)


def stream_vectors(
    backend: Backend,
    inputs: Iterable[str],
    request: Callable[[], Request],
    finish: Callable[[FloatArray], np.ndarray[Any, Any]],
    *,
    priority: int,
) -> Iterator[np.ndarray[Any, Any]]:
    """Embed a stream, a portion at a time.

    Args:
        backend: Does the calls.
        inputs: Gives texts; read only as far as vectors are taken.
        request: Makes the request of a portion, without its texts.
        finish: Takes raw vectors of shape (n, dimension) and gives those of the caller.
        priority: Of the calls.

    Yields:
        A vector (dimension,) for each text, in order.

    Raises:
        InvalidTextError: If an input is no text; the vectors of all texts before it come first.
        WorkerError: If no worker process survives a text; likewise.
    """
    first = 0
    read = portions(inputs)
    while True:
        lost: WorkerError | None = None
        with enter(backend, read, priority, must_wait=True) as place:
            wait_for(place.admitted)
            place.resize(0)  # a source may take its time: others need not wait for it
            texts = next(read, None)
            if texts is None:
                return
            place.resize(len(texts))
            call = Embed(replace(request(), texts=texts, first_index=first))
            try:
                vectors = list(wait_for(backend.submit(call, place))) if texts else []
            except WorkerError as error:
                # As with bad input: what stands before it is given first.
                lost = error
                vectors = list(takewhile(lambda vector: vector is not None, error.results))
        first += len(texts)
        if vectors:
            yield from finish(np.stack(vectors))
        if lost is not None:
            raise lost
