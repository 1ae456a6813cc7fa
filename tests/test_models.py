"""The models that Japanese users have: their true shapes with random weights, and one for real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import models
from safe_embed import SafeEncoder
from safe_embed.errors import ConfigError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SHORT = [
    "今日は雨です。",
    "",
    "東京都の人口は1,400万人。",
    "Dr. Smith came.",
    "え？\nうん。",
    "👨\u200d👩\u200d👧",
]
LONG = models.long_text(60)

needs_modernbert = pytest.mark.skipif(
    not models.HAS_MODERNBERT, reason="ModernBERT came with transformers 4.48"
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("ruri", marks=needs_modernbert),
        "bert_japanese",
        "static",
        "model2vec",
        pytest.param("e5", marks=pytest.mark.model),
    ],
)
def kind(request: pytest.FixtureRequest) -> str:
    """A family of models."""
    return request.param


@pytest.fixture(scope="module")
def upstream(request: pytest.FixtureRequest, kind: str) -> SentenceTransformer:
    """A model of that family in sentence-transformers; e5 is the real one."""
    from sentence_transformers import SentenceTransformer

    if kind == "e5":
        return SentenceTransformer(str(request.getfixturevalue("offline_model_path")), device="cpu")
    if kind == "model2vec":
        model = SentenceTransformer(str(models.model2vec_folder()), device="cpu")
        model.tokenizer.no_truncation()  # what that does to texts is tested below
        return model
    return getattr(models, kind)()


@pytest.fixture(scope="module")
def encoder(upstream: SentenceTransformer) -> Iterator[SafeEncoder]:
    """The same model in a SafeEncoder."""
    with SafeEncoder(upstream) as found:
        yield found


def count(model: SentenceTransformer, text: str) -> int:
    """Tokens that upstream's own tokenizer gives the model for a text, untruncated."""
    if hasattr(model.tokenizer, "encode_batch_fast"):  # the Rust tokenizer of a StaticEmbedding
        return len(model.tokenizer.encode(text, add_special_tokens=False).ids)
    if models.UPSTREAM < 6:
        text = text.strip()
    return len(model.tokenizer(text, truncation=False, verbose=False)["input_ids"])


def close(expected: Any, actual: Any, tolerance: float = 1e-6) -> None:
    """Compare within the tolerance that padding needs."""
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_short_texts_have_the_vectors_of_upstream(
    upstream: SentenceTransformer, encoder: SafeEncoder
) -> None:
    """A text that fits gives what sentence-transformers gives, with each prompt of the model."""
    close(upstream.encode(SHORT), encoder.encode(SHORT))
    close(upstream.encode(SHORT[0]), encoder.encode(SHORT[0]))
    close(upstream.encode_query(SHORT), encoder.encode_query(SHORT))
    close(upstream.encode_document(SHORT), encoder.encode_document(SHORT))
    for name in upstream.prompts:
        close(upstream.encode(SHORT, prompt_name=name), encoder.encode(SHORT, prompt_name=name))


def test_long_texts_are_chunked_within_the_budget(
    upstream: SentenceTransformer, encoder: SafeEncoder, kind: str
) -> None:
    """Chunks tile a text; each fits by upstream's count and has upstream's vector."""
    budget = {"bert_japanese": models.LIMIT}.get(kind, 512)
    [found] = encoder.encode_chunks(LONG)  # as long as chunks that search well, or less
    pieces = [LONG[start:end] for start, end in found.spans]
    assert found.is_long
    assert len(pieces) > 1
    assert LONG == "".join(pieces)
    assert tuple(count(upstream, piece) for piece in pieces) == found.token_counts
    assert budget / 2 < max(found.token_counts) <= budget
    assert max(found.token_counts) < 2 * min(found.token_counts)
    close(upstream.encode(pieces), found.vectors)
    expected = found.vectors.mean(axis=0)
    if kind in ("e5", "model2vec"):
        expected /= np.linalg.norm(expected)
    close(expected, found.pooled())
    with SafeEncoder(upstream, max_chunk_tokens=budget) as chunking:
        np.testing.assert_array_equal(found.pooled(), chunking.encode(LONG))


