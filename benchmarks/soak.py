"""Encoders in both modes, for an hour, while everything goes wrong: `make soak`.

Eight threads embed and compare every vector with a reference; meanwhile workers are killed and
stopped, models are reloaded, models leak, the user's own memory has peaks, the files of the model
change, and the disk is full. Nothing may be lost, wrong, repeated or left over.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import models
import process_models
import run_record
from safe_embed import MemoryGrowth, SafeEncoder
from safe_embed.errors import ReloadError

# What a soak covers: a change in them makes its record stale.
ROOMS = (
    *("backends", "inference", "ipc", "memory", "supervision", "upstream"),
    *("encoder.py", "encoding.py", "streaming.py", "waiting.py"),
)
THREADS = 8
MIB = 2**20
BOUND_MIB = 64
# Of a text that leaks: the bound is reached again and again between two kills.
LEAK_BYTES = 256 * 1024
TIMEOUT_SECONDS = 20.0
# Where callers of a process that grows are held up, in bounds, and what a batch may add to that.
MOST_BOUNDS = 1.5
BATCH_MIB = 8
# Chunks of one text are in other batches every time. Source: upstream's own noise.
TOLERANCE = 1e-5
# A worker that was stopped is let go on after so long, if it is still there.
STOPPED_SECONDS = 1.5 * TIMEOUT_SECONDS
# So long after its end a soak may take to begin and end, on the busiest machine.
PATIENCE_SECONDS = 600.0


@dataclass
class Subject:
    """An encoder under test, and what was seen of it.

    Attributes:
        encoder: The encoder.
        counts: Calls, texts, and all that must be 0.
        peak_bytes: The most that a worker has grown beyond its baseline.
    """

    encoder: SafeEncoder
    counts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    peak_bytes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, **counts: int) -> None:
        """Count."""
        with self.lock:
            self.counts.update(counts)

    def look(self) -> None:
        """Take note of how much the workers have grown."""
        for worker in self.encoder.stats.workers:
            if worker.sample and worker.baseline:
                grown = worker.sample.held_bytes - worker.baseline.held_bytes
                self.peak_bytes = max(self.peak_bytes, grown)


def texts_of(seed: int, count: int = 60) -> list[str]:
    """Make texts of all lengths, some of which make a hoarding model keep memory."""
    chance = random.Random(seed)
    alphabet = "今日は雨です東京都の人口を調べる。、「」！？\n"
    lengths = [chance.choice((1, 5, 20, 60, 300, 2000)) for _ in range(count)]
    return [
        "".join(chance.choices(alphabet, k=length))
        + (process_models.POISON if at % 5 == 0 else "")
        + str(at)
        for at, length in enumerate(lengths)
    ]


# Callers


def by_aencode(encoder: SafeEncoder, texts: list[str], priority: int) -> Any:
    """Embed as asyncio does."""
    return asyncio.run(encoder.aencode(texts, priority=priority))


def by_chunks(encoder: SafeEncoder, texts: list[str], priority: int) -> Any:
    """Embed chunks; with the budget of the model they give the vectors of encode."""
    return [text.pooled() for text in encoder.encode_chunks(texts, priority=priority)]


WAYS: Sequence[Callable[[SafeEncoder, list[str], int], Any]] = (
    lambda encoder, texts, priority: encoder.encode(texts, priority=priority),
    lambda encoder, texts, priority: encoder.encode(iter(texts), priority=priority),
    lambda encoder, texts, priority: list(encoder.encode_stream(texts, priority=priority)),
    by_aencode,
    by_chunks,
)


def call(subject: Subject, reference: dict[str, Any], chance: random.Random) -> None:
    """Do one call, and compare all that it gives."""
    texts = chance.choices(list(reference), k=chance.randint(1, 20))
    try:
        rows = chance.choice(WAYS)(subject.encoder, texts, chance.choice((0, 0, 0, 1)))
    except Exception as error:  # noqa: BLE001 whatever it is, it is counted
        subject.note(lost=len(texts))
        subject.errors[f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"] += 1
        return
    subject.note(
        calls=1,
        texts=len(texts),
        lost=max(0, len(texts) - len(rows)),
        repeated=max(0, len(rows) - len(texts)),
        wrong=sum(
            not np.allclose(reference[text], row, rtol=0, atol=TOLERANCE)
            for text, row in zip(texts, rows, strict=False)
        ),
    )


# What goes wrong


@dataclass
class Faults:
    """All that goes wrong, at random.

    Attributes:
        subjects: The encoders by name.
        folder: Of the model of the encoder ``workers``.
        disk: Where temporary files go.
    """

    subjects: dict[str, Subject]
    folder: Path
    disk: Path
    is_mounted: bool
    chance: random.Random
    counts: Counter[str] = field(default_factory=Counter)
    stopped: dict[int, float] = field(default_factory=dict)

    def strike(self) -> None:
        """Let one thing go wrong."""
        faults = (self.kill, self.stop, self.reload, self.peak, self.change_files, self.fill_disk)
        fault = self.chance.choice(faults)
        fault()
        self.counts[fault.__name__] += 1

    def keep_going(self, until: threading.Event) -> None:
        """Let workers go on that were stopped for long; on a thread of its own."""
        while not until.wait(0.5):
            self.go_on(STOPPED_SECONDS)
        self.go_on(0.0)

    def go_on(self, after_seconds: float) -> None:
        """Let workers go on that were stopped so long ago."""
        for pid, since in tuple(self.stopped.items()):
            if time.monotonic() - since >= after_seconds:
                del self.stopped[pid]
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill a worker, as the system does when memory runs out."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """Stop a worker, as a swap that stands still does."""
        if (pid := self._signal(signal.SIGSTOP)) is not None:
            self.stopped[pid] = time.monotonic()

    def _signal(self, what: signal.Signals) -> int | None:
        subject = self.subjects[self.chance.choice(("leaking workers", "workers"))]
        workers = subject.encoder.stats.workers
        if not workers:
            return None
        pid = self.chance.choice(workers).pid
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, what)
        return pid

    def reload(self) -> None:
        """Load a model anew while calls go on."""
        self.chance.choice(list(self.subjects.values())).encoder.reload("soak")

    def peak(self) -> None:
        """Hold memory of the user's own for a while."""
        held = np.ones(self.chance.randint(50, 200) * MIB, dtype=np.uint8)
        time.sleep(self.chance.uniform(0.2, 2))
        del held

    def change_files(self) -> None:
        """Change the files of the model: a reload is refused, the old model serves on.

        While its worker serves: with none left, calls must fail until the files are those again.
        """
        workers = self.subjects["workers"].encoder.stats.workers
        if self.stopped or not workers or not all(psutil.pid_exists(one.pid) for one in workers):
            self.counts["changes left out: no worker served"] += 1
            return
        weights = self.folder / "model.safetensors"
        before = weights.stat()
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
        try:
            self.subjects["workers"].encoder.reload("changed files")
        except ReloadError:
            pass
        else:
            self.counts["changed files that were not noticed"] += 1
        finally:
            os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))

    def fill_disk(self) -> None:
        """Let writing to the disk fail, and load models meanwhile."""
        with self._full():
            for name in ("thread", "workers"):
                self.subjects[name].encoder.reload("full disk")

    @contextlib.contextmanager
    def _full(self) -> Iterator[None]:
        if self.is_mounted:
            file = self.disk / "full"
            with contextlib.suppress(OSError), file.open("wb") as filled:
                while True:
                    filled.write(bytes(MIB))
            try:
                yield
            finally:
                file.unlink()
        else:  # no file may grow: Python ignores the signal, and gets an error
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)


