"""Check what the caller hands in, before anything is computed."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ParamSpec, TypeVar

from safe_embed.errors import InvalidTextError

P = ParamSpec("P")
T = TypeVar("T")

_FIX = "Every input must be a str. Convert or drop it first."
_FIX_JA = "入力はすべて str でなければなりません。変換するか、取り除いてください。"


def check_texts(inputs: Any) -> tuple[list[str], bool]:
    """Take a text, or anything that gives texts, as a list of valid texts.

    Args:
        inputs: A string, or a list, tuple, array, Series, dataset column or generator of strings.

    Returns:
        The texts, and whether a single string was given.

    Raises:
        InvalidTextError: If *inputs* or one of them is no text: None, NaN, bytes, pairs, dicts,
            images; or holds a lone surrogate.
    """
    if isinstance(inputs, str):
        return [check_text(inputs, None)], True
    if isinstance(inputs, bytes | bytearray | Mapping) or not _gives_items(inputs):
        msg = f"inputs is {_kind(inputs)}. Pass a str, or a list of str.\n{_FIX_JA}"
        raise InvalidTextError(msg)
    return [check_text(text, index) for index, text in enumerate(inputs)], False


def check_text(text: Any, index: int | None) -> str:
    """Make sure that one input is a text that can be encoded.

    Args:
        text: Anything.
        index: Its number, for the message.

    Returns:
        The text as a plain ``str``.

    Raises:
        InvalidTextError: If it is not; the message names number and position, never the text.
    """
    name = "inputs" if index is None else f"inputs[{index}]"
    if not isinstance(text, str):
        msg = f"{name} is {_kind(text)}. {_FIX}\n{_FIX_JA}"
        raise InvalidTextError(msg, index)
    position = _lone_surrogate(text)
    if position is not None:
        msg = (
            f"{name} has a lone surrogate (U+{ord(text[position]):04X}) at position "
            f"{position}: half a character, often from a wrong decoding. Read the text with its "
            "true encoding, or pass text.encode('utf-8', 'replace').decode().\n"
            f"{name} の位置 {position} に単独のサロゲートがあります。"
            "正しい文字コードで読み直してください。"
        )
        raise InvalidTextError(msg, index or 0, position)
    return str.__str__(text)  # str() of a member of a str Enum is its name


def accept_sentences(method: Callable[P, T]) -> Callable[P, T]:
    """Let a method take its first argument as ``sentences=`` too, as sentence-transformers 5 did.

    Args:
        method: A method whose first argument is ``inputs``.

    Returns:
        The method, with the same signature.
    """

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        only_self = 1
        if "sentences" in kwargs and "inputs" not in kwargs and len(args) == only_self:
            kwargs["inputs"] = kwargs.pop("sentences")
        return method(*args, **kwargs)

    return wrapper


def _lone_surrogate(text: str) -> int | None:
    """Find what UTF-8 cannot hold; the error that knows it keeps the text, and must not get out."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


def _gives_items(inputs: Any) -> bool:
    # A 0-dimensional array has __iter__ and fails on it; an image or a module has none that we
    # want.
    return isinstance(inputs, Iterable) and getattr(inputs, "ndim", 1) == 1


def _kind(value: Any) -> str:
    """Name the kind of a value without showing it."""
    if value is None:
        return "None"
    # An int may be too large for isnan.
    is_float = isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational)
    if is_float and math.isnan(value):
        return "NaN (a missing value of pandas?)"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} (pairs and conversations are not supported)"
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
