"""Progress bars of transformers in a process whose standard error is closed, such as a daemon."""

from __future__ import annotations

import os

_STANDARD_ERROR = 2


def disable_unwritable_bars() -> None:
    """Disable the progress bars of transformers for good, if they would be written to nothing.

    A bar that cannot be written raises an error with tqdm's lock held, and the process then hangs
    when it ends. Source: ``tqdm.std.tqdm.refresh`` of tqdm 4.70.
    """
    if not _has_standard_error():
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _has_standard_error() -> bool:
    """Whether descriptor 2 is open, and is not a file that the program opened in its place."""
    try:
        return os.get_inheritable(_STANDARD_ERROR)
    except OSError:
        return False
