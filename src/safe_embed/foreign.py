"""Write callers' values into messages, and convert control-flow exceptions of callers' code.

A caller may pass a text where a name is needed, or an object whose repr holds a text. Messages show
a value only if it is unlikely to be a text; of other values they show the type and the length.

A callback may raise a control-flow exception, one that ends or cancels the code that calls it:
StopIteration silently ends a loop around ``encode``, GeneratorExit a generator, CancelledError an
asyncio task, SystemExit the thread that all callers share. These are converted to errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from difflib import get_close_matches
from enum import Enum
from numbers import Integral, Real
from operator import index
from typing import Any, TypeVar

from safe_embed.errors import ConfigError, WorkerError, both

T = TypeVar("T")

# Names of prompts, arguments, devices: "query", "token_weighted", "cuda:0". ASCII only, because a
# Japanese text without spaces is a valid Python identifier as well.
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,23}")
# Up to 7 punctuation marks cannot be a text: "[", "*.*".
_MARKS = re.compile(r"[!-/:-@\[-`{-~]{0,7}")
_LARGEST_SHOWN = 10**20
# What is longer is a text; comparing takes time with the square of the length.
_LONGEST_NAME = 64


def is_word(value: object) -> bool:
    """Tell whether a value is a short ASCII identifier, as names of settings are.

    Args:
        value: Any object.

    Returns:
        Whether it is a string of at most 24 letters, digits and ``_ . : -`` without spaces.
    """
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def shown(value: object) -> str:
    """Format a caller's value for a message that must not hold a text.

    >>> shown("query"), shown(None), shown(0.5), shown("今日は雨です。"), shown([1, 2])
    ("'query'", 'None', '0.5', '<str of 7 characters>', '<list of 2 items>')

    Args:
        value: Any object. Its ``__repr__`` is never called.

    Returns:
        Short identifiers, up to 7 punctuation marks, numbers, ``None`` and enumeration members as
        they are written in code; the type and the length of any other value.
    """
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, Enum):
        name = value._name_
        return f"{type(value).__name__}.{name}" if is_word(name) else _described(value)
    if isinstance(value, str):
        is_shown = is_word(value) or _MARKS.fullmatch(value) is not None
        return str.__repr__(value) if is_shown else _described(value)
    if isinstance(value, Real):
        return _number(value) or _described(value)
    if isinstance(value, type):
        return f"<class {value.__name__}>"
    return _described(value)


def listed(names: Iterable[object]) -> str:
    """Format several values for a message.

    Args:
        names: Values, such as names of arguments.

    Returns:
        Each value as :func:`shown` formats it, separated by commas.
    """
    return ", ".join(map(shown, names))


def suggested(name: object, known: Iterable[object]) -> str | None:
    """Find the name that was probably meant.

    >>> suggested("max_chunk_token", ["splitter", "max_chunk_tokens"])
    'max_chunk_tokens'

    Args:
        name: An unknown name, or any other value.
        known: The names that exist; of two that are equally near, the earlier counts.

    Returns:
        The nearest of them; ``None`` if none is near.
    """
    names = [each for each in known if isinstance(each, str)]
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        return None
    lower = {each.lower(): each for each in reversed(names)}
    near = get_close_matches(name.lower().replace("-", "_"), lower, n=1)
    return lower[near[0]] if near else None


def called(who: str, function: Callable[..., T], /, *args: Any, here: bool = False) -> T:
    """Call a user's function. Errors pass through; control-flow exceptions become a ConfigError.

    Args:
        who: The function as the message names it, such as ``"The splitter"``.
        function: The user's function.
        *args: Arguments of the function.
        here: Whether this runs on the user's own thread, where Ctrl-C and the cancelling of a task
            may interrupt the function: only StopIteration is converted then.

    Returns:
        The result of the function.

    Raises:
        ConfigError: If it raises StopIteration, GeneratorExit, CancelledError, SystemExit or
            another exception that is not an error.
    """
    try:
        return function(*args)
    except BaseException as error:
        if _is_error(error) or (here and not is_stop(error)):
            raise
        raise ConfigError(told(who, error)) from error


def is_stop(error: BaseException) -> bool:
    """Tell whether an exception is a StopIteration or StopAsyncIteration.

    Args:
        error: The exception.

    Returns:
        Whether it is one, or the RuntimeError that Python raises when a generator raises one.
    """
    return isinstance(_first(error), StopIteration | StopAsyncIteration)


def deliverable(error: BaseException) -> BaseException:
    """Return the exception to raise in a caller that waits for a result.

    Args:
        error: The exception that computing the result has raised.

    Returns:
        A WorkerError with *error* as its cause, if *error* is StopIteration, StopAsyncIteration,
        GeneratorExit or a CancelledError; otherwise *error* itself, SystemExit included.
    """
    is_cancelled = any(kind.__name__ == "CancelledError" for kind in type(error).__mro__)
    if not (is_cancelled or is_stop(error) or isinstance(error, GeneratorExit)):
        return error
    converted = WorkerError(told("The model's code, or code that it calls,", error))
    converted.__cause__ = error
    return converted


def as_error(who: str, error: BaseException) -> Exception:
    """Return an error that ends nothing but the call that it is raised in.

    Args:
        who: The code that raised it, as the message names it.
        error: Any exception.

    Returns:
        *error* itself if it is an error; for a control-flow exception a WorkerError with *error* as
        its cause.
    """
    if isinstance(error, Exception) and _is_error(error):
        return error
    converted = WorkerError(told(who, error))
    converted.__cause__ = error
    return converted


def told(who: str, error: BaseException) -> str:
    """Write the message of the error that replaces a control-flow exception.

    Args:
        who: The code that raised it, as the message names it, such as ``"The splitter"``.
        error: The exception.

    Returns:
        The message: names *who* and the type of the exception, and says what to do.
    """
    kind = type(_first(error)).__name__
    return both(
        f"{who} raised {kind}, which is not an error: it would end or cancel the code that calls "
        "the encoder. Return a result, pass a default value to next(), or raise an error such as "
        "ValueError.",
        f"{who}: {kind} はエラーではなく、エンコーダーを呼ぶ側を終わらせます。結果を返すか、"
        "next() に既定値を渡すか、ValueError などのエラーを出してください。",
    )


def _is_error(error: BaseException) -> bool:
    """Whether an exception is an error, and not a control-flow exception."""
    # concurrent.futures.CancelledError is an Exception, but asyncio treats it as a cancellation.
    return isinstance(error, Exception) and not (
        isinstance(error, CancelledError) or is_stop(error)
    )


def _first(error: BaseException) -> BaseException:
    """Return the cause of a RuntimeError, as of StopIteration in a generator; else *error*."""
    return error.__cause__ or error if type(error) is RuntimeError else error


def _number(value: Real) -> str | None:
    """Format a number; ``None`` if it cannot be converted, or is an integer from 10**20 on."""
    try:
        if not isinstance(value, Integral):
            return float.__repr__(float(value))
        number = index(value)
    except Exception:  # noqa: BLE001 it may be a class of the caller's, which raises anything
        return None
    # From 4,300 digits on Python refuses to convert an integer to a string.
    return int.__repr__(number) if abs(number) < _LARGEST_SHOWN else None


def _described(value: Any) -> str:
    """Format the type of a value, and its length if it has one: ``<str of 7 characters>``."""
    try:
        size = len(value)
    except Exception:  # noqa: BLE001 no length, or the caller's own __len__ raises anything
        return f"<{type(value).__name__}>"
    units = "character" if isinstance(value, str) else "item"
    return f"<{type(value).__name__} of {size} {units}{'' if size == 1 else 's'}>"
