"""Progress bars of transformers in a process whose standard error is closed, such as a daemon."""

from __future__ import annotations

from safe_embed.ipc.descriptors import has_standard_error


def disable_unwritable_bars() -> None:
    """Disable the progress bars of transformers for good, if standard error is closed.

    A bar that cannot be written raises an error with tqdm's lock held, and the process then hangs
    when it ends. Source: ``tqdm.std.tqdm.refresh`` of tqdm 4.70.
    """
    if not has_standard_error():
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
