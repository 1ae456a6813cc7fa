"""The one inference thread and what happens on it: reloads, failures, turns, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safe_embed.model import renewal as renewal_module
from safe_embed.model import session as session_module
from safe_embed.model.engine import Engine
from safe_embed.model.inference import Inference, Request
from safe_embed.model.keeper import Keeper
from safe_embed.model.renewal import Renewal

import models
from safe_embed import ConfigError, ReloadError, SafeEncoder, WorkerError
from safe_embed.memory.policies import (
    EveryCalls,
    EverySeconds,
    EveryTexts,
    EveryTokens,
    MemoryGrowth,
)
from safe_embed.memory.sampling import take_sample
from safe_embed.memory.types import Event, Reason, Rung, Usage
from safe_embed.upstream.tokenizer_cache import forgets

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TEXTS = ["今日は雨です。", models.long_text(12), "", "え？", models.long_text(5, start=40)]
PLANTED = "合言葉は山川豊"
RUNGS = (Rung.TRIM, Rung.TOKENIZER_CACHE, Rung.TOKENIZER, Rung.MODEL)
WAYS = ("beside", "after")


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Keep what is imported out of full collections, which take half a second beside torch."""
    import sentence_transformers  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _no_idle_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy is asked after calls only, however long a test is kept waiting."""
    monkeypatch.setattr(session_module, "_IDLE_SECONDS", 3600.0)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as a folder; not to be changed."""
    path = tmp_path_factory.mktemp("saved")
    models.small(prompts={"query": "検索クエリ: "}).save(str(path))
    return path


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """The same folder, to be changed."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture(scope="module")
def expected(saved: Path) -> Any:
    """What an encoder that never reloads gives."""
    with SafeEncoder(saved, reload=None) as encoder:
        return encoder.encode(TEXTS)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether a new model is loaded beside the old one, or after it was dropped."""
    choose(monkeypatch, request.param)
    return str(request.param)


def choose(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Let there be room for two models, or not."""
    monkeypatch.setattr(Renewal, "_has_room", lambda self: way == "beside")


@dataclass
class Loader:
    """A function that loads a model, with a switch for whatever may go wrong."""

    folder: Path
    fault: Callable[[], Any] | None = None
    loads: int = 0
    at_once: int = 0
    most_at_once: int = 0

    def __call__(self) -> Any:
        """Load."""
        from sentence_transformers import SentenceTransformer

        self.loads += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.fault is not None and (found := self.fault()) is not None:
                return found
            return SentenceTransformer(str(self.folder), device="cpu")
        finally:
            self.at_once -= 1


def keeper_of(encoder: SafeEncoder) -> Keeper:
    """What holds the model."""
    return encoder._session.keeper


def take(encoder: SafeEncoder, rung: Rung) -> None:
    """Take a rung to its end, as the session's thread would."""
    ladder = keeper_of(encoder)._ladder
    encoder._session.run(lambda _: ladder.take(rung, "test"))


def settle(encoder: SafeEncoder) -> None:
    """Wait until the thread has nothing left to do: the look after the last call is taken."""
    line, keeper = encoder._session._line, keeper_of(encoder)
    wait_until(
        lambda: (
            line._changed._waiters  # type: ignore[attr-defined]
            and not (line._active or line._waiting)
            and keeper._climb is None
        )
    )


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)


def same(expected: Any, encoder: SafeEncoder) -> None:
    """The encoder gives what one gives that never reloads, to the bit."""
    np.testing.assert_array_equal(expected, encoder.encode(TEXTS))


def kinds(encoder: SafeEncoder) -> list[tuple[str, Rung]]:
    """What was told."""
    return [(event.kind, event.rung) for event in encoder.stats.events]


# A reload cannot be seen


@pytest.mark.parametrize("rung", RUNGS)
def test_results_are_equal_to_the_bit_at_every_rung(
    saved: Path, expected: Any, way: str, rung: Rung
) -> None:
    """Before and after each rung the same texts have the same vectors; stats tell what was done."""
    with SafeEncoder(saved, reload=None) as encoder:
        same(expected, encoder)
        model, work = encoder._model, keeper_of(encoder).engine
        tokenizer = work.tokenizer
        take(encoder, rung)
        same(expected, encoder)
        kept = rung < Rung.TOKENIZER or (rung == Rung.MODEL and forgets(tokenizer))
        assert (work.tokenizer is tokenizer) == kept
        assert encoder._model.tokenizer is work.tokenizer
        assert [("remedy", rung)] == kinds(encoder)
        assert int(rung == Rung.MODEL) == encoder.stats.reloads
        assert (encoder._model is model) == (rung < Rung.MODEL)


@pytest.mark.parametrize("make", [models.bert_japanese, models.static, models.small])
def test_every_kind_of_tokenizer_survives(make: Callable[[], SentenceTransformer]) -> None:
    """MeCab in Python, a bare Rust tokenizer, a fast one: cleared, copied, and the same results."""
    with SafeEncoder(make(), reload=None) as encoder:
        before = encoder.encode(TEXTS)
        for rung in RUNGS[:3] * 2:
            take(encoder, rung)
            np.testing.assert_array_equal(before, encoder.encode(TEXTS))
        assert {"remedy"} == {event.kind for event in encoder.stats.events}


@pytest.mark.parametrize("make", [models.bert_japanese, models.static])
def test_every_kind_of_model_is_loaded_anew(
    make: Callable[[], SentenceTransformer], tmp_path: Path, way: str
) -> None:
    """What is saved and loaded again gives the same vectors."""
    make().save(str(tmp_path))
    with SafeEncoder(tmp_path, device="cpu") as encoder:
        before = encoder.encode(TEXTS)
        encoder.reload()
        take(encoder, Rung.TOKENIZER)
        np.testing.assert_array_equal(before, encoder.encode(TEXTS))
        assert 1 == encoder.stats.reloads


def test_a_tokenizer_is_kept_if_asked_for(saved: Path, expected: Any, way: str) -> None:
    """reload() renews both; with keep_tokenizer the tokenizer is the same object, and works."""
    with SafeEncoder(saved, reload=None) as encoder:
        engine = keeper_of(encoder).engine
        for keep in (True, False, True):
            model, tokenizer = engine.model, engine.tokenizer
            encoder.reload(keep_tokenizer=keep)
            assert model is not engine.model
            assert keep == (tokenizer is engine.tokenizer)
            assert engine.model.tokenizer is engine.tokenizer
            same(expected, encoder)
        assert ["MODEL"] * 3 == [event.rung.name for event in encoder.stats.events]


