"""Adapters without their libraries: what they share, and how a missing library is named.

With the libraries they are tested by `make examples`: examples/test_adapters.py.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import pickle
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
from safe_embed import SafeEncoder
from safe_embed.errors import ConfigError, InvalidTextError, MissingExtraError
from safe_embed.integrations.held_encoder import HeldEncoder, shared

ROOT = Path(__file__).parents[1]
# Module -> a library that it imports; the extra has the name of the module, with a hyphen.
LIBRARIES = {
    "bertopic": "bertopic",
    "chonkie": "chonkie",
    "chroma": "chromadb",
    "haystack": "haystack",
    "keybert": "keybert",
    "lancedb": "lancedb",
    "langchain": "langchain_core",
    "llama_index": "llama_index",
    "mteb": "mteb",
}
TEXTS = ["今日は雨です。", models.long_text()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model with prompts for queries and documents."""
    path = tmp_path_factory.mktemp("model")
    models.small(prompts={"query": "検索クエリ: ", "document": "検索文書: "}).save(str(path))
    return str(path)


@pytest.fixture
def encoder(folder: str) -> Iterator[SafeEncoder]:
    """A ready encoder of it."""
    with SafeEncoder(folder, device="cpu") as made:
        yield made


def test_every_adapter_has_its_extra() -> None:
    """And no module is forgotten here."""
    folder = ROOT / "src" / "safe_embed" / "integrations"
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "adapter", "held_encoder"}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = settings["project"]["optional-dependencies"].keys()
    assert set(LIBRARIES) == modules
    assert {module.replace("_", "-") for module in LIBRARIES} <= set(extras)


@pytest.mark.parametrize("module", LIBRARIES)
def test_a_missing_library_is_named(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra to install, as an ImportError in both languages."""
    name = f"safe_embed.integrations.{module}"
    for known in [one for one in sys.modules if one.partition(".")[0] == LIBRARIES[module]]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, LIBRARIES[module], None)
    monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(MissingExtraError) as caught:
        importlib.import_module(name)
    assert isinstance(caught.value, ImportError)
    assert module.replace("_", "-") == caught.value.extra
    assert f"pip install 'safe-embed[{caught.value.extra}]'" in str(caught.value)


@pytest.mark.parametrize("task", ["query", "document"])
def test_vectors_are_those_of_the_encoder(folder: str, encoder: SafeEncoder, task: Any) -> None:
    """Of the same prompts, given or opened, with asyncio too."""
    expected = getattr(encoder, f"encode_{task}")(TEXTS, truncate_dim=8)
    for model in (encoder, folder, Path(folder)):
        held = HeldEncoder(model, None, {"truncate_dim": 8})
        np.testing.assert_allclose(expected, held.vectors(TEXTS, task), atol=1e-6)
        found = asyncio.run(held.avectors(TEXTS, task))
        np.testing.assert_allclose(expected, found, atol=1e-6)
        assert 8 == held.dimension
        held.close()
    assert (2, 32) == encoder.encode(TEXTS).shape  # it is open


def test_what_cannot_work_is_refused_at_once(encoder: SafeEncoder, folder: str) -> None:
    """Before a model is loaded."""
    with pytest.raises(ConfigError, match="There is no model"):
        HeldEncoder(None)
    with pytest.raises(ConfigError, match="already made"):
        HeldEncoder(encoder, {"max_chunk_tokens": 16})
    with pytest.raises(ConfigError, match="Did you mean 'batch_size'"):
        HeldEncoder(folder, None, {"batchsize": 2})
    with pytest.raises(ConfigError, match="adapters do not pass on"):
        HeldEncoder(folder, None, {"convert_to_tensor": True})
    with pytest.raises(InvalidTextError, match="list of texts"):
        HeldEncoder(encoder).vectors("雨", "document")
    with pytest.raises(InvalidTextError, match="list of texts"):
        asyncio.run(HeldEncoder(encoder).avectors("雨", "document"))


def test_it_opens_again_after_close_and_pickle(folder: str) -> None:
    """What was opened here can be closed at any time."""
    held = HeldEncoder(folder, {"device": "cpu"}, {"normalize_embeddings": True})
    first = held.encoder
    expected = held.vectors(TEXTS, "document")
    held.close()
    again = pickle.loads(pickle.dumps(held))  # noqa: S301 our own
    for one in (held, again):
        assert first is not one.encoder
        np.testing.assert_allclose(expected, one.vectors(TEXTS, "document"), atol=1e-6)
        one.close()


def test_equal_settings_share_an_encoder(folder: str) -> None:
    """Also when the first was dropped, as LanceDB drops its functions; another one is let go."""
    options = {"device": "cpu"}
    held = shared(folder, options, None)
    opened = held.encoder
    assert held is shared(folder, dict(options), {})
    assert held is not shared(folder, {**options, "max_chunk_tokens": 16}, None)
    assert held is shared(folder, options, None)
    del held
    gc.collect()
    again = shared(folder, options, None)
    assert opened is again.encoder
    again.close()
    with pytest.raises(ConfigError, match="JSON"):
        shared(folder, {"hooks": [print]}, None)


def test_spans_tile_and_are_read_whole(encoder: SafeEncoder) -> None:
    """Those of ``encode_document``, with its prompt; an empty text has none."""
    texts = ["", " \n" + models.long_text() * 2, "雨。"]
    spans = HeldEncoder(encoder).spans(texts)
    assert texts == [
        "".join(text[start:end] for start, end in ours)
        for text, ours in zip(texts, spans, strict=True)
    ]
    assert [0, 1] == [len(spans[0]), len(spans[2])]
    assert len(spans[1]) > 2
    pieces = [texts[1][start:end] for start, end in spans[1]]
    assert not any(plan.is_long for plan in encoder.plan(pieces, prompt_name="document"))


def test_spans_that_would_lose_text_are_refused() -> None:
    """``on_long="truncate"`` reads only the beginning of a long text."""
    with (
        SafeEncoder(models.small(), on_long="truncate") as cutting,
        pytest.raises(ConfigError, match="on_long='truncate'"),
    ):
        HeldEncoder(cutting).spans([models.long_text() * 3])
