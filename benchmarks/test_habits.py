"""Do titles, heading paths, late chunking or overlap help to find more than plain chunks?

Each is compared with plain chunks of the same number of tokens, by the same questions. It finds a
document by its best chunk, and a passage by the first chunk that holds it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from sentence_transformers import SentenceTransformer

from conftest import Records, Size, expect
from habits import Corpus, Cutter, Document, Form, Section, sections
from paired import ENOUGH_QUESTIONS, compared, interval
from ranking import figures
from safe_embed.types import Span

CAPS = (480, 120)
ALL = "all"
# Questions for which a title could help most.
NAMED = "the question names the title, its paragraph does not"
# A section with less text than this is a heading and its first subheading.
LEAST_CHARS = 50


class Corpora:
    """Corpora by name, each embedded once: its questions, and its plain chunks by their tokens."""

    def __init__(self, cutter: Cutter, records: Records, size: Size) -> None:
        self.cutter = cutter
        self._make = {
            "jaquad_dev": lambda: articles("jaquad_dev", records, size, cutter),
            "jsquad_valid": lambda: articles("jsquad_valid", records, size, cutter),
            "rust_book": lambda: book(records, size, cutter),
        }
        self._made: dict[str, Corpus] = {}
        self._plain: dict[tuple[str, int | None], Form] = {}

    def __getitem__(self, name: str) -> Corpus:
        """Give the corpus of this name."""
        if name not in self._made:
            self._made[name] = self._make[name]()
        return self._made[name]

    def plain(self, name: str, cap: int | None) -> Form:
        """Give the control: plain chunks of a corpus."""
        if (name, cap) not in self._plain:
            documents = self[name].documents
            self._plain[name, cap] = self.cutter.embed(
                documents, lambda one: self.cutter.plain(one, cap), cap
            )
        return self._plain[name, cap]


@pytest.fixture(scope="module")
def corpora(model: SentenceTransformer, records: Records, size: Size) -> Iterator[Corpora]:
    """Corpora, and what cuts their documents and embeds the pieces."""
    cutter = Cutter(model)
    yield Corpora(cutter, records, size)
    cutter.close()


def articles(name: str, records: Records, size: Size, cutter: Cutter) -> Corpus:
    """Whole articles with their titles; of each question the paragraph with its answer."""
    rows = size.some(records(f"{name}_longdocs"), 3, 30 if name == "jaquad_dev" else 100)
    number = {row["id"]: at for at, row in enumerate(rows)}
    texts = [row["text"][: size.pick(1000, None, None)] for row in rows]
    paragraphs = {row["id"]: row["text"] for row in records(f"{name}_paragraphs")}
    about = [
        (row, place)
        for row in records(f"{name}_questions")
        if row["doc_id"] in number
        and (place := texts[number[row["doc_id"]]].find(paragraphs[row["paragraph_id"]])) >= 0
    ]
    about = size.some(about, 6, 5000)
    named = []
    for row, _ in about:
        subject = re.sub(r"_?[(（].*", "", row["title"]).replace("_", " ")
        named.append(subject in row["question"] and subject not in paragraphs[row["paragraph_id"]])
    return Corpus(
        [
            Document(text, row["title"].replace("_", " "))
            for text, row in zip(texts, rows, strict=True)
        ],
        questions(cutter, [row["question"] for row, _ in about]),
        np.array([number[row["doc_id"]] for row, _ in about]),
        [Span(at, at + len(paragraphs[row["paragraph_id"]])) for row, at in about],
        {ALL: np.ones(len(about), bool), NAMED: np.array(named)},
    )


def book(records: Records, size: Size, cutter: Cutter) -> Corpus:
    """The sections of the Rust book without their headings, which are the questions.

    What is put before a chunk are the headings above that of its section: its own is the question.
    A heading that comes more than once is none, but its sections are among the documents.
    """
    files = [(row["id"], row["text"]) for row in records("rust_book_ja_markdown")]
    found = [one for one in sections(files) if len(one.text) >= LEAST_CHARS]
    headings = [one.heading for one in found]
    found = size.some(found, 8, 260)
    asked = [at for at, one in enumerate(found) if is_question(one, headings)]
    most = size.pick(300, None, None)
    return Corpus(
        [Document(one.text[:most], " > ".join(one.path)) for one in found],
        questions(cutter, [found[at].heading for at in asked]),
        np.array(asked),
        [],
        {ALL: np.ones(len(asked), bool)},
    )


def is_question(section: Section, headings: list[str]) -> bool:
    """Tell whether a heading names its section alone, below another heading."""
    return bool(section.path) and headings.count(section.heading) == 1


def questions(cutter: Cutter, texts: list[str]) -> Any:
    """Embed questions."""
    encoder = cutter.encoder(cutter.model.max_seq_length)
    return encoder.encode_query(texts, normalize_embeddings=True)


def comparisons(corpus: Corpus, control: Form, arm: Form) -> list[dict[str, Any]]:
    """Compare an arm with its control on each set of questions, by document and by passage."""
    found = []
    for target in ("document", "passage")[: 2 if corpus.passages else 1]:
        places = [
            form.document_ranks(corpus) if target == "document" else form.passage_ranks(corpus)
            for form in (control, arm)
        ]
        for name, mask in corpus.sets.items():
            # An interval needs two values; a smoke run may have fewer questions of a kind.
            if mask.sum() < 2:
                continue
            own = [place[mask] for place in places]
            accuracy = [
                {**figures(place), "interval": interval(place == 1)}
                | {"mrr_interval": interval(1 / place)}
                for place in own
            ]
            found.append(
                {
                    "target": target,
                    "set": name,
                    "questions": int(mask.sum()),
                    "is_enough": bool(mask.sum() >= ENOUGH_QUESTIONS),
                    "control": accuracy[0],
                    "arm": accuracy[1],
                    "against_control": compared(own[1], own[0]),
                }
            )
    return found


def note(
    benchmark: BenchmarkFixture,
    corpora: Corpora,
    arm: Form,
    *,
    source: str,
    cap: int | None,
    **about: Any,
) -> None:
    """Write down what was compared with plain chunks, and what it came to."""
    corpus, control = corpora[source], corpora.plain(source, cap)
    benchmark.extra_info |= about | {
        "source": source,
        "cap": cap,
        "documents": len(corpus.documents),
        "chunks": len(arm.vectors),
        "chunks_control": len(control.vectors),
        "tokens": arm.tokens,
        "tokens_control": control.tokens,
        "comparisons": comparisons(corpus, control, arm),
    }
    for one in benchmark.extra_info["comparisons"]:
        print(f"\n{about}, {source}, {cap}: {one}")
        for which in ("control", "arm"):
            expect(one[which], recall_at_1=(0, 1), mrr=(0.0001, 1))


@pytest.mark.parametrize("cap", CAPS)
@pytest.mark.parametrize("source", ["jaquad_dev", "jsquad_valid"])
def test_titles(source: str, cap: int, benchmark: BenchmarkFixture, corpora: Corpora) -> None:
    """The title of an article before each of its chunks."""
    arm = benchmark.pedantic(titled, (corpora, source, cap), rounds=1)
    note(benchmark, corpora, arm, source=source, cap=cap, habit="titles")


@pytest.mark.parametrize("cap", CAPS)
def test_heading_paths(cap: int, benchmark: BenchmarkFixture, corpora: Corpora) -> None:
    """The headings above a section before each of its chunks; its own heading is the question."""
    arm = benchmark.pedantic(titled, (corpora, "rust_book", cap), rounds=1)
    note(benchmark, corpora, arm, source="rust_book", cap=cap, habit="heading paths")


def titled(corpora: Corpora, source: str, cap: int) -> Form:
    """Embed a corpus with titles, or headings, before its chunks."""
    cutter, documents = corpora.cutter, corpora[source].documents
    return cutter.embed(documents, lambda one: cutter.titled(one, cap), cap)


@pytest.mark.parametrize("share", [0.1, 0.2])
@pytest.mark.parametrize("cap", CAPS)
def test_overlap(cap: int, share: float, benchmark: BenchmarkFixture, corpora: Corpora) -> None:
    """Chunks that begin with the end of the chunk before, by up to so much of their tokens."""
    source, cutter = "jaquad_dev", corpora.cutter
    documents = corpora[source].documents
    arm = benchmark.pedantic(
        cutter.embed, (documents, lambda one: cutter.overlapping(one, cap, share), cap), rounds=1
    )
    covered = sum(end - start for some in arm.spans for start, end in some)
    repeated = round(covered / sum(len(one.text) for one in documents) - 1, 3)
    about = {"habit": "overlap", "share": share, "repeated": repeated}
    note(benchmark, corpora, arm, source=source, cap=cap, **about)


@pytest.fixture(scope="module")
def late(corpora: Corpora) -> dict[int | None, Form]:
    """Chunks and sentences, both pooled from the same windows."""
    return corpora.cutter.embed_late(corpora["jaquad_dev"].documents, (120, None))


@pytest.mark.parametrize("cap", [120, None], ids=["120", "sentences"])
def test_late_chunking(
    cap: int | None, benchmark: BenchmarkFixture, corpora: Corpora, late: dict[int | None, Form]
) -> None:
    """Chunk vectors pooled from the token vectors of the longest window that the model reads.

    What is timed is the ranking alone: the windows are embedded once for both sizes of chunks.
    """
    source = "jaquad_dev"
    benchmark.pedantic(late[cap].document_ranks, (corpora[source],), rounds=1)
    note(benchmark, corpora, late[cap], source=source, cap=cap, habit="late chunking")
