"""Whatever is given back, and whatever goes wrong meanwhile: callers see nothing but a log."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import models
from safe_embed import SafeEncoder
from safe_embed.errors import ReloadError, WorkerError
from safe_embed.inference.request import Embed, Request
from safe_embed.memory.policies import EveryCalls, MemoryGrowth
from safe_embed.memory.types import Event, MemorySample, Rung
from safe_embed.supervision.conditions import has_headroom
from safe_embed.upstream.attributes import weights_bytes
from safe_embed.upstream.tokenizer_cache import forgets
from seams import Controls, Gate, Loader, encoder_with, wait_until

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

TEXTS = ["今日は雨です。", models.long_text(12), "", "え？", models.long_text(5, start=40)]
PLANTED = "合言葉は山川豊"
RUNGS = (Rung.TRIM, Rung.TOKENIZER_CACHE, Rung.TOKENIZER, Rung.MODEL)
WAYS = ("beside", "after")
EVERY_CALL = EveryCalls(1, jitter=0)


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> Iterator[None]:
    """Keep what is imported out of full collections, which take half a second beside torch."""
    import sentence_transformers  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


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


@pytest.fixture
def controls() -> Controls:
    """Clock, headroom and rungs are moved by hand."""
    return Controls()


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, controls: Controls) -> str:
    """Whether a new model is loaded beside the old one, or after it was dropped."""
    choose(controls, request.param)
    return str(request.param)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """All SentenceTransformers that are built while the test runs."""
    import sentence_transformers

    kind = sentence_transformers.SentenceTransformer
    watched: list[weakref.ref[Any]] = []

    class Watched(kind):  # type: ignore[misc,valid-type]
        @functools.wraps(kind.__init__)
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            watched.append(weakref.ref(self))
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", Watched)
    return watched


def choose(controls: Controls, way: str) -> None:
    """Let there be room for two models, or not."""
    controls.headroom.is_there = way == "beside"


def same(expected: Any, encoder: SafeEncoder) -> None:
    """The encoder gives what one gives that never reloads, to the bit."""
    np.testing.assert_array_equal(expected, encoder.encode(TEXTS))


def kinds(encoder: SafeEncoder) -> list[tuple[str, Rung]]:
    """What was reported, but for trims: whether one gave something back depends on the heap."""
    told = [(event.kind, event.rung) for event in encoder.stats.events]
    return [(kind, rung) for kind, rung in told if rung > Rung.TRIM]


def remedies(*rungs: Rung) -> list[tuple[str, Rung]]:
    """What :func:`kinds` gives after these rungs."""
    return [("remedy", rung) for rung in rungs if rung > Rung.TRIM]


# A reload cannot be seen


@pytest.mark.parametrize("rung", RUNGS)
def test_results_are_equal_to_the_bit_at_every_rung(
    saved: Path, expected: Any, controls: Controls, way: str, rung: Rung
) -> None:
    """Before and after each rung the same texts have the same vectors; stats tell what was done."""
    loader = Loader(saved)
    with controls.encoder(loader) as encoder:
        same(expected, encoder)
        tokenizer = loader.model.tokenizer
        controls.take(encoder, rung)
        same(expected, encoder)
        kept = rung < Rung.TOKENIZER or (rung == Rung.MODEL and forgets(tokenizer))
        assert (loader.model.tokenizer is tokenizer) == kept
        loader.model.tokenizer.mark = rung  # the one that texts are read with is the model's
        assert rung == encoder.tokenizer.mark
        assert remedies(rung) == kinds(encoder)
        is_new = int(rung == Rung.MODEL)
        assert (is_new, 1 + is_new) == (encoder.stats.reloads, loader.loads)
        assert loader.loads == loader.batches[-1]
        assert 1 == len(loader.models)


@pytest.mark.parametrize("make", [models.bert_japanese, models.static, models.small])
def test_every_kind_of_tokenizer_survives(
    controls: Controls, make: Callable[[], SentenceTransformer]
) -> None:
    """MeCab in Python, a bare Rust tokenizer, a fast one: cleared, copied, and the same results."""
    with controls.encoder(make()) as encoder:
        before = encoder.encode(TEXTS)
        for rung in RUNGS[:3] * 2:
            controls.take(encoder, rung)
            np.testing.assert_array_equal(before, encoder.encode(TEXTS))
        assert remedies(*RUNGS[:3] * 2) == kinds(encoder)


@pytest.mark.parametrize("make", [models.bert_japanese, models.static])
def test_every_kind_of_model_is_loaded_anew(
    make: Callable[[], SentenceTransformer], controls: Controls, tmp_path: Path, way: str
) -> None:
    """What is saved and loaded again gives the same vectors."""
    make().save(str(tmp_path))
    with controls.encoder(tmp_path, device="cpu") as encoder:
        before = encoder.encode(TEXTS)
        encoder.reload()
        controls.take(encoder, Rung.TOKENIZER)
        np.testing.assert_array_equal(before, encoder.encode(TEXTS))
        assert [("remedy", Rung.MODEL), ("remedy", Rung.TOKENIZER)] == kinds(encoder)
        assert 1 == encoder.stats.reloads


def test_a_tokenizer_is_kept_if_asked_for(
    saved: Path, expected: Any, controls: Controls, way: str
) -> None:
    """reload() renews both; with keep_tokenizer the tokenizer is the same object, and works."""
    loader = Loader(saved)
    with controls.encoder(loader) as encoder:
        for loads, keep in enumerate((True, False, True), 2):
            tokenizer = loader.model.tokenizer
            encoder.reload(keep_tokenizer=keep)
            assert keep == (tokenizer is loader.model.tokenizer)
            loader.model.tokenizer.mark = loads
            assert loads == encoder.tokenizer.mark
            same(expected, encoder)
            assert loads == loader.loads == loader.batches[-1]
        assert ["MODEL"] * 3 == [event.rung.name for event in encoder.stats.events]


def test_settings_survive(saved: Path, controls: Controls, way: str) -> None:
    """What users set on the model is set on the new one: all that can be set, device and dtype."""
    import torch

    loader = Loader(saved)
    with controls.encoder(loader) as encoder:
        encoder.max_seq_length = 20
        encoder.prompts = {"mine": "前置き: "}
        encoder.prompts["other"] = "別: "
        encoder.default_prompt_name = "mine"
        encoder.truncate_dim = 9
        encoder.similarity_fn_name = "euclidean"
        encoder.backend.idle()
        loader.model.to(torch.bfloat16)
        names = ("max_seq_length", "prompts", "default_prompt_name", "truncate_dim")
        names += ("similarity_fn_name", "device")
        before = {name: getattr(encoder, name) for name in names}
        vectors = encoder.encode(TEXTS)
        for loads in (2, 3):
            encoder.reload()
            assert loads == loader.loads
            assert before == {name: getattr(encoder, name) for name in names}
            for name in names[:-1]:
                assert before[name] == getattr(loader.model, name)
            assert torch.bfloat16 == loader.model.dtype
            assert not any(module.training for module in loader.model.modules())
            np.testing.assert_array_equal(vectors, encoder.encode(TEXTS))
        assert (len(TEXTS), 9) == vectors.shape
        assert {"mine": "前置き: ", "other": "別: "} == encoder.prompts


def test_what_is_set_while_a_model_loads_survives(
    saved: Path, controls: Controls, way: str
) -> None:
    """Settings are read and set at any time, also while there is no model; calls obey the newest."""
    with SafeEncoder(saved, reload=None) as encoder:
        encoder.max_seq_length = 8
        expected = encoder.encode(TEXTS, prompt="遅: ")
    gate, loader = Gate(), Loader(saved)
    with controls.encoder(loader) as encoder, ThreadPoolExecutor(2) as pool:
        loader.fault = gate
        reload = pool.submit(encoder.reload)
        gate.wait_until_reached()
        assert ("検索クエリ: ", models.LIMIT) == (encoder.prompts["query"], encoder.max_seq_length)
        assert 32 == encoder.get_embedding_dimension()
        encoder.max_seq_length = 8
        encoder.prompts = {"late": "遅: "}
        encoder.default_prompt_name = "late"
        call = pool.submit(encoder.encode, TEXTS)
        if way == "beside":
            np.testing.assert_array_equal(expected, call.result())
        gate.open()
        reload.result()
        for vectors in (call.result(), encoder.encode(TEXTS)):
            np.testing.assert_array_equal(expected, vectors)
        assert (8, {"late": "遅: "}, "late") == (
            encoder.max_seq_length,
            encoder.prompts,
            encoder.default_prompt_name,
        )
        assert 1 == encoder.stats.reloads


def test_calls_under_way_see_nothing(saved: Path, controls: Controls, way: str) -> None:
    """A model that is exchanged between two batches of a call: the call's result is whole."""
    long = [models.long_text(60, start) for start in range(0, 600, 60)]
    loader, gate = Loader(saved), Gate()
    reloads: list[int] = []
    with controls.encoder(loader, max_batch_tokens=64) as encoder:
        before = encoder.encode(long)
        loader.before_batch = gate
        calls = [encoder.backend.submit(Embed(Request(long))) for _ in range(2)]
        calls[-1].add_done_callback(lambda _: reloads.append(encoder.stats.reloads))
        gate.wait_until_reached()
        controls.policy.rungs.extend([*RUNGS, Rung.MODEL])
        # A load beside the old model takes no longer than the next batch.
        loader.before_batch = lambda _: wait_until(lambda: not loader.at_once)
        gate.open()
        for call in calls:
            np.testing.assert_array_equal(before, call.result())
        encoder.backend.idle()
        assert remedies(*RUNGS, Rung.MODEL) == kinds(encoder)
        assert [2] == reloads


