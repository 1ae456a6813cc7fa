"""Sizes of memory, as users write them."""

from __future__ import annotations

import re

from safe_embed.errors import ConfigError
from safe_embed.foreign import shown

_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(B|[KMGT]i?B)", re.ASCII)
_UNITS = {
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)},
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("KMGT", 1)},
    "B": 1,
}


def parse_size(size: object) -> int:
    """Read a size.

    >>> parse_size("300 MiB"), parse_size("1.5GB"), parse_size(5)
    (314572800, 1500000000, 5)

    Args:
        size: Bytes, or a number with one of the units B, KB, MB, GB, TB, KiB, MiB, GiB, TiB.

    Returns:
        The size in bytes.

    Raises:
        ConfigError: If it is no size, or less than one byte.
    """
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    number = int(float(found[1]) * _UNITS[found[2]]) if found else size
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        msg = f"{shown(size)} is no size of memory. Give bytes, or a text such as '300 MiB'."
        raise ConfigError(msg)
    return number


def format_size(size: int) -> int | str:
    """Write a size so that ``parse_size`` reads the same number.

    Args:
        size: In bytes, 1 or more.

    Returns:
        Such as ``"300 MiB"``; the number itself where no unit divides it.
    """
    exact = [(scale, unit) for unit, scale in _UNITS.items() if size % scale == 0]
    scale, unit = max(exact)
    return size if scale == 1 else f"{size // scale} {unit}"


def format_mib(size: float) -> str:
    """Write a size for people.

    Args:
        size: In bytes.

    Returns:
        Such as ``"1,024 MiB"``.
    """
    return f"{size / 2**20:,.0f} MiB"
