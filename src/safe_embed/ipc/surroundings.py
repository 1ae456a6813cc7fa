"""What a worker process finds around it: the folders of modules, and its environment.

The worker takes over its parent's ``sys.path``. Before, Python itself looks for modules, by
PYTHONPATH and the like, whose relative entries mean the working directory: another one than when
the parent began, if the parent has changed it since.
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
    """Give the working directory; ``None`` if it is gone."""
    try:
        return str(Path.cwd())
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What worker processes of one encoder find around them.

    Attributes:
        variables: Of their environment, besides the parent's.
        folder: What relative entries of ``sys.path`` mean: the parent's working directory when the
            encoder was made; ``None`` leaves them out.
    """

    variables: Mapping[str, str] = field(default_factory=dict)
    folder: str | None = field(default_factory=working_directory)

    def path(self) -> list[str]:
        """Give the parent's ``sys.path``, as it is wherever a worker is.

        Returns:
            Its entries in their order, without those at which Python itself does not look.
        """
        found = (self._absolute(entry) for entry in tuple(sys.path))
        return [entry for entry in found if entry is not None]

    def at_start(self) -> dict[str, str]:
        """Say what the environment must be until the parent's path is laid.

        Returns:
            Variables in the place of the parent's; the worker puts those back.
        """
        return {**self._python_path(), **self._user_base(), **_python_home()}

    def _absolute(self, entry: Any) -> str | None:
        if not isinstance(entry, str) or not _is_name(entry):
            return None
        return entry if _is_no_folder(entry) else self._meant(entry)

    def _meant(self, entry: str) -> str | None:
        """Give the folder that an entry names; ``None`` if nobody knows."""
        if Path(entry).is_absolute():
            return entry
        return None if self.folder is None else str(Path(self.folder, entry))

    def _python_path(self) -> dict[str, str]:
        """Keep a relative entry of PYTHONPATH only where the parent's sitecustomize came from it.

        That is all that Python itself imports from there; what such an entry meant when the parent
        began is not known otherwise.
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
            if (folder := self._meant(entry)) == entry or (folder and _plain(folder) in used)
        ]
        return {"PYTHONPATH": os.pathsep.join(map(str, kept))}

    def _user_base(self) -> dict[str, str]:
        """Keep a relative folder of the user's own packages only where the parent has it."""
        base = site.getuserbase() if site.ENABLE_USER_SITE else None
        if base is None or Path(base).is_absolute():
            return {}
        packages = self._meant(site.getusersitepackages())
        is_known = packages is not None and str(_plain(packages)) in sys.path
        found = self._meant(base) if is_known else None
        return {"PYTHONUSERBASE": found or os.devnull}


def _python_home() -> dict[str, str]:
    """Give the folder of Python itself by what the parent has imported from it."""
    value = os.environ.get("PYTHONHOME")
    if not value or all(Path(one).is_absolute() for one in value.split(os.pathsep)):
        return {}
    return {"PYTHONHOME": str(Path(os.__file__).absolute().parents[2])}


def _plain(folder: str) -> Path:
    """Write a folder as Python's own site module does."""
    return Path(os.path.normpath(folder))


def _is_name(entry: str) -> bool:
    """Tell whether something can be the name of a file at all, and so an argument of a process."""
    try:
        return b"\0" not in os.fsencode(entry)
    except UnicodeEncodeError:
        return False


def _is_no_folder(entry: str) -> bool:
    """Tell whether an entry is a mark of a finder's own, as those of editable installs are."""
    finder = None if Path(entry).is_absolute() else pkgutil.get_importer(entry)
    return not (finder is None or isinstance(finder, FileFinder | zipimporter))
