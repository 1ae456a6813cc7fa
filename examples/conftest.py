"""What every example needs: a small model as a folder, an encoder of it, and its vectors."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import models
import run_record
from safe_embed import SafeEncoder

# What other libraries use of the package: a change makes the record of `make examples` stale.
ROOMS = (
    *(
        "backends",
        "inference",
        "upstream",
        "compat.py",
        "copying.py",
        "encoder.py",
        "encoder_options.py",
        "integrations",
        "search",
    ),
    *("encoding.py", "options.py", "placement.py", "streaming.py", "waiting.py", "vectors.py"),
)
BEGAN = pytest.StashKey[float]()

TEXTS = [
    "今日は雨です。",
    "東京都の人口は1,400万人です。",
    "「どこへ行くのか？」と彼女は聞いた。",
    "長い文章は句読点で切って、平均を取る。",
    models.long_text(),
]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --record."""
    parser.addoption("--record", action="store_true", help="leave a record in benchmarks/results")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Look at the clock."""
    session.config.stash[BEGAN] = time.monotonic()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Write the record of the run, if that was asked for and all examples were run."""
    if not config.getoption("--record"):
        return
    kinds = ("passed", "failed", "error", "skipped", "xfailed")
    counts = {kind: len(terminalreporter.getreports(kind)) for kind in kinds}
    counts["deselected"] = len(terminalreporter.stats.get("deselected", []))
    faults = ("failed", "error", "deselected")
    broken = [f"{count} {kind}" for kind in faults if (count := counts[kind])]
    if exitstatus and not broken:
        broken = [f"pytest ended with {int(exitstatus)}"]
    seconds = time.monotonic() - config.stash[BEGAN]
    run_record.write("examples", ROOMS, seconds, {**counts, "broken": broken})


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small random BERT that reads 64 tokens: libraries make their models of it."""
    path = tmp_path_factory.mktemp("model")
    models.small(prompts={"query": "検索クエリ: ", "document": "検索文書: "}).save(str(path))
    return str(path)


@pytest.fixture
def encoder(folder: str) -> Iterator[SafeEncoder]:
    """The encoder that libraries are given."""
    with SafeEncoder(folder, device="cpu") as found:
        yield found


@pytest.fixture
def swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """SafeEncoder in the place of SentenceTransformer, for libraries that make their own."""
    import sentence_transformers

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", SafeEncoder)


@pytest.fixture
def texts() -> list[str]:
    """Four that the model reads whole, and one that it does not."""
    return list(TEXTS)


def check_same(expected: Any, actual: Any, tolerance: float = 1e-5) -> None:
    """Compare vectors, whatever they are kept in."""
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), atol=tolerance)


def check_tells_apart(folder: str, expected: Any, texts: list[str]) -> None:
    """Upstream gives another vector for the long text: a test that met upstream would show it."""
    from safe_embed.upstream.attributes import sentence_transformer

    upstream = sentence_transformer()(folder, device="cpu").encode(texts)
    assert np.abs(upstream - np.asarray(expected)).max() > 1e-2
