"""Texts in, vectors out: chunk, batch, forward, pool; a call is a flow of tasks.

A flow knows no model. It says what there is to do, in waves of tasks, and whoever has a model does
them one by one: the thread beside it (session) or processes of their own (fleet).
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from tqdm.auto import tqdm

from safe_embed.errors import TextTooLongError, WorkerError
from safe_embed.model.batching import batches
from safe_embed.model.tokenization import portions
from safe_embed.pooling import PoolingFunction, pool
from safe_embed.text.chunking import Chunker
from safe_embed.types import Chunk, ChunkedInput, ChunkedText, FloatArray, TextPlan

T = TypeVar("T")
OnLong = Literal["chunk", "truncate", "error"]

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
class Settings:
    """What an encoder does with every text; see :class:`safe_embed.SafeEncoder`."""

    chunker: Chunker
    pooling: PoolingFunction
    max_chunk_tokens: int | None = None
    on_long: OnLong = "chunk"
    max_batch_tokens: int | None = None
    few_shapes: bool | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One call: what to embed, and how.

    Attributes:
        texts: Checked texts.
        prompt: What goes in front of every chunk.
        batch_size: Caps a batch at this many times the budget, in tokens.
        show_progress_bar: Whether to draw a bar.
        device: Where to move the model first, or ``None``.
        model_kwargs: Further arguments of the model's forward, such as ``task``.
        pool_options: Upstream's ``pool``, ``chunk_size`` and a list as ``device``; if there are
            any, upstream's own processes embed the chunks.
        first_index: The number of the first text, for messages about a part of a stream.
    """

    texts: Sequence[str]
    prompt: str = ""
    batch_size: int = 32
    show_progress_bar: bool = False
    device: Any = None
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    pool_options: Mapping[str, Any] = field(default_factory=dict)
    first_index: int = 0


@dataclass(slots=True, eq=False)
class Task:
    """One thing to do with the model, for one item or more; a part of it can be done elsewhere.

    Attributes:
        name: Which method of the engine.
        items: Its first argument: texts, or encodings.
        options: Its further arguments.
        deaths: How many processes have died of it.
    """

    name: Literal["chunk", "forward", "raw", "raw_elsewhere", "copies"]
    items: Sequence[Any]
    options: dict[str, Any]
    deaths: int = 0


@dataclass(slots=True)
class Wave:
    """Tasks that do not wait for one another; the flow goes on when all are done.

    Attributes:
        tasks: In order; the flow is sent the list of their results.
        bar: Is moved on with every task, if there is one.
    """

    tasks: list[Task]
    bar: Any = None


# Pauses are None: another caller may have a turn.
Flow = Generator[Wave | None, Any, T]


class Lost:
    """Stands for the result of an item that no process survived."""


LOST = Lost()


class Done(NamedTuple):
    """How much work was done: calls that ended, their texts, tokens read and padding."""

    calls: int = 0
    texts: int = 0
    tokens: int = 0
    padding: int = 0

    def plus(self, calls: int = 0, texts: int = 0, tokens: int = 0, padding: int = 0) -> Done:
        """Add to what was done."""
        return Done(
            self.calls + calls,
            self.texts + texts,
            self.tokens + tokens,
            self.padding + padding,
        )


