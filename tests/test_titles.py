"""Titles: a line before every chunk of a text, counted, and no part of its spans."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import models
from safe_embed import ChunkedText, SafeEncoder
from safe_embed.errors import ConfigError, TextTooLongError
from safe_embed.search import Calibration

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

pytestmark = pytest.mark.usefixtures("forked_workers")

STRETCHED = models.long_text(3000)
# Texts, and their titles: a title comes again, a text comes again with another title.
TITLED = [
    ("雨です。", "天気"),
    (models.long_text(40), "東京"),
    ("雨です。", ""),
    ("雨です。", "東京"),
    (STRETCHED, "天気"),
    ("", "東京"),
    (STRETCHED, "東京"),
    ("雨です。", "天気"),
]
PROMPT = "文書: "


@pytest.fixture(scope="module")
def small() -> SentenceTransformer:
    """Upstream itself."""
    return models.small()


@pytest.fixture
def encoder(small: SentenceTransformer) -> SafeEncoder:
    """An encoder of the small model."""
    return SafeEncoder(small, reload=None)


def same(one: ChunkedText, other: ChunkedText) -> None:
    """Compare two results; other chunks were in a batch with them."""
    assert (one.spans, one.token_counts, one.is_long) == (
        *(other.spans, other.token_counts, other.is_long),
    )
    np.testing.assert_allclose(one.vectors, other.vectors, rtol=0, atol=1e-5)
    np.testing.assert_allclose(one.pooled(), other.pooled(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_a_title_stands_before_every_chunk(saved: Path, isolation: Any) -> None:
    """As if it were the end of the prompt; each text has its own, whatever else is in the call."""
    texts, titles = zip(*TITLED, strict=True)
    with SafeEncoder(saved, device="cpu", isolation=isolation) as encoder:
        found = encoder.encode_chunks(list(texts), prompt=PROMPT, titles=iter(titles))
        for one, text, title in zip(found, texts, titles, strict=True):
            before = f"{PROMPT}{title}\n" if title else PROMPT
            [alone] = encoder.encode_chunks([text], prompt=before)
            same(alone, one)
            assert max(one.token_counts) <= models.LIMIT
            assert text == "".join(text[start:end] for start, end in one.spans)
        [single] = encoder.encode_chunks(texts[1], prompt=PROMPT, titles=titles[1])
        same(found[1], single)


def test_upstream_gives_the_same(small: SentenceTransformer, encoder: SafeEncoder) -> None:
    """A chunk has the vector that upstream gives to title, line end and chunk."""
    text = models.long_text(40)
    [found] = encoder.encode_chunks([text], prompt=PROMPT, titles=["東京の人口"])
    assert len(found.spans) > 3
    pieces = [f"東京の人口\n{text[start:end].strip()}" for start, end in found.spans]
    expected = small.encode(pieces, prompt=PROMPT)
    np.testing.assert_allclose(expected, found.vectors, rtol=0, atol=1e-5)


def test_what_is_read_twice_is_embedded_once(encoder: SafeEncoder) -> None:
    """The same text under the same title; not under another."""
    encoder.encode_chunks(["雨です。", "雨です。"], titles=["天気", "東京"])
    tokens = encoder.stats.tokens
    first, second = encoder.encode_chunks(["雨です。"] * 2, titles=["天気"] * 2)
    assert first.vectors.tobytes() == second.vectors.tobytes()
    assert encoder.stats.tokens - tokens < tokens


WRONG: list[tuple[Any, str]] = [
    ("天気", r"^titles is "),
    (["天気"], r"^There are 1 titles and 2 texts"),
    (["天気"] * 3, r"^There are 3 titles and 2 texts"),
    (["天気", None], r"^titles\[1\] is None"),
    ([b"a", "b"], r"^titles\[0\] is <?bytes"),
    (["天気", "\ud800"], r"^titles\[1\] has a lone surrogate"),
    ({"天気": 1, "雪": 2}, r"^titles is <dict"),
    (5, r"^titles is 5"),
]


@pytest.mark.parametrize(("titles", "match"), WRONG, ids=range(len(WRONG)))
def test_titles_that_cannot_work(encoder: SafeEncoder, titles: Any, match: str) -> None:
    """Refused in both languages before anything is computed; no title is in the message."""
    with pytest.raises(ConfigError, match=match) as caught:
        encoder.encode_chunks(["雨です。", "雪です。"], titles=titles)
    assert "titles" in str(caught.value).splitlines()[1]
    assert "天気" not in str(caught.value)
    assert 0 == encoder.stats.tokens


@pytest.mark.parametrize("title", [models.long_text(20), "長" * 100_000], ids=len)
@pytest.mark.parametrize("text", ["雪です。", STRETCHED], ids=len)
def test_a_title_that_leaves_no_room(encoder: SafeEncoder, text: str, title: str) -> None:
    """Of the last text: refused before those before it are embedded."""
    with pytest.raises(ConfigError, match="shorter prompt or title") as caught:
        encoder.encode_chunks(["雨です。", text], titles=["", title])
    assert title[:4] not in str(caught.value)
    assert 0 == encoder.stats.tokens


def test_long_texts_keep_their_numbers(small: SentenceTransformer) -> None:
    """A title counts; texts under several titles are named by their places."""
    count = lambda text: len(small.tokenizer(text)["input_ids"])  # noqa: E731 used here alone
    text = max(
        ("雨です。" * n for n in range(99) if count("雨です。" * n) <= models.LIMIT), key=len
    )
    texts, titles = [text, text, "雨。", text], ["", "天気です。", "天気です。", "雪です。"]
    with SafeEncoder(small, reload=None, on_long="error") as encoder:
        encoder.encode_chunks(texts)
        with pytest.raises(TextTooLongError) as caught:
            encoder.encode_chunks(texts, titles=titles)
    assert [1, 3] == list(caught.value.indices)


def test_titles_are_packed_too(encoder: SafeEncoder) -> None:
    """With a calibration the codes are those of the titled chunks."""
    calibration = Calibration.fit(encoder.encode_chunks([f"雨が{at}日降る。" for at in range(200)]))
    texts, titles = ["雨です。", "雪です。"], ["天気", "冬"]
    packed = encoder.encode_chunks(texts, titles=titles, calibration=calibration, bits=8)
    whole = calibration.pack(encoder.encode_chunks(texts, titles=titles), 8)
    for one, other in zip(packed, whole, strict=True):
        np.testing.assert_array_equal(other.codes, one.codes)
