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
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest

import models
import process_models
import seams
from process_models import ERROR, MIB, POISON, SLEEP
from safe_embed import SafeEncoder
from safe_embed.errors import ConfigError, ReloadError, TextTooLongError, WorkerError
from safe_embed.ipc import spawn
from safe_embed.memory.policies import EveryCalls, MemoryGrowth
from safe_embed.memory.types import Event, Rung

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="worker processes need POSIX"),
    pytest.mark.usefixtures("forked_workers"),
]

TEXTS = ["今日は雨です。", models.long_text(12), "", "え？", models.long_text(5, start=40)]
PLANTED = "合言葉は山川豊"
OWN_PID = os.getpid()
FULL = os.environ.get("SAFE_EMBED_FULL") == "1"
TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def reference(saved: Path) -> Iterator[SafeEncoder]:
    """The same model beside a thread of this process."""
    with SafeEncoder(saved, reload=None, device="cpu") as encoder:
        yield encoder


@pytest.fixture(scope="module")
def apart(saved: Path) -> Iterator[SafeEncoder]:
    """An encoder with one worker, begun as those of users are, for tests that do no harm."""
    with seams.real_starts():
        encoder = SafeEncoder(saved, reload=None, device="cpu", isolation="process")
    with encoder:
        yield encoder


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """What a test began is gone after it: processes, threads, sockets."""
    before = _left_over()
    yield
    end = time.monotonic() + 30
    while (left := _left_over() - before) and time.monotonic() < end:
        time.sleep(0.01)
    assert set() == left


def _left_over() -> set[Any]:
    children = {one.pid for one in psutil.Process().children(recursive=True)}
    threads = {one for one in threading.enumerate() if one.name.startswith("safe_embed")}
    return children | threads | _sockets()


def _sockets() -> set[str]:
    """Those of this process."""
    found = set()
    for path in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):  # the folder itself, open while it is read
            found.add(os.readlink(path))  # noqa: PTH115 it leads to no path
    return {one for one in found if one.startswith("socket:")}


def children() -> list[psutil.Process]:
    """The processes that this one has started."""
    return psutil.Process().children()


class BrokenClock:
    """Goes right until a file is there; each process has a copy of it."""

    def __init__(self) -> None:
        self.switch = tempfile.mktemp()  # noqa: S306 nobody else writes it

    def __call__(self) -> float:
        """Give the time."""
        if os.getpid() == OWN_PID and Path(self.switch).exists():
            raise ZeroDivisionError
        return time.monotonic()


def pids(encoder: SafeEncoder) -> list[int]:
    """The workers that serve now."""
    return [one.pid for one in encoder.stats.workers]


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
    np.testing.assert_array_equal(reference.encode(TEXTS), asyncio.run(apart.aencode(TEXTS)))
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
                assert torch.equal(one["sentence_embedding"], other["sentence_embedding"])
            else:
                assert torch.equal(one, other)
    assert torch.equal(reference.similarity(found, found), apart.similarity(found, found))
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
        encoder.encode("雨", device="cpu")
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
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        apart.encode("雨", task=lambda: None)
    loader = partial(process_models.harmful, str(saved), str(tmp_path))
    with SafeEncoder(loader, reload=None, isolation="process") as encoder:
        before = encoder.encode(TEXTS)
        worker = pids(encoder)
        with pytest.raises(ArithmeticError, match="own error") as raised:
            encoder.encode(["雨", f"今日は{ERROR}。"])
        assert "process_models.py" in "".join(raised.value.__notes__)
        np.testing.assert_array_equal(before, encoder.encode(TEXTS))
        assert worker == pids(encoder)


@pytest.mark.parametrize(
    ("kind", "passed_as"),
    [
        (process_models.QuotingError, WorkerError),
        (process_models.QuotingValueError, ValueError),
        (LookupError, LookupError),
    ],
    ids=lambda kind: kind.__name__,
)
def test_what_a_splitter_says_of_a_text_stays_in_the_worker(
    saved: Path, caplog: pytest.LogCaptureFixture, kind: type[Exception], passed_as: type[Exception]
) -> None:
    """Its error comes as another type, which names it and says where; only a builtin keeps words."""
    caplog.set_level(logging.DEBUG)
    splitter = process_models.Quoting(kind)
    with SafeEncoder(saved, splitter=splitter, reload=None, isolation="process") as encoder:
        with pytest.raises(passed_as) as caught:
            encoder.encode(PLANTED + models.long_text(12))
        assert passed_as is type(caught.value)
        assert (32,) == encoder.encode("雨").shape
    [note] = caught.value.__notes__
    assert "process_models.py" in note
    assert "KeyError" in note
    told = note + "".join(record.getMessage() for record in caplog.records)
    if kind is not passed_as:
        told += str(caught.value)
        assert kind.__name__ in str(caught.value)
    assert PLANTED not in told


