"""The steps by which texts are cut into chunks: split, measure, refine, pack, encode.

:class:`~safe_embed.text.chunking.Chunker` says in which order they are taken.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from operator import attrgetter

import numpy as np

from safe_embed.errors import TextTooLongError, both
from safe_embed.text.boundaries import Boundary, boundary_levels, outside_headings
from safe_embed.text.graphemes import (
    between_clusters,
    cluster_cuts,
    join_wordless,
    spans_between,
)
from safe_embed.text.packing import pack
from safe_embed.text.punctuation import PunctuationSplitter
from safe_embed.text.span_table import Pieces, Unit
from safe_embed.text.user_splitters import checked_split
from safe_embed.types import Chunk, ChunkedInput, Reader, Span, Splitter

# A piece with more characters than this per token of the room is cut without counting its tokens:
# the tokenizer never gets a long text whole. Japanese has 1.5 characters per token, Latin text 5.
MAX_CHARS_PER_TOKEN = 8
# Text that no splitter can cut is cut into blocks of budget / 4 characters, then packed.
_BLOCKS_PER_CHUNK = 4


@dataclass(frozen=True, slots=True)
class Job:
    """The arguments of one call of a Chunker, and its steps.

    *room* is the number of tokens that *budget* leaves to the text. *numbers* has the numbers of
    the texts, for errors. *headings* has, by index of a text, the headings in it that are to stay
    with the text behind them.
    """

    texts: Sequence[str]
    reader: Reader
    budget: int
    room: int
    numbers: Sequence[int]
    headings: dict[int, list[Span]] = field(default_factory=dict)

    @property
    def max_chars(self) -> int:
        """Most characters that the tokenizer gets at once, without the prompt."""
        return MAX_CHARS_PER_TOKEN * self.room

    def encode_whole(self, indices: Sequence[int]) -> dict[int, ChunkedInput]:
        """Encode each of these texts as one chunk; return, by index, those that fit."""
        encodings = self.reader.encode([self.texts[index] for index in indices])
        return {
            index: ChunkedInput((Chunk(Span(0, len(self.texts[index])), encoding),))
            for index, encoding in zip(indices, encodings, strict=True)
            if len(encoding) <= self.budget
        }

    def tops(self, splitter: Splitter, indices: Sequence[int], *, by_top: bool) -> Pieces:
        """Cut these texts with the first splitter, and count the tokens of each top span.

        With *by_top* our own spans without a letter or digit are joined to their neighbours.
        """
        texts = [self.texts[index] for index in indices]
        units = [Unit(index, 0, 0, len(text)) for index, text in zip(indices, texts, strict=True)]
        spans = [self.split(splitter, unit) for unit in units]
        if by_top and isinstance(splitter, PunctuationSplitter):
            spans = list(map(join_wordless, texts, spans))
        return self.measured(Pieces.of_spans(indices, spans))

    def may_fit(self, tops: Pieces) -> list[int]:
        """Return the indices of the texts that may fit whole, to judge by their top spans."""
        # A cut can add a token and split another in two: the whole text can have 2 fewer per span.
        least = np.bincount(tops.text_index, tops.tokens - 2)
        return [
            index
            for index in np.unique(tops.text_index).tolist()
            if least[index] <= self.room and len(self.texts[index]) <= self.max_chars
        ]

    def of_many_spans(self, tops: Pieces) -> frozenset[int]:
        """Return the indices of the texts with more than one top span of at least one token."""
        return frozenset(np.flatnonzero(np.bincount(tops.text_index[tops.tokens > 0]) > 1).tolist())

    def measured(self, pieces: Pieces) -> Pieces:
        """Fill in the tokens of each piece alone: 0 if blank, room + 1 if over ``max_chars``."""
        read = pieces.read(self.texts)
        lengths = np.fromiter(map(len, read), np.int64, len(read))
        to_count = np.flatnonzero((lengths > 0) & (lengths <= self.max_chars))
        if len(to_count) < len(read):
            read = [read[place] for place in to_count.tolist()]
        pieces.tokens[:] = np.where(lengths > self.max_chars, self.room + 1, 0)
        pieces.tokens[to_count] = self.reader.count(read)
        return pieces

    def refine(self, pieces: Pieces, split: Callable[[Unit], Sequence[Span]]) -> Pieces:
        """Replace each piece that does not fit by the spans that *split* returns for it."""
        large = np.flatnonzero(pieces.of_more_than(self.room)).tolist()
        units = zip(large, pieces.units(large), strict=True)
        spans_at = {place: split(unit) for place, unit in units}
        replaced = [place for place, spans in spans_at.items() if len(spans) > 1]
        if not replaced:
            return pieces
        finer = (
            unit._replace(start=unit.start + start, end=unit.start + end)
            for place, unit in zip(replaced, pieces.units(replaced), strict=True)
            for start, end in spans_at[place]
        )
        return pieces.without(replaced).with_others(self.measured(Pieces.of(finer)))

    def split(self, splitter: Splitter, unit: Unit) -> list[Span]:
        """Cut a unit with a splitter, but not behind a heading; spans are relative to its start."""
        spans = self.split_anywhere(splitter, unit)
        headings = self.headings.get(unit.text_index)
        if not headings or len(spans) < 2:  # noqa: PLR2004
            return spans
        cuts = [unit.start + span.end for span in spans[:-1]]
        kept = outside_headings(cuts, headings)
        if len(kept) == len(cuts):
            return spans
        return spans_between([cut - unit.start for cut in kept], unit.end - unit.start)

    def split_anywhere(self, splitter: Splitter, unit: Unit) -> list[Span]:
        """Cut a unit with a splitter; spans are relative to the unit's start."""
        return checked_split(splitter, self.text_of(unit))

    def text_of(self, unit: Unit) -> str:
        """Return the characters of a unit."""
        return self.texts[unit.text_index][unit.start : unit.end]

    def halve(self, unit: Unit) -> list[Span]:
        """Cut a unit between grapheme clusters, or inside a cluster that is too long alone.

        Spans are relative to the unit's start. Raises TextTooLongError for a single code point.
        """
        piece = self.text_of(unit)
        start = unit.end - len(piece.lstrip())
        chars = len(piece.strip())
        block = max(1, self.budget // _BLOCKS_PER_CHUNK)
        size = block if chars > 2 * block else (chars + 1) // 2
        limits = start, start + chars
        text = self.texts[unit.text_index]
        cuts = cluster_cuts(text, size, *limits) or cluster_cuts(text, 1, *limits)
        if not cuts:
            if chars == 1:
                index = self.numbers[unit.text_index]
                msg = both(
                    f"The character at position {start} of input {index} alone has more tokens "
                    f"than the {self.room} that a chunk may hold. Use a larger max_chunk_tokens.",
                    f"入力 {index} の位置 {start} の一文字だけで、チャンクの {self.room} トークンを"
                    "超えます。max_chunk_tokens を大きくしてください。",
                )
                raise TextTooLongError(msg, (index,))
            cuts = [start + chars // 2]
        return spans_between([cut - unit.start for cut in cuts], len(piece))

    def in_two(self, part: list[Unit]) -> list[list[Unit]]:
        """Divide the units of a chunk that does not fit into two halves of similar tokens."""
        if len(part) == 1:
            (unit,) = part
            spans = self.halve(unit)
            middle = unit.start + spans[len(spans) // 2].start
            halves = unit._replace(end=middle), unit._replace(start=middle)
            return [[half] for half in self.measured(Pieces.of(halves)).units()]
        totals = list(accumulate(unit.tokens for unit in part))
        middle = min(max(bisect_left(totals, totals[-1] / 2), 1), len(part) - 1)
        return [part[:middle], part[middle:]]

    def absorb_blanks(self, pieces: Pieces) -> Pieces:
        """Join pieces of 0 tokens to the piece before; at the start of a text, to the next."""
        with_blanks = np.flatnonzero(
            np.isin(pieces.text_index, pieces.text_index[pieces.tokens == 0])
        )
        if not len(with_blanks):
            return pieces
        joined: list[Unit] = []
        for _, units in groupby(pieces.units(with_blanks), key=attrgetter("text_index")):
            joined += self._absorbed(units)
        return pieces.without(with_blanks).with_others(Pieces.of(joined))

    def _absorbed(self, units: Iterable[Unit]) -> list[Unit]:
        """Join the units of 0 tokens of one text to their neighbours."""
        kept: list[Unit] = []
        for unit in units:
            if kept and self.adds_nothing(unit, kept[-1]):
                kept[-1] = kept[-1]._replace(end=unit.end)
            elif kept and self.adds_nothing(kept[-1], unit):
                kept[-1] = unit._replace(start=kept[-1].start)
            else:
                kept.append(unit)
        return kept

    def adds_nothing(self, unit: Unit, neighbour: Unit) -> bool:
        """Return whether joining a unit to its neighbour adds no tokens: blanks are stripped."""
        if unit.tokens:
            return False
        chars = unit.end - unit.start + neighbour.end - neighbour.start
        return chars <= self.max_chars or self.text_of(unit).isspace()

    def packed(self, pieces: Pieces, *, by_top: bool) -> dict[int, list[Chunk]]:
        """Pack pieces into chunks, by text index; halve a chunk whose encoding does not fit."""
        chunks: dict[int, list[Chunk]] = {}
        firsts, ends = self.parts(pieces, by_top=by_top)
        parts_left: list[list[Unit]] = []
        for place in self.kept(pieces.joined(firsts, ends), chunks):
            parts_left += self.in_two(pieces.units(range(firsts[place], ends[place])))
        while parts_left:
            wholes = Pieces.of(part[0]._replace(end=part[-1].end) for part in parts_left)
            misfits = [parts_left[place] for place in self.kept(wholes, chunks)]
            parts_left = [half for part in misfits for half in self.in_two(part)]
        return chunks

    def parts(self, pieces: Pieces, *, by_top: bool) -> tuple[list[int], list[int]]:
        """Return the (firsts, ends) of the runs of pieces that make up chunks.

        *by_top* puts each top span into chunks of its own. A piece weighs at least so much that
        no chunk exceeds ``max_chars``.
        """
        least = -(-(pieces.end - pieces.start) // MAX_CHARS_PER_TOKEN)
        weights = np.maximum(pieces.tokens, np.minimum(least, self.room)).tolist()
        firsts: list[int] = []
        ends: list[int] = []
        for start, end in pieces.groups(by_top=by_top):
            levels = self.levels(pieces, start, end) if end - start > 1 else ()
            group_ends = [start + place for place in pack(weights[start:end], self.room, levels)]
            firsts += [start, *group_ends[:-1]]
            ends += group_ends
        return firsts, ends

    def levels(self, pieces: Pieces, first: int, end: int) -> list[Boundary]:
        """Return the level of the boundary behind each piece of a text, from *first* to *end*."""
        text = self.texts[pieces.text_index[first]]
        return boundary_levels(text, pieces.end[first:end].tolist(), int(pieces.start[first]))

    def kept(self, wholes: Pieces, chunks: dict[int, list[Chunk]]) -> list[int]:
        """Encode pieces, add each within the budget to *chunks*, and return the places of the rest.

        A place is the position of a piece in *wholes*.
        """
        misfits: list[int] = []
        encodings = self.reader.encode(wholes.read(self.texts))
        for place, (text_index, start, end) in enumerate(wholes.places()):
            if len(encodings[place]) <= self.budget:
                chunks.setdefault(text_index, []).append(Chunk(Span(start, end), encodings[place]))
            else:
                misfits.append(place)
        return misfits

    def result(self, index: int, chunks: Iterable[Chunk], *, is_long: bool) -> ChunkedInput:
        """Order the chunks of a text, and list the cuts inside grapheme clusters."""
        ordered = tuple(sorted(chunks, key=attrgetter("span")))
        ends = [chunk.span.end for chunk in ordered[:-1]]
        cuts = set(ends).difference(between_clusters(self.texts[index], ends))
        return ChunkedInput(ordered, is_long, tuple(sorted(cuts)))
