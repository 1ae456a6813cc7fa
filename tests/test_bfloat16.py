"""dtype="auto": bfloat16 where the processor has it and vectors stay what they are."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from models import small_folder
from safe_embed import SafeEncoder
from safe_embed.errors import ConfigError
from safe_embed.upstream import bfloat16

pytestmark = pytest.mark.usefixtures("forked_workers")

TEXTS = ["短い文。", "春はあけぼの。やうやう白くなりゆく山ぎは。" * 20, "API を 3 回呼ぶ。"]


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that computes bfloat16 natively; any other only takes longer."""
    monkeypatch.setattr(bfloat16, "is_native", lambda device: True)


@pytest.mark.model
@pytest.mark.usefixtures("native")
def test_auto_is_bfloat16_with_the_same_vectors(
    offline_model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The real model runs in bfloat16, says so, keeps cosines of 0.999, and keeps it in a reload."""
    caplog.set_level(logging.INFO, "safe_embed")
    options = {"normalize_embeddings": True, "show_progress_bar": False}
    with SafeEncoder(offline_model_path) as plain:
        expected = plain.encode(TEXTS, **options)
    with SafeEncoder(offline_model_path, dtype="auto") as encoder:
        assert torch.bfloat16 == encoder.dtype
        assert "using bfloat16" in caplog.text
        found = encoder.encode(TEXTS, **options)
        assert np.float32 == found.dtype
        assert (found * expected).sum(axis=1).min() >= 0.999
        caplog.clear()
        encoder.reload()
        assert torch.bfloat16 == encoder.dtype
        assert "cosine" not in caplog.text  # the check is for the first load
        np.testing.assert_array_equal(found, encoder.encode(TEXTS, **options))


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("fault", ["moved", "no kernel"])
def test_a_model_that_moves_stays_in_float32(
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where the check fails the model is loaded again, at full precision, with a warning."""
    folder = small_folder()
    if fault == "moved":
        monkeypatch.setattr(bfloat16, "LEAST_COSINE", 1.1)
    else:
        usual = SentenceTransformer.encode

        def encode(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self.dtype == torch.bfloat16:
                raise RuntimeError("not implemented for 'BFloat16'")
            return usual(self, *args, **kwargs)

        monkeypatch.setattr(SentenceTransformer, "encode", encode)
    options = {"show_progress_bar": False}
    with SafeEncoder(folder) as plain, SafeEncoder(folder, dtype="auto") as encoder:
        assert torch.float32 == encoder.dtype
        np.testing.assert_array_equal(
            plain.encode(TEXTS, **options), encoder.encode(TEXTS, **options)
        )
    assert "using float32" in caplog.text


def test_other_processors_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without native bfloat16 nothing is tried, and nothing fails."""
    monkeypatch.setattr(bfloat16, "is_native", lambda device: False)
    with SafeEncoder(small_folder(), dtype="auto") as encoder:
        assert torch.float32 == encoder.dtype


@pytest.mark.usefixtures("native")
def test_what_is_not_in_float32_stays_as_it_is() -> None:
    """A loader that chose a dtype is not overruled."""
    folder = small_folder()
    with SafeEncoder(
        lambda: SentenceTransformer(str(folder), device="cpu").half(), dtype="auto"
    ) as encoder:
        assert torch.float16 == encoder.dtype


def test_default_and_processes() -> None:
    """The default is float32; a worker process decides for its own processor, and keeps to it."""
    folder = small_folder()
    is_native = bfloat16.is_native(torch.device("cpu"))
    with SafeEncoder(folder) as encoder:
        assert torch.float32 == encoder.dtype
    with SafeEncoder(folder, dtype="auto", isolation="process", device="cpu") as encoder:
        assert (torch.bfloat16 if is_native else torch.float32) == encoder.dtype
        before = encoder.encode(TEXTS, show_progress_bar=False)
        encoder.reload()
        np.testing.assert_array_equal(before, encoder.encode(TEXTS, show_progress_bar=False))


def test_what_cannot_work_is_refused() -> None:
    """A model that is in use elsewhere is not narrowed; other names are not known."""
    model = SentenceTransformer(str(small_folder()), device="cpu")
    with pytest.raises(ConfigError, match=r"call model.to\(torch.bfloat16\) yourself"):
        SafeEncoder(model, dtype="auto")
    with pytest.raises(ConfigError, match="dtype='half' is not known"):
        SafeEncoder("offline", dtype="half")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "capability", "features", "expected"),
    [
        ("cuda", (7, 5), "avx512 amx", False),
        ("cuda", (8, 0), "", True),
        ("cuda", (9, 0), "", True),
        ("cpu", None, "", False),
        ("cpu", None, "avx512", True),
        ("cpu", None, "amx", True),
        ("mps", None, "avx512 amx", False),
    ],
)
def test_native_is_what_the_device_says(
    kind: str,
    capability: tuple[int, int] | None,
    features: str,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CUDA from 8.0 on, and processors with AVX512-BF16 or AMX."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    known = SimpleNamespace(
        _is_avx512_bf16_supported=lambda: "avx512" in features,
        _is_amx_tile_supported=lambda: "amx" in features,
    )
    monkeypatch.setattr(torch, "cpu", known)
    assert expected == bfloat16.is_native(torch.device(kind))


def test_a_torch_that_does_not_say_is_not_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older ones have no such questions."""
    monkeypatch.setattr(torch, "cpu", SimpleNamespace())
    assert not bfloat16.is_native(torch.device("cpu"))
