"""Texts in, vectors out: chunk, batch, forward, pool.

The pipeline turns a call into stages and knows no model: each stage is a wave of tasks, which a
backend has done by an engine, on its thread or in a worker process.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
from tqdm.auto import tqdm

from safe_embed.batching import batches
from safe_embed.errors import TextTooLongError, WorkerError
from safe_embed.inference.request import (
    Call,
    Embed,
    EmbedChunks,
    EmbedRaw,
    FetchFeatures,
    FetchTokenizer,
    Move,
    PlanTexts,
    Request,
    Settings,
    StartPool,
)
from safe_embed.inference.tasks import (
    LOST,
    CallEnded,
    ChunkTexts,
    CopyTokenizer,
    EmbedBatch,
    EncodeUpstream,
    Flow,
    MoveModel,
    Preprocess,
    StartProcesses,
    Task,
    Wave,
)
from safe_embed.pooling import pool
from safe_embed.types import Chunk, ChunkedInput, ChunkedText, FloatArray, TextPlan
from safe_embed.upstream.settings import ModelState
from safe_embed.upstream.tokenizer import portions

logger = logging.getLogger("safe_embed")

# What a model reads is capped here unless the user asks for more: attention takes memory with the
# square of the length (ruri-v3-30m on 14,457 characters: from 1.0 to 2.4 GB), and shorter chunks
# find better. Source: docs/ja/growth.md and docs/ja/truncation.md.
DEFAULT_CHUNK_TOKENS = 512
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

    @property
    def budget_tokens(self) -> int:
        """Tokens a chunk may have: what the model reads, at most 512 unless the user said more."""
        limit = self.model.limit_tokens
        wanted = self.settings.max_chunk_tokens or DEFAULT_CHUNK_TOKENS
        return wanted if limit is None else int(min(wanted, limit))

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
                return self._embed_chunks(call.request)
            case EmbedRaw():
                return self._embed_raw(call)
            case PlanTexts():
                return self._plan(call.request)
            case _:
                return _single(*_task_of(call))

    def _plan(self, request: Request) -> Flow[list[TextPlan]]:
        inputs = yield from self._chunk(request, want_spans=True)
        plans = [None if text is LOST else _plan_of(text) for text in inputs]
        lost = [index for index, plan in enumerate(plans) if plan is None]
        if lost:
            raise _lost_texts(lost, plans)
        return [plan for plan in plans if plan is not None]

    def _embed(self, request: Request) -> Flow[FloatArray]:
        try:
            texts = yield from self._embed_chunks(request, want_spans=False)
        except WorkerError as error:
            error.results = [text and text.pooled() for text in error.results]
            raise
        return np.stack([text.pooled() for text in texts])

    def _embed_chunks(self, request: Request, *, want_spans: bool = True) -> Flow[list[Any]]:
        # Upstream's processes are given text, which must end where reading stops.
        want_spans = want_spans or request.pool is not None
        inputs = yield from self._chunk(request, want_spans=want_spans)
        self._report_long(inputs, request.first_index)
        if request.pool is not None:
            rows = yield from self._forward_in_pool(inputs, request)
        else:
            chunks = [chunk for text in inputs if text is not LOST for chunk in text.chunks]
            rows = yield from self._forward(chunks, request)
        texts = list(self._pooled(inputs, iter(rows)))
        yield CallEnded(len(inputs))
        if None in texts:
            lost = [index for index, text in enumerate(texts, request.first_index) if text is None]
            raise _lost_texts(lost, texts)
        return texts

    def _embed_raw(self, call: EmbedRaw) -> Flow[list[Any]]:
        request = call.request
        inputs = yield from self._chunk(request, want_spans=False)
        self._refuse_long(inputs, "output_value other than 'sentence_embedding'")
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
            raise _lost_texts(lost, [None if output is LOST else output for output in outputs])
        return list(outputs)

    def _chunk(self, request: Request, *, want_spans: bool) -> Flow[list[Any]]:
        """Cut texts into chunks, a portion at a time; a ChunkedInput for each, or LOST."""
        budget = self.budget_tokens
        tasks: list[Task] = []
        first = request.first_index
        for portion in portions(request.texts, _TURN_CHARS):
            tasks.append(ChunkTexts(portion, request.prompt, budget, want_spans, first))
            first += len(portion)
        inputs = yield Wave(tasks)
        return [text for portion in inputs for text in portion]

    def _forward(self, chunks: Sequence[Chunk], request: Request) -> Flow[list[Any]]:
        """Embed chunks batch by batch; a vector (dimension,) for each, or LOST."""
        kind = str(request.device or self.model.device).partition(":")[0]
        few_shapes = self.settings.few_shapes
        groups = batches(
            [len(chunk.encoding) for chunk in chunks],
            self._batch_tokens(request, kind),
            limit=self.budget_tokens,
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
            if text is LOST or any(row is LOST for row in vectors):
                yield None
                continue
            stacked = np.stack(vectors)
            counts = tuple(len(chunk.encoding) for chunk in text.chunks)
            unit_length = self.model.facts.unit_length
            pooled = pool(stacked, counts, self.settings.pooling, unit_length=unit_length)
            spans = tuple(chunk.span for chunk in text.chunks)
            yield ChunkedText(spans, counts, stacked, text.is_long, pooled, text.cut_clusters)

    def _report_long(self, inputs: Sequence[Any], first: int) -> None:
        if self.settings.on_long == "error":
            self._refuse_long(inputs, "on_long='error'", first)
        if self.settings.on_long == "truncate":
            cut = _long(inputs, first)
            if cut:
                logger.warning(
                    "%d of %d texts were cut at %d tokens: inputs %s",
                    *(len(cut), len(inputs), self.budget_tokens, _listed(cut)),
                )

    def _refuse_long(self, inputs: Sequence[Any], asked: str, first: int = 0) -> None:
        long = _long(inputs, first)
        if long:
            msg = (
                f"{len(long)} of {len(inputs)} texts have more than the {self.budget_tokens} "
                f"tokens of one chunk, and {asked} allows none: inputs {_listed(long)}. Shorten "
                "them, or use on_long='chunk' and the default output_value.\n"
                f"{len(long)} 件の文章が上限の {self.budget_tokens} トークンを超えています"
                f"（番号 {_listed(long)}）。短くするか on_long='chunk' を使ってください。"
            )
            raise TextTooLongError(msg, long)

    def _batch_tokens(self, request: Request, kind: str) -> int:
        default = DEFAULT_BATCH_TOKENS.get(kind, DEFAULT_BATCH_TOKENS_ELSEWHERE)
        wanted = self.settings.max_batch_tokens or default
        return min(wanted, request.batch_size * self.budget_tokens)


def _task_of(call: FetchTokenizer | FetchFeatures | Move | StartPool) -> tuple[Task, str]:
    """Give the one task of a call, and what it is for, as an error says."""
    match call:
        case FetchTokenizer():
            return CopyTokenizer(), "the tokenizer was copied"
        case FetchFeatures():
            item = (call.texts, call.prompt, call.options)
            return Preprocess([item]), "the features were made"
        case Move():
            return MoveModel([(call.device, call.dtype)]), "the model was moved"
        case StartPool():
            return StartProcesses([call.devices]), "a pool was started"
        case _:
            assert_never(call)


def _single(task: Task, purpose: str) -> Flow[Any]:
    """Have one task done that has one item; *purpose* completes "before …" in the error."""
    [[value]] = yield Wave([task])
    if value is LOST:
        raise WorkerError(f"Every worker process ended before {purpose}.")
    return value


def _plan_of(text: ChunkedInput) -> TextPlan:
    return TextPlan(
        tuple(chunk.span for chunk in text.chunks),
        tuple(len(chunk.encoding) for chunk in text.chunks),
        text.is_long,
        text.cut_clusters,
    )


def _long(inputs: Sequence[Any], first: int) -> list[int]:
    return [index for index, text in enumerate(inputs, first) if text is not LOST and text.is_long]


def _lost_texts(lost: Sequence[int], results: Sequence[Any]) -> WorkerError:
    msg = (
        f"No worker process survived {len(lost)} of the texts: inputs {_listed(lost)}. The "
        "results of all others are in this error's .results; leave those texts out.\n"
        f"{len(lost)} 件の文章（番号 {_listed(lost)}）でワーカープロセスが異常終了しました。"
        "ほかの結果はこの例外の .results にあります。"
    )
    return WorkerError(msg, lost, results)


def _listed(indices: Sequence[int], most: int = 20) -> str:
    """Write indices for a message, the first few of many."""
    more = f", … ({len(indices)} in all)" if len(indices) > most else ""
    return ", ".join(map(str, indices[:most])) + more
