"""Measure the memory of this process: /proc, the C heap, devices, and psutil for the rest.

A value that is not available is ``None``, never 0.
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

from safe_embed.errors import ConfigError, both
from safe_embed.memory.allocators import Figures, c_library, heap_reader
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
# A costly value is read again after at least this many times the processor time of the last
# reading, so that it takes 0.1 % of the time. mallinfo2 visits every free block, 100,000 in 20 ms,
# and blocks malloc meanwhile. Time in which others have the processor is not counted: on a busy
# machine a limit would be read every ten seconds, and one that was lowered meanwhile kill the
# process.
_COSTLY_SHARE = 1000

T = TypeVar("T")


def parse_status(text: str) -> dict[str, int]:
    """Parse the sizes and the thread count of ``/proc/self/status``.

    Args:
        text: Content of the file.

    Returns:
        Field name -> bytes or count; missing fields are left out. The sandbox gVisor and kernels
        before 4.5 have no ``RssAnon``, ``RssFile``, ``RssShmem``.
    """
    return {
        name: int(number) * (1024 if unit else 1) for name, number, unit in _STATUS.findall(text)
    }


def parse_rusage(raw: bytes) -> int:
    """Parse ``ri_phys_footprint`` of macOS.

    Args:
        raw: A ``rusage_info_v0`` structure: a UUID of 16 bytes, then ten 64-bit integers; the
            footprint is the eighth of them.

    Returns:
        The footprint in bytes.
    """
    return int(struct.unpack_from("=16s7QQ", raw)[-1])


def footprint_reader(libc: Any) -> Callable[[], int | None]:
    """Make a function that reads the memory footprint of this process on macOS.

    Args:
        libc: The C library; ``proc_pid_rusage`` exists on macOS only.

    Returns:
        A function that returns the footprint in bytes; ``None`` on other systems, and on failure.
    """
    proc_pid_rusage = getattr(libc, "proc_pid_rusage", None)
    if proc_pid_rusage is None:
        return lambda: None

    def read() -> int | None:
        raw = ctypes.create_string_buffer(512)  # more than any version of the structure
        return None if proc_pid_rusage(os.getpid(), 0, raw) else parse_rusage(raw.raw)

    return read


def process_figures(status: dict[str, int], footprint_bytes: int | None) -> Figures:
    """Collect the memory sizes of this process from the best available source.

    Args:
        status: Fields of ``/proc/self/status``; empty if it does not exist.
        footprint_bytes: The footprint on macOS; ``None`` elsewhere.

    Returns:
        Attributes of a MemorySample, by name.
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
    info = _call_psutil(lambda: psutil.Process().memory_info())
    rss, peak = getattr(info, "rss", None), getattr(info, "peak_wset", None)
    return {
        "footprint_bytes": rss if footprint_bytes is None else footprint_bytes,
        "peak_bytes": peak if footprint_bytes is None else _max_rss(),
        "native_threads": _call_psutil(lambda: psutil.Process().num_threads()),
    }


def _call_psutil(read: Callable[[], T]) -> T | None:
    """Return the result of *read*; ``None`` if it raises any error.

    psutil raises errors of many types if /proc is missing (in a chroot), has only processes
    (systemd's ProcSubset=pid), or lacks lines (in sandboxes).
    """
    try:
        return read()
    except Exception:  # noqa: BLE001 see above
        return None


def _max_rss() -> int:
    """Return the highest RSS so far, in bytes. Only for macOS: elsewhere the unit is KiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def device_figures(device: str | None) -> Figures:
    """Read the memory use of a device from torch, if torch is already imported.

    Args:
        device: A device such as ``"cuda:0"`` or ``"mps"``.

    Returns:
        ``device_used_bytes``, ``device_kept_bytes`` and ``device_free_bytes``; empty for other
        devices, and if torch or the device is not initialized.
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
        free = None  # the device shares the memory of the machine, whose limit is measured
    else:
        return {}
    kept = max(0, held - used)
    return {"device_used_bytes": used, "device_kept_bytes": kept, "device_free_bytes": free}


def machine_limit() -> Limit | None:
    """Read the total and the used memory of the machine.

    Returns:
        The total memory as the limit, and what is not available as its use; ``None`` if they cannot
        be read.
    """
    memory = _call_psutil(psutil.virtual_memory)
    if memory is None:
        return None
    return Limit(memory.total, memory.total - memory.available, "machine")


