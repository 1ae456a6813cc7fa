"""The C heap of this process: which allocator it has, what that one tells and gives back.

glibc's functions know nothing of a heap that jemalloc or tcmalloc manages, as after LD_PRELOAD:
``mallinfo2`` gives the few bytes that glibc itself holds, and ``malloc_trim`` gives back nothing.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any

Figures = dict[str, int | None]
_UNKNOWN: Figures = {"heap_used_bytes": None, "heap_kept_bytes": None}


def c_library() -> Any:
    """Open what this process has loaded, a preloaded allocator included.

    Returns:
        Its functions by name; ``None`` on Windows.
    """
    return ctypes.CDLL(None) if os.name == "posix" else None


class _Mallinfo2(ctypes.Structure):
    """``struct mallinfo2`` of glibc."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


class _SymbolInfo(ctypes.Structure):
    """``Dl_info`` of ``dladdr``: the loaded file in which an address lies, and its symbol."""

    _fields_ = (
        ("file_name", ctypes.c_char_p),
        ("file_base", ctypes.c_void_p),
        ("symbol_name", ctypes.c_char_p),
        ("symbol_address", ctypes.c_void_p),
    )


def _symbol(libc: Any, name: str) -> _SymbolInfo | None:
    """The loaded file that a function stands in; ``None`` if it cannot be told."""
    function, dladdr = getattr(libc, name, None), getattr(libc, "dladdr", None)
    if function is None or dladdr is None:
        return None
    info = _SymbolInfo()
    is_known = dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(info))
    return info if is_known else None


def _file_of(libc: Any, name: str) -> int | None:
    """Address of the loaded file that a function stands in; ``None`` if it cannot be told."""
    symbol = _symbol(libc, name)
    return symbol.file_base if symbol else None


# A function that only this allocator has -> the allocator.
_NAMES = {
    "mallctl": "jemalloc",
    "MallocExtension_ReleaseFreeMemory": "tcmalloc",
    "mi_malloc": "mimalloc",
    "malloc_trim": "glibc",
    "malloc_zone_pressure_relief": "macOS",
}


def allocator_name(libc: Any = None) -> str | None:
    """Name the allocator that ``malloc`` of this process belongs to.

    Args:
        libc: What the process has loaded; ``None`` to look.

    Returns:
        Such as ``"glibc"``, ``"jemalloc"``, ``"tcmalloc"``; the name of the file that has
        ``malloc`` if it is none of those known; ``None`` if that cannot be told.
    """
    loaded = c_library() if libc is None else libc
    malloc = _symbol(loaded, "malloc")
    if malloc is None:
        return None
    names = (
        name for function, name in _NAMES.items() if _file_of(loaded, function) == malloc.file_base
    )
    return next(names, os.path.basename(os.fsdecode(malloc.file_name)))  # noqa: PTH119 a name


def heap_reader(libc: Any) -> Callable[[], Figures]:
    """Make a function that reads the sizes of the C heap with ``mallinfo2``.

    Args:
        libc: What the process has loaded. Only glibc 2.33 and newer has ``mallinfo2``.

    Returns:
        A function that returns ``heap_used_bytes`` and ``heap_kept_bytes``, both ``None`` without
        ``mallinfo2``, or if it stands in another file than ``malloc``: then another allocator
        manages the heap. Kept includes free blocks that a trim has already released to the system.
    """
    mallinfo2 = getattr(libc, "mallinfo2", None)
    if mallinfo2 is None or _file_of(libc, "mallinfo2") != _file_of(libc, "malloc"):
        return _UNKNOWN.copy
    mallinfo2.restype = _Mallinfo2

    def read() -> Figures:
        info = mallinfo2()
        used = info.uordblks + info.hblkhd
        return {"heap_used_bytes": used, "heap_kept_bytes": info.fordblks}

    return read


def _purge_jemalloc(mallctl: Any) -> None:
    # 4096 is MALLCTL_ARENAS_ALL of jemalloc's header. What this thread has freed lies before the
    # arenas, in a cache of its own.
    for command in (b"thread.tcache.flush", b"arena.4096.purge"):
        mallctl(command, None, None, None, ctypes.c_size_t(0))


def _relieve_macos(malloc_zone_pressure_relief: Any) -> None:
    malloc_zone_pressure_relief.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    malloc_zone_pressure_relief(None, 0)


# Function of an allocator -> how it is called to give free blocks back to the system.
_RELEASES: dict[str, Callable[[Any], object]] = {
    "mallctl": _purge_jemalloc,
    "MallocExtension_ReleaseFreeMemory": lambda release: release(),  # tcmalloc of gperftools
    "malloc_trim": lambda trim: trim(ctypes.c_size_t(0)),  # glibc
    "malloc_zone_pressure_relief": _relieve_macos,
}


def trim_heap(libc: Any = None) -> None:
    """Release the free blocks of the C heap, in the way of each allocator that is there.

    An allocator without a way of its own keeps them. A library that only watches ``malloc`` leaves
    the heap to glibc, whose way is therefore always among those taken.

    Args:
        libc: What the process has loaded; ``None`` to look.
    """
    loaded = c_library() if libc is None else libc
    for name, release in _RELEASES.items():
        function = getattr(loaded, name, None)
        if function is not None:
            release(function)
