"""Ways to change the chunks of a corpus that people ask for, to compare them with plain chunks.

Titles or heading paths before each chunk, overlapping chunks, and chunk vectors that are pooled
from the token vectors of a longer window (late chunking). None of them is part of safe_embed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from ranking import ranks, unit
from safe_embed import PunctuationSplitter, SafeEncoder
from safe_embed.types import Span

Vectors = NDArray[np.float32]
# A chunk: its place in the text, and the string that is embedded for it.
Piece = tuple[Span, str]
PROMPT = "document"
_FENCE = re.compile(r" {0,3}(```|~~~)")
# Of a heading: emphasis, code, and readings. <ruby>様<rp>(</rp><rt>よう</rt><rp>)</rp></ruby> -> 様
_MARKUP = re.compile("[`*]|<rp>.*?</rp>|<rt>.*?</rt>|</?ruby>")
_HEADING = re.compile(r"(#{1,6}) +(.*?)[ #]*")


@dataclass(frozen=True)
class Document:
    """A text, and what could be put before each of its chunks: its title, or the headings above."""

    text: str
    above: str = ""


@dataclass(frozen=True)
class Section:
    """A section of a Markdown file: its own text, up to the next heading of any level."""

    heading: str
    path: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Corpus:
    """Documents, questions about them, and where each answer stands.

    Attributes:
        documents: What is searched.
        asked: Vectors of the questions, of length 1, shape (n_questions, dimension).
        answers: For each question the index of its document.
        passages: For each question the place of its answer in the document; empty where the answer
            is the whole document.
        sets: Name -> which questions belong to this set, a mask of shape (n_questions,).
    """

    documents: list[Document]
    asked: Vectors
    answers: NDArray[np.int64]
    passages: list[Span]
    sets: dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Form:
    """The chunks of all documents of a corpus in one way.

    Attributes:
        spans: For each document the places of its chunks, in order.
        vectors: Chunk embeddings of length 1, shape (n_chunks, dimension).
        tokens: How many tokens the model read for them, special tokens and prompts included.
    """

    spans: list[list[Span]]
    vectors: Vectors
    tokens: int

    @property
    def starts(self) -> NDArray[np.int64]:
        """The index of the first chunk of each document, and the number of all chunks."""
        return np.cumsum([0, *map(len, self.spans)])

    def document_ranks(self, corpus: Corpus) -> NDArray[np.int64]:
        """Where the right document stands for each question, by the best chunk of each document."""
        scores = corpus.asked @ self.vectors.T
        return ranks(np.maximum.reduceat(scores, self.starts[:-1], axis=1), corpus.answers)

    def passage_ranks(self, corpus: Corpus) -> NDArray[np.int64]:
        """Where the first chunk with the passage of the answer stands among all chunks."""
        scores, starts = corpus.asked @ self.vectors.T, self.starts
        found = []
        for row, answer, passage in zip(scores, corpus.answers, corpus.passages, strict=True):
            hits = np.zeros(len(row), bool)
            hits[starts[answer] : starts[answer + 1]] = holds(self.spans[answer], passage)
            found.append(1 + int((row[~hits] >= row[hits].max()).sum()))
        return np.array(found)


def holds(spans: Sequence[Span], passage: Span) -> NDArray[np.bool_]:
    """Tell which chunks share at least half of the shorter of chunk and passage.

    Where the spans cover the text, at least one does.

    >>> holds([Span(0, 100), Span(100, 200)], Span(90, 140))
    array([False,  True])
    """
    begin, end = np.array(spans).T
    shared = np.minimum(end, passage.end) - np.maximum(begin, passage.start)
    shorter = np.minimum(end - begin, passage.end - passage.start)
    found: NDArray[np.bool_] = 2 * shared >= shorter
    return found


@dataclass(frozen=True)
class Cutter:
    """Cuts documents and embeds the pieces, with the model's prompt for documents.

    Attributes:
        model: Of sentence-transformers; its tokenizer gives the places of tokens.
    """

    model: SentenceTransformer
    _encoders: dict[int | None, SafeEncoder] = field(default_factory=dict)

    def close(self) -> None:
        """Close all encoders."""
        for encoder in self._encoders.values():
            encoder.close()

    def encoder(self, cap: int | None) -> SafeEncoder:
        """Give an encoder with chunks of so many tokens; ``None`` for a chunk a sentence."""
        if cap not in self._encoders:
            settings: dict[str, Any] = (
                {"chunks": "spans"} if cap is None else {"max_chunk_tokens": cap}
            )
            self._encoders[cap] = SafeEncoder(self.model, reload=None, **settings)
        return self._encoders[cap]

    def spans(self, text: str, cap: int | None, above: str = "") -> list[Span]:
        """Cut a text without embedding it, with something before each chunk that counts."""
        prompt = self.model.prompts[PROMPT] + above
        return list(self.encoder(cap).plan(text, prompt=prompt)[0].spans)

    def plain(self, document: Document, cap: int | None) -> list[Piece]:
        """Cut a document into chunks of at most *cap* tokens: the control."""
        return [(span, of(document.text, span)) for span in self.spans(document.text, cap)]

    def titled(self, document: Document, cap: int) -> list[Piece]:
        """Put the title before each chunk; the tokens of both are at most *cap*."""
        above = document.above and f"{document.above}\n"
        return [
            (span, above + of(document.text, span))
            for span in self.spans(document.text, cap, above)
        ]

    def overlapping(self, document: Document, cap: int, share: float) -> list[Piece]:
        """Begin each chunk with the end of the chunk before, up to a share of *cap* tokens.

        The chunks begin at a clause where one begins within this room, else at a token. Without
        what is repeated they cover the text without gaps or overlaps.
        """
        room, text = round(share * cap), document.text
        cores = self.spans(text, cap - room)
        clauses = [start for start, _ in PunctuationSplitter("clause").split(text)]
        # Two tokens are left for the seam: a tokenizer may part what it joined in the whole text,
        # and puts a mark before a word.
        longer = prolonged(cores, room - 2, self.token_places(text), clauses)
        return [(span, of(text, span)) for span in longer]

    def token_places(self, text: str) -> list[int]:
        """Say where the tokens of a text begin, without special tokens."""
        found = self.model.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return [start for start, _ in found["offset_mapping"]]

    def embed(
        self,
        documents: Sequence[Document],
        cut: Callable[[Document], list[Piece]],
        most_tokens: int | None,
    ) -> Form:
        """Cut and embed documents.

        Args:
            documents: The documents.
            cut: Gives the pieces of a document.
            most_tokens: That a piece may have, the prompt included; ``None`` for any.

        Returns:
            Spans and vectors.
        """
        pieces = [cut(document) for document in documents]
        strings = [string for some in pieces for _, string in some]
        reader = self.encoder(self.model.max_seq_length)
        counts = [plan.token_counts for plan in reader.plan(strings, PROMPT)]
        if most_tokens is not None:
            assert max(max(one) for one in counts) <= most_tokens
            assert all(len(one) == 1 for one in counts)
        return Form(
            [[span for span, _ in some] for some in pieces],
            unit(reader.encode_document(strings)),
            sum(map(sum, counts)),
        )

    def embed_late(
        self, documents: Sequence[Document], caps: Sequence[int | None]
    ) -> dict[int | None, Form]:
        """Embed the longest windows that the model reads, and pool their tokens by chunk.

        Source: Günther et al., "Late Chunking", arXiv 2409.04701, 2024.

        Args:
            documents: The documents.
            caps: Tokens of a chunk; ``None`` for a chunk a sentence.

        Returns:
            For each cap the chunks, which all come from the same windows.
        """
        spans: dict[int | None, list[list[Span]]] = {cap: [] for cap in caps}
        vectors: dict[int | None, list[Vectors]] = {cap: [] for cap in caps}
        tokens = 0
        for document in documents:
            windows = self.spans(document.text, self.model.max_seq_length)
            places, token_vectors, count = self._token_vectors(document.text, windows)
            tokens += count
            for cap in caps:
                cut = self.spans(document.text, cap)
                spans[cap].append(cut)
                vectors[cap].append(pooled_late(places, token_vectors, cut))
        return {cap: Form(spans[cap], np.concatenate(vectors[cap]), tokens) for cap in caps}

    def _token_vectors(
        self, text: str, windows: Sequence[Span]
    ) -> tuple[NDArray[np.int64], Vectors, int]:
        """Give the place of the last character and the vector of each token; count all tokens."""
        prompt = self.model.prompts[PROMPT]
        strings = [of(text, window) for window in windows]
        embedded = self.model.encode(
            strings, prompt_name=PROMPT, output_value="token_embeddings", show_progress_bar=False
        )
        places, vectors = [], []
        for window, string, rows in zip(windows, strings, embedded, strict=True):
            found = self.model.tokenizer(prompt + string, return_offsets_mapping=True)
            ends = np.array(found["offset_mapping"])[:, 1]
            assert len(ends) == len(rows)
            # Special tokens have no place, those of the prompt have a place before the text.
            kept = ends > len(prompt)
            first = window.start + text[slice(*window)].index(string)
            places.append(ends[kept] - 1 - len(prompt) + first)
            vectors.append(rows.numpy()[kept])
        return np.concatenate(places), np.concatenate(vectors), sum(map(len, embedded))


def of(text: str, span: Span) -> str:
    """Give the text of a chunk as it is embedded, without blanks around it."""
    return text[slice(*span)].strip()


def prolonged(
    cores: Sequence[Span], room: int, tokens: Sequence[int], cuts: Sequence[int]
) -> list[Span]:
    """Let spans begin earlier, by at most so many tokens.

    >>> prolonged([Span(0, 10), Span(10, 20)], 3, range(20), [0, 4, 8, 12])
    [Span(start=0, end=10), Span(start=8, end=20)]
    >>> prolonged([Span(0, 10), Span(10, 20)], 3, range(20), [0, 4])
    [Span(start=0, end=10), Span(start=7, end=20)]

    Args:
        cores: Spans that cover a text.
        room: Tokens.
        tokens: Where the tokens of the text begin.
        cuts: Where a span begins better than elsewhere.

    Returns:
        The spans.
    """
    found = []
    for start, end in cores:
        before = int(np.searchsorted(tokens, start))
        earliest = tokens[max(0, before - max(0, room))] if room > 0 and before else start
        at = int(np.searchsorted(cuts, earliest))
        better = at < len(cuts) and cuts[at] < start
        found.append(Span(cuts[at] if better else min(earliest, start), end))
    return found


def pooled_late(places: NDArray[np.int64], vectors: Vectors, spans: Sequence[Span]) -> Vectors:
    """Average the token vectors that lie in each span, and scale to length 1.

    >>> pooled_late(np.array([0, 1, 2]), np.eye(3), [Span(0, 2), Span(2, 3)]).round(3)
    array([[0.707, 0.707, 0.   ],
           [0.   , 0.   , 1.   ]])

    Args:
        places: Of the tokens, in code points.
        vectors: Of the tokens, shape (n_tokens, dimension).
        spans: Of the chunks, which cover the text.

    Returns:
        Shape (n_chunks, dimension); a chunk without tokens has zeros.
    """
    numbers = np.searchsorted([start for start, _ in spans], places, side="right") - 1
    sums = np.zeros((len(spans), vectors.shape[1]), vectors.dtype)
    np.add.at(sums, numbers, vectors)
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    return sums / np.maximum(lengths, np.finfo(sums.dtype).tiny)


def sections(files: Sequence[tuple[str, str]]) -> Iterator[Section]:
    r"""Cut Markdown files into sections at their headings.

    The headings above a section are those of its file and of the files of its chapter before it:
    files whose names are the same up to the first hyphen.

    >>> files = [("ch01-00.md", "# 基本\n序文"), ("ch01-01.md", "## 変数\n```\n# 注釈\n```")]
    >>> [(one.path, one.heading, one.text) for one in sections(files)]
    [((), '基本', '序文'), (('基本',), '変数', '```\n# 注釈\n```')]

    Args:
        files: Names and texts.

    Yields:
        The sections in order; the text before the first heading of a file is left out.
    """
    chapter, above = "", list[tuple[int, str]]()
    for name, text in files:
        if name.partition("-")[0] != chapter:
            chapter, above = name.partition("-")[0], []
        for level, heading, body in _parts(text):
            while above and above[-1][0] >= level:
                above.pop()
            path = tuple(words for _, words in above)
            above.append((level, heading))
            yield Section(heading, path, body)


def _parts(text: str) -> Iterator[tuple[int, str, str]]:
    """Give level, heading and body of each part of a file; headings in code are none."""
    is_code, level, heading = False, 0, ""
    body: list[str] = []
    for line in text.splitlines():
        is_code ^= bool(_FENCE.match(line))
        match = None if is_code else _HEADING.fullmatch(line)
        if match is None:
            body.append(line)
            continue
        if level:
            yield level, heading, "\n".join(body).strip()
        level, heading, body = len(match[1]), _MARKUP.sub("", match[2]), []
    if level:
        yield level, heading, "\n".join(body).strip()
