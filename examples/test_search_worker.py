"""The search worker of examples/search_worker: what a parent sends, and what it gets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lancedb
import pytest

import models

FOLDER = Path(__file__).parent / "search_worker"
# The only sentence about the library comes after some 3,000 tokens.
LONG = "受付は九時からです。" * 400 + "図書館は月曜日に休みます。"


class Parent:
    """What a parent sees of its worker."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._input, self._output = process.stdin, process.stdout

    def send(self, *lines: bytes) -> None:
        """Send lines."""
        self._input.write(b"".join(line + b"\n" for line in lines))
        self._input.flush()

    def read(self) -> Any:
        """Wait for the next response."""
        return json.loads(self._output.readline())

    def ask(self, method: str, **params: Any) -> Any:
        """Send a request, and wait for its response."""
        self.send(request(method, **params))
        return self.read()

    def close(self) -> int:
        """End the input, and wait for the process."""
        self._input.close()
        return self.process.wait()


def request(method: str, number: Any = 1, **params: Any) -> bytes:
    """Write a request."""
    value = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps(value, ensure_ascii=False).encode()


def section(name: str, text: str = "受付は九時からです。") -> dict[str, str]:
    """Make a section."""
    return {"id": name, "text": text}


@contextmanager
def worker(database: Path) -> Iterator[Parent]:
    """Begin a worker on a table; it is ended in any case."""
    command = [sys.executable, str(FOLDER / "worker.py"), str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Parent(process)
        finally:
            process.kill()


def rows(database: Path) -> list[dict[str, Any]]:
    """Read the table as another process finds it."""
    found: list[dict[str, Any]] = (
        lancedb.connect(database).open_table("chunks").to_arrow().to_pylist()
    )
    return found


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parent]:
    """A worker that has two sections."""
    with worker(tmp_path_factory.mktemp("table")) as one:
        sections = [section("library", LONG), section("bins", "粗大ごみは電話で申し込みます。")]
        assert 2 == one.ask("add_sections", sections=sections)["result"]["sections"]
        yield one


WRONG = [
    (b"not json", -32700, None),
    (b"\xff\xfe", -32700, None),
    (b"[" * 100_000, -32700, None),
    (b'{"jsonrpc": "2.0", "id": NaN, "method": "stats"}', -32700, None),
    (b"5", -32600, None),
    (b"[]", -32600, None),
    (b'{"id": 7, "method": "stats"}', -32600, 7),
    (b'{"jsonrpc": "2.0", "id": [7], "method": "stats"}', -32600, None),
    (b'{"jsonrpc": "2.0", "id": 7, "method": "stats", "params": [1]}', -32602, 7),
    (request("nothing", "名前"), -32601, "名前"),
    (request("search", 8), -32602, 8),
    (request("search", 8, query=" "), -32602, 8),
    (request("search", 8, query="雨", limit=0), -32602, 8),
    (request("search", 8, question="雨"), -32602, 8),
    (request("add_sections", 9, sections=[]), -32602, 9),
    (request("add_sections", 9, sections=[section("a"), section("a")]), -32602, 9),
    (request("add_sections", 9, sections=[section("a"), {"id": "b"}]), -32602, 9),
    (request("add_sections", 9, sections=[section("a", "長" * 10_000_000)]), -32600, None),
]


@pytest.mark.parametrize(("line", "code", "number"), WRONG, ids=range(len(WRONG)))
def test_a_broken_request_is_answered_and_changes_nothing(
    parent: Parent, line: bytes, code: int, number: Any
) -> None:
    """By the codes of JSON-RPC; a line of 30 MB is not kept. The next request is answered, too."""
    before = parent.ask("stats")["result"]["chunks"]
    parent.send(line)
    answer = parent.read()
    assert (code, number) == (answer["error"]["code"], answer["id"])
    assert before == parent.ask("stats")["result"]["chunks"]


def test_notifications_and_batches(parent: Parent) -> None:
    """Nothing answers a notification; a batch is answered by a list."""
    quiet = b'{"jsonrpc": "2.0", "method": "stats"}'
    parent.send(quiet, b"[" + quiet + b"]", b"[" + request("stats", 1) + b", 5]")
    first, second = parent.read()
    assert {1, None} == {first["id"], second["id"]}
    assert -32600 == (first if first["id"] is None else second)["error"]["code"]


