"""Arrays in a file, in numpy's npz format."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4
from zipfile import BadZipFile

import numpy as np

from safe_embed.errors import ConfigError, both

_FORMAT = 1
# What numpy raises for a file of another kind, or one that is not whole.
_UNREADABLE = (ValueError, KeyError, EOFError, BadZipFile, TypeError, AttributeError)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write a file, whole or not at all.

    Args:
        path: Of the file. One that is there is replaced.
        arrays: By name.
    """
    content = io.BytesIO()
    named: dict[str, Any] = {"format": _FORMAT, **arrays}
    np.savez(content, **named)
    # Not tempfile's: such a file is for its owner alone, and stays so in its place.
    part = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with part.open("xb") as file:
            file.write(content.getvalue())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def read_arrays(path: Path, needed: Sequence[str]) -> dict[str, Any]:
    """Read a file; nothing in it is unpickled.

    Args:
        path: Of the file.
        needed: Names of arrays that must be there.

    Returns:
        The arrays by name.

    Raises:
        ConfigError: If it is no such file, not whole, or of a later version.
    """
    reason = "format"
    try:
        # numpy leaves a file open that it cannot read.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if int(file["format"]) == _FORMAT:
                return {name: file[name] for name in {*file.files, *needed}}
    except _UNREADABLE as error:
        reason = type(error).__name__
    msg = both(
        f"{path} holds no calibration that this version can read ({reason}). Write it anew with "
        "Calibration.fit(…).save(…).",
        f"{path} は、この版で読めるキャリブレーションではありません（{reason}）。"
        "Calibration.fit(…).save(…) で作り直してください。",
    )
    raise ConfigError(msg)
