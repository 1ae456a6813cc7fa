"""A model in processes of their own: the same results, whatever happens to the processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import models
import process_models
from process_models import ERROR, MIB, POISON, SLEEP
from safe_embed import ConfigError, ReloadError, SafeEncoder, TextTooLongError, WorkerError
from safe_embed.memory.policies import EveryCalls, MemoryGrowth
from safe_embed.model import dispatch
from safe_embed.model.worker import portable
from safe_embed.types import Event, MemorySample, Rung

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="worker processes need POSIX")

TEXTS = ["今日は雨です。", models.long_text(12), "", "え？", models.long_text(5, start=40)]
FULL = bool(os.environ.get("SAFE_EMBED_FULL"))
TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as a folder; not to be changed."""
    path = tmp_path_factory.mktemp("saved")
    models.small(prompts={"query": "検索クエリ: "}).save(str(path))
    return path


@pytest.fixture(scope="module")
def reference(saved: Path) -> Iterator[SafeEncoder]:
    """The same model beside a thread of this process."""
    with SafeEncoder(saved, reload=None, device="cpu") as encoder:
        yield encoder


@pytest.fixture(scope="module")
def apart(saved: Path) -> Iterator[SafeEncoder]:
    """An encoder with one worker, for tests that do no harm."""
    with SafeEncoder(saved, reload=None, device="cpu", isolation="process") as encoder:
        yield encoder


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """What a test began is gone after it: processes, threads, sockets, shared memory."""
    before = _left_over()
    yield
    wait_until(lambda: _left_over() <= before)


