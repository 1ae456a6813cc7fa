"""Parquet: an input of any size, and the parts of an output."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from safe_embed.errors import ConfigError, MissingExtraError, both
from safe_embed.jobs.files import explained, file_identity
from safe_embed.jobs.job import Job
from safe_embed.jobs.rows import MOST_BYTES, Columns, Row, check_columns
from safe_embed.search.calibration import PackedText
from safe_embed.types import ChunkedText

# The key of our own metadata in a Parquet file.
METADATA = "safe_embed"
_BATCH_ROWS = 1000
# Pages are read as they are needed: a row group may be as large as its file.
_BUFFERED = {"buffer_size": 2**20, "pre_buffer": False}


def arrow() -> Any:
    """Import pyarrow.

    Returns:
        The module; ``.parquet`` is loaded.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("safe-embed encode", "pyarrow", "jobs") from error
    return pa


class ParquetSource:
    """A Parquet file, read a batch of rows at a time.

    Args:
        job: What is asked for.

    Raises:
        ConfigError: If it cannot be read.
    """

    id_column: str | None = None

    def __init__(self, job: Job) -> None:
        self._job = job
        self._name = job.source.name
        self._read = 0
        self.n_rows: int | None = None
        self.identity: dict[str, Any] = {}
        with explained(self._name):
            self._input = job.source.open("rb")

    def prepare(self) -> None:
        """Read the footer.

        Raises:
            ConfigError: If it is no Parquet file, or lacks a column.
            MissingExtraError: If pyarrow is not installed.
        """
        pa, job = arrow(), self._job
        with explained(self._name):
            self.identity = file_identity(job.source)
            try:
                self._file = pa.parquet.ParquetFile(self._input, **_BUFFERED)
            except pa.ArrowInvalid as error:
                raise ConfigError(
                    both(
                        f"{self._name} is no Parquet file. Give its format with --input-format.",
                        f"{self._name} は Parquet ではありません。--input-format で形式を指定して"
                        "ください。",
                    )
                ) from error
        names = self._file.schema_arrow.names
        self.id_column = job.id or ("id" if "id" in names else None)
        check_columns(self._name, names, job.text, self.id_column)
        self._columns = Columns(job.text, self.id_column)
        self.n_rows = self._file.metadata.num_rows

    def fraction(self) -> float | None:
        """Tell how much was read, by rows."""
        return self._read / max(1, self.n_rows or 0)

    def rows(self) -> Iterator[Row]:
        """Read all rows; they are counted from 1."""
        columns = self._columns
        names = list(dict.fromkeys(name for name in (columns.text, columns.id) if name is not None))
        self._read = 0
        batches = self._file.iter_batches(_BATCH_ROWS, columns=names, use_threads=False)
        while True:
            with explained(self._name):
                batch = next(batches, None)
            if batch is None:
                return
            cells = [batch.column(name) for name in names]
            for row in zip(*cells, strict=True):
                self._read += 1
                yield self._row(names, row)

    def _row(self, names: list[str], cells: Sequence[Any]) -> Row:
        try:
            values = dict(zip(names, (cell.as_py() for cell in cells), strict=True))
        except UnicodeDecodeError:
            return Row(self._read, None, reason="invalid_bytes")
        row = self._columns.row(self._read, values)
        return row.rejected("too_long") if len(row.text) > MOST_BYTES else row

    def close(self) -> None:
        """Close the file."""
        self._input.close()


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of an output.

    Attributes:
        chunks: Whether a row is a chunk.
        width: Numbers of a vector, or bytes of a code.
        bits: 32 for vectors, 8 or 1 for codes.
    """

    chunks: bool
    width: int
    bits: int = 32

    @property
    def vector(self) -> str:
        """Name of the column of vectors or codes."""
        return "vector" if self.bits == 32 else "codes"  # noqa: PLR2004 whole floats

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers of a vector or code."""
        return np.dtype({32: np.float32, 8: np.int8, 1: np.uint8}[self.bits])

    def schema(self) -> Any:
        """Give the schema of the output.

        Returns:
            A pyarrow schema.
        """
        pa = arrow()
        numbers = pa.list_(pa.from_numpy_dtype(self.dtype), self.width)
        fields = [("id", pa.string())]
        if self.chunks:
            fields += [(name, pa.int32()) for name in ("chunk", "start", "end", "tokens")]
            fields += [("text", pa.string())]
        return pa.schema([*fields, (self.vector, numbers)])

    def table(self, rows: Sequence[Row], results: Sequence[Any]) -> Any:
        """Make the table of some rows.

        Args:
            rows: Of the input.
            results: Vector, ChunkedText or PackedText of each.

        Returns:
            A pyarrow table.
        """
        if not self.chunks:
            columns = [[row.id for row in rows]]
            vectors = list(results)
        else:
            cells = [
                cell for row, text in zip(rows, results, strict=True) for cell in _cells(row, text)
            ]
            columns = [list(column) for column in zip(*cells, strict=True)] or [[]] * 6
            vectors = [_vectors_of(text) for text in results]
        return self._assembled(columns, vectors)

    def _assembled(self, columns: list[list[Any]], vectors: list[Any]) -> Any:
        pa, schema = arrow(), self.schema()
        flat = [np.zeros(0, self.dtype), *(np.ravel(each) for each in vectors)]
        numbers = pa.array(np.concatenate(flat).astype(self.dtype, copy=False))
        last = pa.FixedSizeListArray.from_arrays(numbers, self.width)
        typed = [
            pa.array(column, field.type) for column, field in zip(columns, schema, strict=False)
        ]
        return pa.Table.from_arrays([*typed, last], schema=schema)


