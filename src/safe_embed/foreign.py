"""What is not ours in our errors: values of callers, and exceptions of their code.

A caller may pass a text where a name is wanted, or an object whose repr holds a text. So a message
shows what cannot well be a text, and of all else the type and the length.

Code of a user's may raise what is no error but ends or cancels whoever calls: StopIteration ends
the loop around encode without a word, GeneratorExit a generator, CancelledError a task that nobody
has cancelled, SystemExit the thread that all callers share. Nobody but that code is to be ended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from enum import Enum
from numbers import Integral, Real
from operator import index
from typing import Any, TypeVar

from safe_embed.errors import ConfigError, WorkerError

T = TypeVar("T")

# Names of prompts, arguments, devices: "query", "token_weighted", "cuda:0". Japanese words are
# identifiers to Python too, but here they may be a text.
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.:-]{0,23}")
# A few marks say nothing: "[", "*.*".
_MARKS = re.compile(r"[!-/:-@\[-`{-~]{0,7}")
_LARGEST_SHOWN = 10**20


def is_word(value: object) -> bool:
    """Tell whether a value is a short ASCII identifier, as names of settings are.

    Args:
        value: Anything.

    Returns:
        Whether it can be shown; a single word of Latin letters that was meant as a text can, too.
    """
    return isinstance(value, str) and _WORD.fullmatch(value) is not None


def shown(value: object) -> str:
    """Write a caller's value for a message that must not hold a text.

    >>> shown("query"), shown(None), shown(0.5), shown("今日は雨です。"), shown([1, 2])
    ("'query'", 'None', '0.5', '<str of 7 characters>', '<list of 2 items>')

    Args:
        value: Anything; its own repr is never asked for.

    Returns:
        Short identifiers, a few marks, numbers, ``None`` and members of an enumeration as they are
        written in code; type and length of all else.
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
    """Write names, as of arguments, for a message.

    Args:
        names: Of any kind.

    Returns:
        Each as :func:`shown` writes it, with commas between them.
    """
    return ", ".join(map(shown, names))


def called(who: str, function: Callable[..., T], /, *args: Any, here: bool = False) -> T:
    """Call code of a user's; let out its errors, and nothing that would end or cancel its callers.

    Args:
        who: Whose code it is, such as ``"The splitter"``.
        function: The code.
        *args: Its arguments.
        here: Whether this is the user's own thread: what comes there by Ctrl-C or from a loop that
            cancels a task is none of the code's.

    Returns:
        What it gives.

    Raises:
        ConfigError: If it raises what is no error.
    """
    try:
        return function(*args)
    except BaseException as error:
        if _is_error(error) or (here and not is_stop(error)):
            raise
        raise ConfigError(told(who, error)) from error


def is_stop(error: BaseException) -> bool:
    """Tell whether an exception ends a loop, or was that before Python itself turned it into one.

    Args:
        error: What was raised.

    Returns:
        Whether it is a StopIteration or a StopAsyncIteration, or a generator's RuntimeError of it.
    """
    return isinstance(_first(error), StopIteration | StopAsyncIteration)


def deliverable(error: BaseException) -> BaseException:
    """Give an exception that can be raised at a caller who waits for a result.

    Args:
        error: What code that was called has raised.

    Returns:
        The exception itself, unless it would end a loop or a generator of the caller's, or cancel
        its task: then an error that is raised from it. What ends the program, or a test, is for the
        caller to decide.
    """
    is_cancelled = any(kind.__name__ == "CancelledError" for kind in type(error).__mro__)
    if not (is_cancelled or is_stop(error) or isinstance(error, GeneratorExit)):
        return error
    found = WorkerError(told("Code of the model, or that it calls,", error))
    found.__cause__ = error
    return found


def told(who: str, error: BaseException) -> str:
    """Say that code has raised what is no error.

    Args:
        who: Whose code it is.
        error: What it has raised.

    Returns:
        The message of an error.
    """
    return (
        f"{who} raised {type(_first(error)).__name__}, which is no error: it would end or cancel "
        "what calls the encoder. Return, give next() a default, or raise a ValueError."
    )


def _is_error(error: BaseException) -> bool:
    # That of concurrent.futures is an Exception, but asyncio takes it for its own.
    return isinstance(error, Exception) and not (
        isinstance(error, CancelledError) or is_stop(error)
    )


def _first(error: BaseException) -> BaseException:
    """Give what a generator has raised where Python says that in a RuntimeError."""
    return error.__cause__ or error if type(error) is RuntimeError else error


def _number(value: Real) -> str | None:
    try:
        if not isinstance(value, Integral):
            return float.__repr__(float(value))
        number = index(value)
    except Exception:  # noqa: BLE001 of a type of the caller's own
        return None
    # A longer one has no name in code either, and from 4,300 digits on Python writes none.
    return int.__repr__(number) if abs(number) < _LARGEST_SHOWN else None


def _described(value: Any) -> str:
    try:
        size = len(value)
    except Exception:  # noqa: BLE001 most have none; and it may be code of the caller's own
        return f"<{type(value).__name__}>"
    units = "character" if isinstance(value, str) else "item"
    return f"<{type(value).__name__} of {size} {units}{'' if size == 1 else 's'}>"
