"""The one inference thread and what happens on it: policies, turns, asyncio, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
from safe_embed import SafeEncoder
from safe_embed.backends.call_queue import CallQueue
from safe_embed.backends.calls import PendingCall
from safe_embed.backends.event_loop import EventLoop
from safe_embed.errors import ConfigError, ReloadError, WorkerError
from safe_embed.inference.request import Embed, Request
from safe_embed.inference.tasks import CopyTokenizer, Flow, Wave
from safe_embed.memory.policies import (
    EveryCalls,
    EverySeconds,
    EveryTexts,
    EveryTokens,
    MemoryGrowth,
)
from safe_embed.memory.sampling import take_sample
from safe_embed.memory.types import Event, Reason, Rung, Usage
from seams import Controls, Gate, Loader, encoder_with, wait_until

TEXTS = ["今日は雨です。", models.long_text(12), "", "え？", models.long_text(5, start=40)]
# A character that the vocabulary has not: its bytes are tokens that no other text here has.
RARE = "鑑"
WAYS = ("beside", "after")


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Keep what is imported out of full collections, which take half a second beside torch."""
    import sentence_transformers  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def expected(saved: Path) -> Any:
    """What an encoder that never reloads gives."""
    with SafeEncoder(saved, reload=None) as encoder:
        return encoder.encode(TEXTS)


@pytest.fixture
def loader(saved: Path) -> Loader:
    """Loads the model, and watches it."""
    return Loader(saved)


@pytest.fixture
def controls() -> Controls:
    """Clock, headroom and rungs are moved by hand."""
    return Controls()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, controls: Controls) -> str:
    """Whether a new model is loaded beside the old one, or after it was dropped."""
    controls.headroom.is_there = request.param == "beside"
    return str(request.param)


@pytest.fixture
def held(loader: Loader, controls: Controls) -> Iterator[tuple[SafeEncoder, Gate]]:
    """An encoder whose thread is busy with the batch of a call until the gate is opened."""
    gate = Gate()
    with controls.encoder(loader) as encoder:
        loader.before_batch = gate
        encoder.backend.submit(Embed(Request(["雨"])))
        gate.wait_until_reached()
        try:
            yield encoder, gate
        finally:
            gate.open()


def same(expected: Any, encoder: SafeEncoder) -> None:
    """The encoder gives what one gives that never reloads, to the bit."""
    np.testing.assert_array_equal(expected, encoder.encode(TEXTS))


def batches_of(encoder: SafeEncoder, loader: Loader, texts: list[str]) -> int:
    """In how many batches texts are embedded."""
    before = len(loader.batches)
    encoder.encode(texts)
    return len(loader.batches) - before


# Policies at work


@pytest.mark.parametrize(
    ("policy", "due"),
    [
        (EveryCalls(3), [3, 6, 9, 12]),
        (EveryCalls(1), list(range(1, 13))),
        (EveryTexts(5, jitter=0), [3, 6, 9, 12]),
        (EveryTexts(4, jitter=0), [2, 4, 6, 8, 10, 12]),
        (EveryTokens(25, jitter=0), [4, 8, 12]),
        (None, []),
        (EveryCalls(100) & EveryTexts(2), []),
    ],
    ids=str,
)
def test_counts_reload_when_they_are_due(
    saved: Path, controls: Controls, policy: Any, due: list[int]
) -> None:
    """Calls of two texts and 8 tokens: reloaded after exactly these calls, and after no other."""
    controls.headroom.is_there = False
    with controls.encoder(saved, reload=policy) as encoder:
        assert [(4,), (4,)] == [plan.token_counts for plan in encoder.plan(["雨雨", "東東"])]
        reloaded = []
        for call in range(1, 13):
            reloads = encoder.stats.reloads
            encoder.encode(["雨雨", "東東"])
            encoder.backend.idle()
            if encoder.stats.reloads > reloads:
                assert reloads + 1 == encoder.stats.reloads
                reloaded.append(call)
        assert due == reloaded
        assert (12, 24, 96) == (encoder.stats.calls, encoder.stats.texts, encoder.stats.tokens)