def test_settings_survive(saved: Path, way: str) -> None:
    """What users set on the model is set on the new one: all that can be set, device and dtype."""
    import torch

    with SafeEncoder(saved) as encoder:
        encoder.max_seq_length = 20
        encoder.prompts = {"mine": "前置き: "}
        encoder.prompts["other"] = "別: "
        encoder.default_prompt_name = "mine"
        encoder.truncate_dim = 9
        encoder.similarity_fn_name = "euclidean"
        encoder._session.run(lambda work: work.model.to(torch.bfloat16))
        names = ("max_seq_length", "prompts", "default_prompt_name", "truncate_dim")
        names += ("similarity_fn_name", "dtype", "device")
        before = {name: getattr(encoder, name) for name in names}
        vectors = encoder.encode(TEXTS)
        for _ in range(2):
            model = encoder._model
            encoder.reload()
            assert encoder._model is not model
            assert before == {name: getattr(encoder, name) for name in names}
            assert not any(module.training for module in encoder._model.modules())
            np.testing.assert_array_equal(vectors, encoder.encode(TEXTS))
        assert (len(TEXTS), 9) == vectors.shape
        assert torch.bfloat16 == before["dtype"]


def test_what_is_set_while_a_model_loads_survives(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings belong to the moment when the models change places, not to that of the request."""
    choose(monkeypatch, "beside")
    hold = threading.Event()
    loader = Loader(saved)
    with SafeEncoder(loader) as encoder, ThreadPoolExecutor(1) as pool:
        loader.fault = lambda: hold.wait(30) and None
        reload = pool.submit(encoder.reload)
        wait_until(lambda: loader.loads == 2)
        encoder.max_seq_length = 8
        encoder.prompts = {"late": "遅: "}
        encoder.default_prompt_name = "late"
        vectors = encoder.encode(TEXTS)
        hold.set()
        reload.result()
        assert (8, {"late": "遅: "}, "late") == (
            encoder.max_seq_length,
            encoder.prompts,
            encoder.default_prompt_name,
        )
        np.testing.assert_array_equal(vectors, encoder.encode(TEXTS))
        assert 1 == encoder.stats.reloads


def test_calls_under_way_see_nothing(saved: Path, expected: Any, way: str) -> None:
    """A model that is exchanged between two batches of a call: the call's result is whole."""
    long = [models.long_text(60, start) for start in range(0, 600, 60)]
    with SafeEncoder(saved, reload=None, max_batch_tokens=256) as encoder:
        before = encoder.encode(long)
        with ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(encoder.encode, long) for _ in range(2)]
            encoder.reload()
            for rung in RUNGS:
                take(encoder, rung)
            for call in calls:
                np.testing.assert_array_equal(before, call.result())
        assert 2 == encoder.stats.reloads


@pytest.mark.parametrize("on_long", ["chunk", "truncate"])
@pytest.mark.parametrize("rung", [Rung.TOKENIZER, Rung.MODEL])
def test_calls_under_way_hold_nothing_old(saved: Path, on_long: Any, rung: Rung) -> None:
    """What a rung exchanges between two steps of a call is given back then, not when it ends."""
    with SafeEncoder(saved, reload=None, on_long=on_long) as encoder:
        keeper = keeper_of(encoder)

        def work(engine: Engine) -> Generator[None, None, list[bool]]:
            left = []
            flow, found = engine.encode(Request(TEXTS)), None
            with contextlib.suppress(StopIteration):
                while wave := flow.send(found):
                    found = [engine.do(task) for task in wave.tasks]
                    whole = rung == Rung.MODEL
                    old = weakref.ref(engine.model if whole else engine.tokenizer)
                    yield from (None for _ in keeper._ladder.take(rung, "test"))
                    left.append(old() is not None)
            return left

        left = encoder._session.run(work)
        assert len(left) > 1
        assert not any(left)


