"""What only a GPU can show, on a real one: its memory, its errors, its bfloat16."""

from __future__ import annotations

import gc
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from safe_embed import EveryCalls, SafeEncoder

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]
# Of tensors that are there for a moment: what is left may differ by it.
SLACK_BYTES = 2 * 10**6
# What cuBLAS takes for each thread, 34 MB on an H200.
WORKSPACES_BYTES = 10**8


@pytest.fixture(scope="module")
def texts(data_dir: Path) -> list[str]:
    """Paragraphs of all lengths, of which the model would cut some."""
    with (data_dir / "jaquad_dev_paragraphs.jsonl").open(encoding="utf-8") as lines:
        found = [json.loads(line)["text"] for line in lines]
    return [*found[:300], "。".join(found[300:310]), "短い文。"]


@pytest.fixture(autouse=True)
def _no_tensors_left() -> Iterator[None]:
    """An encoder that is closed leaves nothing on the device."""
    before = allocated()
    yield
    assert allocated() - before < SLACK_BYTES


def allocated() -> int:
    """Count what tensors use, without the room that cuBLAS keeps for each thread it has seen."""
    gc.collect()
    # So named in torch's own notes on CUDA semantics, "cuBLAS workspaces".
    torch._C._cuda_clearCublasWorkspaces()  # noqa: SLF001 torch has no public name
    return torch.cuda.memory_allocated()


def test_vectors_are_those_of_upstream(offline_model_path: Path, texts: list[str]) -> None:
    """The same numbers from the same device, as arrays and as tensors there; no text is lost."""
    upstream = SentenceTransformer(str(offline_model_path), device="cuda")
    with SafeEncoder(offline_model_path, device="cuda") as encoder:
        short = [
            text for text, plan in zip(texts, encoder.plan(texts), strict=True) if not plan.is_long
        ]
        assert 0 < len(short) < len(texts)
        expected = upstream.encode(short, show_progress_bar=False)
        np.testing.assert_allclose(encoder.encode(short), expected, rtol=0, atol=2e-5)
        tensors = encoder.encode(short[:3], convert_to_tensor=True)
        assert tensors.device == upstream.encode(short[:3], convert_to_tensor=True).device
        np.testing.assert_allclose(tensors.cpu(), expected[:3], rtol=0, atol=2e-5)
        assert encoder.encode(texts).shape == (len(texts), 384)


def test_a_batch_without_memory_is_halved(
    offline_model_path: Path, texts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """CUDA refuses for real: the vectors are those of larger batches, with a warning."""
    total = torch.cuda.get_device_properties(0).total_memory
    with SafeEncoder(offline_model_path, device="cuda", max_batch_tokens=10**6) as encoder:
        expected = encoder.encode(texts, batch_size=10**4)
        assert "halved" not in caplog.text
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2e8) / total)
        try:
            found = encoder.encode(texts, batch_size=10**4)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    assert "halved" in caplog.text
    assert texts[0] not in caplog.text


def test_auto_is_bfloat16(offline_model_path: Path, texts: list[str]) -> None:
    """From capability 8.0 on: bfloat16, and vectors stay what they are."""
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU computes no bfloat16")
    with SafeEncoder(offline_model_path, device="cuda") as plain:
        expected = plain.encode(texts, normalize_embeddings=True)
    with SafeEncoder(offline_model_path, device="cuda", dtype="auto") as encoder:
        assert encoder.dtype == torch.bfloat16
        found = encoder.encode(texts, normalize_embeddings=True)
    assert np.einsum("ij,ij->i", found, expected).min() >= 0.999


def test_its_memory_is_counted_and_given_back(offline_model_path: Path, texts: list[str]) -> None:
    """The encoder tells what its device holds; models reloaded leave nothing of the old."""
    with SafeEncoder(offline_model_path, device="cuda", reload=EveryCalls(3)) as encoder:
        expected = encoder.encode(texts)
        used = allocated()
        for _ in range(12):
            np.testing.assert_allclose(encoder.encode(texts), expected, rtol=0, atol=2e-5)
        encoder.reload()
        stats = encoder.stats
        assert stats.sample.device_used_bytes is not None
        assert stats.reloads >= 3
        assert used <= stats.sample.device_used_bytes + SLACK_BYTES <= used + WORKSPACES_BYTES
        assert stats.sample.device_free_bytes == pytest.approx(
            torch.cuda.mem_get_info()[0], rel=0.1
        )
        assert allocated() == pytest.approx(used, abs=SLACK_BYTES)
        assert [event for event in stats.events if event.kind != "remedy"] == []


def test_a_process_of_its_own(offline_model_path: Path, texts: list[str]) -> None:
    """A worker on the GPU gives the same vectors, also after it was killed, and leaves nothing."""
    with SafeEncoder(offline_model_path, device="cuda") as beside:
        expected = beside.encode(texts)
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    options = {"isolation": "process", "devices": ["cuda:0"]}
    with SafeEncoder(offline_model_path, **options) as encoder:
        np.testing.assert_allclose(encoder.encode(texts), expected, rtol=0, atol=2e-5)
        assert torch.cuda.mem_get_info()[0] < free - 4e8
        [worker] = encoder.stats.workers
        assert worker.sample.device_used_bytes is not None
        os.kill(worker.pid, signal.SIGKILL)
        np.testing.assert_allclose(encoder.encode(texts), expected, rtol=0, atol=2e-5)
        assert [worker.pid] != [one.pid for one in encoder.stats.workers]
    assert torch.cuda.mem_get_info()[0] > free - 1e8