def test_time_reloads_when_it_is_due(saved: Path, controls: Controls) -> None:
    """Not before 40 s after the load, at the first call after it, and again 40 s after that."""
    controls.headroom.is_there = False
    reloads = []
    with controls.encoder(saved, reload=EverySeconds(40, jitter=0)) as encoder:
        for _ in range(13):
            encoder.encode("雨")
            encoder.backend.idle()
            reloads.append(encoder.stats.reloads)
            controls.clock.now += 15
    assert [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4] == reloads


def test_every_batch_of_a_long_call_is_followed_by_a_look(saved: Path, controls: Controls) -> None:
    """Policies are asked between the batches of one call, not only after it."""
    seen: list[int] = []

    class Asked:
        def reason(self, usage: Usage) -> None:
            seen.append(usage.tokens)

    with controls.encoder(saved, reload=Asked(), max_batch_tokens=64) as encoder:
        encoder.encode(models.long_text(50))
        encoder.backend.idle()
    assert len(set(seen)) > 8
    assert sorted(seen) == seen


@pytest.mark.parametrize("idle_seconds", [0.0, 3600.0])
def test_an_idle_encoder_looks_once_more(saved: Path, idle_seconds: float) -> None:
    """What the last call left behind is seen without another call; after that, silence."""
    seen: list[int] = []

    class Asked:
        def reason(self, usage: Usage) -> None:
            seen.append(usage.calls)

    # After the texts were cut, after the only batch, and when nothing came after that.
    looks = 3 if idle_seconds == 0 else 2
    with encoder_with(idle_seconds=idle_seconds)(saved, reload=Asked()) as encoder:
        wait_until(lambda: seen)  # that at the beginning
        seen.clear()
        for call in range(1, 5):
            encoder.encode("雨")
            wait_until(lambda call=call: len(seen) >= call * looks)
    assert [*range(5)] == sorted(set(seen))
    assert [1, *[looks] * 3, looks - 1] == [seen.count(calls) for calls in range(5)]


@pytest.mark.parametrize("answer", ["error", "nonsense"])
def test_a_policy_that_is_broken_stops_nothing(
    saved: Path,
    expected: Any,
    controls: Controls,
    caplog: pytest.LogCaptureFixture,
    answer: str,
) -> None:
    """A policy is code of the user's own: when it raises, or gives no reason, calls go on."""

    class Broken:
        def reason(self, usage: Usage) -> Any:
            return 1 / 0 if answer == "error" else answer

    with controls.encoder(saved, reload=Broken()) as encoder:
        for _ in range(3):
            same(expected, encoder)
        encoder.backend.idle()
    assert any("policy" in record.getMessage() for record in caplog.records)


# A model that was loaded elsewhere


@pytest.mark.parametrize(
    "policy",
    [EveryCalls(3), EverySeconds(9), EveryTexts(3), EveryTokens(3) | MemoryGrowth("1 GiB")],
    ids=str,
)
def test_a_loaded_model_cannot_be_loaded_anew(policy: Any) -> None:
    """A policy that insists on a new model is refused at once, and the message prints it."""
    with pytest.raises(ConfigError, match="reload=Every"):
        SafeEncoder(models.small(), reload=policy)


class Grown:
    """A policy of a user's own, with a bound that nothing can keep."""

    def reason(self, usage: Usage) -> Reason | None:
        """Ask for less than anything holds."""
        return Reason("own", bound_bytes=1) if usage.calls else None


