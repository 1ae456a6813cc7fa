"""Batches without padding: the vectors of padded ones, with nothing computed for padding."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import models
from safe_embed import SafeEncoder
from safe_embed.model import unpadded
from safe_embed.model.batching import STEP

pytestmark = pytest.mark.skipif(
    not models.HAS_ONE_ATTENTION, reason="transformers 4 has no attention that can be exchanged"
)

ARCHITECTURES = ["bert", "roberta", "xlm-roberta", "camembert", "modernbert"]
TEXTS = ["猫。", "", *(models.long_text(n, start=n) for n in range(1, 5)), "<pad>の話と<pad>。"]


def features(ids: list[list[int]], padding: int) -> dict[str, Any]:
    """Make the padded input of rows of ids."""
    width = max(map(len, ids))
    rows = [row + [padding] * (width - len(row)) for row in ids]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in ids]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_architecture_has_the_vectors_of_upstream(name: str) -> None:
    """Texts of all lengths, with a token of padding in one, get upstream's vectors, unpadded."""
    model = models.architecture(name)
    with SafeEncoder(model, max_batch_tokens=4 * models.LIMIT) as encoder:
        expected = model.encode([text[:30] for text in TEXTS])
        found = encoder.encode([text[:30] for text in TEXTS])
        assert 0 < encoder.stats.padding_tokens < STEP * 4
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        assert model[0].auto_model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", ARCHITECTURES)
@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, models.LIMIT), min_size=1, max_size=8), seed=st.integers(0, 9)
)
def test_rows_do_not_see_each_other(name: str, lengths: list[int], seed: int) -> None:
    """Whatever else is in the batch, each row of ids has the vector that it has alone."""
    model = models.architecture(name)
    random = np.random.default_rng(seed)
    ids = [random.integers(0, 60, length).tolist() for length in lengths]
    with torch.inference_mode():
        together = unpadded.forward(model, features(ids, padding=3))["sentence_embedding"]
        alone = [model(features([row], padding=3))["sentence_embedding"][0] for row in ids]
    np.testing.assert_allclose(together, torch.stack(alone), rtol=1e-4, atol=1e-5)


def test_a_model_that_computes_attention_otherwise_is_padded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where a layer does not ask for this attention, batches are padded, and the log says so."""
    model = models.small()
    model[0].auto_model.config.num_hidden_layers += 1
    with SafeEncoder(model) as encoder:
        for _ in range(2):
            found = encoder.encode(TEXTS[:2])
            np.testing.assert_allclose(found, model.encode(TEXTS[:2]), atol=1e-6)
    assert caplog.text.count("batches are padded") == 1


def test_what_cannot_be_unpadded_is_padded() -> None:
    """Attention that was asked for, padding on the left and few shapes are left as they are."""
    texts = ["猫。", models.long_text(2)]
    for change in ("eager", "left", "few shapes"):
        model = models.small()
        if change == "eager":
            model[0].auto_model.set_attn_implementation("eager")
        if change == "left":
            model.tokenizer.padding_side = "left"
        with SafeEncoder(model, few_shapes=change == "few shapes" or None) as encoder:
            np.testing.assert_allclose(encoder.encode(texts), model.encode(texts), atol=1e-5)
            assert encoder.stats.padding_tokens >= STEP, change


def test_others_use_the_same_model_meanwhile() -> None:
    """A model that was handed over gives its owner the same vectors while it works here."""
    model = models.small()
    texts = [models.long_text(n) for n in range(1, 4)] * 3
    expected = model.encode(texts)
    stop = threading.Event()
    moved: list[float] = []

    def owner() -> None:
        while not stop.is_set():
            moved.append(float(np.abs(model.encode(texts) - expected).max()))

    with SafeEncoder(model) as encoder:
        thread = threading.Thread(target=owner)
        thread.start()
        try:
            for _ in range(30):
                np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)
        finally:
            stop.set()
            thread.join()
    assert len(moved) > 1
    assert max(moved) < 1e-5


def test_two_encoders_share_a_model(caplog: pytest.LogCaptureFixture) -> None:
    """Both work without padding at the same moment, and leave the model as it was."""
    model = models.small()
    texts = [models.long_text(n) for n in range(1, 4)] * 3
    expected = model.encode(texts)
    with SafeEncoder(model) as one, SafeEncoder(model) as other, ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda n: (one, other)[n % 2].encode(texts), range(40)):
            np.testing.assert_allclose(found, expected, atol=1e-5)
        for encoder in (one, other):
            assert encoder.stats.padding_tokens < 40 * STEP
    assert "padded" not in caplog.text
    assert model[0].auto_model.config._attn_implementation == "sdpa"


def test_a_worker_counts_what_it_does() -> None:
    """The padding of a process is counted as that of a thread."""
    texts = ["猫。", *(models.long_text(n) for n in range(1, 4))]
    path = str(models.saved("small", models.small_folder()))
    counts = []
    for isolation in ("none", "process"):
        with SafeEncoder(path, isolation=isolation) as encoder:
            encoder.encode(texts)
            counts.append((encoder.stats.tokens, encoder.stats.padding_tokens))
    assert counts[0] == counts[1]
    assert counts[0][1] < STEP
