"""Read what the process holds: the only reader of /proc."""

from __future__ import annotations

from pathlib import Path

_STATUS = Path("/proc/self/status")


def anonymous_bytes() -> int | None:
    """Read the anonymous memory of this process: what it allocated and has not given back.

    Not RSS: that counts pages of mapped weights too, which the system takes back when it needs to.

    Returns:
        RssAnon in bytes, or ``None`` where the system does not tell (anywhere but on Linux).
    """
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return None