def test_a_loaded_model_stops_at_the_tokenizer(controls: Controls) -> None:
    """Growth is met up to the tokenizer, the bound is told as unreached, reload() is refused."""
    model = models.small()
    own = model.tokenizer
    batches: list[int] = []
    with controls.encoder(model, reload=Grown()) as encoder:
        before = encoder.encode(TEXTS)
        encoder.backend.idle()
        rungs = [Rung.TOKENIZER_CACHE, Rung.TOKENIZER]
        told = [(event.kind, event.rung) for event in encoder.stats.events]
        assert [*(("remedy", rung) for rung in rungs), ("unreached", Rung.TOKENIZER)] == (
            [one for one in told if one != ("remedy", Rung.TRIM)]
        )
        model.register_forward_pre_hook(lambda *_: batches.append(1))
        np.testing.assert_array_equal(before, encoder.encode(TEXTS))
        assert batches  # it is this model that serves
        with pytest.raises(ReloadError, match="loaded elsewhere"):
            encoder.reload()
    assert model.tokenizer is own  # a shared model keeps its own


# Turns


def test_short_calls_do_not_wait_for_a_long_one(loader: Loader, controls: Controls) -> None:
    """While a very long text is embedded, calls of others end before it, and rightly."""
    ended: list[str] = []
    gate = Gate()
    with controls.encoder(loader, max_batch_tokens=128) as encoder:
        long, short = Request([models.long_text(400)]), Request(TEXTS)
        alone = [encoder.encode(list(request.texts)) for request in (long, short)]
        loader.before_batch = gate
        first = encoder.backend.submit(Embed(long))
        first.add_done_callback(lambda _: ended.append("long"))
        gate.wait_until_reached()
        calls = [encoder.backend.submit(Embed(short)) for _ in range(6)]
        for call in calls:
            call.add_done_callback(lambda _: ended.append("short"))
        gate.open()
        np.testing.assert_array_equal(alone[0], first.result())
        for call in calls:
            np.testing.assert_array_equal(alone[1], call.result(0))
        encoder.backend.idle()
    assert [*["short"] * 6, "long"] == ended


@pytest.mark.parametrize("error", [KeyError, SystemExit])
def test_an_error_of_one_call_is_its_own(
    loader: Loader, expected: Any, controls: Controls, error: type[BaseException]
) -> None:
    """A call whose batch fails in the model touches no other."""
    with controls.encoder(loader) as encoder:
        rare = loader.model.tokenizer.convert_tokens_to_ids(f"<0x{RARE.encode()[0]:02X}>")

        def fail(features: Any) -> None:
            if (features["input_ids"] == rare).any():
                raise error

        loader.before_batch = fail
        texts = [TEXTS, [RARE], TEXTS, [RARE], TEXTS]
        calls = [encoder.backend.submit(Embed(Request(some))) for some in texts]
        for some, call in zip(texts, calls, strict=True):
            if some is TEXTS:
                np.testing.assert_array_equal(expected, call.result())
            else:
                assert isinstance(call.exception(), error)
        same(expected, encoder)
        assert 4 == encoder.stats.calls


def test_a_cancelled_call_is_not_computed(held: Any, loader: Loader, expected: Any) -> None:
    """Before its turn it is never begun; all others are served."""
    encoder, gate = held
    calls = [encoder.backend.submit(Embed(Request(TEXTS))) for _ in range(7)]
    assert calls[1].cancel()
    assert calls[5].cancel()
    done = len(loader.batches)
    gate.open()
    for at in (0, 2, 3, 4, 6):
        np.testing.assert_array_equal(expected, calls[at].result())
    encoder.backend.idle()
    done = len(loader.batches) - done
    assert 5 * batches_of(encoder, loader, TEXTS) == done
    for at in (1, 5):
        with pytest.raises(CancelledError):
            calls[at].result(0)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads")
def test_ctrl_c_gives_up_the_place(held: Any, loader: Loader, expected: Any) -> None:
    """KeyboardInterrupt in a waiting caller: its call is never begun, the next one is."""
    encoder, gate = held
    main = threading.main_thread().ident
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT))

    def texts() -> Iterator[str]:
        timer.start()  # inside the call, before it waits
        yield RARE

    # Tests that were begun in the background ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            encoder.encode(texts())
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    after = encoder.backend.submit(Embed(Request(TEXTS)))
    done = len(loader.batches)
    gate.open()
    np.testing.assert_array_equal(expected, after.result())
    encoder.backend.idle()
    done = len(loader.batches) - done
    assert 2 == encoder.stats.calls  # that which was under way, and the one after
    assert batches_of(encoder, loader, TEXTS) == done


