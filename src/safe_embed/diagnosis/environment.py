"""What a report says of the process and the machine, so that it can be pasted into a bug report."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

from safe_embed.memory.allocators import allocator_name
from safe_embed.memory.sampling import take_sample
from safe_embed.memory.sizes import format_mib

_PACKAGES = ("safe-embed", "torch", "sentence-transformers", "transformers", "tokenizers", "numpy")
_VARIABLES = ("OMP_NUM_THREADS", "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "LD_PRELOAD")


def environment(device: str | None = None) -> dict[str, str]:
    """Describe versions, device, allocator and limits.

    Args:
        device: Device of the model; ``None`` if upstream chooses it.

    Returns:
        Name -> value, both for people. Nothing is imported for it.
    """
    limit = take_sample()
    known = {
        **package_versions(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {_release()} {platform.machine()}",
        "C library": " ".join(platform.libc_ver()).strip() or "-",
        "allocator": allocator_name() or "-",
        "processors": str(os.cpu_count()),
        "memory limit": f"{format_mib(limit.limit_bytes)} ({limit.limit_kind})",
        "device": device or "chosen by sentence-transformers",
    }
    variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    if "LD_PRELOAD" in variables:  # a path may name a user
        variables["LD_PRELOAD"] = os.path.basename(variables["LD_PRELOAD"])  # noqa: PTH119 one of several
    return known | variables


def package_versions() -> dict[str, str]:
    """Read which versions are installed of the packages that memory depends on.

    Returns:
        Name -> version, without packages that are not installed.
    """
    known: dict[str, str] = {}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            known[package] = version(package)
    return known


def _release() -> str:
    """The release of the system without what its maker has added."""
    return platform.release().partition("-")[0]
