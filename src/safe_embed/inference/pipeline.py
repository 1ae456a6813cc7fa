"""Texts in, vectors out: chunk, batch, forward, pool.

The pipeline turns a call into stages and knows no model: each stage is a wave of tasks, which a
backend has done by an engine, on its thread or in a worker process.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from safe_embed.batching import batches
from safe_embed.errors import ConfigError, WorkerError, both
from safe_embed.inference.long_texts import (
    check_long,
    check_prompt_length,
    lost_texts,
    refuse_long,
    report_slow,
)
from safe_embed.inference.request import (
    Call,
    Embed,
    EmbedChunks,
    EmbedRaw,
    PlanTexts,
    Request,
    Settings,
)
from safe_embed.inference.single_task import single
from safe_embed.inference.stretched_text import STRETCHED, stretched_text
from safe_embed.inference.tasks import (
    LOST,
    CallEnded,
    ChunkTexts,
    EmbedBatch,
    EncodeUpstream,
    Flow,
    Task,
    Wave,
)
from safe_embed.pooling import pool
from safe_embed.text.chunking import ANY_CHARS
from safe_embed.types import Chunk, ChunkedInput, ChunkedText, FloatArray, Span, TextPlan
from safe_embed.upstream.attributes import least
from safe_embed.upstream.settings import ModelState
from safe_embed.upstream.tokenizer import portions

# Chunks for search are at most this long, unless the caller asks for more: shorter chunks find
# better. Source: docs/ja/truncation.md.
SEARCH_CHUNK_TOKENS = 512
# The budget of a model that reads any number of tokens, such as a StaticEmbedding.
_ANY_TOKENS = 2**31 - 1
# On a CPU, a chunk of more tokens than this is reported once: attention takes time with the square
# of the length. Source: docs/speed.md.
_LONG_CHUNK_TOKENS = 512
# Tokens of a batch. On a CPU twice as many gain up to 10 %, and let others wait twice as long; on a
# GPU (H200) they are the best of 4,096 to 131,072. Source: benchmarks/test_speed.py, test_budget.
DEFAULT_BATCH_TOKENS = {"cpu": 1024}
DEFAULT_BATCH_TOKENS_ELSEWHERE = 32_768
# How much text of one call is cut into chunks before another call has its turn: about 0.1 s.
_TURN_CHARS = 100_000


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Says what there is to do for a call.

    Args:
        settings: What the encoder does with every text.
        model: What is known of the model; read when a stage begins.
    """

    settings: Settings
    model: ModelState
    _is_slow_reported: threading.Event = field(default_factory=threading.Event, init=False)

    def budget_tokens(self, request: Request) -> int:
        """Tell how many tokens a chunk of ``encode`` may have.

        Args:
            request: Of a call; a model may read less of its task.

        Returns:
            What the model reads, or ``max_chunk_tokens`` if that is less.
        """
        wanted = self.settings.max_chunk_tokens or _ANY_TOKENS
        return int(least(wanted, self._limit(request)) or wanted)

    def _limit(self, request: Request) -> float | None:
        return self.model.limit_of_task(request.model_kwargs.get("task"))

    def stages(self, call: Call) -> Flow[Any]:
        """Give the stages of a call.

        Args:
            call: Any call.

        Returns:
            A generator: it yields waves, is sent the values of their tasks, and returns the
            result of the call.
        """
        match call:
            case Embed():
                return self._embed(call.request)
            case EmbedChunks():
                return self._search_chunks(call)
            case EmbedRaw():
                return self._embed_raw(call)
            case PlanTexts():
                return self._plan(call.request)
            case _:
                return single(call)

    def _plan(self, request: Request) -> Flow[list[TextPlan]]:
        budget = self.budget_tokens(request)
        inputs = yield from self._chunk(request, budget, want_spans=True)
        plans = [None if text is LOST else _plan_of(text) for text in inputs]
        for place in _stretched(inputs):
            text = yield from stretched_text(place, request, budget, self._stretch_chars(budget))
            plans[place] = None if text is LOST else text.plan
        lost = [index for index, plan in enumerate(plans) if plan is None]
        if lost:
            raise lost_texts(lost, plans)
        return [plan for plan in plans if plan is not None]

    def _embed(self, request: Request) -> Flow[FloatArray]:
        try:
            budget = self.budget_tokens(request)
            texts = yield from self._embed_chunks(request, budget, want_spans=False)
        except WorkerError as error:
            error.results = [text and text.pooled() for text in error.results]
            raise
        return np.stack([text.pooled() for text in texts])

    def _embed_chunks(
        self, request: Request, budget: int, *, want_spans: bool = True
    ) -> Flow[list[Any]]:
        # Upstream's processes are given text, which must end where reading stops.
        want_spans = want_spans or request.pool is not None
        inputs = yield from self._chunk(request, budget, want_spans=want_spans)
        check_long(inputs, self.settings.on_long, budget, request.first_index)
        if request.pool is not None:
            rows = yield from self._forward_in_pool(inputs, request)
        else:
            chunks = [chunk for text in inputs if text is not LOST for chunk in text.chunks]
            rows = yield from self._forward(chunks, request, budget)
        texts = list(self._pooled(inputs, iter(rows)))
        for place in _stretched(inputs):
            texts[place] = yield from self._embed_stretched(place, request, budget)
        yield CallEnded(len(inputs))
        if None in texts:
            lost = [index for index, text in enumerate(texts, request.first_index) if text is None]
            raise lost_texts(lost, texts)
        return texts

    def _embed_stretched(self, place: int, request: Request, budget: int) -> Flow[Any]:
        """Embed a long text stretch by stretch; a ChunkedText, or ``None`` if it is lost."""
        size = self._stretch_chars(budget)
        embed = partial(self._forward, budget=budget)
        text = yield from stretched_text(place, request, budget, size, embed)
        if text is LOST:
            return None
        chunks = text.spans, text.token_counts, text.vectors
        return self._chunked_text(*chunks, is_long=True, cut_clusters=text.cut_clusters)

    def _search_chunks(self, call: EmbedChunks) -> Flow[list[Any]]:
        """Embed texts in chunks that search well; on_long decides about whole texts, as before."""
        wanted, budget = call.max_chunk_tokens, self.budget_tokens(call.request)
        if self.settings.on_long == "chunk":
            limit = min(SEARCH_CHUNK_TOKENS, budget) if wanted is None else wanted
            budget = int(least(limit, self._limit(call.request)) or limit)
        elif wanted is not None:
            msg = both(
                f"encode_chunks cannot use max_chunk_tokens={wanted}: on_long="
                f"{self.settings.on_long!r} makes one chunk of every text. Use on_long='chunk'.",
                f"encode_chunks の max_chunk_tokens={wanted} は使えません。on_long="
                f"{self.settings.on_long!r} では、どの文章も一つのチャンクになるからです。"
                "on_long='chunk' を使ってください。",
            )
            raise ConfigError(msg)
        return (yield from self._embed_chunks(call.request, budget))

    def _embed_raw(self, call: EmbedRaw) -> Flow[list[Any]]:
        request = call.request
        budget = self.budget_tokens(request)
        inputs = yield from self._chunk(request, budget, want_spans=False)
        refuse_long(inputs, "output_value other than 'sentence_embedding'", budget)
        options = {
            "prompt": request.prompt,
            "batch_size": request.batch_size,
            "show_progress_bar": request.show_progress_bar,
            "device": request.device,
            **request.model_kwargs,
            **call.upstream,
        }
        [outputs] = yield Wave([EncodeUpstream(list(request.texts), options)])
        yield CallEnded(len(inputs))
        lost = [index for index, output in enumerate(outputs) if output is LOST]
        if lost:
            raise lost_texts(lost, [None if output is LOST else output for output in outputs])
        return list(outputs)

    def _chunk(self, request: Request, budget: int, *, want_spans: bool) -> Flow[list[Any]]:
        """Cut texts into chunks, a portion at a time; a ChunkedInput for each, or LOST.

        It is STRETCHED for a text that is cut later, stretch by stretch.
        """
        if self.settings.on_long != "truncate":  # as upstream, which cuts prompts too
            check_prompt_length(request.prompt, budget)
        tasks: list[Task] = []
        first = request.first_index
        most = self._whole_chars(request, budget)
        for is_stretched, texts in groupby(request.texts, key=lambda text: len(text) > most):
            if is_stretched:
                first += len(list(texts))
                continue
            for portion in portions(list(texts), _TURN_CHARS):
                tasks.append(ChunkTexts(portion, request.prompt, budget, want_spans, first))
                first += len(portion)
        inputs = yield Wave(tasks)
        cut = iter([text for portion in inputs for text in portion])
        return [STRETCHED if len(text) > most else next(cut) for text in request.texts]

    def _whole_chars(self, request: Request, budget: int) -> int:
        """Return how many characters a text may have that is cut into chunks at once."""
        if self.settings.on_long == "truncate" or request.pool is not None:
            return ANY_CHARS
        chars = self._stretch_chars(budget)
        return chars + chars // 2

    def _stretch_chars(self, budget: int) -> int:
        return self.settings.chunker.stretch_chars(budget)

    def _forward(self, chunks: Sequence[Chunk], request: Request, budget: int) -> Flow[list[Any]]:
        """Embed chunks batch by batch; a vector (dimension,) for each, or LOST."""
        kind = str(request.device or self.model.device).partition(":")[0]
        few_shapes = self.settings.few_shapes
        lengths = [len(chunk.encoding) for chunk in chunks]
        is_chosen = self.settings.max_chunk_tokens is not None
        longest = max(lengths, default=0)
        if kind == "cpu" and longest > _LONG_CHUNK_TOKENS and not is_chosen:
            self._report_slow_once(longest)
        groups = batches(
            lengths,
            self._batch_tokens(request, kind, budget),
            limit=budget,
            few_shapes=kind == "mps" if few_shapes is None else few_shapes,
            fewer_shapes=kind == "cpu" and few_shapes is None,
        )
        tasks: list[Task] = [
            EmbedBatch(
                [chunks[index].encoding for index in batch.indices],
                request.prompt,
                (batch.rows, batch.columns),
                request.device,
                dict(request.model_kwargs),
            )
            for batch in groups
        ]
        rows: list[Any] = [None] * len(chunks)
        with tqdm(desc="Batches", total=len(tasks), disable=not request.show_progress_bar) as bar:
            vectors = yield Wave(tasks, bar)
        for batch, vectors_of_batch in zip(groups, vectors, strict=True):
            for index, row in zip(batch.indices, vectors_of_batch, strict=True):
                rows[index] = row
        return rows

    def _forward_in_pool(self, inputs: Sequence[Any], request: Request) -> Flow[list[Any]]:
        """Let upstream's processes embed the chunks, which all fit; all dimensions."""
        pieces = [
            text if len(cut.chunks) == 1 and not cut.is_long else text[slice(*chunk.span)].strip()
            for text, cut in zip(request.texts, inputs, strict=True)
            for chunk in cut.chunks
        ]
        lent = request.pool
        options = {
            "prompt": request.prompt,
            "batch_size": request.batch_size,
            "show_progress_bar": request.show_progress_bar,
            "truncate_dim": sys.maxsize,
            **request.model_kwargs,
        }
        if lent is not None:
            options |= {
                "pool": lent.processes,
                "device": lent.devices,
                "chunk_size": lent.chunk_size,
            }
        [vectors] = yield Wave([EncodeUpstream(pieces, options)])
        return list(vectors)

    def _pooled(self, inputs: Sequence[Any], rows: Iterator[Any]) -> Iterator[ChunkedText | None]:
        """Put the vectors of each text's chunks together; ``None`` where one of them is lost."""
        for text in inputs:
            vectors = [] if text is LOST else [next(rows) for _ in text.chunks]
            if text is LOST or text is STRETCHED or any(row is LOST for row in vectors):
                yield None
                continue
            spans = tuple(chunk.span for chunk in text.chunks)
            counts = tuple(len(chunk.encoding) for chunk in text.chunks)
            long, cuts = text.is_long, text.cut_clusters
            yield self._chunked_text(spans, counts, vectors, is_long=long, cut_clusters=cuts)

    def _chunked_text(
        self,
        spans: tuple[Span, ...],
        counts: tuple[int, ...],
        vectors: Sequence[Any],
        *,
        is_long: bool,
        cut_clusters: tuple[int, ...],
    ) -> ChunkedText:
        """Pool the vectors of the chunks of one text."""
        stacked = np.stack(vectors)
        unit_length = self.model.facts.unit_length
        pooled = pool(stacked, counts, self.settings.pooling, unit_length=unit_length)
        return ChunkedText(spans, counts, stacked, is_long, pooled, cut_clusters)

    def _report_slow_once(self, tokens: int) -> None:
        if not self._is_slow_reported.is_set():
            self._is_slow_reported.set()
            report_slow(tokens)

    def _batch_tokens(self, request: Request, kind: str, budget: int) -> int:
        default = DEFAULT_BATCH_TOKENS.get(kind, DEFAULT_BATCH_TOKENS_ELSEWHERE)
        wanted = self.settings.max_batch_tokens or default
        return min(wanted, request.batch_size * budget)


def _stretched(inputs: Sequence[Any]) -> list[int]:
    """Return which texts are cut stretch by stretch."""
    return [place for place, text in enumerate(inputs) if text is STRETCHED]


def _plan_of(text: ChunkedInput) -> TextPlan:
    return TextPlan(
        tuple(chunk.span for chunk in text.chunks),
        tuple(len(chunk.encoding) for chunk in text.chunks),
        text.is_long,
        text.cut_clusters,
    )
