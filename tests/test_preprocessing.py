"""What a model does to texts before its tokenizer is done to ours, or the model is refused."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import models
from safe_embed import SafeEncoder
from safe_embed.errors import ConfigError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TEXTS = [
    "ｶﾞｷﾞｸﾞ ﾊﾝｶｸ｡ ABC",
    "  空白　と改行\nの ある文。 ",
    "東京",
    "",
    "①㍿Ａ！",
    models.long_text(1),
]
LONG = models.long_text(12).replace("、", "､").replace("第", "ﾀﾞｲ")
# What Japanese fine-tunings do to texts.
CLEANERS: dict[str, Callable[[str], str]] = {
    "nfkc": lambda text: unicodedata.normalize("NFKC", text),
    "lower case": str.lower,
    "line breaks": lambda text: re.sub(r"\s+", " ", text).strip(),
    "dashes": lambda text: re.sub("[〜～ー]+", "ー", text),
    "a prefix": lambda text: "文: " + text,
    "brackets": lambda text: text.replace("（", "(").replace("第", "【第】"),
}
METHOD = "preprocess" if models.UPSTREAM >= 6 else "tokenize"


def cleaning(kind: type, clean: Callable[[str], str]) -> type:
    """A subclass of a class of sentence-transformers that cleans texts before it reads them."""

    def method(self: Any, texts: Any, *args: Any, **options: Any) -> Any:
        return getattr(super(made, self), METHOD)([clean(text) for text in texts], *args, **options)

    made = type("Cleaning", (kind,), {METHOD: method})
    return made


def with_module(clean: Callable[[str], str]) -> SentenceTransformer:
    """A model whose first module cleans texts."""
    model = models.small()
    model[0].__class__ = cleaning(type(model[0]), clean)
    return model


def with_model(clean: Callable[[str], str]) -> SentenceTransformer:
    """A model of a subclass of SentenceTransformer that cleans texts."""
    model = models.small()
    model.__class__ = cleaning(type(model), clean)
    return model


def close(expected: Any, actual: Any) -> None:
    """Compare within the tolerance that padding needs."""
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [with_module, with_model])
@pytest.mark.parametrize("name", CLEANERS)
def test_texts_are_cleaned_as_the_model_does(
    name: str, make: Callable[[Callable[[str], str]], SentenceTransformer]
) -> None:
    """Vectors are upstream's, with a prompt too; the texts of chunks are cleaned one by one."""
    model = make(CLEANERS[name])
    with SafeEncoder(model) as encoder:
        close(model.encode(TEXTS), encoder.encode(TEXTS))
        close(model.encode(TEXTS, prompt="前: Ａ"), encoder.encode(TEXTS, prompt="前: Ａ"))
        [found] = encoder.encode_chunks(LONG)
        pieces = [LONG[slice(*span)] for span in found.spans]
        assert len(pieces) > 1
        assert LONG == "".join(pieces)
        assert max(found.token_counts) <= models.LIMIT
        close(model.encode(pieces), found.vectors)


def test_the_log_names_who_cleans(caplog: pytest.LogCaptureFixture) -> None:
    """The log says which class changes texts."""
    caplog.set_level("INFO", "safe_embed")
    with SafeEncoder(with_module(CLEANERS["nfkc"])):
        assert "read through Cleaning" in caplog.text


@pytest.mark.parametrize("on_long", ["truncate", "error"])
def test_long_texts_of_a_model_that_cleans(on_long: Any) -> None:
    """What does not fit is counted after cleaning, and cut where upstream cuts."""
    model = with_module(CLEANERS["nfkc"])
    with SafeEncoder(model, on_long=on_long) as encoder:
        if on_long == "truncate":
            close(model.encode([LONG, "雨"]), encoder.encode([LONG, "雨"]))
            assert (models.LIMIT,) == encoder.plan(LONG)[0].token_counts
        else:
            with pytest.raises(ValueError, match="inputs 1"):
                encoder.encode(["雨", LONG])
        assert models.LIMIT == model.max_seq_length


def test_input_that_cannot_be_made_is_refused_by_name() -> None:
    """A module that gives the model another input is refused, and the input is named."""
    model = models.small()
    kind = type(model[0])

    def method(self: Any, texts: Any, *args: Any, **options: Any) -> Any:
        features = getattr(super(made, self), METHOD)(texts, *args, **options)
        features["language_ids"] = features["input_ids"] * 0 + 3
        return features

    made = type("Marking", (kind,), {METHOD: method})
    model[0].__class__ = made
    with pytest.raises(ConfigError, match=r"Marking .*language_ids"):
        SafeEncoder(model)


needs_6 = pytest.mark.skipif(
    models.UPSTREAM < 6, reason="sentence-transformers 5 has no settings for its processor"
)