def test_a_text_that_the_model_reads_whole_is_read_whole(
    upstream: SentenceTransformer, encoder: SafeEncoder
) -> None:
    """The model's own limit decides: up to there, a text has upstream's vector."""
    limit = encoder.max_seq_length or count(upstream, LONG)
    size = next(n for n in range(len(LONG), 0, -1) if count(upstream, LONG[:n]) <= limit)
    longest = LONG[:size]
    [plan] = encoder.plan(longest)
    assert (((0, size),), False) == (plan.spans, plan.is_long)
    close(upstream.encode(longest), encoder.encode(longest), 5e-6)  # sums of a thousand rows
    close(upstream.encode(["雨", longest]), encoder.encode(["雨", longest]), 5e-6)
    if size < len(LONG):
        assert encoder.plan(LONG)[0].is_long


def test_prompts_go_to_every_chunk_and_are_counted(
    upstream: SentenceTransformer, encoder: SafeEncoder
) -> None:
    """A chunk is counted with its prompt, in each of the model's own and in a long one."""
    for prompt in (upstream.prompts["document"], "とても長い前置きをここに書きます: "):
        [found] = encoder.encode_chunks(LONG, prompt=prompt)
        pieces = [LONG[start:end] for start, end in found.spans]
        expected = tuple(count(upstream, prompt + piece) for piece in pieces)
        assert expected == found.token_counts
        assert max(expected) <= min(512, encoder.max_seq_length or 512)
        close(upstream.encode(pieces, prompt=prompt), found.vectors)
        # A title is text: it is pooled even where the prompt is not.
        [found] = encoder.encode_chunks([LONG], prompt=prompt, titles=["東京の人口"])
        pieces = [f"東京の人口\n{LONG[start:end]}" for start, end in found.spans]
        close(upstream.encode(pieces, prompt=prompt), found.vectors)


def test_truncate_is_upstream_s(upstream: SentenceTransformer, kind: str) -> None:
    """Cut where the model stops reading, a text has upstream's vector."""
    with SafeEncoder(upstream, on_long="truncate") as cutting:
        close(upstream.encode(["雨", LONG]), cutting.encode(["雨", LONG]), 5e-6)
        limit = cutting.max_seq_length or count(upstream, LONG)
        [plan] = cutting.plan(LONG)
        assert (min(limit, count(upstream, LONG)),) == plan.token_counts
        end = plan.spans[0].end
        if not plan.is_long:
            assert len(LONG) == end
            return
        assert count(upstream, LONG[:end]) <= limit < count(upstream, LONG[: end + 3])


@needs_modernbert
def test_ruri_has_its_own_prompts() -> None:
    """Each of the prompts of ruri-v3 gives what upstream gives for it."""
    model = models.ruri()
    with SafeEncoder(model) as encoder:
        assert 8192 == encoder.max_seq_length == model.max_seq_length
        for prompt, name in ((models.RURI_PROMPTS[name], name) for name in models.RURI_PROMPTS):
            close(model.encode(SHORT, prompt=prompt), encoder.encode(SHORT, prompt_name=name))
        topic = encoder.encode("雨", prompt_name="topic")
        assert not np.allclose(topic, encoder.encode_query("雨"), atol=1e-3)


@needs_modernbert
@pytest.mark.parametrize("on_long", ["chunk", "truncate", "error"])
def test_the_limit_of_the_model_decides_what_is_long(on_long: Any) -> None:
    """Between 512 and 8,192 tokens nothing is cut, dropped or refused; beyond, on_long decides."""
    model = models.ruri(layers=2)  # one with global and one with local attention
    fits, over = models.long_text(300), models.long_text(800)
    assert 512 < count(model, fits) < 8192 < count(model, over)
    with SafeEncoder(model, on_long=on_long) as encoder:
        close(model.encode(fits), encoder.encode(fits))
        tokens = encoder.encode(fits[:1500], output_value="token_embeddings")
        close(model.encode(fits[:1500], output_value="token_embeddings"), tokens, 1e-5)
        if on_long == "error":
            with pytest.raises(ValueError, match="more than the 8192 tokens"):
                encoder.encode([fits, over])
        elif on_long == "truncate":
            close(model.encode(over), encoder.encode(over))
        else:
            assert all(count <= 8192 for count in encoder.plan(over)[0].token_counts)


@needs_modernbert
def test_long_chunks_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """The log says once that shorter chunks are faster, unless their length was chosen."""
    model = models.ruri()
    with SafeEncoder(model, max_chunk_tokens=1024) as encoder:
        encoder.encode(LONG)
    assert "max_chunk_tokens=512" not in caplog.text
    with SafeEncoder(model) as encoder:
        encoder.encode(LONG[:300])
        assert "max_chunk_tokens=512" not in caplog.text
        for _ in range(2):
            encoder.encode(LONG)
    assert 1 == caplog.text.count("SafeEncoder(..., max_chunk_tokens=512)")
    assert LONG[:5] not in caplog.text


