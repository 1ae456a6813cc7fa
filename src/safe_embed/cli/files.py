"""Read the files of the commands, and print what they hold without harm to a terminal."""

from __future__ import annotations

import codecs
import errno
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safe_embed.errors import InvalidTextError, both
from safe_embed.jobs.encodings import likely_encoding

# Control characters (U+009B too starts a terminal command), line separators, characters that change
# the direction of text, and lone surrogates, which no encoding can write.
UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Document:
    """A text to search, and its file name."""

    name: str
    text: str


def shown(text: object) -> str:
    r"""Escape what would control a terminal or end a line in a user's text.

    >>> print(shown("\x1b[31m赤"))
    \x1b[31m赤

    Args:
        text: A text, or a path.

    Returns:
        The text with the characters of :data:`UNSHOWABLE` escaped as in Python.
    """
    return UNSHOWABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), str(text))


def read_text(path: Path | None, index: int | None = None) -> str:
    """Read a UTF-8 file or standard input, without a byte order mark.

    Args:
        path: The file; ``None`` for standard input.
        index: Index among several files, for the error.

    Returns:
        The text; all its line breaks are line feeds.

    Raises:
        InvalidTextError: If the file cannot be read, or is not UTF-8.
    """
    name, name_ja = ("standard input", "標準入力")
    if path is not None:
        name, name_ja = shown(path), f"{shown(path)} "
    try:
        data = _read_bytes(path)
    except OSError as error:
        msg = both(
            f"{name} cannot be read: {error.strerror}. Give a UTF-8 text file.",
            f"{name_ja}を読めません（{error.strerror}）。UTF-8 のテキストファイルを"
            "指定してください。",
        )
        raise InvalidTextError(msg, index) from error
    body = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        position = len(data) - len(body) + error.start
        command = f"iconv -f {likely_encoding(data)} -t UTF-8"
        msg = both(
            f"{name} is not UTF-8 (byte {position}). Convert it: {command}.",
            f"{name_ja}は UTF-8 ではありません（{position} バイト目）。{command} などで変換して"
            "ください。",
        )
        raise InvalidTextError(msg, index, position) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_bytes(path: Path | None) -> bytes:
    """Return the bytes of a file or of standard input; OSError if it cannot be read."""
    if path is not None:
        return path.read_bytes()
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    return sys.stdin.buffer.read()


def read_documents(paths: Sequence[Path]) -> list[Document]:
    """Read UTF-8 files.

    Args:
        paths: The files.

    Returns:
        The text and name of each file, in order.

    Raises:
        InvalidTextError: If a file cannot be read, is blank or not UTF-8.
    """
    documents: list[Document] = []
    for index, path in enumerate(paths):
        text = read_text(path, index)
        if not text.strip():
            msg = both(
                f"{shown(path)} contains no text. Give a UTF-8 text file.",
                f"{shown(path)} には文章がありません。UTF-8 のテキストファイルを指定してください。",
            )
            raise InvalidTextError(msg, index)
        documents.append(Document(path.name, text))
    return documents
