"""The Japanese manual, which comes with the package: the text of the demo and of the doctor."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def manual_folder() -> Path:
    """Return the folder of the Japanese manual, of the installed package or of the repository.

    Returns:
        The folder; its pages are ``*.md``.
    """
    packaged = Path(str(files("safe_embed") / "manual"))
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "docs" / "ja"
