"""A model that is not on this machine: upstream's error, with one note that says what to do."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from safe_embed import SafeEncoder

pytestmark = pytest.mark.usefixtures("forked_workers")

# What loads of sentence-transformers raise without a network, and for names that do not exist.
LOAD = """
import sys
from sentence_transformers import SentenceTransformer
try:
    SentenceTransformer(sys.argv[1])
except Exception as error:
    print(type(error).__name__)
"""


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub with two models in it, and folders beside."""
    cache = tmp_path / "hub"
    for name in ("models--cl-nagoya--ruri-v3-30m", "models--BAAI--bge-m3", "datasets--a--b"):
        (cache / name).mkdir(parents=True)
    (tmp_path / "work" / "my-model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    return cache


def note_of(call: Callable[[], Any]) -> tuple[BaseException, list[str]]:
    """The error of a call, and the lines of the last of its notes."""
    with pytest.raises(OSError, match=r".") as caught:
        call()
    notes = [note for note in caught.value.__notes__ if note.startswith("safe_embed: ")]
    assert 1 == len(notes)
    assert notes == caught.value.__notes__[-1:]
    return caught.value, notes[0].split("\n")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("cl-nagoya/ruri-v3-30mm", "cl-nagoya/ruri-v3-30m"),
        ("cl-nagoya/ruri_v3_30m", "cl-nagoya/ruri-v3-30m"),
        ("baai/bge-m3", "BAAI/bge-m3"),
        ("ofline", "offline"),
        ("Offline", "offline"),
        ("my_model", "my-model"),
        ("nobody/nothing-at-all", None),
    ],
)
def test_a_name_that_does_not_exist_is_explained(name: str, meant: str | None, hub: Path) -> None:
    """In both languages: what was probably meant, and the three ways without a network."""
    _, lines = note_of(lambda: SafeEncoder(name, cache_folder=str(hub)))
    assert 2 == len(lines)
    for line in lines:
        assert all(word in line for word in ("HF_HUB_OFFLINE=1", "SafeEncoder('offline')"))
        assert (meant is not None) == (repr(meant) in line)
    assert ("Did you mean" in lines[0], "のことですか" in lines[1]) == (meant is not None,) * 2
    assert "folder" in lines[0]
    assert "フォルダー" in lines[1]


def test_a_folder_that_does_not_exist_is_explained(tmp_path: Path) -> None:
    """The folder beside it whose name is nearest is named."""
    _, lines = note_of(lambda: SafeEncoder(tmp_path / "work" / "my-modle"))
    assert all(repr(str(tmp_path / "work" / "my-model")) in line for line in lines)


def test_the_error_is_that_of_upstream(hub: Path) -> None:
    """Its type and its words stay."""
    told = subprocess.run(
        [sys.executable, "-c", LOAD, "nobody/nothing"], capture_output=True, text=True, check=True
    )
    error, _ = note_of(lambda: SafeEncoder("nobody/nothing"))
    assert told.stdout.strip() == type(error).__name__
    assert "safe_embed" not in str(error)


def test_a_worker_process_has_the_same_note() -> None:
    """It stands behind the note that says where the error was raised."""
    error, lines = note_of(lambda: SafeEncoder("nobody/nothing", isolation="process"))
    assert 2 == len(lines)
    assert error.__notes__[0].startswith("In the worker process:")


def test_an_error_of_another_kind_has_no_note(tmp_path: Path) -> None:
    """A folder that is there, and a loader of the user's own, say themselves what is wrong."""

    def load() -> Any:
        raise OSError("the disk is gone")

    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    for model in (load, tmp_path):
        with pytest.raises((OSError, ValueError)) as caught:
            SafeEncoder(model)
        assert not any("safe_embed: " in note for note in getattr(caught.value, "__notes__", ()))


def test_a_closed_standard_error_is_named(saved: Path) -> None:
    """Upstream's progress bar cannot be written: the error stays, and says what to do."""

    def fail() -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    def refuse() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="Bad file") as caught:
        SafeEncoder(fail)
    assert "os.devnull" in caught.value.__notes__[0]
    with pytest.raises(OSError, match="No space") as caught:
        SafeEncoder(refuse)
    assert not getattr(caught.value, "__notes__", ())
