"""Calls: what a backend is asked to do, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from safe_embed.pooling import PoolingFunction
from safe_embed.text.chunking import Chunker

OnLong = Literal["chunk", "truncate", "error"]
WhenFull = Literal["wait", "error"]
# A list of them takes 0.8 MB besides the texts. Source: sys.getsizeof.
DEFAULT_MAX_WAITING_TEXTS = 100_000


@dataclass(frozen=True, slots=True)
class Settings:
    """What an encoder does with every text; see :class:`safe_embed.SafeEncoder`."""

    chunker: Chunker
    pooling: PoolingFunction
    max_chunk_tokens: int | None = None
    on_long: OnLong = "chunk"
    max_batch_tokens: int | None = None
    few_shapes: bool | None = None
    max_waiting_texts: int | None = DEFAULT_MAX_WAITING_TEXTS
    when_full: WhenFull = "wait"


@dataclass(frozen=True, slots=True)
class Pool:
    """Processes besides the encoder's own that are to embed the chunks of a call.

    Attributes:
        processes: What ``start_multi_process_pool`` gave; ``None`` starts some for this call.
        devices: One for each process that is started.
        chunk_size: Chunks of text in a message to a process of upstream's.
    """

    processes: Mapping[str, Any] | None
    devices: Any = None
    chunk_size: int | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What to embed, and how.

    Attributes:
        texts: Checked texts.
        prompt: What goes in front of every chunk.
        titles: The title of each text, which goes between prompt and chunk; empty for none.
        batch_size: Caps a batch at this many times the budget, in tokens.
        show_progress_bar: Whether to draw a bar.
        device: Where to move the model first, or ``None``.
        model_kwargs: Further arguments of the model's forward, such as ``task``.
        pool: Which other processes embed the chunks; ``None`` for none.
        first_index: The number of the first text, for messages about a part of a stream.
    """

    texts: Sequence[str]
    prompt: str = ""
    titles: Sequence[str] = ()
    batch_size: int = 32
    show_progress_bar: bool = False
    device: Any = None
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    pool: Pool | None = None
    first_index: int = 0

    def before_chunks(self, place: int) -> str:
        """Give what goes in front of every chunk of a text: the prompt, and a line with its title.

        Args:
            place: Which of the texts.

        Returns:
            The text in front; empty for nothing.
        """
        title = self.titles[place] if self.titles else ""
        return f"{self.prompt}{title}\n" if title else self.prompt


@dataclass(frozen=True, slots=True)
class Embed:
    """Embed texts; the result is an array, float32, shape (n_texts, dimension).

    Raises TextTooLongError before anything is computed; WorkerError if no process survives some
    texts, with the results of the others.
    """

    request: Request


@dataclass(frozen=True, slots=True)
class EmbedChunks:
    """Embed texts and keep the vectors of their chunks; the result is a list of ChunkedText.

    Attributes:
        request: The texts.
        max_chunk_tokens: What a chunk may have; ``None`` for at most 512, chunks that search well.
    """

    request: Request
    max_chunk_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class EmbedRaw:
    """Give all outputs of the model for texts that fit, by upstream's own ``encode``.

    TextTooLongError if texts do not fit: their chunks have no common tokens to give.

    Attributes:
        request: The texts.
        upstream: Further arguments of upstream's ``encode``.
    """

    request: Request
    upstream: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PlanTexts:
    """Say what would happen to texts; the result is a list of TextPlan."""

    request: Request


@dataclass(frozen=True, slots=True)
class FetchTokenizer:
    """Copy the tokenizer; the result is the copy."""


@dataclass(frozen=True, slots=True)
class FetchFingerprint:
    """Embed a fixed text, by which a model is known; the result is a vector of length 1."""


@dataclass(frozen=True, slots=True)
class FetchFeatures:
    """Make the features of texts; the result is the dictionary of upstream's ``preprocess``.

    Attributes:
        texts: Checked texts.
        prompt: What goes in front of each; ``None`` for nothing.
        options: Further arguments of upstream's ``preprocess``.
    """

    texts: Sequence[str]
    prompt: str | None
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Move:
    """Move or cast a model; the result is its device and type afterwards, by their names.

    Attributes:
        device: Such as ``"cuda:1"``; ``None`` for where it is.
        dtype: Such as ``"torch.float16"``; ``None`` for as it is.
    """

    device: str | None
    dtype: str | None


@dataclass(frozen=True, slots=True)
class StartPool:
    """Start upstream's own processes; the result is upstream's record of them.

    Attributes:
        devices: One for each process; ``None`` for upstream's choice.
    """

    devices: list[str] | None


SingleCall: TypeAlias = FetchTokenizer | FetchFingerprint | FetchFeatures | Move | StartPool
Call: TypeAlias = Embed | EmbedChunks | EmbedRaw | PlanTexts | SingleCall