@pytest.mark.parametrize("on_long", ["chunk", "truncate"])
@pytest.mark.parametrize("rung", [Rung.TOKENIZER, Rung.MODEL])
def test_calls_under_way_hold_nothing_old(
    saved: Path, controls: Controls, on_long: Any, rung: Rung
) -> None:
    """What a rung exchanges between two steps of a call is given back then, not when it ends."""
    choose(controls, "after")
    loader = Loader(saved)
    old: list[weakref.ref[Any]] = []
    left: list[bool] = []
    steps: list[int] = []

    def watch() -> None:
        old.append(weakref.ref(loader.model if rung == Rung.MODEL else loader.model.tokenizer))

    def look(event: Event) -> None:
        left.append(old[-1]() is not None)
        watch()

    options = {"on_long": on_long, "max_batch_tokens": 64, "hooks": [look]}
    with controls.encoder(loader, **options) as encoder:
        watch()
        controls.policy.rungs.extend([rung] * 3)
        call = encoder.backend.submit(Embed(Request(TEXTS)))
        call.add_done_callback(lambda _: steps.append(len(left)))
        call.result()
    assert [3] == steps, "not within the call"
    assert [False] * 3 == left


def test_calls_go_on_while_a_model_loads_beside(
    saved: Path, expected: Any, controls: Controls
) -> None:
    """Loading beside the old model keeps nobody waiting: calls end before the load does."""
    gate, loader = Gate(), Loader(saved)
    with controls.encoder(loader) as encoder, ThreadPoolExecutor(1) as pool:
        loader.fault = gate
        reload = pool.submit(encoder.reload)
        gate.wait_until_reached()
        for _ in range(5):
            same(expected, encoder)
        assert not reload.done()
        assert {1} == set(loader.batches)
        gate.open()
        reload.result()
        same(expected, encoder)
        assert 2 == loader.batches[-1]
        assert 1 == encoder.stats.reloads


