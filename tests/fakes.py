"""Stand-ins that need no model: deterministic, and strict about what they are handed."""

from __future__ import annotations

import itertools
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from safe_embed.backends.admission import Admission, Place
from safe_embed.backends.interface import Backend
from safe_embed.inference.request import (
    Call,
    Embed,
    EmbedChunks,
    EmbedRaw,
    FetchFingerprint,
    Move,
    PlanTexts,
    Pool,
)
from safe_embed.memory import MemorySample, Stats
from safe_embed.types import ChunkedText, Encoding, FloatArray, Span, TextPlan
from safe_embed.upstream.settings import ModelFacts, ModelSettings, ModelState


def character_class(character: str) -> str:
    """Tell kana from kanji, letters, digits and marks, roughly."""
    kind = unicodedata.name(character, "control").split()[0]
    return kind if unicodedata.category(character).startswith("L") else "other"


@dataclass
class FakeReader:
    """A ``Reader`` whose tokens are runs of one character class, and blanks nothing.

    A whole can have fewer tokens than the sum of its parts, since runs join: ああ|ああ -> ああああ.
    With *seam_tokens* it can have more, since a seam between two runs costs tokens: あ|漢 -> あ+漢.

    Args:
        prompt: What goes in front of every chunk.
        special: Tokens besides prompt and text.
        run_chars: A run longer than this is several tokens.
        seam_tokens: Tokens of a place where the class changes.
        costs: Tokens of characters that are a run of their own.
        blank_chars: A run of blanks is a token for so many; ``None`` for no tokens at all.

    Attributes:
        pieces: Everything it was handed, in order.
    """

    prompt: str = ""
    special: int = 2
    run_chars: int = 4
    seam_tokens: int = 0
    costs: dict[str, int] = field(default_factory=dict)
    blank_chars: int | None = None
    pieces: list[str] = field(default_factory=list)

    @property
    def overhead_tokens(self) -> int:
        """Tokens of prompt and special tokens."""
        return len(self._encoding(""))

    def count(self, pieces: Sequence[str]) -> list[int]:
        """Count tokens without prompt and special tokens."""
        self.pieces += pieces
        return [len(self._tokens(piece)) for piece in pieces]

    def encode(self, pieces: Sequence[str]) -> list[Encoding]:
        """Give ids that tell the text, with prompt and special tokens."""
        self.pieces += pieces
        return [self._encoding(piece) for piece in pieces]

    def _encoding(self, piece: str) -> Encoding:
        return Encoding.of([0] * self.special + self._tokens(self.prompt + piece))

    def _tokens(self, text: str) -> list[int]:
        return [zlib.crc32(token.encode()) >> 1 for token in self._split(text)]

    def _split(self, text: str) -> Iterator[str]:
        # A character that costs more is a run by itself; so is each stretch of blanks.
        keys = (
            (c if c in self.costs else " " if c.isspace() else character_class(c)) for c in text
        )
        before = ""
        for key, run in itertools.groupby(zip(keys, text, strict=True), key=lambda pair: pair[0]):
            found = "".join(character for _, character in run)
            if before and key != before:
                yield from [before + key] * self.seam_tokens
            if key in self.costs:
                yield from [key] * (self.costs[key] * len(found))
            elif size := self.blank_chars if key == " " else self.run_chars:
                yield from (found[start : start + size] for start in range(0, len(found), size))
            before = key


@dataclass(frozen=True)
class EverySplitter:
    """Cuts behind every character of *marks*; quick, and as coarse or fine as a test needs."""

    marks: str

    def split(self, text: str) -> list[tuple[int, int]]:
        """Give plain tuples, as a user's own splitter may."""
        ends = [at for at, character in enumerate(text, 1) if character in self.marks]
        ends = [*ends, len(text)] if text and ends[-1:] != [len(text)] else ends
        return list(itertools.pairwise([0, *ends]))


DIMENSION = 8


def vector_of(text: str) -> FloatArray:
    """A vector that tells the text, shape (8,)."""
    return np.random.default_rng(zlib.crc32(text.encode())).normal(size=DIMENSION).astype("float32")


def model_state(**settings: Any) -> ModelState:
    """What is known of a model that there is not."""
    given = {
        "max_seq_length": 64,
        "prompts": {"query": "検索: ", "passage": "文書: "},
        "default_prompt_name": None,
        "truncate_dim": None,
        "similarity_fn_name": "cosine",
        **settings,
    }
    return ModelState(
        ModelFacts(
            ModelSettings(**given),
            device="cpu",
            dtype="torch.float32",
            unit_length=False,
            dimension=DIMENSION,
            model_kwargs=["task", "extra"],
            weights_bytes=0,
            load_bytes=0,
        )
    )


class FakeBackend:
    """A backend without a model: gives vectors that tell the texts, and keeps its calls.

    Attributes:
        calls: What it was asked to do, in order.
        priorities: Of calls with texts, in order.
        pools: Which pools calls were lent to.
        reloads: The reasons and the kept tokenizers of reloads.
    """

    def __init__(self, **settings: Any) -> None:
        self.model = model_state(**settings)
        self.calls: list[Call] = []
        self.priorities: list[int] = []
        self.pools: list[Pool | None] = []
        self.reloads: list[tuple[str, bool]] = []
        self.is_closed = False
        self.is_ready = True

    def enter(self, texts: int, priority: int, *, must_wait: bool = False) -> Place:
        """Let everybody in; keep the priority."""
        self.priorities.append(priority)
        return Admission(None, "wait").enter(texts, priority)

    def submit(self, call: Call, place: Place | None = None) -> Future[Any]:
        """Do a call at once."""
        self.calls.append(call)
        future: Future[Any] = Future()
        future.set_result(self._result(call))
        return future

    def _result(self, call: Call) -> Any:
        match call:
            case Move():
                return call.device or self.model.device, call.dtype or self.model.dtype
            case FetchFingerprint():
                return np.array([0.6, 0.8], np.float32)
            case Embed():
                return np.stack([vector_of(text) for text in call.request.texts])
            case EmbedChunks() | EmbedRaw() | PlanTexts():
                return [self._given(call, text) for text in call.request.texts]
            case _:
                return "a copy"

    def _given(self, call: Call, text: str) -> Any:
        match call:
            case EmbedChunks():
                return self._chunked(text)
            case EmbedRaw():
                return {"of": text}
            case _:
                return TextPlan((Span(0, len(text)),), (3,), False)

    def _chunked(self, text: str) -> ChunkedText:
        vector = vector_of(text)
        return ChunkedText((Span(0, len(text)),), (3,), vector[None], False, vector)

    def configure(self, **changes: Any) -> None:
        """Change settings."""
        self.model.change(**changes)

    def reload(self, reason: str, *, keep_tokenizer: bool = False) -> None:
        """Take note of it."""
        self.reloads.append((reason, keep_tokenizer))

    def start_pool(self, devices: list[str] | None) -> dict[str, Any]:
        """Give a record."""
        return {"fake": devices}

    @contextmanager
    def lend(self, pool: Pool | None) -> Iterator[tuple[Backend, Pool | None]]:
        """Do the call here, whatever the pool."""
        self.pools.append(pool)
        yield self, pool

    @property
    def stats(self) -> Stats:
        """Nothing was measured."""
        return Stats(len(self.calls), 0, 0, 0, 0, MemorySample(0.0), None, ())

    def idle(self) -> None:
        """There is nothing to wait for."""

    def close(self) -> None:
        """Take note of it."""
        self.is_closed = True
