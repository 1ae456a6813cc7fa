"""Every evaluator of sentence-transformers, its searches and its miner, with a bare SafeEncoder.

The texts fit the model, so that the scores must be those of the SentenceTransformer itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.base.evaluation import SequentialEvaluator
from sentence_transformers.sentence_transformer import evaluation, losses

import models
from safe_embed.errors import UnsupportedError

ONE = [models.long_text(1, start=at) for at in range(12)]
OTHER = [models.long_text(1, start=at + 5) for at in range(12)]
SCORES = [1.0, 0.8, 0.1, 0.4] * 3


def retrieval() -> dict[str, Any]:
    """Three queries, and what answers them."""
    corpus = {str(at): text for at, text in enumerate(ONE)}
    queries = {f"q{at}": OTHER[at] for at in range(3)}
    return {
        "queries": queries,
        "corpus": corpus,
        "relevant_docs": {"q0": {"5"}, "q1": {"6"}, "q2": {"1"}},
    }


def nano_beir(_: Any) -> Any:
    """Its data sets, from here instead of from the hub."""
    given = retrieval()
    tables = {
        "corpus": [{"_id": name, "text": text} for name, text in given["corpus"].items()],
        "queries": [{"_id": name, "text": text} for name, text in given["queries"].items()],
        "qrels": [
            {"query-id": name, "corpus-id": found}
            for name, all_found in given["relevant_docs"].items()
            for found in all_found
        ],
    }

    class Here(evaluation.NanoBEIREvaluator):
        def _load_dataset_subset_split(self, subset: str, split: str, required_columns: Any) -> Any:
            return tables[subset]

    return Here(["msmarco"], write_csv=False)


def frame(teacher: Any) -> Any:
    """Translations as rows."""
    rows = [{"ja": one, "en": other} for one, other in zip(ONE, OTHER, strict=True)]
    return evaluation.MSEEvaluatorFromDataFrame(rows, teacher, [("ja", "en")], write_csv=False)


def sequence(teacher: Any) -> Any:
    """Two evaluators, one after the other."""
    return SequentialEvaluator([EVALUATORS["triplet"](teacher), EVALUATORS["similarity"](teacher)])


EVALUATORS: dict[str, Callable[[Any], Any]] = {
    "binary": lambda _: evaluation.BinaryClassificationEvaluator(
        ONE, OTHER, [1, 0, 0, 1] * 3, write_csv=False
    ),
    "similarity": lambda _: evaluation.EmbeddingSimilarityEvaluator(
        ONE, OTHER, SCORES, write_csv=False
    ),
    "similarity of levels": lambda _: evaluation.EmbeddingSimilarityEvaluator(
        ONE, OTHER, SCORES, write_csv=False, precision="binary"
    ),
    "retrieval": lambda _: evaluation.InformationRetrievalEvaluator(**retrieval(), write_csv=False),
    "mse": lambda teacher: evaluation.MSEEvaluator(ONE, OTHER, teacher, write_csv=False),
    "mse of a frame": frame,
    "nano beir": nano_beir,
    "paraphrases": lambda _: evaluation.ParaphraseMiningEvaluator(
        {str(at): text for at, text in enumerate(ONE)}, [("0", "5"), ("1", "6")], write_csv=False
    ),
    "reranking": lambda _: evaluation.RerankingEvaluator(
        [{"query": ONE[0], "positive": OTHER[:2], "negative": OTHER[2:8]}], write_csv=False
    ),
    "translation": lambda _: evaluation.TranslationEvaluator(ONE, OTHER, write_csv=False),
    "triplet": lambda _: evaluation.TripletEvaluator(ONE, OTHER, ONE[::-1], write_csv=False),
    "sequence": sequence,
}


@pytest.mark.parametrize("name", EVALUATORS)
@pytest.mark.parametrize("how", ["evaluator(encoder)", "encoder.evaluate"])
def test_the_scores_are_upstreams(folder: str, encoder: Any, name: str, how: str) -> None:
    """And they stand in the model card, as upstream's do."""
    upstream: Any = SentenceTransformer(folder, device="cpu")
    expected = EVALUATORS[name](upstream)(upstream)
    evaluator = EVALUATORS[name](encoder)
    actual = encoder.evaluate(evaluator) if how == "encoder.evaluate" else evaluator(encoder)
    if isinstance(expected, dict):
        assert expected.keys() == actual.keys()
        for key, value in expected.items():
            assert value == pytest.approx(actual[key], abs=1e-5), key
        known = [type(one) for one in upstream.model_card_data.eval_results_dict]
        assert known == [type(one) for one in encoder.model_card_data.eval_results_dict]
        assert known
    else:
        assert expected == pytest.approx(actual, abs=1e-5)


def test_no_evaluator_is_missing() -> None:
    """The tests above and below are about all that upstream exports."""
    named = {name for name in evaluation.__all__ if name.endswith("Evaluator")}
    tested = {
        *("BinaryClassificationEvaluator", "EmbeddingSimilarityEvaluator"),
        *("InformationRetrievalEvaluator", "MSEEvaluator", "NanoBEIREvaluator"),
        *("ParaphraseMiningEvaluator", "RerankingEvaluator", "TranslationEvaluator"),
        *("TripletEvaluator", "SequentialEvaluator", "LabelAccuracyEvaluator"),
    }
    assert named - tested <= {"SentenceEvaluator", "BaseEvaluator", "MSEEvaluatorFromDataFrame"}
    assert tested & named


def test_label_accuracy_is_refused(encoder: Any) -> None:
    """It trains a layer on top of the modules: an error, and the way to go."""
    from torch.utils.data import DataLoader

    evaluator = evaluation.LabelAccuracyEvaluator(
        DataLoader([], batch_size=2),  # type: ignore[arg-type]
        softmax_model=losses.SoftmaxLoss,
        write_csv=False,
    )
    with pytest.raises(UnsupportedError, match="train a SentenceTransformer"):
        evaluator(encoder)


def test_searches(folder: str, encoder: Any) -> None:
    """semantic_search and paraphrase_mining find what they find with upstream."""
    upstream: Any = SentenceTransformer(folder, device="cpu")
    found = [
        util.semantic_search(model.encode_query(OTHER), model.encode_document(ONE), top_k=3)
        for model in (upstream, encoder)
    ]
    for one, other in zip(*found, strict=True):
        assert [hit["corpus_id"] for hit in one] == [hit["corpus_id"] for hit in other]
        np.testing.assert_allclose(
            [hit["score"] for hit in one], [hit["score"] for hit in other], atol=1e-5
        )
    pairs = [util.paraphrase_mining(model, ONE, top_k=3) for model in (upstream, encoder)]
    assert [tuple(pair[1:]) for pair in pairs[0]] == [tuple(pair[1:]) for pair in pairs[1]]


@pytest.mark.parametrize("use_faiss", [False, True])
def test_mine_hard_negatives(folder: str, encoder: Any, use_faiss: bool) -> None:
    """The same negatives, with and without the library faiss."""
    data = Dataset.from_dict({"anchor": OTHER[:7], "positive": ONE[5:]})
    upstream: Any = SentenceTransformer(folder, device="cpu")
    mined = [
        util.mine_hard_negatives(data, model, num_negatives=2, use_faiss=use_faiss, verbose=False)
        for model in (upstream, encoder)
    ]
    assert mined[0].to_list() == mined[1].to_list()
    assert len(mined[0])