# What is reported


def test_hooks_are_told_and_a_hook_that_raises_stops_nothing(
    saved: Path, expected: Any, controls: Controls, caplog: pytest.LogCaptureFixture
) -> None:
    """All hooks get all events, on the encoder's own thread; stats and log tell the same."""
    caplog.set_level(logging.INFO, "safe_embed")
    loader = Loader(saved)
    told: list[tuple[Event, threading.Thread]] = []

    def fail(event: Event) -> None:
        raise ZeroDivisionError

    def note(event: Event) -> None:
        told.append((event, threading.current_thread()))

    encoder_kind = encoder_with(idle_seconds=3600.0)
    with encoder_kind(loader, reload=controls.policy, hooks=[fail, note]) as encoder:
        controls.take(encoder, Rung.TOKENIZER)
        encoder.reload("Tuesday")
        same(expected, encoder)
        assert encoder.stats.events == tuple(event for event, _ in told)
    assert [Rung.TOKENIZER, Rung.MODEL] == [event.rung for event, _ in told]
    assert {loader.threads[0]} == {thread for _, thread in told}
    assert "safe_embed" == loader.threads[0].name
    event = told[1][0]
    assert ("Tuesday", None) == (event.reason, event.error)
    assert event.before.elapsed_seconds < event.after.elapsed_seconds
    assert 0 < event.seconds <= event.after.elapsed_seconds - event.before.elapsed_seconds
    messages = [record.getMessage() for record in caplog.records if record.levelname == "INFO"]
    assert any("MODEL: remedy (Tuesday)" in message for message in messages)


