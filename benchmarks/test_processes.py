"""What a model in a process of its own costs, and what its users see when a process is replaced."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import embedders
from alone import Alone
from conftest import Records, Size, expect
from safe_embed import SafeEncoder

SHORT = "文書の数は今日も増えています。"


@pytest.fixture(scope="module")
def pair(model_folder: Path) -> Iterator[tuple[Alone, Alone]]:
    """The offline model beside a thread, the control, and in a process of its own.

    Neither is in this process, whose own threads would slow down the first.
    """
    where = (str(model_folder), "cpu", None)
    found = Alone(embedders.safe, *where), Alone(embedders.safe, *where, "process")
    yield found
    for one in found:
        one.close()


@pytest.fixture(scope="module")
def apart(model_folder: Path) -> Iterator[SafeEncoder]:
    """The offline model in a process of its own, whose end is seen from here."""
    options: dict[str, Any] = {"reload": None, "isolation": "process"}
    with SafeEncoder(str(model_folder), device="cpu", **options) as encoder:
        encoder.encode([SHORT] * 8)
        yield encoder


def timed(encoder: SafeEncoder, texts: Any) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    encoder.encode(texts)
    return time.perf_counter() - started


@pytest.mark.parametrize("is_one", [True, False], ids=["one text", "many texts"])
def test_overhead(
    is_one: bool,  # noqa: FBT001 pytest passes by name
    benchmark: BenchmarkFixture,
    records: Records,
    pair: tuple[Alone, Alone],
    size: Size,
) -> None:
    """The same texts beside a thread and in a process, in turn: seconds, and their ratio."""
    texts: Any = SHORT
    count, rounds = 1, size.pick(5, 200, 1000)
    if not is_one:
        count, rounds = size.pick(8, 100, 200), size.pick(1, 5, 9)
        texts = [row["text"][:200] for row in records("jaquad_dev_paragraphs")[:count]]
    pairs: list[tuple[float, float]] = []

    def both() -> None:
        pairs.append((pair[0].timed("encode")(), pair[1].timed("encode")()))

    for one in pair:
        one.keep(texts)
        one.result("encode", SHORT if is_one else texts[:8])

    benchmark.pedantic(both, rounds=rounds)
    beside, apart = (median(one) for one in zip(*pairs, strict=True))
    benchmark.extra_info |= {
        "texts": count,
        "beside_seconds": round(beside, 5),
        "apart_seconds": round(apart, 5),
        "overhead_ms": round(1000 * (apart - beside), 2),
        "throughput_ratio": round(median(one / other for one, other in pairs), 3),
        "samples": [[round(one, 5), round(other, 5)] for one, other in pairs],
    }
    shown = {name: one for name, one in benchmark.extra_info.items() if name != "samples"}
    print(f"\n{shown}")
    expect(benchmark.extra_info, beside_seconds=(1e-4, 1e3), throughput_ratio=(0.01, 10))


@pytest.mark.parametrize("event", ["take-over", "death"])
def test_replacement(
    event: str, benchmark: BenchmarkFixture, apart: SafeEncoder, size: Size
) -> None:
    """A caller embeds one short text after the other; what it waits while the process goes."""
    encoder = apart
    usual = [timed(encoder, SHORT) for _ in range(size.pick(5, 50, 50))]
    delays: list[float] = []
    seconds: list[float] = []

    def replace() -> None:
        is_over = threading.Event()
        mine: list[float] = []

        def call() -> None:
            while not is_over.is_set():
                mine.append(timed(encoder, SHORT))
                time.sleep(size.pick(0.1, 0, 0))  # leaves a smoke run the core for the load

        caller = threading.Thread(target=call)
        caller.start()
        started = time.perf_counter()
        if event == "take-over":
            encoder.reload("benchmark")
        else:
            [worker] = encoder.stats.workers
            os.kill(worker.pid, signal.SIGKILL)
            while worker.pid in [one.pid for one in encoder.stats.workers] or not mine[3:]:
                time.sleep(0.01)
            timed(encoder, SHORT)
        seconds.append(time.perf_counter() - started)
        is_over.set()
        caller.join()
        delays.extend(mine)

    benchmark.pedantic(replace, rounds=size.pick(1, 3, 10))
    benchmark.extra_info |= {
        "usual_median_ms": round(1000 * median(usual), 1),
        "median_ms": round(1000 * median(delays), 1),
        "p95_ms": round(1000 * sorted(delays)[int(0.95 * len(delays))], 1),
        "max_ms": round(1000 * max(delays), 1),
        "replaced_in_seconds": [round(one, 2) for one in seconds],
        "calls": len(delays),
    }
    print(f"\n{event}: {benchmark.extra_info}")
    expect(benchmark.extra_info, usual_median_ms=(0.1, 1e4), max_ms=(0.1, 1e6), calls=(4, 1e7))
