"""What cannot be in another process is refused before a process is started."""

from __future__ import annotations

import pickle
import sys
from typing import Any

from safe_embed.errors import ConfigError, both
from safe_embed.inference.request import Settings
from safe_embed.memory.types import ReloadPolicy
from safe_embed.upstream.source import ModelSource


def check_possible(source: ModelSource, settings: Settings, policy: ReloadPolicy) -> None:
    """Refuse what cannot be in another process, before one is started."""
    if sys.platform == "win32":
        raise ConfigError(
            both(
                "isolation='process' needs Linux or macOS. Use isolation='none'.",
                "isolation='process' には Linux か macOS が必要です。isolation='none' を使って"
                "ください。",
            )
        )
    if source.is_loaded:
        raise ConfigError(
            both(
                "isolation='process' needs a model that a worker can load: a name, a folder or a "
                "loader, not a SentenceTransformer that is loaded here.",
                "isolation='process' には、ワーカーが読み込めるもの（モデル名、フォルダー、"
                "ローダー）を渡してください。読み込み済みの SentenceTransformer は使えません。",
            )
        )
    for name, value in (("model", source), ("splitter", settings), ("reload", policy)):
        _check_portable(name, value)


def _check_portable(name: str, value: Any) -> None:
    """Refuse what cannot be passed to another process, before one is begun."""
    try:
        pickle.dumps(value)
    except Exception as error:
        msg = both(
            f"isolation='process' cannot pass {name}=… to another process: "
            f"{type(error).__name__}. Use functions and classes that stand at the top of a module, "
            "not lambdas or what is made inside a function.",
            f"isolation='process' では {name}=… を別のプロセスに渡せません"
            f"（{type(error).__name__}）。lambda や関数の中で定義したものは使えません。",
        )
        raise ConfigError(msg) from error