# A run


def encoders(folder: Path) -> dict[str, SafeEncoder]:
    """Make a thread with a model that hoards, workers that leak, and plain workers."""
    policy = MemoryGrowth(f"{BOUND_MIB} MiB")
    processes: dict[str, Any] = {"isolation": "process", "timeout_seconds": TIMEOUT_SECONDS}
    hoarding = partial(process_models.hoarding, str(folder), LEAK_BYTES)
    leaking = partial(process_models.leaking, str(folder), LEAK_BYTES)
    return {
        "thread": SafeEncoder(hoarding, reload=policy, max_waiting_texts=50),
        "leaking workers": SafeEncoder(
            leaking, reload=policy, workers=2, max_waiting_texts=50, **processes
        ),
        "workers": SafeEncoder(folder, device="cpu", reload=policy, **processes),
    }


def reference_of(folder: Path) -> dict[str, Any]:
    """Embed all texts by an encoder to which nothing happens."""
    texts = texts_of(0)
    with SafeEncoder(folder, device="cpu", reload=None) as encoder:
        return dict(zip(texts, encoder.encode(texts), strict=True))


def left_over(disk: Path) -> dict[str, set[str]]:
    """Name all that an encoder could leave behind."""
    process = psutil.Process()
    return {
        "threads": {thread.name for thread in threading.enumerate()},
        "processes": {str(child.pid) for child in process.children(recursive=True)},
        "descriptors": {str(at) for at in range(process.num_fds())},
        "temporary files": {str(file) for file in disk.rglob("*")},
    }


