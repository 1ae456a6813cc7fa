"""SafeEncoder's own contracts: identity, independence, order, nothing lost, no dropped call."""

from __future__ import annotations

import gc
import logging
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import models
from safe_embed import PunctuationSplitter, SafeEncoder
from safe_embed.errors import ConfigError, InvalidTextError, TextTooLongError, WorkerError
from safe_embed.text.graphemes import cluster_spans

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

pytestmark = pytest.mark.model

LONG = models.long_text(12)
MIXED = [
    "今日は雨です。",
    LONG,
    "",
    "  ",
    "え？",
    models.long_text(5, start=40),
    "👨\u200d👩\u200d👧" * 40,
]
PLANTED = "合言葉は山川豊"

few = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def upstream(offline_model_path: Path) -> SentenceTransformer:
    """A random BERT with the tokenizer of multilingual-e5, which reads 64 tokens."""
    return models.tiny(offline_model_path)


@pytest.fixture(scope="module")
def encoder(upstream: SentenceTransformer) -> Iterator[SafeEncoder]:
    """The same model in a SafeEncoder, which writes nothing about memory into the log of a test."""
    with SafeEncoder(upstream, reload=None) as found:
        yield found


@pytest.fixture(scope="module")
def small() -> SentenceTransformer:
    """A random BERT with a small vocabulary, for encoders that are made often."""
    return models.small()


def close(expected: Any, actual: Any, tolerance: float = 1e-6) -> None:
    """Compare within the tolerance that padding needs."""
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def tokens_of(model: SentenceTransformer, text: str) -> int:
    """Count what upstream's own tokenizer gives the model, untruncated."""
    if models.UPSTREAM < 6:
        text = text.strip()
    return len(model.tokenizer(text, truncation=False, verbose=False)["input_ids"])


# Identity and independence


@few
@given(text=models.japanese())
@example("あ" + " " * 80 + "い")
@example("=" * 300)
@example("\n" * 200)
def test_identity(upstream: SentenceTransformer, encoder: SafeEncoder, text: str) -> None:
    """A text that fits by upstream's count is not cut, and its vector is upstream's."""
    assume(tokens_of(upstream, text) <= models.LIMIT)
    [plan] = encoder.plan(text)
    assert (((0, len(text)),) if text else ((0, 0),), False) == (plan.spans, plan.is_long)
    assert (tokens_of(upstream, text),) == plan.token_counts
    close(upstream.encode(text), encoder.encode(text))


@few
@given(
    texts=st.lists(models.japanese(max_size=20), min_size=1, max_size=8),
    prompt=st.sampled_from(["", "前置き: ", " "]),
)
def test_identity_in_company(
    upstream: SentenceTransformer, encoder: SafeEncoder, texts: list[str], prompt: str
) -> None:
    """Texts that fit with their prompt have upstream's vectors, whoever else is in the call."""
    assume(all(tokens_of(upstream, prompt + text) <= models.LIMIT for text in texts))
    close(upstream.encode(texts, prompt=prompt), encoder.encode(texts, prompt=prompt))


def test_the_model_tells_texts_apart(upstream: SentenceTransformer) -> None:
    """Random weights would prove nothing if all texts had one vector."""
    vectors = upstream.encode(["今日は雨です。", "今日は雪です。", LONG])
    assert 0.01 < np.abs(vectors[0] - vectors[1]).max() < np.abs(vectors[0] - vectors[2]).max() * 2


@few
@given(order=st.permutations(range(len(MIXED))), batch_size=st.integers(1, 40))
def test_independence(encoder: SafeEncoder, order: list[int], batch_size: int) -> None:
    """A vector does not depend on the neighbours of its text, their order, or the batch size."""
    alone = np.stack([encoder.encode(text) for text in MIXED])
    close(alone[order], encoder.encode([MIXED[at] for at in order], batch_size=batch_size))


@pytest.mark.parametrize("max_batch_tokens", [1, 100, 100_000])
def test_independence_of_the_batch_budget(
    upstream: SentenceTransformer, encoder: SafeEncoder, max_batch_tokens: int
) -> None:
    """Nor on how many tokens go into a batch."""
    with SafeEncoder(upstream, max_batch_tokens=max_batch_tokens) as other:
        close(encoder.encode(MIXED), other.encode(MIXED))


def test_repeated_calls_agree_to_the_bit(encoder: SafeEncoder) -> None:
    """The same call gives the same bits, however often; and whatever was asked between."""
    expected = encoder.encode(MIXED)
    for between in (["雪"], [LONG * 2], []):
        encoder.encode(between)
        np.testing.assert_array_equal(expected, encoder.encode(MIXED))


