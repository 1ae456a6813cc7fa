"""Parse and format sizes of memory, such as ``"300 MiB"``."""

from __future__ import annotations

import re

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import shown

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(B|[KMGT]i?B)", re.ASCII)
_UNITS = {
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)},
    "B": 1,
}


def parse_size(size: object) -> int:
    """Parse a size.

    >>> parse_size("300 MiB"), parse_size("1.5GB"), parse_size(5)
    (314572800, 1500000000, 5)

    Args:
        size: A number of bytes (int), or a string of a number and one of the units B, KB, MB, GB,
            TB, KiB, MiB, GiB, TiB.

    Returns:
        The size in bytes.

    Raises:
        ConfigError: If *size* is not such a number or string, or is less than one byte.
    """
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    number = int(float(match[1]) * _UNITS[match[2]]) if match else size
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise ConfigError(
            both(
                f"{shown(size)} is not a memory size. Give bytes, or a text such as '300 MiB'.",
                f"{shown(size)} はメモリの大きさではありません。バイト数か '300 MiB' のような"
                "文字列を渡してください。",
            )
        )
    return number


def is_size(text: str) -> bool:
    """Tell whether a string is a size that :func:`parse_size` can parse.

    Args:
        text: Any string.

    Returns:
        Whether it is, and of one byte or more.
    """
    match = _SIZE.fullmatch(text)
    return match is not None and float(match[1]) * _UNITS[match[2]] >= 1


def format_size(size: int) -> int | str:
    """Format a size so that ``parse_size`` returns the same number.

    Args:
        size: In bytes, 1 or more.

    Returns:
        A string such as ``"300 MiB"``; *size* itself if it is not a multiple of a unit.
    """
    exact = [(scale, unit) for unit, scale in _UNITS.items() if size % scale == 0]
    scale, unit = max(exact)
    return size if scale == 1 else f"{size // scale} {unit}"


def format_mib(size: float | None) -> str:
    """Format a size in MiB for messages.

    Args:
        size: In bytes; ``None`` if it is not known.

    Returns:
        A string such as ``"1,024 MiB"``; ``"-"`` for ``None``.
    """
    return "-" if size is None else f"{size / 2**20:,.0f} MiB"
