# This is the public API of safe_embed; whatever is heavy is loaded when it is first used.
"""Embed Japanese text safely: nothing is cut without a word."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from safe_embed.errors import (
    ConfigError,
    InvalidTextError,
    MissingExtraError,
    ReloadError,
    SafeEmbedError,
    TextTooLongError,
    WorkerError,
)

if TYPE_CHECKING:
    from safe_embed.encoder import SafeEncoder
    from safe_embed.memory.policies import (
        EveryCalls,
        EverySeconds,
        EveryTexts,
        EveryTokens,
        MemoryAbove,
        MemoryGrowth,
        Never,
    )
    from safe_embed.memory.types import (
        Event,
        Hook,
        MemorySample,
        Reason,
        ReloadPolicy,
        Rung,
        Stats,
        Usage,
        WorkerState,
    )
    from safe_embed.text.morphemes import MorphemeSplitter
    from safe_embed.text.punctuation import PunctuationSplitter
    from safe_embed.text.user_splitters import FunctionSplitter, RegexSplitter
    from safe_embed.types import ChunkedText, Span, Splitter, TextPlan
    from safe_embed.vectors import pad_to_dim

__version__ = "0.1.0"

__all__ = [
    "ChunkedText",
    "ConfigError",
    "Event",
    "EveryCalls",
    "EverySeconds",
    "EveryTexts",
    "EveryTokens",
    "FunctionSplitter",
    "Hook",
    "InvalidTextError",
    "MemoryAbove",
    "MemoryGrowth",
    "MemorySample",
    "MissingExtraError",
    "MorphemeSplitter",
    "Never",
    "PunctuationSplitter",
    "Reason",
    "RegexSplitter",
    "ReloadError",
    "ReloadPolicy",
    "Rung",
    "SafeEmbedError",
    "SafeEncoder",
    "Span",
    "Splitter",
    "Stats",
    "TextPlan",
    "TextTooLongError",
    "Usage",
    "WorkerError",
    "WorkerState",
    "pad_to_dim",
]

_HOMES = {
    "ChunkedText": "types",
    "Event": "types",
    "EveryCalls": "memory.policies",
    "EverySeconds": "memory.policies",
    "EveryTexts": "memory.policies",
    "EveryTokens": "memory.policies",
    "FunctionSplitter": "text.custom",
    "Hook": "types",
    "MemoryAbove": "memory.policies",
    "MemoryGrowth": "memory.policies",
    "MemorySample": "types",
    "MorphemeSplitter": "text.morphemes",
    "Never": "memory.policies",
    "PunctuationSplitter": "text.punctuation",
    "Reason": "types",
    "RegexSplitter": "text.custom",
    "ReloadPolicy": "types",
    "Rung": "types",
    "SafeEncoder": "encoder",
    "Span": "types",
    "Splitter": "types",
    "Stats": "types",
    "TextPlan": "types",
    "Usage": "types",
    "WorkerState": "types",
    "pad_to_dim": "pooling",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
