"""Inputs of text: JSONL, CSV and folders, read a row at a time."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

from safe_embed.jobs.encodings import check_encoding, decode, has_utf8_mark, is_valid
from safe_embed.jobs.files import explained, file_identity
from safe_embed.jobs.job import STANDARD_INPUT, Job
from safe_embed.jobs.parquet import ParquetSource
from safe_embed.jobs.rows import MOST_BYTES, Columns, Row, Source, check_columns

# How much of a file its encoding and its columns are read from.
_HEAD_BYTES = 2**20
_SUFFIXES = {".txt", ".md"}
_BYTE_ORDER_MARK = "\ufeff"


def open_source(job: Job) -> Source:
    """Open the input of a job.

    Args:
        job: What is asked for.

    Returns:
        The source; nothing but its beginning has been read.

    Raises:
        ConfigError: If it cannot be read, lacks a column, or has another encoding.
        MissingExtraError: If it is Parquet and pyarrow is not installed.
    """
    source = _kind_of(job)(job)
    try:
        source.prepare()
    except BaseException:
        source.close()
        raise
    return source


def _kind_of(job: Job) -> Callable[[Job], Source]:
    kinds: dict[str, Callable[[Job], Source]] = {
        "folder": FolderSource,
        "jsonl": JsonLines,
        "parquet": ParquetSource,
    }
    return kinds.get(job.kind, Table)


class _Lines:
    """A file or standard input whose rows are lines, and its head, checked.

    Args:
        job: What is asked for.
    """

    n_rows: int | None = None
    id_column: str | None = None

    def __init__(self, job: Job) -> None:
        self._job = job
        self._is_file = job.source != STANDARD_INPUT
        self._name = job.source.name if self._is_file else "standard input"
        self._encoding = job.encoding
        self.identity: dict[str, Any] = {}
        with explained(self._name):
            self._file = _opened(job.source) if self._is_file else _standard_input()

    def prepare(self) -> None:
        """Check the encoding, and find the columns."""
        with explained(self._name):
            if self._is_file:
                self.identity = file_identity(self._job.source)
            head = cast("io.BufferedReader", self._file).peek(_HEAD_BYTES)
        self._bytes = self.identity.get("bytes")
        is_whole = self._bytes is not None and len(head) >= self._bytes
        cut = head.rfind(b"\n") + 1
        # Of a line that goes on, the last character may be cut off: it has four bytes at most.
        head = head if is_whole else head[:cut] if cut else head[:-4]
        check_encoding(self._name, head, self._encoding)
        if has_utf8_mark(head):
            self.identity["byte_order_mark"] = True
        text = decode(head, self._encoding).removeprefix(_BYTE_ORDER_MARK)
        names = self._column_names(text)
        self.id_column = self._job.id or ("id" if "id" in names else None)
        self._columns = Columns(self._job.text, self.id_column)

    def _column_names(self, _head: str) -> Collection[str]:
        raise NotImplementedError

    def fraction(self) -> float | None:
        """Tell how much was read, by bytes."""
        return None if self._bytes is None else self._file.tell() / max(1, self._bytes)

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self._is_file:
            self._file.close()

    def _lines(self) -> Iterator[str | None]:
        """Yield each line, None where it is too long; the byte order mark is dropped."""
        is_first = True
        while True:
            with explained(self._name):
                line = self._file.readline(MOST_BYTES + 1)
                if not line:
                    return
                is_long = len(line) > MOST_BYTES
                while is_long and line and not line.endswith(b"\n"):
                    line = self._file.readline(MOST_BYTES)
            text = "" if is_long else decode(line, self._encoding)
            yield None if is_long else text.removeprefix(_BYTE_ORDER_MARK) if is_first else text
            is_first = False


class JsonLines(_Lines):
    """A file of JSON objects, one a line; blank lines are no rows.

    Args:
        job: What is asked for.
    """

    def _column_names(self, _head: str) -> Collection[str]:
        """Those of the first object."""
        lines = self._lines() if self._is_file else iter(_head.split("\n"))
        objects = (_json_object(line) for line in lines if line)
        first = next((values for values in objects if isinstance(values, dict)), {})
        if self._is_file:  # a line may be longer than the head
            self._file.seek(0)
        return first

    def rows(self) -> Iterator[Row]:
        """Read all rows; the number of a row is that of its line."""
        for number, line in enumerate(self._lines(), 1):
            if line is None:
                yield Row(number, None, reason="too_long")
            elif not is_valid(line, self._encoding):
                yield Row(number, None, reason="invalid_bytes")
            elif line.strip():
                values = _json_object(line)
                is_object = isinstance(values, dict)
                yield (
                    self._columns.row(number, cast("dict[str, Any]", values))
                    if is_object
                    else Row(number, None, reason=cast("str", values))
                )


def _json_object(line: str) -> dict[str, Any] | str:
    """Parse a line; the reason why it is rejected if it is no object."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return "not_json"
    return values if isinstance(values, dict) else "not_object"


