"""Scores documents by their chunks, and says where the right one stands."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from safe_embed.pooling import resolve_pooling

Vectors = NDArray[np.float32]
# For each document the vectors of its chunks, and their tokens.
Chunked = list[tuple[Vectors, NDArray[np.int64]]]


def ranks(scores: NDArray[Any], answers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the right document stands for each question, from 1; it loses every tie.

    >>> ranks(np.array([[0.9, 0.1], [0.5, 0.5]]), np.array([0, 1]))
    array([1, 2])
    """
    own = scores[np.arange(len(answers)), answers]
    found: NDArray[np.int64] = (scores >= own[:, None]).sum(axis=1)
    return found


def figures(found: NDArray[np.int64]) -> dict[str, Any]:
    """R@1, R@10, MRR and nDCG@10 of the ranks, with one right document a question.

    >>> figures(np.array([1, 2]))
    {'recall_at_1': 0.5, 'recall_at_10': 1.0, 'mrr': 0.75, 'ndcg_at_10': 0.815}
    """
    gain = np.where(found <= 10, 1 / np.log2(1 + found), 0.0)
    return {
        "recall_at_1": round(float((found == 1).mean()), 3),
        "recall_at_10": round(float((found <= 10).mean()), 3),
        "mrr": round(float((1 / found).mean()), 3),
        "ndcg_at_10": round(float(gain.mean()), 3),
    }


def unit(vectors: Any) -> Vectors:
    """Scale rows to length 1."""
    found: Vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return found


def best(asked: Vectors, chunked: Chunked) -> NDArray[Any]:
    """Score each document by its best chunk."""
    return np.stack([(asked @ vectors.T).max(axis=1) for vectors, _ in chunked], axis=1)


def pooled(asked: Vectors, chunked: Chunked, pooling: Any) -> NDArray[Any]:
    """Score each document by its one vector."""
    pool = resolve_pooling(pooling)
    return asked @ unit(np.stack([pool(vectors, counts) for vectors, counts in chunked])).T
