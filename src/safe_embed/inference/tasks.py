"""Tasks: what a model is asked to do for a call, piece by piece, with the counts of each piece."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

from safe_embed.text.stretches import Window
from safe_embed.types import Encoding, FloatArray

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ChunkTexts:
    """Cut texts into chunks; the result has a ChunkedInput for each.

    Attributes:
        items: Texts, each behind its number, for messages.
        prompt: What goes in front of every chunk.
        budget_tokens: What a chunk may have, special tokens and prompt included.
        want_spans: Whether the end of a truncated text must be known, which costs a search.
    """

    reads_texts: ClassVar[bool] = True
    items: Sequence[tuple[int, str]]
    prompt: str
    budget_tokens: int
    want_spans: bool


@dataclass(frozen=True, slots=True)
class ChunkStretch:
    """Cut the next stretch of a long text into chunks; the result holds a Stretch.

    Attributes:
        items: One window.
        prompt: What goes in front of every chunk.
        budget_tokens: What a chunk may have, special tokens and prompt included.
        index: The number of the text, for messages.
    """

    reads_texts: ClassVar[bool] = True
    items: Sequence[Window]
    prompt: str
    budget_tokens: int
    index: int


@dataclass(frozen=True, slots=True)
class EmbedBatch:
    """Embed one batch of chunks; the result is an array, float32, shape (n_chunks, dimension).

    Attributes:
        items: Encodings.
        prompt: What stands in front of each of them.
        shape: Rows and columns that the batch is padded to at least.
        device: Where to move the model first, or ``None``.
        model_kwargs: Further arguments of the model's forward.
    """

    reads_texts: ClassVar[bool] = False
    items: Sequence[Encoding]
    prompt: str
    shape: tuple[int, int]
    device: Any
    model_kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EncodeUpstream:
    """Call upstream's own ``encode``; the result has one value for each text.

    Attributes:
        items: Texts that fit.
        options: Its further arguments.
    """

    reads_texts: ClassVar[bool] = True
    items: Sequence[str]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CopyTokenizer:
    """Copy the tokenizer, which no two threads may share; the result holds the copy."""

    reads_texts: ClassVar[bool] = False
    items: Sequence[None] = (None,)


@dataclass(frozen=True, slots=True)
class EmbedFixedText:
    """Embed a fixed text, by which a model is known; the result holds a vector of length 1."""

    reads_texts: ClassVar[bool] = False
    items: Sequence[None] = (None,)


@dataclass(frozen=True, slots=True)
class Preprocess:
    """Make the features of texts as upstream does; the result holds its dictionary of them.

    Attributes:
        items: One list of texts, the prompt, and further arguments of upstream's ``preprocess``.
    """

    reads_texts: ClassVar[bool] = True
    items: Sequence[tuple[Sequence[str], str | None, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True)
class MoveModel:
    """Move or cast the model; the result holds its device and type afterwards, by their names.

    Attributes:
        items: One device and one type, such as ``"cuda:1"`` and ``"torch.float16"``; ``None`` for
            as it is.
    """

    reads_texts: ClassVar[bool] = False
    items: Sequence[tuple[str | None, str | None]]


@dataclass(frozen=True, slots=True)
class StartProcesses:
    """Start upstream's own processes; the result holds upstream's record of them.

    Attributes:
        items: One list of devices, or ``None`` for upstream's choice.
    """

    reads_texts: ClassVar[bool] = False
    items: Sequence[list[str] | None]


Task: TypeAlias = (
    ChunkTexts
    | ChunkStretch
    | EmbedBatch
    | EncodeUpstream
    | CopyTokenizer
    | EmbedFixedText
    | Preprocess
    | MoveModel
    | StartProcesses
)


class Work(NamedTuple):
    """How much was done.

    Attributes:
        calls: Calls that have ended.
        texts: Texts of those calls.
        tokens: Tokens that the model has read, special tokens and prompts included.
        padding: Padding that it has read besides, in tokens.
    """

    calls: int = 0
    texts: int = 0
    tokens: int = 0
    padding: int = 0

    def plus(self, more: Work) -> Work:
        """Add up."""
        return Work(*(mine + other for mine, other in zip(self, more, strict=True)))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a task has given.

    Attributes:
        values: One for each item of the task, in order.
        work: What the model has read for it.
        device: Where the task has moved the model to; ``None`` if it has not.
    """

    values: Sequence[Any] | FloatArray
    work: Work = field(default_factory=Work)
    device: str | None = None


@dataclass(slots=True)
class Wave:
    """Tasks that do not wait for one another; their call goes on when all of them are done.

    Attributes:
        tasks: In order. The call is sent the list of their values.
        bar: A progress bar that is moved on with every task, if there is one.
    """

    tasks: list[Task]
    bar: Any = None


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call has done its work, and is to be counted.

    Attributes:
        texts: How many texts it had.
    """

    texts: int


Flow: TypeAlias = Generator[Wave | CallEnded, Any, T]


class Lost:
    """Stands for the result of an item that no worker process survived."""


LOST = Lost()
