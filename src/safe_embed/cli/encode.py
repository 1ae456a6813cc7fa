"""The command ``safe-embed encode``: signals, progress and exit status around a run."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import typer

from safe_embed.cli.files import shown
from safe_embed.errors import both
from safe_embed.jobs.job import STANDARD_INPUT, Job
from safe_embed.jobs.run import State, StrictError, run
from safe_embed.memory.sampling import anonymous_bytes
from safe_embed.memory.sizes import format_mib

REJECTED = 3
STOPPED_BY_STRICT = 4
_INTERRUPTED = 128  # and the number of the signal, as a shell has it
# Seconds between two lines of progress, where they are kept, and on a terminal.
_KEPT_SECONDS = 10.0
_TERMINAL_SECONDS = 0.5


def encode(job: Job) -> int:
    """Do a job, with progress on standard error.

    Args:
        job: What is asked for.

    Returns:
        The exit status: 0, or 3 if rows were rejected, 4 if one ended the run, 130 after Ctrl-C,
        143 after SIGTERM.
    """
    progress = Progress()
    try:
        with _terminable():
            state = run(job, progress.show)
    except StrictError as error:
        progress.end()
        _tell(str(error))
        return STOPPED_BY_STRICT
    except _SignalError as stop:
        progress.end()
        _tell(_stopped(job))
        return _INTERRUPTED + stop.number
    progress.finish(state)
    _tell(_complete(job, state))
    return REJECTED if state.rejected else 0


class Progress:
    """Writes a line of progress now and then; on a terminal in the place of the last one."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._due = 0.0
        self._is_open = False

    def show(self, state: State) -> None:
        """Show how far a run is, if it is time to.

        Args:
            state: Of the run.
        """
        if not self._due:
            _tell(shown(state.note))
        elif time.monotonic() < self._due:
            return
        self._due = time.monotonic() + (_TERMINAL_SECONDS if self._is_terminal else _KEPT_SECONDS)
        self._write(progress_line(state))

    def finish(self, state: State) -> None:
        """Show the last state.

        Args:
            state: Of the run.
        """
        self._write(progress_line(state))
        self.end()

    def end(self) -> None:
        """End the line of progress, if one is open."""
        if self._is_open:
            typer.echo(err=True)
        self._is_open = False

    def _write(self, line: str) -> None:
        if self._is_terminal:
            typer.echo(f"\r{line}\x1b[K", err=True, nl=False)
            self._is_open = True
        else:
            _tell(line)


def progress_line(state: State) -> str:
    """Write how far a run is.

    Args:
        state: Of the run.

    Returns:
        Rows, share, rows a second, time left, RssAnon of this process, rejected rows.
    """
    total = "" if state.total is None else f" / {state.total:,}"
    share = "" if state.fraction is None else f" ({state.fraction:.1%})"
    parts = [f"{state.rows:,}{total} rows{share}"]
    if state.seconds:
        parts.append(f"{(state.rows - state.rows_before) / state.seconds:,.0f} rows/s")
    left = _seconds_left(state)
    if left is not None:
        minutes, seconds = divmod(round(left), 60)
        parts.append(f"ETA {minutes // 60}:{minutes % 60:02}:{seconds:02}")
    parts.append(f"RssAnon {format_mib(anonymous_bytes())}")
    if state.rejected:
        parts.append(f"{state.rejected:,} rejected")
    return ", ".join(parts)


def _seconds_left(state: State) -> float | None:
    if state.fraction is None or state.fraction_before is None:
        return None
    done = state.fraction - state.fraction_before
    return state.seconds * (1 - state.fraction) / done if done > 0 and state.seconds else None


def _complete(job: Job, state: State) -> str:
    name, kept = shown(job.output.name), state.rows - state.rejected
    if not state.rejected:
        return both(
            f"{name} is complete: {kept:,} rows of the input.",
            f"{name} が完成しました（入力 {kept:,} 行）。",
        )
    rejects = f"{name}.rejects.jsonl"
    return both(
        f"{name} is complete: {kept:,} rows of the input; {state.rejected:,} were rejected, see "
        f"{rejects}.",
        f"{name} が完成しました（入力 {kept:,} 行）。除外した {state.rejected:,} 行は {rejects} "
        "に記録しました。",
    )


def _stopped(job: Job) -> str:
    if job.source == STANDARD_INPUT:
        return both(
            "Stopped. Standard input cannot be continued; nothing was kept.",
            "中断しました。標準入力は再開できないため、途中の結果は残していません。",
        )
    return both(
        "Stopped. The same command with --resume continues.",
        "中断しました。同じコマンドに --resume を付けると再開します。",
    )


class _SignalError(KeyboardInterrupt):
    """The process was asked to stop.

    Args:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into an exception, of which only the first is raised.

    What is open then is closed in peace: a second Ctrl-C does not tear that apart.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise _SignalError(number)

    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tell(message: str) -> None:
    typer.echo(message, err=True)