def test_bfloat16_points_the_same_way() -> None:
    """In bfloat16 padding moves vectors, by a cosine of 0.0001 at most."""
    model = models.small().bfloat16()
    texts = ["今日は雨です。", "検索文書: 猫", "吾が輩は犬である。名前はもうある。"]
    with SafeEncoder(model) as encoder:
        pairs = [encoder.encode([text, LONG])[0] for text in texts]
        assert encoder.similarity_pairwise(model.encode(texts), np.stack(pairs)).min() >= 0.9999


# Order: average, truncate, normalise, quantise


def slow_reference(
    encoder: SafeEncoder, texts: list[str], dim: int | None, *, unit: bool, model_unit: bool
) -> np.ndarray[Any, Any]:
    """Average, cut, normalise, in float64, one text at a time."""
    rows = []
    for found in encoder.encode_chunks(texts):
        row = found.vectors.astype(np.float64).mean(axis=0)
        if model_unit:
            row /= np.linalg.norm(row)
        row = row[:dim]
        rows.append(row / np.linalg.norm(row) if unit else row)
    return np.stack(rows)


@pytest.mark.parametrize("normalize", [False, True], ids=["plain", "Normalize"])
@pytest.mark.parametrize("unit", [False, True])
@pytest.mark.parametrize("dim", [None, 8])
def test_order(*, normalize: bool, unit: bool, dim: int | None) -> None:
    """Average, then the dimension, then the length, then the precision."""
    with SafeEncoder(models.small(normalize=normalize)) as encoder:
        expected = slow_reference(encoder, MIXED, dim, unit=unit, model_unit=normalize)
        options = {"truncate_dim": dim, "normalize_embeddings": unit}
        close(expected, encoder.encode(MIXED, **options))
        bits = np.packbits(expected > 0, axis=1)
        np.testing.assert_array_equal(bits, encoder.encode(MIXED, precision="ubinary", **options))
        low, high = expected.min(axis=0), expected.max(axis=0)
        levels = np.floor((expected - low) / (high - low) * 255)
        actual = encoder.encode(MIXED, precision="uint8", **options)
        assert np.abs(levels - actual).max() <= 1


def test_normalize_models_give_unit_vectors() -> None:
    """A model that ends in Normalize gives vectors of length 1 for long texts too."""
    with SafeEncoder(models.small(normalize=True)) as encoder:
        close(np.ones(len(MIXED)), np.linalg.norm(encoder.encode(MIXED), axis=1))
        [found] = encoder.encode_chunks(LONG)
        assert np.linalg.norm(found.vectors.mean(axis=0)) < 0.999
    with SafeEncoder(models.small()) as encoder:
        assert np.abs(np.linalg.norm(encoder.encode(MIXED), axis=1) - 1).min() > 0.1


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"truncate_dim": 8},
        {"normalize_embeddings": True},
        {"truncate_dim": 8, "normalize_embeddings": True},
        {"prompt": "前: "},
    ],
    ids=str,
)
def test_pooled_is_what_encode_gives(encoder: SafeEncoder, options: dict[str, Any]) -> None:
    """``encode_chunks(...)[i].pooled() == encode(...)[i]``, to the bit."""
    found = encoder.encode_chunks(MIXED, **options)
    pooled = np.stack([one.pooled() for one in found])
    np.testing.assert_array_equal(encoder.encode(MIXED, **options), pooled)
    if "normalize_embeddings" in options:
        vectors = np.concatenate([one.vectors for one in found])
        close(np.ones(len(vectors)), np.linalg.norm(vectors, axis=1))


# Nothing lost


@few
@given(text=models.japanese(max_size=300), prompt=st.sampled_from(["", "検索文書: "]))
def test_chunks_tile_and_fit(
    upstream: SentenceTransformer, encoder: SafeEncoder, text: str, prompt: str
) -> None:
    """The chunks of a text tile it and fit with their prompt, counted by upstream's tokenizer."""
    [plan] = encoder.plan(text, prompt=prompt)
    assert text == "".join(text[start:end] for start, end in plan.spans)
    assert all(start < end for start, end in plan.spans) or not text
    assert max(plan.token_counts) <= models.LIMIT
    if len(plan.spans) > 1:
        pieces = [text[start:end].strip() for start, end in plan.spans]
        assert all(pieces)
        expected = tuple(tokens_of(upstream, prompt + piece) for piece in pieces)
        assert expected == plan.token_counts


