"""A loaded model at work: the tasks of a flow, done where the model is.

Everything here runs on one thread, the session's or that of a worker process.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from safe_embed.memory.remedies import trim
from safe_embed.model import unpadded
from safe_embed.model.attributes import least, position_tokens
from safe_embed.model.batching import needs_padding, work
from safe_embed.model.inference import Inference, Task
from safe_embed.model.tokenization import ModelReader
from safe_embed.text.graphemes import between_clusters
from safe_embed.types import Chunk, ChunkedInput, Encoding, FloatArray, Span

if TYPE_CHECKING:
    from safe_embed.model.loader import SentenceTransformer

logger = logging.getLogger("safe_embed")


@dataclass(slots=True)
class Engine(Inference):
    """Does what a flow asks for, with one model.

    Args:
        settings: What the encoder does with every text.
        unit_length: Whether the model ends in Normalize.
        model: The model, in evaluation mode; may be exchanged between two tasks.
        tokenizer: Its tokenizer, used by this object alone; likewise.

    Attributes:
        unpadded: Whether batches go through this model without padding, on a CPU.
        positions: Tokens that the model has positions for; ``None`` for any number.
    """

    model: SentenceTransformer
    tokenizer: Any
    unpadded: bool = False
    positions: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.positions = position_tokens(self.model)

    @property
    def limit_tokens(self) -> float | None:
        """Tokens that the model reads of one chunk: as it says itself, or as it has positions."""
        return least(self.model.max_seq_length, self.positions)

    @property
    def device_type(self) -> str:
        """Kind of the device that the model is on."""
        return self.model.device.type

    def do(self, task: Task) -> Any:
        """Do a task.

        Args:
            task: Any task.

        Returns:
            Its result: a sequence with one value for each of its items.
        """
        return getattr(self, task.name)(task.items, **task.options)

    def chunk(
        self, texts: Sequence[str], *, prompt: str, want_spans: bool, first_index: int
    ) -> list[ChunkedInput]:
        """Cut texts into chunks, or off, as the settings say."""
        reader = self._reader(prompt)
        budget = self.budget_tokens
        if self.settings.on_long == "truncate":
            return [_truncated(reader, text, budget, want_spans=want_spans) for text in texts]
        return self.settings.chunker.chunk(texts, reader, budget, first_index)

    def forward(
        self,
        encodings: Sequence[Encoding],
        *,
        prompt: str,
        shape: tuple[int, int],
        device: Any,
        model_kwargs: Mapping[str, Any],
    ) -> FloatArray:
        """Embed one batch, padded to *shape* at least; gives vectors of shape (n, dimension)."""
        if device is not None:  # a worker that has not been told otherwise
            self.move(device)
        embed = partial(self._embed, prompt=prompt, model_kwargs=model_kwargs)
        found = self._in_parts(embed, encodings, *shape)
        fills = not self._unpads(encodings, model_kwargs)
        self.done = self.done.plus(**work(encodings, shape, fills=fills))
        return found

    def raw(self, texts: Sequence[str], *, upstream: Mapping[str, Any]) -> list[Any]:
        """Do what upstream's own ``encode`` does, one value a text."""
        found: list[Any] = self.model.encode(list(texts), **upstream)
        return found

    def raw_elsewhere(self, pieces: Sequence[str], *, upstream: Mapping[str, Any]) -> FloatArray:
        """Let upstream's own processes embed pieces that fit; all dimensions."""
        vectors: FloatArray = self.model.encode(pieces, truncate_dim=sys.maxsize, **upstream)
        return vectors

    def move(self, device: Any) -> None:
        """Move the model to another device."""
        self.model.to(device)

    def copies(self, names: Sequence[str]) -> list[Any]:
        """Copy parts that are not to be shared between threads."""
        return [deepcopy(getattr(self, name)) for name in names]

    def embed_now(self, texts: Sequence[str]) -> FloatArray:
        """Embed the beginnings of texts, uncounted, as a check of the model; (n, dimension)."""
        reader = self._reader("")
        encodings = [reader.truncate(text, self.budget_tokens)[0] for text in texts]
        return self._embed(encodings, shape=(0, 0))

    def _unpads(self, encodings: Sequence[Encoding], model_kwargs: Mapping[str, Any]) -> bool:
        can = self.unpadded and self.device_type == "cpu" and not model_kwargs
        return can and needs_padding(encodings)

    def _reader(self, prompt: str) -> ModelReader:
        return ModelReader(self.model[0], self.tokenizer, prompt)

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
        trim(self.device_type)
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
        found = self._reader(prompt).features(encodings, *shape)
        features = {
            name: value.to(device) if torch.is_tensor(value) else value
            for name, value in found.items()
        }
        with torch.inference_mode():
            if self._unpads(encodings, model_kwargs):
                out = self._without_padding(features)
            else:
                out = self.model(features, **model_kwargs)["sentence_embedding"]
            vectors: FloatArray = out[: len(encodings)].float().cpu().numpy()
        return vectors

    def _without_padding(self, features: dict[str, Any]) -> Any:
        try:
            return unpadded.forward(self.model, dict(features))["sentence_embedding"]
        except Exception as error:  # models and their hooks are code of the user's own
            if _is_out_of_memory(error):
                raise
            kind = type(error).__name__
        found = self.model(features)["sentence_embedding"]  # raises what is the model's own error
        logger.warning(
            "The model does not compute attention as expected, or reads more than the vectors of "
            "tokens (%s): batches are padded.",
            kind,
        )
        self.unpadded = False
        return found


def _is_out_of_memory(error: Exception) -> bool:
    """Tell what torch says of its devices: a type for CUDA, words for MPS and the CPU."""
    import torch

    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    words = str(error)
    return "out of memory" in words or "can't allocate memory" in words


def _truncated(reader: ModelReader, text: str, budget: int, *, want_spans: bool) -> ChunkedInput:
    encoding, is_long = reader.truncate(text, budget)
    kept = reader.kept_chars(text, budget) if is_long and want_spans else len(text)
    # Upstream may stop inside a cluster. Whether it does follows from the text up to there and the
    # next character: the rest of a long text need not be read.
    ends = [kept] if 0 < kept < len(text) else []
    inside = set(ends).difference(between_clusters(text[: kept + 1], ends))
    return ChunkedInput((Chunk(Span(0, kept), encoding),), is_long, tuple(inside))
