"""The arguments of a policy: checked, and printed as they would be written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import shown
from safe_embed.memory.combinators import Joinable
from safe_embed.memory.sizes import format_size, parse_size
from safe_embed.memory.types import Rung


def _is_number(value: object) -> bool:
    """Whether a value is a finite int or float, and not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# Arguments that a repr shows without their name.
_POSITIONAL = frozenset({"n", "seconds", "bytes"})


# Name of an argument -> its check, and what the message of the ConfigError asks for.
_RULES: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "n": (
        lambda n: isinstance(n, int) and _is_number(n) and n >= 1,
        "an integer, 1 or more",
        "1以上の整数",
    ),
    "seconds": (
        lambda time: _is_number(time) and time > 0,
        "a number greater than 0",
        "0より大きい数",
    ),
    "share": (
        lambda share: share is None or (_is_number(share) and 0 < share <= 1),
        "0 < share <= 1",
        "0より大きく1以下の数",
    ),
    "jitter": (
        lambda share: _is_number(share) and 0 <= share < 1,
        "0 <= jitter < 1",
        "0以上1未満の数",
    ),
    "bytes": (lambda _: True, "a size", "大きさ"),  # parse_size has checked it
    "cool_down_seconds": (
        lambda time: _is_number(time) and time >= 0,
        "a number, 0 or more",
        "0以上の数",
    ),
    "at_most": (
        lambda rung: isinstance(rung, Rung),
        "a Rung, such as Rung.TRIM",
        "Rung.TRIM などの Rung ",
    ),
}


@dataclass(frozen=True, slots=True, repr=False)
class CheckedPolicy(Joinable):
    """A single policy: raises ConfigError for invalid arguments; its repr is a valid expression."""

    def __post_init__(self) -> None:
        for name, value in self._arguments():
            allowed, needed, needed_ja = _RULES[name]
            if not allowed(value):
                given = f"{type(self).__name__}: {name}={shown(value)}"
                msg = both(
                    f"{given} is invalid. Give {needed}.",
                    f"{given} は使えません。{needed_ja}を渡してください。",
                )
                raise ConfigError(msg)

    def _arguments(self) -> Iterator[tuple[str, Any]]:
        """Yield (name, value) of each argument."""
        return ((argument.name, getattr(self, argument.name)) for argument in fields(self))

    def __repr__(self) -> str:
        defaults = {argument.name: argument.default for argument in fields(self)}
        changed = {name: value for name, value in self._arguments() if value != defaults[name]}
        parts = [f"{name}={_format_argument(name, value)}" for name, value in changed.items()]
        if parts and next(iter(changed)) in _POSITIONAL:
            parts[0] = parts[0].partition("=")[2]
        return f"{type(self).__name__}({', '.join(parts)})"


def _format_argument(name: str, value: object) -> str:
    """Format an argument's value as in code; a size with its unit."""
    if name == "bytes":
        return repr(format_size(parse_size(value)))
    return f"Rung.{value.name}" if isinstance(value, Rung) else repr(value)
