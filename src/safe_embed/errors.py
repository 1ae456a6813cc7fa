"""The exceptions of safe_embed.

Every leaf also inherits the builtin that sentence-transformers raises in the same place, so
``except ValueError`` written for it keeps working::

    SafeEmbedError
    ├── ConfigError          (ValueError)    an argument or a setting cannot work
    ├── InvalidTextError     (ValueError)    an input is no text: None, NaN, bytes, a lone surrogate
    ├── TextTooLongError     (ValueError)    on_long="error", and texts do not fit
    ├── MissingExtraError    (ImportError)   an optional package is not installed
    ├── ReloadError          (RuntimeError)  a model or tokenizer could not be rebuilt
    └── WorkerError          (RuntimeError)  the encoder is closed, or its worker failed

A message says what was given, what is needed and what to type; it never holds the user's text.
Exceptions of sentence-transformers, transformers and torch pass through unwrapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class SafeEmbedError(Exception):
    """The root of all exceptions that safe_embed raises itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Be pickled by what it holds, whatever its constructor takes."""
        return _restored, (type(self), self.args, dict(self.__dict__))


def _restored(kind: type[SafeEmbedError], args: tuple[Any, ...], held: dict[str, Any]) -> Any:
    error = kind.__new__(kind, *args)
    error.__dict__.update(held)
    return error


class ConfigError(SafeEmbedError, ValueError):
    """An argument or a setting cannot work, whatever the texts are."""


class InvalidTextError(SafeEmbedError, ValueError):
    """An input is not a text that can be encoded.

    Args:
        message: What is wrong and what to do.
        index: Which input, counted from 0; ``None`` where the whole argument is meant.
        position: Where in that input, in code points; ``None`` where the input is no string.

    Attributes:
        index: As given.
        position: As given.
    """

    def __init__(self, message: str, index: int | None = None, position: int | None = None) -> None:
        super().__init__(message)
        self.index = index
        self.position = position


class TextTooLongError(SafeEmbedError, ValueError):
    """Texts do not fit what the model reads, and ``on_long="error"`` asked to be told.

    Args:
        message: What is wrong and what to do.
        indices: Every input that does not fit, counted from 0.

    Attributes:
        indices: As given.
    """

    def __init__(self, message: str, indices: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.indices = tuple(indices)


class MissingExtraError(SafeEmbedError, ImportError):
    """A feature needs an optional package.

    Args:
        feature: What needs it.
        package: The name of the missing package.
        extra: The extra to install, as in ``pip install 'safe-embed[offline]'``.

    Attributes:
        extra: As given.
    """

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'safe-embed[{extra}]'\n"
            f"{feature} には {package!r} が必要です。次を実行してください: "
            f"pip install 'safe-embed[{extra}]'"
        )
        self.extra = extra


class ReloadError(SafeEmbedError, RuntimeError):
    """A model or a tokenizer could not be rebuilt."""


class WorkerError(SafeEmbedError, RuntimeError):
    """The encoder is closed, or the thread or process that holds its model has failed.

    Args:
        message: What is wrong and what to do.
        indices: Every input that no process survived, counted from 0.
        results: What the call has given for all others, in order, ``None`` for those inputs.

    Attributes:
        indices: As given.
        results: As given; nothing was computed for nothing.
    """

    def __init__(
        self, message: str, indices: Sequence[int] = (), results: Sequence[Any] = ()
    ) -> None:
        super().__init__(message)
        self.indices = tuple(indices)
        self.results = list(results)