def _vectors_of(text: ChunkedText | PackedText) -> Any:
    return text.codes if isinstance(text, PackedText) else text.vectors


def _cells(row: Row, text: ChunkedText | PackedText) -> Iterator[tuple[Any, ...]]:
    """Yield what the columns before the vector hold, a tuple a chunk."""
    for at, (span, tokens) in enumerate(zip(text.spans, text.token_counts, strict=True)):
        yield row.id, at, span.start, span.end, tokens, row.text[span.start : span.end]


def write_table(file: IO[bytes], table: Any, metadata: dict[str, Any]) -> None:
    """Write a table as a Parquet file.

    Args:
        file: Where to.
        table: A pyarrow table.
        metadata: JSON values, for the key :data:`METADATA`.
    """
    with table_writer(file, table.schema, metadata) as writer:
        writer.write_table(table)


def table_writer(file: IO[bytes], schema: Any, metadata: dict[str, Any]) -> Any:
    """Open a Parquet file for tables that come one after the other.

    Args:
        file: Where to.
        schema: Of the tables.
        metadata: JSON values, for the key :data:`METADATA`.

    Returns:
        A pyarrow ParquetWriter, for ``with``.
    """
    encoded = {METADATA: json.dumps(metadata, ensure_ascii=False)}
    schema = schema.with_metadata(encoded)
    # Vectors hardly come twice: a dictionary of them would take more than they do.
    options = {"compression": "zstd", "use_dictionary": ["id"]}
    return arrow().parquet.ParquetWriter(file, schema, **options)


def read_metadata(path: Path) -> dict[str, Any]:
    """Read our own metadata of a Parquet file.

    Args:
        path: Of the file.

    Returns:
        JSON values; empty if there are none.
    """
    known = arrow().parquet.read_schema(path).metadata or {}
    values: dict[str, Any] = json.loads(known.get(METADATA.encode(), b"{}"))
    return values


def read_table(path: Path) -> Any:
    """Read a part.

    Args:
        path: Of the file.

    Returns:
        A pyarrow table without metadata.
    """
    table = arrow().parquet.read_table(path, use_threads=False, memory_map=False)
    return table.replace_schema_metadata(None)
