# The names that most programs need; whatever is heavy is loaded when it is first used. The others
# are in safe_embed.policies, .splitters, .errors and .memory.
"""Embed Japanese text safely: nothing is cut without a word."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from safe_embed.errors import SafeEmbedError

if TYPE_CHECKING:
    from safe_embed.diagnosis.doctor import diagnose
    from safe_embed.diagnosis.watching import watch
    from safe_embed.encoder import SafeEncoder
    from safe_embed.memory.policies import EveryCalls, MemoryAbove, MemoryGrowth, Never
    from safe_embed.memory.types import Event, Stats
    from safe_embed.text.morphemes import MorphemeSplitter
    from safe_embed.text.punctuation import PunctuationSplitter
    from safe_embed.types import ChunkedText, TextPlan
    from safe_embed.vectors import pad_to_dim

__version__ = "0.1.0"

__all__ = [
    "ChunkedText",
    "Event",
    "EveryCalls",
    "MemoryAbove",
    "MemoryGrowth",
    "MorphemeSplitter",
    "Never",
    "PunctuationSplitter",
    "SafeEmbedError",
    "SafeEncoder",
    "Stats",
    "TextPlan",
    "diagnose",
    "pad_to_dim",
    "watch",
]

_HOMES = {
    "ChunkedText": "types",
    "Event": "memory.types",
    "EveryCalls": "memory.policies",
    "MemoryAbove": "memory.policies",
    "MemoryGrowth": "memory.policies",
    "MorphemeSplitter": "text.morphemes",
    "Never": "memory.policies",
    "PunctuationSplitter": "text.punctuation",
    "SafeEncoder": "encoder",
    "Stats": "memory.types",
    "TextPlan": "types",
    "diagnose": "diagnosis.doctor",
    "pad_to_dim": "vectors",
    "watch": "diagnosis.watching",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
