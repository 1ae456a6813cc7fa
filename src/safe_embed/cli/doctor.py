"""The command ``safe-embed doctor``: experiments or a log, then words, a table and a picture."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from safe_embed.cli.files import read_text
from safe_embed.diagnosis.doctor import Report, diagnose
from safe_embed.diagnosis.experiments import KINDS
from safe_embed.diagnosis.log_file import Log, read_log
from safe_embed.diagnosis.log_shape import shape_of
from safe_embed.diagnosis.picture import Line, check_picture, draw
from safe_embed.diagnosis.report import print_findings, print_report
from safe_embed.diagnosis.verdicts import Finding
from safe_embed.errors import ConfigError, InvalidTextError, both


def examine(
    console: Console, *, texts: Path | None, json_file: Path | None, plot: Path | None, **given: Any
) -> bool:
    """Run the experiments and report.

    Args:
        console: Where the report goes.
        texts: UTF-8 file with a text in each line; ``None`` for the packaged ones.
        json_file: Where all figures go; ``None`` for nowhere.
        plot: Where the picture goes; ``None`` for nowhere.
        **given: Arguments of :func:`safe_embed.diagnose`.

    Returns:
        Whether something grows.
    """
    check_outputs(json_file, plot)
    if given["target"] is not None:  # a module of the user's lies where the command is typed
        sys.path.insert(0, str(Path.cwd()))
    lines = [] if texts is None else _lines(texts)
    with _progress() as report:
        diagnosis = diagnose(texts=lines, progress=report, **given)
    print_report(diagnosis, console)
    if plot is not None:
        diagnosis.plot(plot)
    if json_file is not None:
        _write(json_file, diagnosis.to_dict())
    return diagnosis.grows


def refuse_with_log(*given: object) -> None:
    """Refuse what is for experiments beside a log.

    Args:
        *given: Values of ``--target``, ``--texts``, ``--device`` and ``--model``; ``None`` for
            those that are left out.

    Raises:
        ConfigError: If one of them is given.
    """
    if any(value is not None for value in given):
        raise ConfigError(
            both(
                "--log reads a log and runs nothing. Leave out --target, --texts, --model and "
                "--device.",
                "--log はログを読むだけです。--target、--texts、--model、--device は"
                "指定できません。",
            )
        )


def examine_log(path: Path, console: Console, *, json_file: Path | None, plot: Path | None) -> bool:
    """Name what a log of :func:`safe_embed.watch` shows.

    Args:
        path: The log.
        console: Where the report goes.
        json_file: Where the findings go; ``None`` for nowhere.
        plot: Where the picture goes; ``None`` for nowhere.

    Returns:
        Whether something grows.
    """
    check_outputs(json_file, plot)
    log = read_log(path)
    findings = shape_of(log)
    print_findings(findings, console)
    if plot is not None:
        draw_log(log, findings, plot)
    if json_file is not None:
        _write(json_file, {"findings": [finding.to_dict() for finding in findings]})
    return any(finding.grows for finding in findings)


def draw_log(log: Log, findings: Sequence[Finding], plot: Path) -> None:
    """Draw RssAnon and RssFile of a log by time.

    Args:
        log: The log.
        findings: Of :func:`shape_of`.
        plot: File of the picture.
    """
    lines = []
    for name, attribute in (("RssAnon", "rss_anon_bytes"), ("RssFile", "rss_file_bytes")):
        known = [
            (one.elapsed_seconds / 3600, value)
            for one in log.readings
            if (value := getattr(one, attribute)) is not None
        ]
        if known:
            hours, values = zip(*known, strict=True)
            lines.append(Line(name, hours, values, is_dashed=name == "RssFile"))
    words = {"x": "hours", "y": "memory above the first reading, MB"}
    draw(plot, lines, findings[0].words.name, labels=words)


def check_outputs(json_file: Path | None, plot: Path | None) -> None:
    """Refuse files that cannot be written, before anything is measured.

    Args:
        json_file: For figures; ``None`` if none are asked for.
        plot: For the picture; likewise.

    Raises:
        ConfigError: If the folder of a file does not exist, or its name has a wrong suffix.
    """
    if plot is not None:
        check_picture(plot)
    if json_file is not None and (json_file.is_dir() or not json_file.parent.is_dir()):
        raise ConfigError(
            both(
                f"--json {json_file.name}: give a file in a folder that exists.",
                f"--json {json_file.name}: 存在するフォルダーのファイルを指定してください。",
            )
        )


def _lines(path: Path) -> list[str]:
    lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not lines:
        raise InvalidTextError(
            both(
                f"{path.name} contains no text. Give a UTF-8 file with a text in each line.",
                f"{path.name} には文章がありません。一行に一つの文を書いた UTF-8 のファイルを"
                "指定してください。",
            )
        )
    return lines


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def _progress() -> Iterator[Report]:
    """A bar for each experiment on a terminal, else a line when it begins; on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        begun: set[str] = set()

        def tell(name: str, _calls: int, _planned: int) -> None:
            if name not in begun:
                begun.add(name)
                print(f"safe-embed doctor: {name}", file=sys.stderr, flush=True)  # noqa: T201

        yield tell
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,}"))
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(name: str, calls: int, planned: int) -> None:
            if name not in tasks:
                words = f"{name} / {KINDS[name].name_ja}"
                tasks[name] = bars.add_task(words, total=None)
            bars.update(tasks[name], completed=calls, total=planned or None)

        yield show
