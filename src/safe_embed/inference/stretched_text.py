"""A long text on its way through a call: stretch by stretch, so that memory does not grow with it.

Of each stretch only the ends of its chunks, their numbers of tokens and their vectors stay.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from safe_embed.inference.request import Request
from safe_embed.inference.tasks import LOST, ChunkStretch, ChunkTexts, Flow, Wave
from safe_embed.text.graphemes import spans_between
from safe_embed.text.stretches import window_at
from safe_embed.types import Chunk, ChunkedInput, TextPlan

# Stands for a text that is cut later, stretch by stretch.
STRETCHED = ChunkedInput((), is_long=True)

Embed = Callable[[Sequence[Chunk], Request], Flow[list[Any]]]


class EmbeddedText(NamedTuple):
    """The chunks of a text, and the vector of each; there are none if nothing is embedded."""

    plan: TextPlan
    vectors: list[Any]


def stretched_text(
    place: int, request: Request, budget: int, size: int, embed: Embed | None = None
) -> Flow[Any]:
    """Cut a long text into chunks, and embed them, stretch by stretch.

    Args:
        place: Which of the texts.
        request: The texts, and how to embed them.
        budget: Most tokens of a chunk.
        size: Most characters of a stretch.
        embed: Embeds the chunks of a stretch; ``None`` leaves them without vectors.

    Returns:
        The chunks as an EmbeddedText, or LOST if no worker process survives one of them.
    """
    text = request.texts[place]
    before = request.before_chunks(place)
    quiet = replace(request, texts=(), titles=(), show_progress_bar=False)
    ends, counts, cuts, vectors = array("q"), array("q"), array("q"), list[Any]()
    index = request.first_index + place
    start = resume = 0
    with tqdm(desc="Characters", total=len(text), disable=not request.show_progress_bar) as bar:
        while start < len(text):
            window = window_at(text, resume, start, size)
            [[stretch]] = yield Wave([ChunkStretch([window], before, budget, index)])
            if stretch is LOST:
                return LOST
            end = resume + stretch.end
            if ends and not stretch.chunks:  # blanks belong to the chunk before
                ends[-1] = end
            rows = [] if embed is None else (yield from embed(stretch.chunks, quiet))
            if any(row is LOST for row in rows):
                return LOST
            vectors += rows
            ends.extend(resume + chunk.span.end for chunk in stretch.chunks)
            counts.extend(len(chunk.encoding) for chunk in stretch.chunks)
            cuts.extend(resume + cut for cut in stretch.cut_clusters)
            bar.update(end - start)
            start, resume = end, resume + stretch.resume
    if not ends:  # the whole text is blank
        [[blank]] = yield Wave([ChunkTexts([(index, "")], before, budget, want_spans=False)])
        if blank is LOST:
            return LOST
        counts.append(len(blank.chunks[0].encoding))
        vectors = [] if embed is None else (yield from embed(blank.chunks, quiet))
    spans = tuple(spans_between(ends[:-1], len(text)))
    plan = TextPlan(spans, tuple(counts), is_long=True, cut_clusters=tuple(cuts))
    return EmbeddedText(plan, vectors)
