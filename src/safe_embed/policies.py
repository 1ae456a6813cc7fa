"""When memory must be given back: the policies, and what a policy of your own takes and gives."""

from __future__ import annotations

from safe_embed.memory.policies import (
    EveryCalls,
    EverySeconds,
    EveryTexts,
    EveryTokens,
    MemoryAbove,
    MemoryGrowth,
    Never,
    default_policy,
)
from safe_embed.memory.types import Missed, Reason, ReloadPolicy, Rung, Usage

__all__ = [
    "EveryCalls",
    "EverySeconds",
    "EveryTexts",
    "EveryTokens",
    "MemoryAbove",
    "MemoryGrowth",
    "Missed",
    "Never",
    "Reason",
    "ReloadPolicy",
    "Rung",
    "Usage",
    "default_policy",
]
