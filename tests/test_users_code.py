"""Splitters, pooling functions, loaders and policies that raise what ends or cancels a caller."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import models
import process_models
import seams
from process_models import ENDINGS
from safe_embed import SafeEncoder
from safe_embed.errors import ConfigError, InvalidTextError, ReloadError, WorkerError
from safe_embed.memory.event_log import EventLog
from safe_embed.memory.types import Event, MemorySample, Rung

pytestmark = pytest.mark.usefixtures("forked_workers")

APART = pytest.param(
    "process",
    marks=pytest.mark.skipif(sys.platform == "win32", reason="worker processes need POSIX"),
)
endings = pytest.mark.parametrize("ending", ENDINGS)


class Pooling:
    """The mean, or what is to be raised."""

    raised: type[BaseException] | None = None

    def __call__(self, vectors: Any, _: Any) -> Any:
        """Pool."""
        if self.raised is not None:
            raise self.raised
        return vectors.mean(axis=0)


POOLING = Pooling()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as a folder."""
    path = tmp_path_factory.mktemp("saved")
    models.small().save(str(path))
    return path


@pytest.fixture(scope="module", params=["none", APART])
def encoder(saved: Path, request: pytest.FixtureRequest) -> Iterator[SafeEncoder]:
    """An encoder whose splitter raises what a text names, its pooling what POOLING holds, its policy always."""
    with SafeEncoder(
        partial(process_models.plain, str(saved)),
        splitter=process_models.Ending(),
        pooling=POOLING,
        chunks="spans",
        reload=process_models.EndingPolicy("SystemExit"),
        isolation=request.param,
    ) as found:
        yield found


async def awaited(encoder: SafeEncoder, text: str) -> Any:
    """Await an embedding; should the loop itself meet an error, nobody would ever wake the task."""
    task = asyncio.create_task(encoder.aencode([text]))
    asyncio.get_running_loop().set_exception_handler(lambda *_: task.cancel())
    return await task


CALLS: dict[str, Callable[[SafeEncoder, str], Any]] = {
    "encode": lambda one, text: one.encode([text]),
    "encode_query": lambda one, text: one.encode_query(text),
    "encode_chunks": lambda one, text: one.encode_chunks([text]),
    "encode_stream": lambda one, text: list(one.encode_stream([text])),
    "aencode": lambda one, text: asyncio.run(awaited(one, text)),
    "plan": lambda one, text: list(map(one.plan, [text])),
}


