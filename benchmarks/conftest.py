"""What the benchmarks share: the evaluation data and the offline model, loaded once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer

from safe_embed.offline import model_path

Records = Callable[[str], list[dict[str, Any]]]


@pytest.fixture(scope="session")
def records() -> Records:
    """Reads a file of the folder that SAFE_EMBED_DATA names; skips where there is none."""
    folder = os.environ.get("SAFE_EMBED_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("SAFE_EMBED_DATA does not name the folder of evaluation data")

    def read(name: str) -> list[dict[str, Any]]:
        with (Path(folder) / f"{name}.jsonl").open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    return read


@pytest.fixture(scope="session")
def model() -> SentenceTransformer:
    """The offline model, plain."""
    return SentenceTransformer(str(model_path()), device="cpu")
