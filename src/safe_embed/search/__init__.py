"""Search by chunk: vectors of chunks in little room, and the chunks that answer a query."""

from __future__ import annotations

from safe_embed.search.calibration import Bits, Calibration, PackedText
from safe_embed.search.index import ChunkIndex
from safe_embed.search.ranking import Hit, rank

__all__ = ["Bits", "Calibration", "ChunkIndex", "Hit", "PackedText", "rank"]
