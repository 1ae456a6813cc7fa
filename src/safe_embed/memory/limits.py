"""What bounds the memory of the process: control groups and RLIMIT_AS; parsers are pure."""

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
# No limit is 2**63 less one page in cgroup v1, and a page has 4 to 64 KiB.
_NO_LIMIT_BYTES = 2**60
_HEADROOM = 1.2


class Limit(NamedTuple):
    """A bound on memory, and what counts against it."""

    limit_bytes: int
    limit_used_bytes: int

    @property
    def room_bytes(self) -> int:
        """What is left; negative if more is used than allowed."""
        return self.limit_bytes - self.limit_used_bytes


class _Files(NamedTuple):
    """How a version of cgroup names the same things."""

    limit: str
    used: str
    reclaimable: tuple[str, ...]


# Reclaimable is all page cache on the kernel's lists, weights that are read often among it; not
# tmpfs, which is listed as anonymous. v1 has totals of their own for a group with all below it.
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
    """The control groups that bound the process, its own first."""

    version: Literal[1, 2]
    folders: tuple[Path, ...]


def parse_membership(text: str) -> tuple[Literal[1, 2], PurePosixPath] | None:
    """Find the group that bounds memory in ``/proc/self/cgroup``.

    Args:
        text: The file.

    Returns:
        Version and path of the group; version 1 where it still has the memory controller.
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
    """Find the folders of the process's group and of those above it.

    Args:
        membership: ``/proc/self/cgroup``.
        mounts: ``/proc/self/mountinfo``.

    Returns:
        The folders from the group up to the mount point, whether they exist or not; in a container
        the mount point often *is* the group. ``None`` without a control group.
    """
    found = parse_membership(membership)
    if found is None:
        return None
    version, path = found
    fitting = sorted(_mounts(mounts, version), key=lambda mount: not path.is_relative_to(mount[0]))
    if not fitting:
        return None
    root, point = fitting[0]
    # "/../x" is a group outside of what the container sees; the mount point bounds it too.
    inside = path.is_relative_to(root) and ".." not in path.parts
    folder = Path(point, path.relative_to(root) if inside else "")
    above = [one for one in folder.parents if one.is_relative_to(point)]
    return Cgroups(version, (folder, *above))


def _mounts(text: str, version: Literal[1, 2]) -> Iterator[tuple[str, str]]:
    """Yield root and mount point wherever a system of control groups for memory is mounted."""
    for root, point, kind, options in _CGROUP_MOUNT.findall(text):
        mounted = 2 if kind == "cgroup2" else 1 if "memory" in options.split(",") else None
        if mounted == version:
            yield _unescape(root), _unescape(point)


def _unescape(path: str) -> str:
    # /my\040disk -> /my disk
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def parse_limit(text: str) -> int | None:
    """Read a control group's limit.

    Args:
        text: The file.

    Returns:
        The limit in bytes, or ``None`` if there is none.
    """
    number = int(text) if text.strip().isdecimal() else _NO_LIMIT_BYTES
    return None if number >= _NO_LIMIT_BYTES else number


def parse_stat(text: str) -> dict[str, int]:
    """Read ``memory.stat``.

    Args:
        text: The file.

    Returns:
        Name -> bytes, or a count of events.
    """
    return {name: int(number) for name, number in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE)}


def read_cgroup(folder: Path, version: Literal[1, 2]) -> Limit | None:
    """Read the limit of one control group, and what counts against it: no page cache.

    Args:
        folder: The group.
        version: Version of its control group system.

    Returns:
        The limit, or ``None`` if there is none.
    """
    files = _FILES[version]
    limit = parse_limit(read_file(folder / files.limit) or "")
    used = (read_file(folder / files.used) or "").strip()
    if limit is None or not used.isdecimal():
        return None
    stat = parse_stat(read_file(folder / "memory.stat") or "")
    cache = sum(stat.get(name, 0) for name in files.reclaimable)
    # The parts are counted a moment later than the whole.
    return Limit(limit, max(0, int(used) - cache))


def tightest(*limits: Limit | None) -> Limit | None:
    """Choose the limit with the least room.

    Args:
        *limits: Limits, or ``None`` for each that does not exist, or that the system does not tell.

    Returns:
        The one that is reached first; ``None`` if there is none.
    """
    there = [limit for limit in limits if limit is not None]
    return min(there, key=lambda limit: limit.room_bytes, default=None)


def fits(needed_bytes: int, room_bytes: int | None) -> bool:
    """Tell whether there is room for one more of what is there already.

    Args:
        needed_bytes: What the first one was seen to take.
        room_bytes: What is left; ``None`` if nobody knows, and nothing bounds it.

    Returns:
        Whether more is left than a fifth above that: the second one never takes just as much.
    """
    return room_bytes is None or room_bytes > _HEADROOM * needed_bytes


def address_space_limit(used_bytes: int | None) -> Limit | None:
    """Read RLIMIT_AS, which bounds addresses: mapped weights count, touched or not.

    Args:
        used_bytes: VmSize, or ``None`` if not to be had.

    Returns:
        The limit, or ``None`` if there is none.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_AS)
    if used_bytes is None or limit_bytes == resource.RLIM_INFINITY:
        return None
    return Limit(limit_bytes, used_bytes)


def read_file(path: Path) -> str | None:
    """Read a small file of the kernel.

    Args:
        path: The file.

    Returns:
        Its text, or ``None`` if it is not there or may not be read.
    """
    try:
        return os.fsdecode(path.read_bytes())
    except OSError:
        return None
