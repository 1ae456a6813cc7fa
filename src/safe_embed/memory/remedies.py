"""Give memory back: garbage, free blocks of the allocator, and the cache of the device."""

from __future__ import annotations

import gc
import sys

from safe_embed.memory.sampling import trim_heap


def trim(device: str | None = None) -> None:
    """Give back garbage and the free blocks that allocators keep.

    Args:
        device: Kind of the model's device; the cache of ``"cuda"`` and ``"mps"`` is emptied too.
    """
    gc.collect(1)  # the young ones: all generations take half a second beside torch
    torch = sys.modules.get("torch")
    if torch is not None and device in ("cuda", "mps"):
        getattr(torch, device).empty_cache()
    trim_heap()
