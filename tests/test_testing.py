"""``assert_flat_memory``: a slope fails and is named, a plateau passes."""

from __future__ import annotations

import ctypes
import gc
import re
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from safe_embed.diagnosis.containers import container_sizes, grown_containers
from safe_embed.errors import ConfigError, MissingExtraError
from safe_embed.testing import assert_flat_memory

KB50 = 50_000
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the C library is that of Linux")


def failure(function: Callable[[], object], **arguments: int) -> str:
    """The message of a failure."""
    with pytest.raises(AssertionError) as failed:
        assert_flat_memory(function, **arguments)
    return str(failed.value)


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What a test leaves is given back before the next one."""
    yield
    gc.collect()


# --- What passes ----------------------------------------------------------------------------------


def test_a_function_that_keeps_nothing_passes() -> None:
    """What it takes it gives back; it was called in warm-up and run."""
    called: list[None] = []

    def work() -> None:
        called.append(None)
        bytes(KB50)

    growth = assert_flat_memory(work, warm_up_calls=5)
    assert growth.verdict in {"flat", "plateau"}
    assert 5 + growth.calls == len(called)
    assert growth.calls >= 200


def test_a_cache_that_fills_in_the_first_fifth_passes() -> None:
    """Its 40 entries of 1 MB are no growth."""
    cache: dict[int, bytes] = {}
    number = iter(range(10**6))

    def work() -> None:
        cache[next(number) % 40] = b"x" * 1_000_000

    assert assert_flat_memory(work, warm_up_calls=0).verdict == "plateau"


def test_growth_within_the_tolerance_passes() -> None:
    """Of 50 kB in each of the last 100 calls: 5 MB."""
    held: list[bytes] = []
    verdict = assert_flat_memory(lambda: held.append(b"x" * KB50), tolerance_bytes="64 MiB").verdict
    assert verdict in {"flat", "plateau"}


def test_files_that_are_opened_once_pass(tmp_path: Path) -> None:
    """As a pool of connections is."""
    pool = []

    def work() -> None:
        if len(pool) < 6:
            pool.append((tmp_path / str(len(pool))).open("w"))

    assert_flat_memory(work, warm_up_calls=0)
    for file in pool:
        file.close()


# --- What fails -----------------------------------------------------------------------------------


@on_linux
def test_a_native_leak_fails_with_its_figures() -> None:
    """Neither objects nor the allocator are blamed; the experiment that decides is named."""
    malloc = ctypes.CDLL(None).malloc
    malloc.restype = ctypes.c_void_p
    leaked = []

    def leak() -> None:
        block = malloc(ctypes.c_size_t(KB50))
        ctypes.memset(block, 1, KB50)
        leaked.append(block)

    message = failure(leak)
    free = ctypes.CDLL(None).free
    for block in leaked:
        free(ctypes.c_void_p(block))
    slope = re.match(r"Memory grows: ([\d.]+) kB a call \(95 % interval", message)
    assert slope
    assert 40 < float(slope[1]) < 60  # of 50 kB, some fill blocks that others have freed
    assert "unclear" in message
    assert "Python objects held" not in message
    assert "memory kept by the allocator" not in message
    assert "safe-embed doctor --target your_module:function" in message


def test_a_list_that_is_held_is_named() -> None:
    """With the type of its entries, in both languages, and a remedy."""
    held: list[bytes] = []
    message = failure(lambda: held.append(b"x" * KB50))
    assert "Python objects held (list of bytes" in message
    assert "保持されている Python オブジェクト" in message
    assert "results.clear()" in message
    assert "allocator" not in message


def test_a_dict_that_is_held_is_named() -> None:
    """Whatever its keys are."""
    held: dict[str, bytearray] = {}
    message = failure(lambda: held.update({str(len(held)): bytearray(b"x" * KB50)}))
    assert "dict of bytearray" in message


def test_reference_cycles_are_named() -> None:
    """With the garbage collector off, as in servers that call it between requests."""

    def work() -> None:
        cycle: list[object] = [b"x" * KB50]
        cycle.append(cycle)

    gc.disable()
    try:
        message = failure(work)
    finally:
        gc.enable()
    assert "reference cycles" in message
    assert "gc.collect()" in message


# Each freed block is smaller than all that is asked for later, and lies below a block in use.
KEPT = """
import ctypes
from safe_embed.testing import assert_flat_memory
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
sizes = iter(range(40_000, 128_000, 16))
def work():
    block = libc.malloc(ctypes.c_size_t(next(sizes)))
    ctypes.memset(block, 1, 40_000)
    libc.malloc(ctypes.c_size_t(next(sizes)))
    libc.free(ctypes.c_void_p(block))
