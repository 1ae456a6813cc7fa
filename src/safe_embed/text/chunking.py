"""Spans and token counts in, chunks that fit the model out.

Pure: the tokenizer comes in as a :class:`~safe_embed.types.Reader`, so every rule here can be
tested without a model. A text goes down a ladder of splitters, from coarse to fine, only as far as
it must; the pieces are packed evenly, and every chunk is encoded as the model will read it. Only
that encoding proves that a chunk fits: a whole can have more tokens than the sum of its parts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby
from operator import attrgetter
from typing import Literal

import numpy as np

from safe_embed.errors import ConfigError, TextTooLongError
from safe_embed.foreign import called
from safe_embed.text.graphemes import (
    at_cluster_ends,
    between_clusters,
    cluster_cuts,
    spans_between,
)
from safe_embed.text.packing import pack
from safe_embed.text.span_table import Pieces, Unit
from safe_embed.text.user_splitters import check_tiling
from safe_embed.types import Chunk, ChunkedInput, Reader, Span, Splitter

Mode = Literal["packed", "spans"]

# What has more characters than this for each token of the room is cut without asking the
# tokenizer, which is never handed a whole long text. Japanese has 1.5 characters a token, Latin 5.
_MAX_CHARS_PER_TOKEN = 8
# Texts up to this length are tried whole at once, as most of them fit: one pass instead of two.
_TRY_CHARS_PER_TOKEN = 1.5
# Text without any boundary is packed from blocks of a quarter of the budget, in characters.
_BLOCKS_PER_CHUNK = 4


@dataclass(frozen=True, slots=True)
class Chunker:
    """Cuts texts into chunks that fit a token budget.

    Args:
        ladder: Splitters from coarse to fine; below the last come grapheme clusters. A span that
            ends inside a cluster is extended to the end of the cluster.
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
        by_top = self.mode == "spans"
        limit = 0 if by_top else _TRY_CHARS_PER_TOKEN * room
        done = job.encode_whole([i for i, text in enumerate(texts) if len(text) <= limit])
        rest = [i for i in range(len(texts)) if i not in done]
        if rest:
            tops = job.tops(self.ladder[0], rest)
            whole = job.encode_whole(job.may_fit(tops))
            many = job.of_many_spans(tops) if by_top else frozenset()
            done |= {i: one for i, one in whole.items() if i not in many}
            left = self._refined(job, tops.of_texts([i for i in rest if i not in done]))
            for i, chunks in job.packed(left, by_top=by_top).items():
                done[i] = job.result(i, chunks, is_long=i not in whole)
        return [done[i] for i in range(len(texts))]

    def _refined(self, job: _Job, pieces: Pieces) -> Pieces:
        """Cut texts further down the ladder until every piece fits."""
        for splitter in self.ladder[1:]:
            pieces = job.refine(pieces, partial(job.split, splitter))
        while pieces.of_more_than(job.room).any():
            pieces = job.refine(pieces, job.halve)
        return job.absorb_blanks(pieces)


