"""Texts in, vectors out: chunk, batch, forward, pool.

The pipeline turns a call into stages and knows no model: each stage is a wave of tasks, which a
backend has done by an engine, on its thread or in a worker process.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from safe_embed.errors import ConfigError, WorkerError, both
from safe_embed.inference.distinct import distinct
from safe_embed.inference.forward import Forward
from safe_embed.inference.long_texts import (
    check_long,
    check_prompt_length,
    lost_texts,
    refuse_long,
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
from safe_embed.inference.stretched_text import STRETCHED, EmbeddedText, stretched_text
from safe_embed.inference.tasks import (
    LOST,
    CallEnded,
    ChunkTexts,
    EncodeUpstream,
    Flow,
    Task,
    Wave,
)
from safe_embed.pooling import pool
from safe_embed.text.chunking import ANY_CHARS
from safe_embed.types import ChunkedInput, ChunkedText, FloatArray, TextPlan
from safe_embed.upstream.attributes import least
from safe_embed.upstream.settings import ModelState
from safe_embed.upstream.tokenizer import portions

# Chunks for search are at most this long, unless the caller asks for more: shorter chunks find
# better. Source: docs/ja/truncation.md.
SEARCH_CHUNK_TOKENS = 512
# The budget of a model that reads any number of tokens, such as a StaticEmbedding.
_ANY_TOKENS = 2**31 - 1
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
    forward: Forward = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "forward", Forward(self.settings, self.model))

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
        for same in _stretched(inputs, request):
            size = self._stretch_chars(budget)
            text = yield from stretched_text(same[0], request, budget, size)
            for place in same:
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
            rows = yield from self.forward.vectors(chunks, request, budget)
        texts = list(self._pooled(inputs, iter(rows)))
        for same in _stretched(inputs, request):
            size = self._stretch_chars(budget)
            embed = partial(self.forward.vectors, budget=budget)
            text = yield from stretched_text(same[0], request, budget, size, embed)
            for place in same:
                texts[place] = None if text is LOST else self._chunked_text(text)
        yield CallEnded(len(inputs))
        if None in texts:
            lost = [index for index, text in enumerate(texts, request.first_index) if text is None]
            raise lost_texts(lost, texts)
        return texts

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
        firsts, places = distinct(_what_is_read(request))
        most = self._whole_chars(request, budget)
        by_prompt: dict[str, list[int]] = {request.prompt: []}
        for first in firsts:
            of_prompt = by_prompt.setdefault(request.before_chunks(first), [])
            if len(request.texts[first]) <= most:
                of_prompt.append(first)
        if self.settings.on_long != "truncate":  # as upstream, which cuts prompts too
            for prompt in by_prompt:
                check_prompt_length(prompt, budget)
        tasks = [
            task
            for prompt, whole in by_prompt.items()
            for task in _chunk_tasks(request, prompt, whole, budget, want_spans=want_spans)
        ]
        # Titles of texts that are cut later: one that leaves no room is refused now.
        checks = [
            ChunkTexts([(request.first_index, "")], prompt, budget, want_spans=False)
            for prompt, whole in by_prompt.items()
            if not whole and prompt != request.prompt
        ]
        inputs = yield Wave([*tasks, *checks])
        order = chain.from_iterable(by_prompt.values())
        cut = dict(zip(order, chain.from_iterable(inputs[: len(tasks)]), strict=True))
        return [cut.get(firsts[place], STRETCHED) for place in places]

    def _whole_chars(self, request: Request, budget: int) -> int:
        """Return how many characters a text may have that is cut into chunks at once."""
        if self.settings.on_long == "truncate" or request.pool is not None:
            return ANY_CHARS
        chars = self._stretch_chars(budget)
        return chars + chars // 2

    def _stretch_chars(self, budget: int) -> int:
        return self.settings.chunker.stretch_chars(budget)

    def _forward_in_pool(self, inputs: Sequence[Any], request: Request) -> Flow[list[Any]]:
        """Let upstream's processes embed the chunks, which all fit; all dimensions."""
        pieces = [
            text if len(cut.chunks) == 1 and not cut.is_long else text[slice(*chunk.span)].strip()
            for text, cut in zip(request.texts, inputs, strict=True)
            for chunk in cut.chunks
        ]
        firsts, places = distinct(pieces)
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
        [vectors] = yield Wave([EncodeUpstream([pieces[first] for first in firsts], options)])
        return [vectors[place] for place in places]

    def _pooled(self, inputs: Sequence[Any], rows: Iterator[Any]) -> Iterator[ChunkedText | None]:
        """Put the vectors of each text's chunks together; ``None`` where one of them is lost."""
        for text in inputs:
            vectors = [] if text is LOST else [next(rows) for _ in text.chunks]
            if text is LOST or text is STRETCHED or any(row is LOST for row in vectors):
                yield None
                continue
            yield self._chunked_text(EmbeddedText(_plan_of(text), vectors))

    def _chunked_text(self, text: EmbeddedText) -> ChunkedText:
        """Pool the vectors of the chunks of one text."""
        plan, vectors = text.plan, np.stack(text.vectors)
        unit_length = self.model.facts.unit_length
        pooled = pool(vectors, plan.token_counts, self.settings.pooling, unit_length=unit_length)
        return ChunkedText(
            plan.spans, plan.token_counts, vectors, plan.is_long, pooled, plan.cut_clusters
        )


def _chunk_tasks(
    request: Request, prompt: str, whole: Sequence[int], budget: int, *, want_spans: bool
) -> Iterator[Task]:
    """Make the tasks that cut texts with a prompt in front, a portion of them each."""
    numbers = iter(whole)
    for portion in portions([request.texts[place] for place in whole], _TURN_CHARS):
        items = [(request.first_index + next(numbers), text) for text in portion]
        yield ChunkTexts(items, prompt, budget, want_spans)


def _what_is_read(request: Request) -> Iterable[Hashable]:
    """Return for each text what decides about its chunks."""
    return zip(request.texts, request.titles, strict=True) if request.titles else request.texts


def _stretched(inputs: Sequence[Any], request: Request) -> Iterable[list[int]]:
    """Return which texts are cut stretch by stretch, identical ones together."""
    same: dict[Hashable, list[int]] = {}
    for place, (text, read) in enumerate(zip(inputs, _what_is_read(request), strict=True)):
        if text is STRETCHED:
            same.setdefault(read, []).append(place)
    return same.values()


def _plan_of(text: ChunkedInput) -> TextPlan:
    return TextPlan(
        tuple(chunk.span for chunk in text.chunks),
        tuple(len(chunk.encoding) for chunk in text.chunks),
        text.is_long,
        text.cut_clusters,
    )
