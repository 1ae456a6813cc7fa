"""Encoders that travel with cloudpickle, joblib, datasets and scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cloudpickle
import joblib
import numpy as np
import pytest
from datasets import Dataset
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import models
from conftest import check_same
from safe_embed import SafeEncoder


class Embedding(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A user's own step of a scikit-learn pipeline."""

    def __init__(self, encoder: Any = None) -> None:
        self.encoder = encoder

    def fit(self, *_: Any) -> Embedding:
        """Learn nothing."""
        return self

    def transform(self, texts: Any) -> Any:
        """Embed."""
        return self.encoder.encode(texts)


def embedded(encoder: SafeEncoder, texts: list[str]) -> Any:
    """What a task of joblib does."""
    return encoder.encode(texts)


def test_cloudpickle(encoder: SafeEncoder, folder: str, texts: list[str]) -> None:
    """An encoder, a function that closes over it, and a loader that is a lambda."""
    expected = encoder.encode(texts)
    closure = cloudpickle.loads(cloudpickle.dumps(lambda: encoder.encode(texts)))
    check_same(expected, closure())

    def load() -> Any:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(folder, device="cpu")

    with SafeEncoder(load) as loaded, cloudpickle.loads(cloudpickle.dumps(loaded)) as other:
        check_same(expected, other.encode(texts))
    with SafeEncoder(models.small()) as shared, pytest.raises(TypeError, match="a folder"):
        cloudpickle.dumps(shared)


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_joblib(encoder: SafeEncoder, texts: list[str], backend: str, tmp_path: Path) -> None:
    """Parallel tasks, a file, and a hash that is the same for the same encoder."""
    tasks = (joblib.delayed(embedded)(encoder, [text]) for text in texts)
    found = joblib.Parallel(n_jobs=2, backend=backend)(tasks)
    check_same(encoder.encode(texts), np.concatenate(found))
    joblib.dump(encoder, tmp_path / "encoder.joblib")
    with joblib.load(tmp_path / "encoder.joblib") as other:
        check_same(encoder.encode(texts), other.encode(texts))
    assert joblib.hash(encoder) == joblib.hash(encoder)


@pytest.mark.parametrize("num_proc", [None, 2])
def test_datasets_map(encoder: SafeEncoder, texts: list[str], num_proc: int | None) -> None:
    """Forked processes give the same vectors after the encoder has worked in their parent."""
    expected = encoder.encode(texts)
    rows = Dataset.from_dict({"text": texts})
    found = rows.map(
        lambda batch: {"vector": encoder.encode(batch["text"])},
        batched=True,
        batch_size=2,
        num_proc=num_proc,
    )
    check_same(expected, found["vector"])


def test_sklearn(encoder: SafeEncoder, texts: list[str]) -> None:
    """A pipeline that holds an encoder can be cloned, fitted and asked."""
    pipeline = make_pipeline(Embedding(encoder), LogisticRegression())
    cloned = clone(pipeline)
    assert encoder is not cloned[0].encoder
    labels = [0, 1, 0, 1, 1]
    np.testing.assert_array_equal(
        pipeline.fit(texts, labels).predict(texts), cloned.fit(texts, labels).predict(texts)
    )
    cloned[0].encoder.close()
    assert (5, 32) == encoder.encode(texts).shape