def _left_over() -> set[Any]:
    me = psutil.Process()
    shared = set(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else set()
    threads = {one.name for one in threading.enumerate() if one.name.startswith("safe_embed-")}
    return {one.pid for one in me.children(recursive=True)} | shared | threads


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def pids(encoder: SafeEncoder) -> list[int]:
    """The workers that serve now."""
    return [one.pid for one in encoder.stats.workers]


def dispatcher(encoder: SafeEncoder) -> dispatch.Dispatcher:
    """What deals with the workers."""
    return encoder._session._dispatcher  # type: ignore[union-attr]


def kinds(encoder: SafeEncoder, rung: Rung = Rung.PROCESS) -> list[str]:
    """What was told about processes."""
    return [one.kind for one in encoder.stats.events if one.rung == rung]


# The same results


def test_results_are_equal_to_the_bit(apart: SafeEncoder, reference: SafeEncoder) -> None:
    """Every way to embed gives what it gives beside a thread: shapes, types, all bits."""
    for options in (
        {},
        {"normalize_embeddings": True},
        {"truncate_dim": 9},
        {"precision": "int8"},
        {"precision": "ubinary"},
        {"prompt_name": "query"},
        {"prompt": "前置き: "},
        {"batch_size": 1},
    ):
        expected = reference.encode(TEXTS, **options)
        found = apart.encode(TEXTS, **options)
        assert (expected.dtype, expected.shape) == (found.dtype, found.shape)
        np.testing.assert_array_equal(expected, found)
    np.testing.assert_array_equal(reference.encode("雨"), apart.encode("雨"))
    np.testing.assert_array_equal(reference.encode_query(TEXTS), apart.encode_query(TEXTS))
    np.testing.assert_array_equal(
        list(reference.encode_stream(TEXTS)), list(apart.encode_stream(iter(TEXTS)))
    )
    np.testing.assert_array_equal(
        reference.encode(TEXTS), asyncio.run(apart.aencode(TEXTS))
    )
    assert reference.plan(TEXTS) == apart.plan(TEXTS)
    assert reference.encode([]).shape == apart.encode([]).shape
    for one, other in zip(reference.encode_chunks(TEXTS), apart.encode_chunks(TEXTS), strict=True):
        assert (one.spans, one.token_counts, one.is_long) == (
            other.spans,
            other.token_counts,
            other.is_long,
        )
        np.testing.assert_array_equal(one.vectors, other.vectors)
        np.testing.assert_array_equal(one.pooled(), other.pooled())


def test_tensors_and_raw_outputs(apart: SafeEncoder, reference: SafeEncoder) -> None:
    """Torch is loaded here when a caller asks for what is torch's."""
    import torch

    found = apart.encode(TEXTS, convert_to_tensor=True)
    assert torch.equal(reference.encode(TEXTS, convert_to_tensor=True), found)
    short = ["雨", "今日は雨です。"]
    for value in ("token_embeddings", None):
        expected = reference.encode(short, output_value=value)
        got = apart.encode(short, output_value=value)
        for one, other in zip(expected, got, strict=True):
            if value is None:
                assert one.keys() == other.keys()
                one, other = one["sentence_embedding"], other["sentence_embedding"]
            assert torch.equal(one, other)
    assert torch.equal(
        reference.similarity(found, found), apart.similarity(found, found)
    )
    assert (reference.device, reference.dtype) == (apart.device, apart.dtype)


def test_settings_are_those_of_the_model(saved: Path, reference: SafeEncoder) -> None:
    """What users read is as beside a thread; what they set holds at once, and after a recycling."""
    names = ("max_seq_length", "prompts", "default_prompt_name", "truncate_dim")
    names += ("similarity_fn_name",)
    with SafeEncoder(saved, reload=None, device="cpu", isolation="process") as encoder:
        assert [getattr(reference, name) for name in names] == [
            getattr(encoder, name) for name in names
        ]
        assert reference.get_embedding_dimension() == encoder.get_embedding_dimension()
        text = models.long_text(3)
        assert reference.tokenizer.encode(text) == encoder.tokenizer.encode(text)
        encoder.max_seq_length = 20
        encoder.prompts["mine"] = "前置き: "
        encoder.default_prompt_name = "mine"
        encoder.truncate_dim = 9
        encoder.similarity_fn_name = "euclidean"
        before = encoder.encode(TEXTS)
        assert (len(TEXTS), 9) == before.shape
        assert 9 == encoder.get_embedding_dimension()
        assert max(max(plan.token_counts) for plan in encoder.plan(TEXTS)) <= 20
        encoder.reload("test")
        np.testing.assert_array_equal(before, encoder.encode(TEXTS))
        assert 20 == encoder.max_seq_length
        assert "euclidean" == encoder.similarity_fn_name


def test_errors_are_those_of_the_thread(saved: Path, apart: SafeEncoder, tmp_path: Path) -> None:
    """Bad arguments and texts that do not fit are refused as always; a model's error comes through."""
    with pytest.raises(ConfigError, match="prompt_name"):
        apart.encode("雨", prompt_name="nope")
    with pytest.raises(ConfigError, match="arguments"):
        apart.encode("雨", nonsense=1)
    with pytest.raises(TextTooLongError) as caught:
        apart.encode(["雨", models.long_text(50)], output_value="token_embeddings")
    assert (1,) == caught.value.indices
    loader = partial(process_models.harmful, str(saved), str(tmp_path))
    with SafeEncoder(loader, reload=None, isolation="process") as encoder:
        before = encoder.encode(TEXTS)
        worker = pids(encoder)
        with pytest.raises(ArithmeticError, match="own error") as raised:
            encoder.encode(["雨", f"今日は{ERROR}。"])
        assert "process_models.py" in "".join(raised.value.__notes__)
        np.testing.assert_array_equal(before, encoder.encode(TEXTS))
        assert worker == pids(encoder)


def test_a_pooling_of_ones_own_may_be_anything(saved: Path) -> None:
    """Texts are pooled where the caller is: a lambda is as good as a function of a module."""
    expected = None
    for pooling in (process_models.first_token, lambda vectors, _: vectors[0]):
        with SafeEncoder(saved, pooling=pooling, isolation="process", reload=None) as encoder:
            found = encoder.encode(TEXTS)
        if expected is not None:
            np.testing.assert_array_equal(expected, found)
        expected = found


def test_two_workers_share_the_work(saved: Path, reference: SafeEncoder) -> None:
    """Batches go to whoever is free, results stay in order, and each worker has its threads."""
    texts = [models.long_text(30, start) for start in range(0, 600, 20)]
    options: dict[str, Any] = {"workers": 2, "devices": ["cpu"], "max_batch_tokens": 256}
    with SafeEncoder(saved, reload=None, isolation="process", **options) as encoder:
        np.testing.assert_allclose(
            reference.encode(texts), encoder.encode(texts), rtol=0, atol=1e-6
        )
        assert 2 == len(set(pids(encoder)))
        used = [one.sample.native_threads for one in encoder.stats.workers]
        wait_until(lambda: all(s.cpu_times().user > 0 for s in map(psutil.Process, pids(encoder))))
        assert None not in used
        encoder.reload("both")
        assert ["remedy", "remedy"] == kinds(encoder)
        np.testing.assert_allclose(
            reference.encode(texts), encoder.encode(texts), rtol=0, atol=1e-6
        )


def test_pools_of_upstream_are_workers(apart: SafeEncoder, reference: SafeEncoder) -> None:
    """start_multi_process_pool and a list of devices begin workers, which end with them."""
    expected = reference.encode(TEXTS)
    children = len(psutil.Process().children())
    pool = apart.start_multi_process_pool(["cpu", "cpu"])
    try:
        assert children + 2 == len(psutil.Process().children())
        found = apart.encode(TEXTS, pool=pool)
        np.testing.assert_allclose(expected, found, rtol=0, atol=1e-6)
    finally:
        apart.stop_multi_process_pool(pool)
    found = apart.encode(TEXTS, device=["cpu"], chunk_size=2)
    np.testing.assert_allclose(expected, found, rtol=0, atol=1e-6)
    assert children == len(psutil.Process().children())


# At construction


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"isolation": "thread"}, "isolation"),
        ({"workers": 2}, "isolation='process'"),
        ({"devices": ["cpu"]}, "isolation='process'"),
        ({"timeout_seconds": 3}, "isolation='process'"),
        ({"isolation": "process", "workers": 0}, "workers"),
        ({"isolation": "process", "devices": "cpu"}, "devices"),
        ({"isolation": "process", "devices": []}, "devices"),
        ({"isolation": "process", "timeout_seconds": 0}, "timeout_seconds"),
        ({"isolation": "process", "timeout_seconds": float("nan")}, "timeout_seconds"),
        ({"isolation": "process", "splitter": lambda text: [text]}, "splitter"),
    ],
)
def test_arguments_that_cannot_work(saved: Path, options: dict[str, Any], match: str) -> None:
    """They are refused before a process is begun."""
    with pytest.raises(ConfigError, match=match):
        SafeEncoder(saved, **options)


