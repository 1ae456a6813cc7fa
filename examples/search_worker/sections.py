"""Sections of documents in a LanceDB table, a row for each chunk."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import lancedb
import pyarrow as pa

# A write leaves a version of the table and a file. So many of them are put together at once.
WRITES_UNTIL_COMPACTION = 50
# Chunks that are read for each section that is wanted: sections have several good chunks.
CHUNKS_A_SECTION = 8


class Embeds(Protocol):
    """What sections are embedded with, such as a SafeEncoder."""

    def encode_chunks(self, inputs: list[str], prompt_name: str) -> Sequence[Any]:
        """Embed the chunks of texts."""
        ...

    def encode_query(self, inputs: str) -> Any:
        """Embed a query."""
        ...


class Sections:
    """A table of sections that can be added to and searched by several threads at once.

    Args:
        folder: Of the LanceDB database.
        encoder: What embeds.
        model: The name of its model; a table keeps it.

    Raises:
        ValueError: If the table holds vectors of another model.
    """

    def __init__(self, folder: Path, encoder: Embeds, model: str) -> None:
        self._encoder = encoder
        self._database = lancedb.connect(folder)
        self._writing = threading.Lock()
        self._writes = 0
        dimension = len(encoder.encode_query("次元"))
        if "chunks" not in self._database:
            schema = _schema(dimension).with_metadata({"model": model})
            self._database.create_table("chunks", schema=schema)
        self._table = self._database.open_table("chunks")
        known = (self._table.schema.metadata or {}).get(b"model", b"").decode()
        if known != model:
            raise ValueError(f"The table was made with the model {known!r}. Take another folder.")

    def add(self, sections: dict[str, str]) -> int:
        """Add sections, each in the place of an older one with its id; all of them or none.

        Args:
            sections: Id -> text.

        Returns:
            The number of chunks.
        """
        texts = list(sections.values())
        chunked = self._encoder.encode_chunks(texts, prompt_name="document")
        rows = [
            {"section": name, "start": start, "end": end, "text": text[start:end], "vector": vector}
            for (name, text), chunks in zip(sections.items(), chunked, strict=True)
            for (start, end), vector in zip(chunks.spans, chunks.vectors, strict=True)
        ]
        names = ", ".join(f"'{name.replace(chr(39), chr(39) * 2)}'" for name in sections)
        with self._writing:
            merge = self._table.merge_insert(["section", "start"])
            merge = merge.when_matched_update_all().when_not_matched_insert_all()
            merge = merge.when_not_matched_by_source_delete(f"section IN ({names})")
            merge.execute(pa.Table.from_pylist(rows, self._table.schema))
            self._writes += 1
            if self._writes % WRITES_UNTIL_COMPACTION == 0:
                self._table.optimize(cleanup_older_than=timedelta(0))
        return len(rows)

    def search(self, query: str, limit: int) -> list[dict[str, Any]]:
        """Find the sections that answer a query, each by its best chunk.

        Args:
            query: The query.
            limit: How many sections are wanted.

        Returns:
            Section, start, end, text and score (cosine), the best first.
        """
        nearest = self._table.search(self._encoder.encode_query(query), vector_column_name="vector")
        wanted = ["section", "start", "end", "text", "_distance"]
        chunks = nearest.distance_type("cosine").select(wanted).limit(limit * CHUNKS_A_SECTION)
        best: dict[str, dict[str, Any]] = {}
        for row in chunks.to_list():
            row["score"] = 1 - row.pop("_distance")
            best.setdefault(row["section"], row)
        return list(best.values())[:limit]

    def __len__(self) -> int:
        """Number of chunks."""
        return int(self._table.count_rows())


def _schema(dimension: int) -> pa.Schema:
    return pa.schema(
        [
            pa.field("section", pa.string(), nullable=False),
            pa.field("start", pa.int64(), nullable=False),
            pa.field("end", pa.int64(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("vector", pa.list_(pa.float32(), dimension), nullable=False),
        ]
    )
