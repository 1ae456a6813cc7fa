"""What comes from callers into our messages: their values.

A caller may pass a text where a name is wanted, or an object whose repr holds a text. So a message
shows what cannot well be a text, and of all else the type and the length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from numbers import Integral, Real
from operator import index
from typing import Any

# Names of prompts, arguments, devices: "query", "token_weighted", "cuda:0". Japanese words are
# identifiers to Python too, but here they may be a text.
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,23}")
# A few marks say nothing: "[", "*.*".
_MARKS = re.compile(r"[!-/:-@\[-`{-~]{0,7}")
_LARGEST_SHOWN = 10**20


def is_word(value: object) -> bool:
    """Tell whether a value is a short ASCII identifier, as names of settings are.

    Args:
        value: Anything.

    Returns:
        Whether it can be shown; a single word of Latin letters that was meant as a text can, too.
    """
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def shown(value: object) -> str:
    """Write a caller's value for a message that must not hold a text.

    >>> shown("query"), shown(None), shown(0.5), shown("今日は雨です。"), shown([1, 2])
    ("'query'", 'None', '0.5', '<str of 7 characters>', '<list of 2 items>')

    Args:
        value: Anything; its own repr is never asked for.

    Returns:
        Short identifiers, a few marks, numbers, ``None`` and members of an enumeration as they are
        written in code; type and length of all else.
    """
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, Enum):
        name = value._name_
        return f"{type(value).__name__}.{name}" if is_word(name) else _described(value)
    if isinstance(value, str):
        is_shown = is_word(value) or _MARKS.fullmatch(value) is not None
        return str.__repr__(value) if is_shown else _described(value)
    if isinstance(value, Real):
        return _number(value) or _described(value)
    if isinstance(value, type):
        return f"<class {value.__name__}>"
    return _described(value)


def listed(names: Iterable[object]) -> str:
    """Write names, as of arguments, for a message.

    Args:
        names: Of any kind.

    Returns:
        Each as :func:`shown` writes it, with commas between them.
    """
    return ", ".join(map(shown, names))


def _number(value: Real) -> str | None:
    try:
        if not isinstance(value, Integral):
            return float.__repr__(float(value))
        number = index(value)
    except Exception:  # noqa: BLE001 of a type of the caller's own
        return None
    # A longer one has no name in code either, and from 4,300 digits on Python writes none.
    return int.__repr__(number) if abs(number) < _LARGEST_SHOWN else None


def _described(value: Any) -> str:
    try:
        size = len(value)
    except Exception:  # noqa: BLE001 most have none; and it may be code of the caller's own
        return f"<{type(value).__name__}>"
    units = "character" if isinstance(value, str) else "item"
    return f"<{type(value).__name__} of {size} {units}{'' if size == 1 else 's'}>"
