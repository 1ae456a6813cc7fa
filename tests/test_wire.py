"""Messages between processes: whole, in order, of any size; and errors that travel."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import seams
from safe_embed.backends.calls import PendingTask
from safe_embed.backends.process.messages import TaskDone
from safe_embed.backends.process.worker import Worker
from safe_embed.errors import InvalidTextError, MissingExtraError, TextTooLongError, WorkerError
from safe_embed.inference.tasks import ChunkTexts, Outcome
from safe_embed.ipc.connection import Connection, ConnectionClosedError, UnreadableMessageError
from safe_embed.ipc.portable_errors import portable

SECRET = "秘密の文章"  # noqa: S105


@pytest.fixture
def connections() -> Iterator[tuple[Connection, Connection]]:
    """Both ends of a connection."""
    pair = tuple(map(Connection, socket.socketpair()))
    yield pair
    for one in pair:
        one.close()


@pytest.fixture
def half() -> Iterator[tuple[Connection, socket.socket]]:
    """One end of a connection, and the bare socket at the other."""
    ours, theirs = socket.socketpair()
    wire = Connection(ours)
    with theirs:
        yield wire, theirs
    wire.close()


@given(sizes=st.lists(st.integers(0, 300_000), max_size=4), text=st.text())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_sent_arrives(
    connections: tuple[Connection, Connection], sizes: list[int], text: str
) -> None:
    """Arrays on either side of the size that travels out of band, and all else, in order."""
    ours, theirs = connections
    arrays = [np.arange(size, dtype=np.float32) for size in sizes]
    sender = threading.Thread(target=lambda: (ours.send([text, arrays]), ours.send("next")))
    sender.start()
    found_text, found = theirs.receive()
    assert (text, "next") == (found_text, theirs.receive())
    sender.join()
    for one, other in zip(arrays, found, strict=True):
        np.testing.assert_array_equal(one, other)
        assert other.flags.writeable  # as what is computed here


@pytest.mark.parametrize("way", ["send", "post"])
def test_many_threads_may_send(connections: tuple[Connection, Connection], way: str) -> None:
    """No message is torn apart by another."""
    ours, theirs = connections
    arrays = [np.full(50_000, at) for at in range(8)]
    threads = [threading.Thread(target=getattr(ours, way), args=(one,)) for one in arrays]
    for thread in threads:
        thread.start()
    found = sorted(int(theirs.receive()[0]) for _ in threads)
    assert list(range(8)) == found


def flushers() -> list[str]:
    """The threads that write what was posted."""
    return [one.name for one in threading.enumerate() if one.name == "safe_embed-send"]


def narrow() -> tuple[socket.socket, socket.socket]:
    """Two sockets that hold little: nearly all of a message is left to be written later."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    return ours, theirs


@given(sizes=st.lists(st.integers(0, 200) | st.integers(0, 100_000), max_size=6))
@settings(max_examples=30, deadline=None)
def test_what_is_posted_arrives_whole_and_in_order(sizes: list[int]) -> None:
    """Whoever posts has gone on before the first byte is read; the reader then takes its time."""
    ours, theirs = map(Connection, narrow())
    messages = [(at, np.arange(size, dtype=np.float32)) for at, size in enumerate(sizes)]
    for message in messages:
        ours.post(message)
    for at, array in messages:
        found_at, found = theirs.receive()
        assert at == found_at
        np.testing.assert_array_equal(array, found)
        time.sleep(0.001)
    seams.wait_until(lambda: not flushers())
    ours.post("later")
    assert "later" == theirs.receive()
    ours.close()
    theirs.close()


def test_what_cannot_be_pickled_is_refused_before_a_byte_is_written(
    connections: tuple[Connection, Connection],
) -> None:
    """Whoever posts it gets the error, and the next message arrives."""
    ours, theirs = connections
    with pytest.raises(TypeError, match="pickle"):
        ours.post([np.zeros(100_000), threading.Lock()])
    ours.post("next")
    assert "next" == theirs.receive()


def test_a_large_array_is_not_copied(connections: tuple[Connection, Connection]) -> None:
    """It is held as it is until it is written."""
    ours, _ = connections
    array = np.ones(2**24, dtype=np.uint8)
    tracemalloc.start()
    try:
        ours.post([array])
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < array.nbytes // 8


