"""What a run is asked to do: plain values, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from safe_embed.errors import ConfigError, both
from safe_embed.validation import check_choice, check_positive

Kind = Literal["jsonl", "csv", "tsv", "parquet", "folder"]
Task = Literal["document", "query", "none"]
STANDARD_INPUT = Path("-")
_OUTPUTS = (".parquet", ".jsonl", ".npy")
_KINDS: dict[str, Kind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """The arguments of ``safe-embed encode``.

    Attributes:
        source: File or folder to read; ``-`` for standard input.
        output: File to write: ``.parquet``, ``.jsonl`` or ``.npy``.
        input_format: Of *source*; ``None`` for what its name says, of standard input JSONL.
        text: Name of the column that holds the texts.
        id: Name of the column that holds the ids; ``None`` for ``id`` if there is such a column,
            else row numbers.
        encoding: Of JSONL, CSV and text files.
        task: Whose prompt the texts get.
        chunks: Whether each row of the output is a chunk.
        max_chunk_tokens: As for ``SafeEncoder``, with *chunks* for ``encode_chunks``.
        calibration: File of a calibration, to pack the vectors of chunks; ``None`` for floats.
        bits: Of a packed dimension.
        normalize: Whether vectors are scaled to length 1.
        model: As for ``SafeEncoder``.
        device: Likewise.
        dtype: Likewise.
        splitter: Likewise.
        pooling: Likewise.
        isolation: Likewise.
        resume: Whether to go on with an unfinished run.
        strict: Whether a row that is rejected ends the run.
        rows_per_part: Rows that are embedded, and saved, at a time.

    Raises:
        ConfigError: If an argument cannot work.
    """

    source: Path
    output: Path
    input_format: Kind | None = None
    text: str = "text"
    id: str | None = None
    encoding: str = "utf-8"
    task: Task = "document"
    chunks: bool = False
    max_chunk_tokens: int | None = None
    calibration: Path | None = None
    bits: int = 32
    normalize: bool = False
    model: str = "offline"
    device: str | None = None
    dtype: Literal["auto"] | None = None
    splitter: Literal["punctuation", "morphemes"] = "punctuation"
    pooling: Literal["mean", "token_weighted", "max"] = "mean"
    isolation: Literal["none", "process"] = "none"
    resume: bool = False
    strict: bool = False
    rows_per_part: int = 1000

    def __post_init__(self) -> None:
        check_positive("--rows-per-part", self.rows_per_part, or_none=False)
        check_choice("OUT", self.output.suffix, _OUTPUTS)
        _check_folder(self.output)
        if self.source == STANDARD_INPUT:
            self._check_standard_input()
        _ = self.kind
        if self.calibration is not None and not (self.chunks and self.bits in (1, 8)):
            raise ConfigError(
                both(
                    "--calibration packs the vectors of chunks. Add --chunks and --bits 1 or "
                    "--bits 8.",
                    "--calibration はチャンクのベクトルを圧縮するためのものです。--chunks と、"
                    "--bits 1 か --bits 8 も指定してください。",
                )
            )
        if self.calibration is None and self.bits != 32:  # noqa: PLR2004 whole floats
            raise ConfigError(
                both(
                    f"--bits {self.bits} needs --calibration FILE, which Calibration.save has "
                    "written.",
                    f"--bits {self.bits} には、Calibration.save で保存した --calibration FILE が"
                    "必要です。",
                )
            )

    def _check_standard_input(self) -> None:
        if self.resume:
            raise ConfigError(
                both(
                    "--resume cannot be used with standard input, which cannot be read again. "
                    "Write it to a file first.",
                    "標準入力は読み直せないので、--resume は使えません。先にファイルに保存して"
                    "ください。",
                )
            )
        if self.input_format not in {None, "jsonl", "csv", "tsv"}:
            raise ConfigError(
                both(
                    "Standard input can be JSONL, CSV or TSV. Give a file of another format by "
                    "its name.",
                    "標準入力で使えるのは JSONL、CSV、TSV です。ほかの形式はファイル名で指定"
                    "してください。",
                )
            )

    @property
    def kind(self) -> Kind:
        """The format of the input.

        Raises:
            ConfigError: If its name does not say, or there is no such file or folder.
        """
        if self.input_format is not None:
            return self.input_format
        if self.source == STANDARD_INPUT:
            return "jsonl"
        if self.source.is_dir():
            return "folder"
        kind = _KINDS.get(self.source.suffix.lower())
        if kind is None:
            kinds = ", ".join(get_args(Kind))
            raise ConfigError(
                both(
                    f"The suffix {self.source.suffix!r} of IN says no format. Give a folder, or "
                    f"--input-format, one of {kinds}.",
                    f"IN の拡張子 {self.source.suffix!r} からは形式が分かりません。フォルダーか、"
                    f"--input-format（{kinds} のどれか）を指定してください。",
                )
            )
        return kind

    @property
    def asked(self) -> dict[str, Any]:
        """What decides the vectors, as far as it was asked for: JSON values."""
        limit = self.max_chunk_tokens
        return {
            "format": self.kind,
            "text_column": self.text,
            "encoding": self.encoding,
            "task": self.task,
            "rows": "chunks" if self.chunks else "texts",
            "max_chunk_tokens": limit,
            "bits": self.bits,
            "normalize": self.normalize,
            "model": self._model_name,
            "splitter": self.splitter,
            "pooling": self.pooling,
        }

    @property
    def _model_name(self) -> str:
        is_folder = self.model != "offline" and Path(self.model).is_dir()
        return str(Path(self.model).absolute()) if is_folder else self.model


def _check_folder(output: Path) -> None:
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise ConfigError(
            both(
                "OUT: give a file in a folder that exists.",
                "OUT: 存在するフォルダーのファイルを指定してください。",
            )
        )
