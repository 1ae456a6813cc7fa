"""SafeEncoder against sentence-transformers itself: same model, same texts, same call."""

from __future__ import annotations

import inspect
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

import models
from safe_embed import SafeEncoder
from safe_embed.errors import ConfigError, InvalidTextError, TextTooLongError
from safe_embed.validation import check_texts
from safe_embed.vectors import quantize

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

pytestmark = pytest.mark.model

# None of these fills the 64 tokens that the model reads.
TEXTS = [
    "今日は雨です。",
    "",
    "東京都の人口は1,400万人です。",
    "え？",
    "  前後に空白  ",
    "Dr. Smith came.",
    "👨\u200d👩\u200d👧と猫",
]
FORMS = [
    {},
    {"convert_to_tensor": True},
    {"convert_to_numpy": False},
    {"convert_to_numpy": False, "convert_to_tensor": True},
]
INPUTS = {
    "str": "今日は雨です。",
    "list": TEXTS,
    "tuple": tuple(TEXTS),
    "array of str": np.array(TEXTS),
    "array of objects": np.array(TEXTS, dtype=object),
    "list of numpy strings": list(np.array(TEXTS)),
    "one in a list": ["雨"],
    "nothing": [],
    "no characters": "",
    "no characters in a list": [""],
    "blank": "\u3000 \n",
    "twins": ["雨", "雨", "雨"],
}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "Normalize"])
def upstream(request: pytest.FixtureRequest, offline_model_path: Path) -> SentenceTransformer:
    """A random BERT, without and with Normalize at its end."""
    return models.tiny(offline_model_path, normalize=request.param)


@pytest.fixture(scope="module")
def ours(upstream: SentenceTransformer) -> Iterator[SafeEncoder]:
    """The same model in a SafeEncoder."""
    # Nothing about memory is to stand in the log of a test.
    with SafeEncoder(upstream, reload=None) as encoder:
        yield encoder


def pair(**options: Any) -> tuple[SentenceTransformer, SafeEncoder]:
    """Make a model that a test may change, and an encoder around it."""
    model = models.small(**options)
    return model, SafeEncoder(model)


def same(expected: Any, actual: Any, *, tolerance: float = 1e-6) -> None:
    """Compare kind, shape, dtype, device and values."""
    import torch

    assert type(expected) is type(actual)
    if isinstance(expected, list):
        assert len(expected) == len(actual)
        for one, other in zip(expected, actual, strict=True):
            same(one, other, tolerance=tolerance)
    elif isinstance(expected, dict):
        assert expected.keys() == actual.keys()
        for name, one in expected.items():
            same(one, actual[name], tolerance=tolerance)
    elif isinstance(expected, torch.Tensor):
        assert expected.device == actual.device
        assert expected.dtype == actual.dtype
        same(expected.float().numpy(), actual.float().numpy(), tolerance=tolerance)
    elif isinstance(expected, np.ndarray):
        assert expected.shape == actual.shape
        assert expected.dtype == actual.dtype
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=tolerance)
    else:
        assert expected == actual


@pytest.mark.parametrize("name", ["encode", "encode_query", "encode_document"])
def test_signature(name: str) -> None:
    """Names, order, kinds and defaults of all parameters are those of the installed upstream."""
    from sentence_transformers import SentenceTransformer

    expected = list(inspect.signature(getattr(SentenceTransformer, name)).parameters.values())
    actual = list(inspect.signature(getattr(SafeEncoder, name)).parameters.values())
    assert ("inputs" if models.UPSTREAM >= 6 else "sentences") == expected[1].name
    assert "inputs" == actual[1].name
    assert expected[1].kind == actual[1].kind
    assert expected[1].default == actual[1].default
    for one, other in zip(expected[2:], actual[2:], strict=True):
        assert (one.name, one.kind, one.default) == (other.name, other.kind, other.default)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("kind", INPUTS)
def test_inputs_and_forms(
    upstream: SentenceTransformer, ours: SafeEncoder, kind: str, form: dict[str, Any]
) -> None:
    """Every kind of input gives upstream's type, shape, dtype and values, in every form."""
    same(upstream.encode(INPUTS[kind], **form), ours.encode(INPUTS[kind], **form))