def test_calls_go_on_while_a_model_loads_beside(
    saved: Path, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading beside the old model keeps nobody waiting: calls end before the load does."""
    choose(monkeypatch, "beside")
    hold = threading.Event()
    loader = Loader(saved)
    with SafeEncoder(loader) as encoder, ThreadPoolExecutor(1) as pool:
        loader.fault = lambda: hold.wait(30) and None
        reload = pool.submit(encoder.reload)
        wait_until(lambda: loader.loads == 2)
        for _ in range(5):
            same(expected, encoder)
        assert not reload.done()
        hold.set()
        reload.result()
        same(expected, encoder)
        assert 1 == encoder.stats.reloads


# What is told


def test_hooks_are_told_and_a_hook_that_raises_stops_nothing(
    saved: Path, expected: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """All hooks get all events, on the encoder's own thread; stats and log tell the same."""
    caplog.set_level(logging.INFO, "safe_embed")
    told: list[tuple[Event, str]] = []

    def fail(event: Event) -> None:
        raise ZeroDivisionError

    def note(event: Event) -> None:
        told.append((event, threading.current_thread().name))

    with SafeEncoder(saved, reload=None, hooks=[fail, note]) as encoder:
        take(encoder, Rung.TOKENIZER)
        encoder.reload("Tuesday")
        same(expected, encoder)
        assert encoder.stats.events == tuple(event for event, _ in told)
    assert [Rung.TOKENIZER, Rung.MODEL] == [event.rung for event, _ in told]
    assert {"safe_embed"} == {name for _, name in told}
    event = told[1][0]
    assert ("Tuesday", None) == (event.reason, event.error)
    assert event.before.elapsed_seconds < event.after.elapsed_seconds
    assert 0 < event.seconds <= event.after.elapsed_seconds - event.before.elapsed_seconds
    messages = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert any("MODEL: remedy (Tuesday)" in message for message in messages)


def test_no_text_of_the_user_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Remedies, failures, hooks that fail: no record and no event holds what was encoded."""
    caplog.set_level(logging.DEBUG)

    def fail(event: Event) -> None:
        raise ZeroDivisionError

    with SafeEncoder(folder, reload=EveryCalls(2, jitter=0), hooks=[fail]) as encoder:
        for _ in range(4):
            encoder.encode([PLANTED, PLANTED + models.long_text(9)], prompt=PLANTED)
            settle(encoder)
        for rung in RUNGS:
            take(encoder, rung)
        shutil.rmtree(folder)
        take(encoder, Rung.MODEL)
        with pytest.raises(ReloadError) as caught:
            encoder.reload()
        told = f"{encoder.stats}{caught.value!r}{caught.value.__cause__!r}"
    records = [logging.Formatter().format(record) for record in caplog.records]
    assert any("failed" in record for record in records)
    assert "合言葉" not in told + "\n".join(records)


# A failed reload

faults: list[Callable[[Path], object]] = [
    lambda folder: (folder / "model.safetensors").unlink(),
    lambda folder: (folder / "tokenizer.json").unlink(),
    lambda folder: os.utime(folder / "model.safetensors", ns=(0, 0)),
    lambda folder: (folder / "config.json").write_text(
        (folder / "config.json").read_text() + " ", encoding="utf-8"
    ),
    lambda folder: folder.rename(folder.with_name("elsewhere")),
]


@pytest.mark.parametrize("spoil", faults)
def test_files_that_changed_leave_the_old_model_serving(
    folder: Path, saved: Path, expected: Any, way: str, spoil: Callable[[Path], object]
) -> None:
    """Gone, older, longer, elsewhere: encode goes on, reload() says so; put right, it works."""
    with SafeEncoder(folder, reload=EveryCalls(1, jitter=0)) as encoder:
        spoil(folder)
        model = encoder._model
        for _ in range(3):
            same(expected, encoder)
            settle(encoder)
        assert [("failed", Rung.MODEL)] == kinds(encoder)
        for _ in range(2):  # also while the policy's own attempts are put off
            with pytest.raises(ReloadError, match="serves on"):
                encoder.reload()
        assert (0, model) == (encoder.stats.reloads, encoder._model)
        same(expected, encoder)
        settle(encoder)

        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(saved, folder)
        encoder.reload()
        assert 1 == encoder.stats.reloads
        assert encoder._model is not model
        same(expected, encoder)


def test_a_new_file_in_the_folder_is_no_change(folder: Path, expected: Any, way: str) -> None:
    """What somebody lays beside the model's files, a note or a cache, keeps no reload from working."""
    with SafeEncoder(folder, reload=None) as encoder:
        (folder / "ノート.md").write_text("note", encoding="utf-8")
        encoder.reload()
        same(expected, encoder)


def test_a_relative_folder_is_found_from_elsewhere(
    folder: Path, expected: Any, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that changes its folder still knows where its model lies."""
    monkeypatch.chdir(folder.parent)
    with SafeEncoder(folder.name, reload=None) as encoder:
        monkeypatch.chdir("/")
        encoder.reload()
        same(expected, encoder)


def test_a_hub_model_stays_at_its_revision(
    saved: Path, expected: Any, way: str, tmp_path: Path
) -> None:
    """What is published while a process runs is not loaded by it: a later main is another model."""
    hub = tmp_path / "hub"
    repo = hub / "models--someone--small"
    for revision in ("1" * 40, "2" * 40):
        shutil.copytree(saved, repo / "snapshots" / revision)
    config = repo / "snapshots" / ("2" * 40) / "config.json"
    config.write_text(config.read_text().replace('"gelu"', '"relu"'), encoding="utf-8")
    (repo / "refs").mkdir()
    main = repo / "refs" / "main"
    main.write_text("1" * 40)
    options = {"cache_folder": str(hub), "local_files_only": True, "device": "cpu"}
    with SafeEncoder("someone/small", reload=None, **options) as encoder:
        same(expected, encoder)
        main.write_text("2" * 40)
        encoder.reload()
        same(expected, encoder)
        take(encoder, Rung.MODEL)
        assert 2 == encoder.stats.reloads
    with SafeEncoder("someone/small", reload=None, **options) as encoder:
        assert not np.array_equal(expected, encoder.encode(TEXTS))


def test_changed_weights_of_the_same_size_and_time(
    folder: Path, saved: Path, expected: Any, tmp_path: Path
) -> None:
    """What files do not tell the canary does: a model that gives other vectors is refused."""
    _other().save(str(tmp_path / "other"))
    times = (folder / "model.safetensors").stat()

    def put(origin: Path) -> None:
        # A new file, as an update makes it: the old one is mapped into the old model.
        fresh = Path(shutil.copy(origin / "model.safetensors", folder / "fresh"))
        os.utime(fresh, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert times.st_size == fresh.stat().st_size
        fresh.replace(folder / "model.safetensors")

    with SafeEncoder(folder, reload=None) as encoder:
        put(tmp_path / "other")
        with pytest.raises(ReloadError) as caught:
            encoder.reload()
        assert "other vectors" in str(caught.value.__cause__)
        same(expected, encoder)
        put(saved)
        encoder.reload()
        same(expected, encoder)
        assert 1 == encoder.stats.reloads


def _raise(error: type[BaseException]) -> Any:
    raise error(PLANTED)


def _other() -> Any:
    """Another model of the same shape."""
    import torch

    other = models.small()
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return other


def _broken() -> Any:
    """The same model with one weight that is no number."""
    import torch

    model = models.small()
    with torch.no_grad():
        next(model[0].auto_model.encoder.parameters())[0] = float("nan")
    return model


loader_faults: dict[str, Callable[[], Any]] = {
    "raises": lambda: _raise(ConnectionError),
    "out of memory": lambda: _raise(MemoryError),
    "exits": lambda: _raise(SystemExit),
    "no model": lambda: "雨",
    "another model": _other,
    "a broken model": _broken,
    "another dimension": models.static,
}


@pytest.mark.parametrize("fault", loader_faults)
def test_a_loader_that_fails_leaves_the_old_model_serving(
    saved: Path, expected: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Whatever a load beside the old model gives: no call fails, and the next good load is taken."""
    choose(monkeypatch, "beside")
    loader = Loader(saved)
    with SafeEncoder(loader, reload=EveryCalls(1, jitter=0)) as encoder:
        model = encoder._model
        loader.fault = loader_faults[fault]
        for _ in range(3):
            same(expected, encoder)
            settle(encoder)
        assert [("failed", Rung.MODEL)] == kinds(encoder)
        with pytest.raises(ReloadError, match="serves on") as caught:
            encoder.reload()
        assert caught.value.__cause__ is not None
        assert encoder._model is model
        same(expected, encoder)
        loader.fault = None
        encoder.reload()
        assert 1 == encoder.stats.reloads
        same(expected, encoder)


def test_failed_reloads_are_tried_ever_more_rarely(saved: Path, expected: Any, way: str) -> None:
    """After 30, 60, 120 … s; then, when files are right again, by the policy itself."""
    loader = Loader(saved)
    now = [1e6]
    with SafeEncoder(loader, reload=EveryCalls(1, jitter=0)) as encoder:
        keeper_of(encoder)._ladder._clock = lambda: now[0]
        fingerprint = keeper_of(encoder).renewal._fingerprint
        keeper_of(encoder).renewal._fingerprint = (("gone", 0, 0),)
        attempts = []
        for _ in range(150):
            same(expected, encoder)
            settle(encoder)
            attempts.append(sum(kind == "failed" for kind, _ in kinds(encoder)))
            now[0] += 2.0
        steps = [2 * at for at in range(1, 150) if attempts[at] > attempts[at - 1]]
        assert [30, 90, 210] == steps
        assert 1 == loader.loads
        keeper_of(encoder).renewal._fingerprint = fingerprint
        now[0] += 3600
        same(expected, encoder)
        settle(encoder)
        assert encoder.stats.reloads in (1, 2)  # between two batches of the call, and after it


def test_a_failure_is_found_among_many_events(saved: Path) -> None:
    """reload() raises also when the record of events is full."""
    loader = Loader(saved)
    with SafeEncoder(loader, reload=None) as encoder:
        loader.fault = lambda: _raise(OSError)
        take(encoder, Rung.MODEL)
        for _ in range(99):
            take(encoder, Rung.TRIM)
        for _ in range(3):
            with pytest.raises(ReloadError):
                encoder.reload()
        assert 100 == len(encoder.stats.events)


# Load after drop


def test_the_old_model_is_gone_before_the_new_one_comes(
    saved: Path, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no room for two there are never two; beside each other there are."""
    left: list[bool] = []
    loader = Loader(saved)
    with SafeEncoder(loader) as encoder:
        for way in WAYS:
            choose(monkeypatch, way)
            parts = [
                weakref.ref(encoder._model),
                weakref.ref(encoder._model[0].auto_model),
                weakref.ref(keeper_of(encoder).engine.tokenizer),
            ]
            loader.fault = lambda parts=parts: left.append(any(part() for part in parts))
            encoder.encode(TEXTS)
            encoder.reload()
            same(expected, encoder)
            assert not any(part() for part in parts)
    assert [True, False] == left


@pytest.mark.parametrize(
    ("room", "beside"), [(None, True), (121, True), (120, False), (0, False), (-9, False)]
)
def test_room_is_what_a_load_took(saved: Path, room: int | None, *, beside: bool) -> None:
    """Beside the old model only where there is 1.2 times what the first load was seen to take."""
    with SafeEncoder(saved, reload=None) as encoder:
        keeper = keeper_of(encoder)
        assert keeper.renewal._load_bytes >= 0
        keeper.renewal._load_bytes = 100
        used = None if room is None else 2**40 - room
        sample = replace(keeper._measure(), limit_bytes=2**40, limit_used_bytes=used)
        keeper.renewal._measure = lambda: sample  # type: ignore[method-assign]
        assert beside == keeper.renewal._has_room()


def test_callers_wait_between_drop_and_load(
    saved: Path, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there is no model, calls and settings wait for the new one; nothing else is seen."""
    choose(monkeypatch, "after")
    hold = threading.Event()
    loader = Loader(saved)
    with SafeEncoder(loader, reload=None) as encoder, ThreadPoolExecutor(8) as pool:
        loader.fault = lambda: hold.wait(30) and None
        reload = pool.submit(encoder.reload)
        wait_until(lambda: loader.loads == 2)
        assert keeper_of(encoder).model is None
        calls = [pool.submit(encoder.encode, TEXTS) for _ in range(3)]
        settings = [
            pool.submit(lambda: encoder.prompts["query"]),
            pool.submit(lambda: encoder.max_seq_length),
            pool.submit(encoder.get_embedding_dimension),
        ]
        assert 1 == encoder.stats.reloads + 1
        time.sleep(0.05)
        assert not any(one.done() for one in [reload, *calls, *settings])
        hold.set()
        reload.result()
        for call in calls:
            np.testing.assert_array_equal(expected, call.result())
        assert ["検索クエリ: ", models.LIMIT, 32] == [one.result() for one in settings]


def test_a_load_that_fails_after_the_drop(
    saved: Path, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No model is left: calls get a ReloadError, and a later one finds the model loaded again."""
    choose(monkeypatch, "after")
    monkeypatch.setattr(renewal_module, "_RETRY_SECONDS", 0.2)
    loader = Loader(saved)
    with SafeEncoder(loader, reload=EveryCalls(1, jitter=0)) as encoder:
        encoder.max_seq_length = 30
        encoder.truncate_dim = 7
        before = encoder.encode(TEXTS)
        settle(encoder)
        loader.fault = lambda: _raise(ConnectionError)
        with pytest.raises(ReloadError, match="there is none now"):
            encoder.reload()
        loads = loader.loads
        for call in (
            lambda: encoder.encode(TEXTS),
            lambda: encoder.encode_chunks(TEXTS),
            lambda: encoder.plan(TEXTS),
            lambda: encoder.prompts,
            lambda: encoder.tokenizer,
            lambda: asyncio.run(encoder.aencode(TEXTS)),
        ):
            with pytest.raises(ReloadError, match="no model"):
                call()
        assert loads == loader.loads  # not a load for every call
        time.sleep(0.25)
        for _ in range(3):
            with pytest.raises(ReloadError):
                encoder.encode(TEXTS)
        assert loads + 1 == loader.loads
        loader.fault = _other
        time.sleep(0.25)
        with pytest.raises(ReloadError):
            encoder.encode(TEXTS)
        loader.fault = None
        time.sleep(0.25)
        np.testing.assert_array_equal(before, encoder.encode(TEXTS))
        assert (30, 7) == (encoder.max_seq_length, encoder.truncate_dim)
        settle(encoder)
        assert "remedy" == encoder.stats.events[-1].kind
        loader.fault = lambda: _raise(ConnectionError)
        with pytest.raises(ReloadError):
            encoder.reload()
        loader.fault = None
        encoder.reload()  # does not wait for its turn
        np.testing.assert_array_equal(before, encoder.encode(TEXTS))
    assert 1 == loader.most_at_once


def test_the_drop_comes_only_after_the_files_were_looked_at(
    folder: Path, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known to fail costs no model, also where there is no room for two."""
    choose(monkeypatch, "after")
    with SafeEncoder(folder, reload=None) as encoder:
        shutil.rmtree(folder)
        with pytest.raises(ReloadError, match="serves on"):
            encoder.reload()
        same(expected, encoder)


def test_closing_an_encoder_without_a_model(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder whose model is gone can be closed, and says that it is."""
    choose(monkeypatch, "after")
    loader = Loader(saved)
    with SafeEncoder(loader, reload=None) as encoder:
        loader.fault = lambda: _raise(OSError)
        with pytest.raises(ReloadError):
            encoder.reload()
    with pytest.raises(WorkerError, match="closed"):
        encoder.encode("雨")


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


def test_a_loaded_model_stops_at_the_tokenizer() -> None:
    """Growth is met up to the tokenizer, the bound is told as unreached, reload() is refused."""
    model = models.small()
    own = model.tokenizer
    with SafeEncoder(model, reload=Grown()) as encoder:
        before = encoder.encode(TEXTS)
        settle(encoder)
        rungs = [Rung.TRIM, Rung.TOKENIZER_CACHE, Rung.TOKENIZER]
        assert [*(("remedy", rung) for rung in rungs), ("unreached", Rung.TOKENIZER)] == (
            kinds(encoder)
        )
        np.testing.assert_array_equal(before, encoder.encode(TEXTS))
        with pytest.raises(ReloadError, match="loaded elsewhere"):
            encoder.reload()
        assert encoder._model is model
    assert model.tokenizer is own  # a shared model keeps its own


@dataclass(frozen=True)
class Grown:
    """A policy of a user's own, with a bound that nothing can keep."""

    calls: int = 1

    def reason(self, usage: Usage) -> Reason | None:
        """Ask for less than anything holds."""
        return Reason("own", bound_bytes=1) if usage.calls >= self.calls else None


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
    saved: Path, monkeypatch: pytest.MonkeyPatch, policy: Any, due: list[int]
) -> None:
    """Calls of two texts and 8 tokens: reloaded after exactly these calls, and after no other."""
    choose(monkeypatch, "after")
    monkeypatch.setattr(Renewal, "_give_back", lambda *_: None)  # a trim takes longer than a load
    with SafeEncoder(saved, reload=policy) as encoder:
        assert [(4,), (4,)] == [plan.token_counts for plan in encoder.plan(["雨雨", "雨雨"])]
        found = []
        for call in range(1, 13):
            reloads = encoder.stats.reloads
            encoder.encode(["雨雨", "雨雨"])
            settle(encoder)
            if encoder.stats.reloads > reloads:
                assert reloads + 1 == encoder.stats.reloads
                found.append(call)
        assert due == found

        assert (12, 24, 96) == (encoder.stats.calls, encoder.stats.texts, encoder.stats.tokens)


def test_time_reloads_when_it_is_due(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before 0.4 s after the load, at the first call after it, and again 0.4 s after that."""
    choose(monkeypatch, "after")
    with SafeEncoder(saved, reload=EverySeconds(0.4, jitter=0)) as encoder:
        for round_ in range(1, 3):
            since = keeper_of(encoder).meter.loaded_at
            while encoder.stats.reloads < round_:
                started = time.monotonic()
                encoder.encode("雨")
                settle(encoder)
            assert started - since < 30
            assert keeper_of(encoder).meter.loaded_at - since >= 0.4


def test_every_batch_of_a_long_call_is_followed_by_a_look(saved: Path) -> None:
    """Policies are asked between the batches of one call, not only after it."""
    seen: list[int] = []

    class Asked:
        def reason(self, usage: Usage) -> None:
            seen.append(usage.tokens)

    with SafeEncoder(saved, reload=Asked(), max_batch_tokens=64) as encoder:
        encoder.encode(models.long_text(50))
        settle(encoder)
    assert len(set(seen)) > 8
    assert sorted(seen) == seen


def test_an_idle_encoder_looks_once_more(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the last call left behind is found without another call; after that, silence."""
    monkeypatch.setattr(session_module, "_IDLE_SECONDS", 0.05)
    seen: list[int] = []

    class Asked:
        def reason(self, usage: Usage) -> None:
            seen.append(usage.calls)

    with SafeEncoder(saved, reload=Asked()) as encoder:
        encoder._session.run(lambda _: None)
        wait_until(lambda: len(seen) == 2)
        time.sleep(0.2)
        assert 2 == len(seen)


@pytest.mark.parametrize("answer", ["error", "nonsense"])
def test_a_policy_that_is_broken_stops_nothing(
    saved: Path, expected: Any, caplog: pytest.LogCaptureFixture, answer: str
) -> None:
    """A policy is code of the user's own: when it raises, or gives no reason, calls go on."""

    class Broken:
        def reason(self, usage: Usage) -> Any:
            return 1 / 0 if answer == "error" else answer

    with SafeEncoder(saved, reload=Broken()) as encoder:
        for _ in range(3):
            same(expected, encoder)
        settle(encoder)
    assert any("policy" in record.getMessage() for record in caplog.records)


def test_a_reload_that_breaks_down_ends(
    saved: Path, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it is not the load that fails, reload() ends with an error, and calls go on."""
    with SafeEncoder(saved, reload=None) as encoder:
        keeper = keeper_of(encoder)
        monkeypatch.setattr(keeper._ladder, "_tell", lambda event: 1 / 0)
        with pytest.raises(ReloadError):
            encoder.reload()
        same(expected, encoder)


def test_one_load_at_a_time(saved: Path, expected: Any, way: str) -> None:
    """Callers and a policy that all want a new model: they come one after the other."""
    loader = Loader(saved)
    with (
        SafeEncoder(loader, reload=EveryCalls(1, jitter=0)) as encoder,
        ThreadPoolExecutor(4) as pool,
    ):
        loader.fault = lambda: time.sleep(0.05)
        reloads = [pool.submit(encoder.reload) for _ in range(3)]
        for _ in range(4):
            same(expected, encoder)
        for reload in reloads:
            reload.result()
        settle(encoder)
        assert loader.loads == encoder.stats.reloads + 1 >= 4
    assert 1 == loader.most_at_once


def test_encoders_load_one_after_the_other(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With transformers 4 two loads at once would spoil all later ones: weights stay empty."""
    import sentence_transformers

    at_once: list[int] = []
    most: list[int] = []

    class Counted(sentence_transformers.SentenceTransformer):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            at_once.append(1)
            most.append(len(at_once))
            time.sleep(0.02)
            super().__init__(*args, **kwargs)
            at_once.pop()

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", Counted)
    with ThreadPoolExecutor(4) as pool:
        encoders = list(pool.map(lambda _: SafeEncoder(saved, reload=None), range(4)))
        list(pool.map(SafeEncoder.reload, encoders * 2))
    for encoder in encoders:
        encoder.close()
    assert [1] * 12 == most


def test_a_loader_may_make_an_encoder_of_its_own(saved: Path, expected: Any) -> None:
    """A load inside a load waits for nobody."""
    from sentence_transformers import SentenceTransformer

    def load() -> Any:
        with SafeEncoder(saved, reload=None) as inner:
            inner.encode("雨")
        return SentenceTransformer(str(saved), device="cpu")

    with SafeEncoder(load, reload=None) as encoder:
        encoder.reload()
        same(expected, encoder)


# Turns


def work(log: list[str], name: str, batches: int = 3) -> Callable[[Inference], Any]:
    """A call of so many batches that notes when it is served."""

    def steps(_: Inference) -> Generator[None, None, str]:
        for batch in range(batches):
            log.append(f"{name}{batch}")
            yield
        return name

    return steps


@pytest.fixture
def held(saved: Path) -> Iterator[tuple[Any, threading.Event]]:
    """A session whose thread is busy until the event is set."""
    with SafeEncoder(saved, reload=None) as encoder:
        hold, busy = threading.Event(), threading.Event()

        def wait(_: Inference) -> None:
            busy.set()
            hold.wait(30)

        encoder._session.submit(wait)
        busy.wait(30)
        yield encoder._session, hold
        hold.set()


def test_four_calls_are_served_in_turn_and_others_wait_in_order(held: Any) -> None:
    """A batch of each of four, round and round; who waits is let in in order of arrival."""
    session, hold = held
    log: list[str] = []
    calls = [session.submit(work(log, name)) for name in "abcdef"]
    hold.set()
    assert [*"abcdef"] == [call.result(30) for call in calls]
    assert [f"{name}{at}" for at in range(3) for name in "abcd"] == log[:12]
    assert [f"{name}{at}" for at in range(3) for name in "ef"] == log[12:]


def test_no_more_than_four_calls_are_begun(held: Any) -> None:
    """The texts of those behind are not tokenized yet: pending work is bounded."""
    session, hold = held
    begun = [0, 0]

    def steps(_: Inference) -> Generator[None, None, None]:
        begun[0] += 1
        begun[1] = max(begun)
        for _ in range(3):
            yield
        begun[0] -= 1

    calls = [session.submit(steps) for _ in range(20)]
    hold.set()
    for call in calls:
        call.result(30)
    assert 4 == begun[1]


def test_a_cancelled_call_gives_up_its_place(held: Any) -> None:
    """Before its turn it is never begun, during it it is closed; all others are served."""
    session, hold = held
    log: list[str] = []
    closed: list[str] = []
    calls: list[Future[Any]] = []

    def cancels(_: Inference) -> Generator[None, None, None]:
        try:
            yield
            calls[1].cancel()
            while True:
                yield
        finally:
            closed.append("b")

    calls += [session.submit(work(log, "a")), session.submit(cancels)]
    calls += [session.submit(work(log, name)) for name in "cdefg"]
    assert calls[5].cancel()  # f, which waits
    hold.set()
    assert ["a", "c", "d", "e", "g"] == [calls[at].result(30) for at in (0, 2, 3, 4, 6)]
    assert ["b"] == closed
    assert not [step for step in log if step.startswith("f")]
    for at in (1, 5):
        with pytest.raises(CancelledError):
            calls[at].result(0)


def test_short_calls_do_not_wait_for_a_long_one(saved: Path) -> None:
    """While one thread embeds a very long text, those of others end before it, and rightly."""
    ended: list[str] = []
    with SafeEncoder(saved, reload=None, max_batch_tokens=128) as encoder:
        session = encoder._session
        long, short = Request([models.long_text(400)]), Request(TEXTS)
        alone = [encoder.encode(list(request.texts)) for request in (long, short)]
        begun = threading.Event()

        def steps(inference: Inference) -> Generator[None, None, Any]:
            yield
            begun.set()
            return (yield from inference.encode(long))

        first = session.submit(steps)
        first.add_done_callback(lambda _: ended.append("long"))
        begun.wait(30)
        calls = [session.submit(Inference.encode, short) for _ in range(6)]
        for call in calls:
            call.add_done_callback(lambda _: ended.append("short"))
        np.testing.assert_array_equal(alone[0], first.result(60))
        for call in calls:
            np.testing.assert_array_equal(alone[1], call.result(0))
    assert [*["short"] * 6, "long"] == ended


def test_an_error_of_one_call_is_its_own(saved: Path, expected: Any) -> None:
    """Calls that fail, at their beginning or between two batches, touch no other."""
    with SafeEncoder(saved, reload=None) as encoder, ThreadPoolExecutor(6) as pool:
        session = encoder._session

        def late(_: Inference) -> Generator[None, None, None]:
            yield
            raise KeyError

        good = [pool.submit(encoder.encode, TEXTS) for _ in range(6)]
        bad = [session.submit(lambda _: 1 / 0), session.submit(late)]
        bad.append(session.submit(lambda _: _raise(SystemExit)))
        for call, error in zip(bad, (ZeroDivisionError, KeyError, SystemExit), strict=True):
            with pytest.raises(error):
                call.result(30)
        for call in good:
            np.testing.assert_array_equal(expected, call.result())
        same(expected, encoder)


# asyncio


async def ticker(ticks: list[float]) -> None:
    """Note every few milliseconds that the loop is free."""
    while True:
        ticks.append(time.monotonic())
        await asyncio.sleep(0.005)


def longest_gap(ticks: list[float]) -> float:
    """For how long the loop was not free."""
    return max(after - before for before, after in pairwise(ticks))


def test_aencode_gives_what_encode_gives(saved: Path, expected: Any) -> None:
    """Equal to the bit, in every form, for many at once; errors are the same."""

    async def main(encoder: SafeEncoder) -> None:
        np.testing.assert_array_equal(expected, await encoder.aencode(TEXTS))
        for text, row in zip(
            TEXTS, await encoder.aencode(TEXTS, convert_to_numpy=False), strict=True
        ):
            one = await encoder.aencode(text, normalize_embeddings=False)
            assert one.shape == tuple(row.shape)
        for options in ({"prompt_name": "query"}, {"precision": "binary"}, {"truncate_dim": 5}):
            found = await encoder.aencode(TEXTS, **options)
            np.testing.assert_array_equal(encoder.encode(TEXTS, **options), found)
        assert (0,) == (await encoder.aencode([])).shape
        with pytest.raises(ConfigError):
            await encoder.aencode(TEXTS, prompt_name="no")
        many = await asyncio.gather(*(encoder.aencode(TEXTS) for _ in range(60)))
        for one in many:
            np.testing.assert_array_equal(expected, one)

    with SafeEncoder(saved) as encoder:
        asyncio.run(main(encoder))


def test_aencode_waits_for_a_model_without_blocking(saved: Path, expected: Any) -> None:
    """Between drop and load there is no model to ask; the loop goes on before and after the call."""
    loader = Loader(saved)
    gaps: list[float] = []

    async def tick() -> None:
        while True:
            started = time.monotonic()
            await asyncio.sleep(0.01)
            gaps.append(time.monotonic() - started)

    async def main(encoder: SafeEncoder) -> None:
        ticker = asyncio.create_task(tick())
        await asyncio.sleep(0.05)
        for _ in range(3):  # each call ends in a reload, which the next one meets
            np.testing.assert_array_equal(expected, await encoder.aencode(TEXTS))
        ticker.cancel()

    with SafeEncoder(loader, reload=EveryCalls(1, jitter=0)) as encoder:
        keeper_of(encoder).renewal._has_room = lambda: False  # type: ignore[method-assign]
        loader.fault = lambda: time.sleep(1.5)
        asyncio.run(main(encoder))
        loader.fault = None
    assert loader.loads >= 3
    assert max(gaps) < 1.0


def test_aencode_never_blocks_the_loop(saved: Path) -> None:
    """While a slow model works and another loads, a task beside it keeps ticking."""

    async def main(encoder: SafeEncoder) -> list[float]:
        ticks: list[float] = []
        beside = asyncio.create_task(ticker(ticks))
        await asyncio.gather(*(encoder.aencode(TEXTS) for _ in range(3)))
        beside.cancel()
        return ticks

    loader = Loader(saved)
    with SafeEncoder(loader, reload=None) as encoder:
        encoder._model.register_forward_pre_hook(lambda *_: time.sleep(0.15))
        started = time.monotonic()
        ticks = asyncio.run(main(encoder))
        assert time.monotonic() - started > 0.45
        assert longest_gap(ticks) < 0.1
        assert len(ticks) > 20


def test_cancelled_tasks_free_their_places(saved: Path) -> None:
    """Tasks that are cancelled, or run out of time, are embedded no further; others go on."""
    batches: list[int] = []

    async def main(encoder: SafeEncoder) -> None:
        long = [models.long_text(300)]
        tasks = [asyncio.create_task(encoder.aencode(long)) for _ in range(4)]
        others = [asyncio.create_task(encoder.aencode(TEXTS)) for _ in range(3)]
        await asyncio.sleep(0.1)
        for task in tasks[:3]:
            task.cancel()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tasks[3], 0.01)
        for found in await asyncio.gather(*others):
            np.testing.assert_array_equal(alone, found)
        for task in tasks:
            assert task.cancelled()

    with SafeEncoder(saved, reload=None, max_batch_tokens=64) as encoder:
        alone = encoder.encode(TEXTS)
        encoder._model.register_forward_pre_hook(lambda *_: time.sleep(0.01) or batches.append(1))
        asyncio.run(main(encoder))
        settle(encoder)
        done = len(batches)
        time.sleep(0.1)
        assert done == len(batches)
        assert done < 60  # one long text alone is 90 batches
        assert 4 == encoder.stats.calls


# Everything at once


def test_eight_threads_while_everything_goes_wrong(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 calls, reloads at every rung, failing loads, a folder that is gone: each result is right."""
    with SafeEncoder(folder, reload=None) as reference:
        texts = [[f"{n}と{k}の雨。" * (1 + k % 5) for k in range(3)] for n in range(400)]
        expected = [reference.encode(mine) for mine in texts]
    stop = threading.Event()
    room = [True]
    monkeypatch.setattr(Renewal, "_has_room", lambda self: room[0])

    def disturb(encoder: SafeEncoder) -> int:
        rounds = 0
        while not stop.is_set() or not rounds:
            for rung in RUNGS:
                take(encoder, rung)
            room[0] = not room[0]
            away = folder.rename(folder.with_name("away"))
            with pytest.raises(ReloadError):
                encoder.reload()
            take(encoder, Rung.MODEL)
            away.rename(folder)
            encoder.reload()
            rounds += 1
        return rounds

    def work(first: int) -> list[Any]:
        return [encoder.encode(texts[n]) for n in range(first, 400, 8)]

    policy = EveryCalls(120, jitter=0) | MemoryGrowth("1 MiB", cool_down_seconds=0.2)
    with SafeEncoder(folder, reload=policy) as encoder, ThreadPoolExecutor(9) as pool:
        disturbance = pool.submit(disturb, encoder)
        found = list(pool.map(work, range(8)))
        stop.set()
        rounds = disturbance.result()
        assert 400 == encoder.stats.calls
        assert encoder.stats.reloads >= 2 * rounds
    for first in range(8):
        for n, vectors in zip(range(first, 400, 8), found[first], strict=True):
            np.testing.assert_array_equal(expected[n], vectors)


# One thread


def test_all_work_is_done_on_one_thread(saved: Path) -> None:
    """30 threads that stay alive: the model sees one thread, and the process no other new ones."""
    seen: set[int] = set()
    with SafeEncoder(saved, reload=None) as encoder:
        encoder._model.register_forward_pre_hook(
            lambda *_: seen.add(threading.get_ident()) and None
        )
        encoder.encode(TEXTS)
        before = take_sample().native_threads
        gate = threading.Barrier(31)

        def call() -> None:
            for _ in range(3):
                encoder.encode(TEXTS)
            gate.wait(60)
            gate.wait(60)

        threads = [threading.Thread(target=call) for _ in range(30)]
        for thread in threads:
            thread.start()
        gate.wait(60)
        after = take_sample().native_threads
        gate.wait(60)
        for thread in threads:
            thread.join()
        assert {encoder._session._thread.ident} == seen
    if before is None or after is None:
        pytest.skip("the system does not count threads")
    assert after <= before + 30


# The end


def test_the_encoder_cannot_be_called_from_its_own_thread(saved: Path, expected: Any) -> None:
    """A hook that calls the encoder gets a WorkerError, and so does what would wait for itself."""
    errors: list[BaseException] = []

    def hook(event: Event) -> None:
        for call in (
            lambda: encoder.encode("雨"),
            encoder.reload,
            lambda: asyncio.run(encoder.aencode("雨")),
            lambda: encoder.tokenizer,
        ):
            try:
                call()
            except WorkerError as error:
                errors.append(error)
        assert encoder.stats.events

    with SafeEncoder(saved, reload=None, hooks=[hook]) as encoder:
        take(encoder, Rung.TRIM)
        assert 4 == len(errors)
        assert "own thread" in str(errors[0])
        same(expected, encoder)


def test_a_hook_may_close_the_encoder(saved: Path) -> None:
    """Closed by its own thread, it ends without waiting for itself."""
    with SafeEncoder(saved, reload=None, hooks=[lambda event: encoder.close()]) as encoder:
        thread = encoder._session._thread
        with contextlib.suppress(WorkerError):
            take(encoder, Rung.TRIM)
        with pytest.raises(WorkerError, match="closed"):
            encoder.encode("雨")
        thread.join(30)
        assert not thread.is_alive()


def test_closing_while_calls_wait(held: Any) -> None:
    """Those under way and those that wait get a WorkerError; nobody hangs."""
    session, hold = held
    log: list[str] = []
    calls = [session.submit(work(log, name, 1000)) for name in "abcdefgh"]
    closing = threading.Thread(target=session.close)
    closing.start()
    for call in calls:
        with pytest.raises(WorkerError, match="closed"):
            call.result(30)
    hold.set()
    closing.join(30)
    assert not closing.is_alive()
    assert not session._thread.is_alive()


def test_closing_while_a_model_loads(saved: Path, way: str) -> None:
    """reload() of another thread ends too, with a WorkerError."""
    loader = Loader(saved)
    encoder = SafeEncoder(loader, reload=None)
    loader.fault = lambda: time.sleep(0.5)
    with ThreadPoolExecutor(2) as pool:
        reload = pool.submit(encoder.reload)
        wait_until(lambda: loader.loads == 2)
        call = pool.submit(encoder.encode, TEXTS)
        started = time.monotonic()
        encoder.close()
        assert time.monotonic() - started < 20
        for one in (reload, call):
            if (error := one.exception(30)) is not None:
                assert isinstance(error, WorkerError)
        assert reload.exception() is not None


def test_whatever_ends_the_thread_nobody_waits_for_it(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that dies takes its calls along with a WorkerError, also those that come later."""
    monkeypatch.setattr(threading, "excepthook", lambda *_: None)
    with SafeEncoder(saved, reload=None) as encoder:
        monkeypatch.setattr(Keeper, "watch", lambda self: _raise(SystemExit))
        calls = [encoder._session.submit(work([], "a")) for _ in range(6)]
        for call in calls:
            with pytest.raises(WorkerError):
                call.result(30)
        with pytest.raises(WorkerError):
            encoder.encode("雨")


def test_dropping_the_last_reference_ends_the_thread(saved: Path) -> None:
    """No close(), no with: the thread ends and the model goes, reloaded or not."""
    encoder = SafeEncoder(saved)
    encoder.encode("雨")
    encoder.reload()
    thread = encoder._session._thread
    model = weakref.ref(encoder._model)
    session = weakref.ref(encoder._session)
    del encoder
    gc.collect()
    thread.join(30)
    gc.collect()
    assert (False, None, None) == (thread.is_alive(), model(), session())


def test_an_ended_call_leaves_nothing_on_the_thread(saved: Path) -> None:
    """Its texts belong to the caller: the waiting thread does not hold the last call."""

    class Text(str):
        __slots__ = ("__weakref__",)

    with SafeEncoder(saved, reload=None) as encoder:
        text = Text("雨")
        gone = weakref.ref(text)
        encoder._session.run(Inference.encode, Request([text]))
        del text
        wait_until(lambda: gone() is None)


def test_an_ended_call_is_none_of_the_growth(saved: Path) -> None:
    """When the policy is asked, nothing holds what a call was given or gave but its caller."""
    asked: list[bool] = []

    class Text(str):
        __slots__ = ("__weakref__",)

    class Result:
        pass

    @dataclass(frozen=True)
    class Watching:
        def reason(self, usage: Usage) -> None:
            asked.append(any(one() is not None for one in kept))

    def work(inference: Inference, texts: list[str]) -> Generator[None, None, Result]:
        yield
        found = Result()
        kept.append(weakref.ref(found))
        return found

    kept: list[Callable[[], object]] = []
    with SafeEncoder(saved, reload=Watching()) as encoder:
        text = Text("雨")
        kept.append(weakref.ref(text))
        future = encoder._session.submit(work, [text])
        del text, future
        wait_until(lambda: len(kept) == 2 and len(asked) > 1)
        assert [True, False] == asked


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads")
def test_ctrl_c_gives_up_the_place(held: Any) -> None:
    """KeyboardInterrupt in a waiting caller: its call is never begun, the next one is."""
    session, hold = held
    log: list[str] = []
    main = threading.main_thread().ident
    timer = threading.Timer(0.2, lambda: signal.pthread_kill(main, signal.SIGINT))
    # Tests that were begun in the background ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            session.run(work(log, "a"))
        timer.join()
    finally:
        signal.signal(signal.SIGINT, before)
    after = session.submit(work(log, "b"))
    hold.set()
    assert "b" == after.result(30)
    assert ["b0", "b1", "b2"] == log


_PROCESSES = """
import gc, os, signal, sys, threading, time, warnings
import sentence_transformers, transformers
import models
from safe_embed import SafeEncoder, WorkerError

warnings.simplefilter("ignore")
gc.freeze()
folder = sys.argv[1]
loads = []

def load():
    loads.append(1)
    if len(loads) > 1:
        time.sleep(60)
    return sentence_transformers.SentenceTransformer(folder, device="cpu")

def call(encoder):
    while True:
        encoder.encode(models.long_text(2000))

def leave(mode):
    encoder = SafeEncoder(load)
    encoder.encode("雨")
    if mode == "calls":
        for _ in range(6):
            threading.Thread(target=call, args=(encoder,), daemon=True).start()
    if mode == "loads":
        threading.Thread(target=encoder.reload, daemon=True).start()
    time.sleep(0.3)
    return encoder

def use_the_parents(encoder):
    started = time.monotonic()
    for attempt in (lambda: encoder.encode("雨"), lambda: encoder.tokenizer, encoder.reload):
        try:
            attempt()
        except WorkerError as error:
            print("refused", "after the fork" in str(error), "fork した" in str(error))
    encoder.close()
    try:
        encoder.encode("雨")
    except WorkerError as error:
        print("closed", time.monotonic() - started < 5)

def hold(encoder, held, let_go):  # in the child nobody will ever let go
    with encoder._session._line._changed:
        held.set()
        let_go.wait()

def fork(mode):
    encoder = SafeEncoder(folder)
    before = encoder.encode("雨")
    for use in (use_the_parents, lambda encoder: None):
        held, let_go = threading.Event(), threading.Event()
        holder = threading.Thread(target=hold, args=(encoder, held, let_go))
        holder.start()
        held.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            use(encoder)
            del encoder
            sys.exit(7)
        let_go.set()
        print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    encoder.reload()
    print("parent", (encoder.encode("雨") == before).all(), encoder.stats.reloads)

for mode in ("fork", "open", "calls", "loads"):  # one start of Python for all of them
    sys.stdout.flush()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        signal.alarm(40)
        kept = (fork if mode == "fork" else leave)(mode)
        sys.stdout.flush()
        sys.exit(5)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(mode, code, time.monotonic() - started < 20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="torch and fork go together on Linux only")
def test_processes_end(saved: Path) -> None:
    """After a fork the child has a clear error at once, may close and exit, and the parent goes on.

    An interpreter exits with an open encoder, with calls of daemon threads under way, and with a
    load that takes long.
    """
    done = subprocess.run(
        [sys.executable, "-c", _PROCESSES, str(saved)],
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
        cwd=Path(__file__).parent,
    )
    assert 0 == done.returncode, done.stderr[-3000:]
    forked = [*["refused True True"] * 3, "closed True", "child 7", "child 7", "parent True 1"]
    exits = [f"{mode} 5 True" for mode in ("fork", "open", "calls", "loads")]
    assert [*forked, *exits] == done.stdout.splitlines(), done.stderr[-3000:]
