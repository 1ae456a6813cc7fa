"""A run: rows in, parts out, and in the end one output."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from safe_embed.errors import InvalidTextError, both
from safe_embed.jobs.checkpoint import Checkpoint
from safe_embed.jobs.embedder import Embedder, make_encoder
from safe_embed.jobs.job import STANDARD_INPUT, Job
from safe_embed.jobs.output import read_settings, write_output
from safe_embed.jobs.parquet import arrow
from safe_embed.jobs.rows import REASONS, Row, Source, portions
from safe_embed.jobs.settings import asked_settings, model_settings, refuse_other
from safe_embed.jobs.sources import open_source
from safe_embed.search.calibration import Calibration

# A part ends with the text that reaches so many characters: a kill costs so much work at most.
_PART_CHARS = 500_000


class StrictError(InvalidTextError):
    """A row was rejected, and ``--strict`` ends the run with it."""


@dataclass(frozen=True, slots=True)
class State:
    """How far a run is.

    Attributes:
        rows: Rows of the input that are done, rejected rows too.
        rejected: How many of them were rejected.
        rows_before: How many were done when this process began.
        total: Rows of the input; ``None`` if that is not known.
        fraction: How much of the input is done, from 0 to 1; ``None`` if that is not known.
        fraction_before: Likewise, when this process began.
        seconds: Since the model was loaded.
        is_complete: Whether the output is there.
        note: How the input is read, for people.
    """

    rows: int
    rejected: int
    rows_before: int = 0
    total: int | None = None
    fraction: float | None = None
    fraction_before: float | None = None
    seconds: float = 0.0
    is_complete: bool = False
    note: str = ""


Report = Callable[[State], None]


def run(job: Job, report: Report) -> State:
    """Do a job.

    Args:
        job: What is asked for.
        report: Called when the model is loaded, and with each part.

    Returns:
        The counts of the whole run, also of what was done before it was resumed.

    Raises:
        ConfigError: If the job cannot be done, or is resumed with other settings.
        StrictError: If a row is rejected, and the job is strict.
        MissingExtraError: If pyarrow is not installed.
    """
    arrow()
    with closing(open_source(job)) as source, Checkpoint(job.output, resume=job.resume) as parts:
        try:
            return _run(job, source, parts, report)
        finally:
            if job.source == STANDARD_INPUT:  # nothing of it can be continued
                parts.remove()


def _run(job: Job, source: Source, parts: Checkpoint, report: Report) -> State:
    asked = asked_settings(job, source)
    if job.output.exists():
        return _already_complete(job, parts, asked)
    if parts.settings is not None:
        refuse_other(parts.settings, asked)
    calibration = None if job.calibration is None else Calibration.load(job.calibration)
    with make_encoder(job) as encoder:
        embedder = Embedder.of(job, encoder, calibration)
        settings = asked | model_settings(encoder, embedder.prompt_name)
        if parts.settings is not None:
            refuse_other(parts.settings, settings)
        else:
            parts.begin(settings)
        state = _embed_rows(job, source, parts, embedder, report)
    counts = {"rows_read": parts.rows_read, "rows_rejected": parts.rows_rejected}
    write_output(parts, job.output, embedder.layout, settings | counts)
    return replace(state, is_complete=True)


def _already_complete(job: Job, parts: Checkpoint, asked: dict[str, Any]) -> State:
    """Give the counts of a complete output; delete parts that a kill has left beside it."""
    known = read_settings(job.output)
    refuse_other(known, asked)
    parts.remove()
    read, rejected = known["rows_read"], known["rows_rejected"]
    return State(read, rejected, read, read, 1.0, 1.0, is_complete=True)


def _embed_rows(
    job: Job, source: Source, parts: Checkpoint, embedder: Embedder, report: Report
) -> State:
    """Read, embed and save all rows behind those that the parts cover."""
    rows = source.rows()
    for _ in islice(rows, parts.rows_read):
        pass
    before = source.fraction()
    counts = parts.rows_read, parts.rows_rejected, parts.rows_read
    state = State(*counts, source.n_rows, before, before, note=_note(job, source))
    report(state)
    started = time.monotonic()
    for portion in portions(rows, job.rows_per_part, _PART_CHARS):
        done, results = _results(portion, embedder, is_strict=job.strict)
        kept = [row for row in done if row.reason is None]
        parts.add(embedder.layout.table(kept, results), done)
        state = replace(
            state,
            rows=parts.rows_read,
            rejected=parts.rows_rejected,
            fraction=source.fraction(),
            seconds=time.monotonic() - started,
        )
        report(state)
    return state


def _note(job: Job, source: Source) -> str:
    """Say how the input is read."""
    mark = " with a byte order mark" if "byte_order_mark" in source.identity else ""
    encoding = "" if job.kind == "parquet" else f", {job.encoding}{mark}"
    by_name = "names of files" if job.kind == "folder" else "row numbers"
    ids = by_name if source.id_column is None else f"column {source.id_column!r}"
    return f"{job.kind}{encoding}; ids: {ids}"


def _results(
    portion: list[Row], embedder: Embedder, *, is_strict: bool
) -> tuple[list[Row], list[Any]]:
    """Embed the rows of a portion; a row without a result is rejected, too."""
    if is_strict:
        _refuse_rejected(portion)
    valid = [row for row in portion if row.reason is None]
    results = embedder.results(valid) if valid else []
    lost = {row.number for row, result in zip(valid, results, strict=True) if result is None}
    done = [row.rejected("encoder") if row.number in lost else row for row in portion]
    if is_strict:
        _refuse_rejected(done)
    return done, [result for result in results if result is not None]


def _refuse_rejected(rows: Sequence[Row]) -> None:
    row = next((row for row in rows if row.reason is not None), None)
    if row is None:
        return
    english, japanese = REASONS[row.reason or ""]
    raise StrictError(
        both(
            f"Row {row.number}: {english}. Without --strict such rows go to the rejects file.",
            f"{row.number} 行目: {japanese}。--strict を付けなければ、このような行は除外されて"
            "記録されます。",
        )
    )