def test_no_text_of_the_user_is_told(
    folder: Path, controls: Controls, caplog: pytest.LogCaptureFixture
) -> None:
    """Remedies, failures, hooks that fail: no record and no event holds what was encoded."""
    caplog.set_level(logging.DEBUG)

    def fail(event: Event) -> None:
        raise ZeroDivisionError

    policy = EveryCalls(2, jitter=0) | controls.policy
    with controls.encoder(folder, reload=policy, hooks=[fail]) as encoder:
        for _ in range(4):
            encoder.encode([PLANTED, PLANTED + models.long_text(9)], prompt=PLANTED)
            encoder.backend.idle()
        for rung in RUNGS:
            controls.take(encoder, rung)
        shutil.rmtree(folder)
        controls.take(encoder, Rung.MODEL)
        with pytest.raises(ReloadError) as caught:
            encoder.reload()
        assert {*RUNGS} == {Rung.TRIM} | {event.rung for event in encoder.stats.events}
        told = f"{encoder.stats}{caught.value!r}{caught.value.__cause__!r}"
    records = [logging.Formatter().format(record) for record in caplog.records]
    assert any("failed" in record for record in records)
    assert "合言葉" not in told + "\n".join(records)


# A failed reload

changes: list[Callable[[Path], object]] = [
    lambda folder: (folder / "model.safetensors").unlink(),
    lambda folder: (folder / "tokenizer.json").unlink(),
    lambda folder: os.utime(folder / "model.safetensors", ns=(0, 0)),
    lambda folder: (folder / "config.json").write_text(
        (folder / "config.json").read_text() + " ", encoding="utf-8"
    ),
    lambda folder: folder.rename(folder.with_name("elsewhere")),
]


@pytest.mark.parametrize("spoil", changes)
@pytest.mark.usefixtures("way")
def test_files_that_changed_leave_the_old_model_serving(
    folder: Path,
    expected: Any,
    controls: Controls,
    built: list[weakref.ref[Any]],
    spoil: Callable[[Path], object],
) -> None:
    """Gone, older, longer, elsewhere: encode goes on, reload() says so; put right, it works."""
    kept = shutil.copytree(folder, folder.with_name("kept"))
    with controls.encoder(folder, reload=EVERY_CALL) as encoder:
        spoil(folder)
        for _ in range(3):
            same(expected, encoder)
            encoder.backend.idle()
        assert [("failed", Rung.MODEL)] == kinds(encoder)
        for _ in range(2):  # also while the policy's own attempts are put off
            with pytest.raises(ReloadError, match="serves on"):
                encoder.reload()
        assert (0, 1) == (encoder.stats.reloads, len(built))
        assert built[0]() is not None
        same(expected, encoder)
        encoder.backend.idle()

        shutil.rmtree(folder, ignore_errors=True)
        kept.rename(folder)
        encoder.reload()
        assert (1, 2) == (encoder.stats.reloads, len(built))
        assert built[0]() is None
        same(expected, encoder)


def test_a_new_file_in_the_folder_is_no_change(
    folder: Path, expected: Any, controls: Controls, way: str
) -> None:
    """What somebody lays beside the model's files, a note or a cache, keeps no reload from working."""
    with controls.encoder(folder) as encoder:
        (folder / "ノート.md").write_text("note", encoding="utf-8")
        encoder.reload()
        same(expected, encoder)