@dataclass(slots=True)
class Inference(ABC):
    """What becomes of a call, whoever does its tasks.

    Args:
        settings: What the encoder does with every text.
        unit_length: Whether the model ends in Normalize.
        done: What was done so far.
    """

    settings: Settings
    unit_length: bool
    done: Done = field(default_factory=Done, kw_only=True)

    @property
    @abstractmethod
    def limit_tokens(self) -> float | None:
        """Tokens that the model reads of one chunk, as it says itself."""

    @property
    @abstractmethod
    def device_type(self) -> str:
        """Kind of the device that the model is on, such as ``"cpu"``."""

    @property
    def budget_tokens(self) -> int:
        """Tokens a chunk may have: what the model reads, at most 512 unless the user said more."""
        limit = self.limit_tokens
        wanted = self.settings.max_chunk_tokens or DEFAULT_CHUNK_TOKENS
        return wanted if limit is None else int(min(wanted, limit))

    def plan(self, request: Request) -> Flow[list[TextPlan]]:
        """Say what would happen to each text."""
        inputs = yield from self._chunk(request, want_spans=True)
        plans = [None if one is LOST else _plan(one) for one in inputs]
        lost = [index for index, one in enumerate(plans) if one is None]
        if lost:
            raise _lost_texts(lost, plans)
        return [one for one in plans if one is not None]

    def encode_chunks(self, request: Request, *, want_spans: bool = True) -> Flow[list[Any]]:
        """Embed texts and give the vectors of their chunks, one ChunkedText a text.

        *want_spans*: whether the end of a truncated text must be known, which costs a search.
        TextTooLongError comes before anything is computed. WorkerError if no process survives some
        texts; it holds what the others have given.
        """
        # Upstream's processes are given text, which must end where reading stops.
        want_spans = want_spans or bool(request.pool_options)
        inputs = yield from self._chunk(request, want_spans=want_spans)
        self._report_long(inputs, request.first_index)
        chunks = [chunk for one in inputs if one is not LOST for chunk in one.chunks]
        if request.pool_options:
            rows = yield from self._forward_elsewhere(inputs, request)
        else:
            rows = yield from self._forward(chunks, request)
        found = list(self._pooled(inputs, iter(rows)))
        self.tally(len(inputs))
        if None in found:
            lost = [index for index, one in enumerate(found, request.first_index) if one is None]
            raise _lost_texts(lost, found)
        return found

    def encode(self, request: Request) -> Flow[FloatArray]:
        """Embed one text or more, shape (n_texts, dimension); as :meth:`encode_chunks`."""
        try:
            found = yield from self.encode_chunks(request, want_spans=False)
        except WorkerError as error:
            error.results = [one and one.pooled() for one in error.results]
            raise
        return np.stack([one.pooled() for one in found])

    def encode_raw(self, request: Request, upstream: Mapping[str, Any]) -> Flow[list[Any]]:
        """Give token embeddings or all outputs of texts that fit, by upstream's own ``encode``.

        *upstream*: its further arguments. TextTooLongError if texts do not fit: their chunks have
        no common tokens to give.
        """
        inputs = yield from self._chunk(request, want_spans=False)
        self._refuse_long(inputs, "output_value other than 'sentence_embedding'")
        options = {
            "prompt": request.prompt,
            "batch_size": request.batch_size,
            "show_progress_bar": request.show_progress_bar,
            "device": request.device,
            **request.model_kwargs,
            **upstream,
        }
        [found] = yield Wave([Task("raw", list(request.texts), {"upstream": options})])
        self.tally(len(inputs))
        lost = [index for index, one in enumerate(found) if one is LOST]
        if lost:
            raise _lost_texts(lost, [None if one is LOST else one for one in found])
        return list(found)

    def fetch_tokenizer(self) -> Flow[Any]:
        """Give a copy of the tokenizer."""
        [[found]] = yield Wave([Task("copies", ["tokenizer"], {})])
        if found is LOST:
            raise WorkerError("Every worker process ended while it copied the tokenizer.")
        return found

    def tally(self, texts: int) -> None:
        """Note that a call has ended."""
        self.done = self.done.plus(calls=1, texts=texts)

    @abstractmethod
    def move(self, device: Any) -> None:
        """Move the model to another device, before the next tasks."""

    def _chunk(self, request: Request, *, want_spans: bool) -> Flow[list[Any]]:
        """Cut texts into chunks, some at a time; a ChunkedInput for each, or LOST."""
        parts = list(portions(request.texts, _TURN_CHARS))
        tasks = []
        first = request.first_index
        for part in parts:
            options = {
                "prompt": request.prompt,
                "want_spans": want_spans,
                "first_index": first,
            }
            tasks.append(Task("chunk", part, options))
            first += len(part)
        found = yield Wave(tasks)
        return [one for part in found for one in part]

    def _forward(self, chunks: Sequence[Chunk], request: Request) -> Flow[list[Any]]:
        """Embed chunks batch by batch; a vector (dimension,) for each, or LOST."""
        kind = self.device_type
        if request.device is not None:
            self.move(request.device)
            kind = str(request.device).partition(":")[0]
        lengths = [len(chunk.encoding) for chunk in chunks]
        few_shapes = self.settings.few_shapes
        found = batches(
            lengths,
            self._batch_tokens(request, kind),
            limit=self.budget_tokens,
            few_shapes=kind == "mps" if few_shapes is None else few_shapes,
            fewer_shapes=kind == "cpu" and few_shapes is None,
        )
        options = {
            "prompt": request.prompt,
            "device": request.device,
            "model_kwargs": dict(request.model_kwargs),
        }
        tasks = [
            Task(
                "forward",
                [chunks[index].encoding for index in batch.indices],
                {**options, "shape": (batch.rows, batch.columns)},
            )
            for batch in found
        ]
        rows: list[Any] = [None] * len(chunks)
        with tqdm(desc="Batches", total=len(tasks), disable=not request.show_progress_bar) as bar:
            vectors = yield Wave(tasks, bar)
        for batch, part in zip(found, vectors, strict=True):
            for index, row in zip(batch.indices, part, strict=True):
                rows[index] = row
        return rows

    def _forward_elsewhere(self, inputs: Sequence[Any], request: Request) -> Flow[list[Any]]:
        """Let upstream's processes embed the chunks, which all fit."""
        pieces = [
            text if len(one.chunks) == 1 and not one.is_long else text[slice(*chunk.span)].strip()
            for text, one in zip(request.texts, inputs, strict=True)
            for chunk in one.chunks
        ]
        options = {
            "prompt": request.prompt,
            "batch_size": request.batch_size,
            "show_progress_bar": request.show_progress_bar,
            **request.model_kwargs,
            **request.pool_options,
        }
        [vectors] = yield Wave([Task("raw_elsewhere", pieces, {"upstream": options})])
        return list(vectors)

    def _pooled(self, inputs: Sequence[Any], rows: Iterator[Any]) -> Iterator[ChunkedText | None]:
        """Put the vectors of each text's chunks together; ``None`` where one of them is lost."""
        for one in inputs:
            mine = [] if one is LOST else [next(rows) for _ in one.chunks]
            if one is LOST or any(row is LOST for row in mine):
                yield None
                continue
            vectors = np.stack(mine)
            counts = tuple(len(chunk.encoding) for chunk in one.chunks)
            pooled = pool(vectors, counts, self.settings.pooling, unit_length=self.unit_length)
            spans = tuple(chunk.span for chunk in one.chunks)
            yield ChunkedText(spans, counts, vectors, one.is_long, pooled, one.cut_clusters)

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


def _plan(one: ChunkedInput) -> TextPlan:
    return TextPlan(
        tuple(chunk.span for chunk in one.chunks),
        tuple(len(chunk.encoding) for chunk in one.chunks),
        one.is_long,
        one.cut_clusters,
    )


def _long(inputs: Sequence[Any], first: int) -> list[int]:
    return [index for index, one in enumerate(inputs, first) if one is not LOST and one.is_long]


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
