"""aencode never blocks the event loop: whatever gives the texts, and however many they are."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from safe_embed import SafeEncoder
from safe_embed.encoding import is_quick
from safe_embed.errors import InvalidTextError
from safe_embed.options import EncodeOptions
from seams import Gate


@pytest.fixture(scope="module")
def encoder(saved: Path) -> Iterator[SafeEncoder]:
    """An encoder on a thread."""
    with SafeEncoder(saved, reload=None, device="cpu") as found:
        yield found


async def reached(gate: Gate) -> None:
    """Wait for a gate; an event loop that is blocked never comes back from here."""
    while not gate.is_reached:  # noqa: ASYNC110 another thread reaches it
        await asyncio.sleep(0.001)


def slow(gate: Gate, texts: Iterable[str]) -> Iterator[str]:
    """Texts that come when the gate is opened."""
    for text in texts:
        gate()
        yield text


class Column:
    """Texts in an object of another library's."""

    def __init__(self, texts: Iterator[str]) -> None:
        self.texts = texts

    def __iter__(self) -> Iterator[str]:
        return self.texts


@pytest.mark.parametrize("kind", [iter, Column, lambda texts: map(str, texts)])
def test_inputs_that_wait_do_not_block_the_loop(
    encoder: SafeEncoder, kind: Callable[[Iterator[str]], Iterable[str]]
) -> None:
    """Only the loop opens the gate that the texts wait for."""

    async def main() -> Any:
        gate = Gate()
        call = asyncio.create_task(encoder.aencode(kind(slow(gate, ["雨", "雪"]))))
        await reached(gate)
        other = await encoder.aencode("霧")
        assert not call.done()
        gate.open()
        return other, await call

    other, found = asyncio.run(main())
    np.testing.assert_array_equal(encoder.encode("霧"), other)
    np.testing.assert_array_equal(encoder.encode(["雨", "雪"]), found)


def test_a_task_that_is_cancelled_while_its_texts_wait(encoder: SafeEncoder) -> None:
    """It ends at once; its texts are not embedded once they are there."""
    before = encoder.stats.calls

    async def main() -> None:
        gate = Gate()
        call = asyncio.create_task(encoder.aencode(slow(gate, ["雨"])))
        await reached(gate)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        gate.open()

    asyncio.run(main())  # which waits for the threads that it has begun
    encoder.backend.idle()
    assert before == encoder.stats.calls


def test_an_error_of_the_inputs_reaches_the_task(encoder: SafeEncoder) -> None:
    """As it does for encode."""
    with pytest.raises(InvalidTextError) as caught:
        asyncio.run(encoder.aencode(iter(["雨", None])))  # type: ignore[list-item]
    assert 1 == caught.value.index


def test_many_texts_are_checked_and_finished_elsewhere(
    encoder: SafeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of thousands: neither its check nor its vectors are the loop's."""
    from safe_embed import encoding, waiting

    threads: list[threading.Thread] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            threads.append(threading.current_thread())
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(waiting, "check_texts", noting(waiting.check_texts))
    monkeypatch.setattr(encoding, "in_form", noting(encoding.in_form))
    assert (2000, 32) == asyncio.run(encoder.aencode(["雨"] * 2000)).shape
    assert 2 == len(threads)
    assert threading.main_thread() not in threads
    asyncio.run(encoder.aencode(["雨"] * 2))
    assert threading.main_thread() is threads[-1]  # which costs less


@pytest.mark.parametrize(
    ("inputs", "quick"),
    [
        ("雨", True),
        (["雨", "雪"], True),
        (("雨",), True),
        ([None, 3], True),
        ([], True),
        ("雨" * 10**6, False),
        (["雨" * 10**5] * 3, False),
        (["雨"] * 10**5, False),
        (iter(["雨"]), False),
        (np.array(["雨"]), False),
        ({"雨": 1}.keys(), False),
    ],
    ids=range(11),
)
def test_what_is_quick(inputs: Any, *, quick: bool) -> None:
    """Plain and short: no code of the caller's own is run to read it."""
    assert quick is is_quick(EncodeOptions(inputs=inputs))


_FORK = """
import asyncio, os, sys
from safe_embed import SafeEncoder

encoder = SafeEncoder(sys.argv[1], isolation="process", reload=None)

async def main():
    call = asyncio.create_task(encoder.aencode("雨"))
    ticks = 0
    while not call.done():
        await asyncio.sleep(0.001)
        ticks += 1
    return ticks, (await call).shape

child = os.fork()
if not child:
    ticks, shape = asyncio.run(main())
    print(ticks > 20, shape, flush=True)
    encoder.close()
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.long
def test_after_a_fork_the_loop_goes_on_while_workers_start(saved: Path) -> None:
    """The first call of the copy waits for them; nothing else does."""
    done = subprocess.run(
        [sys.executable, "-c", _FORK, str(saved)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "True (32,)\n" == done.stdout, done.stderr
