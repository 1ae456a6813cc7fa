"""Signals that all processes of a group are sent together: the parent alone decides what they mean.

A terminal, a process manager or ``kill`` sends them to the parent and its children at once. The
parent may let running calls end first; a child ends when the parent hangs up, or is gone.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# By name: Windows has no SIGHUP.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")


def _signals() -> list[signal.Signals]:
    return [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


@contextmanager
def held_back() -> Iterator[None]:
    """Start children that get such signals only once they have called :func:`leave_to_parent`.

    Yields:
        Nothing; the calling thread gets none of these signals meanwhile.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_to_parent() -> None:
    """Let this process go on whatever its group is sent; to be called on the main thread.

    What this process starts is not changed: neither a program nor a forked copy.
    """
    changed = {}
    for number in _signals():
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            changed[number] = signal.signal(number, _do_nothing)
            signal.siginterrupt(number, False)  # noqa: FBT003 it is positional only
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _signals())

    def restore() -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in changed.items():
                signal.signal(number, handler)

    os.register_at_fork(after_in_child=restore)


def _do_nothing(*_: object) -> None:
    """Unlike an ignored signal, this is not passed on to programs that are started."""
