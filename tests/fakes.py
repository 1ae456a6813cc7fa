"""Stand-ins that need no model: deterministic, and strict about what they are handed."""

from __future__ import annotations

import itertools
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from safe_embed.types import Encoding


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
