"""Does tasks with a loaded model.

Everything here runs on one thread: that of a thread backend, or that of a worker process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np

from safe_embed.batching import needs_padding, token_counts
from safe_embed.inference.request import Settings
from safe_embed.inference.tasks import (
    ChunkStretch,
    ChunkTexts,
    CopyTokenizer,
    EmbedBatch,
    EmbedFixedText,
    EncodeUpstream,
    MoveModel,
    Outcome,
    Preprocess,
    StartProcesses,
    Task,
    Work,
)
from safe_embed.memory.remedies import trim
from safe_embed.text.graphemes import between_clusters
from safe_embed.text.stretches import Stretch, Window
from safe_embed.types import Chunk, ChunkedInput, Encoding, FloatArray, Span
from safe_embed.upstream import unpadded
from safe_embed.upstream.attributes import least, position_tokens, preprocess
from safe_embed.upstream.preprocessing import reader_kind
from safe_embed.upstream.same_model import CANARY
from safe_embed.upstream.settings import dtype_of
from safe_embed.upstream.tokenizer import ModelReader
from safe_embed.vectors import normalize

if TYPE_CHECKING:
    from safe_embed.upstream.source import SentenceTransformer

logger = logging.getLogger("safe_embed")

# Tokens of a text that a model is checked with.
_CHECK_TOKENS = 512
# A chunk of more tokens than this is computed by the attention of `unpadded`, which needs no mask
# of length x length for layers with a window.
_LONG_CHUNK_TOKENS = 512


@dataclass(slots=True)
class Engine:
    """Does tasks with one model.

    Args:
        settings: What the encoder does with every text.
        model: The model, in evaluation mode; may be exchanged between two tasks.
        tokenizer: Its tokenizer, used by this object alone; likewise.
        unpadded: Whether batches go through this model without padding, on a CPU.

    Attributes:
        positions: Tokens that the model has positions for; ``None`` for any number.
        reader_kind: What reads texts just as the model does.
        forward_kwargs: Names of the further arguments that the forward of the model takes.
    """

    settings: Settings
    model: SentenceTransformer
    tokenizer: Any
    unpadded: bool = False
    positions: int | None = field(init=False, default=None)
    reader_kind: type[ModelReader] = field(init=False, default=ModelReader)
    forward_kwargs: frozenset[str] = field(init=False, default=frozenset())

    def __post_init__(self) -> None:
        self.positions = position_tokens(self.model)
        self.reader_kind = reader_kind(self.model, self.tokenizer)
        self.forward_kwargs = frozenset(self.model.get_model_kwargs())

    def do(self, task: Task) -> Outcome:
        """Do a task.

        Args:
            task: Any task.

        Returns:
            A value for each of its items, and what was done for them.
        """
        match task:
            case ChunkTexts():
                return Outcome(self._chunk(task))
            case ChunkStretch():
                return Outcome([self._chunk_stretch(task, window) for window in task.items])
            case EmbedBatch():
                return self._forward(task)
            case EncodeUpstream():
                return self._encode_upstream(task)
            case _:
                return Outcome(self._answers(task))

    def _answers(
        self, task: CopyTokenizer | EmbedFixedText | Preprocess | MoveModel | StartProcesses
    ) -> Sequence[Any]:
        """Do a task that is counted nowhere."""
        match task:
            case CopyTokenizer():
                return [deepcopy(self.tokenizer)]
            case EmbedFixedText():
                return [self.fingerprint()]
            case Preprocess():
                return [preprocess(self.model, *item) for item in task.items]
            case MoveModel():
                return [self._move(*item) for item in task.items]
            case StartProcesses():
                return [self.model.start_multi_process_pool(devices) for devices in task.items]
            case _:
                assert_never(task)

    def _chunk(self, task: ChunkTexts) -> list[ChunkedInput]:
        """Cut texts into chunks, or off, as the settings say."""
        reader, budget = self._reader(task.prompt), task.budget_tokens
        if self.settings.on_long == "truncate":
            spans = task.want_spans
            return [_truncated(reader, text, budget, want_spans=spans) for _, text in task.items]
        numbers, texts = [number for number, _ in task.items], [text for _, text in task.items]
        return self.settings.chunker.chunk(texts, reader, budget, numbers)

    def _chunk_stretch(self, task: ChunkStretch, window: Window) -> Stretch:
        """Cut the next stretch of a long text into chunks."""
        reader = self._reader(task.prompt)
        return self.settings.chunker.chunk_stretch(window, reader, task.budget_tokens, task.index)

    def _forward(self, task: EmbedBatch) -> Outcome:
        """Embed one batch."""
        if task.device is not None:
            self.model.to(task.device)
        embed = partial(self._embed, prompt=task.prompt, model_kwargs=task.model_kwargs)
        vectors = self._in_parts(embed, task.items, *task.shape)
        is_padded = not self._unpads(task.items, task.model_kwargs)
        tokens, padding = token_counts(task.items, task.shape, is_padded=is_padded)
        device = None if task.device is None else str(self.model.device)
        return Outcome(vectors, Work(tokens=tokens, padding=padding), device)

    def _move(self, device: str | None, dtype: str | None) -> tuple[str, str]:
        """Move and cast the model; give what became of it."""
        if device is not None:
            self.model.to(device)
        if dtype is not None:
            self.model.to(dtype_of(dtype))
        return str(self.model.device), str(self.model.dtype)

    def _encode_upstream(self, task: EncodeUpstream) -> Outcome:
        """Call upstream's own ``encode``, which moves the model where it is asked to."""
        before = self.model.device
        values = self.model.encode(list(task.items), **task.options)
        after = self.model.device
        return Outcome(values, device=None if after == before else str(after))

    def fingerprint(self) -> FloatArray:
        """Embed a fixed text, uncounted, by which a model is known; length 1, (dimension,)."""
        [vector] = self.embed_now([CANARY])
        return normalize(vector)

    def embed_now(self, texts: Sequence[str]) -> FloatArray:
        """Embed the beginnings of texts, uncounted, as a check of the model; (n, dimension)."""
        reader = self._reader("")
        budget = int(least(self.model.max_seq_length, self.positions, _CHECK_TOKENS) or 0)
        encodings = [reader.truncate(text, budget)[0] for text in texts]
        return self._embed(encodings, shape=(0, 0))

    def _unpads(self, encodings: Sequence[Encoding], model_kwargs: Mapping[str, Any]) -> bool:
        # encode_query and encode_document always pass a task, which most models do not take.
        is_plain = self.forward_kwargs.isdisjoint(model_kwargs)
        can = self.unpadded and self.model.device.type == "cpu" and is_plain
        return can and (needs_padding(encodings) or len(encodings[0]) > _LONG_CHUNK_TOKENS)

    def _reader(self, prompt: str) -> ModelReader:
        return self.reader_kind.of(self.model, self.tokenizer, prompt)

    def _in_parts(
        self,
        embed: Callable[..., FloatArray],
        encodings: Sequence[Encoding],
        rows: int,
        columns: int,
    ) -> FloatArray:
        """Embed a batch; where the device has no memory for it, half of it at a time."""
        try:
            return embed(encodings, shape=(rows, columns))
        except (RuntimeError, MemoryError) as error:
            if len(encodings) == 1 or not _is_out_of_memory(error):
                raise
        # Not above: while the error is held, it holds the tensors of the failed attempt.
        trim(self.model.device.type)
        middle = -(-len(encodings) // 2)
        logger.warning(
            "No memory on %s for a batch of %d chunks of up to %d tokens: halved. A smaller "
            "max_batch_tokens avoids the attempt.",
            *(self.model.device, len(encodings), max(map(len, encodings))),
        )
        halves = [
            self._in_parts(embed, part, -(-rows // 2), columns)
            for part in (encodings[:middle], encodings[middle:])
        ]
        return np.concatenate(halves)

    def _embed(
        self,
        encodings: Sequence[Encoding],
        *,
        shape: tuple[int, int],
        prompt: str = "",
        model_kwargs: Mapping[str, Any] = MappingProxyType({}),
    ) -> FloatArray:
        import torch

        device = self.model.device
        self.model.eval()
        raw = self._reader(prompt).features(encodings, *shape)
        features = {
            name: value.to(device) if torch.is_tensor(value) else value
            for name, value in raw.items()
        }
        with torch.inference_mode():
            if self._unpads(encodings, model_kwargs):
                out = self._without_padding(features)
            else:
                out = self.model(features, **model_kwargs)["sentence_embedding"]
            rows = out[: len(encodings)]
            precise = rows if rows.dtype == torch.float64 else rows.float()
            vectors: FloatArray = precise.cpu().numpy()
        return vectors

    def _without_padding(self, features: dict[str, Any]) -> Any:
        try:
            return unpadded.forward(self.model, dict(features))["sentence_embedding"]
        except Exception as error:  # models and their hooks are code of the user's own
            if _is_out_of_memory(error):
                raise
            kind = type(error).__name__
        vectors = self.model(features)["sentence_embedding"]  # raises what is the model's own error
        logger.warning(
            "The model does not compute attention as expected, or reads more than the vectors of "
            "tokens (%s): batches are padded.",
            kind,
        )
        self.unpadded = False
        return vectors


def _is_out_of_memory(error: Exception) -> bool:
    """Tell what torch says of its devices: a type for CUDA, words for MPS and the CPU."""
    import torch

    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    words = str(error)
    return "out of memory" in words or "can't allocate memory" in words


def _truncated(reader: ModelReader, text: str, budget: int, *, want_spans: bool) -> ChunkedInput:
    encoding, is_long = reader.truncate(text, budget)
    kept = reader.kept_span(text, budget) if is_long and want_spans else Span(0, len(text))
    # Upstream may stop inside a cluster. Whether it does follows from the text up to there and the
    # next character: the rest of a long text need not be read.
    edges = [edge for edge in kept if 0 < edge < len(text)]
    known = text if reader.keeps_end else text[: kept.end + 1]
    inside = set(edges).difference(between_clusters(known, edges))
    return ChunkedInput((Chunk(kept, encoding),), is_long, tuple(inside))