def test_the_end_of_a_long_section_is_found(parent: Parent) -> None:
    """Of the chunk that says it the response has place and text."""
    best = parent.ask("search", query="図書館の休館日", limit=1)["result"][0]
    assert "library" == best["section"]
    assert "図書館は月曜日に休みます。" in best["text"]
    assert best["text"] == LONG[best["start"] : best["end"]]


def test_a_section_is_replaced(tmp_path: Path) -> None:
    """By fewer chunks: none of the old ones stays."""
    with worker(tmp_path) as parent:
        many = parent.ask("add_sections", sections=[section("it's", LONG), section("b")])
        assert many["result"]["chunks"] > 2
        parent.ask("add_sections", sections=[section("it's", "短い。")])
        assert 0 == parent.close()
    assert {"it's": "短い。", "b": "受付は九時からです。"} == {
        row["section"]: row["text"] for row in rows(tmp_path)
    }


def test_a_parent_that_is_gone_loses_nothing(tmp_path: Path) -> None:
    """What it has sent whole is done, answered or not; then the worker ends."""
    with worker(tmp_path) as parent:
        for number in range(20):
            sections = [section(f"{number}/{part}") for part in range(3)]
            parent.send(request("add_sections", number, sections=sections))
        parent.process.stdout.close()  # type: ignore[union-attr]  # nobody reads any more
        assert 0 == parent.close()
    names = sorted(row["section"] for row in rows(tmp_path))
    assert sorted(f"{number}/{part}" for number in range(20) for part in range(3)) == names


def test_what_was_answered_is_in_the_table_after_a_kill(tmp_path: Path) -> None:
    """A request is in it as a whole, or not at all."""
    with worker(tmp_path) as parent:
        for number in range(12):
            sections = [section(f"{number}/{part}") for part in range(3)]
            parent.send(request("add_sections", number, sections=sections))
        answered = {parent.read()["id"] for _ in range(5)}
        os.kill(parent.process.pid, signal.SIGKILL)
        parent.process.wait()
    names = [row["section"] for row in rows(tmp_path)]
    assert len(names) == len(set(names))
    kept = {int(name.partition("/")[0]) for name in names}
    assert answered <= kept
    assert 3 * len(kept) == len(names)


def test_a_table_of_another_model_is_refused(tmp_path: Path) -> None:
    """Vectors of two models cannot be compared; the table stays as it is."""
    for name in ("one", "other"):  # vectors of the same length
        models.small().save(str(tmp_path / name))
    command = [sys.executable, str(FOLDER / "worker.py"), str(tmp_path / "table")]
    begin = partial(subprocess.run, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert 0 == begin([*command, str(tmp_path / "one")]).returncode
    assert 0 == begin([*command, str(tmp_path / "one")]).returncode
    done = begin([*command, str(tmp_path / "other")])
    assert 1 == done.returncode
    assert "made with the model" in done.stderr.decode()
    assert [] == rows(tmp_path / "table")


def test_shutdown_is_answered_last(tmp_path: Path) -> None:
    """After all that was begun."""
    with worker(tmp_path) as parent:
        parent.send(*(request("search", number, query="雨") for number in range(10)))
        parent.send(request("shutdown", "end"))
        answers = [parent.read()["id"] for _ in range(11)]
        assert (set(range(10)), "end") == (set(answers[:-1]), answers[-1])
        assert 0 == parent.process.wait()


PROCESSES = """
import sys
import lancedb
table = lancedb.connect(sys.argv[1]).create_table("t", [{"vector": [0.0] * 4}])
table.search([0.0] * 4).limit(1).to_list()  # its threads run
from safe_embed import SafeEncoder
with SafeEncoder("offline", isolation="process", workers=2) as encoder:
    for _ in range(3):
        encoder.encode(["今日は雨です。"] * 40)
        table.add([{"vector": [1.0] * 4}])
        encoder.reload("anew")
    print(encoder.encode("雨").shape, table.count_rows())
"""


def test_lancedb_first_and_worker_processes_then(tmp_path: Path) -> None:
    """They are begun afresh, not forked, so that no lock of LanceDB's threads is copied."""
    done = subprocess.run(
        [sys.executable, "-c", PROCESSES, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "(384,) 4\n" == done.stdout, done.stderr