def _limit_reader() -> Callable[[], tuple[Limit | None, int | None]]:
    """Make a function that reads the tightest limit of the machine and the control groups.

    The groups are searched once; their limits are read each time, since they may change. With the
    limit comes the anonymous memory of this process at that moment.
    """
    groups = find_cgroups(read_file(_PROC / "cgroup") or "", read_file(_PROC / "mountinfo") or "")

    def read() -> tuple[Limit | None, int | None]:
        limits = [read_cgroup(group, groups.version) for group in groups.folders] if groups else []
        return tightest(machine_limit(), *limits), anonymous_bytes()

    return read


def _used_now(limit: Limit | None, held_then: int | None, held: int | None) -> Limit | None:
    """Add to a limit's use what this process has taken since the use was read."""
    if limit is None or held_then is None or held is None:
        return limit
    return limit._replace(limit_used_bytes=max(0, limit.limit_used_bytes + held - held_then))


class _Seldom(Generic[T]):
    """Caches a costly value for *min_seconds*, or 1,000 times what its reading cost."""

    def __init__(
        self,
        read: Callable[[], T],
        min_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        cost: Callable[[], float] = time.thread_time,
    ) -> None:
        self._read = read
        self._clock = clock
        self._min_seconds = min_seconds
        self._cost = cost
        self._due = 0.0
        self._last: T

    def get(self, *, fresh: bool) -> T:
        """Return the value; read it again if the cached one is too old, or if *fresh*."""
        if fresh or self._clock() >= self._due:
            before = self._cost()
            self._last = self._read()
            cost = self._cost() - before
            self._due = self._clock() + max(self._min_seconds, cost * _COSTLY_SHARE)
        return self._last


class Sampler:
    """Takes memory samples of this process, and limits how often it measures.

    Process and device are read for every sample. The sizes of the C heap, and the limits of control
    groups and machine, are cached for *costly_seconds*, or longer if reading them is slow: reading
    takes at most 0.1 % of the time. On a heap of 100,000 free blocks that is 20 s. Meanwhile what
    this process itself takes is added to the use of its limit.

    Args:
        device: A device whose memory is measured as well, such as ``"cuda:0"``.
        min_seconds: For this time after a sample, the same sample is returned again.
        costly_seconds: For this time after a costly value was read, it is not read again.

    Raises:
        ConfigError: If a time is negative.
    """

    def __init__(
        self, device: str | None = None, *, min_seconds: float = 0.1, costly_seconds: float = 1.0
    ) -> None:
        if min(min_seconds, costly_seconds) < 0:
            msg = both(
                f"min_seconds={min_seconds}, costly_seconds={costly_seconds}: give 0 or more.",
                f"min_seconds={min_seconds}, costly_seconds={costly_seconds}: 0以上にします。",
            )
            raise ConfigError(msg)
        libc = c_library()
        self._device = device
        self._min_seconds = min_seconds
        self._footprint = footprint_reader(libc)
        self._heap = _Seldom(heap_reader(libc), costly_seconds)
        self._limit = _Seldom(_limit_reader(), costly_seconds)
        self._last: MemorySample | None = None

    def take(self, *, fresh: bool = False, fresh_heap: bool | None = None) -> MemorySample:
        """Take a sample, or return the last one if it is younger than *min_seconds*.

        Args:
            fresh: Whether to ignore all cached values and measure now.
            fresh_heap: Whether to ignore the cached sizes of the C heap, which are the slowest to
                read; ``None`` means the same as *fresh*.

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
        limit = tightest(
            _used_now(*shared, status.get("RssAnon")), address_space_limit(status.get("VmSize"))
        )
        figures: dict[str, Any] = {
            **process_figures(status, self._footprint()),
            **heap,
            **device_figures(self._device),
            **(limit._asdict() if limit else {}),
        }
        self._last = MemorySample(time.monotonic(), **figures)
        return self._last


def take_sample(device: str | None = None) -> MemorySample:
    """Take one memory sample without any cache; for several samples, use a Sampler.

    Args:
        device: A device whose memory is measured as well, such as ``"cuda:0"``.

    Returns:
        The sample.
    """
    return Sampler(device).take(fresh=True)


def anonymous_bytes() -> int | None:
    """Read the anonymous memory of this process: what it allocated and has not released.

    Unlike RSS, it excludes pages of mapped weights, which the system can reclaim.

    Returns:
        RssAnon in bytes; ``None`` if not available, as on systems other than Linux.
    """
    return parse_status(read_file(_PROC / "status") or "").get("RssAnon")
