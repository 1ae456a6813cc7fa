"""A batch for which the device has no memory is halved, and the call goes on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from models import small
from safe_embed import SafeEncoder

TEXTS = ["短い文です。" * n for n in (1, 2, 3, 3, 2, 1, 4)]
ERRORS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    MemoryError(),
]


def fail_above(rows: int, error: Exception, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let models fail on batches of more rows; gives the rows of all that worked."""
    usual = SentenceTransformer.forward
    worked: list[int] = []

    def forward(self: Any, features: dict[str, Any], **kwargs: Any) -> Any:
        given = len(features["input_ids"])
        if given > rows:
            raise error
        worked.append(given)
        return usual(self, features, **kwargs)

    monkeypatch.setattr(SentenceTransformer, "forward", forward)
    return worked


@pytest.mark.parametrize("few_shapes", [False, True])
@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_the_batch_is_halved_until_it_fits(
    error: Exception,
    few_shapes: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever the device says: vectors are those of smaller batches, in order, with a warning."""
    with SafeEncoder(small(), few_shapes=few_shapes) as encoder:
        expected = encoder.encode(TEXTS)
        worked = fail_above(2, error, monkeypatch)
        np.testing.assert_allclose(encoder.encode(TEXTS), expected, rtol=0, atol=1e-6)
    assert {1, 2} >= set(worked)
    assert "halved" in caplog.text
    assert TEXTS[0] not in caplog.text


def test_a_chunk_that_alone_does_not_fit_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing left to halve: the error is the device's own."""
    with SafeEncoder(small()) as encoder:
        fail_above(0, ERRORS[0], monkeypatch)
        with pytest.raises(torch.cuda.OutOfMemoryError):
            encoder.encode(TEXTS)


def test_other_errors_are_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is not about memory goes to the caller."""
    with SafeEncoder(small()) as encoder:
        fail_above(2, RuntimeError("mat1 and mat2 shapes cannot be multiplied"), monkeypatch)
        with pytest.raises(RuntimeError, match="mat1 and mat2"):
            encoder.encode(TEXTS)