def test_what_a_worker_cannot_make_again_is_not_quoted(saved: Path) -> None:
    """The error of an object's own unpickling is named by its type."""
    with pytest.raises(ConfigError, match="ValueError") as caught:
        SafeEncoder(saved, splitter=process_models.Unreadable(PLANTED), isolation="process")
    assert PLANTED not in str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))


def test_errors_of_two_workers_at_once_are_one(saved: Path, tmp_path: Path) -> None:
    """Both batches of a call raise: its caller is told once, and the encoder serves on."""
    loader = partial(process_models.harmful, str(saved), str(tmp_path))
    options: dict[str, Any] = {"workers": 2, "max_batch_tokens": 8}
    with SafeEncoder(loader, reload=None, isolation="process", **options) as encoder:
        for _ in range(3):
            with pytest.raises(ArithmeticError, match="own error"):
                encoder.encode([f"雨{ERROR}{number}。" for number in range(8)])
        assert (32,) == encoder.encode("雨").shape


def test_many_cancelled_calls(apart: SafeEncoder, reference: SafeEncoder) -> None:
    """Thousands that are given up at once end, and the next one is served."""

    async def main() -> Any:
        tasks = [asyncio.create_task(apart.aencode("雨")) for _ in range(5000)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return await apart.aencode("雪")

    np.testing.assert_array_equal(reference.encode("雪"), asyncio.run(main()))


def test_a_pooling_of_ones_own_may_be_anything(saved: Path, reference: SafeEncoder) -> None:
    """Texts are pooled where the caller is: a lambda will do."""
    first = [one.vectors[0] for one in reference.encode_chunks(TEXTS)]
    options: dict[str, Any] = {"pooling": lambda vectors, _: vectors[0], "device": "cpu"}
    with SafeEncoder(saved, isolation="process", reload=None, **options) as encoder:
        np.testing.assert_array_equal(first, encoder.encode(TEXTS))


def test_two_workers_share_the_work(saved: Path, reference: SafeEncoder, tmp_path: Path) -> None:
    """Batches go to whoever is free, results stay in order, and the workers share the cores."""
    texts = [models.long_text(30, start) for start in range(0, 600, 20)]
    loader = partial(process_models.noting, str(saved), str(tmp_path))
    options: dict[str, Any] = {"workers": 2, "max_batch_tokens": 256}
    with seams.real_starts():  # libraries read when they are imported how many threads there are
        encoder = SafeEncoder(loader, reload=None, isolation="process", **options)
    with encoder:
        np.testing.assert_allclose(
            reference.encode(texts), encoder.encode(texts), rtol=0, atol=1e-6
        )
        noted = {path.name: path.read_text() for path in tmp_path.iterdir()}
        threads = max(1, len(os.sched_getaffinity(0)) // 2) if sys.platform == "linux" else None
        assert {str(pid): str(threads) for pid in pids(encoder)} == noted
        encoder.reload("both")
        assert ["remedy", "remedy"] == kinds(encoder)
        assert not set(noted) & set(map(str, pids(encoder)))


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


@pytest.mark.usefixtures("real_starts")  # which take long enough to see the loop go round
def test_a_pool_for_one_call_does_not_block_the_loop(apart: SafeEncoder) -> None:
    """Its processes load elsewhere; the loop goes round meanwhile."""
    ticks = 0

    async def main() -> Any:
        nonlocal ticks
        task = asyncio.create_task(apart.aencode(TEXTS, device=["cpu"]))
        while not task.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return await task

    assert len(TEXTS) == len(asyncio.run(main()))
    assert ticks > 10


def test_a_pool_of_another_kind_is_refused(apart: SafeEncoder, reference: SafeEncoder) -> None:
    """Workers are no processes of upstream's, nor the other way round."""
    for encoder, pool in ((apart, {"input": 1, "output": 2}), (reference, {"worker_pool": 1})):
        with pytest.raises(ConfigError, match="pool"):
            encoder.encode(TEXTS, pool=pool)


@pytest.mark.skipif(sys.platform != "linux", reason="maps of a process are Linux's")
def test_no_shared_memory_is_used(apart: SafeEncoder) -> None:
    """Large arrays travel over the socket: a container's small /dev/shm is no limit."""
    texts = [f"{number}。{models.long_text(3)}" for number in range(3000)]
    assert sum(one.vectors.nbytes for one in apart.encode_chunks(texts)) > 2**18
    [worker] = pids(apart)
    maps = Path(f"/proc/{worker}/maps").read_text().splitlines()
    shared = [line for line in maps if "/dev/shm/" in line]  # noqa: S108 it is looked for
    # A lock of tqdm's own is a semaphore, of 32 bytes and unlinked when it is made.
    assert [] == [line for line in shared if "/sem." not in line or "(deleted)" not in line]


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
        SafeEncoder(lambda: process_models.plain("x"), isolation="process")


def test_a_loader_of_main_is_refused(saved: Path) -> None:
    """It is pickled by name, and the name is not to be found in the worker."""
    code = (
        "import sys\nfrom safe_embed import SafeEncoder\nfrom safe_embed.errors import ConfigError\n"
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


_USE = """
import sys
from safe_embed import SafeEncoder
encoder = SafeEncoder({folder!r}, isolation="process")
print(encoder.encode(["雨", "雪"]).shape, "torch" in sys.modules)
print("once")
"""


@pytest.mark.parametrize("way", ["stdin", *["-m"] * FULL, "exec"])
def test_the_callers_main_is_not_run_again(saved: Path, tmp_path: Path, way: str) -> None:
    """No guard is needed, whatever __main__ is; the parent does without torch, closed or not."""
    code = _USE.format(folder=str(saved))
    script = tmp_path / "safe_embed_use.py"
    script.write_text(code, encoding="utf-8")
    command = {
        "stdin": ["-"],
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
    assert (0, "(2, 32) False\nonce\n") == (done.returncode, done.stdout), done.stderr


# One worker in the place of another


def test_recycled_with_nobody_waiting(saved: Path, reference: SafeEncoder, tmp_path: Path) -> None:
    """The policy wants a new process: calls go on in the old one until the new one takes over."""
    release = tmp_path / "release"
    loader = partial(process_models.held_back, str(saved), str(tmp_path))
    expected = reference.encode(TEXTS)
    told: list[Event] = []
    policy = EveryCalls(6, jitter=0)
    with SafeEncoder(loader, isolation="process", reload=policy, hooks=[told.append]) as encoder:
        [old] = pids(encoder)
        for _ in range(30):  # the other one cannot load before it is let
            np.testing.assert_array_equal(expected, encoder.encode(TEXTS))
        assert [old] == pids(encoder)
        assert not told
        release.touch()
        seams.wait_until(lambda: told)
        [new] = pids(encoder)
        assert old != new
        seams.wait_until(lambda: not psutil.pid_exists(old))
        np.testing.assert_array_equal(expected, encoder.encode(TEXTS))
        [event] = told
        assert ("remedy", Rung.PROCESS) == (event.kind, event.rung)
        assert "6 calls" in event.reason
        assert event.before.elapsed_seconds < event.after.elapsed_seconds
        assert 1 == encoder.stats.reloads


def test_one_that_asks_while_it_is_replaced_is_replaced_once(saved: Path, tmp_path: Path) -> None:
    """A reload by hand is under way when the policy of the same worker wants one, too."""
    own = len(children())  # of the fixtures
    release = tmp_path / "release"
    loader = partial(process_models.held_back, str(saved), str(tmp_path))
    policy = EveryCalls(3, jitter=0)
    with (
        SafeEncoder(loader, isolation="process", reload=policy) as encoder,
        ThreadPoolExecutor(2) as pool,
    ):
        reloads = [pool.submit(encoder.reload, "by hand")]
        seams.wait_until(lambda: len(children()) > own + 1)
        for _ in range(4):
            encoder.encode("雨")
        release.touch()
        assert reloads[0].result(60) is None
        encoder.backend.idle()
        encoder.encode("雨")
        assert ["remedy"] == kinds(encoder)


def test_drained_where_there_is_no_room_for_two(saved: Path, reference: SafeEncoder) -> None:
    """Never two models at once then: calls wait, none is lost, and the event says so."""
    own = {child.pid for child in children()}  # of the fixtures
    most = [0]
    expected = reference.encode(TEXTS)
    policy = EveryCalls(20, jitter=0)
    made = seams.encoder_with(headroom=seams.Headroom(is_there=False))
    with made(saved, device="cpu", isolation="process", reload=policy) as encoder:
        with ThreadPoolExecutor(4) as pool:
            for vectors in pool.map(lambda _: encoder.encode(TEXTS), range(30)):
                np.testing.assert_array_equal(expected, vectors)
                most[0] = max(most[0], sum(child.pid not in own for child in children()))
        seams.wait_until(lambda: kinds(encoder) == ["remedy"])
        assert "calls waited" in encoder.stats.events[-1].reason
        assert 1 == most[0]


@pytest.fixture
def control_group() -> Iterator[Path]:
    """A control group of one's own (version 1), where one may be made: as root in a container."""
    path = Path("/sys/fs/cgroup/memory", f"safe_embed-{os.getpid()}")
    try:
        path.mkdir()
    except OSError:
        pytest.skip("no control group for memory can be made here")
    yield path
    seams.wait_until(lambda: not (path / "cgroup.procs").read_text())
    path.rmdir()


_LIMITED = """
import sys
from pathlib import Path
import numpy as np
from safe_embed import EveryCalls, SafeEncoder

folder, group, room = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
limit = group / "memory.limit_in_bytes"
(group / "cgroup.procs").write_text("0")
events = []
policy = EveryCalls(30, jitter=0)
options = {"isolation": "process", "device": "cpu", "hooks": [events.append]}
with SafeEncoder(folder, reload=policy, **options) as encoder:
    one = encoder.backend.model.facts.load_bytes
    used = int((group / "memory.usage_in_bytes").read_text())
    limit.write_text(str(int(used + room * one)))
    expected = encoder.encode("雨")
    for _ in range(60):
        assert (encoder.encode("雨") == expected).all()
    while not [one for one in events if one.kind == "remedy"]:
        encoder.encode("雨")
    print([one.kind for one in events][:1], "calls waited" in events[0].reason)
"""


@pytest.mark.long
@pytest.mark.parametrize(("room", "drained"), [(0.5, True), *[(3.0, False)] * FULL])
def test_under_a_memory_limit(
    saved: Path, control_group: Path, room: float, *, drained: bool
) -> None:
    """With too little left for two models it serves, recycles by draining, and says so."""
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(saved), str(control_group), str(room)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert f"['remedy'] {drained}" == done.stdout.strip(), done.stderr


def test_another_model_never_takes_over(
    saved: Path, reference: SafeEncoder, tmp_path: Path
) -> None:
    """A worker whose canary has another vector is sent away; the old one serves on, and it is told."""
    loader = partial(process_models.other_second_time, str(saved), str(tmp_path))
    expected = reference.encode(TEXTS)
    with SafeEncoder(loader, isolation="process", reload=EveryCalls(3, jitter=0)) as encoder:
        old = pids(encoder)
        with pytest.raises(ReloadError) as caught:
            encoder.reload("test")
        assert "other vectors" in str(caught.value.__cause__)
        for _ in range(4):
            np.testing.assert_array_equal(expected, encoder.encode(TEXTS))
        seams.wait_until(lambda: "failed" in kinds(encoder))
        assert "ReloadError" == encoder.stats.events[-1].error
        assert old == pids(encoder)


def test_what_leaks_in_native_memory_goes_with_its_process(
    saved: Path, reference: SafeEncoder
) -> None:
    """Megabytes with every batch: each process stays within the hard limit, and no call fails.

    That is 1.5 times the bound; looks at memory between batches leave room for a batch or two.
    """
    calls, bound, leak, enough = (2000, 300, 1, 99) if FULL else (600, 256, 2, 1)
    loader = partial(process_models.leaking, str(saved), leak * MIB)
    text = models.long_text(40)
    expected = reference.encode(text)
    grown: list[int] = []
    policy = MemoryGrowth(bound * MIB, jitter=0)
    with SafeEncoder(loader, isolation="process", reload=policy) as encoder:
        for _ in range(calls):
            np.testing.assert_array_equal(expected, encoder.encode(text))
            for one in encoder.stats.workers:
                if one.baseline is not None:
                    held, base = one.sample.rss_anon_bytes, one.baseline.rss_anon_bytes
                    grown.append((held or 0) - (base or 0))
            if len(kinds(encoder)) >= enough:
                break
        events = encoder.stats.events
    assert {"remedy"} == {event.kind for event in events}
    assert [event for event in events if event.rung == Rung.PROCESS]
    assert bound * MIB / 4 < max(grown) <= 1.6 * bound * MIB


# Processes die, hang and do not start


def kill_workers(encoder: SafeEncoder) -> None:
    """As the system does when memory runs out."""
    for pid in pids(encoder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.long
def test_whatever_happens_to_processes_no_result_is_lost(saved: Path, tmp_path: Path) -> None:
    """Four threads; workers killed, one that hangs, a text that kills, a start that fails.

    The text that kills is found by halving; its error holds all other results, in their form.
    """
    calls, every = (2000, 50) if FULL else (240, 120)
    texts = [[f"{n}と{k}の雨。" * (1 + k % 5) for k in range(3)] for n in range(calls)]
    poisoned, asleep = calls // 2 + 1, calls // 3
    texts[poisoned][1] += POISON
    texts[poisoned].append(texts[poisoned][1])  # a text that comes again is lost twice
    texts[asleep][2] += SLEEP
    form: dict[str, Any] = {"normalize_embeddings": True, "truncate_dim": 8}
    with SafeEncoder(saved, reload=None, device="cpu") as encoder:
        expected = [encoder.encode(one, **form) for one in texts]
    loader = partial(process_models.failing_once, str(saved), str(tmp_path))
    lost: list[tuple[int, WorkerError]] = []

    def work(first: int) -> dict[int, Any]:
        found: dict[int, Any] = {}
        for n in range(first, calls, 4):
            try:
                found[n] = encoder.encode(texts[n], **form)
            except WorkerError as error:
                lost.append((n, error))
                found[n] = error.results
            if n % every == every - 1:
                kill_workers(encoder)
        return found

    options: dict[str, Any] = {"reload": None, "timeout_seconds": 8}
    made = seams.encoder_with(worker_retry_seconds=0.05)
    with made(loader, isolation="process", **options) as encoder:
        with ThreadPoolExecutor(4) as pool:
            found = {n: one for part in pool.map(work, range(4)) for n, one in part.items()}
        assert calls == encoder.stats.calls
        died = [event.reason for event in encoder.stats.events if event.kind == "died"]
    assert sorted(found) == list(range(calls))
    [(n, error)] = lost
    assert (poisoned, (1, 3)) == (n, error.indices)
    assert "inputs 1, 3" in str(error)
    assert POISON not in "\n".join((str(error), *getattr(error, "__notes__", ())))
    for at in error.indices:
        assert found[poisoned][at] is None
        found[poisoned][at] = expected[poisoned][at]  # all else is compared
    for n, vectors in found.items():
        np.testing.assert_allclose(expected[n], np.stack(vectors), rtol=0, atol=1e-6)
    assert [one for one in died if "longer than 8 s" in one]
    assert [one for one in died if "SIGKILL" in one]


def test_no_worker_can_be_begun_any_more(
    saved: Path, tmp_path: Path, reference: SafeEncoder
) -> None:
    """Calls that wait get an error that says why, after some attempts; later ones are served."""
    loader = partial(process_models.while_there, str(saved), str(tmp_path / "gone"))
    with seams.encoder_with(worker_retry_seconds=0.05)(
        loader, isolation="process", reload=None
    ) as encoder:
        (tmp_path / "gone").touch()
        os.kill(pids(encoder)[0], signal.SIGKILL)
        with pytest.raises(WorkerError, match="3 times in a row") as caught:
            encoder.encode("雨")
        assert isinstance(caught.value.__cause__, ConnectionError)
        (tmp_path / "gone").unlink()
        np.testing.assert_array_equal(reference.encode("雨"), encoder.encode("雨"))


def test_a_process_that_a_worker_began_does_not_keep_its_death_secret(
    saved: Path, reference: SafeEncoder, tmp_path: Path
) -> None:
    """A copy of the worker holds the connection open: the death is seen all the same."""
    loader = partial(process_models.with_a_copy, str(saved), str(tmp_path))
    try:
        with SafeEncoder(loader, isolation="process", reload=None) as encoder:
            kill_workers(encoder)
            np.testing.assert_array_equal(reference.encode("雨"), encoder.encode("雨"))
            assert "died" in kinds(encoder)
    finally:
        for path in tmp_path.iterdir():
            os.kill(int(path.name), signal.SIGKILL)


def test_looking_after_memory_is_no_hanging(saved: Path, reference: SafeEncoder) -> None:
    """A task's time runs from when it is taken up, not while the worker renews its model."""
    policy = process_models.Thoughtful(1.0)
    options: dict[str, Any] = {"reload": policy, "timeout_seconds": 0.5, "device": "cpu"}
    with SafeEncoder(saved, isolation="process", **options) as encoder:
        [before] = pids(encoder)
        for _ in range(3):
            np.testing.assert_array_equal(reference.encode("雨"), encoder.encode("雨"))
        assert [before] == pids(encoder)
        assert [] == kinds(encoder)


def test_a_worker_that_reads_nothing_makes_no_other_one_wait(saved: Path) -> None:
    """Calls go on at the other one meanwhile; where it reads again, nothing has been lost."""
    options: dict[str, Any] = {"reload": None, "device": "cpu", "on_long": "truncate"}
    text = models.long_text(40_000)  # more than a socket holds
    with SafeEncoder(saved, **options) as reference:
        expected, expected_large = reference.encode(TEXTS), reference.encode(text)
    with (
        SafeEncoder(saved, isolation="process", workers=2, **options) as encoder,
        ThreadPoolExecutor(1) as pool,
    ):
        before = pids(encoder)
        with seams.stopped(before[0]):
            large = pool.submit(encoder.encode, text)
            seams.wait_until(flushes)
            for _ in range(10):
                np.testing.assert_array_equal(expected, encoder.encode(TEXTS))
            assert flushes()
            assert not large.done()
        np.testing.assert_array_equal(expected_large, large.result(60))
        assert before == pids(encoder)
        assert [] == kinds(encoder)


def test_a_worker_that_reads_nothing_is_replaced(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while; what it was to do is done again, and it is said why."""
    monkeypatch.setattr(spawn, "SEND_SECONDS", 1.0)
    options: dict[str, Any] = {"reload": None, "device": "cpu", "on_long": "truncate"}
    text = models.long_text(40_000)
    with SafeEncoder(saved, **options) as reference:
        expected = reference.encode([text, "雨"])
    with (
        SafeEncoder(saved, isolation="process", workers=2, **options) as encoder,
        ThreadPoolExecutor(3) as pool,
    ):
        before = pids(encoder)
        with seams.stopped(before[0]):
            found = list(pool.map(encoder.encode, [[text, "雨"]] * 3))
            seams.wait_until(lambda: len(pids(encoder)) == 2 and before[0] not in pids(encoder))
        for one in found:
            np.testing.assert_allclose(expected, one, rtol=0, atol=1e-6)
        died = [event.reason for event in encoder.stats.events if event.kind == "died"]
        assert [one for one in died if "it reads no messages any more" in one]


def test_closing_while_a_worker_reads_nothing(saved: Path) -> None:
    """What waits to be read does not hold it up; nothing is left over."""
    options: dict[str, Any] = {"reload": None, "device": "cpu", "on_long": "truncate"}
    with (
        SafeEncoder(saved, isolation="process", **options) as encoder,
        ThreadPoolExecutor(1) as pool,
    ):
        [pid] = pids(encoder)
        with seams.stopped(pid):
            large = pool.submit(encoder.encode, models.long_text(40_000))
            seams.wait_until(flushes)
            encoder.close()
            with pytest.raises(WorkerError, match="closed"):
                large.result(60)
            seams.wait_until(lambda: not psutil.pid_exists(pid))


def flushes() -> bool:
    """Whether something waits to be read by a worker."""
    return "safe_embed-send" in {one.name for one in threading.enumerate()}


def test_what_a_worker_cannot_read_is_said(
    apart: SafeEncoder, reference: SafeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An argument of a class that only this process knows; the worker serves on."""
    module = ModuleType("only_here")
    module.Mine = type("Mine", (), {"__module__": "only_here"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "only_here", module)
    worker = pids(apart)
    with pytest.raises(ConfigError, match="only_here"):
        apart.encode("雨", task=module.Mine())
    np.testing.assert_array_equal(reference.encode("雨"), apart.encode("雨"))
    assert worker == pids(apart)


def test_a_device_that_is_not_there(apart: SafeEncoder, reference: SafeEncoder) -> None:
    """Its call fails as upstream's does; nothing is remembered of it."""
    with pytest.raises(RuntimeError):
        apart.encode("雨", device="nonsense")
    assert (reference.device, "cpu") == (apart.device, apart.device.type)
    np.testing.assert_array_equal(reference.encode("雨"), apart.encode("雨"))


def test_hooks_do_no_harm(saved: Path) -> None:
    """One that would end its thread, and one that looks at the encoder."""
    seen: list[Any] = []

    def leave(_: Event) -> None:
        raise SystemExit

    def look(_: Event) -> None:
        seen.append(encoder.stats.calls)

    options: dict[str, Any] = {"reload": None, "hooks": [leave, look]}
    with SafeEncoder(saved, isolation="process", **options) as encoder:
        encoder.encode("雨")
        encoder.reload("test")
        assert [1] == seen
        assert (32,) == encoder.encode("雨").shape


def test_an_error_of_our_own_leaves_nobody_waiting(saved: Path) -> None:
    """A clock that breaks, say, ends the thread that deals with workers: callers are told."""
    clock = BrokenClock()
    made = seams.encoder_with(clock=clock)
    with made(saved, reload=None, isolation="process") as encoder:
        Path(clock.switch).touch()
        encoder.backend.configure()  # something happens
        for _ in range(2):
            with pytest.raises(WorkerError, match="of its own") as caught:
                encoder.encode("雨")
            assert isinstance(caught.value.__cause__, ZeroDivisionError)


# The end


_PARENT = """
import signal, sys, threading, time
from functools import partial
import models, process_models
from safe_embed import SafeEncoder

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
folder, mode = sys.argv[1:]
encoder = SafeEncoder(folder, isolation="process", workers=1 if mode == "int" else 2)
print(*(one.pid for one in encoder.stats.workers), flush=True)
if mode == "reload":
    threading.Thread(target=encoder.reload, daemon=True).start()
text = models.long_text(3000)
while True:
    encoder.encode(text)
"""


def _begin_parent(saved: Path, mode: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(saved), mode],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=TESTS,
    )


def _descendants(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


@pytest.mark.parametrize("seed", range(20 if FULL else 1))
def test_a_killed_parent_leaves_no_orphan(saved: Path, seed: int) -> None:
    """Killed at a random moment, while workers load, work or are replaced: all are gone then."""
    wait = np.random.default_rng(seed).uniform(0, 4)
    with _begin_parent(saved, "reload" if seed % 2 else "calls") as parent:
        if seed % 3:
            parent.stdout.readline()  # type: ignore[union-attr]
            wait /= 4
        else:  # while they load
            seams.wait_until(lambda: _descendants(parent.pid))
        children: dict[int, psutil.Process] = {}
        end = time.monotonic() + wait
        while time.monotonic() < end:
            children |= {one.pid: one for one in _descendants(parent.pid)}
            time.sleep(0.02)
        parent.send_signal(signal.SIGSTOP)  # so that none is begun between the look and the kill
        children |= {one.pid: one for one in _descendants(parent.pid)}
        parent.kill()
    gone, alive = psutil.wait_procs(list(children.values()), timeout=60)
    assert not alive
    assert len(gone) == len(children) >= (2 if seed % 3 else 1)


def test_ctrl_c_ends_cleanly(saved: Path) -> None:
    """The terminal's signal reaches all processes: the parent's KeyboardInterrupt is all there is."""
    with _begin_parent(saved, "int") as parent:
        [pid] = map(int, parent.stdout.readline().split())  # type: ignore[union-attr]
        time.sleep(0.5)
        os.kill(pid, signal.SIGINT)
        parent.send_signal(signal.SIGINT)
        try:
            _, errors = parent.communicate(timeout=30)
        finally:
            parent.kill()
    assert "KeyboardInterrupt" in errors
    assert 1 == errors.count("Traceback")
    seams.wait_until(lambda: not psutil.pid_exists(pid), 5)


_FORK_FAILS = """
import os, sys
import numpy as np
from pathlib import Path
from functools import partial
import process_models
from safe_embed import SafeEncoder

gone = Path(sys.argv[2])
encoder = SafeEncoder(
    partial(process_models.while_there, sys.argv[1], str(gone)),
    isolation="process", reload=None, hooks=[lambda event: encoder.stats],
)
child = os.fork()
if not child:
    gone.touch()
    try:
        encoder.encode("雨")
    except ConnectionError as error:
        print(error, flush=True)
    gone.unlink()
    print(encoder.encode("雨").shape, flush=True)
    encoder.close()
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.long
def test_after_a_fork_a_start_that_fails_is_tried_again(saved: Path, tmp_path: Path) -> None:
    """The call that needed it says why; the next one begins anew."""
    done = subprocess.run(
        [sys.executable, "-c", _FORK_FAILS, str(saved), str(tmp_path / "gone")],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=TESTS,
        check=False,
    )
    assert "the hub is away\n(32,)\n" == done.stdout, done.stderr


_FORK = """
import os, sys
import numpy as np
from safe_embed import SafeEncoder

encoder = SafeEncoder(sys.argv[1], isolation="process", reload=None)
encoder.truncate_dim = 9
expected = encoder.encode(["雨", "雪"])
[mine] = [one.pid for one in encoder.stats.workers]
child = os.fork()
if not child:
    found = encoder.encode(["雨", "雪"])
    [other] = [one.pid for one in encoder.stats.workers]
    print("child", found.shape, bool((found == expected).all()), other != mine, flush=True)
    encoder.close()
    os._exit(0)
os.waitpid(child, 0)
found = encoder.encode(["雨", "雪"])
[still] = [one.pid for one in encoder.stats.workers]
print("parent", bool((found == expected).all()), still == mine)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.long
def test_after_a_fork_the_child_begins_its_own_worker(saved: Path) -> None:
    """The copy leaves the parent's worker alone, keeps what was set, and leaves nothing over."""
    done = subprocess.run(
        [sys.executable, "-c", _FORK, str(saved)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "child (2, 9) True True\nparent True True\n" == done.stdout, done.stderr


def test_closing(saved: Path) -> None:
    """Calls under way and those that wait get a WorkerError, at once; later ones too."""
    own = len(children())  # of the fixtures
    encoder = SafeEncoder(saved, reload=None, isolation="process", device="cpu")
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(encoder.encode, models.long_text(3000)) for _ in range(6)]
        seams.wait_until(lambda: encoder.stats.tokens)
        reloads = [pool.submit(encoder.reload, "test") for _ in range(2)]
        seams.wait_until(lambda: len(children()) > own + 1)
        encoder.close()
        for call in calls:
            assert isinstance(call.exception(30), WorkerError)
        for call in reloads:
            assert isinstance(call.exception(30), WorkerError)
    encoder.close()
    for attempt in (lambda: encoder.encode("雨"), lambda: encoder.stats, encoder.reload):
        with pytest.raises(WorkerError, match="closed"):
            attempt()


def test_a_cancelled_call_gives_up_its_place(apart: SafeEncoder, reference: SafeEncoder) -> None:
    """Its tasks are not done any more; those of others are."""
    long = models.long_text(6000)

    async def main() -> Any:
        before = apart.stats.tokens
        task = asyncio.create_task(apart.aencode(long))
        # until it is under way
        await asyncio.to_thread(seams.wait_until, lambda: apart.stats.tokens > before)
        task.cancel()
        return await apart.aencode(TEXTS)

    tokens = apart.stats.tokens
    np.testing.assert_array_equal(reference.encode(TEXTS), asyncio.run(main()))
    whole = sum(apart.plan(long)[0].token_counts)
    assert apart.stats.tokens - tokens < whole
    apart.backend.idle()


@pytest.mark.long
def test_the_parent_stays_small(saved: Path) -> None:
    """What comes and goes between the processes leaves nothing here."""
    calls = 10_000 if FULL else 300
    code = (
        "import random, sys\nimport models\nfrom safe_embed import SafeEncoder\n"
        "from safe_embed.memory.sampling import anonymous_bytes\n"
        "encoder = SafeEncoder(sys.argv[1], isolation='process')\n"
        "chance = random.Random(0)\n"
        "for call in range(int(sys.argv[2])):\n"
        "    if call == 100:\n        base = anonymous_bytes()\n"
        "    encoder.encode(models.long_text(int(2 ** chance.uniform(0, 5)), call))\n"
        "print(anonymous_bytes() - base)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(saved), str(calls)],
        capture_output=True,
        text=True,
        cwd=TESTS,
        check=True,
    )
    assert int(done.stdout) <= 8 * MIB