@needs_modernbert
def test_chunks_for_search_have_a_length_of_their_own() -> None:
    """encode_chunks makes chunks of at most 512 tokens, or as asked for, up to the model's limit."""
    model = models.ruri()
    with SafeEncoder(model) as encoder:
        assert max(encoder.encode_chunks(LONG)[0].token_counts) <= 512
        assert not encoder.encode_chunks(LONG, max_chunk_tokens=8192)[0].is_long
        for wanted in (100, 600):
            [found] = encoder.encode_chunks(LONG, max_chunk_tokens=wanted)
            assert wanted / 2 < max(found.token_counts) <= wanted
            assert found.is_long
        for wrong in (8193, 0, True, "512"):
            with pytest.raises(ConfigError, match="max_chunk_tokens"):
                encoder.encode_chunks(LONG, max_chunk_tokens=wrong)  # type: ignore[arg-type]
    with SafeEncoder(model, max_chunk_tokens=64) as encoder:
        assert max(encoder.encode_chunks(LONG)[0].token_counts) <= 64
    for on_long in ("truncate", "error"):
        with SafeEncoder(model, on_long=on_long) as encoder:
            assert 1 == len(encoder.encode_chunks(LONG)[0].spans)
            with pytest.raises(ConfigError, match="on_long='chunk'"):
                encoder.encode_chunks(LONG, max_chunk_tokens=64)


def test_static_models_read_any_length() -> None:
    """A StaticEmbedding has no limit of its own: nothing is cut unless the user asks for it."""
    model = models.static()
    with SafeEncoder(model) as encoder:
        assert encoder.max_seq_length is None
        assert not encoder.plan(LONG)[0].is_long
        close(model.encode(LONG), encoder.encode(LONG), 5e-6)
    with SafeEncoder(model, max_chunk_tokens=512, pooling="token_weighted") as encoder:
        assert encoder.plan(LONG)[0].is_long
        close(model.encode(LONG), encoder.encode(LONG), 5e-6)  # sums of a thousand rows


def test_model2vec_loses_nothing_to_its_tokenizer() -> None:
    """What model2vec's file says about truncation cuts texts in upstream, and none here."""
    from sentence_transformers import SentenceTransformer

    folder = models.model2vec_folder()
    ends = [LONG[:300] + end for end in ("雨", "検索")]
    cut = SentenceTransformer(str(folder), device="cpu").encode(ends)
    np.testing.assert_array_equal(cut[0], cut[1])
    with SafeEncoder(folder, device="cpu") as encoder:
        assert encoder.plan(ends[0])[0].token_counts[0] > 100
        whole = encoder.encode(ends)
    assert not np.allclose(whole[0], whole[1], atol=1e-4)


def test_japanese_bert_has_no_fast_tokenizer() -> None:
    """What is tested as BertJapaneseTokenizer is that: MeCab and WordPiece, all in Python."""
    tokenizer = models.bert_japanese().tokenizer
    assert not tokenizer.is_fast
    assert "BertJapaneseTokenizer" == type(tokenizer).__name__
    assert ["今日", "は", "雨"] == tokenizer.tokenize("今日は雨")
    assert tokenizer.unk_token not in tokenizer.tokenize(LONG)


@pytest.mark.model
def test_offline_model_by_name(offline_model_path: Path) -> None:
    """``SafeEncoder("offline")`` finds the passage that answers a question, in a long text too."""
    with SafeEncoder("offline", device="cpu") as encoder:
        assert (384, 512) == (encoder.get_embedding_dimension(), encoder.max_seq_length)
        filler = models.long_text(40)
        answer = "富士山の高さは3776メートルで、日本で一番高い山です。"
        document = filler[: len(filler) // 2] + answer + filler[len(filler) // 2 :]
        question = encoder.encode_query("日本でもっとも高い山は何メートルですか。")
        [found] = encoder.encode_chunks(document)
        scores = found.vectors @ question
        start, end = found.spans[int(scores.argmax())]
        assert answer in document[start:end]
        assert question @ encoder.encode(document) > question @ encoder.encode(filler)
