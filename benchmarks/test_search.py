"""What do fewer bytes a vector cost, how fast are they searched, and how much comes twice?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from sentence_transformers import SentenceTransformer, quantize_embeddings

from conftest import SEED, Records, Size, expect
from paired import ENOUGH_QUESTIONS, compared, interval
from ranking import figures, ranks
from safe_embed import ChunkedText, SafeEncoder
from safe_embed.search import Calibration, ChunkIndex, rank
from safe_embed.types import Span

Vectors = NDArray[np.float32]
Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Corpus:
    """Documents in sentences, questions about them, and the number of the right document."""

    chunked: list[ChunkedText]
    asked: Vectors
    answers: NDArray[np.int64]

    def ranks(self, scores: Callable[[Vectors], Scores]) -> NDArray[np.int64]:
        """Where the right document stands, by the scores of all chunks for some questions."""
        starts = np.cumsum([0, *(len(one.spans) for one in self.chunked[:-1])])
        parts = [
            ranks(np.maximum.reduceat(scores(some), starts, axis=1), answers)
            for some, answers in zip(
                np.array_split(self.asked, 20), np.array_split(self.answers, 20), strict=True
            )
            if len(some)
        ]
        return np.concatenate(parts)

    @property
    def vectors(self) -> Vectors:
        """The vectors of all sentences."""
        return np.concatenate([one.vectors for one in self.chunked])


@pytest.fixture(scope="module")
def sentences(model: SentenceTransformer) -> Iterator[SafeEncoder]:
    """An encoder that makes a chunk of each sentence."""
    with SafeEncoder(model, reload=None, chunks="spans") as encoder:
        yield encoder


@pytest.fixture(scope="module")
def elsewhere(sentences: SafeEncoder, records: Records, size: Size) -> Calibration:
    """A calibration on other texts than those that are searched: articles about Kyoto."""
    texts = [row["text"] for row in size.some(records("kyoto_wiki_longdocs"), 2, 12)]
    texts = [text[: size.pick(3000, None, None)] for text in texts]
    return Calibration.fit(sentences.encode_chunks(texts, "document"))


@pytest.fixture(scope="module", params=["jaquad_dev", "jsquad_valid"])
def corpus(
    request: pytest.FixtureRequest, sentences: SafeEncoder, records: Records, size: Size
) -> tuple[str, Corpus]:
    """Whole articles, and questions about them."""
    name = request.param
    rows = size.some(records(f"{name}_longdocs"), 3, 1000)
    number = {row["id"]: at for at, row in enumerate(rows)}
    about = [row for row in records(f"{name}_questions") if row["doc_id"] in number]
    about = size.some(about, 4, 1200)
    texts = [row["text"][: size.pick(600, None, None)] for row in rows]
    chunked = sentences.encode_chunks(texts, "document", normalize_embeddings=True)
    asked = sentences.encode_query([row["question"] for row in about], normalize_embeddings=True)
    return name, Corpus(chunked, asked, np.array([number[row["doc_id"]] for row in about]))


def document(vector: Vectors) -> ChunkedText:
    """A document of one chunk."""
    return ChunkedText((Span(0, 1),), (1,), vector[None], is_long=False, _pooled=vector)


def in_bits(vectors: Vectors) -> Vectors:
    """Upstream's bits, which are cut at 0, as -1 and 1."""
    bits: Any = quantize_embeddings(vectors, "ubinary")
    signs: Vectors = np.unpackbits(bits, axis=1, count=vectors.shape[1]).astype(np.float32) * 2 - 1
    return signs


def forms(corpus: Corpus, elsewhere: Calibration) -> dict[str, tuple[float, Any]]:
    """Bytes a chunk, and what scores all chunks, for each way to keep them."""
    vectors, dimension = corpus.vectors, corpus.asked.shape[1]
    own = Calibration.fit(corpus.chunked)
    sample = np.random.default_rng(SEED).choice(len(vectors), min(100, len(vectors)), replace=False)
    of_sample = Calibration.fit(vectors[sample])
    at_zero, centred = in_bits(vectors), in_bits(vectors - elsewhere.center)

    def packed(calibration: Calibration, bits: Any) -> Any:
        index = ChunkIndex(calibration.pack(corpus.chunked, bits))
        return lambda asked: index.scores(asked).values

    return {
        "float32": (4 * dimension, lambda asked: asked @ vectors.T),
        "8 bits": (dimension, packed(elsewhere, 8)),
        "1 bit": (dimension / 8, packed(elsewhere, 1)),
        "1 bit, calibrated on the corpus": (dimension / 8, packed(own, 1)),
        "1 bit, calibrated on 100 of its sentences": (dimension / 8, packed(of_sample, 1)),
        "1 bit on both sides (Hamming)": (
            dimension / 8,
            lambda asked: in_bits(asked - elsewhere.center) @ centred.T,
        ),
        "1 bit at 0, as sentence-transformers": (dimension / 8, lambda asked: asked @ at_zero.T),
    }


