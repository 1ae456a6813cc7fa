"""Another allocator than glibc's: its figures are not made up, and its own way back is taken."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from safe_embed.memory import allocators
from safe_embed.memory.ladder import Ladder
from safe_embed.memory.types import Event, MemorySample, Reason, Rung

MIB = 2**20

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD as on Linux")


def test_without_mallinfo2_the_heap_is_unknown() -> None:
    """Musl, and every system but glibc: None, not 0."""
    expected = {"heap_used_bytes": None, "heap_kept_bytes": None}
    assert expected == allocators.heap_reader(SimpleNamespace())()


@on_linux
def test_the_heap_of_glibc_is_counted() -> None:
    """64 MiB from malloc are in use, and are no longer after free."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        pytest.skip("this C library has no mallinfo2")
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    read = allocators.heap_reader(libc)
    before = read()["heap_used_bytes"] or 0
    block = libc.malloc(64 * MIB)
    during = read()["heap_used_bytes"] or 0
    libc.free(block)
    after = read()["heap_used_bytes"] or 0
    assert 64 * MIB == pytest.approx(during - before, abs=MIB)
    assert 0 == pytest.approx(after - before, abs=MIB)


# An allocator of its own that a process is started with

_SHIM = """
#include <stddef.h>
#include <stdlib.h>
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void __libc_free(void *);
void *malloc(size_t n) { return __libc_malloc(n); }
void *calloc(size_t n, size_t m) { return __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { return __libc_realloc(p, n); }
void free(void *p) { __libc_free(p); }
"""

