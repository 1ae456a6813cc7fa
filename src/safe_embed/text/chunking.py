"""Cut texts into chunks that fit the model.

Pure: the tokenizer is passed as a :class:`~safe_embed.types.Reader`, so every rule here can be
tested without a model. A text is cut by a ladder of splitters, from coarse to fine, until each
piece fits; pieces are packed evenly into chunks, and every chunk is encoded as the model will read
it. Only that encoding proves that a chunk fits: it can have more tokens than all its pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from safe_embed.errors import ConfigError, both
from safe_embed.text.boundaries import heading_spans
from safe_embed.text.chunk_job import MAX_CHARS_PER_TOKEN, Job
from safe_embed.text.graphemes import between_clusters
from safe_embed.text.morphemes import MorphemeSplitter
from safe_embed.text.punctuation import PunctuationSplitter
from safe_embed.text.span_table import Pieces
from safe_embed.text.stretches import Stretch, Window, tops_of_stretch
from safe_embed.types import ChunkedInput, Reader, Splitter

Mode = Literal["packed", "spans"]

# Long texts are cut in stretches of so many characters, or of what the tokenizer may get at once if
# that is more: memory is taken for one stretch at a time.
STRETCH_CHARS = 2**15
# More than any text has.
ANY_CHARS = 2**62
# Texts up to this length are encoded whole first, as most of them fit: one pass instead of two.
_TRY_CHARS_PER_TOKEN = 1.5


@dataclass(frozen=True, slots=True)
class Chunker:
    """Cuts texts into chunks that fit a token budget.

    Args:
        ladder: Splitters from coarse to fine; what is still too long is cut between grapheme
            clusters. A span that ends inside a cluster is extended to the end of the cluster.
        mode: ``"packed"`` fills chunks evenly; ``"spans"`` makes one chunk of each span of the
            first splitter, or several if it is too long. A span of a PunctuationSplitter without a
            letter or digit is joined to its neighbour.
    """

    ladder: tuple[Splitter, ...]
    mode: Mode = "packed"

    def chunk(
        self,
        texts: Sequence[str],
        reader: Reader,
        budget: int,
        numbers: Sequence[int] | None = None,
    ) -> list[ChunkedInput]:
        """Cut *texts* into chunks of at most *budget* tokens.

        Invariants: the spans of a text's chunks tile the text; ``len(chunk.encoding) <= budget``;
        no chunk is only white space unless its text is.

        Args:
            texts: Any strings.
            reader: The model's tokenizer, with the prompt that precedes every chunk.
            budget: Most tokens of a chunk, with special tokens and prompt.
            numbers: Indices of the texts in the caller's inputs, for errors; ``None`` for their
                indices here.

        Returns:
            The chunks of each text, in order.

        Raises:
            ConfigError: If prompt and special tokens use up the budget, or the spans of a splitter
                do not tile its text.
            TextTooLongError: If a single code point has more tokens than fit.
        """
        room = _room(reader, budget)
        job = Job(texts, reader, budget, room, range(len(texts)) if numbers is None else numbers)
        by_top = self.mode == "spans"
        limit = 0 if by_top else _TRY_CHARS_PER_TOKEN * room
        done = job.encode_whole([i for i, text in enumerate(texts) if len(text) <= limit])
        rest = [i for i in range(len(texts)) if i not in done]
        if rest:
            if not by_top:
                job.headings.update({i: heading_spans(texts[i]) for i in rest})
            tops = job.tops(self.ladder[0], rest, by_top=by_top)
            whole = job.encode_whole(job.may_fit(tops))
            many = job.of_many_spans(tops) if by_top else frozenset()
            done |= {i: chunked for i, chunked in whole.items() if i not in many}
            pieces = self._refined(job, tops.of_texts([i for i in rest if i not in done]))
            for i, chunks in job.packed(pieces, by_top=by_top).items():
                done[i] = job.result(i, chunks, is_long=i not in whole)
        return [done[i] for i in range(len(texts))]

    def _refined(self, job: Job, pieces: Pieces) -> Pieces:
        """Cut pieces with finer and finer splitters until each fits; no piece stays blank.

        A heading is parted from its text only where both do not fit together however that is cut.
        """
        for cut in (job.split, job.split_anywhere) if job.headings else (job.split,):
            for splitter in self.ladder[1:]:
                pieces = job.refine(pieces, partial(cut, splitter))
        while pieces.of_more_than(job.room).any():
            pieces = job.refine(pieces, job.halve)
        return job.absorb_blanks(pieces)

    def stretch_chars(self, budget: int) -> int:
        """Tell how many characters of a long text are cut into chunks at once.

        Args:
            budget: Most tokens of a chunk.

        Returns:
            The number; more than any text has if texts are cut whole: into spans, or by a splitter
            of the user's own, which may look at all of a text.
        """
        is_ours = isinstance(self.ladder[0], PunctuationSplitter | MorphemeSplitter)
        if self.mode == "spans" or not is_ours:
            return ANY_CHARS
        return max(STRETCH_CHARS, MAX_CHARS_PER_TOKEN * budget)

    def chunk_stretch(self, window: Window, reader: Reader, budget: int, index: int = 0) -> Stretch:
        """Cut the next stretch of a long text into chunks; arguments and errors as for `chunk`.

        Args:
            window: Where the stretch lies.
            reader: The model's tokenizer, with the prompt.
            budget: Most tokens of a chunk.
            index: Index of the text in the caller's inputs, for errors.

        Returns:
            The chunks, with positions in the window; none if the stretch is blank.
        """
        job = Job([window.text], reader, budget, _room(reader, budget), [index])
        job.headings[0] = heading_spans(window.text)
        tops, resume = tops_of_stretch(window, self.ladder, job.headings[0])
        end = tops[-1].end
        if not window.text[window.start : end].strip():
            return Stretch((), (), end, resume)
        pieces = self._refined(job, job.measured(Pieces.of_spans([0], [tops])))
        chunked = job.result(0, job.packed(pieces, by_top=False)[0], is_long=True)
        cuts = between_clusters(window.text, [end]) if end < len(window.text) else [end]
        inside = () if cuts else (end,)
        return Stretch(chunked.chunks, (*chunked.cut_clusters, *inside), end, resume)


def _room(reader: Reader, budget: int) -> int:
    """Return how many tokens a budget leaves to the text; ConfigError if none."""
    room = budget - reader.overhead_tokens
    if room < 1:
        taken = reader.overhead_tokens
        msg = both(
            f"The prompt and the special tokens take {taken} of the {budget} tokens that a "
            "chunk may have; a title counts as a part of the prompt. Use a shorter prompt or "
            "title, or a larger max_chunk_tokens.",
            f"プロンプト（タイトルがあれば、それも含む）と特殊トークンだけで、チャンクの {budget} "
            f"トークンのうち {taken} を使います。プロンプトやタイトルを短くするか、"
            "max_chunk_tokens を大きくしてください。",
        )
        raise ConfigError(msg)
    return room
