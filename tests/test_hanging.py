"""Worker processes that are stopped, stuck or slow: noticed, and nobody waits for them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import seams
from safe_embed import SafeEncoder
from safe_embed.backends.process import heartbeat
from safe_embed.backends.process.heartbeat import LEAST_SECONDS, HangWatch, Heartbeat
from safe_embed.errors import WorkerError

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="worker processes need POSIX"),
    pytest.mark.usefixtures("forked_workers"),
]

LIMIT = 40.0
PATIENCE_SECONDS = 120.0
# More than a socket holds, and nothing to compute: the small model takes no task.
LARGE = "雨" * 2**20


# The rule, on a clock that a test moves


@dataclass
class Patient:
    """A worker as the watch sees it; it answers whenever it is asked, as long as it runs."""

    runs: bool = True
    is_loaded: bool = True
    deadline: float | None = None
    moved: int = 0
    killed: list[str] = field(default_factory=list)
    heartbeat: Heartbeat = field(init=False)

    def __post_init__(self) -> None:
        self.heartbeat = Heartbeat(lambda: self.moved, self.ask)

    def ask(self) -> None:
        """Answer."""
        self.moved += self.runs

    def kill(self, reason: str) -> None:
        """Take note; what is killed has no task."""
        self.deadline = None
        self.killed.append(reason)


@dataclass
class Ward:
    """A watch over workers, which looks when it has said that it would."""

    workers: list[Patient]
    clock: seams.Clock = field(default_factory=seams.Clock)
    limit: float | None = LIMIT
    turns_in_vain: int = 0
    watch: HangWatch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = HangWatch(self.clock, self.limit)
        self.pass_time(0)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and look as often as is due."""
        end = self.clock.now + seconds
        while True:
            self.watch.kill_hanging(self.workers)
            due = self.watch.next_look(self.workers)
            if due is None or due > end:
                break
            self.turns_in_vain = 0 if due > self.clock.now else self.turns_in_vain + 1
            assert self.turns_in_vain < 3, "the watch spins"
            self.clock.now = due
        self.clock.now = end


def test_a_worker_that_answers_is_left_alone() -> None:
    """However long it does nothing else."""
    ward = Ward([Patient()])
    ward.pass_time(100 * LIMIT)
    assert [] == ward.workers[0].killed


@pytest.mark.parametrize("since", range(0, int(LIMIT), 3))
def test_a_worker_that_stops_is_noticed_within_the_limit(since: int) -> None:
    """Whenever that was; half of the limit is left to it for an answer."""
    stopped, other = Patient(), Patient()
    ward = Ward([stopped, other])
    ward.pass_time(10 * LIMIT + since)
    stopped.runs = False
    ward.pass_time(LIMIT / 2 - 1)
    assert [] == stopped.killed
    ward.pass_time(LIMIT / 2 + 1)
    assert stopped.killed
    assert "has not answered" in stopped.killed[0]
    assert [] == other.killed


def test_a_worker_that_reads_a_large_message_slowly_is_left_alone() -> None:
    """It does not come to what stands behind the message; but it takes it."""
    reader = Patient(runs=False)
    ward = Ward([reader])
    for _ in range(50):
        ward.pass_time(LIMIT / 2)
        reader.moved += 1
    assert [] == reader.killed


def test_a_task_has_a_deadline_instead() -> None:
    """Native code may keep the answering thread waiting as long as the task may take."""
    worker = Patient(runs=False)
    ward = Ward([worker])
    for _ in range(5):
        worker.moved += 1  # it has said that it starts
        worker.deadline = ward.clock.now + LIMIT
        ward.pass_time(LIMIT - 1)
        worker.moved += 1  # and that it has ended
        worker.deadline = None
    assert [] == worker.killed
    worker.deadline = ward.clock.now + LIMIT
    ward.pass_time(LIMIT)
    assert ["a task took longer than 40 s"] == worker.killed[:1]


def test_a_worker_that_loads_has_longer() -> None:
    """At least a minute, whatever the limit: an import may keep all threads waiting."""
    loading = Patient(runs=False, is_loaded=False)
    ward = Ward([loading])
    ward.pass_time(LIMIT)
    assert [] == loading.killed
    ward.pass_time(heartbeat.LOADING_SECONDS)
    assert loading.killed


