"""What the files of a model look like, to see whether another model lies there later."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from safe_embed.errors import ReloadError

Mark = tuple[str, int, int | str]
Fingerprint = tuple[Mark, ...]


class Identity(NamedTuple):
    """By what it is known where a model came from: what every later load is held to.

    Attributes:
        revision: Of a hub.
        files: What they look like.
    """

    revision: str | None = None
    files: Fingerprint = ()

    def agrees(self, other: Identity) -> bool:
        """Tell whether two loads at about one time have had the same files.

        Args:
            other: Of the other load.

        Returns:
            Whether the files of one are all among those of the other.
        """
        ours, theirs = set(self.files), set(other.files)
        return self.revision == other.revision and (ours <= theirs or theirs <= ours)


def files_changed(paths: Sequence[str]) -> ReloadError:
    """Make the error of a model whose files are not what they were.

    Args:
        paths: Of those files.

    Returns:
        The error.
    """
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return ReloadError(
        f"The files of the model have changed since it was loaded: {paths[0]}{more}. Vectors of "
        "two models must not be mixed. Put the files back, or make a new SafeEncoder for the other "
        "model.\nモデルのファイルが、読み込んだときから変わっています。ファイルを元に戻すか、"
        "SafeEncoder を作り直してください。"
    )


def marks_below(folder: Path) -> Fingerprint:
    """Note what the files of a folder look like, those behind links too.

    Args:
        folder: Of a model. What is hidden in it is no model's, such as what git keeps.

    Returns:
        The mark of each file.
    """
    marks = map(mark_of, _files(folder))
    return tuple(mark for mark in marks if mark is not None)


def mark_of(path: Path) -> Mark | None:
    """Note what a file looks like. In a hub's cache it is a link to a blob, named by its content.

    Args:
        path: Of the file.

    Returns:
        Its path, its size, and its time or the name of its blob; ``None`` if there is no file.
    """
    try:
        stat = path.stat()
        target = path.resolve() if path.is_symlink() else path
    except OSError:
        return None
    if not S_ISREG(stat.st_mode):
        return None
    is_blob = target is not path and target.parent.name == "blobs"
    return str(path), stat.st_size, target.name if is_blob else stat.st_mtime_ns


def _files(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """List the files of a model, whatever links lead to them."""
    real = os.path.realpath(folder)
    if real in above:  # a link leads round
        return
    with suppress(OSError):  # what is gone is no file
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                yield from _files(path, (*above, real))
            else:
                yield path
