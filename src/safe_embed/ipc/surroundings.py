"""The module search path and the environment variables of worker processes.

A worker process copies ``sys.path`` of its parent. Before that, its interpreter starts and imports
modules by PYTHONPATH and similar variables. Their relative entries refer to the working directory,
which may have changed since the parent started.
"""

from __future__ import annotations

import os
import pkgutil
import site
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.machinery import FileFinder
from pathlib import Path
from typing import Any
from zipimport import zipimporter


def working_directory() -> str | None:
    """Return the working directory; ``None`` if it was deleted."""
    try:
        return str(Path.cwd())
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Environment and module search path of the worker processes of one encoder.

    Attributes:
        variables: Environment variables in addition to the parent's.
        folder: The base folder of relative entries of ``sys.path``: the parent's working directory
            when the encoder was made. ``None`` drops relative entries.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = field(default_factory=working_directory)

    def path(self) -> list[str]:
        """Return the parent's ``sys.path`` with absolute entries.

        Returns:
            The entries in order, without invalid ones and relative ones that cannot be resolved.
        """
        entries = (self._absolute(entry) for entry in tuple(sys.path))
        return [entry for entry in entries if entry is not None]

    def at_start(self) -> dict[str, str]:
        """Return the variables to replace while the interpreter of a worker process starts.

        Returns:
            PYTHONPATH, PYTHONUSERBASE and PYTHONHOME, those that must differ from the parent's. The
            worker restores the parent's values once it has copied ``sys.path``.
        """
        return {**self._python_path(), **self._user_base(), **_python_home()}

    def _absolute(self, entry: Any) -> str | None:
        """Make an entry of ``sys.path`` absolute; ``None`` if it is invalid or not resolvable."""
        if not isinstance(entry, str) or not _is_valid_path(entry):
            return None
        return entry if _is_finder_mark(entry) else self._resolve(entry)

    def _resolve(self, entry: str) -> str | None:
        """Join a relative entry to the base folder; ``None`` if there is no base folder."""
        if Path(entry).is_absolute():
            return entry
        return None if self.folder is None else str(Path(self.folder, entry))

    def _python_path(self) -> dict[str, str]:
        """Drop relative entries of PYTHONPATH, except those that sitecustomize was imported from.

        Nothing else is imported from them at startup. It is not known which folder another entry
        meant when the parent started.
        """
        value = os.environ.get("PYTHONPATH")
        if not value:
            return {}
        used = {
            Path(file).absolute().parent
            for name in ("sitecustomize", "usercustomize")
            if (file := getattr(sys.modules.get(name), "__file__", None))
        }
        kept = [
            folder
            for entry in value.split(os.pathsep)
            if (folder := self._resolve(entry)) == entry or (folder and _normalize(folder) in used)
        ]
        return {"PYTHONPATH": os.pathsep.join(map(str, kept))}

    def _user_base(self) -> dict[str, str]:
        """Make a relative PYTHONUSERBASE absolute if the parent's path has it, else disable it."""
        base = site.getuserbase() if site.ENABLE_USER_SITE else None
        if base is None or Path(base).is_absolute():
            return {}
        packages = self._resolve(site.getusersitepackages())
        is_used = packages is not None and str(_normalize(packages)) in sys.path
        folder = self._resolve(base) if is_used else None
        return {"PYTHONUSERBASE": folder or os.devnull}


def _python_home() -> dict[str, str]:
    """Make a relative PYTHONHOME absolute, by the path of the parent's standard library."""
    value = os.environ.get("PYTHONHOME")
    if not value or all(Path(entry).is_absolute() for entry in value.split(os.pathsep)):
        return {}
    return {"PYTHONHOME": str(Path(os.__file__).absolute().parents[2])}


def _normalize(folder: str) -> Path:
    """Normalize a path as the ``site`` module of Python does."""
    return Path(os.path.normpath(folder))


def _is_valid_path(entry: str) -> bool:
    """Whether a string can be encoded as a path: an argument of a process must be."""
    try:
        return b"\0" not in os.fsencode(entry)
    except UnicodeEncodeError:
        return False


def _is_finder_mark(entry: str) -> bool:
    """Whether an entry is not a path but the mark of a custom finder, as of editable installs."""
    finder = None if Path(entry).is_absolute() else pkgutil.get_importer(entry)
    return not (finder is None or isinstance(finder, FileFinder | zipimporter))
