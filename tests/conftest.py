"""What many tests need: the evaluation data, and the offline model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import models
import seams
from fork_server import ForkServer
from safe_embed.ipc import spawn
from safe_embed.offline import cache as offline

# Threads of torch that wait for work do not spin: tests, and their worker processes, share the cores.
# Read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# No deadlines: the first example of a property may load a model or a dictionary.
settings.register_profile("dev", max_examples=100, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.load_profile("ci" if "CI" in os.environ else "dev")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of evaluation data, from SAFE_EMBED_DATA; without it the test is skipped.

    SAFE_EMBED_REQUIRE_DATA makes that a failure, so that CI cannot pass by skipping.
    """
    given = os.environ.get("SAFE_EMBED_DATA")
    if given and Path(given).is_dir():
        return Path(given)
    if given or os.environ.get("SAFE_EMBED_REQUIRE_DATA"):
        pytest.fail(f"SAFE_EMBED_DATA is {given!r}, which is no folder")
    pytest.skip("SAFE_EMBED_DATA does not name the folder of evaluation data")


@pytest.fixture(scope="session")
def offline_model_path() -> Path:
    """The offline model in the user's own cache: built by the first run, used by all others."""
    return offline.model_path()


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as a folder; not to be changed."""
    path = tmp_path_factory.mktemp("saved")
    models.small(prompts={"query": "検索クエリ: "}).save(str(path))
    return path


@pytest.fixture(scope="session")
def _fork_server() -> Iterator[ForkServer]:
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def forked_workers(request: pytest.FixtureRequest) -> Iterator[None]:
    """Worker processes of a module's tests are forked and begin in a moment; see fork_server.py.

    On Linux, and not with SAFE_EMBED_FULL=1: there each has an interpreter of its own.
    """
    with pytest.MonkeyPatch.context() as patch:
        if sys.platform == "linux" and os.environ.get("SAFE_EMBED_FULL") != "1":
            server = request.getfixturevalue("_fork_server")
            patch.setattr(spawn, "subprocess", server.subprocess())
        yield


@pytest.fixture
def real_starts(forked_workers: None) -> Iterator[None]:
    """Worker processes of one test begin as those of users do: with an interpreter of their own."""
    with seams.real_starts():
        yield
