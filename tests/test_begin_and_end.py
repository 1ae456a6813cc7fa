"""Processes begin in strange surroundings, are sent signals, and end with whatever holds them."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import process_models
import seams
from safe_embed import SafeEncoder
from safe_embed.backends.process import worker_handle
from safe_embed.errors import ReloadError, WorkerError

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="worker processes need POSIX"),
    pytest.mark.usefixtures("forked_workers"),
]

TESTS = Path(__file__).parent


def run(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a script that may import what tests may."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=TESTS,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def apart(saved: Path) -> Iterator[SafeEncoder]:
    """An encoder with one worker."""
    with SafeEncoder(saved, reload=None, device="cpu", isolation="process") as encoder:
        yield encoder


def pids(encoder: SafeEncoder) -> list[int]:
    """The workers that serve now."""
    return [one.pid for one in encoder.stats.workers]


# What a start raises

REFUSALS = [
    OSError("no process"),
    RuntimeError("no thread"),
    ValueError("embedded null byte"),
    MemoryError(),
    TypeError("no interpreter"),
    subprocess.SubprocessError("in the child"),
    UnicodeEncodeError("utf-8", "\udc80", 0, 1, "surrogates"),
]


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_whatever_a_start_raises_refuses_that_start_alone(
    apart: SafeEncoder, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """reload() raises an error with the reason; the old worker goes on serving."""
    before = pids(apart)

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(worker_handle, "start_process", fail)
        with pytest.raises(ReloadError) as caught:
            apart.reload()
        assert caught.value.__cause__ is error
    assert (32,) == apart.encode("雨").shape
    assert before == pids(apart)


@pytest.mark.parametrize("error", REFUSALS, ids=lambda error: type(error).__name__)
def test_whatever_the_first_start_raises_is_raised(
    saved: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """By SafeEncoder(), and its thread ends."""

    def fail(*_: object) -> None:
        raise error

    threads = set(threading.enumerate())
    monkeypatch.setattr(worker_handle, "start_process", fail)
    with pytest.raises(type(error)):
        SafeEncoder(saved, isolation="process")
    seams.wait_until(lambda: threads >= set(threading.enumerate()))


@pytest.mark.parametrize(
    ("loader", "match"),
    [
        (partial(process_models.leaving, 7), "exit status 7"),
        (process_models.unspeakable, "UnspeakableError"),
        (process_models.exiting, "SystemExit"),
    ],
    ids=["leaves", "cannot say why", "exits"],
)
def test_a_start_that_fails_in_the_worker_says_how(loader: Any, match: str) -> None:
    """An exit status where there is one, else the type of what was raised."""
    with pytest.raises(Exception, match=match):
        SafeEncoder(loader, isolation="process")


# Closed descriptors, and signals to the whole group

_SURROUNDINGS = """
import os, signal, sys, threading
folder, told = sys.argv[1:]
for descriptor in (0, 1, 2):
    os.close(descriptor)
from safe_embed import SafeEncoder
signals = []
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: signals.append(number))
events = []
with SafeEncoder(folder, isolation="process", device="cpu", hooks=[events.append]) as encoder:
    before = [one.pid for one in encoder.stats.workers]
    for number in (signal.SIGTERM, signal.SIGHUP):
        os.killpg(0, number)
        assert encoder.encode("雨").shape == (32,)
    assert before == [one.pid for one in encoder.stats.workers]
    with open(told, "w") as file:
        print(len(signals), [one.kind for one in events if one.kind == "died"], file=file)
"""


def test_a_daemon_without_descriptors_is_sent_signals(saved: Path, tmp_path: Path) -> None:
    """Its handlers decide: calls under way end, by the workers that they began with."""
    told = tmp_path / "told"
    run(_SURROUNDINGS, saved, told, start_new_session=True)
    assert "2 []\n" == told.read_text()


_CLOSED = """
import os, sys
folder, told = sys.argv[1:]
for descriptor in (0, 1, 2):
    os.close(descriptor)
from safe_embed import SafeEncoder
with SafeEncoder(folder, device="cpu") as encoder:
    shape = encoder.encode("雨").shape
with open(told, "w") as file:
    print(*shape, file=file)
"""


def test_a_daemon_without_descriptors_loads_a_model_itself(saved: Path, tmp_path: Path) -> None:
    """No progress bar is written to nothing; the process ends by itself."""
    told = tmp_path / "told"
    assert 0 == run(_CLOSED, saved, told).returncode
    assert "32\n" == told.read_text()


_SIGNALS = """
import os, signal, subprocess, sys
from safe_embed.ipc.signals import held_back, leave_to_parent

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored
ask = "import signal; print([signal.getsignal(n) == signal.SIG_DFL for n in (15, 1)], flush=True)"
with held_back():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(os.getpid(), number)
    leave_to_parent()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(os.getpid(), number)
print("here", flush=True)
subprocess.run([sys.executable, "-c", ask])
child = os.fork()
if not child:
    exec(ask)
    os._exit(0)
os.waitpid(child, 0)
"""


def test_what_a_worker_starts_can_be_ended_by_signals() -> None:
    """It goes on itself, also when it was sent them before it could know; its children do not."""
    done = run(_SIGNALS)
    assert "here\n[True, True]\n[True, True]\n" == done.stdout, done.stderr


# The interpreter ends

_AT_EXIT = """
import atexit, sys
from safe_embed import SafeEncoder
from safe_embed.errors import WorkerError

def embed(name):
    try:
        print(name, encoder.encode("雨").shape)
    except WorkerError as error:
        print(name, "Python is ending" in str(error))

atexit.register(embed, "registered before")
encoder = SafeEncoder(sys.argv[1], isolation=sys.argv[2])
atexit.register(embed, "registered after")
"""


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_a_function_at_exit_may_embed_or_is_told(saved: Path, isolation: str) -> None:
    """Python calls it before or after it closes the encoder."""
    done = run(_AT_EXIT, saved, isolation)
    expected = ["registered after (32,)", "registered before True"]
    assert expected == done.stdout.splitlines(), done.stderr


# Signal handlers


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_a_signal_handler_that_interrupts_a_call_is_refused(
    saved: Path, apart: SafeEncoder, isolation: str
) -> None:
    """At once, with a sentence; the call that it has interrupted ends as always."""
    told: list[str] = []

    def handle(*_: object) -> None:
        for call in (encoder.encode, encoder.plan, encoder.encode_chunks):
            try:
                call("雪")
            except WorkerError as error:
                told.append(str(error))

    with contextlib.ExitStack() as stack:
        encoder = (
            apart
            if isolation == "process"
            else stack.enter_context(SafeEncoder(saved, reload=None))
        )
        before = signal.signal(signal.SIGUSR1, handle)
        stack.callback(signal.signal, signal.SIGUSR1, before)
        main = threading.main_thread().ident or 0
        waits = threading.Event()

        def interrupt() -> None:
            while not told and not waits.wait(0.001):
                signal.pthread_kill(main, signal.SIGUSR1)

        thread = threading.Thread(target=interrupt)
        encoder.encode("雨")
        told.clear()
        thread.start()
        for _ in range(10_000):
            if told:
                break
            assert (2, 32) == encoder.encode(["雨", "雪"]).shape
        waits.set()
        thread.join()
        assert "signal handler" in told[0]
        assert (32,) == encoder.encode("雨").shape


def test_a_generator_may_call_the_encoder(apart: SafeEncoder) -> None:
    """It runs on the caller's thread, and interrupts nothing."""
    texts = (str(apart.encode(text).shape) for text in ("雨", "雪"))
    assert (2, 32) == apart.encode(texts).shape