@pytest.mark.parametrize("name", ["encode_query", "encode_document"])
@pytest.mark.parametrize("kind", ["str", "list", "nothing"])
def test_query_and_document(
    upstream: SentenceTransformer, ours: SafeEncoder, kind: str, name: str
) -> None:
    """The query prompt, and the first document prompt that the model has, are upstream's."""
    texts = INPUTS[kind]
    same(getattr(upstream, name)(texts), getattr(ours, name)(texts))
    plain, chosen = getattr(ours, name)("雨", prompt_name="plain"), getattr(ours, name)("雨")
    assert not np.allclose(plain, chosen, atol=1e-3)


@pytest.mark.parametrize(
    "options", [{"prompt": "前置き: "}, {"prompt": ""}, {"prompt_name": "query"}]
)
@pytest.mark.parametrize("name", ["encode", "encode_query", "encode_document"])
def test_prompt_of_the_caller(
    upstream: SentenceTransformer, ours: SafeEncoder, name: str, options: dict[str, Any]
) -> None:
    """A prompt or its name goes in front of each text, whichever method is called."""
    same(getattr(upstream, name)(TEXTS, **options), getattr(ours, name)(TEXTS, **options))


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize(
    "options",
    [
        {"truncate_dim": 8},
        {"normalize_embeddings": True},
        {"truncate_dim": 8, "normalize_embeddings": True},
        {"truncate_dim": 99},
    ],
    ids=str,
)
def test_dimension_and_length(
    upstream: SentenceTransformer, ours: SafeEncoder, options: dict[str, Any], form: dict[str, Any]
) -> None:
    """Vectors are cut first and normalised last, in every form."""
    same(upstream.encode(TEXTS, **options, **form), ours.encode(TEXTS, **options, **form))
    if options.get("normalize_embeddings"):
        norms = np.linalg.norm(ours.encode(TEXTS, **options), axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-6)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("precision", [None, "float32", "int8", "uint8", "binary", "ubinary"])
def test_precision(
    upstream: SentenceTransformer, ours: SafeEncoder, precision: Any, form: dict[str, Any]
) -> None:
    """Each precision gives upstream's levels and bits, of vectors cut and normalised before."""
    for options in ({}, {"truncate_dim": 16, "normalize_embeddings": True}):
        arguments = {"precision": precision, **options, **form}
        expected, actual = upstream.encode(TEXTS, **arguments), ours.encode(TEXTS, **arguments)
        # Values on the edge of a level: the last bit of a float decides. Below zero
        # sentence-transformers 5 rounds levels up, not down.
        same(expected, actual, tolerance=1 if precision in ("int8", "uint8") else 1e-6)
        if models.UPSTREAM >= 6 and precision in ("int8", "uint8"):
            levels = [np.array([np.asarray(row) for row in found]) for found in (expected, actual)]
            assert (levels[0] != levels[1]).mean() < 0.02


@pytest.mark.parametrize("precision", ["binary", "ubinary"])
def test_precision_of_a_single_text(
    upstream: SentenceTransformer, ours: SafeEncoder, precision: Any
) -> None:
    """Bits need no neighbours: a str gives one row of them."""
    same(upstream.encode("雨です", precision=precision), ours.encode("雨です", precision=precision))


@pytest.mark.parametrize("precision", ["int8", "uint8"])
@pytest.mark.parametrize("texts", ["雨です", ["雨です"]], ids=["str", "list"])
def test_one_text_has_no_range(
    upstream: SentenceTransformer, ours: SafeEncoder, precision: Any, texts: Any
) -> None:
    """One text alone cannot be calibrated on: refused, as sentence-transformers 6 does."""
    with pytest.raises(ConfigError, match="ranges"):
        ours.encode(texts, precision=precision)
    if models.UPSTREAM >= 6:
        with pytest.raises(ValueError, match="single embedding"):
            upstream.encode(texts, precision=precision)
    assert ours.encode([], precision=precision).shape == (0,)


@pytest.mark.parametrize("precision", ["int8", "uint8"])
def test_levels(precision: Any) -> None:
    """A dimension in which all texts agree has the lowest level, not what NaN happens to be."""
    from sentence_transformers import quantize_embeddings

    vectors = np.random.default_rng(1).standard_normal((50, 8)).astype(np.float32)
    vectors[:, 3] = 0.5
    actual = quantize(vectors, precision)
    assert (actual[:, 3] == np.iinfo(actual.dtype).min).all()
    if models.UPSTREAM >= 6:
        same(quantize_embeddings(vectors, precision), actual)
    ranges = np.array([[-1.0] * 8, [1.0] * 8], dtype=np.float32)
    outside = quantize(vectors * 9, precision, ranges)
    kind = np.iinfo(outside.dtype)
    expected = np.where(vectors < 0, kind.min, kind.max)
    assert (expected == outside)[np.abs(vectors) > 0.2].all()