def test_a_reader_that_stops() -> None:
    """To post goes on; once no byte was taken for too long it is told, and the connection ends."""
    told = threading.Event()
    pair = narrow()
    ours, theirs = Connection(pair[0], 0.2, told.set), Connection(pair[1])
    array = np.zeros(100_000)
    held = weakref.ref(array)
    ours.post([array])
    ours.post("after it")
    del array
    assert told.wait(60)
    assert ours.is_stuck
    with pytest.raises(ConnectionClosedError):
        ours.post("too late")
    with pytest.raises(ConnectionClosedError):
        theirs.receive()
    seams.wait_until(lambda: not flushers() and held() is None)
    ours.close()
    theirs.close()


def test_a_slow_reader_is_no_reader_that_stops() -> None:
    """The time begins anew with whatever it takes, however long the whole message is under way."""
    told = threading.Event()
    pipe, theirs = narrow()
    ours = Connection(pipe, 1.0, told.set)
    ours.post(np.zeros(20_000))
    for _ in range(15):
        assert len(theirs.recv(8192))
        time.sleep(0.1)
    assert not told.is_set()
    assert flushers()  # the message was under way all the time
    while flushers():
        with contextlib.suppress(BlockingIOError):
            theirs.recv(2**16, socket.MSG_DONTWAIT)
    assert not ours.is_stuck
    ours.close()
    theirs.close()


@pytest.mark.parametrize("ending", ["close", "hang_up", "theirs"])
def test_an_end_while_a_message_is_under_way(ending: str) -> None:
    """Whoever ends the connection: no thread, no array is left over, and nobody is told to hang."""
    told = threading.Event()
    pair = narrow()
    ours, theirs = Connection(pair[0], 60.0, told.set), Connection(pair[1])
    array = np.zeros(100_000)
    held = weakref.ref(array)
    ours.post([array])
    del array
    assert flushers()
    if ending == "theirs":
        theirs.close()
    else:
        getattr(ours, ending)()
    seams.wait_until(lambda: not flushers() and held() is None)
    with pytest.raises(ConnectionClosedError):
        ours.post("too late")
    ours.close()
    theirs.close()
    assert not told.is_set()
    assert (-1, -1) == tuple(one.fileno() for one in pair)


def test_no_thread_can_be_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a message is written then: both ends learn of it."""
    ours, theirs = map(Connection, narrow())

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    for message in (np.zeros(100_000), "next"):
        with pytest.raises(ConnectionClosedError):
            ours.post(message)
    for one in (ours, theirs):
        with pytest.raises(ConnectionClosedError):
            one.receive()
        one.close()


_FORK = """
import os, socket
import numpy as np
from safe_embed.ipc.connection import Connection

ours, theirs = map(Connection, socket.socketpair())
array = np.arange(1_000_000)
ours.post(array)
child = os.fork()
if not child:
    ours.abandon()
    theirs.abandon()
    print("child", flush=True)
    os._exit(0)
os.waitpid(child, 0)
print("parent", bool((theirs.receive() == array).all()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_copy_lets_go_while_a_message_is_under_way() -> None:
    """The copy ends, whatever the other threads were doing; the message arrives whole."""
    done = subprocess.run(
        [sys.executable, "-c", _FORK], capture_output=True, text=True, timeout=60, check=False
    )
    assert "child\nparent True\n" == done.stdout, done.stderr


def test_the_default_timeout_of_sockets_does_not_count() -> None:
    """A worker may be silent for longer than socket.setdefaulttimeout says."""
    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.01)
    try:
        ours, theirs = map(Connection, socket.socketpair())
    finally:
        socket.setdefaulttimeout(usual)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(theirs.receive)
        time.sleep(0.1)
        ours.send("late")
        assert "late" == found.result(60)
    ours.close()
    theirs.close()


def test_the_other_end_is_gone(half: tuple[Connection, socket.socket]) -> None:
    """Both to send and to receive ends in an error, also in the middle of a message."""
    ours, pipe = half
    pipe.sendall(b"\x01\x00")
    pipe.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ConnectionClosedError):
        ours.receive()
    with pytest.raises(ConnectionClosedError):
        ours.send(np.zeros(1_000_000))


def test_a_message_that_there_is_no_memory_for(half: tuple[Connection, socket.socket]) -> None:
    """Half of it is read then, and nothing after it could be told apart: the connection ends."""
    ours, pipe = half
    pipe.sendall(struct.pack("<IQ", 1, 2**60))
    with pytest.raises(ConnectionClosedError) as caught:
        ours.receive()
    assert isinstance(caught.value.__cause__, MemoryError)