# asyncio


async def reached(gate: Gate) -> None:
    """Wait for a gate; an event loop that is blocked never comes back from here."""
    while not gate.is_reached:  # noqa: ASYNC110 another thread reaches it
        await asyncio.sleep(0.001)


def test_aencode_gives_what_encode_gives(saved: Path, expected: Any) -> None:
    """Equal to the bit, in every form, for many at once; errors are the same."""

    async def main(encoder: SafeEncoder) -> None:
        np.testing.assert_array_equal(expected, await encoder.aencode(TEXTS))
        for text, row in zip(
            TEXTS, await encoder.aencode(TEXTS, convert_to_numpy=False), strict=True
        ):
            vector = await encoder.aencode(text, normalize_embeddings=False)
            assert vector.shape == tuple(row.shape)
        for options in ({"prompt_name": "query"}, {"precision": "binary"}, {"truncate_dim": 5}):
            vectors = await encoder.aencode(TEXTS, **options)
            np.testing.assert_array_equal(encoder.encode(TEXTS, **options), vectors)
        assert (0,) == (await encoder.aencode([])).shape
        with pytest.raises(ConfigError):
            await encoder.aencode(TEXTS, prompt_name="no")
        many = await asyncio.gather(*(encoder.aencode(TEXTS) for _ in range(60)))
        for vectors in many:
            np.testing.assert_array_equal(expected, vectors)

    with SafeEncoder(saved) as encoder:
        asyncio.run(main(encoder))


def test_aencode_waits_for_a_model_without_blocking(
    loader: Loader, expected: Any, controls: Controls
) -> None:
    """Between drop and load there is no model to ask; the loop goes on before and after the call.

    The load waits for a gate that only the loop opens.
    """
    controls.headroom.is_there = False

    async def main(encoder: SafeEncoder) -> None:
        for _ in range(3):  # each call ends in a reload, which the next one meets
            loader.fault = gate = Gate()
            np.testing.assert_array_equal(expected, await encoder.aencode(TEXTS))
            await reached(gate)
            assert not loader.models
            call = asyncio.create_task(encoder.aencode(TEXTS))
            await asyncio.sleep(0)  # it is queued
            loader.fault = None
            gate.open()
            np.testing.assert_array_equal(expected, await call)

    with controls.encoder(loader, reload=EveryCalls(2, jitter=0)) as encoder:
        encoder.encode("雨")
        asyncio.run(main(encoder))
    assert loader.loads == 4


def test_aencode_never_blocks_the_loop(loader: Loader, expected: Any, controls: Controls) -> None:
    """While a model works and another loads, both as long as they like, the loop is free.

    Batch and load wait for gates that only the loop opens.
    """
    batch, load = Gate(), Gate()

    async def main(encoder: SafeEncoder) -> None:
        reload = asyncio.create_task(asyncio.to_thread(encoder.reload))
        await reached(load)
        loader.before_batch = batch
        calls = [asyncio.create_task(encoder.aencode(TEXTS)) for _ in range(3)]
        await reached(batch)
        assert not any(task.done() for task in (reload, *calls))
        batch.open()
        for call in calls:
            np.testing.assert_array_equal(expected, await call)
        assert not reload.done()
        load.open()
        await reload

    with controls.encoder(loader) as encoder:
        loader.fault = load
        asyncio.run(main(encoder))
        assert 1 == encoder.stats.reloads


