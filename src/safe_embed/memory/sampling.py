"""Measure what the process holds: /proc, the C heap, devices, and psutil for the rest.

What the system does not tell is ``None``, never 0.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import psutil

from safe_embed.errors import ConfigError
from safe_embed.memory.limits import (
    Limit,
    address_space_limit,
    find_cgroups,
    read_cgroup,
    read_file,
    tightest,
)
from safe_embed.memory.types import MemorySample

_PROC = Path("/proc/self")
_STATUS = re.compile(
    r"^(VmSize|VmHWM|VmRSS|RssAnon|RssFile|RssShmem|Threads):\s*(\d+)( kB)?$", re.MULTILINE
)
# Reading a costly figure may take one part in so many of the time. mallinfo2 visits every free
# block, 100,000 of them in 20 ms, and keeps malloc waiting.
_COSTLY_SHARE = 1000

Figures = dict[str, int | None]
T = TypeVar("T")


def parse_status(text: str) -> dict[str, int]:
    """Read the sizes and the thread count in ``/proc/self/status``.

    Args:
        text: The file.

    Returns:
        Field -> bytes or count. The sandbox gVisor and kernels before 4.5 know no ``Rss…``.
    """
    return {
        name: int(number) * (1024 if unit else 1) for name, number, unit in _STATUS.findall(text)
    }


def parse_rusage(raw: bytes) -> int:
    """Read ``ri_phys_footprint`` of macOS.

    Args:
        raw: A ``rusage_info_v0``: a UUID of 16 bytes and ten 64-bit numbers, of which it is the
            eighth.

    Returns:
        The footprint in bytes.
    """
    return int(struct.unpack_from("=16s7QQ", raw)[-1])


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def heap_reader(libc: Any) -> Callable[[], Figures]:
    """Look for ``mallinfo2`` once.

    Args:
        libc: The C library; only glibc from 2.33 on has it, musl and other systems do not.

    Returns:
        A function that reads ``heap_used_bytes`` and ``heap_kept_bytes``. Kept counts free blocks
        that a trim has already given back to the system as well.
    """
    mallinfo2 = getattr(libc, "mallinfo2", None)
    if mallinfo2 is None:
        return lambda: {"heap_used_bytes": None, "heap_kept_bytes": None}
    mallinfo2.restype = _Mallinfo2

    def read() -> Figures:
        info = mallinfo2()
        used = info.uordblks + info.hblkhd
        return {"heap_used_bytes": used, "heap_kept_bytes": info.fordblks}

    return read


def footprint_reader(libc: Any) -> Callable[[], int | None]:
    """Look for ``proc_pid_rusage`` of macOS once.

    Args:
        libc: The C library.

    Returns:
        A function that reads the footprint in bytes; elsewhere it gives ``None``.
    """
    proc_pid_rusage = getattr(libc, "proc_pid_rusage", None)
    if proc_pid_rusage is None:
        return lambda: None

    def read() -> int | None:
        raw = ctypes.create_string_buffer(512)  # more than any version of the structure
        return None if proc_pid_rusage(os.getpid(), 0, raw) else parse_rusage(raw.raw)

    return read


def process_figures(status: dict[str, int], footprint_bytes: int | None) -> Figures:
    """Tell what the process holds, from the best source there is.

    Args:
        status: Fields of ``/proc/self/status``; empty where there is none.
        footprint_bytes: As macOS counts it, or ``None``.

    Returns:
        Attributes of a MemorySample.
    """
    if "VmRSS" in status:
        return {
            "rss_anon_bytes": status.get("RssAnon"),
            "rss_file_bytes": status.get("RssFile"),
            "rss_shmem_bytes": status.get("RssShmem"),
            "footprint_bytes": None if "RssAnon" in status else status["VmRSS"],
            "peak_bytes": status.get("VmHWM"),
            "native_threads": status.get("Threads"),
        }
    info = _told(lambda: psutil.Process().memory_info())
    rss, peak = getattr(info, "rss", None), getattr(info, "peak_wset", None)
    return {
        "footprint_bytes": rss if footprint_bytes is None else footprint_bytes,
        "peak_bytes": peak if footprint_bytes is None else _max_rss(),
        "native_threads": _told(lambda: psutil.Process().num_threads()),
    }


def _told(ask: Callable[[], T]) -> T | None:
    """Ask psutil; give ``None`` where the system does not tell.

    There may be no /proc, as in a chroot, or nothing in it but processes, as with systemd's
    ProcSubset=pid, or one that lacks a line, as in sandboxes: to psutil, errors of many kinds.
    """
    try:
        return ask()
    except Exception:  # noqa: BLE001 see above
        return None


def _max_rss() -> int:
    import resource

    # In bytes on macOS, the only system that asks; in KiB elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def device_figures(device: str | None) -> Figures:
    """Ask torch what its tensors use, if it is loaded already.

    Args:
        device: Such as ``"cuda:0"`` or ``"mps"``; other devices keep no count.

    Returns:
        ``device_used_bytes``, ``device_kept_bytes`` and ``device_free_bytes``, or nothing.
    """
    torch: Any = sys.modules.get("torch")
    kind = (device or "").partition(":")[0]
    if torch is None:
        return {}
    if kind == "cuda" and torch.cuda.is_initialized():
        stats = torch.cuda.memory_stats(device)
        used = stats.get("allocated_bytes.all.current", 0)
        held = stats.get("reserved_bytes.all.current", 0)
        free = torch.cuda.mem_get_info(device)[0]
    elif kind == "mps" and torch.backends.mps.is_available():
        used, held = torch.mps.current_allocated_memory(), torch.mps.driver_allocated_memory()
        free = None  # one memory with the machine, whose limit is counted already
    else:
        return {}
    kept = max(0, held - used)
    return {"device_used_bytes": used, "device_kept_bytes": kept, "device_free_bytes": free}


def machine_limit() -> Limit | None:
    """Read the memory of the machine.

    Returns:
        All of it, and what is not available; ``None`` where the system does not tell.
    """
    memory = _told(psutil.virtual_memory)
    return None if memory is None else Limit(memory.total, memory.total - memory.available)


def _limit_reader() -> Callable[[], Limit | None]:
    """Find the control groups once; their limits may change while the process runs."""
    groups = find_cgroups(read_file(_PROC / "cgroup") or "", read_file(_PROC / "mountinfo") or "")

    def read() -> Limit | None:
        limits = [read_cgroup(one, groups.version) for one in groups.folders] if groups else []
        return tightest(machine_limit(), *limits)

    return read


class _Seldom(Generic[T]):
    """Reads something costly only so often."""

    def __init__(self, read: Callable[[], T], min_seconds: float) -> None:
        self._read = read
        self._min_seconds = min_seconds
        self._due = 0.0
        self._last: T

    def get(self, *, fresh: bool) -> T:
        started = time.monotonic()
        if fresh or started >= self._due:
            self._last = self._read()
            ended = time.monotonic()
            self._due = ended + max(self._min_seconds, (ended - started) * _COSTLY_SHARE)
        return self._last


class Sampler:
    """Takes samples of this process, no more often than is useful.

    Process and device are read for every sample. Figures of the C heap, and the limits of control
    groups and machine, may be *costly_seconds* old, or so old that reading each of the two takes
    0.1 % of the time: on a heap in 100,000 pieces that is 20 s.

    Args:
        device: Whose memory to count as well, such as ``"cuda:0"``.
        min_seconds: Within this time the last sample is given again.
        costly_seconds: Within this time costly figures are not read again.

    Raises:
        ConfigError: If a time is negative.
    """

    def __init__(
        self, device: str | None = None, *, min_seconds: float = 0.1, costly_seconds: float = 1.0
    ) -> None:
        if min(min_seconds, costly_seconds) < 0:
            msg = f"min_seconds={min_seconds}, costly_seconds={costly_seconds}: use 0 or more."
            raise ConfigError(msg)
        libc = ctypes.CDLL(None) if os.name == "posix" else None
        self._device = device
        self._min_seconds = min_seconds
        self._footprint = footprint_reader(libc)
        self._heap = _Seldom(heap_reader(libc), costly_seconds)
        self._limit = _Seldom(_limit_reader(), costly_seconds)
        self._last: MemorySample | None = None

    def take(self, *, fresh: bool = False, fresh_heap: bool | None = None) -> MemorySample:
        """Take a sample, or give the last one if it is new enough.

        Args:
            fresh: Whether to read everything anew, however young the last sample is.
            fresh_heap: Whether that includes the C heap, which takes longest; ``None`` for yes.

        Returns:
            The sample.
        """
        now = time.monotonic()
        last = self._last
        if not fresh and last is not None and now < last.elapsed_seconds + self._min_seconds:
            return last
        heap = self._heap.get(fresh=fresh if fresh_heap is None else fresh_heap)
        shared = self._limit.get(fresh=fresh)
        status = parse_status(read_file(_PROC / "status") or "")
        limit = tightest(shared, address_space_limit(status.get("VmSize")))
        self._last = MemorySample(
            time.monotonic(),
            **process_figures(status, self._footprint()),
            **heap,
            **device_figures(self._device),
            **(limit._asdict() if limit else {}),
        )
        return self._last


def take_sample(device: str | None = None) -> MemorySample:
    """Take one sample, all of it fresh; for more than one, keep a Sampler.

    Args:
        device: Whose memory to count as well, such as ``"cuda:0"``.

    Returns:
        The sample.
    """
    return Sampler(device).take(fresh=True)


def anonymous_bytes() -> int | None:
    """Read the anonymous memory of this process: what it allocated and has not given back.

    Not RSS: that counts pages of mapped weights too, which the system takes back when it needs to.

    Returns:
        RssAnon in bytes, or ``None`` where the system does not tell (anywhere but on Linux).
    """
    return parse_status(read_file(_PROC / "status") or "").get("RssAnon")


def trim_heap() -> None:
    """Let the C heap give its free blocks back: ``malloc_trim``, and its like on other systems."""
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    if (malloc_trim := getattr(libc, "malloc_trim", None)) is not None:
        malloc_trim(0)
    elif (relief := getattr(libc, "malloc_zone_pressure_relief", None)) is not None:
        relief.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        relief(None, 0)