@pytest.mark.parametrize("output_value", ["token_embeddings", None])
@pytest.mark.parametrize("kind", ["str", "list", "nothing", "no characters in a list"])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_raw_outputs(
    upstream: SentenceTransformer, ours: SafeEncoder, kind: str, output_value: Any, form: Any
) -> None:
    """Token embeddings and all outputs come as upstream gives them."""
    arguments = {"output_value": output_value, "prompt_name": "query", **form}
    expected = upstream.encode(INPUTS[kind], **arguments)
    same(expected, ours.encode(INPUTS[kind], **arguments))


def test_raw_outputs_of_long_texts(ours: SafeEncoder) -> None:
    """Long texts have no tokens in common to give: refused, and every one of them is named."""
    texts = ["雨", models.long_text(), "雪", models.long_text()]
    for output_value in ("token_embeddings", None):
        with pytest.raises(TextTooLongError) as caught:
            ours.encode(texts, output_value=output_value)
        assert (1, 3) == caught.value.indices
    with pytest.raises(ConfigError, match="output_value"):
        ours.encode("雨", output_value="sentence")


@pytest.mark.parametrize(
    "arguments",
    [
        {"prompt_name": "nowhere"},
        {"precision": "int4"},
        {"colour": "red"},
        {"batch_size": 0},
        {"batch_size": -1},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["encode", "encode_query", "encode_document"])
def test_bad_arguments(
    upstream: SentenceTransformer, ours: SafeEncoder, arguments: dict[str, Any], name: str
) -> None:
    """What upstream refuses with ValueError is a ConfigError here, which is a ValueError too."""
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        getattr(ours, name)("雨", **arguments)
    if models.UPSTREAM >= 6 or "batch_size" not in arguments:
        with pytest.raises(ValueError):  # noqa: PT011
            getattr(upstream, name)("雨", **arguments)


@pytest.mark.parametrize(
    "inputs", [None, 3, object(), [None], [3]], ids=["None", "int", "object", "[None]", "[int]"]
)
def test_no_texts(upstream: SentenceTransformer, ours: SafeEncoder, inputs: Any) -> None:
    """What is no text is refused with ValueError, as sentence-transformers 6 does."""
    with pytest.raises(InvalidTextError):
        ours.encode(inputs)
    if models.UPSTREAM >= 6:
        with pytest.raises(ValueError):  # noqa: PT011
            upstream.encode(inputs)


@pytest.mark.parametrize(
    ("inputs", "index"),
    [
        (b"abc", None),
        ([b"abc"], 0),
        (bytearray(b"abc"), None),
        ({"text": "雨"}, None),
        (["雨", {"text": "雨"}], 1),
        ([("質問", "答え")], 0),
        ([["質問", "答え"]], 0),
        (["雨", float("nan")], 1),
        (pd.Series(["雨", None]), 1),
        (pd.Series(["雨", pd.NA]), 1),
        (pd.DataFrame({"text": ["雨"]}), None),
        (np.zeros((3, 4, 4)), None),
        ([np.zeros((3, 4, 4))], 0),
        (np.array("雨"), None),
        (np.array([["雨"]]), None),
        (["雨", "雪", "\ud800"], 2),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("name", ["encode", "encode_query", "encode_chunks", "plan"])
def test_refused_on_purpose(ours: SafeEncoder, name: str, inputs: Any, index: int | None) -> None:
    """Bytes, pairs, dicts, images, missing values: refused, and the input is named."""
    with pytest.raises(InvalidTextError) as caught:
        getattr(ours, name)(inputs)
    assert index == caught.value.index


def test_surrogate_has_a_position(ours: SafeEncoder) -> None:
    """Half a character is refused with its place, in a single text too."""
    with pytest.raises(InvalidTextError) as caught:
        ours.encode(["雨", "あ\udc00い"])
    assert (1, 1) == (caught.value.index, caught.value.position)
    with pytest.raises(InvalidTextError) as caught:
        ours.encode("あい\ud83d")
    assert 2 == caught.value.position


@pytest.mark.parametrize(
    "make",
    [
        lambda texts: (text for text in texts),
        lambda texts: pd.Series(texts, index=range(7, 7 + len(texts))),
        lambda texts: pd.Series(texts, dtype="string"),
        lambda texts: dict.fromkeys(texts).keys(),
        lambda texts: io.StringIO("\n".join(texts)),
    ],
    ids=["generator", "Series", "string Series", "keys", "file"],
)
def test_welcome_on_purpose(ours: SafeEncoder, make: Callable[[list[str]], Any]) -> None:
    """Anything that gives texts in order is as good as a list, where upstream wants a sequence."""
    expected = [text for text in make(TEXTS)]  # noqa: C416
    np.testing.assert_array_equal(ours.encode(expected), ours.encode(make(TEXTS)))
    assert (expected, False) == check_texts(make(TEXTS))


def test_processing_kwargs_are_refused(ours: SafeEncoder) -> None:
    """Upstream 6 lets a call change how its tokenizer truncates; here nothing is truncated."""
    with pytest.raises(ConfigError, match="processing_kwargs"):
        ours.encode("雨", processing_kwargs={"text": {"max_length": 8}})


def test_sentences_is_an_old_name(ours: SafeEncoder) -> None:
    """The name of the first argument in sentence-transformers 5 works, without a warning."""
    for method in (ours.encode, ours.encode_query, ours.encode_document):
        np.testing.assert_array_equal(method(TEXTS), method(sentences=TEXTS))
    with pytest.raises(TypeError):
        ours.encode()  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="sentences"):
        ours.encode("雨", sentences="雪")


def test_prompt_wins_over_its_name(
    upstream: SentenceTransformer, ours: SafeEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    """Given both, the prompt is used, and a warning says so."""
    both = {"prompt": "前置き: ", "prompt_name": "query"}
    expected = upstream.encode(TEXTS, **both)
    caplog.clear()
    same(expected, ours.encode(TEXTS, **both))
    assert [("safe_embed", logging.WARNING)] == [(r.name, r.levelno) for r in caplog.records]
    assert not np.allclose(expected, upstream.encode(TEXTS, prompt_name="query"), atol=1e-3)


def test_progress_bar(
    ours: SafeEncoder, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar is upstream's, "Batches"; unasked it is drawn if the logger is at INFO or DEBUG."""
    for level, asked, drawn in (
        (logging.WARNING, None, False),
        (logging.WARNING, True, True),
        (logging.INFO, None, True),
        (logging.DEBUG, None, True),
        (logging.DEBUG, False, False),
    ):
        with caplog.at_level(level, logger="safe_embed"):
            ours.encode(TEXTS, show_progress_bar=asked)
        assert drawn == ("Batches" in capsys.readouterr().err)


def test_device(upstream: SentenceTransformer, ours: SafeEncoder) -> None:
    """A device by name or by value; the encoder tells where its model is, and of what type."""
    import torch

    expected = upstream.encode(TEXTS, device="cpu")
    for device in ("cpu", torch.device("cpu"), []):
        same(expected, ours.encode(TEXTS, device=device))
    assert upstream.device == ours.device
    assert upstream.dtype == ours.dtype == torch.float32
    with pytest.raises((RuntimeError, AssertionError)):  # upstream's own, unwrapped
        ours.encode(TEXTS, device="cuda:99")


@pytest.mark.parametrize("batch_size", [1, 3, 1000, np.int64(4)])
def test_batch_size(upstream: SentenceTransformer, ours: SafeEncoder, batch_size: int) -> None:
    """Batches may be as small or as large as they like."""
    expected = upstream.encode(TEXTS, batch_size=batch_size)
    same(expected, ours.encode(TEXTS, batch_size=batch_size))


def test_similarity(upstream: SentenceTransformer, ours: SafeEncoder) -> None:
    """Similarities are upstream's, of arrays and of tensors."""
    vectors = ours.encode(TEXTS)
    tensors = ours.encode(TEXTS, convert_to_tensor=True)
    for one in (vectors, tensors):
        same(upstream.similarity(one, one[:2]), ours.similarity(one, one[:2]))
        same(upstream.similarity_pairwise(one, one), ours.similarity_pairwise(one, one))
    assert (len(TEXTS), 2) == tuple(ours.similarity(vectors, vectors[:2]).shape)


def test_dimension(upstream: SentenceTransformer, ours: SafeEncoder) -> None:
    """The dimension by both names; fewer inside truncate_embeddings, whatever happens there."""
    assert 32 == ours.get_embedding_dimension() == ours.get_sentence_embedding_dimension()
    with ours.truncate_embeddings(8):
        assert 8 == ours.get_embedding_dimension()
        same(upstream.encode(TEXTS, truncate_dim=8), ours.encode(TEXTS))
    with pytest.raises(InvalidTextError), ours.truncate_embeddings(8):
        ours.encode(None)
    assert ours.truncate_dim is None
    with ours.truncate_sentence_embeddings(4):
        assert (4,) == ours.encode("雨").shape
    assert (32,) == ours.encode("雨").shape


def test_settings_can_be_changed_later() -> None:
    """Limits, prompts, dimension and similarity are set on either, and hold for both."""
    upstream, ours = pair(prompts={"query": "検索クエリ: ", "document": "検索文書: "})
    ours.max_seq_length = 16
    assert 16 == upstream.max_seq_length == ours.max_seq_length == ours.get_max_seq_length()
    assert all(count <= 16 for count in ours.plan(models.long_text())[0].token_counts)
    upstream.max_seq_length = 48
    assert 16 < max(ours.plan(models.long_text())[0].token_counts) <= 48
    with pytest.raises(ConfigError, match="max_seq_length"):
        ours.max_seq_length = 0

    ours.prompts = {"query": "q: ", "new": "新しい: "}
    assert upstream.prompts == ours.prompts
    same(upstream.encode("雨", prompt_name="new"), ours.encode("雨", prompt_name="new"))
    same(upstream.encode("雨", prompt="新しい: "), ours.encode("雨", prompt_name="new"))
    ours.prompts["newer"] = "もっと: "
    same(upstream.encode("雨", prompt="もっと: "), ours.encode("雨", prompt_name="newer"))
    same(upstream.encode_document("雨"), ours.encode_document("雨"))

    ours.default_prompt_name = "new"
    assert "new" == upstream.default_prompt_name == ours.default_prompt_name
    same(upstream.encode(TEXTS), ours.encode(TEXTS))
    same(upstream.encode("雨", prompt="新しい: "), ours.encode("雨"))
    same(upstream.encode("雨", prompt=""), ours.encode("雨", prompt=""))
    same(upstream.encode_query("雨"), ours.encode_query("雨"))
    with pytest.raises(ConfigError, match="nowhere"):
        ours.default_prompt_name = "nowhere"
    ours.default_prompt_name = None

    ours.truncate_dim = 8
    assert 8 == upstream.truncate_dim == ours.get_embedding_dimension()
    same(upstream.encode(TEXTS), ours.encode(TEXTS))
    same(upstream.encode(TEXTS, truncate_dim=4), ours.encode(TEXTS, truncate_dim=4))

    assert "cosine" == ours.similarity_fn_name
    ours.similarity_fn_name = "dot"
    assert "dot" == upstream.similarity_fn_name == ours.similarity_fn_name
    vectors = ours.encode(TEXTS)
    np.testing.assert_allclose(ours.similarity(vectors, vectors), vectors @ vectors.T, rtol=1e-5)
    ours.close()


def test_default_prompt_of_the_model() -> None:
    """A prompt that the model itself names as default goes in front, in chunks of long texts too."""
    upstream, ours = pair(prompts={"document": "検索文書: "}, default_prompt_name="document")
    same(upstream.encode(TEXTS), ours.encode(TEXTS))
    long = models.long_text()
    np.testing.assert_array_equal(ours.encode(long, prompt="検索文書: "), ours.encode(long))


def test_bfloat16() -> None:
    """A bfloat16 model: arrays are float32, tensors bfloat16, vectors point where upstream's do."""
    upstream, ours = pair()
    upstream.bfloat16()
    for kind in ("str", "list", "nothing", "no characters"):
        for form in FORMS:
            expected, actual = (
                upstream.encode(INPUTS[kind], **form),
                ours.encode(INPUTS[kind], **form),
            )
            same(expected, actual, tolerance=0.05)
    cosines = ours.similarity_pairwise(upstream.encode(TEXTS), ours.encode(TEXTS))
    assert cosines.min() >= 0.9999
    assert np.float32 == ours.encode_chunks(models.long_text())[0].vectors.dtype


@pytest.mark.parametrize("mode", ["lasttoken", "cls", "max", "mean"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_side(side: str, mode: str) -> None:
    """Tokenizers that pad on the left give the same vectors, whatever pools the tokens."""
    upstream, _ = pair(pooling={"pooling_mode": mode})
    upstream.tokenizer.padding_side = side
    with SafeEncoder(upstream) as ours:
        same(upstream.encode(TEXTS, prompt="前: "), ours.encode(TEXTS, prompt="前: "))
        same(
            upstream.encode(TEXTS, output_value="token_embeddings"),
            ours.encode(TEXTS, output_value="token_embeddings"),
        )


@pytest.mark.parametrize("prompt", ["", "検索クエリ: ", "命令。", " "])
def test_prompt_left_out_of_pooling(prompt: str) -> None:
    """INSTRUCTOR models do not pool the prompt's tokens, in no chunk of a text."""
    upstream, ours = pair(pooling={"include_prompt": False})
    same(upstream.encode(TEXTS, prompt=prompt), ours.encode(TEXTS, prompt=prompt))
    text = models.long_text()
    [found] = ours.encode_chunks(text, prompt=prompt)
    pieces = [text[start:end].strip() for start, end in found.spans]
    assert len(pieces) > 2
    same(upstream.encode(pieces, prompt=prompt), found.vectors)
    if prompt.strip():
        with_prompt, _ = pair()
        assert not np.allclose(
            with_prompt.encode(TEXTS, prompt=prompt), ours.encode(TEXTS, prompt=prompt), atol=1e-3
        )


def test_processes_of_upstream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream's own processes embed the chunks of long texts; the vectors are the same."""
    upstream, ours = pair()
    texts = [*TEXTS, models.long_text(), "雪"]
    pool = ours.start_multi_process_pool(["cpu"])
    asked: list[Any] = []
    try:
        given = {"pool": pool, "chunk_size": 4}
        same(ours.encode(texts), ours.encode(texts, **given))
        same(ours.encode(texts, prompt="前: "), ours.encode(texts, prompt="前: ", **given))
        same(ours.encode(""), ours.encode("", **given))
        assert (0,) == ours.encode([], **given).shape
        small = {"truncate_dim": 8, "normalize_embeddings": True}
        same(ours.encode(texts, **small), ours.encode(texts, **small, **given))
        with SafeEncoder(upstream, on_long="truncate", max_chunk_tokens=24) as cutting:
            same(cutting.encode(texts), cutting.encode(texts, **given))
        # A list of devices starts processes for the call; these here are lent to it.
        monkeypatch.setattr(
            upstream, "start_multi_process_pool", lambda on: asked.append(on) or pool
        )
        monkeypatch.setattr(upstream, "stop_multi_process_pool", lambda lent: asked.append("stop"))
        same(ours.encode(texts), ours.encode(texts, device=["cpu", "cpu"]))
        same(
            ours.encode_chunks(texts)[-2].vectors,
            ours.encode_chunks(texts, device=["cpu"])[-2].vectors,
        )
        assert [["cpu", "cpu"], "stop", ["cpu"], "stop"] == asked
    finally:
        ours.stop_multi_process_pool(pool)


def test_tokenizer_is_a_copy(ours: SafeEncoder) -> None:
    """The tokenizer that a user gets counts as the encoder does, and is nobody else's."""
    tokenizer = ours.tokenizer
    assert tokenizer is not ours.tokenizer
    assert (
        len(tokenizer("今日は雨です。")["input_ids"])
        == ours.plan("今日は雨です。")[0].token_counts[0]
    )


def test_router_is_refused() -> None:
    """A Router has several tokenizers and shows one: its input cannot be counted."""
    from sentence_transformers import SentenceTransformer

    if models.UPSTREAM >= 6:
        from sentence_transformers.base.modules import Router
    else:
        from sentence_transformers.models import Router
    upstream, _ = pair()
    router = Router.for_query_document([models.static()[0]], list(upstream))
    with pytest.raises(ConfigError, match="Router"):
        SafeEncoder(SentenceTransformer(modules=[router], device="cpu"))