def test_cancelled_tasks_free_their_places(loader: Loader, controls: Controls) -> None:
    """Tasks that are cancelled, or run out of time, are embedded no further; others go on."""
    gate = Gate()

    async def main(encoder: SafeEncoder) -> None:
        long = [models.long_text(300)]
        tasks = [asyncio.create_task(encoder.aencode(long)) for _ in range(4)]
        await reached(gate)
        others = [asyncio.create_task(encoder.aencode(TEXTS)) for _ in range(3)]
        for task in tasks[:3]:
            task.cancel()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tasks[3], 0.01)
        await asyncio.wait(tasks)
        gate.open()
        for vectors in await asyncio.gather(*others):
            np.testing.assert_array_equal(expected, vectors)
        assert all(task.cancelled() for task in tasks)

    with controls.encoder(loader, max_batch_tokens=64) as encoder:
        expected = encoder.encode(TEXTS)  # of this encoder: its batches are small
        calls = encoder.stats.calls
        alone = batches_of(encoder, loader, TEXTS)
        before = len(loader.batches)
        loader.before_batch = gate
        asyncio.run(main(encoder))
        encoder.backend.idle()
        assert 1 + 3 * alone == len(loader.batches) - before
        assert calls + 4 == encoder.stats.calls


# One thread


def test_all_work_is_done_on_one_thread(loader: Loader, controls: Controls) -> None:
    """30 threads that stay alive: the model sees one thread, and the process no other new ones."""
    seen: set[threading.Thread] = set()
    with controls.encoder(loader) as encoder:
        loader.before_batch = lambda _: seen.add(threading.current_thread())
        encoder.encode(TEXTS)
        before = take_sample().native_threads
        gate = threading.Barrier(31)

        def call() -> None:
            for _ in range(3):
                encoder.encode(TEXTS)
            gate.wait(120)
            gate.wait(120)

        threads = [threading.Thread(target=call) for _ in range(30)]
        for thread in threads:
            thread.start()
        gate.wait(120)
        after = take_sample().native_threads
        gate.wait(120)
        for thread in threads:
            thread.join()
        assert {loader.threads[0]} == seen
        assert loader.threads[0] is not threading.current_thread()
    if before is None or after is None:
        pytest.skip("the system does not count threads")
    assert after <= before + 30


# The end


def test_the_encoder_cannot_be_called_from_its_own_thread(
    saved: Path, expected: Any, controls: Controls
) -> None:
    """A hook that calls the encoder gets a WorkerError, and so does what would wait for itself."""
    errors: list[BaseException] = []

    def hook(event: Event) -> None:
        for call in (
            lambda: encoder.encode("雨"),
            encoder.reload,
            lambda: asyncio.run(encoder.aencode("雨")),
            lambda: encoder.tokenizer,
            encoder.backend.idle,
        ):
            try:
                call()
            except WorkerError as error:
                errors.append(error)
        assert encoder.stats.events

    with controls.encoder(saved, hooks=[hook]) as encoder:
        controls.take(encoder, Rung.TOKENIZER_CACHE)
        assert 5 == len(errors)
        assert "own thread" in str(errors[0])
        same(expected, encoder)


def test_a_hook_may_close_the_encoder(loader: Loader, controls: Controls) -> None:
    """Closed by its own thread, it ends without waiting for itself."""
    with controls.encoder(loader, hooks=[lambda event: encoder.close()]) as encoder:
        with contextlib.suppress(WorkerError):
            controls.take(encoder, Rung.TOKENIZER_CACHE)
        wait_until(lambda: not loader.threads[0].is_alive())
        with pytest.raises(WorkerError, match="closed"):
            encoder.encode("雨")


def test_closing_while_calls_wait(held: Any, loader: Loader) -> None:
    """Those under way and those that wait get a WorkerError, however long a batch takes."""
    encoder, gate = held
    calls = [encoder.backend.submit(Embed(Request(TEXTS))) for _ in range(8)]
    closing = threading.Thread(target=encoder.close)
    closing.start()
    for call in calls:
        assert isinstance(error := call.exception(120), WorkerError)
        assert "closed" in str(error)
    assert closing.is_alive()
    gate.open()
    closing.join(120)
    assert not closing.is_alive()
    assert not loader.threads[0].is_alive()


