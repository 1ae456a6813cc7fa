"""The exceptions of safe_embed.

Each class also inherits the builtin exception that sentence-transformers raises in the same case,
so that existing code such as ``except ValueError`` keeps working::

    SafeEmbedError
    ├── ConfigError          (ValueError)    an argument or a setting is invalid
    ├── InvalidTextError     (ValueError)    an input is not valid text: None, NaN, bytes, a lone
    │                                        surrogate
    ├── TextTooLongError     (ValueError)    on_long="error", and texts exceed the token budget
    ├── MissingExtraError    (ImportError)   an optional package is not installed
    ├── UnsupportedError     (AttributeError, TypeError)  only a SentenceTransformer can do this
    ├── ReloadError          (RuntimeError)  a model or tokenizer could not be reloaded
    ├── QueueFullError       (RuntimeError)  when_full="error", and too many texts wait already
    └── WorkerError          (RuntimeError)  the encoder is closed, or its worker has failed

A message says what was given, what is needed and what to type, in English and in Japanese. It never
holds the user's text.
Exceptions of sentence-transformers, transformers and torch pass through unwrapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def both(english: str, japanese: str) -> str:
    """Write a message in both languages.

    Args:
        english: What is wrong and what to do.
        japanese: The same.

    Returns:
        One after the other, each on lines of its own.
    """
    return f"{english}\n{japanese}"


class SafeEmbedError(Exception):
    """Base class of all exceptions that safe_embed raises itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle ``args`` and the attributes; ``__init__`` is not called when they are restored."""
        return _restored, (type(self), self.args, dict(self.__dict__))


def _restored(kind: type[SafeEmbedError], args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    """Make an error from what ``__reduce__`` has stored."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class ConfigError(SafeEmbedError, ValueError):
    """An argument or a setting is invalid, independent of the texts."""


class InvalidTextError(SafeEmbedError, ValueError):
    """An input is not a text that can be encoded.

    Args:
        message: What is wrong and what to do.
        index: Index of the input, from 0; ``None`` if the whole argument is invalid.
        position: Offset in that input, in code points; ``None`` if the input is not a string.

    Attributes:
        index: As given.
        position: As given.
    """

    def __init__(self, message: str, index: int | None = None, position: int | None = None) -> None:
        super().__init__(message)
        self.index = index
        self.position = position


class TextTooLongError(SafeEmbedError, ValueError):
    """Texts exceed the token budget of the model, and ``on_long="error"`` is set.

    Args:
        message: What is wrong and what to do.
        indices: Indices of all inputs that are too long, from 0.

    Attributes:
        indices: As given.
    """

    def __init__(self, message: str, indices: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.indices = tuple(indices)


class MissingExtraError(SafeEmbedError, ImportError):
    """A feature needs an optional package that is not installed.

    Args:
        feature: The feature, as the message names it.
        package: The name of the missing package.
        extra: The extra to install, as in ``pip install 'safe-embed[offline]'``.

    Attributes:
        extra: As given.
    """

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(
            both(
                f"{feature} needs the package {package!r}, which is not installed. "
                f"Install it with: pip install 'safe-embed[{extra}]'",
                f"{feature} には {package!r} が必要です。次を実行してください: "
                f"pip install 'safe-embed[{extra}]'",
            )
        )
        self.extra = extra


class UnsupportedError(SafeEmbedError, AttributeError, TypeError):
    """A SentenceTransformer can do this, a SafeEncoder cannot; the message names another way.

    It is what Python raises for a missing attribute, an index, or a value that cannot be pickled.
    """


class ReloadError(SafeEmbedError, RuntimeError):
    """A model or a tokenizer could not be reloaded."""


class QueueFullError(SafeEmbedError, RuntimeError):
    """Too many texts wait for the encoder, and ``when_full="error"`` is set; try again later.

    Args:
        message: What is wrong and what to do.
        waiting_texts: How many texts wait that are served before those of the call.

    Attributes:
        waiting_texts: As given.
    """

    def __init__(self, message: str, waiting_texts: int = 0) -> None:
        super().__init__(message)
        self.waiting_texts = waiting_texts


class WorkerError(SafeEmbedError, RuntimeError):
    """The encoder is closed, or the thread or process that holds its model has failed.

    Args:
        message: What is wrong and what to do.
        indices: Indices, from 0, of all inputs that ended every worker process that read them.
        results: One result for each input of the call, in order: ``None`` at *indices*, the
            computed result elsewhere. Empty if there are no results.

    Attributes:
        indices: As given.
        results: As given.
    """

    def __init__(
        self, message: str, indices: Sequence[int] = (), results: Sequence[Any] = ()
    ) -> None:
        super().__init__(message)
        self.indices = tuple(indices)
        self.results = list(results)
