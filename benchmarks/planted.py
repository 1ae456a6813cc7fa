"""Functions with a planted cause of growth each, and clean ones: what the doctor is tested with.

Each is a target of ``safe-embed doctor --target planted:NAME``, with a model of two layers from the
folder that PLANTED_MODEL names. Clean functions may need memory, and do not grow without end.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import random
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

KB, MB = 1_000, 1_000_000
# Name of the function -> the verdicts that name its cause.
PLANTED = {
    "held_list": {"python objects"},
    "leak_in_forward": {"forward"},
    "small_leak_in_forward": {"forward"},
    "tokenizer_cache": {"tokenizer cache"},  # with tokenizers 0.20.3 only
    "kept_blocks": {"allocator"},
    "paged_in": {"paged in"},
    "thread_pool": {"calling threads"},
    "entry_per_shape": {"shapes"},
    "tagger_kept": {"splitter cache"},
    "taggers_dropped": {"mappings"},
    "between_calls": {"outside"},
    "descriptors": {"file descriptors"},
    # lancedb 0.40 keeps what it takes in use: a trim gives back a fiftieth.
    "lancedb_table": {"arenas", "outside"},
}
CLEAN = (
    "varying_lengths",
    "few_threads",
    "clean_paging",
    "cache_that_fills",
    "one_off_steps",
    "own_peaks",
)
# Calls of an experiment at the least; a cache that fills in a third of them.
CALLS = 2_000

_numbers = count()
_held: list[Any] = []
_random = random.Random(int(os.environ.get("PLANTED_SEED", "0")))


@functools.cache
def model() -> Any:
    """The model of two layers."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(os.environ["PLANTED_MODEL"], device="cpu")


def embed(text: str) -> Any:
    """A call of upstream's own."""
    return model().encode(text, show_progress_bar=False)


@functools.cache
def _malloc() -> Any:
    malloc = ctypes.CDLL(None).malloc
    malloc.restype = ctypes.c_void_p
    malloc.argtypes = (ctypes.c_size_t,)
    return malloc


def leak(size: int) -> None:
    """Lose memory that Python knows nothing of."""
    ctypes.memset(_malloc()(size), 1, size)


# --- Planted --------------------------------------------------------------------------------------


def held_list(text: str) -> None:
    """A list holds the results, of 768 dimensions."""
    _held.append(np.resize(embed(text), 768))


@functools.cache
def _leaking(size: int) -> Any:
    from torch import nn

    class Leaking(nn.Module):
        def forward(self, features: Any) -> Any:
            leak(size)
            return features

    model().append(Leaking())
    return model()


def leak_in_forward(text: str) -> None:
    """1 MB is lost in the forward pass of each call."""
    _leaking(MB).encode(text, show_progress_bar=False)


def small_leak_in_forward(text: str) -> None:
    """20 kB are lost in the forward pass of each call."""
    _leaking(20 * KB).encode(text, show_progress_bar=False)


def leak_of_a_size(text: str) -> None:
    """As many bytes as PLANTED_LEAK_BYTES says are lost in the forward pass of each call."""
    _leaking(int(os.environ["PLANTED_LEAK_BYTES"])).encode(text, show_progress_bar=False)


def tokenizer_cache(text: str) -> None:
    """Runs without a blank, which tokenizers up to 0.20.3 keeps whole."""
    embed("".join(text.split()) * 4)


def kept_blocks(text: str) -> None:
    """Buffers of varying sizes and number, freed below small blocks that stay for a while."""
    embed(text)
    count = int(1_500 * _random.random() ** 4)
    blocks = [bytearray(_random.randrange(2 * KB, 60 * KB)) for _ in range(count)]
    _held.append(bytes(1_500))
    blocks.clear()
    if len(_held) > 400:
        del _held[:200]


@functools.cache
def _mapped() -> Any:
    with tempfile.TemporaryFile() as file:
        file.truncate(200 * MB)
        return mmap.mmap(file.fileno(), 200 * MB, access=mmap.ACCESS_READ)


def paged_in(text: str) -> None:
    """A mapped file of 200 MB is read, ten pages a call."""
    embed(text)
    start = (next(_numbers) * 10 * 4096) % (199 * MB)
    assert sum(_mapped()[start + page * 4096] for page in range(10)) == 0