@pytest.mark.usefixtures("way")
def test_closing_while_a_model_loads(loader: Loader, controls: Controls) -> None:
    """reload() of another thread ends too, with a WorkerError, however long the load takes."""
    gate = Gate()
    encoder = controls.encoder(loader)
    loader.fault = gate
    with ThreadPoolExecutor(3) as pool:
        try:
            reload = pool.submit(encoder.reload)
            gate.wait_until_reached()
            call = pool.submit(encoder.encode, TEXTS)
            closing = pool.submit(encoder.close)
            assert isinstance(reload.exception(120), WorkerError)
            error = call.exception(120)
            assert error is None or isinstance(error, WorkerError)
        finally:
            gate.open()
        closing.result()
    wait_until(lambda: not any(thread.is_alive() for thread in loader.threads))


class Broken(EventLoop):
    """A loop that ends of an error of its own, at its second turn."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = CallQueue(lambda texts: None)
        self.turns = 0

    def begin(self) -> None:
        """Begin."""
        self.begun.set_result(None)

    def turn(self) -> float | None:
        """Let calls begin, but do no task."""
        self.turns += 1
        if self.turns > 1:
            raise SystemExit
        self.calls.advance()

    def check_idle(self) -> bool:
        """Never."""
        return False

    def end(self) -> None:
        """Nothing is left."""


def test_whatever_ends_the_thread_nobody_waits_for_it() -> None:
    """A thread that dies takes its calls along with a WorkerError, also those that come later."""

    def steps() -> Flow[None]:
        yield Wave([CopyTokenizer()])

    loop = Broken()
    calls = [PendingCall(steps) for _ in range(6)]
    for call in calls:
        loop.add(call)
    promises = [loop.idle(), loop.promise(lambda future: None)]
    thread = threading.Thread(target=loop.run)
    thread.start()
    thread.join(120)
    assert not thread.is_alive()
    calls.append(PendingCall(steps))
    loop.add(calls[-1])
    promises += [loop.idle(), loop.promise(lambda future: None)]
    for future in (*(call.future for call in calls), *promises):
        error = future.exception(0)
        assert isinstance(error, WorkerError)
        assert isinstance(error.__cause__, SystemExit)


def test_a_backend_whose_thread_ends_says_so(saved: Path) -> None:
    """An error of the library's own ends the thread, and every caller is told."""
    with encoder_with(idle_seconds="soon")(saved, reload=None) as encoder:
        for _ in range(3):
            with contextlib.suppress(WorkerError):  # the first may be served before that
                encoder.encode(TEXTS)
        with pytest.raises(WorkerError, match="an error of its own") as caught:
            encoder.encode("雨")
        assert isinstance(caught.value.__cause__, TypeError)


def test_dropping_the_last_reference_ends_the_thread(loader: Loader) -> None:
    """No close(), no with: the thread ends and the model goes, reloaded or not."""
    encoder = SafeEncoder(loader)
    encoder.encode("雨")
    encoder.reload()
    backend = weakref.ref(encoder.backend)
    assert loader.models
    del encoder
    gc.collect()
    wait_until(lambda: not any(thread.is_alive() for thread in loader.threads))
    gc.collect()
    assert (2, [], None) == (loader.loads, loader.models, backend())


class Text(str):
    """A text that can be watched."""

    __slots__ = ("__weakref__",)


def test_an_ended_call_leaves_nothing_on_the_thread(saved: Path, controls: Controls) -> None:
    """Its texts belong to the caller: the waiting thread does not hold the last call."""
    with controls.encoder(saved) as encoder:
        text = Text("雨")
        gone = weakref.ref(text)
        encoder.backend.submit(Embed(Request([text]))).result()
        assert gone() is not None
        del text
        wait_until(lambda: gone() is None)


