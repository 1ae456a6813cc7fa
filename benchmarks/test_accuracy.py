"""Does a long document stay findable? Retrieval of whole articles by questions about them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from sentence_transformers import SentenceTransformer

from conftest import Records
from safe_embed import SafeEncoder

DOCUMENTS = 60
QUESTIONS = 300

# What becomes of a document: settings of the encoder, and whether its best chunk or its one vector
# is compared. The first is the control: what sentence-transformers does.
ARMS: dict[str, tuple[dict[str, Any], bool]] = {
    "truncated": ({"on_long": "truncate"}, False),
    "text vector": ({}, False),
    "text vector, token-weighted": ({"pooling": "token_weighted"}, False),
    "best chunk": ({}, True),
    "best chunk of 120 tokens": ({"max_chunk_tokens": 120}, True),
    "best sentence": ({"chunks": "spans"}, True),
}


@pytest.fixture(scope="module")
def articles(records: Records) -> tuple[list[str], list[str], list[int]]:
    """Articles, questions, and the number of the article that answers each question."""
    rows = records("jaquad_dev_longdocs")[:DOCUMENTS]
    number = {row["id"]: index for index, row in enumerate(rows)}
    asked = [row for row in records("jaquad_dev_questions") if row["doc_id"] in number]
    # evenly spread over the articles, so that none is left out
    asked = [asked[int(index)] for index in np.linspace(0, len(asked) - 1, QUESTIONS)]
    return (
        [row["text"] for row in rows],
        [row["question"] for row in asked],
        [number[row["doc_id"]] for row in asked],
    )


@pytest.mark.parametrize("arm", ARMS)
def test_retrieval(
    arm: str,
    benchmark: BenchmarkFixture,
    model: SentenceTransformer,
    articles: tuple[list[str], list[str], list[int]],
) -> None:
    """R@1 and MRR on long articles, with the prompts of the model in front of every chunk."""
    texts, questions, answers = articles
    settings, by_chunk = ARMS[arm]
    with SafeEncoder(model, **settings) as encoder:
        asked = encoder.encode_query(questions, normalize_embeddings=True)
        indexed = benchmark.pedantic(
            encoder.encode_chunks,
            (texts,),
            {"prompt_name": "document", "normalize_embeddings": True},
            rounds=1,
        )
    scores = np.stack(
        [
            (asked @ one.vectors.T).max(axis=1) if by_chunk else asked @ one.pooled()
            for one in indexed
        ],
        axis=1,
    )
    own = scores[np.arange(len(answers)), answers]
    ranks = 1 + (scores > own[:, None]).sum(axis=1)
    benchmark.extra_info |= {
        "documents": len(texts),
        "questions": len(questions),
        "chunks": sum(len(one.spans) for one in indexed),
        "tokens": sum(sum(one.token_counts) for one in indexed),
        "recall_at_1": round(float((ranks == 1).mean()), 3),
        "mrr": round(float((1 / ranks).mean()), 3),
    }
    print(f"\n{arm}: {benchmark.extra_info}")