@dataclass(frozen=True, slots=True)
class _Job:
    """What one call of :meth:`Chunker.chunk` works on."""

    texts: Sequence[str]
    reader: Reader
    budget: int
    room: int
    first_index: int = 0

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

    def tops(self, splitter: Splitter, indices: Sequence[int]) -> Pieces:
        """Cut texts by the first splitter, and measure what it gives."""
        found = [_split(splitter, self.texts[index]) for index in indices]
        return self.measured(Pieces.of_spans(indices, found))

    def may_fit(self, tops: Pieces) -> list[int]:
        """Tell from their top spans which texts are worth encoding whole."""
        # A boundary can cost a token and part another: the whole may be that much smaller.
        least = np.bincount(tops.which, tops.tokens - 2)
        return [
            index
            for index in np.unique(tops.which).tolist()
            if least[index] <= self.room and len(self.texts[index]) <= self.max_chars
        ]

    def of_many_spans(self, tops: Pieces) -> frozenset[int]:
        """Tell which texts have more than one span that is read."""
        return frozenset(np.flatnonzero(np.bincount(tops.which[tops.tokens > 0]) > 1).tolist())

    def measured(self, pieces: Pieces) -> Pieces:
        """Count the tokens of each piece by itself; blanks count none."""
        read = pieces.read(self.texts)
        lengths = np.fromiter(map(len, read), np.int64, len(read))
        asked = np.flatnonzero((lengths > 0) & (lengths <= self.max_chars))
        if len(asked) < len(read):
            read = [read[place] for place in asked.tolist()]
        pieces.tokens[:] = np.where(lengths > self.max_chars, self.room + 1, 0)
        pieces.tokens[asked] = self.reader.count(read)
        return pieces

    def refine(self, pieces: Pieces, split: Callable[[Unit], Sequence[Span]]) -> Pieces:
        """Replace every piece that does not fit by the finer ones that *split* gives."""
        large = np.flatnonzero(pieces.of_more_than(self.room)).tolist()
        found = {place: split(unit) for place, unit in zip(large, pieces.units(large), strict=True)}
        gone = [place for place, spans in found.items() if len(spans) > 1]
        if not gone:
            return pieces
        finer = (
            unit._replace(start=unit.start + start, end=unit.start + end)
            for place, unit in zip(gone, pieces.units(gone), strict=True)
            for start, end in found[place]
        )
        return pieces.without(gone).with_others(self.measured(Pieces.of(finer)))

    def split(self, splitter: Splitter, unit: Unit) -> list[Span]:
        """Cut a unit by a splitter."""
        return _split(splitter, self.text_of(unit))

    def text_of(self, unit: Unit) -> str:
        """Give the characters of a unit."""
        return self.texts[unit.which][unit.start : unit.end]

    def halve(self, unit: Unit) -> list[Span]:
        """Cut where no splitter can: between grapheme clusters while there are two of them."""
        piece = self.text_of(unit)
        start = unit.end - len(piece.lstrip())
        chars = len(piece.strip())
        block = max(1, self.budget // _BLOCKS_PER_CHUNK)
        size = block if chars > 2 * block else (chars + 1) // 2
        where = start, start + chars
        text = self.texts[unit.which]
        cuts = cluster_cuts(text, size, *where) or cluster_cuts(text, 1, *where)
        if not cuts:
            if chars == 1:
                index = self.first_index + unit.which
                msg = (
                    f"The character at position {start} of input {index} alone has more tokens "
                    f"than the {self.room} a chunk has room for. Use a larger max_chunk_tokens."
                )
                raise TextTooLongError(msg, (index,))
            cuts = [start + chars // 2]
        return spans_between([cut - unit.start for cut in cuts], len(piece))

    def in_two(self, part: list[Unit]) -> list[list[Unit]]:
        """Part units that as a whole have more tokens than the sum of their own."""
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
        """Join what the tokenizer reads nothing in to the piece before it, or the first behind."""
        with_blanks = np.flatnonzero(np.isin(pieces.which, pieces.which[pieces.tokens == 0]))
        if not len(with_blanks):
            return pieces
        joined: list[Unit] = []
        for _, units in groupby(pieces.units(with_blanks), key=attrgetter("which")):
            joined += self._absorbed(units)
        return pieces.without(with_blanks).with_others(Pieces.of(joined))

    def _absorbed(self, units: Iterable[Unit]) -> list[Unit]:
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
        """Tell whether a unit can join its neighbour at no cost: blanks are never read."""
        if unit.tokens:
            return False
        chars = unit.end - unit.start + neighbour.end - neighbour.start
        return chars <= self.max_chars or self.text_of(unit).isspace()

    def packed(self, pieces: Pieces, *, by_top: bool) -> dict[int, list[Chunk]]:
        """Pack the pieces of each text into chunks; cut again where an encoding does not fit."""
        chunks: dict[int, list[Chunk]] = {}
        firsts, ends = self.parts(pieces, by_top=by_top)
        waiting: list[list[Unit]] = []
        for place in self.kept(pieces.joined(firsts, ends), chunks):
            waiting += self.in_two(pieces.units(range(firsts[place], ends[place])))
        while waiting:
            wholes = Pieces.of(part[0]._replace(end=part[-1].end) for part in waiting)
            misfits = [waiting[place] for place in self.kept(wholes, chunks)]
            waiting = [half for part in misfits for half in self.in_two(part)]
        return chunks

    def parts(self, pieces: Pieces, *, by_top: bool) -> tuple[list[int], list[int]]:
        """Pack pieces into chunks, those of each top span by themselves if *by_top*.

        A piece weighs its tokens, and no fewer than keep a chunk within ``max_chars``.
        """
        least = -(-(pieces.end - pieces.start) // _MAX_CHARS_PER_TOKEN)
        weights = np.maximum(pieces.tokens, np.minimum(least, self.room)).tolist()
        firsts: list[int] = []
        ends: list[int] = []
        for start, end in pieces.groups(by_top=by_top):
            found = [start + at for at in pack(weights[start:end], self.room)]
            firsts += [start, *found[:-1]]
            ends += found
        return firsts, ends

    def kept(self, wholes: Pieces, chunks: dict[int, list[Chunk]]) -> list[int]:
        """Encode what is to be chunks; add those that fit to *chunks*, and give the others."""
        misfits: list[int] = []
        encodings = self.reader.encode(wholes.read(self.texts))
        for place, (which, start, end) in enumerate(wholes.places()):
            if len(encodings[place]) <= self.budget:
                chunks.setdefault(which, []).append(Chunk(Span(start, end), encodings[place]))
            else:
                misfits.append(place)
        return misfits

    def result(self, index: int, chunks: Iterable[Chunk], *, is_long: bool) -> ChunkedInput:
        """Put the chunks of a text in order."""
        found = tuple(sorted(chunks, key=attrgetter("span")))
        ends = [one.span.end for one in found[:-1]]
        cuts = set(ends).difference(between_clusters(self.texts[index], ends))
        return ChunkedInput(found, is_long, tuple(sorted(cuts)))


def _split(splitter: Splitter, text: str) -> list[Span]:
    """Cut a text by a splitter; a cut of its own inside a cluster is moved to the cluster's end."""
    spans = called("The splitter", lambda: check_tiling(text, splitter.split(text), splitter))
    cuts = [span.end for span in spans[:-1]]
    moved = at_cluster_ends(text, cuts)
    return spans if moved == cuts else spans_between(moved, len(text))
