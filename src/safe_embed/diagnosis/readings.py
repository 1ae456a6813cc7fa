"""What a process holds at one moment, for the doctor and for logs of one's own process."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safe_embed.memory.allocators import c_library, heap_reader
from safe_embed.memory.limits import read_file
from safe_embed.memory.sampling import Sampler, parse_status

_PROC = Path("/proc/self")
# Linux, macOS.
_DESCRIPTORS = ("/proc/self/fd", "/dev/fd")
# A line of /proc/self/maps: address, rights, offset, device, inode, path.
_MAPPED_FILE = re.compile(r"^\S+ \S+ \S+ \S+ [1-9]\d* +(/.*)$", re.MULTILINE)
# A thread of a pool has its number in its name: ThreadPoolExecutor-0_12 -> ThreadPoolExecutor-0.
_NUMBER = re.compile(r"[-_ ]?\(?\d+\)?$")


@dataclass(frozen=True, slots=True)
class Reading:
    """What this process holds; a value that is not available is ``None``, never 0.

    Attributes:
        elapsed_seconds: Time since the first reading.
        calls: Number of calls so far; ``None`` if nobody counts them.
        rss_anon_bytes: Resident anonymous memory; the footprint on systems without RssAnon.
        rss_file_bytes: Resident pages of mapped files.
        address_space_bytes: Size of the address space (VmSize).
        native_threads: Number of threads, those of Python included.
        python_threads: Names of Python threads without their numbers, and how many have each.
        heap_used_bytes: Memory that the C heap has given to the program (glibc's own heap).
        heap_kept_bytes: Free blocks that the C heap keeps (glibc's own heap).
        device_used_bytes: Memory of tensors on the device.
        device_kept_bytes: Memory that the device's allocator has reserved in addition.
        file_descriptors: Number of open file descriptors.
    """

    elapsed_seconds: float
    calls: int | None = None
    rss_anon_bytes: int | None = None
    rss_file_bytes: int | None = None
    address_space_bytes: int | None = None
    native_threads: int | None = None
    python_threads: dict[str, int] | None = None
    heap_used_bytes: int | None = None
    heap_kept_bytes: int | None = None
    device_used_bytes: int | None = None
    device_kept_bytes: int | None = None
    file_descriptors: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return what is known, for JSON.

        Returns:
            Attribute name -> value, without those that are ``None``.
        """
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Reading:
        """Make a reading of what :meth:`to_dict` returned.

        Args:
            values: Attribute name -> value; names of later versions are ignored.

        Returns:
            The reading.
        """
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


class Reader:
    """Takes readings of this process.

    Args:
        device: A device whose memory is read as well, such as ``"mps"``.
        costly_seconds: For this time after the C heap was measured, it is not measured again.
    """

    def __init__(self, device: str | None = None, *, costly_seconds: float = 1.0) -> None:
        self._sampler = Sampler(device, min_seconds=0, costly_seconds=costly_seconds)
        self._start: float | None = None

    @property
    def start_seconds(self) -> float:
        """Time of the first reading on the clock of ``time.monotonic``; now if there is none."""
        return time.monotonic() if self._start is None else self._start

    def take(self, calls: int | None = None, *, fresh: bool = False) -> Reading:
        """Take a reading.

        Args:
            calls: Number of calls so far.
            fresh: Whether to measure the C heap now, too; see
                :class:`safe_embed.memory.sampling.Sampler`.

        Returns:
            The reading.
        """
        sample = self._sampler.take(fresh=fresh)
        if self._start is None:
            self._start = sample.elapsed_seconds
        return Reading(
            elapsed_seconds=round(sample.elapsed_seconds - self._start, 3),
            calls=calls,
            rss_anon_bytes=sample.held_bytes,
            rss_file_bytes=sample.rss_file_bytes,
            address_space_bytes=_status().get("VmSize"),
            native_threads=sample.native_threads,
            python_threads=python_threads(),
            heap_used_bytes=sample.heap_used_bytes,
            heap_kept_bytes=sample.heap_kept_bytes,
            device_used_bytes=sample.device_used_bytes,
            device_kept_bytes=sample.device_kept_bytes,
            file_descriptors=file_descriptors(),
        )


def held_reader() -> Callable[[], int]:
    """Make a function that reads quickly what this process holds.

    Returns:
        A function that returns RssAnon in bytes, in 30 microseconds; the footprint on systems
        without RssAnon.
    """
    if "RssAnon" in _status():
        return lambda: _status()["RssAnon"]
    sampler = Sampler(min_seconds=0)
    return lambda: sampler.take().held_bytes or 0


def used_reader() -> Callable[[], int]:
    """Make a function that reads how much memory is in use, free blocks left out.

    Free blocks hide where memory is taken: a leak fills those that other code has freed, which then
    asks the system for more.

    Returns:
        A function that returns what the C heap has given to the program, in bytes; what the process
        holds where that is not available. It visits every free block: 100,000 take 20 ms.
    """
    heap = heap_reader(c_library())
    if heap()["heap_used_bytes"] is None:
        return held_reader()
    return lambda: heap()["heap_used_bytes"] or 0


def python_threads() -> dict[str, int]:
    """Count the threads of Python by name.

    Returns:
        Name without its number, such as ``"ThreadPoolExecutor-0"`` -> number of threads.
    """
    counts: dict[str, int] = {}
    for thread in threading.enumerate():
        name = _NUMBER.sub("", thread.name) or thread.name
        counts[name] = counts.get(name, 0) + 1
    return counts


def foreign_threads() -> dict[str, int]:
    """Count the threads of this process that are not Python's, by name (Linux).

    Returns:
        Name without its number, such as ``"tokio-runtime-w"`` -> number of threads; empty on other
        systems.
    """
    ours = {str(thread.native_id) for thread in threading.enumerate()}
    counts: dict[str, int] = {}
    for folder in _children(_PROC / "task"):
        name = None if folder.name in ours else read_file(folder / "comm")
        if name:
            key = _NUMBER.sub("", name.strip()) or name.strip()
            counts[key] = counts.get(key, 0) + 1
    return counts


def file_descriptors() -> int | None:
    """Count the open file descriptors of this process.

    Returns:
        Their number without that of the count itself; ``None`` where it cannot be told.
    """
    for folder in _DESCRIPTORS:
        try:
            return len(os.listdir(folder)) - 1  # noqa: PTH208 a Path for each costs as much again
        except OSError:
            continue
    return None


def mapped_files() -> dict[str, int]:
    """Count the mappings of files in the address space of this process (Linux).

    Returns:
        Name of the file without its folder -> number of mappings; empty on other systems.
    """
    counts: dict[str, int] = {}
    for path in _MAPPED_FILE.findall(read_file(_PROC / "maps") or ""):
        name = path.rpartition("/")[2]
        counts[name] = counts.get(name, 0) + 1
    return counts


def _status() -> dict[str, int]:
    return parse_status(read_file(_PROC / "status") or "")


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []
