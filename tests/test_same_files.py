"""One encoder, one model: every later worker is held to the files that the first one has loaded.

The files here change so that a fixed text keeps its vector and others do not: only the rows of
rare tokens are another model's.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
import process_models
import seams
from safe_embed import EveryCalls, SafeEncoder
from safe_embed.backends.process import workers as workers_module
from safe_embed.backends.process.messages import StartWorker, WorkerReady
from safe_embed.backends.process.worker_handle import UNKNOWN
from safe_embed.errors import ReloadError, WorkerError
from safe_embed.upstream.same_model import CANARY
from safe_embed.upstream.settings import ModelFacts, ModelSettings
from safe_embed.upstream.source import ModelSource

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="worker processes need POSIX"),
    pytest.mark.usefixtures("forked_workers"),
]

TEXT = "今日は雨です。"
# What is shown with fakes, too: some seconds a worker.
full = pytest.mark.skipif(os.environ.get("SAFE_EMBED_FULL") != "1", reason="SAFE_EMBED_FULL=1")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model as a folder; not to be changed."""
    path = tmp_path_factory.mktemp("saved")
    models.small().save(str(path))
    return path


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """The same folder, to be changed."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


@pytest.fixture(scope="module")
def other_weights(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of another model, which gives the canary the same vector."""
    from safetensors.numpy import load_file, save_file
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(saved)
    weights = load_file(saved / "model.safetensors")
    rows = weights["embeddings.word_embeddings.weight"]
    changed = sorted(set(tokenizer(TEXT)["input_ids"]) - set(tokenizer(CANARY)["input_ids"]))
    assert changed, "tokens that the canary has not"
    rows[changed] = rows[changed][::-1] * -1
    path = tmp_path_factory.mktemp("other") / "model.safetensors"
    save_file(weights, path, {"format": "pt"})
    return path


def put(weights: Path, folder: Path) -> None:
    """Let weights lie in a folder, with their time: a new file, as the old one is mapped."""
    shutil.copy2(weights, folder / "fresh")
    (folder / "fresh").replace(folder / "model.safetensors")


def worker(encoder: SafeEncoder) -> int:
    """The process that serves now."""
    [found] = [one.pid for one in encoder.stats.workers]
    return found


def told(encoder: SafeEncoder) -> list[tuple[str, str | None]]:
    """What events say."""
    return [(one.kind, one.error) for one in encoder.stats.events]


@contextlib.contextmanager
def refused(*kinds: type[Exception]) -> Iterator[None]:
    """Expect an error that says, in two languages, that files have changed; here or below."""
    with pytest.raises(kinds) as caught:
        yield
    said = f"{caught.value} {caught.value.__cause__}"
    assert "files of the model have changed" in said
    assert "モデルのファイル" in said
    assert "model.safetensors" in said


def test_the_canary_alone_does_not_tell(saved: Path, folder: Path, other_weights: Path) -> None:
    """Both models give the fixed text one vector, and other texts different ones."""
    put(other_weights, folder)
    with (
        SafeEncoder(saved, reload=None, device="cpu") as one,
        SafeEncoder(folder, reload=None, device="cpu") as other,
    ):
        np.testing.assert_allclose(one.encode(CANARY), other.encode(CANARY), rtol=0, atol=1e-6)
        assert not np.allclose(one.encode(TEXT), other.encode(TEXT), rtol=0, atol=0.05)


def test_changed_files_never_take_over(saved: Path, folder: Path, other_weights: Path) -> None:
    """The old process serves on; after its death calls are told, until the files are back."""
    options: dict[str, Any] = {"isolation": "process", "device": "cpu"}
    headroom = seams.Headroom()
    made = seams.encoder_with(headroom=headroom)
    with made(folder, reload=EveryCalls(2, jitter=0), **options) as encoder:
        old, expected = worker(encoder), encoder.encode(TEXT)
        (folder / "beside.txt").touch()  # what is added is no change
        put(other_weights, folder)
        with refused(ReloadError):
            encoder.reload("by hand")
        assert [("failed", "ReloadError")] == told(encoder)
        # A worker that must go before another one can come does not go for nothing.
        headroom.is_there = False
        with refused(ReloadError):
            encoder.reload("by hand")
        encoder.encode(TEXT)  # the policy wants another one, too
        seams.wait_until(lambda: len(told(encoder)) > 2)
        assert {("failed", "ReloadError")} == set(told(encoder))
        with refused(ReloadError):
            encoder.start_multi_process_pool(["cpu"])
        np.testing.assert_array_equal(expected, encoder.encode(TEXT))
        assert old == worker(encoder)
        os.kill(old, signal.SIGKILL)
        for _ in range(3):
            with refused(WorkerError):
                encoder.encode(TEXT)
        put(saved / "model.safetensors", folder)
        np.testing.assert_array_equal(expected, encoder.encode(TEXT))


