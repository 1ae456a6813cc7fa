"""What to do when a model cannot be loaded by its name: a note on the error of upstream."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safe_embed.errors import SafeEmbedError, both
from safe_embed.foreign import suggested
from safe_embed.upstream.source import ModelSource

_PREFIX = "models--"  # folder of a model in the cache of a hub: models--organization--name

_CLOSED_STANDARD_ERROR = both(
    "safe_embed: this is what happens where standard output or error of the process is closed, and "
    "progress bars of transformers are written to it. Open it on the null device first: "
    "os.dup2(os.open(os.devnull, os.O_WRONLY), 2), or use isolation='process'.",
    "safe_embed: プロセスの標準出力か標準エラー出力が閉じられていると、transformers の進捗表示で"
    "このエラーになります。先に os.dup2(os.open(os.devnull, os.O_WRONLY), 2) を実行するか、"
    "isolation='process' を使ってください。",
)


@contextmanager
def noted(source: ModelSource, *packaged: str) -> Iterator[None]:
    """Add a note to an error that is raised inside, if a usual cause of it is known.

    That the model is not on this machine, or that standard error is closed, as in a daemon. The
    error stays what it is; the note stands at its end, in English and Japanese.

    Args:
        source: Where the model comes from.
        *packaged: Names of models that come in packages.

    Yields:
        Nothing.
    """
    try:
        yield
    except Exception as error:
        is_name = isinstance(source.spec, str | os.PathLike)
        if is_name and not isinstance(error, SafeEmbedError) and not _is_here(source):
            error.add_note(_note(os.fspath(source.spec), source.options, packaged))
        if isinstance(error, OSError) and error.errno == errno.EBADF:
            error.add_note(_CLOSED_STANDARD_ERROR)
        raise


def _is_here(source: ModelSource) -> bool:
    return source.folder is not None and source.folder.is_dir()


def _note(name: str, options: Mapping[str, Any], packaged: tuple[str, ...]) -> str:
    """Write the note; it names models and folders that exist, and nothing that was passed."""
    path = Path(name)
    beside = (
        _names_in(path.parent) if path.is_absolute() else [*_names_in(Path()), *_cached(options)]
    )
    meant = suggested(path.name, beside) or suggested(name, [*packaged, *beside])
    if meant is not None and path.is_absolute():
        meant = str(path.parent / meant)
    hint = f"Did you mean {meant!r}? " if meant else ""
    hint_ja = f"{meant!r} のことですか。" if meant else ""
    return both(
        f"safe_embed: this model is not on this machine. {hint}Check the spelling and the network. "
        "Without a network: pass the folder of a model, or set HF_HUB_OFFLINE=1 if the model is in "
        "the cache of the hub; SafeEncoder('offline') is a model that comes in a package.",
        f"safe_embed: このモデルは手元にありません。{hint_ja}名前の綴りと、ネットワークを確かめて"
        "ください。ネットワークがなければ、モデルのフォルダーを渡すか、キャッシュにあるモデルなら"
        "環境変数 HF_HUB_OFFLINE=1 を設定してください。パッケージに入ったモデル "
        "SafeEncoder('offline') も使えます。",
    )


def _names_in(folder: Path) -> list[str]:
    """Return the names of the folders in a folder; none if it cannot be read."""
    try:
        return sorted(path.name for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _cached(options: Mapping[str, Any]) -> list[str]:
    """Return the names of the models in the cache of the hub."""
    from huggingface_hub.constants import HF_HUB_CACHE

    given = options.get("cache_folder") or os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    names = _names_in(Path(given or HF_HUB_CACHE))
    return [
        name.removeprefix(_PREFIX).replace("--", "/") for name in names if name.startswith(_PREFIX)
    ]