@pytest.mark.parametrize("text", [" " * 100, "\u3000" * 100 + "\n" * 100])
def test_blank_text_that_does_not_fit(small: SentenceTransformer, text: str) -> None:
    """White space alone, more than fits, is one chunk; it has the vector of no text at all."""
    assert tokens_of(small, "あ" + text + "い") > models.LIMIT
    with SafeEncoder(small) as encoder:
        [plan] = encoder.plan(text)
        assert ((0, len(text)),) == plan.spans
        assert max(plan.token_counts) <= models.LIMIT
        assert np.isfinite(encoder.encode(text)).all()


def test_chunk_vectors_are_those_of_their_texts(
    upstream: SentenceTransformer, encoder: SafeEncoder
) -> None:
    """Each chunk is embedded as upstream embeds that piece of text, prompt included."""
    for prompt in ("", "検索文書: "):
        for text, found in zip(MIXED, encoder.encode_chunks(MIXED, prompt=prompt), strict=True):
            pieces = [text[start:end] for start, end in found.spans]
            if len(pieces) > 1:
                pieces = [piece.strip() for piece in pieces]
            close(upstream.encode(pieces, prompt=prompt), found.vectors)
            assert encoder.plan(text, prompt=prompt)[0].spans == found.spans
            assert found.is_long == (len(pieces) > 1)
    assert [] == encoder.encode_chunks([])
    assert 1 == len(encoder.encode_chunks("雨"))