def test_an_ended_call_is_none_of_the_growth(loader: Loader, controls: Controls) -> None:
    """When the policy is asked, nothing holds what a call was given or gave but its caller."""
    asked: list[bool] = []
    kept: list[Callable[[], object]] = []
    gate = Gate()

    class Watching:
        def reason(self, usage: Usage) -> None:
            asked.append(any(watched() is not None for watched in kept))

    with controls.encoder(loader, reload=Watching()) as encoder:
        loader.before_batch = gate
        text = Text("雨")
        kept.append(weakref.ref(text))
        call = encoder.backend.submit(Embed(Request([text])))
        call.add_done_callback(lambda ended: kept.append(weakref.ref(ended.result())))
        gate.wait_until_reached()
        assert asked[-1]
        asked.clear()
        del text, call  # the caller has gone away
        gate.open()
        wait_until(lambda: asked)
        assert 2 == len(kept)
        assert [False] == asked


_PROCESSES = """
import gc, os, signal, sys, threading, warnings
import sentence_transformers, transformers
import models
from safe_embed import SafeEncoder
from safe_embed.errors import WorkerError

warnings.simplefilter("ignore")
gc.freeze()
folder = sys.argv[1]
loads = []
second_load = threading.Event()

def load():
    loads.append(1)
    if len(loads) > 1:
        second_load.set()
        threading.Event().wait()
    return sentence_transformers.SentenceTransformer(folder, device="cpu")

def call(encoder, begun):
    while True:
        encoder.encode(models.long_text(20))
        begun.set()
        encoder.encode(models.long_text(2000))

def begin_calls(encoder, count):
    for _ in range(count):
        begun = threading.Event()
        threading.Thread(target=call, args=(encoder, begun), daemon=True).start()
        begun.wait()

def leave(mode):
    encoder = SafeEncoder(load)
    encoder.encode("雨")
    if mode == "calls":
        begin_calls(encoder, 6)
    if mode == "loads":
        threading.Thread(target=encoder.reload, daemon=True).start()
        second_load.wait()
    return encoder

def use_the_parents(encoder):
    for attempt in (lambda: encoder.encode("雨"), lambda: encoder.tokenizer, encoder.reload):
        try:
            attempt()
        except WorkerError as error:
            print("refused", "after the fork" in str(error), "fork した" in str(error))
    encoder.close()
    try:
        encoder.encode("雨")
    except WorkerError as error:
        print("closed")

def fork(mode):
    encoder = SafeEncoder(folder)
    before = encoder.encode("雨")
    begin_calls(encoder, 3)  # the child has their locks as they are, and nobody who lets them go
    for use in (use_the_parents, lambda encoder: None):
        child = os.fork()
        if child == 0:
            signal.alarm(60)  # whoever hangs ends of it
            use(encoder)
            del encoder
            sys.exit(7)
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    encoder.reload()
    print("parent", (encoder.encode("雨") == before).all(), encoder.stats.reloads)

for mode in ("fork", "open", "calls", "loads"):  # one start of Python for all of them
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(150)  # likewise
        kept = (fork if mode == "fork" else leave)(mode)
        sys.stdout.flush()
        sys.exit(5)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(mode, code)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="torch and fork go together on Linux only")
@pytest.mark.long
def test_processes_end(saved: Path) -> None:
    """After a fork the child has a clear error at once, may close and exit, and the parent goes on.

    An interpreter exits with an open encoder, with calls of daemon threads under way, and with a
    load that never ends.
    """
    done = subprocess.run(
        [sys.executable, "-c", _PROCESSES, str(saved)],
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
        cwd=Path(__file__).parent,
    )
    assert 0 == done.returncode, done.stderr[-3000:]
    forked = [*["refused True True"] * 3, "closed", "child 7", "child 7", "parent True 1"]
    exits = [f"{mode} 5" for mode in ("fork", "open", "calls", "loads")]
    assert [*forked, *exits] == done.stdout.splitlines(), done.stderr[-3000:]
