"""A child process ends with its parent, whatever it is doing then."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

# How often a child looks whether its parent is still there, should nobody hang up.
_PARENT_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Let this process end with its parent; on Linux even inside native code that hangs."""
    _die_with_parent()
    threading.Thread(target=_watch_parent, args=(os.getppid(),), name="parent", daemon=True).start()


def _watch_parent(parent: int) -> None:
    """End with the parent, even if a forked copy of it keeps the socket open."""
    pause = threading.Event()
    while os.getppid() == parent:
        pause.wait(_PARENT_SECONDS)
    os._exit(0)


def _die_with_parent() -> None:
    """Ask Linux to kill this process with its parent, even inside native code that hangs."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
