"""The state of a run on disk: a folder of finished parts beside the output.

``OUT.parts/settings.json`` says what the parts were made with, and ``part-000001.parquet`` … hold
the results of some hundred rows each, with the rows that were rejected among them and the number of
rows that were read so far. Each file is written under another name, brought to the disk, and then
renamed: at any moment a part is whole or not there. So rows and rejected rows are neither lost nor
repeated, wherever a run is killed.

The output itself gets its name last. Where it is, the run is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from safe_embed.errors import ConfigError, both
from safe_embed.jobs.files import explained, sync_folder, write_whole
from safe_embed.jobs.parquet import read_metadata, write_table
from safe_embed.jobs.rows import Row

_SETTINGS = "settings.json"


class Checkpoint:
    """The folder of parts of an output; for ``with``.

    Args:
        output: The output.
        resume: Whether parts that are there are to be continued.

    Attributes:
        folder: The folder of parts.
        rows_read: Rows of the input that the parts cover, rejected rows too.
        rows_rejected: How many of them were rejected.

    Raises:
        ConfigError: If another process writes the same output; if there are parts, or the output,
            and *resume* is false.
    """

    def __init__(self, output: Path, *, resume: bool) -> None:
        self.folder = output.with_name(f"{output.name}.parts")
        self._output = output
        self._parts = 0
        self.rows_read = self.rows_rejected = 0
        if not resume:
            self._refuse_what_is_there()
        with explained(self.folder.name):
            self.folder.mkdir(exist_ok=True)
            sync_folder(output.absolute().parent)
            self._lock = FileLock(self.folder / "lock", timeout=0)
            try:
                self._lock.acquire()
            except Timeout:
                raise _in_use(output) from None
            try:
                self._find_parts()
            except BaseException:
                self._lock.release()
                raise

    def _refuse_what_is_there(self) -> None:
        name = self._output.name
        if self._output.exists():
            raise ConfigError(
                both(
                    f"{name} exists. Delete it, or give another OUT.",
                    f"{name} はすでにあります。削除するか、別の OUT を指定してください。",
                )
            )
        if self.folder.exists():
            raise ConfigError(
                both(
                    f"An unfinished run lies in {self.folder.name}. Continue it with --resume, or "
                    "delete that folder.",
                    f"{self.folder.name} に途中の結果があります。--resume で再開するか、その"
                    "フォルダーを削除してください。",
                )
            )

    def _find_parts(self) -> None:
        while self._part(self._parts + 1).exists():
            self._parts += 1
        if self._parts:
            last = read_metadata(self._part(self._parts))
            self.rows_read = last["rows_read"]
            self.rows_rejected = last["rows_rejected"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._parts:  # nothing that could be continued
            self.remove()
        self._lock.release()

    @property
    def settings(self) -> dict[str, Any] | None:
        """What the parts were made with; ``None`` if there are none."""
        if not self._parts:
            return None
        path = self.folder / _SETTINGS
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return settings

    def begin(self, settings: dict[str, Any]) -> None:
        """Note what the parts are made with.

        Args:
            settings: JSON values.
        """
        data = json.dumps(settings, ensure_ascii=False).encode()
        with explained(self.folder.name):
            write_whole(self.folder / _SETTINGS, lambda file: _write(file, data), self.scratch)

    @property
    def scratch(self) -> Path:
        """Where a file lies until it is whole."""
        return self.folder / "unfinished"

    def add(self, table: Any, rows: list[Row]) -> None:
        """Save a part.

        Args:
            table: The results of the rows that are not rejected.
            rows: All rows of the part.
        """
        rejects = [row.to_json() for row in rows if row.reason is not None]
        read, rejected = self.rows_read + len(rows), self.rows_rejected + len(rejects)
        metadata = {"rows_read": read, "rows_rejected": rejected, "rejects": rejects}
        with explained(self.folder.name):
            path = self._part(self._parts + 1)
            write_whole(path, lambda file: write_table(file, table, metadata), self.scratch)
        self._parts += 1
        self.rows_read, self.rows_rejected = read, rejected

    def parts(self) -> list[Path]:
        """List the finished parts.

        Returns:
            Their files, in order.
        """
        return [self._part(number) for number in range(1, self._parts + 1)]

    def rejects(self) -> Iterator[str]:
        """Read the rejected rows of all parts.

        Yields:
            A line of JSON each, in order, without line ends.
        """
        for path in self.parts():
            yield from read_metadata(path)["rejects"]

    def remove(self) -> None:
        """Delete the folder: the output is there, or nothing of it can be continued."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:06}.parquet"


def _write(file: Any, data: bytes) -> None:
    file.write(data)


def _in_use(output: Path) -> ConfigError:
    return ConfigError(
        both(
            f"Another process writes {output.name} now. Wait for it, or give another OUT.",
            f"別のプロセスが {output.name} に書き込み中です。終わるのを待つか、別の OUT を"
            "指定してください。",
        )
    )
