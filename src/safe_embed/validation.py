"""Check what the caller hands in, before anything is computed."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from safe_embed.errors import ConfigError, InvalidTextError
from safe_embed.foreign import is_stop, is_word, shown, told

# How many texts a stream holds at a time, in characters and in number.
_STREAM_CHARS = 200_000
_STREAM_TEXTS = 1024

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
    # A set has no order that vectors could keep.
    if isinstance(inputs, bytes | bytearray | Mapping | set | frozenset) or not _gives_items(
        inputs
    ):
        msg = f"inputs is {_kind(inputs)}. Pass a str, or a list of str.\n{_FIX_JA}"
        raise InvalidTextError(msg)
    return [check_text(text, index) for index, text in enumerate(_read(inputs))], False


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


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Refuse what is not among the choices.

    Args:
        name: Of the argument.
        value: What was given.
        choices: What may be given.

    Raises:
        ConfigError: If *value* is none of them.
    """
    if value not in choices:
        msg = f"{name}={shown(value)} is not known. Use one of {', '.join(map(repr, choices))}."
        raise ConfigError(msg)


def check_positive(name: str, value: Any) -> None:
    """Refuse what is no whole number from 1 on.

    Args:
        name: Of the argument.
        value: What was given; ``None`` leaves it open.

    Raises:
        ConfigError: If *value* is anything else.
    """
    # An array's integer will do; True is no number of anything.
    if value is not None and (
        not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1
    ):
        msg = f"{name} must be a positive integer, got {shown(value)}."
        raise ConfigError(msg)


def check_processes(isolation: str, workers: int, devices: Any, timeout_seconds: Any) -> None:
    """Refuse arguments about worker processes that cannot work.

    Args:
        isolation: ``"none"`` or ``"process"``.
        workers: How many.
        devices: One a worker, in turn.
        timeout_seconds: A time above 0, or ``None``.

    Raises:
        ConfigError: If one of them cannot work, or needs ``isolation="process"``.
    """
    about_processes = workers != 1 or devices is not None or timeout_seconds is not None
    if isolation == "none" and about_processes:
        raise ConfigError(
            "workers, devices and timeout_seconds are about worker processes. Add "
            "isolation='process', or leave them out."
        )
    named = isinstance(devices, list | tuple) and all(isinstance(one, str) for one in devices)
    if devices is not None and not (named and devices):
        msg = f"devices={shown(devices)}: give a list such as ['cuda:0', 'cuda:1']."
        raise ConfigError(msg)
    check_device("devices", devices)
    if timeout_seconds is not None and not (
        isinstance(timeout_seconds, int | float) and 0 < timeout_seconds < math.inf
    ):
        msg = f"timeout_seconds={shown(timeout_seconds)}: give a number above 0, or None."
        raise ConfigError(msg)


def check_device(name: str, device: Any) -> None:
    """Refuse what cannot be the name of a device; torch's own error would show it.

    Args:
        name: Of the argument.
        device: A name, a number, a ``torch.device``, ``None``, or a list of them. Whether there is
            such a device is for torch to say.

    Raises:
        ConfigError: If it is anything else.
    """
    for one in device if isinstance(device, list | tuple) else [device]:
        is_name = is_word(one) or one == ""
        if not (is_name or isinstance(one, int | np.integer | None) or _is_torch_device(one)):
            msg = f"{name}={shown(one)}: give the name of a device, such as 'cpu' or 'cuda:0'."
            raise ConfigError(msg)


def portions(inputs: Iterable[Any]) -> Iterator[list[str]]:
    """Gather the texts of a stream into portions of bounded size, checked.

    Args:
        inputs: Anything that gives texts; read only as far as portions are taken.

    Yields:
        Texts, in order, perhaps none.

    Raises:
        InvalidTextError: If an input is no text; what stands before it is given first.
    """
    portion: list[str] = []
    chars = 0
    for index, text in enumerate(_read(inputs)):
        try:
            portion.append(check_text(text, index))
        except InvalidTextError:
            yield portion
            raise
        chars += len(text)
        if chars >= _STREAM_CHARS or len(portion) >= _STREAM_TEXTS:
            yield portion
            portion, chars = [], 0
    yield portion


def _lone_surrogate(text: str) -> int | None:
    """Find what UTF-8 cannot hold; the error that knows it keeps the text, and must not get out."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


def _read(inputs: Iterable[Any]) -> Iterator[Any]:
    """Go through inputs; a StopIteration that is not their end would lose texts without a word."""
    try:
        for one in inputs:  # noqa: UP028 it would also close what is read, which is the caller's
            yield one
    except (StopIteration, RuntimeError) as error:
        if not is_stop(error):
            raise
        raise InvalidTextError(told("inputs", error)) from error


def _is_torch_device(value: Any) -> bool:
    return (type(value).__module__, type(value).__name__) == ("torch", "device")


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
