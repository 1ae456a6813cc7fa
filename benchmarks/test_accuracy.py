"""Does a long document stay findable, and does a short text keep its meaning?

The vectors of the chunks are computed once for each way to cut, and stand for the document in each
way that is compared: one vector by each pooling, or the best chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

import incident
from conftest import Records, Size, expect
from ranking import Chunked, Vectors, best, figures, pooled, ranks, unit
from safe_embed import SafeEncoder

Way = tuple[str, Callable[[list[str]], Chunked]]
POOLINGS = ("mean", "token_weighted", "max")
CONTROL = "truncated by sentence-transformers"
INCIDENT = "the incident's mode"

# How a document is cut: settings of the encoder.
FORMS: dict[str, dict[str, Any]] = {
    "480 tokens": {"max_chunk_tokens": 480},
    "240 tokens": {"max_chunk_tokens": 240},
    "120 tokens": {"max_chunk_tokens": 120},
    "120 tokens, morphemes": {"max_chunk_tokens": 120, "splitter": "morphemes"},
    "sentences": {"chunks": "spans"},
}


@dataclass(frozen=True)
class Task:
    """Documents, questions, and the number of the document that answers each question."""

    documents: list[str]
    questions: list[str]
    answers: NDArray[np.int64]


def by_name(
    documents: dict[str, str], asked: Sequence[tuple[str, str]], size: Size, normal: int
) -> Task:
    """Take so many documents that questions are asked about, and so many of the questions."""
    about = {name for name, _ in asked}
    names = size.some([name for name in documents if name in about], 3, normal)
    number = {name: at for at, name in enumerate(names)}
    kept = size.some([one for one in asked if one[0] in number], 3, 300)
    return Task(
        # the beginning is enough to see whether all still runs
        [documents[name][: size.pick(600, None, None)] for name in names],
        [question for _, question in kept],
        np.array([number[name] for name, _ in kept]),
    )


@pytest.fixture(scope="module")
def tasks(records: Records, size: Size) -> dict[str, Task]:
    """Whole articles by questions about them; for Kyoto, bodies by their lead paragraphs."""
    rows = [row for row in records("kyoto_wiki_longdocs") if "\n" in row["text"]]
    bodies = {row["id"]: row["text"].split("\n", 1)[1] for row in rows}
    leads = [(row["doc_id"], row["question"]) for row in records("kyoto_lead2body_queries")]
    found = {"kyoto": by_name(bodies, leads, size, 20)}
    for name in ("jaquad_dev", "jsquad_valid"):
        documents = {row["id"]: row["text"] for row in records(f"{name}_longdocs")}
        asked = [(row["doc_id"], row["question"]) for row in records(f"{name}_questions")]
        found[name] = by_name(documents, asked, size, 30 if name == "jaquad_dev" else 20)
    return found


@pytest.fixture(scope="module")
def asked(model: SentenceTransformer, tasks: dict[str, Task]) -> dict[str, Vectors]:
    """The vectors of the questions, by upstream, since every question fits."""
    return {
        name: unit(model.encode(task.questions, prompt_name="query", show_progress_bar=False))
        for name, task in tasks.items()
    }


# The middle budget tells little that its neighbours do not, and takes minutes.
WAYS = [
    pytest.param(form, marks=pytest.mark.sizes("smoke", "full")) if form == "240 tokens" else form
    for form in (CONTROL, *FORMS, INCIDENT)
]


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest, model: SentenceTransformer) -> Iterator[Way]:
    """Each way to cut, with the prompt of the model in front of every chunk."""
    form = request.param
    with SafeEncoder(model, reload=None, **FORMS.get(form, {})) as encoder:

        def truncated(documents: list[str]) -> Chunked:
            rows = model.encode(documents, prompt_name="document", show_progress_bar=False)
            return [(unit(row)[None], np.ones(1, int)) for row in rows]

        def as_in_the_incident(documents: list[str]) -> Chunked:
            # Pieces are embedded in batches, not one by one: the vectors are the same.
            pieces = [incident.pieces(text) for text in documents]
            rows = encoder.encode([one for some in pieces for one in some], "document")
            ends = np.cumsum([len(some) for some in pieces])[:-1]
            return [(unit(one), np.ones(len(one), int)) for one in np.split(rows, ends)]

        def chunked(documents: list[str]) -> Chunked:
            found = encoder.encode_chunks(documents, "document", normalize_embeddings=True)
            return [(one.vectors, np.array(one.token_counts)) for one in found]

        ways = {CONTROL: truncated, INCIDENT: as_in_the_incident}
        yield form, ways.get(form, chunked)


@pytest.mark.parametrize("name", ["jaquad_dev", "jsquad_valid", "kyoto"])
def test_retrieval(
    name: str,
    way: Way,
    benchmark: BenchmarkFixture,
    asked: dict[str, Vectors],
    tasks: dict[str, Task],
) -> None:
    """R@1, R@10, MRR and nDCG@10, by each vector that can stand for a document."""
    task, (form, embed) = tasks[name], way
    chunked: Chunked = benchmark.pedantic(embed, (task.documents,), rounds=1)
    scores = {"mean": pooled(asked[name], chunked, "mean")}
    if form == "480 tokens":
        scores |= {one: pooled(asked[name], chunked, one) for one in POOLINGS}
    if form not in {CONTROL, INCIDENT}:
        scores["best chunk"] = best(asked[name], chunked)
    found = {name: figures(ranks(one, task.answers)) for name, one in scores.items()}
    benchmark.extra_info |= {
        "source": name,
        "form": form,
        "documents": len(task.documents),
        "questions": len(task.questions),
        "shortest_chars": min(map(len, task.documents)),
        "longest_chars": max(map(len, task.documents)),
        "chunks": sum(len(vectors) for vectors, _ in chunked),
        "arms": found,
    }
    print(f"\n{name}, {form}: {found}")
    for one in found.values():
        expect(one, recall_at_1=(0, 1), recall_at_10=(0, 1), mrr=(0.01, 1), ndcg_at_10=(0, 1))


@pytest.mark.parametrize("source", ["jsts_valid", "jsick_train_sample"])
def test_similarity(
    source: str,
    benchmark: BenchmarkFixture,
    model: SentenceTransformer,
    records: Records,
    size: Size,
) -> None:
    """Spearman's rank correlation with what people judged; all texts fit, so it is upstream's."""
    rows = size.some(records(source), 10, 700)
    texts = [row[name] for name in ("sentence1", "sentence2") for row in rows]
    judged = [row["score"] for row in rows]

    def spearman(vectors: Any) -> float:
        left, right = np.split(unit(vectors), 2)
        return round(float(spearmanr((left * right).sum(axis=1), judged).statistic), 4)

    control = model.encode(texts, prompt_name="query", show_progress_bar=False)
    with SafeEncoder(model, reload=None) as encoder:
        ours = benchmark.pedantic(encoder.encode, (texts,), {"prompt_name": "query"}, rounds=1)
    benchmark.extra_info |= {
        "source": source,
        "pairs": len(rows),
        "spearman_control": spearman(control),
        "spearman": spearman(ours),
        "largest_difference": float(np.abs(control - ours).max()),
    }
    print(f"\n{source}: {benchmark.extra_info}")
    expect(
        benchmark.extra_info, spearman=(size.pick(-1, 0.2, 0.2), 1), largest_difference=(0, 1e-5)
    )
