"""Files that are whole or not there, and errors of files in words."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safe_embed.errors import ConfigError, both


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn an OSError that is raised inside into an error that says what to do.

    Args:
        name: Of the file or folder.

    Yields:
        Nothing.

    Raises:
        ConfigError: If a file cannot be read or written.
    """
    try:
        yield
    except OSError as error:
        # pyarrow names no reason of the system where a file is damaged.
        reason = error.strerror or "its content is damaged"
        reason_ja = error.strerror or "内容が壊れています"
        raise ConfigError(
            both(
                f"{name} cannot be read or written: {reason}. Check path, permissions and "
                "free space; finished parts are kept.",
                f"{name} を読み書きできません（{reason_ja}）。パス、権限、空き容量を確認して"
                "ください。終わった分は残っています。",
            )
        ) from error


def write_whole(path: Path, write: Callable[[IO[bytes]], None], scratch: Path) -> None:
    """Write a file that is there whole, or not at all: after a kill or a loss of power, too.

    Args:
        path: Of the file. One that is there is replaced.
        write: Writes the content.
        scratch: Where the content lies until it is whole, on the same file system.
    """
    with scratch.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last beyond a loss of power, where the system can.

    Args:
        folder: The folder.
    """
    if os.name == "nt":  # folders cannot be opened there
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def file_identity(path: Path) -> dict[str, Any]:
    """Say what a file is known by.

    Args:
        path: Of the file.

    Returns:
        Its size and the time of its last change.
    """
    stat = path.stat()
    return {"bytes": stat.st_size, "changed_ns": stat.st_mtime_ns}