_callers: list[ThreadPoolExecutor] = []


def thread_pool(text: str) -> None:
    """A thread pool of callers, one more every twentieth call, up to 200."""
    number = next(_numbers)
    if number % 20 == 0 and len(_callers) < 200:
        _callers.append(ThreadPoolExecutor(1))
    _callers[-1].submit(embed, text).result()


_shapes: dict[int, Any] = {}


def entry_per_shape(text: str) -> None:
    """A dict keeps 100 kB for each distinct length."""
    embed(text)
    if len(text) not in _shapes:
        _shapes[len(text)] = np.ones(100 * KB, dtype=np.uint8)


@functools.cache
def _tagger() -> Any:
    from fugashi import Tagger

    return Tagger()


def tagger_kept(text: str) -> None:
    """A Tagger of fugashi is called with new words: it keeps every surface."""
    embed(text)
    kana = [chr(code) for code in range(0x30A1, 0x30FB)]
    _tagger()(" ".join("".join(_random.choices(kana, k=8)) for _ in range(40)))


def taggers_dropped(text: str) -> None:
    """A new Tagger every tenth call, which is dropped: its dictionary stays mapped."""
    embed(text)
    if next(_numbers) % 10 == 0:
        from fugashi import Tagger

        Tagger().parse(text)


def between_calls(text: str) -> None:
    """The code around the model loses 50 kB after each call."""
    embed(text)
    leak(50 * KB)


def descriptors(text: str) -> None:
    """A file is opened by each fifth call, and not closed."""
    embed(text)
    if next(_numbers) % 5 == 0:
        _held.append(Path(os.devnull).open(encoding="utf-8"))  # noqa: SIM115 the cause


@functools.cache
def _table() -> Any:
    import lancedb

    folder = tempfile.mkdtemp(prefix="planted-lancedb-")
    row = {"id": -1, "text": "", "vector": [0.0] * 384}
    return lancedb.connect(folder).create_table("rows", [row])


def lancedb_table(text: str) -> None:
    """Rows are merged into a table of LanceDB, a hundred at a time."""
    number = next(_numbers)
    embed(text)
    rows = [
        {"id": number * 100 + at, "text": text, "vector": np.full(384, at, dtype=np.float32)}
        for at in range(100)
    ]
    _table().merge_insert("id").when_not_matched_insert_all().execute(rows)


# --- Clean ----------------------------------------------------------------------------------------


def varying_lengths(text: str) -> None:
    """Texts as they come, and results that are dropped."""
    embed(text)


@functools.cache
def _four() -> list[ThreadPoolExecutor]:
    return [ThreadPoolExecutor(1) for _ in range(4)]


def few_threads(text: str) -> None:
    """Four threads that live long call in turn."""
    _four()[next(_numbers) % 4].submit(embed, text).result()


def clean_paging(text: str) -> None:
    """A mapped file is read once, within a third of the calls."""
    embed(text)
    start = min(next(_numbers) * 3, CALLS) * 10 * 4096
    assert sum(_mapped()[start + page * 4096] for page in range(10)) == 0


def cache_that_fills(text: str) -> None:
    """A cache of results that is full after a third of the calls: 30 MB."""
    embed(text)
    if len(_held) < CALLS / 3:
        _held.append(np.ones(45 * KB, dtype=np.uint8))


def one_off_steps(text: str) -> None:
    """Two tables of 20 MB are loaded, at two moments."""
    embed(text)
    if next(_numbers) in {_first_step(), 3 * _first_step()}:
        _held.append(np.ones(20 * MB, dtype=np.uint8))


@functools.cache
def _first_step() -> int:
    return _random.randrange(50, CALLS // 4)


def own_peaks(text: str) -> None:
    """Peaks of up to 60 MB that are gone with the call, and slow ones that stay for 50 calls."""
    embed(text)
    number = next(_numbers)
    if _random.random() < 0.05:
        np.ones(_random.randrange(5, 60) * MB, dtype=np.uint8)
    if number % 50 == 0:
        _held[:] = [np.ones(_random.randrange(1, 10) * MB, dtype=np.uint8)]