def test_forms(
    corpus: tuple[str, Corpus], elsewhere: Calibration, benchmark: BenchmarkFixture
) -> None:
    """R@1 and MRR with their intervals, and the paired test against whole vectors."""
    name, task = corpus
    found: dict[str, Any] = {}
    control: NDArray[np.int64] | None = None
    means = np.stack([one.pooled() / np.linalg.norm(one.pooled()) for one in task.chunked])
    one_each = Corpus(
        [document(row) for row in means],
        task.asked,
        task.answers,
    )
    ways = {
        form: (per_chunk * len(task.vectors) / len(task.chunked), task, scores)
        for form, (per_chunk, scores) in forms(task, elsewhere).items()
    }
    ways["one vector a document, float32"] = (
        4 * task.asked.shape[1],
        one_each,
        lambda asked: asked @ means.T,
    )
    for form, (per_document, where, scores) in ways.items():
        places = where.ranks(scores)
        control = places if control is None else control
        found[form] = {
            "bytes_a_document": round(per_document),
            **figures(places),
            "interval": interval(places == 1),
            "mrr_interval": interval(1 / places),
            "against_float32": compared(places, control),
        }
    benchmark.pedantic(task.ranks, (ways["1 bit"][2],), rounds=1)
    benchmark.extra_info |= {
        "source": name,
        "documents": len(task.chunked),
        "chunks": len(task.vectors),
        "questions": len(task.answers),
        "is_enough": len(task.answers) >= ENOUGH_QUESTIONS,
        "calibrated_on": elsewhere.n_vectors,
        "forms": found,
    }
    for form, one in found.items():
        print(f"\n{name}, {form}: {one}")
        expect(one, recall_at_1=(0, 1), mrr=(0.01, 1))


COUNTS = [
    10_000,
    pytest.param(100_000, marks=pytest.mark.sizes("normal", "full")),
    pytest.param(1_000_000, marks=pytest.mark.sizes("normal", "full")),
]


@pytest.mark.parametrize("count", COUNTS)
def test_rank(count: int, benchmark: BenchmarkFixture) -> None:
    """Seconds of a query among so many chunks of 384 dimensions, beside numpy and faiss, by turns.

    Everything on one thread. Each chunk is a document of its own.
    """
    import faiss
    from threadpoolctl import threadpool_limits

    faiss.omp_set_num_threads(1)
    source = np.random.default_rng(SEED)
    center = source.standard_normal(384).astype(np.float32)
    vectors = center + source.standard_normal((count, 384), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    query = vectors[7] + source.normal(0, 0.02, 384).astype(np.float32)
    calibration = Calibration.fit(vectors[:1000])
    documents = [document(row) for row in vectors]
    exact, binary = faiss.IndexFlatIP(384), faiss.IndexBinaryFlat(384)
    exact.add(vectors)
    binary.add(calibration.codes(vectors, 1))
    indexes = {bits: ChunkIndex(calibration.pack(documents, bits)) for bits in (1, 8)}  # type: ignore[call-overload] # of a loop
    indexes[32] = ChunkIndex(documents)
    del documents

    def by_numpy() -> Any:
        scores = vectors @ query
        best = np.argpartition(scores, -10)[-10:]
        return best[np.argsort(-scores[best])]

    def by_index(bits: int) -> Callable[[], Any]:
        return lambda: [hit.document for hit in rank(query, indexes[bits], 10)[0]]

    asked_bits = calibration.codes(query, 1)[None]
    ways: dict[str, Callable[[], Any]] = {
        "rank, 1 bit": by_index(1),
        "rank, 8 bits": by_index(8),
        "rank, float32": by_index(32),
        "numpy, float32": by_numpy,
        "faiss, float32 (IndexFlatIP)": lambda: exact.search(query[None], 10)[1][0],
        "faiss, 1 bit, Hamming (IndexBinaryFlat)": lambda: binary.search(asked_bits, 10)[1][0],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with threadpool_limits(1):
        for _ in range(5):
            for name, way in ways.items():
                started = time.perf_counter()
                found = way()
                seconds[name].append(time.perf_counter() - started)
                assert next(iter(found)) == 7, name
        benchmark.pedantic(ways["rank, 1 bit"], rounds=3)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    slowest = median["faiss, float32 (IndexFlatIP)"]
    benchmark.extra_info |= {
        "chunks": count,
        "seconds": {name: round(value, 5) for name, value in median.items()},
        "ratio_to_faiss": {name: round(value / slowest, 3) for name, value in median.items()},
        "bytes": {str(bits): index.nbytes for bits, index in indexes.items()},
    }
    print(f"\n{benchmark.extra_info}")


SETS = (
    *("jaquad_dev_longdocs", "jsquad_valid_longdocs", "kyoto_wiki_longdocs", "debian_ja_longdocs"),
    *("rust_book_ja_markdown", "aozora_works", "debian_ja_sections", "jaquad_dev_paragraphs"),
    *("jaquad_dev_questions", "jsts_valid"),
)
# Where a row of a set has its texts.
TEXT_FIELDS = ("text", "question", "sentence1", "sentence2")


@pytest.mark.parametrize("source", SETS)
def test_repetitions(
    source: str,
    benchmark: BenchmarkFixture,
    sentences: SafeEncoder,
    records: Records,
    size: Size,
) -> None:
    """The share of tokens that a call with all texts of a set need not embed again, by sentence."""
    rows = size.some(records(source), 20, 100_000)
    texts = [row[name] for row in rows for name in TEXT_FIELDS if name in row]
    texts = [text[: size.pick(2000, None, None)] for text in texts]
    plans = benchmark.pedantic(sentences.plan, (texts,), rounds=1)
    pieces = [
        (text[slice(*span)].strip(), tokens)
        for text, plan in zip(texts, plans, strict=True)
        for span, tokens in zip(plan.spans, plan.token_counts, strict=True)
    ]
    tokens, distinct = sum(tokens for _, tokens in pieces), dict(pieces)
    benchmark.extra_info |= {
        "source": source,
        "texts": len(texts),
        "distinct_texts": len(set(texts)),
        "sentences": len(pieces),
        "distinct_sentences": len(distinct),
        "tokens": tokens,
        "saved": round(1 - sum(distinct.values()) / tokens, 4),
    }
    print(f"\n{source}: {benchmark.extra_info}")
    expect(benchmark.extra_info, saved=(0, 0.9))