_FORK = """
import os, shutil, sys
from safe_embed import SafeEncoder
from safe_embed.errors import ReloadError
folder, weights = sys.argv[1:]
encoder = SafeEncoder(folder, isolation="process", reload=None, device="cpu")
before = encoder.encode("今日は雨です。")
child = os.fork()
if not child:
    shutil.copy2(weights, folder + "/fresh")
    os.replace(folder + "/fresh", folder + "/model.safetensors")
    try:
        encoder.encode("今日は雨です。")
    except ReloadError as error:
        print("files of the model have changed" in str(error), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print((before == encoder.encode("今日は雨です。")).all())
"""


@full
def test_a_forked_copy_is_held_to_the_same_files(folder: Path, other_weights: Path) -> None:
    """It begins a worker of its own, which must have the model that its parent's has."""
    done = subprocess.run(
        [sys.executable, "-c", _FORK, str(folder), str(other_weights)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "True\nTrue\n" == done.stdout, done.stderr


@dataclass
class Hub:
    """A cache with two revisions of a model, which differ in the rows of rare tokens."""

    cache: Path

    @property
    def repo(self) -> Path:
        """The model's folder."""
        return self.cache / "models--someone--small"

    def snapshot(self, revision: str) -> Path:
        """The files of a revision, of one digit."""
        return self.repo / "snapshots" / (revision * 40)

    def publish(self, revision: str) -> None:
        """Let branches mean a revision."""
        for branch in ("main", "dev"):
            (self.repo / "refs" / branch).write_text(revision * 40)

    @property
    def options(self) -> dict[str, Any]:
        """How a model is loaded from here."""
        return {"cache_folder": str(self.cache), "local_files_only": True, "device": "cpu"}


@pytest.fixture
def hub(saved: Path, other_weights: Path, tmp_path: Path) -> Hub:
    """A hub at its first revision."""
    found = Hub(tmp_path / "hub")
    for revision in "12":
        shutil.copytree(saved, found.snapshot(revision))
    put(other_weights, found.snapshot("2"))
    (found.repo / "refs").mkdir()
    found.publish("1")
    return found


@dataclass
class Workers:
    """Notes what workers are to load; what goes before it, and the canary's vector, may be set."""

    kept: list[ModelSource] = field(default_factory=list)
    handles: list[FakeHandle] = field(default_factory=list)
    before: Callable[[int], Any] = lambda _: None
    cosine: Callable[[int], float] = lambda _: 1.0

    def load(self, source: ModelSource) -> WorkerReady:
        """Say what a worker says of its model."""
        self.before(len(self.kept))
        cosine = self.cosine(len(self.kept))
        source = source.held().pinned(())  # type: ignore[arg-type]
        self.kept.append(source)
        canary = np.array([cosine, (1 - cosine**2) ** 0.5], np.float32)
        settings = ModelSettings(64, {}, None, None, "cosine")
        facts = ModelFacts(
            *(settings, "cpu", "torch.float32", False, 2, [], 0, 0, canary),
            identity=source.identity,
        )
        return WorkerReady(facts, UNKNOWN)


class FakeHandle:
    """Stands for a worker process that loads at once, and never does a task."""

    def __init__(self, workers: Workers, _: Any, said: Any, ended: Any) -> None:
        self.facts = self.baseline = self.deadline = self.error = None
        workers.handles.append(self)
        self.pid, self.sample, self.ending = 0, UNKNOWN, "it was no process"
        self.is_leaving = self.is_free = self.holds_back = False
        self.is_loaded = True
        self._workers, self._said, self._ended = workers, said, ended

    def send(self, message: Any) -> None:
        """Load a model if the first message asks for one."""
        if isinstance(message, StartWorker):
            self._said(self, self._workers.load(message.source))

    def put_down(self) -> tuple[None, None]:
        """It never has a task."""
        return None, None

    def refuse(self, error: BaseException) -> None:
        """End, as it must not serve."""
        self.error = error
        self._ended(self)

    def leave(self) -> None:
        """End, as another one serves."""
        self.is_leaving = True
        self._ended(self)

    def die(self) -> None:
        """End by itself."""
        self._ended(self)

    def join(self) -> None:
        """Nothing is left."""

    hang_up = abandon = join


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    """No processes, but what is asked of them."""
    found = Workers()
    monkeypatch.setattr(workers_module, "WorkerHandle", partial(FakeHandle, found))
    return found


def apart(model: Any, **options: Any) -> SafeEncoder:
    """An encoder in another process."""
    return SafeEncoder(model, isolation="process", reload=None, **options)


def test_the_first_workers_have_one_model(
    folder: Path, other_weights: Path, workers: Workers
) -> None:
    """They load at once, and files may change between the one and the other."""
    workers.before = lambda count: count and put(other_weights, folder)
    with refused(ReloadError):
        apart(folder, workers=2)
    workers.kept.clear()
    workers.before = lambda count: (folder / f"beside{count}.txt").touch()
    apart(folder, workers=2).close()


def test_all_later_workers_are_held_to_the_first(hub: Hub, workers: Workers) -> None:
    """Replacements, pools and what a fork begins."""
    with apart("someone/small", **hub.options) as encoder:
        hub.publish("2")
        encoder.reload("test")
        encoder.stop_multi_process_pool(encoder.start_multi_process_pool(["cpu"]))
        encoder.backend.forked()  # type: ignore[attr-defined] # worker processes alone fork
        assert (0, 64) == (encoder.stats.calls, encoder.max_seq_length)
    [identity] = {source.identity for source in workers.kept}
    assert (4, "1" * 40) == (len(workers.kept), identity.revision)
    assert str(hub.snapshot("1") / "model.safetensors") in {name for name, *_ in identity.files}


def test_a_pool_of_a_loader_has_the_same_vectors(workers: Workers) -> None:
    """Its files are not known, but the vector of a fixed text is."""
    workers.cosine = lambda count: 1.0 if count < 2 else 0.98
    with apart(process_models.killed) as encoder:
        encoder.stop_multi_process_pool(encoder.start_multi_process_pool(["cpu"]))
        with pytest.raises(ReloadError, match="other vectors"):
            encoder.start_multi_process_pool(["cpu"])


def test_nobody_waits_for_files_that_are_gone(folder: Path, workers: Workers) -> None:
    """A call and a reload are told at once where there is no worker, however often it was tried."""
    with apart(folder) as encoder:
        weights = (folder / "model.safetensors").rename(folder.parent / "gone")
        [handle] = workers.handles
        handle.die()
        for _ in range(12):  # the clock would be asked after a minute by now
            with refused(WorkerError):
                encoder.encode(TEXT)
        with refused(WorkerError):
            encoder.reload("test")
        weights.rename(folder / "model.safetensors")
        encoder.reload("test")
        assert 1 == len(encoder.stats.workers)


def test_files_that_change_during_the_first_load(
    folder: Path, other_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can say what was loaded then: the encoder is refused, not bound to either."""
    from sentence_transformers import SentenceTransformer

    load = SentenceTransformer.__init__

    @functools.wraps(load)
    def changed(*args: Any, **kwargs: Any) -> None:
        load(*args, **kwargs)
        put(other_weights, folder)

    monkeypatch.setattr(SentenceTransformer, "__init__", changed)
    with refused(ReloadError):
        SafeEncoder(folder, reload=None, device="cpu")


# By the files alone


CHANGES: dict[str, tuple[Callable[[Path], Any], bool]] = {
    "added": (lambda at: (at / "more.json").write_text("{}"), True),
    "hidden": (lambda at: (at / ".git" / "index").write_text("other"), True),
    "touched": (lambda at: os.utime(at / "config.json", (1, 1)), False),
    "tokenizer": (lambda at: (at / "tokenizer.json").write_text("{}"), False),
    "removed": (lambda at: (at / "tokenizer.json").unlink(), False),
    "a dangling link": (lambda at: relink(at / "config.json", "nowhere"), False),
    "behind a link": (lambda at: (at.parent / "pooling" / "config.json").write_text("{}"), False),
    "another folder": (lambda at: at.rename(at.parent / "gone"), False),
}


def relink(path: Path, target: Path | str) -> None:
    """Let a link lie in the place of a file."""
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_a_change(folder: Path, name: str) -> None:
    """Files that were there must be as they were; what is added, or hidden from models, may vary."""
    (folder / ".git").mkdir()
    (folder / ".git" / "index").write_text("some")
    (folder / "1_Pooling").rename(folder.parent / "pooling")
    (folder / "1_Pooling").symlink_to(folder.parent / "pooling")
    (folder / "1_Pooling" / "up").symlink_to(folder)  # round and round
    source = ModelSource(str(folder))
    before = source.fingerprint()
    source.check_unchanged(before)
    change, is_fine = CHANGES[name]
    change(folder)
    with contextlib.nullcontext() if is_fine else pytest.raises(ReloadError, match="have changed"):
        source.check_unchanged(before)


# From a hub


@full
def test_a_replacement_loads_the_same_snapshot(hub: Hub) -> None:
    """Whatever has been published since the first worker loaded."""
    options: dict[str, Any] = {"reload": None, "isolation": "process", **hub.options}
    with SafeEncoder("someone/small", **options) as encoder:
        expected, old = encoder.encode(TEXT), worker(encoder)
        hub.publish("2")
        encoder.reload("test")
        assert old != worker(encoder)
        np.testing.assert_array_equal(expected, encoder.encode(TEXT))


def test_a_branch_is_held_to_its_revision(hub: Hub) -> None:
    """A name that is given as the revision may mean another one later."""
    with SafeEncoder("someone/small", revision="dev", reload=None, **hub.options) as encoder:
        expected = encoder.encode(TEXT)
        hub.publish("2")
        encoder.reload("test")
        np.testing.assert_array_equal(expected, encoder.encode(TEXT))


def test_a_model_without_a_transformer_is_held_to_its_revision(hub: Hub) -> None:
    """It has no configuration that says where it came from."""
    from safetensors.numpy import load_file, save_file

    for revision in "12":
        shutil.rmtree(hub.snapshot(revision))
        shutil.copytree(models.model2vec_folder(), hub.snapshot(revision))
    weights = load_file(hub.snapshot("2") / "model.safetensors")
    save_file({name: -rows for name, rows in weights.items()}, hub.repo / "fresh")
    (hub.repo / "fresh").replace(hub.snapshot("2") / "model.safetensors")
    with SafeEncoder("someone/small", reload=None, **hub.options) as encoder:
        expected = encoder.encode(TEXT)
        hub.publish("2")
        encoder.reload("test")
        np.testing.assert_array_equal(expected, encoder.encode(TEXT))


def test_a_revision_that_comes_during_the_first_load(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was loaded may be of two revisions: it is loaded once more, of one."""
    from sentence_transformers import SentenceTransformer

    load, loads = SentenceTransformer.__init__, []

    @functools.wraps(load)
    def moved(*args: Any, **kwargs: Any) -> None:
        load(*args, **kwargs)
        loads.append(1)
        hub.publish("2")

    monkeypatch.setattr(SentenceTransformer, "__init__", moved)
    with SafeEncoder("someone/small", reload=None, **hub.options) as encoder:
        expected = encoder.encode(TEXT)
        encoder.reload("test")
        np.testing.assert_array_equal(expected, encoder.encode(TEXT))
        assert 3 == len(loads)


def test_files_of_a_snapshot_that_change(hub: Hub, other_weights: Path) -> None:
    """Blobs of the same content may come again; other files are another model's."""
    blob = hub.repo / "blobs" / ("a" * 64)
    blob.parent.mkdir()
    (hub.snapshot("1") / "model.safetensors").rename(blob)
    (hub.snapshot("1") / "model.safetensors").symlink_to(blob)
    with SafeEncoder("someone/small", reload=None, **hub.options) as encoder:
        expected = encoder.encode(TEXT)
        fresh = Path(shutil.copy(blob, hub.repo / "fresh"))
        fresh.replace(blob)
        encoder.reload("test")
        put(other_weights, hub.snapshot("1"))
        with refused(ReloadError):
            encoder.reload("test")
        np.testing.assert_array_equal(expected, encoder.encode(TEXT))


def test_a_folder_of_the_same_name_is_another_model(
    hub: Hub, saved: Path, other_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sentence-transformers prefers a folder in the working directory to the hub."""
    shutil.copytree(saved, tmp_path / "elsewhere" / "someone" / "small")
    put(other_weights, tmp_path / "elsewhere" / "someone" / "small")
    with SafeEncoder("someone/small", reload=None, **hub.options) as encoder:
        expected = encoder.encode(TEXT)
        monkeypatch.chdir(tmp_path / "elsewhere")
        with pytest.raises(ReloadError) as caught:
            encoder.reload("test")
        assert "someone/small" in str(caught.value.__cause__)
        np.testing.assert_array_equal(expected, encoder.encode(TEXT))
