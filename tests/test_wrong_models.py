"""A model of a wrong kind is named, with its right use, before anything is loaded or computed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import models
from safe_embed import SafeEncoder
from safe_embed.errors import ConfigError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@cache
def cross_encoder() -> Any:
    """A real CrossEncoder."""
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(models.small_folder()), num_labels=1, device="cpu")


def sparse_encoder() -> Any:
    """A real SparseEncoder, though of modules that are not."""
    from sentence_transformers import SparseEncoder

    return SparseEncoder(modules=list(models.small()), device="cpu")


def auto_model() -> Any:
    """A real model of transformers."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(models.small_folder())


def pipeline() -> Any:
    """A real pipeline of transformers."""
    from transformers import pipeline

    small = models.small()
    inner = small[0].auto_model
    return pipeline("feature-extraction", model=inner, tokenizer=small.tokenizer, device="cpu")


def torch_module() -> Any:
    """A module of torch, in a class of a user's own."""
    import torch

    class Mine(torch.nn.Sequential):
        pass

    return Mine(torch.nn.Linear(2, 2))


def safe_encoder() -> Any:
    """A SafeEncoder, which is closed: nothing is asked of it."""
    with SafeEncoder(models.small()) as found:
        return found


# What makes it, its type in the message, and a word of its right use in either language.
WRONG: dict[str, tuple[Callable[[], Any], str, str, str]] = {
    "CrossEncoder": (cross_encoder, "CrossEncoder", "CrossEncoder.predict", "並べ替え"),
    "SparseEncoder": (sparse_encoder, "SparseEncoder", "sparse", "疎"),
    "AutoModel": (auto_model, "BertModel", "SentenceTransformer(modules=[", "モデル名"),
    "torch": (torch_module, "Mine", "SentenceTransformer(modules=[", "モデル名"),
    "Transformer": (lambda: models.small()[0], "Transformer", "modules=[", "モデル名"),
    "Pooling": (lambda: models.small()[1], "Pooling", "modules=[", "モデル名"),
    "tokenizer": (lambda: models.small().tokenizer, "Tokenizer", "tokenizer", "トークナイザー"),
    "slow": (lambda: models.bert_japanese().tokenizer, "BertJapanese", "tokenizer", "モデル名"),
    "Rust": (models.unigram, "Tokenizer", "tokenizer", "トークナイザー"),
    "pipeline": (pipeline, "FeatureExtractionPipeline", "pipeline", "パイプライン"),
    "SafeEncoder": (safe_encoder, "SafeEncoder", "Use it directly", "そのまま"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("isolation", ["none", "process"])
def test_a_wrong_kind_of_model_is_named_with_its_use(kind: str, isolation: Any) -> None:
    """Given as the model, it is refused by its type, in both languages, and is not called."""
    make, name, use, japanese = WRONG[kind]
    with pytest.raises(ConfigError) as caught:
        SafeEncoder(make(), isolation=isolation)
    message = str(caught.value)
    assert message.startswith("model is a")
    assert all(word in message for word in (name, use, japanese)), message
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("kind", WRONG)
def test_a_loader_that_gives_a_wrong_kind_is_told_so(kind: str) -> None:
    """What a loader gives is named as well."""
    make, name, use, japanese = WRONG[kind]
    wrong = make()
    with pytest.raises(ConfigError, match="The loader returned a") as caught:
        SafeEncoder(lambda: wrong)
    assert all(word in str(caught.value) for word in (name, use, japanese))


def wrong_classes() -> dict[str, Any]:
    """Classes that were not called."""
    import torch
    from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
    from transformers import AutoModel, AutoTokenizer, BertModel

    found = (CrossEncoder, SentenceTransformer, SparseEncoder, AutoModel, AutoTokenizer, BertModel)
    return {one.__name__: one for one in (*found, torch.nn.Linear, SafeEncoder)}


@pytest.mark.parametrize("name", sorted(wrong_classes()))
def test_a_class_is_no_model(name: str) -> None:
    """A class that was not called is named as a class, as the model and from a loader."""
    wrong = wrong_classes()[name]
    with pytest.raises(ConfigError, match=f"model is the class {name}"):
        SafeEncoder(wrong)
    with pytest.raises(ConfigError, match=f"The loader returned the class {name}"):
        SafeEncoder(lambda: wrong)


@pytest.mark.parametrize("wrong", [None, 3, "秘密/名前", b"bytes", [], object()])
def test_a_loader_that_gives_no_model_is_told_what_to_give(wrong: object) -> None:
    """Whatever else a loader gives is named by its type alone."""
    with pytest.raises(
        ConfigError, match=f"The loader returned .*{type(wrong).__name__}"
    ) as caught:
        SafeEncoder(lambda: wrong)
    assert "SentenceTransformer" in str(caught.value)
    assert "ローダー" in str(caught.value)
    assert "秘密" not in str(caught.value)


def test_what_only_looks_like_a_model_is_refused() -> None:
    """An object with the methods of a SentenceTransformer is none."""
    looks = SimpleNamespace(named_modules=dict, encode=list)
    with pytest.raises(ConfigError, match=r"model is a SimpleNamespace\. Pass a"):
        SafeEncoder(looks)


def test_a_loader_that_needs_arguments_is_refused() -> None:
    """A function, class or object that cannot be called without arguments is not called at all."""

    class Mine:
        def __init__(self, name: str) -> None:
            raise AssertionError(name)

        def __call__(self, name: str) -> None:
            raise AssertionError(name)

    def load(name: str) -> None:
        raise AssertionError(name)

    for wrong in (load, Mine, object.__new__(Mine), partial(load), lambda name: name):
        with pytest.raises(ConfigError, match="without arguments") as caught:
            SafeEncoder(wrong)
        assert "引数" in str(caught.value)


class Loaders:
    """Ways to load a model that all do."""

    @classmethod
    def of_class(cls) -> SentenceTransformer:
        """Load."""
        return models.small()

    def method(self, limit: int = models.LIMIT, *_: Any, **__: Any) -> SentenceTransformer:
        """Load."""
        return models.small(limit=limit)

    __call__ = method


def own_class() -> Any:
    """A class of a user's own that is a SentenceTransformer when it is called."""
    from sentence_transformers import SentenceTransformer

    class Mine(SentenceTransformer):
        def __init__(self) -> None:
            super().__init__(modules=list(models.small()), device="cpu")

    return Mine


class CrossEncoder(Loaders):
    """A loader of a user's own under a name that upstream has too."""


LOADERS = {
    "function": models.small,
    "lambda": lambda: models.assemble(models.small_folder()),
    "partial": partial(models.small, normalize=False),
    "method": Loaders().method,
    "object": Loaders(),
    "class method": Loaders.of_class,
    "a name of upstream's": CrossEncoder(),
}


@pytest.mark.parametrize("kind", [*LOADERS, "class"])
def test_what_can_be_called_is_a_loader(kind: str) -> None:
    """Functions, lambdas, partials, methods, objects and own classes load as they did."""
    loader = own_class() if kind == "class" else LOADERS[kind]
    with SafeEncoder(loader) as encoder:
        assert (32,) == encoder.encode("猫。").shape


def test_nothing_is_imported_to_tell() -> None:
    """Types are known by the names of their classes: sentence_transformers is not loaded for that."""
    script = """
import sys
from safe_embed import SafeEncoder
from safe_embed.errors import ConfigError

def kind(name, module):
    return type(name, (), {"__module__": module, "__call__": print})

for wrong in (
    kind("CrossEncoder", "sentence_transformers.cross_encoder.model")(),
    kind("SparseEncoder", "sentence_transformers.sparse_encoder.model"),
    kind("PreTrainedModel", "transformers.modeling_utils")(),
    kind("Module", "torch.nn.modules.module")(),
):
    try:
        SafeEncoder(wrong)
    except ConfigError as error:
        print(str(error).partition(",")[0])
print(sorted({"torch", "transformers", "sentence_transformers"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    expected = [
        "model is a CrossEncoder",
        "model is the class SparseEncoder",
        "model is a PreTrainedModel",
        "model is a Module",
        "[]",
    ]
    assert (expected, "") == (done.stdout.splitlines(), done.stderr)


def folder(path: Path, **files: Any) -> Path:
    """A folder with these files of JSON and no weights: nothing may be loaded from it."""
    for name, value in files.items():
        (path / f"{name}.json").write_text(json.dumps(value))
    return path


@pytest.mark.parametrize("kind", ["CrossEncoder", "SparseEncoder", "MultiVectorEncoder", "ColBERT"])
def test_a_folder_tells_its_kind(kind: str, tmp_path: Path) -> None:
    """What sentence-transformers has written about a model is believed, before anything is loaded."""
    path = folder(tmp_path, config_sentence_transformers={"model_type": kind}, modules=[])
    for given in (path, str(path)):
        with pytest.raises(ConfigError, match=f"holds a {kind}") as caught:
            SafeEncoder(given)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("more", [{}, {"sentence_transformers": {"activation_fn": "x"}}])
def test_a_folder_of_a_classifier_is_refused(more: dict[str, Any], tmp_path: Path) -> None:
    """A classifier without modules.json is a CrossEncoder, or scores texts: upstream would pool it."""
    config = {"architectures": ["BertForSequenceClassification"], "model_type": "bert", **more}
    with pytest.raises(ConfigError, match="CrossEncoder"):
        SafeEncoder(folder(tmp_path, config=config))


def test_a_saved_cross_encoder_is_refused(tmp_path: Path) -> None:
    """The folder that a real CrossEncoder writes is known, whichever version wrote it."""
    cross_encoder().save_pretrained(str(tmp_path))
    with pytest.raises(ConfigError, match=r"CrossEncoder\.predict"):
        SafeEncoder(tmp_path)


def test_a_name_in_the_hub_s_cache_is_known(tmp_path: Path) -> None:
    """A model that was fetched before is known by its files, and by those that are known not to be."""
    cache, commit = tmp_path / "models--a--reranker", "0" * 40
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    (cache / "snapshots" / commit).mkdir(parents=True)
    (cache / ".no_exist" / commit).mkdir(parents=True)
    folder(cache / "snapshots" / commit, config={"sentence_transformers": {"activation_fn": "x"}})
    with pytest.raises(Exception, match="model_type"):  # upstream's own: there may be modules.json
        SafeEncoder("a/reranker", cache_folder=str(tmp_path))
    (cache / ".no_exist" / commit / "modules.json").touch()
    with pytest.raises(ConfigError, match="'a/reranker' holds a CrossEncoder"):
        SafeEncoder("a/reranker", cache_folder=str(tmp_path))


def test_a_model_that_was_a_classifier_once_is_welcome(tmp_path: Path) -> None:
    """With modules.json a model says itself what it is, whatever its Transformer was trained as."""
    models.small().save(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    folder(tmp_path, config={**config, "architectures": ["BertForSequenceClassification"]})
    with SafeEncoder(tmp_path) as encoder:
        assert (32,) == encoder.encode("猫。").shape


def unreadable(name: str, content: str, path: Path) -> Path:
    """The small model's folder with one broken file, which upstream must complain of."""
    models.small().save(str(path))
    (path / name).write_text(content)
    return path


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"architectures": null}'])
def test_files_that_tell_nothing_are_left_to_upstream(content: str, tmp_path: Path) -> None:
    """A file that is broken, or holds something else, decides nothing here."""
    path = unreadable("config_sentence_transformers.json", content, tmp_path)
    try:
        with SafeEncoder(path) as encoder:
            assert (32,) == encoder.encode("猫。").shape
    except ConfigError as error:
        pytest.fail(str(error))
    except Exception:  # noqa: BLE001, S110 upstream's own
        pass


def without_padding(kind: str) -> SentenceTransformer:
    """A model whose tokenizer has no padding token."""
    model = models.bert_japanese() if kind == "slow" else models.small()
    if kind == "slow":
        from copy import deepcopy

        model = deepcopy(model)
    model.tokenizer.pad_token = None
    return model


@pytest.mark.parametrize("kind", ["fast", "slow"])
def test_a_tokenizer_without_padding_is_refused_at_load(kind: str) -> None:
    """Handed over or loaded: what to type is said in both languages, before any batch."""
    model = without_padding(kind)
    for given in (model, lambda: model):
        with pytest.raises(ConfigError, match="padding token") as caught:
            SafeEncoder(given)
        message = str(caught.value)
        assert type(model.tokenizer).__name__ in message
        assert "tokenizer.pad_token = " in message
        assert "パディング" in message


def test_a_saved_tokenizer_without_padding_is_refused(tmp_path: Path) -> None:
    """In a folder too; what the message says to type helps."""
    without_padding("fast").save(str(tmp_path))
    with pytest.raises(ConfigError, match="padding token"):
        SafeEncoder(tmp_path)

    def load() -> SentenceTransformer:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(tmp_path), device="cpu")
        model.tokenizer.pad_token = model.tokenizer.eos_token
        return model

    texts = ["猫。", models.long_text(1)]
    with SafeEncoder(load) as encoder:
        expected = np.stack([load().encode(text) for text in texts])
        np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)


def test_models_that_need_no_padding_are_welcome() -> None:
    """A StaticEmbedding has no padding token, and a tokenizer may have the id alone."""
    with SafeEncoder(models.static()) as encoder:
        assert (2, 48) == encoder.encode(["猫。", "犬と猫。"]).shape
