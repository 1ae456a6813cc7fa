"""Fingerprints of the files of a model, to detect that they were changed after the load."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple

from safe_embed.errors import ReloadError, both

# (path, size in bytes, modification time in ns or the name of the blob in a Hugging Face cache)
Mark = tuple[str, int, int | str]
Fingerprint = tuple[Mark, ...]


class Identity(NamedTuple):
    """The origin of a loaded model. Every later load must have the same.

    Attributes:
        revision: The commit on the Hugging Face Hub; ``None`` if it is not known.
        files: The marks of the model's files; empty if they are not known.
    """

    revision: str | None = None
    files: Fingerprint = ()

    def agrees(self, other: Identity) -> bool:
        """Tell whether two loads have used the same files.

        Args:
            other: The identity of the other load.

        Returns:
            Whether the revisions are equal, and the files of one load are a subset of the other's.
        """
        own, others = set(self.files), set(other.files)
        return self.revision == other.revision and (own <= others or others <= own)


def files_changed(paths: Sequence[str]) -> ReloadError:
    """Make the error for a model whose files were changed since it was loaded.

    Args:
        paths: Paths of the changed files, or other descriptions; one or more.

    Returns:
        The error; its message names the first path and the number of the others.
    """
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return ReloadError(
        both(
            f"The files of the model have changed since it was loaded: {paths[0]}{more}. Vectors "
            "of two models must not be mixed. Restore the files, or make a new SafeEncoder for the "
            "new model.",
            f"モデルのファイルが、読み込んだときから変わっています（{paths[0]}{more}）。ファイルを"
            "元に戻すか、SafeEncoder を作り直してください。",
        )
    )


def other_vectors() -> ReloadError:
    """Make the error for a fresh model that gives other vectors than the one before.

    Returns:
        The error.
    """
    return ReloadError(
        both(
            "The model that was loaded gives other vectors than the one before. Vectors of two "
            "models must not be mixed: make a new SafeEncoder for the new model.",
            "読み込み直したモデルが、前のモデルと違うベクトルを作ります。新しいモデルには "
            "SafeEncoder を作り直してください。",
        )
    )


def marks_below(folder: Path) -> Fingerprint:
    """Compute the marks of all files in the folder of a model; links are followed.

    Args:
        folder: The folder. Hidden files and folders, such as .git, are ignored.

    Returns:
        The mark of each file.
    """
    marks = map(mark_of, _files(folder))
    return tuple(mark for mark in marks if mark is not None)


def mark_of(path: Path) -> Mark | None:
    """Compute the mark of a file.

    Args:
        path: The file. In a Hugging Face cache it is a link to a blob named by its hash.

    Returns:
        Path, size, and modification time or name of the blob; ``None`` if there is no file.
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
    """Yield the files of a folder recursively, in order, and follow links."""
    real = os.path.realpath(folder)
    if real in above:  # a link to a parent folder
        return
    with suppress(OSError):  # deleted meanwhile
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                yield from _files(path, (*above, real))
            else:
                yield path
