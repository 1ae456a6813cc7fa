"""Texts in, vectors out, with one loaded model: chunk, batch, forward, pool.

Everything here runs on the session's one thread.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np
from tqdm.auto import tqdm

from safe_embed.errors import TextTooLongError
from safe_embed.model.batching import Batch, batches
from safe_embed.model.tokenization import ModelReader, portions
from safe_embed.pooling import PoolingFunction, pool
from safe_embed.text.chunking import Chunker
from safe_embed.types import Chunk, ChunkedInput, ChunkedText, Encoding, FloatArray, Span, TextPlan

if TYPE_CHECKING:
    from safe_embed.model.loader import SentenceTransformer

T = TypeVar("T")
Steps = Generator[None, None, T]
OnLong = Literal["chunk", "truncate", "error"]

logger = logging.getLogger("safe_embed")

# What a model reads is capped here unless the user asks for more: attention takes memory with the
# square of the length (ruri-v3-30m on 14,457 characters: from 1.0 to 2.4 GB), and shorter chunks
# find better. Source: docs/ja/growth.md and docs/ja/truncation.md.
DEFAULT_CHUNK_TOKENS = 512
# Tokens of a padded batch. On a CPU small batches stay in its caches: 2,663 tokens/s at 1,024,
# 2,452 at 4,096 (e5-small, 2 cores); a GPU wants them large. Source: docs/ja/growth.md.
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
class Inference:
    """A loaded model at work.

    What takes long is a generator that pauses after every batch: there the session may serve
    another caller, give memory back, or put a fresh model or tokenizer in.

    Args:
        model: The model, in evaluation mode; may be exchanged between two steps.
        tokenizer: Its tokenizer, used by this object alone; likewise.
        settings: What the encoder does with every text.
        unit_length: Whether the model ends in Normalize.
    """

    model: SentenceTransformer
    tokenizer: Any
    settings: Settings
    unit_length: bool
    done: Done = field(default_factory=Done)

    @property
    def budget_tokens(self) -> int:
        """Tokens a chunk may have: what the model reads, at most 512 unless the user said more."""
        limit = self.model.max_seq_length
        wanted = self.settings.max_chunk_tokens or DEFAULT_CHUNK_TOKENS
        return wanted if limit is None else int(min(wanted, limit))

    def plan(self, request: Request) -> Steps[list[TextPlan]]:
        """Say what would happen to each text; pause in between."""
        inputs = yield from self._chunk(request, want_spans=True)
        return [
            TextPlan(
                tuple(chunk.span for chunk in one.chunks),
                tuple(len(chunk.encoding) for chunk in one.chunks),
                one.is_long,
                one.cut_clusters,
            )
            for one in inputs
        ]

    def encode_chunks(
        self, request: Request, *, want_spans: bool = True
    ) -> Steps[list[ChunkedText]]:
        """Embed texts and give the vectors of their chunks; pause after each batch.

        *want_spans*: whether the end of a truncated text must be known, which costs a search.
        TextTooLongError comes before anything is computed.
        """
        # Upstream's processes are given text, which must end where reading stops.
        want_spans = want_spans or bool(request.pool_options)
        inputs = yield from self._chunk(request, want_spans=want_spans)
        self._report_long(inputs, request.first_index)
        if request.pool_options:
            vectors = self._forward_elsewhere(inputs, request)
        else:
            chunks = [chunk for one in inputs for chunk in one.chunks]
            vectors = yield from self._forward(chunks, request)
        found: list[ChunkedText] = []
        at = 0
        for one in inputs:
            mine = vectors[at : at + len(one.chunks)]
            at += len(one.chunks)
            counts = tuple(len(chunk.encoding) for chunk in one.chunks)
            pooled = pool(mine, counts, self.settings.pooling, unit_length=self.unit_length)
            spans = tuple(chunk.span for chunk in one.chunks)
            found.append(ChunkedText(spans, counts, mine, one.is_long, pooled))
        self.done = self.done.plus(calls=1, texts=len(inputs))
        return found

    def encode(self, request: Request) -> Steps[FloatArray]:
        """Embed one text or more, shape (n_texts, dimension); pause after each batch."""
        found = yield from self.encode_chunks(request, want_spans=False)
        return np.stack([one.pooled() for one in found])

    def encode_raw(self, request: Request, upstream: Mapping[str, Any]) -> Steps[list[Any]]:
        """Give token embeddings or all outputs of texts that fit, by upstream's own ``encode``.

        *upstream*: its further arguments. TextTooLongError if texts do not fit: their chunks have
        no common tokens to give.
        """
        inputs = yield from self._chunk(request, want_spans=False)
        self._refuse_long(inputs, "output_value other than 'sentence_embedding'")
        found: list[Any] = self.model.encode(
            list(request.texts),
            prompt=request.prompt,
            batch_size=request.batch_size,
            show_progress_bar=request.show_progress_bar,
            device=request.device,
            **request.model_kwargs,
            **upstream,
        )
        tokens = sum(len(chunk.encoding) for one in inputs for chunk in one.chunks)
        self.done = self.done.plus(calls=1, texts=len(inputs), tokens=tokens)
        return found

    def embed_now(self, texts: Sequence[str]) -> FloatArray:
        """Embed texts without pausing, as a check of the model.

        Args:
            texts: Checked texts.

        Returns:
            Text embeddings, shape (n_texts, dimension).
        """
        reader = self._reader("")
        encodings = [reader.truncate(text, self.budget_tokens)[0] for text in texts]
        return self._forward_batch(encodings, Request(texts))

    def _reader(self, prompt: str) -> ModelReader:
        return ModelReader(self.model[0], self.tokenizer, prompt)

    def _chunk(self, request: Request, *, want_spans: bool) -> Steps[list[ChunkedInput]]:
        """Cut texts into chunks, some at a time: other callers have a turn in between."""
        inputs: list[ChunkedInput] = []
        for texts in portions(request.texts, _TURN_CHARS):
            reader = self._reader(request.prompt)  # which may be another one after a pause
            if self.settings.on_long == "truncate":
                inputs += [self._truncate(text, reader, want_spans=want_spans) for text in texts]
            else:
                first = request.first_index + len(inputs)
                budget = self.budget_tokens
                inputs += self.settings.chunker.chunk(texts, reader, budget, first)
            del reader  # so that a tokenizer that is exchanged in the pause goes at once
            yield
        return inputs

    def _truncate(self, text: str, reader: ModelReader, *, want_spans: bool) -> ChunkedInput:
        budget = self.budget_tokens
        encoding, is_long = reader.truncate(text, budget)
        kept = reader.kept_chars(text, budget) if is_long and want_spans else len(text)
        return ChunkedInput((Chunk(Span(0, kept), encoding),), is_long)

    def _report_long(self, inputs: Sequence[ChunkedInput], first: int) -> None:
        if self.settings.on_long == "error":
            self._refuse_long(inputs, "on_long='error'", first)
        if self.settings.on_long == "truncate":
            cut = [index for index, one in enumerate(inputs, first) if one.is_long]
            if cut:
                logger.warning(
                    "%d of %d texts were cut at %d tokens: inputs %s",
                    *(len(cut), len(inputs), self.budget_tokens, _listed(cut)),
                )

    def _refuse_long(self, inputs: Sequence[ChunkedInput], asked: str, first: int = 0) -> None:
        long = [index for index, one in enumerate(inputs, first) if one.is_long]
        if long:
            msg = (
                f"{len(long)} of {len(inputs)} texts have more than the {self.budget_tokens} "
                f"tokens of one chunk, and {asked} allows none: inputs {_listed(long)}. Shorten "
                "them, or use on_long='chunk' and the default output_value.\n"
                f"{len(long)} 件の文章が上限の {self.budget_tokens} トークンを超えています"
                f"（番号 {_listed(long)}）。短くするか on_long='chunk' を使ってください。"
            )
            raise TextTooLongError(msg, long)

    def _forward(self, chunks: Sequence[Chunk], request: Request) -> Steps[FloatArray]:
        """Embed chunks batch by batch; shape (n_chunks, dimension)."""
        if request.device is not None:
            self.model.to(request.device)
        lengths = [len(chunk.encoding) for chunk in chunks]
        few_shapes = self.settings.few_shapes
        found = batches(
            lengths,
            self._batch_tokens(request),
            limit=self.budget_tokens,
            few_shapes=self.model.device.type == "mps" if few_shapes is None else few_shapes,
        )
        rows: list[FloatArray | None] = [None] * len(chunks)
        for batch in tqdm(found, desc="Batches", disable=not request.show_progress_bar):
            vectors = self._forward_batch(
                [chunks[i].encoding for i in batch.indices], request, batch
            )
            for index, row in zip(batch.indices, vectors, strict=True):
                rows[index] = row
            tokens = sum(lengths[index] for index in batch.indices)
            padding = batch.rows * batch.columns - tokens
            self.done = self.done.plus(tokens=tokens, padding=padding)
            yield
        return np.stack(rows)  # type: ignore[arg-type]  # every index is in one batch

    def _forward_batch(
        self, encodings: Sequence[Encoding], request: Request, shape: Batch | None = None
    ) -> FloatArray:
        """Embed one batch with the model and tokenizer there are now."""
        import torch

        device = self.model.device
        self.model.eval()
        rows, columns = (0, 0) if shape is None else (shape.rows, shape.columns)
        found = self._reader(request.prompt).features(encodings, rows, columns)
        features = {
            name: value.to(device) if torch.is_tensor(value) else value
            for name, value in found.items()
        }
        with torch.inference_mode():
            out = self.model(features, **request.model_kwargs)["sentence_embedding"]
            vectors: FloatArray = out[: len(encodings)].float().cpu().numpy()
        return vectors

    def _forward_elsewhere(self, inputs: Sequence[ChunkedInput], request: Request) -> FloatArray:
        """Let upstream's processes embed the chunks, which all fit."""
        pieces = [
            text if len(one.chunks) == 1 and not one.is_long else text[slice(*chunk.span)].strip()
            for text, one in zip(request.texts, inputs, strict=True)
            for chunk in one.chunks
        ]
        vectors: FloatArray = self.model.encode(
            pieces,
            prompt=request.prompt,
            batch_size=request.batch_size,
            show_progress_bar=request.show_progress_bar,
            truncate_dim=sys.maxsize,
            **request.model_kwargs,
            **request.pool_options,
        )
        return vectors

    def _batch_tokens(self, request: Request) -> int:
        default = DEFAULT_BATCH_TOKENS.get(self.model.device.type, DEFAULT_BATCH_TOKENS_ELSEWHERE)
        wanted = self.settings.max_batch_tokens or default
        return min(wanted, request.batch_size * self.budget_tokens)


def _listed(indices: Sequence[int], most: int = 20) -> str:
    """Write indices for a message, the first few of many."""
    more = f", … ({len(indices)} in all)" if len(indices) > most else ""
    return ", ".join(map(str, indices[:most])) + more