def test_a_message_that_cannot_be_made_here(
    connections: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said so, and the next one is read."""
    ours, theirs = connections
    module = ModuleType("only_there")
    kind = type("Theirs", (), {"__module__": "only_there"})
    module.Theirs = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "only_there", module)
    theirs.send(kind())
    theirs.send("next")
    monkeypatch.delitem(sys.modules, "only_there")
    with pytest.raises(UnreadableMessageError, match="only_there"):
        ours.receive()
    assert "next" == ours.receive()


class Leaving:
    """Ends whoever makes it again."""

    def __reduce__(self) -> Any:
        return sys.exit, (SECRET,)


def test_a_message_that_would_end_its_reader(connections: tuple[Connection, Connection]) -> None:
    """A module that exits as it is imported, say: it is told as what cannot be made here."""
    ours, theirs = connections
    theirs.send(Leaving())
    theirs.send("next")
    with pytest.raises(UnreadableMessageError, match="SystemExit") as caught:
        ours.receive()
    assert SECRET not in str(caught.value)
    assert "next" == ours.receive()


def test_a_result_that_cannot_be_pickled_is_an_error(
    connections: tuple[Connection, Connection],
) -> None:
    """The worker says so and lives on: it is not as if it had died of the task."""
    ours, theirs = connections
    outcomes = [Outcome([threading.Lock()]), Outcome(["fine"])]
    supervisor: Any = SimpleNamespace(do=lambda task: outcomes.pop(0), holds_back=False)
    worker = Worker(theirs, SimpleQueue(), supervisor, reports_start=False, idle_seconds=1.0)
    task = ChunkTexts([(0, "雨")], "", 512, want_spans=False)
    for _ in range(2):
        worker.handle(task)
    failed, done = ours.receive(), ours.receive()
    assert isinstance(failed.error, TypeError)
    assert "pickle" in str(failed.error)
    assert ["fine"] == done.outcome.values


def test_an_unknown_message_is_an_error_with_a_name(
    connections: tuple[Connection, Connection],
) -> None:
    """A worker of another version, say: silence would let callers wait for ever."""
    worker = Worker(connections[1], SimpleQueue(), Any, reports_start=False, idle_seconds=1.0)
    with pytest.raises(AssertionError, match="TaskDone"):
        worker.handle(TaskDone())  # type: ignore[arg-type] # a message of the other direction


class StrangeError(RuntimeError):
    """An error that nobody else can import, with something that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("strange")
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("error", "kind", "attributes"),
    [
        (ValueError("bad"), ValueError, {}),
        (FileNotFoundError(2, "gone", "here"), FileNotFoundError, {"filename": "here"}),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "why"), UnicodeDecodeError, {"reason": "why"}),
        (SystemExit(3), SystemExit, {"code": 3}),
        (InvalidTextError("bad", 4, 2), InvalidTextError, {"index": 4, "position": 2}),
        (TextTooLongError("long", [7]), TextTooLongError, {"indices": (7,)}),
        (WorkerError("gone", [1], ["a"]), WorkerError, {"indices": (1,), "results": ["a"]}),
        (MissingExtraError("x", "y", "offline"), MissingExtraError, {"extra": "offline"}),
        (StrangeError(), RuntimeError, {}),
    ],
)
def test_errors_travel(error: BaseException, kind: type, attributes: dict[str, Any]) -> None:
    """Ours and builtins as they are, others as the builtin they descend from; with a traceback."""
    found = portable(error)
    assert kind is type(found)
    assert attributes == {name: getattr(found, name) for name in attributes}
    assert str(error) in str(found)
    assert "In the worker process" in found.__notes__[0]


@given(count=st.integers(2, 40))
def test_halves_become_one_again(count: int) -> None:
    """However often a task is parted, and in whatever order its parts are done."""
    found: list[Any] = []
    task = ChunkTexts(range(count), "", 512, want_spans=False)
    waiting = [PendingTask(task, found.append)]
    while waiting:
        piece = waiting.pop(len(waiting) // 2)
        if len(piece.task.items) > 1:
            waiting += piece.halves()
        else:
            piece.note([item * 2 for item in piece.task.items])
    assert [[item * 2 for item in range(count)]] == found