def test_truncate(
    upstream: SentenceTransformer, encoder: SafeEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    """``"truncate"``: upstream's vector; the log names the inputs; the plan says where it ends."""
    texts = ["雨", LONG, "雪", PLANTED + LONG]
    with SafeEncoder(upstream, on_long="truncate") as cutting:
        for prompt in ("", "検索クエリ: "):
            caplog.clear()
            close(upstream.encode(texts, prompt=prompt), cutting.encode(texts, prompt=prompt))
            [record] = caplog.records
            assert ("safe_embed", logging.WARNING) == (record.name, record.levelno)
            assert "2 of 4" in record.getMessage()
            assert record.getMessage().endswith("inputs 1, 3")
            for text, plan in zip(texts, cutting.plan(texts, prompt=prompt), strict=True):
                [(start, end)] = plan.spans
                assert 0 == start
                assert plan.is_long == (end < len(text))
                assert tokens_of(upstream, prompt + text[:end]) <= models.LIMIT
                if plan.is_long:
                    assert plan.token_counts == (models.LIMIT,)
                    assert tokens_of(upstream, prompt + text[: end + 1]) > models.LIMIT
        [found] = cutting.encode_chunks(LONG)
        assert cutting.plan(LONG)[0].spans == found.spans
        close(upstream.encode(LONG), found.pooled())
    assert not np.allclose(upstream.encode(LONG), encoder.encode(LONG), atol=1e-3)


@pytest.mark.parametrize("on_long", ["truncate", "chunk"])
def test_the_plan_names_the_clusters_that_are_cut(
    upstream: SentenceTransformer, on_long: str
) -> None:
    """Where a chunk ends inside a cluster, or reading stops in it, plan and chunks say so."""
    family = "👨" + "\u200d👩" * 60
    texts = ["雨" + family + "雪", "雨", LONG, family + "\u3099", "か" + "\u3099" * 300 + "き。"]
    with SafeEncoder(upstream, on_long=on_long) as encoder:
        plans = encoder.plan(texts)
        found = encoder.encode_chunks(texts)
    for text, plan, one in zip(texts, plans, found, strict=True):
        ends = {end for _, end in cluster_spans(text)}
        assert tuple(end for _, end in plan.spans if end not in ends) == plan.cut_clusters
        assert (plan.spans, plan.cut_clusters) == (one.spans, one.cut_clusters)
    assert [True, False, False, True, True] == [bool(plan.cut_clusters) for plan in plans]


@pytest.mark.parametrize(
    "text",
    ["a " * 2000, "あ" + " " * 2000 + "い" * 300, "=" * 5000],
    ids=["Latin", "blanks", "rules"],
)
def test_truncate_of_text_with_few_tokens(upstream: SentenceTransformer, text: str) -> None:
    """Where a token has many characters, the plan still ends where reading stops."""
    with SafeEncoder(upstream, on_long="truncate") as cutting:
        [(_, end)] = cutting.plan(text)[0].spans
    assert end < len(text)
    assert tokens_of(upstream, text[:end]) <= models.LIMIT < tokens_of(upstream, text[: end + 40])


def test_truncate_in_a_prompt_that_fills_the_model(upstream: SentenceTransformer) -> None:
    """A prompt that leaves room for a character or none is cut as upstream cuts it."""
    with SafeEncoder(upstream, on_long="truncate") as cutting:
        for prompt in ("前" * 59, "前" * 100):
            expected = upstream.encode("雨や雪。" * 20, prompt=prompt)
            close(expected, cutting.encode("雨や雪。" * 20, prompt=prompt))
            [(start, end)] = cutting.plan("雨や雪。" * 20, prompt=prompt)[0].spans
            assert 0 == start <= end < 10
    with SafeEncoder(upstream) as chunking, pytest.raises(ConfigError, match="prompt"):
        chunking.encode("雨", prompt="前" * 100)


def test_error_names_every_long_text(small: SentenceTransformer) -> None:
    """``"error"``: every long text is named, and the model is not reached."""
    model = models.small()
    model[0].forward = lambda *_, **__: pytest.fail("the model was reached")
    texts = ["雨", LONG, "雪", LONG, LONG]
    with SafeEncoder(model, on_long="error") as strict:
        for call in (strict.encode, strict.encode_chunks, strict.encode_query):
            with pytest.raises(TextTooLongError, match="inputs 1, 3, 4") as caught:
                call(texts)
            assert (1, 3, 4) == caught.value.indices
        with pytest.raises(TextTooLongError) as caught:
            strict.encode([LONG] * 30)
        assert tuple(range(30)) == caught.value.indices
        assert [False, True] == [plan.is_long for plan in strict.plan(["雨", LONG])]
        with pytest.raises(pytest.fail.Exception):
            strict.encode("雨")  # proves that the trap works
    with SafeEncoder(small, on_long="error") as strict:
        close(small.encode(["雨", "雪"]), strict.encode(["雨", "雪"]))


def test_invalid_text_is_found_before_anything_is_computed() -> None:
    """A bad input at the end of a list costs nothing."""
    model = models.small()
    model[0].forward = lambda *_, **__: pytest.fail("the model was reached")
    with SafeEncoder(model) as encoder:
        for bad, method in ((None, encoder.encode), ("\ud800", encoder.encode_chunks)):
            with pytest.raises(InvalidTextError) as caught:
                method(["雨"] * 5000 + [bad])
            assert 5000 == caught.value.index
        with pytest.raises(ConfigError):
            encoder.encode(["雨", "雪"], precision="int4")
        with pytest.raises(ConfigError):
            encoder.encode("雨", precision="int8")
        with pytest.raises(TextTooLongError):
            encoder.encode(["雨", LONG], output_value=None)


# Streams


def test_stream_equals_encode(encoder: SafeEncoder) -> None:
    """A stream gives the vectors of encode, in order."""
    texts = [f"{n}日目は雨。" for n in range(1500)] + MIXED
    options = {"prompt": "前: ", "truncate_dim": 8, "normalize_embeddings": True}
    found = list(encoder.encode_stream(iter(texts), **options))
    close(encoder.encode(texts, **options), np.stack(found))
    assert {(8,)} == {vector.shape for vector in found}
    bits = np.stack(list(encoder.encode_stream(texts, precision="ubinary")))
    np.testing.assert_array_equal(encoder.encode(texts, precision="ubinary"), bits)
    assert [] == list(encoder.encode_stream([]))


@pytest.mark.parametrize(
    ("text", "most"), [("雨", 2048), (models.long_text(200), 64)], ids=["short", "long"]
)
def test_stream_reads_ahead_only_so_far(small: SentenceTransformer, text: str, most: int) -> None:
    """An endless stream is read no further than the vectors are taken, give or take a portion."""
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield text

    with SafeEncoder(small, chunks="packed") as encoder:
        stream = encoder.encode_stream(endless())
        assert 0 == read
        for taken in range(1, 4):
            next(stream)
            assert read - taken <= most
        stream.close()


def test_stream_holds_no_texts_behind() -> None:
    """What a stream has embedded is let go: memory does not grow with the length of the stream."""

    class Text(str):
        __slots__ = ("__weakref__",)

    alive: weakref.WeakSet[Text] = weakref.WeakSet()

    def source() -> Iterator[str]:
        for number in range(4000):
            text = Text(f"{number}番")
            alive.add(text)
            yield text

    with SafeEncoder(models.static()) as encoder:
        most = max(len(alive) for _ in encoder.encode_stream(source()))
    assert 0 <= most <= 2048


def test_stream_arguments_are_checked_at_once(encoder: SafeEncoder) -> None:
    """A stream that cannot work fails when it is made, before anything is read."""
    unread = (pytest.fail("the stream was read") for _ in range(1))
    ranges = np.array([[-2.0] * 32, [2.0] * 32], dtype=np.float32)
    for options, named in (
        ({"precision": "int8"}, "ranges"),
        ({"precision": "uint8"}, "ranges"),
        ({"precision": "int4"}, "precision"),
        ({"precision": "int8", "ranges": ranges[:, :5]}, "ranges"),
        ({"precision": "int8", "ranges": ranges, "truncate_dim": 8}, "ranges"),
        ({"prompt_name": "nowhere"}, "nowhere"),
        ({"batch_size": 0}, "batch_size"),
        ({"colour": "red"}, "colour"),
    ):
        with pytest.raises(ConfigError, match=named):
            encoder.encode_stream(unread, **options)
    for inputs in ("雨", b"abc", {"text": "雨"}, None, 3):
        with pytest.raises(ConfigError, match="iterable"):
            encoder.encode_stream(inputs)
    found = list(encoder.encode_stream(["雨", LONG], precision="int8", ranges=ranges))
    expected = np.floor((encoder.encode(["雨", LONG]) + 2) / (4 / 255)).clip(0, 255) - 128
    assert {(32,)} == {vector.shape for vector in found}
    assert np.abs(expected - np.stack(found)).max() <= 1


def test_stream_gives_all_vectors_before_an_invalid_text(encoder: SafeEncoder) -> None:
    """The vectors of all texts before a bad one come first; the error has its number."""
    texts = [f"{n}日目" for n in range(1100)]
    stream = encoder.encode_stream([*texts, None, "雨"])
    found = [next(stream) for _ in texts]
    close(encoder.encode(texts), np.stack(found))
    with pytest.raises(InvalidTextError) as caught:
        next(stream)
    assert 1100 == caught.value.index


def test_stream_counts_long_texts_from_its_start(
    small: SentenceTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages name the number of a text in the stream, not in the portion that was read."""
    texts = ["雨"] * 1500 + [LONG]
    with SafeEncoder(small, on_long="error") as strict:
        with pytest.raises(TextTooLongError, match="inputs 1500") as caught:
            list(strict.encode_stream(texts))
        assert (1500,) == caught.value.indices
    with SafeEncoder(small, on_long="truncate") as cutting:
        assert 1501 == len(list(cutting.encode_stream(texts)))
    assert caplog.records[-1].getMessage().endswith("inputs 1500")


# Splitters, spans, pooling


@pytest.mark.parametrize("normalize", [False, True], ids=["plain", "Normalize"])
def test_the_incident_s_own_mode(*, normalize: bool) -> None:
    """Parts at every 。 and 、 of texts over 200 characters, embedded alone and averaged."""
    model = models.small(normalize=normalize)
    texts = [
        "今日は雨、明日は雪。" * 20,  # 200 characters: whole, but for the model's limit
        "今日は雨、明日は雪。" * 20 + "え",
        models.long_text(20),
        "、。 。\n、" + "春は、あけぼの。" * 30 + "\u3000。",
        "「今日は。明日も。」と言った。3、4人。" * 15,
        "雨",
    ]
    with SafeEncoder(model, splitter=PunctuationSplitter.incident(), chunks="spans") as encoder:
        assert any(len(plan.spans) > 20 for plan in encoder.plan(texts))
        for text in texts[1:]:
            expected = models.incident_embedding(model, text)
            if normalize:
                expected = expected / np.linalg.norm(expected)
            close(expected, encoder.encode(text))


def test_spans_mode_makes_a_chunk_of_every_sentence(small: SentenceTransformer) -> None:
    """``chunks="spans"``: one chunk a sentence at any length, cut further where it does not fit."""
    with SafeEncoder(small, chunks="spans") as encoder:
        for text in ("雨です。雪です。", LONG, "一文。" + "とても長い文で" * 30 + "。次。"):
            spans = encoder.plan(text)[0].spans
            assert text == "".join(text[start:end] for start, end in spans)
            sentences = {end for _, end in PunctuationSplitter().split(text)}
            assert sentences <= {end for _, end in spans}
        [found] = encoder.encode_chunks("雨です。雪です。")
        close(small.encode(["雨です。", "雪です。"]), found.vectors)
        close(
            small.encode(["雨です。", "雪です。"]).mean(axis=0), encoder.encode("雨です。雪です。")
        )
        assert not found.is_long


@pytest.mark.parametrize(
    "splitter",
    [
        models.ByteSplitter(7),
        re.compile("。|、"),
        lambda text: re.split("(?<=。)", text),
        lambda text: [match.span() for match in re.finditer(".{1,9}", text, re.DOTALL)],
        "morphemes",
        PunctuationSplitter("clause"),
    ],
    ids=["object", "regex", "function of pieces", "function of spans", "morphemes", "clauses"],
)
@pytest.mark.parametrize("chunks", ["packed", "spans"])
def test_splitters_of_the_user(small: SentenceTransformer, splitter: Any, chunks: Any) -> None:
    """Any splitter will do; what it gives bounds the cuts, and nothing is lost."""
    with SafeEncoder(small, splitter=splitter, chunks=chunks) as encoder:
        [plan] = encoder.plan(LONG)
        assert LONG == "".join(LONG[start:end] for start, end in plan.spans)
        assert max(plan.token_counts) <= models.LIMIT
        if isinstance(splitter, models.ByteSplitter):
            step = {(end - start) % 7 for start, end in plan.spans[:-1]}
            assert {0} == step
        elif isinstance(splitter, re.Pattern) and chunks == "spans":
            assert all(LONG[end - 1] in "。、" for _, end in plan.spans)
        pieces = [LONG[start:end] for start, end in plan.spans]
        close(small.encode(pieces).mean(axis=0), encoder.encode(LONG))


@pytest.mark.parametrize(
    "splitter",
    [
        lambda text: [text[1:]] if len(text) > 1 else [text],
        lambda text: ["別の文"],
        models.ByteSplitter(7).split("あ" * 20),
        "sentences",
        3,
    ],
    ids=["loses the first", "invents", "list", "unknown name", "number"],
)
def test_splitters_that_cannot_work(small: SentenceTransformer, splitter: Any) -> None:
    """What is no splitter is refused at once; one that changes the text when it does."""
    if callable(splitter) and splitter("あい") == ["い"]:
        with SafeEncoder(small, splitter=splitter) as encoder:  # what is left out goes along
            [plan] = encoder.plan(LONG)
            assert LONG == "".join(LONG[start:end] for start, end in plan.spans)
        return
    with pytest.raises(ConfigError), SafeEncoder(small, splitter=splitter) as encoder:
        encoder.encode(LONG)


def test_a_splitter_that_loses_text_is_found_out(small: SentenceTransformer) -> None:
    """Spans that leave a gap, overlap or are empty are refused, whatever the text."""
    for spans in (
        [(0, 3), (4, len(LONG))],
        [(0, 5), (3, len(LONG))],
        [(0, 0), (0, len(LONG))],
        [(0, 9)],
        [],
    ):

        class Bad:
            def split(self, text: str, spans: Any = spans) -> Any:
                return spans

        with SafeEncoder(small, splitter=Bad()) as encoder:
            with pytest.raises(ConfigError, match="Bad"):
                encoder.encode(LONG)
            with pytest.raises(ConfigError, match="Bad"):
                encoder.plan(LONG)


def test_pooling_kinds(small: SentenceTransformer) -> None:
    """Mean, by tokens, maximum, and a function of the user's own."""
    seen: list[tuple[Any, ...]] = []

    def first(vectors: Any, counts: Any) -> Any:
        seen.append((vectors.shape, vectors.dtype, counts.dtype, tuple(counts)))
        return vectors[0].astype(np.float64)

    with SafeEncoder(small) as encoder:
        [found] = encoder.encode_chunks(LONG)
    counts = np.array(found.token_counts)
    n_chunks = len(counts)
    assert n_chunks > 2
    wanted = {
        "mean": found.vectors.mean(axis=0),
        "token_weighted": (found.vectors * counts[:, None]).sum(axis=0) / counts.sum(),
        "max": found.vectors.max(axis=0),
        first: found.vectors[0],
    }
    for pooling, expected in wanted.items():
        with SafeEncoder(small, pooling=pooling) as encoder:
            close(expected, encoder.encode(LONG))
            close(expected, encoder.encode_chunks(LONG)[0].pooled())
            assert np.float32 == encoder.encode(LONG).dtype
            close(small.encode("雨"), encoder.encode("雨"))
    assert [((n_chunks, 32), np.float32, np.int64, found.token_counts)] * 3 == seen


def test_pooling_of_another_shape_is_refused(small: SentenceTransformer) -> None:
    """A function that gives no vector of the model's dimension, and a name nobody knows."""
    for pooling in (lambda vectors, _: vectors, lambda vectors, _: vectors.mean()):
        with (
            SafeEncoder(small, pooling=pooling) as encoder,
            pytest.raises(ConfigError, match="shape"),
        ):
            encoder.encode(LONG)
    with pytest.raises(ConfigError, match="median"):
        SafeEncoder(small, pooling="median")


def test_max_chunk_tokens(small: SentenceTransformer) -> None:
    """Chunks are as small as asked; more than the model reads is refused when it is made."""
    with SafeEncoder(small, max_chunk_tokens=20) as encoder:
        counts = encoder.plan(LONG)[0].token_counts
        assert max(counts) <= 20
        encoder.max_seq_length = 16
        assert max(encoder.plan(LONG)[0].token_counts) <= 16
        encoder.max_seq_length = models.LIMIT
    with pytest.raises(ConfigError, match="64 tokens"):
        SafeEncoder(small, max_chunk_tokens=65)
    for bad in (0, -1):
        with pytest.raises(ConfigError, match="max_chunk_tokens"):
            SafeEncoder(small, max_chunk_tokens=bad)
    with (
        SafeEncoder(small, max_chunk_tokens=2) as encoder,
        pytest.raises(ConfigError, match=r"room|take"),
    ):
        encoder.encode("雨")


# What to load


def test_models_that_cannot_be_used(small: SentenceTransformer, tmp_path: Path) -> None:
    """Anything that gives no SentenceTransformer is refused, with what would do."""
    for spec in (None, 3, object(), [small], b"offline"):
        with pytest.raises(ConfigError, match="SentenceTransformer"):
            SafeEncoder(spec)
    for loader in (lambda: None, lambda: "offline", lambda: small[0]):
        with pytest.raises(ConfigError, match="loader"):
            SafeEncoder(loader)
    with pytest.raises(ZeroDivisionError):
        SafeEncoder(lambda: 1 / 0)
    with pytest.raises((OSError, ValueError)):  # upstream's own, unwrapped
        SafeEncoder(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "options",
    [
        {"on_long": "drop"},
        {"on_long": None},
        {"chunks": "sentences"},
        {"pooling": None},
        {"max_batch_tokens": 0},
        {"on_long": "truncate", "chunks": "spans"},
        {"chunk_size": 100},
        {"device": "cpu"},
    ],
    ids=str,
)
def test_options_that_cannot_work(options: dict[str, Any]) -> None:
    """Bad settings, and options for a model that is not loaded here: refused, nothing is loaded."""
    with pytest.raises(ConfigError, match=next(iter(options))):
        SafeEncoder(lambda: pytest.fail("the model was loaded"), **options)


def test_options_of_a_model_loaded_by_name(tmp_path: Path) -> None:
    """Options go on to SentenceTransformer; unknown ones are refused."""
    models.small().save(str(tmp_path))
    with SafeEncoder(tmp_path, device="cpu", prompts={"query": "q: "}) as encoder:
        assert "q: " == encoder.prompts["query"]
        assert (1, 32) == encoder.encode(["雨"]).shape
    with pytest.raises(ConfigError, match="colour"):
        SafeEncoder(tmp_path, colour="red")


def test_loader_function(small: SentenceTransformer) -> None:
    """A function without arguments may load the model, on the encoder's own thread."""
    threads: list[str] = []

    def load() -> SentenceTransformer:
        threads.append(threading.current_thread().name)
        return models.small()

    with SafeEncoder(load) as encoder:
        close(small.encode(["雨", "雪"]), encoder.encode(["雨", "雪"]))
    assert 1 == len(threads)
    assert threads[0].startswith("safe_embed")


# Threads and the end


def test_eight_threads_at_once(encoder: SafeEncoder) -> None:
    """Eight threads call at once with texts of their own; every result is the right one."""
    texts = [
        [f"{n}と{k}の雨。" * (1 + k) for k in range(5)] + [models.long_text(6, n)] for n in range(8)
    ]
    expected = [encoder.encode(mine) for mine in texts]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for one, other in zip(expected, pool.map(encoder.encode, texts), strict=True):
                np.testing.assert_array_equal(one, other)


def test_a_model_shared_with_another_thread(upstream: SentenceTransformer) -> None:
    """Upstream's own encode may run on the same model at the same time: nothing is cut for it."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def disturb() -> None:
        try:
            while not stop.is_set():
                upstream.encode([LONG, "雨", "検索 " * 100], show_progress_bar=False)
                upstream.tokenizer(["雨や雪"] * 4, truncation=True, max_length=5, padding=True)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    with SafeEncoder(upstream) as encoder:
        texts = [models.long_text(8, start) for start in range(0, 80, 8)] + ["雨。" * 10]
        expected = encoder.encode(texts)
        plans = [plan.spans for plan in encoder.plan(texts)]
        thread = threading.Thread(target=disturb)
        thread.start()
        try:
            for _ in range(15):
                close(expected, encoder.encode(texts))
                assert plans == [plan.spans for plan in encoder.plan(texts)]
        finally:
            stop.set()
            thread.join()
    assert [] == failures


def test_closed(small: SentenceTransformer) -> None:
    """A closed encoder says so, whatever is asked of it; closing twice is nothing."""
    encoder = SafeEncoder(small)
    encoder.close()
    encoder.close()
    calls: list[Callable[[], Any]] = [
        lambda: encoder.encode("雨"),
        lambda: encoder.encode([]),
        lambda: encoder.encode_query("雨"),
        lambda: encoder.encode_document("雨"),
        lambda: encoder.encode_chunks("雨"),
        lambda: encoder.encode_stream(["雨"]),
        lambda: encoder.plan("雨"),
        lambda: encoder.max_seq_length,
        lambda: encoder.tokenizer,
        lambda: encoder.prompts,
        lambda: encoder.device,
        encoder.get_embedding_dimension,
    ]
    for call in calls:
        with pytest.raises(WorkerError, match="closed"):
            call()
    with SafeEncoder(small) as other:
        stream = other.encode_stream(["雨"] * 3)
    with pytest.raises(WorkerError, match="closed"):
        next(stream)


def test_closing_ends_the_thread_and_drops_the_model() -> None:
    """After close, also after a construction that failed, no thread of the encoder is left."""
    others = _threads()
    model = models.small()
    gone = weakref.ref(model)
    encoder = SafeEncoder(model)
    assert 1 == len(_threads() - others)
    with encoder:
        del model
    del encoder
    gc.collect()
    assert gone() is None
    with pytest.raises(ZeroDivisionError):
        SafeEncoder(lambda: 1 / 0)
    assert others == _threads()


def _threads() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name.startswith("safe_embed")}


def test_calls_under_way_when_the_encoder_is_closed(small: SentenceTransformer) -> None:
    """Each call gets its whole result or a WorkerError; none hangs."""
    encoder = SafeEncoder(small)
    expected = encoder.encode(MIXED)

    def call(_: int) -> Any:
        try:
            return encoder.encode(MIXED)
        except WorkerError:
            return None

    with ThreadPoolExecutor(8) as pool:
        results = pool.map(call, range(40))
        encoder.close()
        for found in results:
            if found is not None:
                np.testing.assert_array_equal(expected, found)


# Nobody's text in messages


def test_no_text_of_the_user_in_messages(
    small: SentenceTransformer, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong, no exception and no log record holds a user's text."""
    caplog.set_level(logging.DEBUG)
    secret = f"{PLANTED}。{LONG}"
    failing: list[tuple[dict[str, Any], Callable[[SafeEncoder], Any]]] = [
        ({}, lambda one: one.encode([secret + "\ud800"])),
        ({}, lambda one: one.encode([(secret, secret)])),
        ({}, lambda one: one.encode({"text": secret})),
        ({}, lambda one: one.encode([secret.encode()])),
        ({}, lambda one: one.encode(secret, output_value=None)),
        ({}, lambda one: one.encode(secret, prompt=secret)),
        ({}, lambda one: one.encode(secret, precision="int4")),
        ({}, lambda one: one.encode(secret, colour=secret)),
        ({}, lambda one: one.encode([secret, secret], batch_size=0)),
        ({}, lambda one: list(one.encode_stream([secret, None]))),
        ({"on_long": "error"}, lambda one: one.encode([secret, "雨"])),
        ({"on_long": "error"}, lambda one: list(one.encode_stream([secret]))),
        ({"max_chunk_tokens": 3}, lambda one: one.encode(PLANTED + "👨\u200d👩\u200d👧")),
        ({"splitter": lambda text: [text[::-1]]}, lambda one: one.encode(secret)),
        ({"splitter": lambda text: [(5, 2)]}, lambda one: one.encode(secret)),
        ({"splitter": models.ByteSplitter(-1)}, lambda one: one.encode(secret)),
        ({"pooling": lambda vectors, counts: vectors}, lambda one: one.encode(secret)),
    ]
    for options, call in failing:
        with SafeEncoder(small, **options) as encoder:
            with pytest.raises((ValueError, TypeError)) as caught:
                call(encoder)
            error: BaseException | None = caught.value
            while error is not None:
                assert "合言葉" not in f"{error}{error!r}"
                error = error.__cause__ or error.__context__
    with SafeEncoder(small, on_long="truncate") as encoder:
        encoder.encode([secret, "雨"])
        encoder.encode([secret, "雨"], prompt=PLANTED, prompt_name="query")
    assert caplog.records
    assert not [record for record in caplog.records if "合言葉" in record.getMessage()]