# What a process with the allocator says: its heap figures, and its memory before and after a trim.
# 5,000 bytes are more than Python's own blocks hold, so that each comes from malloc.
_SAY = """
import json
from safe_embed.memory.allocators import trim_heap
from safe_embed.memory.sampling import anonymous_bytes, take_sample
blocks = [bytes(5000) for _ in range(20_000)]
last = blocks[-1]
blocks.clear()
sample, freed = take_sample(), anonymous_bytes()
trim_heap()
print(json.dumps([sample.heap_used_bytes, sample.heap_kept_bytes, freed, anonymous_bytes()]))
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that only watches ``malloc``, as a memory profiler does."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    path = tmp_path_factory.mktemp("shim")
    (path / "shim.c").write_text(_SHIM)
    options = ["-shared", "-fPIC", "-o", str(path / "shim.so"), str(path / "shim.c")]
    subprocess.run([compiler, *options], check=True, capture_output=True)
    return str(path / "shim.so")


def said(library: str, **environment: str) -> list[int | None]:
    """What a process says that was started with an allocator."""
    done = subprocess.run(
        [sys.executable, "-c", _SAY],
        env={**os.environ, "LD_PRELOAD": library, "PYTHONMALLOC": "malloc", **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "cannot be preloaded" not in done.stderr
    figures: list[int | None] = json.loads(done.stdout)
    return figures


def installed(name: str) -> str:
    """The file of a library, or the test is skipped."""
    path = ctypes.util.find_library(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


@on_linux
@pytest.mark.parametrize(
    ("name", "environment"),
    [
        # Without these jemalloc and tcmalloc give freed blocks back by themselves, sooner or later.
        ("jemalloc", {"MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1"}),
        ("tcmalloc_minimal", {"TCMALLOC_RELEASE_RATE": "0"}),
    ],
)
def test_another_allocator_gives_back_in_its_own_way(
    name: str, environment: dict[str, str]
) -> None:
    """100 MB that were freed are kept until its own function is called; its figures are unknown."""
    used, kept, freed, trimmed = said(installed(name), **environment)
    assert (None, None) == (used, kept)
    assert freed is not None
    assert trimmed is not None
    assert freed - trimmed > 60 * MIB


@on_linux
def test_a_library_that_watches_malloc_leaves_the_trim_to_glibc(shim: str) -> None:
    """Whose heap it is cannot be told, so that the figures are unknown; a trim works all the same."""
    used, kept, freed, trimmed = said(shim)
    assert (None, None) == (used, kept)
    assert freed is not None
    assert trimmed is not None
    assert freed - trimmed > 60 * MIB


def recording(*names: str) -> tuple[Any, list[tuple[str, Any]]]:
    """A C library of functions that note their first argument, and the notes."""
    calls: list[tuple[str, Any]] = []

    def function(name: str) -> Any:
        def call(*args: Any) -> None:
            calls.append((name, getattr(args[0], "value", args[0]) if args else None))

        return call

    return SimpleNamespace(**{name: function(name) for name in names}), calls


@pytest.mark.parametrize(
    ("functions", "expected"),
    [
        (["malloc_trim"], [("malloc_trim", 0)]),
        (["malloc_zone_pressure_relief"], [("malloc_zone_pressure_relief", None)]),
        (["mallctl"], [("mallctl", b"thread.tcache.flush"), ("mallctl", b"arena.4096.purge")]),
        (
            ["malloc_trim", "MallocExtension_ReleaseFreeMemory"],
            [("MallocExtension_ReleaseFreeMemory", None), ("malloc_trim", 0)],
        ),
        (["malloc"], []),  # musl
    ],
)
def test_every_allocator_is_asked_in_its_own_way(
    functions: list[str], expected: list[tuple[str, Any]]
) -> None:
    """What is there is called, and nothing else."""
    libc, calls = recording(*functions)
    allocators.trim_heap(libc)
    assert expected == calls


# A trim that gave nothing back


@pytest.mark.parametrize(
    ("held_after", "told"),
    [(100, []), (101, []), (99, ["remedy"]), (None, ["remedy"])],
    ids=["nothing", "less than nothing", "something", "not known"],
)
def test_a_trim_that_gives_nothing_back_is_no_remedy(
    held_after: int | None, told: list[str]
) -> None:
    """It is not reported as one, unless nobody can tell; the climb goes on all the same."""
    held = iter([100 * MIB, None if held_after is None else held_after * MIB])
    events: list[Event] = []
    ladder = Ladder(
        {Rung.TRIM: lambda: None},
        lambda: MemorySample(0.0, rss_anon_bytes=next(held)),
        events.append,
    )
    for _ in ladder.climb(Reason("grown", rung=Rung.TRIM), MemorySample(0.0)):
        pytest.fail("nothing waits here")
    assert told == [event.kind for event in events]


def test_a_trim_that_fails_is_told() -> None:
    """An error is an error, whatever it gave back."""
    events: list[Event] = []

    def fail() -> None:
        raise OSError

    ladder = Ladder({Rung.TRIM: fail}, lambda: MemorySample(0.0, rss_anon_bytes=1), events.append)
    list(ladder.climb(Reason("grown", rung=Rung.TRIM), MemorySample(0.0)))
    assert ["failed"] == [event.kind for event in events]


def named(library: str) -> str:
    """The name of the allocator, of a process that was started with a library."""
    say = "from safe_embed.memory.allocators import allocator_name; print(allocator_name())"
    done = subprocess.run(
        [sys.executable, "-c", say],
        env={**os.environ, "LD_PRELOAD": library},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


@on_linux
@pytest.mark.parametrize("name", ["jemalloc", "tcmalloc_minimal"])
def test_a_known_allocator_is_named(name: str) -> None:
    """By a function that only it has."""
    assert name.removesuffix("_minimal") == named(installed(name))


@on_linux
def test_the_file_that_has_malloc_names_the_allocator(shim: str) -> None:
    """The functions of glibc are there without its malloc, too."""
    assert "shim.so" == named(shim)
    assert named("") in {"glibc", "libc.musl-x86_64.so.1"}


def test_an_allocator_that_cannot_be_told_has_no_name() -> None:
    """As on Windows, or in a library without symbols."""
    assert allocators.allocator_name(SimpleNamespace()) is None
