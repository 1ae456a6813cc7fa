"""Texts and chunks that come again in a call: embedded once, and given as often as they come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import models
from safe_embed import SafeEncoder
from safe_embed.inference.distinct import digest, distinct
from safe_embed.inference.pipeline import Pipeline
from safe_embed.inference.request import PlanTexts, Request, Settings
from safe_embed.pooling import mean_pool
from safe_embed.text.chunking import Chunker
from safe_embed.text.punctuation import PunctuationSplitter
from safe_embed.text.splitters import ladder
from safe_embed.types import Encoding

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TEXTS = ["雨。", models.long_text(12), "", "雪。"]
AGAIN = [0, 1, 0, 2, 3, 1, 1, 2]


@pytest.fixture(scope="module")
def small() -> SentenceTransformer:
    """A model of few tokens."""
    return models.small()


@given(st.lists(st.integers(0, 5)))
def test_distinct(values: list[int]) -> None:
    """Each item is found again by its place; the first of equal items stands for them."""
    firsts, places = distinct(values)
    assert values == [values[firsts[place]] for place in places]
    assert [values.index(value) for value in dict.fromkeys(values)] == firsts


_ROWS = st.lists(st.integers(0, 2), max_size=3)


@given(st.lists(st.tuples(_ROWS, st.booleans(), st.integers(0, 2)), min_size=2, max_size=2))
def test_digest(pair: list[tuple[list[int], bool, int]]) -> None:
    """The same for the same ids and segment ids, and for no others."""
    encodings = [
        Encoding.of(ids, [segment] * len(ids) if has_segments else None)
        for ids, has_segments, segment in pair
    ]
    first, second = [
        (one.ids.tolist(), None if one.type_ids is None else one.type_ids.tolist())
        for one in encodings
    ]
    assert (first == second) == (digest(encodings[0]) == digest(encodings[1]))


@pytest.mark.parametrize(
    "options",
    [{}, {"isolation": "process", "workers": 2}, {"chunks": "spans"}, {"on_long": "truncate"}],
    ids=["thread", "process", "spans", "truncate"],
)
def test_texts_that_come_again(saved: Path, options: dict[str, Any]) -> None:
    """Vectors are bit-equal to those of the distinct texts; the model reads no more than those."""
    texts = [TEXTS[place] for place in AGAIN]
    with SafeEncoder(saved, reload=None, device="cpu", **options) as encoder:
        expected = encoder.encode(TEXTS)
        tokens = encoder.stats.tokens
        found = encoder.encode(texts)
        assert expected[AGAIN].tobytes() == found.tobytes()
        assert 2 * tokens == encoder.stats.tokens
        assert len(TEXTS) + len(texts) == encoder.stats.texts
        plans = encoder.plan(TEXTS)
        assert [plans[place] for place in AGAIN] == encoder.plan(texts)


def test_chunks_that_come_again(small: SentenceTransformer) -> None:
    """A sentence of two texts is read once, with the vector that it has alone."""
    sentences = [f"{word}が降る。" for word in ("雨", "雪", "星")]
    texts = ["".join(sentences[at] for at in some) for some in ((0, 1, 0), (2, 0), (1,))]
    with SafeEncoder(small, reload=None, chunks="spans") as encoder:
        alone = encoder.encode(sentences)
        tokens = encoder.stats.tokens
        first, second, third = encoder.encode_chunks(texts)
        assert 2 * tokens == encoder.stats.tokens
    for text, places in zip((first, second, third), ([0, 1, 0], [2, 0], [1]), strict=True):
        assert alone[places].tobytes() == text.vectors.tobytes()


def test_a_result_belongs_to_its_text(small: SentenceTransformer) -> None:
    """What a caller does to the vectors of a text changes those of no other text."""
    stretched = models.long_text(3000)
    with SafeEncoder(small, reload=None) as encoder:
        for text in ("雨。", models.long_text(12), stretched):
            first, second = encoder.encode_chunks([text, text])
            before = second.vectors.copy(), second.pooled().copy()
            assert first.vectors.tobytes() == before[0].tobytes()
            first.vectors[:] = 0
            first.pooled()[:] = 0
            np.testing.assert_array_equal(before[0], second.vectors)
            np.testing.assert_array_equal(before[1], second.pooled())


def test_long_texts_that_come_again(small: SentenceTransformer) -> None:
    """Those that are cut in stretches, too."""
    texts = [models.long_text(3000), "雨。", models.long_text(3000)]
    with SafeEncoder(small, reload=None) as encoder:
        expected = encoder.encode(texts[:2])
        tokens = encoder.stats.tokens
        assert expected[[0, 1, 0]].tobytes() == encoder.encode(texts).tobytes()
        assert 2 * tokens == encoder.stats.tokens
        first, _, last = encoder.plan(texts)
    assert first == last


def test_upstream_s_own_processes_get_each_text_once(
    small: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And give what the encoder itself gives."""
    given: list[Sequence[str]] = []
    encode = type(small).encode

    def watched(self: Any, texts: Any, **options: Any) -> Any:
        given.append(list(texts))
        options = {name: value for name, value in options.items() if name != "pool"}
        return encode(self, texts, **options | {"device": None, "chunk_size": None})

    monkeypatch.setattr(type(small), "encode", watched)
    with SafeEncoder(small, reload=None) as encoder:
        expected = encoder.encode(["雨。", "雪。"])
        pool = {"input": None, "output": None, "processes": []}
        found = encoder.encode(["雨。", "雪。", "雨。"], pool=pool)
    assert [["雨。", "雪。"]] == given
    np.testing.assert_allclose(expected[[0, 1, 0]], found, atol=1e-6)


def test_messages_name_the_first_of_equal_texts(small: SentenceTransformer) -> None:
    """A text keeps its number, whatever is left out before it."""
    with SafeEncoder(small, reload=None) as encoder:
        chunker = Chunker(ladder(PunctuationSplitter()))
        pipeline = Pipeline(Settings(chunker, mean_pool), encoder.backend.model)
        stages: Any = pipeline.stages(PlanTexts(Request(["雨", "雨", "雪", "雨"], first_index=10)))
        [task] = next(stages).tasks
    assert [(10, "雨"), (12, "雪")] == task.items
