"""Memory limits of this process: control groups (cgroups) and RLIMIT_AS."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

# A line of mountinfo: id, parent, device, root, mount point, options … - type, source, options.
_CGROUP_MOUNT = re.compile(
    r"^\d+ \d+ \S+ (\S+) (\S+) .*?- (cgroup2?) \S+ (\S+)$", re.MULTILINE | re.ASCII
)
# cgroup v1 writes "no limit" as 2**63 minus one page of 4 to 64 KiB.
_NO_LIMIT_BYTES = 2**60
# The same work may take up to this factor more memory the second time.
_HEADROOM = 1.2

LimitKind = Literal["cgroup", "address space", "machine"]


class Limit(NamedTuple):
    """A memory limit, the memory that counts against it, both in bytes, and whose limit it is."""

    limit_bytes: int
    limit_used_bytes: int
    limit_kind: LimitKind = "cgroup"

    @property
    def room_bytes(self) -> int:
        """``limit_bytes - limit_used_bytes``; negative if the limit is exceeded."""
        return self.limit_bytes - self.limit_used_bytes


class _Files(NamedTuple):
    """File names of a cgroup version, and the fields of ``memory.stat`` that are reclaimable."""

    limit: str
    used: str
    reclaimable: tuple[str, ...]


# Reclaimable: all page cache on the kernel's LRU lists, mapped weights included; not tmpfs, which
# counts as anonymous. In v1 the fields "total_*" include the child groups.
# Source: the kernel's admin-guide/cgroup-v2, "memory.stat", and cgroup-v1/memory, section 5.2.
_FILES = {
    1: _Files(
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
    2: _Files("memory.max", "memory.current", ("inactive_file", "active_file", "slab_reclaimable")),
}


class Cgroups(NamedTuple):
    """The folders of the control groups that limit the process, its own group first."""

    version: Literal[1, 2]
    folders: tuple[Path, ...]


def parse_membership(text: str) -> tuple[Literal[1, 2], PurePosixPath] | None:
    """Parse ``/proc/self/cgroup`` for the group that limits memory.

    Args:
        text: Content of the file.

    Returns:
        Version and path of the group: version 1 if a v1 hierarchy has the memory controller, else
        version 2. ``None`` if there is no group.
    """
    lines = [line.split(":", 2) for line in text.splitlines() if line.count(":") > 1]
    for _, controllers, path in lines:
        if "memory" in controllers.split(","):
            return 1, PurePosixPath(path)
    for _, controllers, path in lines:
        if not controllers:
            return 2, PurePosixPath(path)
    return None


def find_cgroups(membership: str, mounts: str) -> Cgroups | None:
    """Find the folders of the process's control group and of its parent groups.

    Args:
        membership: Content of ``/proc/self/cgroup``.
        mounts: Content of ``/proc/self/mountinfo``.

    Returns:
        The folders from the group up to the mount point, which need not exist; in a container the
        mount point often *is* the group. ``None`` if there is no control group for memory.
    """
    group = parse_membership(membership)
    if group is None:
        return None
    version, path = group
    fitting = sorted(_mounts(mounts, version), key=lambda mount: not path.is_relative_to(mount[0]))
    if not fitting:
        return None
    root, point = fitting[0]
    # "/../x" is a group that the container cannot see; the mount point limits it as well.
    inside = path.is_relative_to(root) and ".." not in path.parts
    folder = Path(point, path.relative_to(root) if inside else "")
    parents = [parent for parent in folder.parents if parent.is_relative_to(point)]
    return Cgroups(version, (folder, *parents))


def _mounts(text: str, version: Literal[1, 2]) -> Iterator[tuple[str, str]]:
    """Yield (root, mount point) of each mounted memory hierarchy of a cgroup version."""
    for root, point, kind, options in _CGROUP_MOUNT.findall(text):
        mounted = 2 if kind == "cgroup2" else 1 if "memory" in options.split(",") else None
        if mounted == version:
            yield _unescape(root), _unescape(point)


def _unescape(path: str) -> str:
    # /my\040disk -> /my disk
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def parse_limit(text: str) -> int | None:
    """Parse the limit of a control group, from ``memory.max`` or ``memory.limit_in_bytes``.

    Args:
        text: Content of the file.

    Returns:
        The limit in bytes; ``None`` if there is no limit.
    """
    number = int(text) if text.strip().isdecimal() else _NO_LIMIT_BYTES
    return None if number >= _NO_LIMIT_BYTES else number


def parse_stat(text: str) -> dict[str, int]:
    """Parse ``memory.stat`` of a control group.

    Args:
        text: Content of the file.

    Returns:
        Field name -> bytes, or number of events.
    """
    return {name: int(number) for name, number in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE)}


def read_cgroup(folder: Path, version: Literal[1, 2]) -> Limit | None:
    """Read the memory limit of one control group and its memory use without page cache.

    Args:
        folder: Folder of the group.
        version: The cgroup version.

    Returns:
        Limit and use; ``None`` if the group has no limit, or its files cannot be read.
    """
    files = _FILES[version]
    limit = parse_limit(read_file(folder / files.limit) or "")
    used = (read_file(folder / files.used) or "").strip()
    if limit is None or not used.isdecimal():
        return None
    stat = parse_stat(read_file(folder / "memory.stat") or "")
    cache = sum(stat.get(name, 0) for name in files.reclaimable)
    # memory.stat is read later than the total, so that the difference may be negative.
    return Limit(limit, max(0, int(used) - cache))


def tightest(*limits: Limit | None) -> Limit | None:
    """Choose the limit with the least room.

    Args:
        *limits: Limits; ``None`` for a limit that does not exist or is not available.

    Returns:
        The limit with the smallest ``room_bytes``; ``None`` if there is no limit.
    """
    known = [limit for limit in limits if limit is not None]
    return min(known, key=lambda limit: limit.room_bytes, default=None)


def fits(needed_bytes: int, room_bytes: int | None) -> bool:
    """Tell whether memory is left for one more copy of something, such as a loaded model.

    Args:
        needed_bytes: Memory that the first copy was measured to take.
        room_bytes: Memory that is left; ``None`` if there is no known limit.

    Returns:
        Whether *room_bytes* exceeds 120 % of *needed_bytes*, or there is no known limit.
    """
    return room_bytes is None or room_beside(needed_bytes, room_bytes) > 0


def room_beside(needed_bytes: int, room_bytes: float) -> float:
    """Say what is left of the room when one more copy of something, such as a model, is in it.

    Args:
        needed_bytes: Memory that the first copy was measured to take.
        room_bytes: Memory that is left.

    Returns:
        Memory in bytes; 0 or less if the copy does not fit.
    """
    return room_bytes - _HEADROOM * needed_bytes


def address_space_limit(used_bytes: int | None) -> Limit | None:
    """Read RLIMIT_AS, the limit of the virtual address space; all of a mapped file counts.

    Args:
        used_bytes: Virtual memory size of the process (VmSize); ``None`` if not available.

    Returns:
        Limit and use; ``None`` if there is no limit, or *used_bytes* is ``None``.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
    if used_bytes is None or limit_bytes == resource.RLIM_INFINITY:
        return None
    return Limit(limit_bytes, used_bytes, "address space")


def read_file(path: Path) -> str | None:
    """Read a small file, as those of /proc and cgroups.

    Args:
        path: Path of the file.

    Returns:
        The content; ``None`` if the file does not exist or cannot be read.
    """
    try:
        return os.fsdecode(path.read_bytes())
    except OSError:
        return None
