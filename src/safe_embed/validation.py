"""Validation of the caller's texts and arguments, before anything is computed."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from safe_embed.errors import ConfigError, InvalidTextError, both
from safe_embed.foreign import is_stop, is_word, shown, told

# Limits of one portion of a stream: characters in all, and number of texts.
_STREAM_CHARS = 200_000
_STREAM_TEXTS = 1024

_FIX = "Every input must be a str. Convert or drop it first."
_FIX_JA = "入力はすべて str でなければなりません。変換するか、取り除いてください。"


def check_texts(inputs: Any) -> tuple[list[str], bool]:
    """Validate a text or an iterable of texts, and convert it to a list.

    Args:
        inputs: A string, or a list, tuple, array, Series, dataset column or generator of strings.

    Returns:
        The texts, and whether *inputs* was a single string.

    Raises:
        InvalidTextError: If *inputs* or an item is not a text (None, NaN, bytes, a pair, a dict,
            an image), or has a lone surrogate; or if reading *inputs* raises StopIteration.
    """
    if isinstance(inputs, str):
        return [check_text(inputs, None)], True
    # A set is refused: it has no order, so vectors could not be assigned to its texts.
    if isinstance(inputs, bytes | bytearray | Mapping | set | frozenset) or not _is_flat_iterable(
        inputs
    ):
        kind = _kind(inputs)
        msg = both(
            f"inputs is {kind}. Pass a str, or a list of str.",
            f"inputs が {kind} です。str か、str のリストを渡してください。",
        )
        raise InvalidTextError(msg)
    return [check_text(text, index) for index, text in enumerate(_read(inputs))], False


def check_text(text: Any, index: int | None) -> str:
    """Check that one input is a text that can be encoded.

    Args:
        text: Any value.
        index: Index of the input, for the error; ``None`` if it is the only one.

    Returns:
        The text as a plain ``str``.

    Raises:
        InvalidTextError: If *text* is not a str or has a lone surrogate. The message names index
            and position, never the text.
    """
    name = "inputs" if index is None else f"inputs[{index}]"
    if not isinstance(text, str):
        kind = _kind(text)
        msg = both(f"{name} is {kind}. {_FIX}", f"{name} が {kind} です。{_FIX_JA}")
        raise InvalidTextError(msg, index)
    position = lone_surrogate(text)
    if position is not None:
        msg = both(
            f"{name} has a lone surrogate (U+{ord(text[position]):04X}) at position "
            f"{position}: half a character, often from a wrong encoding. Read the text with the "
            "right encoding, or pass text.encode('utf-8', 'replace').decode().",
            f"{name} の位置 {position} に単独のサロゲート（U+{ord(text[position]):04X}）が"
            "あります。正しい文字コードで読み直してください。",
        )
        raise InvalidTextError(msg, index or 0, position)
    return str.__str__(text)  # unlike str(), which returns the name of a str Enum member


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Check that an argument has one of the allowed values.

    Args:
        name: Name of the argument, for the message.
        value: Value of the argument.
        choices: The allowed values.

    Raises:
        ConfigError: If *value* is not among *choices*.
    """
    if value not in choices:
        names = ", ".join(map(repr, choices))
        msg = both(
            f"{name}={shown(value)} is not known. Use one of {names}.",
            f"{name}={shown(value)} は使えません。{names} のどれかにしてください。",
        )
        raise ConfigError(msg)


def check_positive(name: str, value: Any, *, or_none: bool = True) -> None:
    """Check that an argument is a positive integer or ``None``.

    Args:
        name: Name of the argument, for the message.
        value: Value of the argument.
        or_none: Whether ``None`` is allowed.

    Raises:
        ConfigError: If *value* is anything else.
    """
    # numpy integers are accepted; bool is not, although it is an int.
    is_number = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not (is_number and value >= 1) and not (or_none and value is None):
        raise ConfigError(
            both(
                f"{name} must be a positive integer, got {shown(value)}.",
                f"{name} には1以上の整数を渡してください（渡された値: {shown(value)}）。",
            )
        )


def check_name(name: str, value: Any) -> None:
    """Check that the name of a prompt is a text or ``None``.

    Args:
        name: Name of the argument, for the message.
        value: Value of the argument.

    Raises:
        ConfigError: If *value* is anything else.
    """
    if not isinstance(value, str | None):
        raise ConfigError(
            both(
                f"{name}={shown(value)} is not the name of a prompt. Use a str, or None.",
                f"{name}={shown(value)} はプロンプトの名前ではありません。str か None を"
                "渡してください。",
            )
        )


