"""Rows of an input: an id and a text, or the reason why a row is rejected."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from safe_embed.errors import ConfigError, both

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

# Longest row that is read: more would not be one text of a file of many.
MOST_BYTES = 64 * 2**20

# Why a row is rejected, by a short name: in English and in Japanese.
REASONS = {
    "not_json": ("the line is not JSON", "行が JSON ではありません"),
    "not_object": ("the line is not a JSON object", "行が JSON のオブジェクトではありません"),
    "not_csv": ("quotation marks or columns do not fit", "引用符か列の数が合いません"),
    "invalid_bytes": (
        "bytes that are not valid in the encoding",
        "指定の文字コードとして正しくないバイトがあります",
    ),
    "too_long": ("longer than 64 MiB", "64 MiB を超えています"),
    "no_text": ("the text is missing or null", "文章がないか null です"),
    "text_type": ("the text is not a string", "文章が文字列ではありません"),
    "lone_surrogate": (
        "half a character (a lone surrogate) in text or id",
        "文章か ID に単独のサロゲートがあります",
    ),
    "no_id": ("the id is missing or null", "ID がないか null です"),
    "id_type": ("the id is neither string nor integer", "ID が文字列でも整数でもありません"),
    "unreadable": ("the file cannot be read", "ファイルを読めません"),
    "encoder": (
        "every worker process that read the text has ended",
        "この文章を読んだワーカープロセスがすべて終了しました",
    ),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the input.

    Attributes:
        number: From 1; of a JSONL file the line.
        id: What it is known by in the output; ``None`` if that is not known.
        text: The text; empty if the row is rejected.
        reason: Why it is rejected, a name of :data:`REASONS`; ``None`` if it is not.
        lines: First and last line of a rejected row of a CSV file, from 1; else ``None``.
    """

    number: int
    id: str | None
    text: str = ""
    reason: str | None = None
    lines: tuple[int, int] | None = None

    def rejected(self, reason: str) -> Row:
        """Make the row that is rejected in place of this one.

        Args:
            reason: A name of :data:`REASONS`.

        Returns:
            The row, without its text.
        """
        return Row(self.number, self.id, reason=reason)

    def to_json(self) -> str:
        """Write the line of a rejected row in the rejects file; no text is in it.

        Returns:
            JSON, without a line end.
        """
        english, japanese = REASONS[self.reason or ""]
        message = f"{english} / {japanese}"
        values: dict[str, Any] = {"row": self.number, "id": self.id, "reason": self.reason}
        values |= {} if self.lines is None else {"lines": self.lines}
        values |= {"message": message}
        return json.dumps(values, ensure_ascii=False)


class Source(Protocol):
    """An input that gives rows."""

    def prepare(self) -> None:
        """Check the beginning of the input, before anything is computed.

        Raises:
            ConfigError: If it lacks a column, or has another encoding.
        """
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """What the input is known by when a run is resumed: JSON values."""
        ...

    @property
    def id_column(self) -> str | None:
        """The column of the ids; ``None`` if they are row numbers or names of files."""
        ...

    @property
    def n_rows(self) -> int | None:
        """How many rows there are; ``None`` if that is not known before they are read."""
        ...

    def fraction(self) -> float | None:
        """How much was read, from 0 to 1; ``None`` if that is not known."""
        ...

    def rows(self) -> Iterator[Row]:
        """Read all rows, in the same order each time."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns hold text and id.

    Attributes:
        text: Name of the column.
        id: Name of the column; ``None`` for row numbers.
    """

    text: str
    id: str | None

    def row(self, number: int, values: Mapping[str, Any]) -> Row:
        """Take text and id from the values of a row.

        Args:
            number: Of the row.
            values: By column.

        Returns:
            The row, which may be rejected.
        """
        known = str(number) if self.id is None else values.get(self.id)
        if known is None or isinstance(known, bool) or not isinstance(known, str | int):
            return Row(number, None, reason="no_id" if known is None else "id_type")
        row = Row(number, str(known))
        if _LONE_SURROGATE.search(str(known)):
            return Row(number, None, reason="lone_surrogate")
        text = values.get(self.text)
        if text is None:
            return row.rejected("no_text")
        if not isinstance(text, str):
            return row.rejected("text_type")
        if _LONE_SURROGATE.search(text):
            return row.rejected("lone_surrogate")
        return Row(number, row.id, text)


def check_columns(name: str, names: Collection[str], text: str, id_column: str | None) -> None:
    """Refuse a table that lacks a column.

    Args:
        name: Of the input.
        names: Of its columns.
        text: Column of the texts.
        id_column: Column of the ids; ``None`` for none.

    Raises:
        ConfigError: If it lacks one of them.
    """
    for option, column in (("--text", text), ("--id", id_column)):
        if column is not None and column not in names:
            raise ConfigError(
                both(
                    f"{name} has no column {column!r} ({len(names)} columns). Name it: "
                    f"{option} COLUMN.",
                    f"{name} に列 {column!r} がありません（列の数: {len(names)}）。"
                    f"{option} 列名 で指定してください。",
                )
            )


def portions(rows: Iterable[Row], most_rows: int, most_chars: int) -> Iterator[list[Row]]:
    """Part rows into portions; the same rows always give the same portions.

    Args:
        rows: Of an input, rejected rows too.
        most_rows: Rows of a portion at most.
        most_chars: A portion ends with the text that reaches so many characters.

    Yields:
        One row or more.
    """
    portion: list[Row] = []
    chars = 0
    for row in rows:
        portion.append(row)
        chars += len(row.text)
        if len(portion) >= most_rows or chars >= most_chars:
            yield portion
            portion, chars = [], 0
    if portion:
        yield portion
