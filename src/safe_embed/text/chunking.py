"""Spans and token counts in, chunks that fit the model out.

Pure: the tokenizer comes in as a :class:`~safe_embed.types.Reader`, so every rule here can be
tested without a model. A text goes down a ladder of splitters, from coarse to fine, only as far as
it must; the pieces are packed evenly, and every chunk is encoded as the model will read it. Only
that encoding proves that a chunk fits: a whole can have more tokens than the sum of its parts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, chain, groupby, islice, pairwise
from operator import attrgetter
from typing import Literal, NamedTuple

from safe_embed.errors import ConfigError, TextTooLongError
from safe_embed.text.custom import check_tiling
from safe_embed.text.graphemes import cluster_cuts, spans_between
from safe_embed.text.packing import pack
from safe_embed.types import Chunk, ChunkedInput, Reader, Span, Splitter

Mode = Literal["packed", "spans"]

# What has more characters than this for each token of the room is cut without asking the
# tokenizer, which is never handed a whole long text. Japanese has 1.5 characters a token, Latin 5.
_MAX_CHARS_PER_TOKEN = 8
# Texts up to this length are tried whole at once, as most of them fit: one pass instead of two.
_TRY_CHARS_PER_TOKEN = 1.5
# Text without any boundary is packed from blocks of a quarter of the budget, in characters.
_BLOCKS_PER_CHUNK = 4


class _Unit(NamedTuple):
    """A piece of text that need not be cut any further."""

    which: int
    top: int
    start: int
    end: int
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Chunker:
    """Cuts texts into chunks that fit a token budget.

    Args:
        ladder: Splitters from coarse to fine; below the last come grapheme clusters.
        mode: ``"packed"`` fills chunks evenly; ``"spans"`` makes one chunk of each span that the
            first splitter gives.
    """

    ladder: tuple[Splitter, ...]
    mode: Mode = "packed"

    def chunk(
        self, texts: Sequence[str], reader: Reader, budget: int, first_index: int = 0
    ) -> list[ChunkedInput]:
        """Cut *texts* into chunks of at most *budget* tokens.

        Invariants: the spans of a text's chunks tile it; ``len(chunk.encoding) <= budget``; no
        chunk is white space alone unless its text is.

        Args:
            texts: Any strings.
            reader: The model's tokenizer and the prompt that goes in front of every chunk.
            budget: Tokens a chunk may have, special tokens and prompt included.
            first_index: The number of the first text, for messages about a part of a call.

        Returns:
            One value a text, in order.

        Raises:
            ConfigError: If prompt and special tokens leave no room, or a splitter loses text.
            TextTooLongError: If a single character does not fit the budget.
        """
        room = budget - reader.overhead_tokens
        if room < 1:
            msg = (
                f"The prompt and the special tokens take {reader.overhead_tokens} of the {budget} "
                "tokens that a chunk may have. Use a shorter prompt or a larger max_chunk_tokens."
            )
            raise ConfigError(msg)
        job = _Job(texts, reader, budget, room, first_index)
        done: dict[int, ChunkedInput] = {}
        limit = _TRY_CHARS_PER_TOKEN * room if self.mode == "packed" else 0
        done |= job.encode_whole([i for i, text in enumerate(texts) if len(text) <= limit])
        tops = job.tops(self.ladder[0], [i for i in range(len(texts)) if i not in done])
        whole = job.encode_whole([i for i, found in tops.items() if job.may_fit(i, found)])
        by_top = self.mode == "spans"
        done |= {i: one for i, one in whole.items() if not by_top or _is_one_span(tops[i])}
        units = self._units(job, {i: found for i, found in tops.items() if i not in done})
        for i, chunks in self._packed(job, units).items():
            done[i] = job.result(i, chunks, is_long=i not in whole)
        return [done[i] for i in range(len(texts))]

    def _units(self, job: _Job, tops: dict[int, list[_Unit]]) -> dict[int, list[_Unit]]:
        """Cut texts further down the ladder until every piece fits."""
        units = list(chain.from_iterable(tops.values()))
        for splitter in self.ladder[1:]:
            units = job.refine(units, partial(job.split, splitter))
        while job.oversized(units):
            units = job.refine(units, job.halve)
        return {index: job.absorb_blanks(found) for index, found in _by_text(units, tops).items()}

    def _packed(self, job: _Job, units: dict[int, list[_Unit]]) -> dict[int, list[Chunk]]:
        """Pack the units of each text into chunks; cut again where an encoding does not fit."""
        by_top = self.mode == "spans"
        waiting = [part for found in units.values() for part in job.parts(found, by_top=by_top)]
        chunks: dict[int, list[Chunk]] = {index: [] for index in units}
        while waiting:
            encodings = job.reader.encode([job.read(part) for part in waiting])
            again: list[list[_Unit]] = []
            for part, encoding in zip(waiting, encodings, strict=True):
                if len(encoding) <= job.budget:
                    span = Span(part[0].start, part[-1].end)
                    chunks[part[0].which].append(Chunk(span, encoding))
                else:
                    again += job.in_two(part)
            waiting = again
        return chunks


@dataclass(frozen=True, slots=True)
class _Job:
    """What one call of :meth:`Chunker.chunk` works on."""

    texts: Sequence[str]
    reader: Reader
    budget: int
    room: int
    first_index: int = 0
    cut_clusters: dict[int, set[int]] = field(default_factory=dict)

    @property
    def max_chars(self) -> int:
        """What the tokenizer is handed at most, in characters besides the prompt."""
        return _MAX_CHARS_PER_TOKEN * self.room

    def encode_whole(self, indices: Sequence[int]) -> dict[int, ChunkedInput]:
        """Encode texts uncut; give those that fit."""
        encodings = self.reader.encode([self.texts[index] for index in indices])
        return {
            index: ChunkedInput((Chunk(Span(0, len(self.texts[index])), encoding),))
            for index, encoding in zip(indices, encodings, strict=True)
            if len(encoding) <= self.budget
        }

    def tops(self, splitter: Splitter, indices: Sequence[int]) -> dict[int, list[_Unit]]:
        """Cut texts by the first splitter, and measure what it gives."""
        units = self.measure(
            _Unit(index, top, start, end)
            for index in indices
            for top, (start, end) in enumerate(_split(splitter, self.texts[index]))
        )
        return _by_text(units, indices)

    def may_fit(self, index: int, units: Sequence[_Unit]) -> bool:
        """Tell from its top spans whether a text is worth encoding whole."""
        # A boundary can cost a token and part another: the whole may be that much smaller.
        least = sum(unit.tokens - 2 for unit in units)
        return least <= self.room and len(self.texts[index]) <= self.max_chars

    def read(self, part: Sequence[_Unit]) -> str:
        """Give what the model reads of a chunk: blanks at its ends only cost tokens."""
        return self.texts[part[0].which][part[0].start : part[-1].end].strip()

    def measure(self, units: Iterable[_Unit]) -> list[_Unit]:
        """Count the tokens of each unit by itself; blanks count none."""
        found = list(units)
        longest = self.max_chars
        pieces = [self.texts[unit.which][unit.start : unit.end].strip() for unit in found]
        counts = iter(self.reader.count([piece for piece in pieces if 0 < len(piece) <= longest]))
        return [
            unit._replace(tokens=next(counts) if len(piece) <= longest else self.room + 1)
            if piece
            else unit
            for unit, piece in zip(found, pieces, strict=True)
        ]

    def oversized(self, units: Iterable[_Unit]) -> list[_Unit]:
        """Pick the units that do not fit a chunk."""
        return [unit for unit in units if unit.tokens > self.room]

    def text_of(self, unit: _Unit) -> str:
        """Give the characters of a unit."""
        return self.texts[unit.which][unit.start : unit.end]

    def refine(self, units: list[_Unit], split: Callable[[_Unit], Sequence[Span]]) -> list[_Unit]:
        """Replace every unit that does not fit by the finer ones that *split* gives."""
        finer = {unit: split(unit) for unit in self.oversized(units)}
        finer = {unit: spans for unit, spans in finer.items() if len(spans) > 1}
        if not finer:
            return units
        fresh = iter(
            self.measure(
                unit._replace(start=unit.start + start, end=unit.start + end, tokens=0)
                for unit, spans in finer.items()
                for start, end in spans
            )
        )
        return [
            part
            for unit in units
            for part in (islice(fresh, len(finer[unit])) if unit in finer else (unit,))
        ]

    def split(self, splitter: Splitter, unit: _Unit) -> list[Span]:
        """Cut a unit by a splitter."""
        return _split(splitter, self.text_of(unit))

    def halve(self, unit: _Unit) -> list[Span]:
        """Cut where no splitter can: between grapheme clusters while there are two of them."""
        piece = self.text_of(unit)
        core = piece.strip()
        lead = len(piece) - len(piece.lstrip())
        block = max(1, self.budget // _BLOCKS_PER_CHUNK)
        size = block if len(core) > 2 * block else (len(core) + 1) // 2
        cuts = cluster_cuts(core, size) or cluster_cuts(core, 1)
        if not cuts:
            at = unit.start + lead
            if len(core) == 1:
                index = self.first_index + unit.which
                msg = (
                    f"The character at position {at} of input {index} alone has more tokens "
                    f"than the {self.room} a chunk has room for. Use a larger max_chunk_tokens."
                )
                raise TextTooLongError(msg, (index,))
            cuts = [len(core) // 2]
            self.cut_clusters.setdefault(unit.which, set()).add(at + cuts[0])
        return spans_between([lead + cut for cut in cuts], len(piece))

    def in_two(self, part: list[_Unit]) -> list[list[_Unit]]:
        """Part units that as a whole have more tokens than the sum of their own."""
        if len(part) == 1:
            (unit,) = part
            spans = self.halve(unit)
            middle = unit.start + spans[len(spans) // 2].start
            halves = unit._replace(end=middle), unit._replace(start=middle)
            return [[half] for half in self.measure(halves)]
        totals = list(accumulate(unit.tokens for unit in part))
        middle = min(max(bisect_left(totals, totals[-1] / 2), 1), len(part) - 1)
        return [part[:middle], part[middle:]]

    def absorb_blanks(self, units: Iterable[_Unit]) -> list[_Unit]:
        """Join what the tokenizer reads nothing in to the unit before it, or the first behind."""
        kept: list[_Unit] = []
        for unit in units:
            if kept and self.adds_nothing(unit, kept[-1]):
                kept[-1] = kept[-1]._replace(end=unit.end)
            elif kept and self.adds_nothing(kept[-1], unit):
                kept[-1] = unit._replace(start=kept[-1].start)
            else:
                kept.append(unit)
        return kept

    def adds_nothing(self, unit: _Unit, neighbour: _Unit) -> bool:
        """Tell whether a unit can join its neighbour at no cost: blanks are never read."""
        if unit.tokens:
            return False
        chars = unit.end - unit.start + neighbour.end - neighbour.start
        return chars <= self.max_chars or self.text_of(unit).isspace()

    def parts(self, units: list[_Unit], *, by_top: bool) -> Iterator[list[_Unit]]:
        """Pack units into chunks, those of each top span by themselves if *by_top*."""
        groups = [list(found) for _, found in groupby(units, key=attrgetter("top"))]
        for group in groups if by_top else [units]:
            for start, end in pairwise((0, *pack([self.weigh(unit) for unit in group], self.room))):
                yield group[start:end]

    def weigh(self, unit: _Unit) -> int:
        """Count the tokens of a unit, and no fewer than keep a chunk within ``max_chars``."""
        least = -(-(unit.end - unit.start) // _MAX_CHARS_PER_TOKEN)
        return max(unit.tokens, min(least, self.room))

    def result(self, index: int, chunks: Iterable[Chunk], *, is_long: bool) -> ChunkedInput:
        """Put the chunks of a text in order."""
        found = tuple(sorted(chunks, key=attrgetter("span")))
        cuts = self.cut_clusters.get(index, set()).intersection(one.span.end for one in found)
        return ChunkedInput(found, is_long, tuple(sorted(cuts)))


def _split(splitter: Splitter, text: str) -> list[Span]:
    return check_tiling(text, splitter.split(text), splitter)


def _by_text(units: Iterable[_Unit], indices: Iterable[int]) -> dict[int, list[_Unit]]:
    found = {index: list(mine) for index, mine in groupby(units, key=attrgetter("which"))}
    return {index: found.get(index, []) for index in indices}


def _is_one_span(units: Iterable[_Unit]) -> bool:
    return sum(unit.tokens > 0 for unit in units) <= 1
