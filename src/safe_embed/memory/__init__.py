"""Measure memory, decide by policy, give it back."""

from __future__ import annotations

from safe_embed.memory.types import Event, Hook, MemorySample, Rung, Stats, WorkerState

__all__ = ["Event", "Hook", "MemorySample", "Rung", "Stats", "WorkerState"]