def test_a_relative_folder_is_found_from_elsewhere(
    folder: Path, expected: Any, controls: Controls, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that changes its folder still knows where its model lies."""
    monkeypatch.chdir(folder.parent)
    with controls.encoder(folder.name) as encoder:
        monkeypatch.chdir("/")
        encoder.reload()
        same(expected, encoder)


def test_a_hub_model_stays_at_its_revision(
    saved: Path, expected: Any, controls: Controls, way: str, tmp_path: Path
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
    with controls.encoder("someone/small", **options) as encoder:
        same(expected, encoder)
        main.write_text("2" * 40)
        encoder.reload()
        same(expected, encoder)
        controls.take(encoder, Rung.MODEL)
        same(expected, encoder)
        assert 2 == encoder.stats.reloads
    with SafeEncoder("someone/small", reload=None, **options) as encoder:
        assert not np.array_equal(expected, encoder.encode(TEXTS))


def test_changed_weights_of_the_same_size_and_time(
    folder: Path, saved: Path, expected: Any, controls: Controls, tmp_path: Path
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

    with controls.encoder(folder) as encoder:
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


faults: dict[str, Callable[[], Any]] = {
    "raises": lambda: _raise(ConnectionError),
    "out of memory": lambda: _raise(MemoryError),
    "exits": lambda: _raise(SystemExit),
    "no model": lambda: "雨",
    "another model": _other,
    "a broken model": _broken,
    "another dimension": models.static,
}


@pytest.mark.parametrize("fault", faults)
def test_a_loader_that_fails_leaves_the_old_model_serving(
    saved: Path, expected: Any, controls: Controls, fault: str
) -> None:
    """Whatever a load beside the old model gives: no call fails, and the next good load is taken."""
    loader = Loader(saved)
    with controls.encoder(loader, reload=EVERY_CALL) as encoder:
        loader.fault = faults[fault]
        for _ in range(3):
            same(expected, encoder)
            encoder.backend.idle()
        assert [("failed", Rung.MODEL)] == kinds(encoder)
        with pytest.raises(ReloadError, match="serves on") as caught:
            encoder.reload()
        assert caught.value.__cause__ is not None
        same(expected, encoder)
        assert {1} == set(loader.batches)
        loader.fault = None
        encoder.reload()
        loads = loader.loads  # the next call leads to a further one
        assert 1 == encoder.stats.reloads
        same(expected, encoder)
        assert loads in loader.batches


def test_failed_reloads_are_tried_ever_more_rarely(
    folder: Path, expected: Any, controls: Controls, way: str, built: list[weakref.ref[Any]]
) -> None:
    """After 30, 60, 120 … s; then, when files are right again, by the policy itself."""
    with controls.encoder(folder, reload=EVERY_CALL) as encoder:
        away = folder.rename(folder.with_name("away"))
        attempts = []
        for _ in range(150):
            same(expected, encoder)
            encoder.backend.idle()
            attempts.append(kinds(encoder).count(("failed", Rung.MODEL)))
            controls.clock.now += 2.0
        assert 1 == attempts[0]
        steps = [2 * at for at in range(1, 150) if attempts[at] > attempts[at - 1]]
        assert [30, 90, 210] == steps
        assert 1 == len(built)  # nothing is loaded that is known to be another model
        away.rename(folder)
        controls.clock.now += 3600
        same(expected, encoder)
        encoder.backend.idle()
        assert encoder.stats.reloads in (1, 2)  # between two batches of the call, and after it


def test_a_failure_is_found_among_many_events(saved: Path, controls: Controls) -> None:
    """reload() raises also when the record of events is full."""
    loader = Loader(saved)
    with controls.encoder(loader) as encoder:
        loader.fault = lambda: _raise(OSError)
        controls.take(encoder, Rung.MODEL)
        for _ in range(99):
            controls.take(encoder, Rung.TOKENIZER_CACHE)
        told = remedies(*[Rung.TOKENIZER_CACHE] * 99)
        assert [("failed", Rung.MODEL), *told] == kinds(encoder)
        for _ in range(3):
            with pytest.raises(ReloadError):
                encoder.reload()
        assert 100 == len(encoder.stats.events)


def test_a_reload_that_breaks_down_ends(saved: Path, expected: Any) -> None:
    """Also when it is not the load that fails, reload() ends with an error, and calls go on."""
    measure = Measure()
    with encoder_with(sampler=measure, idle_seconds=3600.0)(saved, reload=None) as encoder:
        encoder.backend.idle()
        measure.error = OSError("no /proc")
        with pytest.raises(ReloadError) as caught:
            encoder.reload()
        assert caught.value.__cause__ is measure.error
        same(expected, encoder)
        measure.error = None
        encoder.reload()
        same(expected, encoder)


class Measure:
    """Says what the process holds, as a test wants it; stands for a sampler and its class."""

    def __init__(self) -> None:
        self.held = 0
        self.error: Exception | None = None

    def __call__(self, *_: Any, **__: Any) -> Measure:
        """Give the sampler."""
        return self

    def take(self, **_: Any) -> MemorySample:
        """Take a sample."""
        if self.error is not None:
            raise self.error
        return MemorySample(time.monotonic(), rss_anon_bytes=self.held)


# Load after drop


def test_the_old_model_is_gone_before_the_new_one_comes(
    saved: Path, expected: Any, controls: Controls
) -> None:
    """Where there is no room for two there are never two; beside each other there are."""
    left: list[bool] = []
    loader = Loader(saved)
    with controls.encoder(loader, reload=None) as encoder:
        for way in WAYS:
            choose(controls, way)
            model = loader.model
            parts = [weakref.ref(part) for part in (model, model[0].auto_model, model.tokenizer)]
            del model
            loader.fault = lambda parts=parts: left.append(any(part() for part in parts))
            encoder.encode(TEXTS)
            encoder.reload()
            same(expected, encoder)
            assert not any(part() for part in parts)
    assert [True, False] == left


@pytest.mark.parametrize(
    ("room", "beside"), [(None, True), (121, True), (120, False), (0, False), (-9, False)]
)
def test_room_is_what_a_load_took(room: int | None, *, beside: bool) -> None:
    """Beside the old model only where there is 1.2 times of it, in the process and on the device."""
    used = None if room is None else 2**40 - room
    process = MemorySample(0.0, limit_bytes=2**40, limit_used_bytes=used)
    device = MemorySample(0.0, device_free_bytes=room)
    assert beside == has_headroom(process, 100, 0)
    assert beside == has_headroom(device, 0, 100)


def test_the_room_is_asked_for_with_what_the_first_load_took(saved: Path) -> None:
    """That is how much the process has grown by it; the device has to hold the weights once more."""
    measure, loader = Measure(), Loader(saved)
    asked: list[tuple[int | None, int, int]] = []

    def grow() -> None:
        measure.held += 700

    def headroom(sample: MemorySample, load_bytes: int, weights: int) -> bool:
        asked.append((sample.held_bytes, load_bytes, weights))
        return False

    measure.held, loader.fault = 1000, grow
    conditions = {"sampler": measure, "headroom": headroom, "idle_seconds": 3600.0}
    with encoder_with(**conditions)(loader, reload=None) as encoder:
        weights = weights_bytes(loader.model)
        assert weights > 0
        loader.fault, measure.held = None, 5000
        encoder.reload()
    assert [(5000, 700, weights)] == asked


def test_callers_wait_between_drop_and_load(saved: Path, expected: Any, controls: Controls) -> None:
    """While there is no model, calls wait for the new one; nothing else is seen."""
    choose(controls, "after")
    gate, loader = Gate(), Loader(saved)
    ended: list[str] = []

    def load() -> None:
        gate()
        ended.append("load")

    with controls.encoder(loader) as encoder, ThreadPoolExecutor(1) as pool:
        loader.fault = load
        reload = pool.submit(encoder.reload)
        gate.wait_until_reached()
        assert not loader.models
        calls = [encoder.backend.submit(Embed(Request(TEXTS))) for _ in range(3)]
        for call in calls:
            call.add_done_callback(lambda _: ended.append("call"))
        assert 0 == encoder.stats.reloads
        gate.open()
        reload.result()
        for call in calls:
            np.testing.assert_array_equal(expected, call.result())
        encoder.backend.idle()
        assert ["load", *["call"] * 3] == ended
        assert 1 == encoder.stats.reloads


def test_a_load_that_fails_after_the_drop(saved: Path, controls: Controls) -> None:
    """No model is left: calls get a ReloadError, and a later one finds the model loaded again."""
    choose(controls, "after")
    loader = Loader(saved)
    with controls.encoder(loader, reload=EVERY_CALL) as encoder:
        encoder.max_seq_length = 30
        before = encoder.encode(TEXTS)
        encoder.backend.idle()
        loader.fault = lambda: _raise(ConnectionError)
        with pytest.raises(ReloadError, match="there is none now"):
            encoder.reload()
        assert not loader.models
        loads = loader.loads
        for call in (
            lambda: encoder.encode(TEXTS),
            lambda: encoder.encode_chunks(TEXTS),
            lambda: encoder.plan(TEXTS),
            lambda: encoder.tokenizer,
            lambda: asyncio.run(encoder.aencode(TEXTS)),
        ):
            with pytest.raises(ReloadError, match="no model"):
                call()
        assert loads == loader.loads  # not a load for every call
        assert ("検索クエリ: ", 30) == (encoder.prompts["query"], encoder.max_seq_length)
        encoder.truncate_dim = 7
        controls.clock.now += 9.9
        with pytest.raises(ReloadError):
            encoder.encode(TEXTS)
        assert loads == loader.loads
        controls.clock.now += 0.2
        for _ in range(3):
            with pytest.raises(ReloadError):
                encoder.encode(TEXTS)
        assert loads + 1 == loader.loads
        loader.fault = _other
        controls.clock.now += 10.1
        with pytest.raises(ReloadError):
            encoder.encode(TEXTS)
        loader.fault = None
        controls.clock.now += 10.1
        np.testing.assert_array_equal(before[:, :7], encoder.encode(TEXTS))
        assert (30, 7) == (encoder.max_seq_length, encoder.truncate_dim)
        encoder.backend.idle()
        assert "remedy" == encoder.stats.events[-1].kind
        loader.fault = lambda: _raise(ConnectionError)
        with pytest.raises(ReloadError):
            encoder.reload()
        loader.fault = None
        encoder.reload()  # does not wait for its turn
        np.testing.assert_array_equal(before[:, :7], encoder.encode(TEXTS))
    assert 1 == loader.most_at_once


def test_the_drop_comes_only_after_the_files_were_looked_at(
    folder: Path, expected: Any, controls: Controls
) -> None:
    """What is known to fail costs no model, also where there is no room for two."""
    choose(controls, "after")
    with controls.encoder(folder) as encoder:
        shutil.rmtree(folder)
        with pytest.raises(ReloadError, match="serves on"):
            encoder.reload()
        same(expected, encoder)


def test_closing_an_encoder_without_a_model(saved: Path, controls: Controls) -> None:
    """An encoder whose model is gone can be closed, and says that it is."""
    choose(controls, "after")
    loader = Loader(saved)
    with controls.encoder(loader) as encoder:
        loader.fault = lambda: _raise(OSError)
        with pytest.raises(ReloadError):
            encoder.reload()
        assert not loader.models
    with pytest.raises(WorkerError, match="closed"):
        encoder.encode("雨")


# Everything at once


def test_one_load_at_a_time(saved: Path, expected: Any, controls: Controls, way: str) -> None:
    """Callers and a policy that all want a new model: they come one after the other."""
    loader = Loader(saved)
    with (
        controls.encoder(loader, reload=EVERY_CALL) as encoder,
        ThreadPoolExecutor(4) as pool,
    ):
        loader.fault = lambda: time.sleep(0.05)  # long enough for others to come meanwhile
        reloads = [pool.submit(encoder.reload) for _ in range(3)]
        for _ in range(4):
            same(expected, encoder)
        for reload in reloads:
            reload.result()
        encoder.backend.idle()
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
            time.sleep(0.02)  # long enough for others to come meanwhile
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


def test_eight_threads_while_everything_goes_wrong(folder: Path, controls: Controls) -> None:
    """400 calls, reloads at every rung, failing loads, a folder that is gone: each result is right."""
    with SafeEncoder(folder, reload=None) as reference:
        texts = [[f"{n}と{k}の雨。" * (1 + k % 5) for k in range(3)] for n in range(400)]
        expected = [reference.encode(mine) for mine in texts]
    stop = threading.Event()

    def disturb(encoder: SafeEncoder) -> int:
        rounds = 0
        while not stop.is_set() or not rounds:
            for rung in RUNGS:
                controls.take(encoder, rung)
            controls.headroom.is_there = not controls.headroom.is_there
            away = folder.rename(folder.with_name("away"))
            with pytest.raises(ReloadError):
                encoder.reload()
            controls.take(encoder, Rung.MODEL)
            away.rename(folder)
            encoder.reload()
            rounds += 1
        return rounds

    def work(first: int) -> list[Any]:
        return [encoder.encode(texts[n]) for n in range(first, 400, 8)]

    policy = EveryCalls(120, jitter=0) | MemoryGrowth("1 MiB", cool_down_seconds=0.2)
    with (
        controls.encoder(folder, reload=policy | controls.policy) as encoder,
        ThreadPoolExecutor(9) as pool,
    ):
        disturbance = pool.submit(disturb, encoder)
        try:
            results = list(pool.map(work, range(8)))
        finally:
            stop.set()
        rounds = disturbance.result()
        assert 400 == encoder.stats.calls
        assert encoder.stats.reloads >= 2 * rounds
    for first in range(8):
        for n, vectors in zip(range(first, 400, 8), results[first], strict=True):
            np.testing.assert_array_equal(expected[n], vectors)