@needs_6
@pytest.mark.parametrize(
    "settings",
    [
        {"text": {"add_special_tokens": False}},
        {"text": {"max_length": 20}},
        {"text": {"padding_side": "left"}},
        {"text": {"max_length": 20, "add_special_tokens": False}},
        {"common": {"return_token_type_ids": True}},
    ],
    ids=str,
)
def test_settings_of_the_processor_hold(settings: dict[str, Any]) -> None:
    """What a model's configuration sets for its processor decides about tokens and limit."""
    model = models.small()
    model[0].processing_kwargs = settings
    limit = settings.get("text", {}).get("max_length", models.LIMIT)
    with SafeEncoder(model) as encoder:
        # One at a time: upstream's padding on the left moves positions.
        for text in ("東京", "今日は雨。"):
            close(model.encode(text), encoder.encode(text))
        assert limit == encoder.max_seq_length
        counts = encoder.plan(models.long_text(12))[0].token_counts
        assert limit / 2 < max(counts) <= limit
    with SafeEncoder(model, on_long="truncate") as encoder:
        close(model.encode(LONG), encoder.encode(LONG))
    assert settings == model[0].processing_kwargs


@needs_6
def test_a_task_has_a_limit_of_its_own() -> None:
    """query_length and document_length bound the texts of their task."""
    model = models.small()
    model[0].query_length, model[0].document_length = 12, 40
    for method, limit in (("encode_query", 12), ("encode_document", 40), ("encode", models.LIMIT)):
        with SafeEncoder(model, on_long="truncate") as cutting:
            close(getattr(model, method)(LONG), getattr(cutting, method)(LONG))
        with (
            SafeEncoder(model, on_long="error") as refusing,
            pytest.raises(ValueError, match=f"more than the {limit} tokens"),
        ):
            getattr(refusing, method)(LONG)


@pytest.mark.parametrize("make", [models.small, models.bert_japanese])
@pytest.mark.parametrize("prompt", ["", "前置き: "])
def test_truncation_keeps_the_end_where_the_tokenizer_says_so(
    make: Callable[[], SentenceTransformer], prompt: str
) -> None:
    """With truncation_side="left" the end of a text is kept, as upstream keeps it."""
    model = make()
    before = model.tokenizer.truncation_side
    model.tokenizer.truncation_side = "left"
    try:
        with SafeEncoder(model, on_long="truncate") as encoder:
            for text in (LONG, LONG * 5, "雨。"):
                close(model.encode(text, prompt=prompt), encoder.encode(text, prompt=prompt))
            [plan] = encoder.plan(LONG, prompt=prompt)
            [span] = plan.spans
            assert plan.is_long
            assert 0 < span.start < span.end == len(LONG)
    finally:
        model.tokenizer.truncation_side = before


@pytest.mark.parametrize("pooling", ["mean", "token_weighted", "max"])
def test_a_model_in_float64_gives_float64(pooling: Any) -> None:
    """Arrays and tensors have upstream's dtype, and its digits."""
    import torch

    model = models.small().to(torch.float64)
    with SafeEncoder(model, pooling=pooling) as encoder:
        for options in ({}, {"normalize_embeddings": True}, {"truncate_dim": 8}):
            expected = model.encode(TEXTS[:3], **options)
            found = encoder.encode(TEXTS[:3], **options)
            assert np.float64 == expected.dtype == found.dtype
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
        assert torch.float64 == encoder.encode("雨", convert_to_tensor=True).dtype
        assert np.float64 == encoder.encode(LONG).dtype


def test_a_model_without_weights_of_torch_gives_tensors() -> None:
    """Another engine, such as ONNX, has no dtype: tensors have that of its vectors."""
    import torch

    model = models.small()
    kind = type(model)
    model.__class__ = type("Engine", (kind,), {"dtype": property(lambda _: None)})
    with SafeEncoder(model) as encoder:
        found = encoder.encode(TEXTS[:2], convert_to_tensor=True)
        assert torch.float32 == found.dtype
        assert encoder.dtype is None


def test_a_users_model_is_left_as_it_was() -> None:
    """While an encoder is idle, and after it, a model that was passed to it has no hooks of ours."""
    model = models.small()
    first = model[0]

    def hooks() -> int:
        return len(first._forward_pre_hooks) + len(first._forward_hooks)  # noqa: SLF001 torch has no public name

    with SafeEncoder(model) as encoder:
        encoder.encode(TEXTS)
        assert 0 == hooks()
    assert 0 == hooks()


@needs_6
def test_a_chat_template_without_modules_is_explained(tmp_path: Any) -> None:
    """The error names the chat template, and what it says to type works."""
    from sentence_transformers import SentenceTransformer

    small = models.small_folder()
    for file in small.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (tmp_path / "chat_template.jinja").write_text(template)
    try:
        is_chat = "message" in SentenceTransformer(str(tmp_path), device="cpu")[0].modality_config
    except ValueError:
        is_chat = True
    assert is_chat
    with pytest.raises(ConfigError, match="chat template") as caught:
        SafeEncoder(tmp_path)
    modules = models.upstream_modules()
    names = {
        "SentenceTransformer": SentenceTransformer,
        "Transformer": modules.Transformer,
        "Pooling": modules.Pooling,
        "SafeEncoder": SafeEncoder,
        "folder": str(tmp_path),
    }
    lines = str(caught.value).splitlines()
    code = lines[lines.index("def load():") : lines.index("encoder = SafeEncoder(load)") + 1]
    exec("\n".join(code), names)  # noqa: S102 what the message says to type
    with names["encoder"] as encoder:  # type: ignore[attr-defined]
        assert (2, 32) == encoder.encode(TEXTS[:2]).shape
