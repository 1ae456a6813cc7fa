"""Give memory back: garbage, free blocks of the allocator, and the cache of the device."""

from __future__ import annotations

import gc
import sys

from safe_embed.memory.allocators import trim_heap


def trim(device: str | None = None) -> None:
    """Collect garbage, and release the free blocks that allocators keep.

    Args:
        device: Type of the model's device; for ``"cuda"`` and ``"mps"`` its cache is emptied too.
    """
    gc.collect(1)  # young generations only: with torch loaded, a full collection takes 0.5 s
    torch = sys.modules.get("torch")
    if torch is not None and device in ("cuda", "mps"):
        getattr(torch, device).empty_cache()
    trim_heap()