def run(seconds: float, folder: Path, disk: Path, *, is_mounted: bool, seed: int) -> dict[str, Any]:
    """Run the soak.

    Returns:
        Its figures.
    """
    reference = reference_of(folder)  # makes and closes an encoder: imports leave things, too
    gc.collect()
    before = left_over(disk)
    subjects = {name: Subject(encoder) for name, encoder in encoders(folder).items()}
    faults = Faults(subjects, folder, disk, is_mounted, random.Random(seed))
    end = time.monotonic() + seconds
    held_before = psutil.Process().memory_info().rss

    def work(number: int) -> None:
        chance = random.Random(seed + number)
        # One encoder a thread: a fault of one of them must not hold up the calls of all.
        subject = list(subjects.values())[number % len(subjects)]
        while time.monotonic() < end and not is_over.is_set():
            call(subject, reference, chance)

    is_over = threading.Event()
    threads = [threading.Thread(target=work, args=(at,)) for at in range(1, THREADS + 1)]
    going = threading.Thread(target=faults.keep_going, args=(is_over,))
    for thread in (*threads, going):
        thread.start()
    try:
        while time.monotonic() < end:
            faults.strike()
            for subject in subjects.values():
                subject.look()
            time.sleep(faults.chance.uniform(0.2, 2))
        for thread in threads:
            thread.join()
    finally:  # also where the run is broken off
        is_over.set()
        going.join()
    figures = {name: ended(subject) for name, subject in subjects.items()}
    subjects.clear()
    gc.collect()
    grown = psutil.Process().memory_info().rss - held_before
    after = left_over(disk)
    return {
        "seed": seed,
        "threads": THREADS,
        "full disk by": "tmpfs" if is_mounted else "RLIMIT_FSIZE",
        "faults": dict(faults.counts),
        "encoders": figures,
        "parent_growth_mib": round(grown / MIB, 1),
        "left over": {name: len(after[name] - before[name]) for name in before},
    }


def ended(subject: Subject) -> dict[str, Any]:
    """Close an encoder, and give what was seen of it."""
    stats = subject.encoder.stats
    counts = subject.counts
    # Each call is counted once, however often its batches were done again.
    counts["repeated"] += max(0, stats.calls - counts["calls"])
    figures: dict[str, Any] = {
        **{name: counts[name] for name in ("calls", "texts", "lost", "wrong", "repeated")},
        "reloads": stats.reloads,
        "bound_mib": BOUND_MIB,
        "peak_growth_of_a_worker_mib": round(subject.peak_bytes / MIB, 1),
        "errors": dict(subject.errors),
    }
    subject.encoder.close()
    return figures


def faults_in(figures: dict[str, Any]) -> list[str]:
    """Name every promise that was not kept; empty if all were."""
    broken = [
        f"{name}: {count} {kind}"
        for name, seen in figures["encoders"].items()
        for kind, count in seen.items()
        if kind in ("lost", "wrong", "repeated") and count
    ]
    broken += [
        f"{name}: grew to {seen['peak_growth_of_a_worker_mib']} MiB"
        for name, seen in figures["encoders"].items()
        if seen["peak_growth_of_a_worker_mib"] > MOST_BOUNDS * BOUND_MIB + BATCH_MIB
    ]
    broken += [
        f"left over: {count} {kind}" for kind, count in figures["left over"].items() if count
    ]
    unnoticed = figures["faults"].get("changed files that were not noticed", 0)
    if not all(seen["calls"] for seen in figures["encoders"].values()):
        broken.append("an encoder was not called")
    return broken + [f"{unnoticed} changed files that were not noticed"] * bool(unnoticed)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small disk for temporary files, where that is allowed; tell whether it was."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, check=False, capture_output=True)
        is_mounted = done.returncode == 0
    except OSError:
        is_mounted = False
    before, os.environ["TMPDIR"] = os.environ.get("TMPDIR"), str(folder)
    tempfile.tempdir = None  # is read anew
    try:
        yield is_mounted
    finally:
        os.environ.pop("TMPDIR") if before is None else os.environ.update(TMPDIR=before)
        if is_mounted:
            subprocess.run(["umount", str(folder)], check=True)  # noqa: S607


def main() -> None:
    """Run a soak, and leave its record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.getLogger("safe_embed").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the small disk must be given back
    # A call that never ends is shown with all threads, and ends the run without a record.
    faulthandler.dump_traceback_later(60 * given.minutes + PATIENCE_SECONDS, exit=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder, disk = Path(scratch) / "model", Path(scratch) / "disk"
        disk.mkdir()
        models.small().save(str(folder))
        began = time.monotonic()
        with small_disk(disk) as is_mounted:
            figures = run(60 * given.minutes, folder, disk, is_mounted=is_mounted, seed=given.seed)
        seconds = time.monotonic() - began
    broken = figures["broken"] = faults_in(figures)
    print(run_record.write("soak", ROOMS, seconds, figures).read_text(encoding="utf-8"))
    sys.exit("\n".join(broken) or 0)


if __name__ == "__main__":
    main()
