"""Find the dictionaries of MeCab: unidic-lite, unidic, or a path."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import shown

_REINSTALL = "pip install --force-reinstall fugashi unidic-lite"
_UNIDIC = "pip install unidic && python -m unidic download"


def checked_dictionary(dictionary: object) -> str:
    """Return the argument ``dictionary`` as a string.

    Args:
        dictionary: ``"unidic"`` or a path.

    Returns:
        The name or the path.

    Raises:
        ConfigError: If it is neither a string nor a path, or empty.
    """
    if not isinstance(dictionary, (str, os.PathLike)) or not os.fspath(dictionary):
        msg = both(
            f"dictionary={shown(dictionary)} is not known. Use None for unidic-lite, 'unidic', or "
            "the path of a dictionary.",
            f"dictionary={shown(dictionary)} は使えません。None (unidic-lite)、'unidic'、辞書の"
            "パスのどれかにしてください。",
        )
        raise ConfigError(msg)
    return str(os.fspath(dictionary))


def dictionary_options(dictionary: str | None, lite: Path) -> str:
    """Return the options by which MeCab loads a dictionary.

    Args:
        dictionary: ``None`` for unidic-lite, ``"unidic"``, the path of a folder with a UniDic, or
            of a user dictionary.
        lite: The folder of unidic-lite.

    Returns:
        The options, quoted.

    Raises:
        ConfigError: If the dictionary does not exist.
    """
    folder, user = _paths(dictionary, lite)
    options = f"-r {shlex.quote(str(lite / 'mecabrc'))} -d {shlex.quote(str(folder))}"
    return options if user is None else f"{options} -u {shlex.quote(str(user))}"


def _paths(dictionary: str | None, lite: Path) -> tuple[Path, Path | None]:
    """Return the system dictionary's folder, and the user dictionary; ConfigError if missing."""
    if dictionary is None:
        return lite, None
    if dictionary == "unidic":
        return _unidic(), None
    path = Path(dictionary).expanduser()
    if (path / "sys.dic").is_file():
        return path, None
    if path.is_file():
        return lite, path
    msg = both(
        "The dictionary does not exist: its path is neither a folder with a file sys.dic nor a "
        "user dictionary (.dic), which fugashi-build-dict builds.",
        "辞書が見つかりません。sys.dic を含むフォルダーか、ユーザー辞書 (.dic) のパスを"
        "指定してください。",
    )
    raise ConfigError(msg)


def _unidic() -> Path:
    """Return the folder of the package unidic; ConfigError if it is not installed or empty."""
    try:
        import unidic

        folder = Path(unidic.DICDIR)
    except (ImportError, AttributeError) as err:
        raise _unidic_missing() from err
    if not (folder / "sys.dic").is_file():
        raise _unidic_missing()
    return folder


def _unidic_missing() -> ConfigError:
    return ConfigError(
        both(
            "dictionary='unidic' needs the package unidic and its data, which is downloaded apart. "
            f"Install them with: {_UNIDIC}",
            f"パッケージ unidic とその辞書データが必要です。次を実行してください: {_UNIDIC}",
        )
    )


def refused(dictionary: str | None) -> ConfigError:
    """Return the error for a dictionary that MeCab cannot load.

    Args:
        dictionary: As for :func:`dictionary_options`.

    Returns:
        The error, to be raised.
    """
    if dictionary is None:
        return ConfigError(
            both(
                "MorphemeSplitter cannot load fugashi or its dictionary unidic-lite, which it "
                f"needs. Install them with: {_REINSTALL}",
                "fugashi または辞書 unidic-lite を読み込めません。次を実行してください: "
                f"{_REINSTALL}",
            )
        )
    return ConfigError(
        both(
            "MeCab cannot load the dictionary, or it is not a UniDic. Use a UniDic, or a user "
            "dictionary that was built for unidic-lite.",
            "辞書を読み込めないか、UniDic ではありません。UniDic か、unidic-lite 用に作った"
            "ユーザー辞書を使ってください。",
        )
    )
