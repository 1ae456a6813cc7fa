"""Chunks in, vectors out: batches of chunks, in which no chunk is embedded twice."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tqdm.auto import tqdm

from safe_embed.batching import batches
from safe_embed.inference.distinct import digest, distinct
from safe_embed.inference.long_texts import report_slow
from safe_embed.inference.request import Request, Settings
from safe_embed.inference.tasks import EmbedBatch, Flow, Task, Wave
from safe_embed.types import Chunk, Encoding
from safe_embed.upstream.settings import ModelState

# On a CPU, a chunk of more tokens than this is reported once: attention takes time with the square
# of the length. Source: docs/speed.md.
_LONG_CHUNK_TOKENS = 512
# Tokens of a batch. On a CPU twice as many gain up to 10 %, and let others wait twice as long; on a
# GPU (H200) they are the best of 4,096 to 131,072. Source: benchmarks/test_speed.py, test_budget.
DEFAULT_BATCH_TOKENS = {"cpu": 1024}
DEFAULT_BATCH_TOKENS_ELSEWHERE = 32_768


@dataclass(frozen=True, slots=True)
class Forward:
    """Has chunks embedded, batch by batch.

    Args:
        settings: What the encoder does with every text.
        model: What is known of the model; read when a stage begins.
    """

    settings: Settings
    model: ModelState
    _is_slow_reported: threading.Event = field(default_factory=threading.Event, init=False)

    def vectors(self, chunks: Sequence[Chunk], request: Request, budget: int) -> Flow[list[Any]]:
        """Embed chunks; those of the same tokens once.

        Args:
            chunks: Any number of chunks.
            request: How to embed them.
            budget: Most tokens of a chunk.

        Returns:
            A vector (dimension,) for each chunk, or LOST.
        """
        firsts, places = distinct(digest(chunk.encoding) for chunk in chunks)
        encodings = [chunks[first].encoding for first in firsts]
        rows = yield from self._embed(encodings, request, budget)
        return [rows[place] for place in places]

    def _embed(
        self, encodings: Sequence[Encoding], request: Request, budget: int
    ) -> Flow[list[Any]]:
        kind = str(request.device or self.model.device).partition(":")[0]
        few_shapes = self.settings.few_shapes
        lengths = list(map(len, encodings))
        self._report_slow(lengths, kind)
        groups = batches(
            lengths,
            self._batch_tokens(request, kind, budget),
            limit=budget,
            few_shapes=kind == "mps" if few_shapes is None else few_shapes,
            fewer_shapes=kind == "cpu" and few_shapes is None,
        )
        tasks: list[Task] = [
            EmbedBatch(
                [encodings[index] for index in batch.indices],
                request.prompt,
                (batch.rows, batch.columns),
                request.device,
                dict(request.model_kwargs),
            )
            for batch in groups
        ]
        rows: list[Any] = [None] * len(encodings)
        with tqdm(desc="Batches", total=len(tasks), disable=not request.show_progress_bar) as bar:
            vectors = yield Wave(tasks, bar)
        for batch, vectors_of_batch in zip(groups, vectors, strict=True):
            for index, row in zip(batch.indices, vectors_of_batch, strict=True):
                rows[index] = row
        return rows

    def _report_slow(self, lengths: Sequence[int], kind: str) -> None:
        """Report a long chunk on a CPU once, unless the length of chunks was chosen."""
        longest = max(lengths, default=0)
        is_chosen = self.settings.max_chunk_tokens is not None
        is_slow = kind == "cpu" and longest > _LONG_CHUNK_TOKENS and not is_chosen
        if is_slow and not self._is_slow_reported.is_set():
            self._is_slow_reported.set()
            report_slow(longest)

    def _batch_tokens(self, request: Request, kind: str, budget: int) -> int:
        default = DEFAULT_BATCH_TOKENS.get(kind, DEFAULT_BATCH_TOKENS_ELSEWHERE)
        wanted = self.settings.max_batch_tokens or default
        return min(wanted, request.batch_size * budget)
