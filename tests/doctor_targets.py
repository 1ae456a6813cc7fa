"""Functions that the doctor examines in tests; its processes import them. No model is loaded."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

_held: list[Any] = []


def flat(text: str) -> int:
    """Hold nothing."""
    return len(text)


def holds_a_list(text: str) -> None:
    """Hold 4 kB of each call."""
    _held.append(bytes(4_000))


def leaks() -> None:
    """Lose 50 kB that Python knows nothing of; takes no text."""
    malloc = ctypes.CDLL(None).malloc
    malloc.restype = ctypes.c_void_p
    ctypes.memset(malloc(50_000), 1, 50_000)


def opens_files(text: str) -> None:
    """Open a file, and never close it."""
    _held.append(Path(os.devnull).open(encoding="utf-8"))  # noqa: SIM115 what is tested


def fails(text: str) -> None:
    """Fail with the text in the message."""
    raise ValueError(text)


def dies(text: str) -> None:
    """End the process."""
    os._exit(3)


NOT_A_FUNCTION = 5
