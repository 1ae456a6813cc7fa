"""What a process runs on, for logs and reports: versions, platform, allocator. No texts."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from safe_embed.memory.allocators import allocator_name

_PACKAGES = ("safe-embed", "torch", "sentence-transformers", "transformers", "tokenizers")


def environment() -> dict[str, Any]:
    """Describe what this process runs on; nothing is imported for it.

    Returns:
        ``packages`` (name -> version, of those that are installed), ``python``, ``platform``, and
        ``allocator``, ``None`` if it cannot be told.
    """
    return {
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "allocator": allocator_name(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