assert_flat_memory(work, tolerance_bytes=1_000_000)
"""


@on_linux
def test_free_blocks_that_are_kept_name_the_allocator() -> None:
    """In a process of its own: other tests leave blocks in which these would fit."""
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=False)
    assert "AssertionError: Memory grows" in done.stderr
    assert "memory kept by the allocator" in done.stderr
    assert "malloc_trim" in done.stderr


def test_a_verdict_that_stays_unclear_fails() -> None:
    """After 16 times the calls: memory that rises ever more slowly is neither flat nor growth."""
    held: list[bytes] = []

    def work() -> None:
        before, now = len(held) ** 0.5, (len(held) + 1) ** 0.5
        held.append(b"x" * int(2_000_000 * (now - before)))

    message = failure(work, warm_up_calls=0)
    assert message.startswith("It is unclear whether memory grows")
    assert "in 3,200 calls" in message
    assert "まだ分かりません" in message


def test_entries_that_hold_more_than_themselves_are_told() -> None:
    """They are no proof, but a hint."""
    held: list[dict[str, bytes]] = []
    message = failure(lambda: held.append({"vector": b"x" * KB50}))
    assert "list of dict" in message


def test_files_that_stay_open_fail(tmp_path: Path) -> None:
    """Even under flat memory."""
    opened = []
    path = tmp_path / "file"
    path.touch()
    message = failure(lambda: opened.append(path.open()))
    for file in opened:
        file.close()
    assert "file descriptors (" in message
    assert "ファイル記述子" in message
    assert not message.startswith("Memory grows")


def test_an_error_of_the_function_passes_through() -> None:
    """In the warm-up and in the run; it is no verdict on memory."""
    for fine in (3, 100):
        with pytest.raises(StopIteration):
            assert_flat_memory(iter(range(fine)).__next__)


# --- Arguments ------------------------------------------------------------------------------------


def test_too_few_calls_are_refused_before_any_is_made() -> None:
    """With the reason, in both languages."""
    called: list[None] = []
    for arguments in ({"calls": 199}, {"calls": 0}, {"warm_up_calls": -1}, {"tolerance_bytes": 0}):
        with pytest.raises(ConfigError):
            assert_flat_memory(lambda: called.append(None), **arguments)
    with pytest.raises(ConfigError, match=r"cache(.|\n)*キャッシュ"):
        assert_flat_memory(lambda: called.append(None), calls=50)
    assert [] == called


def test_without_the_extra_it_is_named_before_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to type."""
    monkeypatch.setitem(sys.modules, "pymannkendall", None)
    called: list[None] = []
    with pytest.raises(MissingExtraError, match="doctor"):
        assert_flat_memory(lambda: called.append(None))
    assert [] == called


# --- What is loaded, and the fixture of pytest ----------------------------------------------------

LOADED = """
import sys
from safe_embed.testing import assert_flat_memory
assert_flat_memory(lambda: None)
print(sorted({"torch", "transformers", "sentence_transformers", "tokenizers", "fugashi"} & set(sys.modules)))
"""
TESTS = """
import sys
AT_START = {"torch", "numpy", "scipy", "psutil", "safe_embed.testing"} & set(sys.modules)
def test_start():
    assert not AT_START
def test_flat(assert_flat_memory):
    assert_flat_memory(lambda: None)
def test_growth(assert_flat_memory):
    held = []
    assert_flat_memory(lambda: held.append(b"x" * 50_000))
"""


def test_neither_torch_nor_the_encoder_is_loaded() -> None:
    """A test of a splitter or a store does not wait for them."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True
    )
    assert "[]" == done.stdout.strip()


def test_the_fixture_gives_the_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a plugin that loads nothing when pytest starts; the verdict is what pytest shows."""
    (tmp_path / "test_it.py").write_text(TESTS)
    # An installed package registers the plugin by its entry point: not twice.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "safe_embed.pytest_plugin", "-q", "test_it.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed, 2 passed" in done.stdout
    assert "AssertionError: Memory grows" in done.stdout
    assert "testing.py" not in done.stdout


class Secretive(list[bytes]):
    """A list of the user's own whose methods raise."""

    def __len__(self) -> int:
        raise OverflowError("合言葉は山川豊")

    def __iter__(self) -> Any:
        raise OverflowError("合言葉は山川豊")

    __reversed__ = __iter__


def test_no_method_of_the_users_containers_is_called() -> None:
    """One that raises is counted and described all the same."""
    held = Secretive([b"x"])
    before = container_sizes()
    for _ in range(5_000):
        held.append(bytes(20))
    found = [one for one in grown_containers(before, 5_000) if one.kind == "Secretive"]
    assert [(5_000, "bytes")] == [(one.more_entries, one.entry_kind) for one in found]


class Keeper:
    """An object that keeps entries."""

    def __init__(self, entries: Any) -> None:
        self.entries = entries


@pytest.mark.parametrize("kind", [list, dict, set, deque])
def test_a_container_is_named_by_its_owner(kind: type[Any]) -> None:
    """Whatever its kind: not by what goes through it while it is looked at."""
    keeper = Keeper(kind())
    before = container_sizes()
    for number in range(5_000):
        entry = f"entry {number}"
        match keeper.entries:
            case dict():
                keeper.entries[number] = entry
            case set():
                keeper.entries.add(entry)
            case _:
                keeper.entries.append(entry)
    gc.collect()  # referrers that are old come last
    [grown] = [one for one in grown_containers(before, 5_000) if one.owner.endswith("Keeper")]
    assert (kind.__name__, 5_000, "str") == (grown.kind, grown.more_entries, grown.entry_kind)