def check_limit(max_chunk_tokens: Any, limit_tokens: float | None) -> None:
    """Check that chunks are not larger than what the model reads.

    Args:
        max_chunk_tokens: Tokens of a chunk, or ``None``.
        limit_tokens: Tokens that the model reads; ``None`` if that is unknown, or has no limit.

    Raises:
        ConfigError: If *max_chunk_tokens* is no positive integer, or larger.
    """
    check_positive("max_chunk_tokens", max_chunk_tokens)
    if max_chunk_tokens is None or limit_tokens is None or max_chunk_tokens <= limit_tokens:
        return
    msg = both(
        f"max_chunk_tokens={shown(max_chunk_tokens)} is more than the {limit_tokens:.0f} tokens "
        f"that the model reads. Use {limit_tokens:.0f} or less, or None.",
        f"max_chunk_tokens={shown(max_chunk_tokens)} は、モデルが読める {limit_tokens:.0f} "
        f"トークンを超えています。{limit_tokens:.0f} 以下か None にしてください。",
    )
    raise ConfigError(msg)


def check_processes(isolation: str, workers: int, devices: Any, timeout_seconds: Any) -> None:
    """Check the arguments about worker processes.

    Args:
        isolation: ``"none"`` or ``"process"``.
        workers: Number of worker processes; only its need for ``"process"`` is checked.
        devices: Names of devices, assigned to the workers in turn, or ``None``.
        timeout_seconds: A number above 0, or ``None``.

    Raises:
        ConfigError: If *devices* or *timeout_seconds* is not valid, or an argument needs
            ``isolation="process"``.
    """
    about_processes = workers != 1 or devices is not None or timeout_seconds is not None
    if isolation == "none" and about_processes:
        raise ConfigError(
            both(
                "workers, devices and timeout_seconds need worker processes. Add "
                "isolation='process', or leave them out.",
                "workers、devices、timeout_seconds にはワーカープロセスが必要です。"
                "isolation='process' を加えるか、外してください。",
            )
        )
    named = isinstance(devices, list | tuple) and all(isinstance(name, str) for name in devices)
    if devices is not None and not (named and devices):
        msg = both(
            f"devices={shown(devices)} is not valid. Use a list such as ['cuda:0', 'cuda:1'].",
            f"devices={shown(devices)} は使えません。['cuda:0', 'cuda:1'] のようなリストを"
            "渡してください。",
        )
        raise ConfigError(msg)
    check_device("devices", devices)
    if timeout_seconds is not None and not (
        isinstance(timeout_seconds, int | float) and 0 < timeout_seconds < math.inf
    ):
        given = f"timeout_seconds={shown(timeout_seconds)}"
        msg = both(
            f"{given} is not valid. Use a number above 0, or None.",
            f"{given} は使えません。0より大きい数か None を渡してください。",
        )
        raise ConfigError(msg)


def check_device(name: str, device: Any) -> None:
    """Check that an argument can be a device, as torch's own error would show its value.

    Args:
        name: Name of the argument, for the message.
        device: A name, a number, a ``torch.device``, ``None``, or a list of them. Whether the
            device exists is not checked.

    Raises:
        ConfigError: If *device* is anything else.
    """
    for item in device if isinstance(device, list | tuple) else [device]:
        is_name = is_word(item) or item == ""
        if not (is_name or isinstance(item, int | np.integer | None) or _is_torch_device(item)):
            msg = both(
                f"{name}={shown(item)} is not a device. Use a name such as 'cpu' or 'cuda:0'.",
                f"{name}={shown(item)} は装置の名前ではありません。'cpu' や 'cuda:0' を渡して"
                "ください。",
            )
            raise ConfigError(msg)


def portions(inputs: Iterable[Any]) -> Iterator[list[str]]:
    """Divide a stream of texts into validated portions of bounded size.

    Args:
        inputs: An iterable of texts; read only as far as the portions that are taken.

    Yields:
        Lists of texts, in order; the last may be empty.

    Raises:
        InvalidTextError: If an input is not a text, after the texts before it were yielded.
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


def lone_surrogate(text: str) -> int | None:
    """Return the position of the first lone surrogate; the codec's error would hold the text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


def _read(inputs: Iterable[Any]) -> Iterator[Any]:
    """Yield inputs; InvalidTextError if reading raises StopIteration, which would lose texts."""
    try:
        for text in inputs:  # noqa: UP028 yield from would also close the caller's generator
            yield text
    except (StopIteration, RuntimeError) as error:
        if not is_stop(error):
            raise
        raise InvalidTextError(told("inputs", error)) from error


def _is_torch_device(value: Any) -> bool:
    """Return whether a value is a ``torch.device``, without importing torch."""
    return (type(value).__module__, type(value).__name__) == ("torch", "device")


def _is_flat_iterable(inputs: Any) -> bool:
    """Return whether a value is iterable and, if it is an array, has one dimension."""
    return isinstance(inputs, Iterable) and getattr(inputs, "ndim", 1) == 1


def _kind(value: Any) -> str:
    """Return the type of a value for a message, without the value."""
    if value is None:
        return "None"
    # Rationals are left out: isnan fails on large integers.
    is_float = isinstance(value, numbers.Real) and not isinstance(value, numbers.Rational)
    if is_float and math.isnan(value):
        return "NaN (a missing value of pandas?)"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} (pairs and conversations are not supported)"
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