def test_a_loaded_model_cannot_be_passed_on() -> None:
    """Nor can a loader that only this process knows."""
    with pytest.raises(ConfigError, match="name, a folder or a loader"):
        SafeEncoder(models.small(), isolation="process")
    with pytest.raises(ConfigError, match="lambda"):
        SafeEncoder(lambda: models.small(), isolation="process")


def test_a_loader_of_main_is_refused(saved: Path) -> None:
    """It is pickled by name, and the name is not to be found in the worker."""
    code = (
        "import sys\nfrom safe_embed import ConfigError, SafeEncoder\n"
        "def load():\n    raise SystemExit\n"
        "try:\n    SafeEncoder(load, isolation='process')\n"
        "except ConfigError as error:\n    print('__main__' in str(error), 'import' in str(error))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "True True" == done.stdout.strip()


@pytest.mark.parametrize(
    ("loader", "error", "match"),
    [
        (partial(process_models.refusing, "no such model"), FileNotFoundError, "no such model"),
        (process_models.killed, WorkerError, "SIGKILL"),
    ],
    ids=["raises", "dies"],
)
def test_a_start_that_fails_says_why(
    loader: Callable[[], Any], error: type[Exception], match: str
) -> None:
    """With the worker's own message, or how it ended."""
    with pytest.raises(error, match=match):
        SafeEncoder(loader, isolation="process")


def test_a_model_that_is_not_there() -> None:
    """As beside a thread: upstream's own error, or the builtin it descends from."""
    with pytest.raises((OSError, ValueError)):
        SafeEncoder("no/such-model", isolation="process", local_files_only=True)


_USES = {
    "import": "import safe_embed_use",
    "-c": None,
    "stdin": None,
    "script": None,
    "-m": None,
}
_USE = """
import sys
from safe_embed import SafeEncoder
encoder = SafeEncoder(sys.argv[1] if len(sys.argv) > 1 else {folder!r}, isolation="process")
print("input" in sys.argv, encoder.encode(["雨", "雪"]).shape, "torch" in sys.modules)
print("once")
"""


@pytest.mark.parametrize("way", ["-c", "stdin", "script", "-m", "exec"])
def test_the_callers_main_is_not_run_again(saved: Path, tmp_path: Path, way: str) -> None:
    """No guard is needed, whatever __main__ is; the parent does without torch, closed or not."""
    code = _USE.format(folder=str(saved))
    script = tmp_path / "safe_embed_use.py"
    script.write_text(code, encoding="utf-8")
    command = {
        "-c": ["-c", code],
        "stdin": ["-"],
        "script": [str(script)],
        "-m": ["-m", "safe_embed_use"],
        "exec": ["-c", f"exec({code!r}, {{}})"],  # as a notebook runs its cells
    }[way]
    done = subprocess.run(
        [sys.executable, *command],
        input=code if way == "stdin" else None,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert (0, "False (2, 32) False\nonce\n") == (done.returncode, done.stdout), done.stderr
