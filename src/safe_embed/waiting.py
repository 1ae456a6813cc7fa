"""What comes before a call is queued: a wait for room, and only then its texts are read."""

from __future__ import annotations

import operator
from collections.abc import Generator, Sized
from concurrent.futures import Future
from typing import Any

import numpy as np

from safe_embed.backends.admission import Place
from safe_embed.backends.interface import Backend
from safe_embed.errors import ConfigError, both
from safe_embed.foreign import shown
from safe_embed.validation import check_texts


def check_priority(priority: Any) -> int:
    """Check that the priority of a call is an integer.

    Args:
        priority: What the caller passed.

    Returns:
        The priority.

    Raises:
        ConfigError: If *priority* is anything else.
    """
    if isinstance(priority, bool) or not isinstance(priority, int | np.integer):
        raise ConfigError(
            both(
                f"priority must be an integer, got {shown(priority)}. Calls of a higher priority "
                "are served first; use 0 for bulk, and 1 for queries.",
                f"priority には整数を渡してください（渡された値: {shown(priority)}）。大きいほど"
                "先に処理されます。まとめて埋め込むときは 0、質問には 1 のように使います。",
            )
        )
    return operator.index(priority)


def enter(backend: Backend, inputs: Any, priority: Any, *, must_wait: bool = False) -> Place:
    """Ask for a place for a call, before its texts are read.

    Args:
        backend: That is to do the call.
        inputs: What the caller passed. If it has no length, any room will do.
        priority: What the caller passed.
        must_wait: Whether the call waits for a place also where others are refused.

    Returns:
        The place.

    Raises:
        ConfigError: If *priority* is no integer.
        QueueFullError: If there is no room, and callers are not to wait.
    """
    size = _size_of(inputs)
    return backend.enter(1 if size is None else size, check_priority(priority), must_wait=must_wait)


def admission(place: Place) -> Generator[Future[None], Any, None]:
    """Wait until a call may be queued.

    Args:
        place: Of the call.

    Yields:
        The future to wait for, if there is a wait.
    """
    if place.admitted.done():
        place.admitted.result()
    else:
        yield place.admitted


def read_texts(place: Place, inputs: Any) -> tuple[list[str], bool]:
    """Read and check the texts of a call that was admitted.

    Args:
        place: Of the call.
        inputs: What the caller passed.

    Returns:
        As :func:`safe_embed.validation.check_texts`.

    Raises:
        InvalidTextError: If an input is no text.
    """
    if _size_of(inputs) is None:
        place.resize(0)  # a generator may take its time: others need not wait for its source
    texts, single = check_texts(inputs)
    place.resize(len(texts))
    return texts, single


def _size_of(inputs: Any) -> int | None:
    """Count the texts of a call without reading them; ``None`` if only reading them tells."""
    if isinstance(inputs, str):
        return 1
    try:
        return len(inputs) if isinstance(inputs, Sized) else None
    except Exception:  # noqa: BLE001 it may be a class of the caller's, which raises anything
        return None
