"""Messages between processes: whole, in order, of any size; and errors that travel."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safe_embed import InvalidTextError, MissingExtraError, TextTooLongError, WorkerError
from safe_embed.backends.calls import PendingTask
from safe_embed.backends.process.messages import TaskDone
from safe_embed.backends.process.worker import Worker
from safe_embed.inference.tasks import ChunkTexts, Outcome
from safe_embed.ipc.connection import UnreadableError, Wire, WireClosedError
from safe_embed.ipc.portable_errors import portable

SECRET = "秘密の文章"  # noqa: S105


@pytest.fixture
def wires() -> Iterator[tuple[Wire, Wire]]:
    """Both ends of a connection."""
    pair = tuple(map(Wire, socket.socketpair()))
    yield pair
    for one in pair:
        one.close()


@pytest.fixture
def half() -> Iterator[tuple[Wire, socket.socket]]:
    """One end of a connection, and the bare socket at the other."""
    ours, theirs = socket.socketpair()
    wire = Wire(ours)
    with theirs:
        yield wire, theirs
    wire.close()


@given(sizes=st.lists(st.integers(0, 300_000), max_size=4), text=st.text())
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_sent_arrives(wires: tuple[Wire, Wire], sizes: list[int], text: str) -> None:
    """Arrays on either side of the size that travels out of band, and all else, in order."""
    ours, theirs = wires
    arrays = [np.arange(size, dtype=np.float32) for size in sizes]
    sender = threading.Thread(target=lambda: (ours.send([text, arrays]), ours.send("next")))
    sender.start()
    found_text, found = theirs.receive()
    assert (text, "next") == (found_text, theirs.receive())
    sender.join()
    for one, other in zip(arrays, found, strict=True):
        np.testing.assert_array_equal(one, other)
        assert other.flags.writeable  # as what is computed here


def test_many_threads_may_send(wires: tuple[Wire, Wire]) -> None:
    """No message is torn apart by another."""
    ours, theirs = wires
    arrays = [np.full(50_000, at) for at in range(8)]
    threads = [threading.Thread(target=ours.send, args=(one,)) for one in arrays]
    for thread in threads:
        thread.start()
    found = sorted(int(theirs.receive()[0]) for _ in threads)
    assert list(range(8)) == found


def test_the_other_end_is_gone(half: tuple[Wire, socket.socket]) -> None:
    """Both to send and to receive ends in an error, also in the middle of a message."""
    ours, pipe = half
    pipe.sendall(b"\x01\x00")
    pipe.shutdown(socket.SHUT_RDWR)
    with pytest.raises(WireClosedError):
        ours.receive()
    with pytest.raises(WireClosedError):
        ours.send(np.zeros(1_000_000))


def test_a_message_that_there_is_no_memory_for(half: tuple[Wire, socket.socket]) -> None:
    """Half of it is read then, and nothing after it could be told apart: the connection ends."""
    ours, pipe = half
    pipe.sendall(struct.pack("<IQ", 1, 2**60))
    with pytest.raises(WireClosedError) as caught:
        ours.receive()
    assert isinstance(caught.value.__cause__, MemoryError)


def test_a_message_that_cannot_be_made_here(
    wires: tuple[Wire, Wire], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said so, and the next one is read."""
    ours, theirs = wires
    module = ModuleType("only_there")
    kind = type("Theirs", (), {"__module__": "only_there"})
    module.Theirs = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "only_there", module)
    theirs.send(kind())
    theirs.send("next")
    monkeypatch.delitem(sys.modules, "only_there")
    with pytest.raises(UnreadableError, match="only_there"):
        ours.receive()
    assert "next" == ours.receive()


class Leaving:
    """Ends whoever makes it again."""

    def __reduce__(self) -> Any:
        return sys.exit, (SECRET,)


def test_a_message_that_would_end_its_reader(wires: tuple[Wire, Wire]) -> None:
    """A module that exits as it is imported, say: it is told as what cannot be made here."""
    ours, theirs = wires
    theirs.send(Leaving())
    theirs.send("next")
    with pytest.raises(UnreadableError, match="SystemExit") as caught:
        ours.receive()
    assert SECRET not in str(caught.value)
    assert "next" == ours.receive()


def test_a_result_that_cannot_be_pickled_is_an_error(wires: tuple[Wire, Wire]) -> None:
    """The worker says so and lives on: it is not as if it had died of the task."""
    ours, theirs = wires
    outcomes = [Outcome([threading.Lock()]), Outcome(["fine"])]
    supervisor: Any = SimpleNamespace(do=lambda task: outcomes.pop(0))
    worker = Worker(theirs, SimpleQueue(), supervisor, reports_start=False, idle_seconds=1.0)
    task = ChunkTexts(["雨"], "", 512, want_spans=False, first_index=0)
    for _ in range(2):
        worker.handle(task)
    failed, done = ours.receive(), ours.receive()
    assert isinstance(failed.error, TypeError)
    assert "pickle" in str(failed.error)
    assert ["fine"] == done.outcome.values


def test_an_unknown_message_is_an_error_with_a_name(wires: tuple[Wire, Wire]) -> None:
    """A worker of another version, say: silence would let callers wait for ever."""
    worker = Worker(wires[1], SimpleQueue(), Any, reports_start=False, idle_seconds=1.0)
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
    task = ChunkTexts(range(count), "", 512, want_spans=False, first_index=0)
    waiting = [PendingTask(task, found.append)]
    while waiting:
        piece = waiting.pop(len(waiting) // 2)
        if len(piece.task.items) > 1:
            waiting += piece.halves()
        else:
            piece.note([item * 2 for item in piece.task.items])
    assert [[item * 2 for item in range(count)]] == found
