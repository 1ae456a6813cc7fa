"""The file that :func:`safe_embed.watch` writes: its first line, and how it is read.

Each line is a JSON object. The first is the header, every other a reading.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from safe_embed.diagnosis.readings import Reading
from safe_embed.errors import ConfigError, both

# The first key of the header, and the version of the format.
FORMAT = "safe_embed_log"
VERSION = 1
# The header is a few hundred bytes long.
_MOST_HEADER_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Log:
    """The content of a memory log.

    Attributes:
        header: What the process ran on, and how the log was taken: ``packages``, ``python``,
            ``platform``, ``allocator``, ``pid``, ``time``, ``interval_seconds``, ``each_call``.
        readings: All readings, oldest first.
    """

    header: dict[str, Any]
    readings: tuple[Reading, ...]

    @property
    def each_call(self) -> bool:
        """Whether memory was read after each call, and not only at an interval."""
        return bool(self.header.get("each_call"))


def header_line(**values: Any) -> bytes:
    """Make the first line of a log.

    Args:
        **values: Name -> value, for JSON.

    Returns:
        The line, with its end.
    """
    return to_line({FORMAT: VERSION, **values})


def to_line(values: dict[str, Any]) -> bytes:
    """Make a line of a log.

    Args:
        values: Name -> value, for JSON.

    Returns:
        The line, with its end.
    """
    return json.dumps(values).encode() + b"\n"


def is_log(path: Path) -> bool:
    """Tell whether a file begins as a log.

    Args:
        path: A file.

    Returns:
        Whether its first line is a header.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        return _header(file.readline(_MOST_HEADER_BYTES)) is not None


def read_log(path: str | PathLike[str]) -> Log:
    """Read a log that :func:`safe_embed.watch` has written.

    Args:
        path: The file. Its process may still run, or have been killed: a last line that is broken
            off is left out.

    Returns:
        The log.

    Raises:
        ConfigError: If the file cannot be read, is no such log, or has a broken line before its
            last.
    """
    try:
        first, *lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(
            both(
                f"{path}: cannot be read ({error.strerror}). Give a log of safe_embed.watch.",
                f"{path}: 読み込めません（{error.strerror}）。safe_embed.watch の記録を指定して"
                "ください。",
            )
        ) from error
    header = _header(first)
    if header is None:
        raise ConfigError(
            both(
                f"{path}: is no memory log. Give a file that safe_embed.watch has written.",
                f"{path}: メモリの記録ではありません。safe_embed.watch が書いたファイルを指定して"
                "ください。",
            )
        )
    # What follows the last end of a line is empty, or was broken off.
    readings = (_reading(path, number, line) for number, line in enumerate(lines[:-1], 2))
    return Log(header, tuple(readings))


def _header(line: bytes) -> dict[str, Any] | None:
    values = _object(line)
    return values if values and FORMAT in values else None


def _reading(path: str | PathLike[str], number: int, line: bytes) -> Reading:
    values = _object(line)
    if values is None or not _is_number(values.get("elapsed_seconds")):
        raise ConfigError(
            both(
                f"{path}: line {number} is no reading; the file was changed. Delete the line.",
                f"{path}: {number} 行目が測定値ではありません。ファイルが書き換えられています。"
                "その行を削除してください。",
            )
        )
    return Reading.from_dict(
        {name: value for name, value in values.items() if _is_number(value) or _are_counts(value)}
    )


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_counts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))