def raised_by(call: Callable[[], Any]) -> BaseException | None:
    """What a call raises, be it what would end the tests; None for nothing."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001
        return error
    return None


def serves(encoder: SafeEncoder) -> None:
    """The encoder goes on."""
    POOLING.raised = None
    assert (1, 32) == encoder.encode(["雨です。"]).shape


@endings
def test_what_a_splitter_raises_reaches_the_caller(encoder: SafeEncoder, ending: str) -> None:
    """As a ConfigError that names both, in every call; the encoder goes on serving."""
    for name, call in CALLS.items():
        error = raised_by(partial(call, encoder, ending))
        assert (name, ConfigError) == (name, type(error))
        assert f"The splitter raised {ENDINGS[ending].__name__}" in str(error)
    serves(encoder)


@endings
def test_what_a_pooling_function_raises_reaches_the_caller(
    encoder: SafeEncoder, ending: str
) -> None:
    """Likewise: inside a flow it would look like the end of one."""
    POOLING.raised = ENDINGS[ending]
    for name, call in CALLS.items():
        if name != "plan":
            error = raised_by(partial(call, encoder, "雨です。"))
            assert (name, ConfigError) == (name, type(error))
            assert f"The pooling function raised {ENDINGS[ending].__name__}" in str(error)
    serves(encoder)


def test_one_of_many_calls_ends_alone(encoder: SafeEncoder) -> None:
    """Tasks that are gathered: those beside the one that fails get their vectors."""

    async def main() -> list[Any]:
        calls = [encoder.aencode(text) for text in ("雨です。", "雪です。", *ENDINGS)]
        return await asyncio.gather(*calls, return_exceptions=True)

    rain, snow, *others = asyncio.run(main())
    assert (32,) == rain.shape == snow.shape
    assert {ConfigError} == set(map(type, others))


@pytest.mark.parametrize("isolation", ["none", APART])
def test_a_loader_that_raises_at_the_start(isolation: Any) -> None:
    """SafeEncoder() says so; nobody waits for a model."""
    error = raised_by(lambda: SafeEncoder(process_models.ending, isolation=isolation))
    assert ConfigError is type(error)
    assert "The loader raised StopIteration" in str(error)


@pytest.mark.parametrize("room", [True, False], ids=["beside", "after"])
@endings
def test_a_loader_that_raises_at_a_reload(saved: Path, ending: str, *, room: bool) -> None:
    """The old model serves on, or a later load is taken; the thread lives."""
    loads: list[int] = []

    def load() -> Any:
        loads.append(1)
        if len(loads) == 2:
            raise ENDINGS[ending]
        return process_models.plain(str(saved))

    made = seams.encoder_with(headroom=seams.Headroom(room), retry_seconds=0.0)
    with made(load, reload=None) as encoder:
        assert ReloadError is type(raised_by(encoder.reload))
        assert (32,) == encoder.encode("雨").shape
        assert "failed" in [event.kind for event in encoder.stats.events]


@endings
def test_a_policy_that_raises_stops_nothing(
    saved: Path, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    """It is logged as any error of a policy: not taken for the end of what it asked for."""
    with SafeEncoder(saved, reload=process_models.EndingPolicy(ending)) as encoder:
        for _ in range(3):
            assert (32,) == encoder.encode("雨").shape
        encoder.reload()
    assert any("policy" in record.getMessage() for record in caplog.records)


def test_a_policy_that_raises_ends_no_worker(encoder: SafeEncoder) -> None:
    """A process that left with every look at its memory would be replaced for ever."""
    before = [one.pid for one in encoder.stats.workers]
    for _ in range(3):
        serves(encoder)
    assert before == [one.pid for one in encoder.stats.workers]
    assert () == encoder.stats.events


@pytest.mark.skipif(sys.platform == "win32", reason="worker processes need POSIX")
def test_what_ends_the_reader_of_a_worker_is_said(saved: Path) -> None:
    """A module or an object that exits while it is read: the start fails, and does not wait."""
    splitter = process_models.EndingWhenRead()
    error = raised_by(lambda: SafeEncoder(saved, splitter=splitter, isolation="process"))
    assert ConfigError is type(error)
    assert "SystemExit" in str(error)


class EndingWhenSent:
    """An argument of a call that ends the thread which pickles it."""

    def __reduce__(self) -> Any:
        raise SystemExit


def test_an_argument_that_ends_who_sends_it(encoder: SafeEncoder) -> None:
    """The call fails alone; beside a thread, where nothing is sent, it does not even do that."""
    raised_by(lambda: encoder.encode("雨です。", task=EndingWhenSent()))
    serves(encoder)


class Inputs:
    """Texts that cannot be iterated over: the iterator is missing, not empty."""

    def __iter__(self) -> Iterator[str]:
        raise StopIteration


def texts() -> Iterator[str]:
    """A generator that looks for one more than there is."""
    yield "雨"
    yield next(iter(()))


@pytest.mark.parametrize("inputs", [Inputs, texts], ids=["iterator", "generator"])
@pytest.mark.parametrize(
    "call",
    [
        lambda one, given: one.encode(given),
        lambda one, given: asyncio.run(one.aencode(given)),
        lambda one, given: list(map(one.plan, [given])),
        lambda one, given: list(map(one.encode_chunks, [given])),
        lambda one, given: list(one.encode_stream(given)),
    ],
    ids=["encode", "aencode", "plan", "encode_chunks", "encode_stream"],
)
def test_inputs_that_stop_by_mistake(
    encoder: SafeEncoder, call: Callable[[SafeEncoder, Any], Any], inputs: Callable[[], Any]
) -> None:
    """What looks like the end of the texts, and is none, is an error."""
    error = raised_by(lambda: call(encoder, inputs()))
    assert InvalidTextError is type(error)
    assert "StopIteration" in str(error)


def test_nobody_is_left_over(saved: Path) -> None:
    """After all of it an encoder closes, and its thread ends."""
    before = set(threading.enumerate())
    with SafeEncoder(saved, splitter=process_models.Ending(), chunks="spans") as encoder:
        for ending in ENDINGS:
            assert raised_by(partial(encoder.encode, ending)) is not None
    assert before == set(threading.enumerate())


@endings
def test_a_hook_that_raises_stops_nothing(ending: str, caplog: pytest.LogCaptureFixture) -> None:
    """The hooks behind it are told too."""
    told: list[Event] = []

    def fail(_: Event) -> None:
        raise ENDINGS[ending]

    sample = MemorySample(0.0)
    event = Event("remedy", "test", Rung.TRIM, sample, sample, 0.0)
    EventLog([fail, told.append]).add(event)
    assert [event] == told
    assert ["a hook failed"] == [record.getMessage() for record in caplog.records]


@endings
def test_what_a_model_raises_reaches_the_caller(ending: str) -> None:
    """As a WorkerError: nobody can say whose code it was. What ends the program may do so."""
    model = models.small()

    def fail(*_: Any) -> None:
        raise ENDINGS[ending]

    with SafeEncoder(model, reload=None) as encoder:
        hook = model.register_forward_pre_hook(fail)
        passes = ENDINGS[ending] in {KeyboardInterrupt, SystemExit}
        for call in (encoder.encode, lambda text: asyncio.run(encoder.aencode(text))):
            error = raised_by(partial(call, "雨"))
            assert (ENDINGS[ending] if passes else WorkerError) is type(error)
        hook.remove()
        assert (32,) == encoder.encode("雨").shape
