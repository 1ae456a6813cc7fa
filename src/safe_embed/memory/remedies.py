"""Give memory back: garbage, free blocks of the allocator, and the cache of the device."""

from __future__ import annotations

import gc
import sys

from safe_embed.memory.allocators import trim_heap


def trim(device: str | None = None) -> None:
    """Collect garbage, and release the free blocks that allocators keep.

    Args:
        device: Type of the model's device; for ``"cuda"`` and ``"mps"`` its cache is emptied too.
            On MPS so is the cache of compiled graphs, one for each shape of input, where torch has
            a function for that (``torch.mps.clear_graph_cache``; not up to 2.15, it seems).

    Source:
        transformers calls that function where it exists. Neither is measured here: no Mac with MPS.
    """
    gc.collect(1)  # young generations only: with torch loaded, a full collection takes 0.5 s
    torch = sys.modules.get("torch")
    if torch is not None and device in ("cuda", "mps"):
        cache = getattr(torch, device)
        # Graphs first: they hold buffers that the cache can give back once they are gone.
        getattr(cache, "clear_graph_cache", lambda: None)()
        cache.empty_cache()
    trim_heap()