def test_a_short_limit_is_for_tasks() -> None:
    """Who only waits for a processor is not killed after a moment."""
    worker = Patient(runs=False)
    ward = Ward([worker], limit=0.1)
    ward.pass_time(LEAST_SECONDS / 2)
    assert [] == worker.killed
    ward.pass_time(LEAST_SECONDS)
    assert worker.killed


def test_without_a_limit_nobody_is_asked() -> None:
    """timeout_seconds=None means never."""
    worker = Patient(runs=False)
    ward = Ward([worker], limit=None)
    ward.pass_time(1000)
    assert ward.watch.next_look([worker]) is None
    assert (0, []) == (worker.moved, worker.killed)


@pytest.mark.parametrize("deadline", [True, False], ids=["task", "idle"])
def test_what_the_watch_slept_through_counts_against_nobody(*, deadline: bool) -> None:
    """All processes of a job were stopped, and go on: the answers lie there unread."""
    worker = Patient()
    ward = Ward([worker])
    ward.pass_time(5)
    worker.deadline = ward.clock.now + LIMIT if deadline else None
    ward.pass_time(5)
    ward.clock.now += 100 * LIMIT
    ward.pass_time(0)
    assert [] == worker.killed
    worker.runs = False
    ward.pass_time(2 * LIMIT)  # and it is watched again
    assert worker.killed


# Processes that are really stopped


def pids(encoder: SafeEncoder) -> list[int]:
    """The workers that serve now."""
    return [one.pid for one in encoder.stats.workers]


@pytest.fixture(scope="module")
def encoder(saved: Path) -> Iterator[SafeEncoder]:
    """An encoder whose worker must show in three seconds that it runs."""
    options: dict[str, Any] = {"reload": None, "device": "cpu", "timeout_seconds": 3.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heartbeat, "LEAST_SECONDS", 3.0)
        with SafeEncoder(saved, isolation="process", **options) as found:
            yield found


# What is asked for while a worker is stopped: arguments of each call.
WHILE_IDLE: list[dict[str, str]] = []
WHILE_CALLED: list[dict[str, str]] = [{}] * 4
WHILE_IT_READS = [{"task": LARGE}, *WHILE_CALLED]


@pytest.mark.parametrize("calls", [WHILE_IDLE, WHILE_CALLED, WHILE_IT_READS], ids=len)
def test_a_stopped_worker_is_replaced_at_whatever_moment(
    encoder: SafeEncoder, calls: list[dict[str, str]]
) -> None:
    """While it is idle, while short calls come, and while it reads a large message."""
    expected = encoder.encode("雨")
    encoder.backend.idle()
    [pid] = pids(encoder)
    with ThreadPoolExecutor(5) as pool, seams.stopped(pid):
        waiting = [pool.submit(partial(encoder.encode, "雨", **one)) for one in calls]
        seams.wait_until(lambda: not psutil.pid_exists(pid))
        for call in waiting:
            np.testing.assert_array_equal(expected, call.result(PATIENCE_SECONDS))
    seams.wait_until(lambda: pids(encoder) not in ([], [pid]))
    assert [one for one in encoder.stats.events if "has not answered" in one.reason]


def test_a_replacement_that_stops_while_it_loads_is_given_up(
    encoder: SafeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """reload() raises an error; the old worker goes on serving."""
    monkeypatch.setattr(heartbeat, "LOADING_SECONDS", 3.0)
    [old] = pids(encoder)
    own = {child.pid for child in psutil.Process().children()}
    with ThreadPoolExecutor(1) as pool:
        reload = pool.submit(encoder.reload)
        seams.wait_until(lambda: len(psutil.Process().children()) > len(own))
        [loading] = {child.pid for child in psutil.Process().children()} - own
        with seams.stopped(loading):
            error = reload.exception(PATIENCE_SECONDS)
    assert isinstance(error, WorkerError)
    assert "has not answered" in str(error)
    assert [old] == pids(encoder)
    assert (32,) == encoder.encode("雨").shape
