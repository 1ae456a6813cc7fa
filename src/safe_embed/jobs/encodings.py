"""The encoding of Japanese text files: named by the user, and checked against the first bytes."""

from __future__ import annotations

import codecs
import re

from safe_embed.errors import ConfigError, both

# Name for users -> codec of Python. Windows calls CP932 "Shift_JIS".
CODECS = {"utf-8": "utf-8", "cp932": "cp932", "euc-jp": "euc_jp"}
_BYTE_ORDER_MARKS = (
    *((mark, "UTF-32") for mark in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)),
    *((mark, "UTF-16") for mark in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)),
)
_JAPANESE = re.compile("[ぁ-んァ-ヶ一-龠]")
# What a byte that is not valid becomes: with "surrogateescape" half a character; in Python's cp932
# five bytes that Windows leaves undefined have characters of their own, which no text has.
_INVALID = {
    "utf-8": re.compile("[\udc80-\udcff]"),
    "cp932": re.compile("[\udc80-\udcff\x80\xa0\uf8f1-\uf8f3]"),
    "euc-jp": re.compile("[\udc80-\udcff]"),
}


def decode(data: bytes, encoding: str) -> str:
    """Decode a text; what is not valid stays recognisable.

    Args:
        data: The bytes.
        encoding: A name of :data:`CODECS`.

    Returns:
        The text, for :func:`is_valid`.
    """
    return data.decode(CODECS[encoding], "surrogateescape")


def is_valid(text: str, encoding: str) -> bool:
    """Tell whether a decoded text was valid.

    Args:
        text: What :func:`decode` gave.
        encoding: The same name.

    Returns:
        Whether no byte of it was invalid.
    """
    return _INVALID[encoding].search(text) is None


def has_utf8_mark(data: bytes) -> bool:
    """Tell whether bytes begin with UTF-8's byte order mark.

    Args:
        data: The first bytes of a file.

    Returns:
        Whether they do.
    """
    return data.startswith(codecs.BOM_UTF8)


def likely_encoding(data: bytes) -> str:
    """Name the likely encoding of bytes that are not UTF-8, as iconv calls it.

    Args:
        data: Any bytes.

    Returns:
        ``"UTF-16"`` or ``"UTF-32"`` by their marks, else ``"EUC-JP"`` or ``"CP932"``.
    """
    for mark, name in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return name
    try:
        data.decode("euc_jp")
    except UnicodeDecodeError:  # as Shift_JIS nearly always does
        return "CP932"
    return "EUC-JP"


def check_encoding(name: str, head: bytes, encoding: str) -> None:
    """Refuse an input that is written in another encoding than the one that was named.

    A few invalid lines are no reason: they are rejected one by one.

    Args:
        name: Of the input, for the message.
        head: Its first lines, whole: no character is cut off at the end.
        encoding: A name of :data:`CODECS`.

    Raises:
        ConfigError: If most lines that are not ASCII are invalid, or are Japanese in UTF-8 while
            another encoding was named.
    """
    lines = [line for line in head.split(b"\n") if not line.isascii()]
    invalid = sum(not is_valid(decode(line, encoding), encoding) for line in lines)
    is_utf8 = all(is_valid(decode(line, "utf-8"), "utf-8") for line in lines)
    if encoding != "utf-8" and is_utf8 and _JAPANESE.search(decode(head, "utf-8")):
        raise _other(name, encoding, "UTF-8")
    if invalid * 2 > len(lines):
        raise _other(name, encoding, likely_encoding(head))


def _other(name: str, encoding: str, seems: str) -> ConfigError:
    if seems.lower() in CODECS and seems.lower() != encoding:
        way = f"--encoding {seems.lower()}"
        return ConfigError(
            both(
                f"{name} is not {encoding}; it seems to be {seems}. Name it: {way}.",
                f"{name} は {encoding} ではなく {seems} のようです。{way} と指定してください。",
            )
        )
    way = f"iconv -f {seems} -t UTF-8"
    return ConfigError(
        both(
            f"{name} is not {encoding}; it seems to be {seems}. Convert it: {way}, or name its "
            "encoding with --encoding (utf-8, cp932, euc-jp).",
            f"{name} は {encoding} ではなく {seems} のようです。{way} で変換するか、"
            "--encoding（utf-8、cp932、euc-jp）で指定してください。",
        )
    )
