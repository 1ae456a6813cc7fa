"""The output of a run: its parts, copied into one file that gets its name when it is whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from safe_embed.jobs.checkpoint import Checkpoint
from safe_embed.jobs.files import explained, sync_folder, write_whole
from safe_embed.jobs.parquet import Layout, read_metadata, read_table, table_writer

# A row group of the output: what a reader, and this writer, hold at a time.
_GROUP_BYTES = 16 * 2**20


def beside(output: Path, suffix: str) -> Path:
    """Name a file that goes with an output.

    Args:
        output: The output.
        suffix: Such as ``".rejects.jsonl"``.

    Returns:
        The file beside it.
    """
    return output.with_name(output.name + suffix)


def read_settings(output: Path) -> dict[str, Any]:
    """Read what a complete output was made with.

    Args:
        output: The output.

    Returns:
        JSON values; empty if it is not known.
    """
    if output.suffix == ".parquet":
        return read_metadata(output)
    path = beside(output, ".meta.json")
    known: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
    return known


def write_output(parts: Checkpoint, output: Path, layout: Layout, metadata: dict[str, Any]) -> None:
    """Write the output and what goes with it, and delete the parts.

    The output itself gets its name last.

    Args:
        parts: All of them.
        output: The output.
        layout: Its columns.
        metadata: JSON values, for the output.
    """
    with explained(output.name):
        _write_rejects(parts, output)
        for path, write in _files(parts, output, layout, metadata):
            write_whole(path, write, parts.scratch)
    parts.remove()


def _write_rejects(parts: Checkpoint, output: Path) -> None:
    path = beside(output, ".rejects.jsonl")
    if not parts.rows_rejected:
        path.unlink(missing_ok=True)
        sync_folder(output.absolute().parent)
        return

    def write(file: IO[bytes]) -> None:
        file.writelines(f"{line}\n".encode() for line in parts.rejects())

    write_whole(path, write, parts.scratch)


def _files(
    parts: Checkpoint, output: Path, layout: Layout, metadata: dict[str, Any]
) -> Iterator[tuple[Path, Callable[[IO[bytes]], None]]]:
    """Yield each file of an output and what writes it, the output itself last."""
    if output.suffix == ".parquet":
        yield output, lambda file: _write_parquet(file, parts, layout, metadata)
        return
    data = json.dumps(metadata, ensure_ascii=False, indent=2).encode() + b"\n"
    yield beside(output, ".meta.json"), lambda file: file.writelines([data])
    if output.suffix == ".jsonl":
        yield output, lambda file: _write_lines(file, parts, None)
        return
    yield beside(output, ".rows.jsonl"), lambda file: _write_lines(file, parts, layout.vector)
    yield output, lambda file: _write_array(file, parts, layout)


def _write_parquet(
    file: IO[bytes], parts: Checkpoint, layout: Layout, metadata: dict[str, Any]
) -> None:
    from safe_embed.jobs.parquet import arrow

    with table_writer(file, layout.schema(), metadata) as writer:
        waiting: list[Any] = []
        for path in parts.parts():
            waiting.append(read_table(path))
            if sum(table.nbytes for table in waiting) >= _GROUP_BYTES:
                writer.write_table(arrow().concat_tables(waiting))
                waiting = []
        if waiting:
            writer.write_table(arrow().concat_tables(waiting))


def _write_lines(file: IO[bytes], parts: Checkpoint, without: str | None) -> None:
    """Write a JSON object a row, without one of the columns."""
    for path in parts.parts():
        table = read_table(path)
        kept = table if without is None else table.drop_columns(without)
        for row in kept.to_pylist():
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _write_array(file: IO[bytes], parts: Checkpoint, layout: Layout) -> None:
    """Write all vectors as one array of numpy, shape (n rows, width)."""
    from safe_embed.jobs.parquet import arrow

    rows = sum(arrow().parquet.read_metadata(path).num_rows for path in parts.parts())
    header = {
        "descr": np.lib.format.dtype_to_descr(layout.dtype),
        "fortran_order": False,
        "shape": (rows, layout.width),
    }
    np.lib.format.write_array_header_1_0(file, header)
    for path in parts.parts():
        numbers = read_table(path).column(layout.vector).combine_chunks()
        file.write(np.ascontiguousarray(numbers.flatten()).tobytes())