class Table(_Lines):
    """A CSV or TSV file with the names of its columns in the first line.

    Args:
        job: What is asked for.

    Raises:
        ConfigError: If the columns that are asked for are not there.
    """

    _names: Sequence[str] = ()

    def _column_names(self, _head: str) -> Collection[str]:
        """Those of the first line, which is read here."""
        self._was_long = False
        csv.field_size_limit(MOST_BYTES)  # of the process: 128 KiB by default
        delimiter = "\t" if self._job.kind == "tsv" else ","
        self._reader = csv.reader(self._cut_lines(), delimiter=delimiter, strict=True)
        with suppress(csv.Error):
            self._names = next(self._reader, [])
        check_columns(self._name, self._names, self._job.text, self._job.id)
        return self._names

    def _cut_lines(self) -> Iterator[str]:
        for line in self._lines():
            self._was_long = self._was_long or line is None
            yield "\n" if line is None else line

    def rows(self) -> Iterator[Row]:
        """Read all rows; they are counted from the one below the names of the columns."""
        number = 0
        while True:
            self._was_long, before = False, self._reader.line_num
            is_table = True
            try:
                values = next(self._reader, None)
            except csv.Error:
                values, is_table = [], False
            if values is None:
                return
            if values or self._was_long or not is_table:
                number += 1
                row = self._row(number, values)
                # Behind a quotation mark that is never closed, a row may be many lines.
                yield (
                    row
                    if row.reason is None
                    else replace(row, lines=(before + 1, self._reader.line_num))
                )

    def _row(self, number: int, values: list[str]) -> Row:
        if self._was_long:
            return Row(number, None, reason="too_long")
        if len(values) != len(self._names):
            return Row(number, None, reason="not_csv")
        if not all(is_valid(value, self._encoding) for value in values):
            return Row(number, None, reason="invalid_bytes")
        return self._columns.row(number, dict(zip(self._names, values, strict=True)))


class FolderSource:
    """All .txt and .md files below a folder: by name, those of a folder before its subfolders'.

    The id of a row is the path of its file within the folder. Hidden files and folders are left
    out.

    Args:
        job: What is asked for.
    """

    id_column = None

    def __init__(self, job: Job) -> None:
        self._folder = job.source
        self._encoding = job.encoding
        self._read = 0
        self.n_rows = 0
        self.identity: dict[str, Any] = {}

    def prepare(self) -> None:
        """Count all files; their names, sizes and times are what the folder is known by."""
        seen = hashlib.sha256()
        with explained(self._folder.name):
            for path in self._paths():
                stat = path.lstat()
                line = f"{self._id(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\n"
                seen.update(line.encode("utf-8", "surrogateescape"))
                self.n_rows += 1
        self.identity = {"files": self.n_rows, "sha256": seen.hexdigest()}

    def _paths(self) -> Iterator[Path]:
        for parent, folders, files in os.walk(self._folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                path = Path(parent, name)
                if path.suffix.lower() in _SUFFIXES and not name.startswith("."):
                    yield path

    def _id(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def fraction(self) -> float | None:
        """Tell how much was read, by files."""
        return self._read / max(1, self.n_rows)

    def rows(self) -> Iterator[Row]:
        """Read all files; line ends become line feeds, and a byte order mark is dropped."""
        self._read = 0
        for path in self._paths():
            self._read += 1
            yield self._row(path)

    def _row(self, path: Path) -> Row:
        columns = Columns("text", "id")
        row = columns.row(self._read, {"id": self._id(path), "text": ""})
        if row.reason is not None:  # its name is not valid
            return row
        try:
            if path.stat().st_size > MOST_BYTES:
                return row.rejected("too_long")
            text = decode(path.read_bytes(), self._encoding).removeprefix(_BYTE_ORDER_MARK)
        except OSError:
            return row.rejected("unreadable")
        if not is_valid(text, self._encoding):
            return row.rejected("invalid_bytes")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        return columns.row(self._read, {"id": row.id, "text": text})

    def close(self) -> None:
        """Nothing is open."""


def _opened(path: Path) -> IO[bytes]:
    return path.open("rb", buffering=_HEAD_BYTES)


def _standard_input() -> IO[bytes]:
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    raw: Any = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
    return io.BufferedReader(raw, _HEAD_BYTES)
