"""The report of the doctor as text: experiments, verdict in words, line to paste, environment."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from safe_embed.diagnosis.experiments import Observation
from safe_embed.diagnosis.growth import Growth
from safe_embed.diagnosis.verdicts import Finding

if TYPE_CHECKING:
    from safe_embed.diagnosis.doctor import Diagnosis

SHAPES_JA = {"flat": "増加なし", "plateau": "頭打ち", "growth": "増加", "unclear": "未確定"}
_WIDTH = 100


def text_report(diagnosis: Diagnosis) -> str:
    """Write the report as plain text.

    Args:
        diagnosis: What the doctor has found.

    Returns:
        Lines of at most 100 columns; in both languages.
    """
    target = io.StringIO()
    print_report(diagnosis, Console(file=target, width=_WIDTH, no_color=True, highlight=False))
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines())


def print_report(diagnosis: Diagnosis, console: Console) -> None:
    """Print the report.

    Args:
        diagnosis: What the doctor has found.
        console: Where to.
    """
    console.print(Text(f"Examined / 対象: {diagnosis.subject}, {diagnosis.seconds:.0f} s"))
    console.print(_experiments(diagnosis))
    print_findings(diagnosis.findings, console)
    console.print(
        Text(", ".join(f"{name} {value}" for name, value in diagnosis.environment.items())),
        style="dim",
    )


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """Print findings in words, each with the line to paste.

    Args:
        findings: The findings.
        console: Where to.
    """
    for finding in findings:
        style = "bold red" if finding.grows else "bold"
        console.print(Text(f"■ {finding.in_words()}"), style=style)
        console.print(Text(f"  {finding.in_words('ja')}"))
        if finding.remedy:
            console.print(Text(f"  > {finding.remedy}"), style="green")
    console.print()


def _experiments(diagnosis: Diagnosis) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("experiment / 実験")
    for name in ("calls", "shape / 形", "MB", "kB/call"):
        table.add_column(name, justify="right")
    table.add_column("gave back, MB / 返却")
    for one in diagnosis.observations:
        table.add_row(*row(one, diagnosis.growths.get(one.name)))
    return table


def row(observation: Observation, growth: Growth | None) -> tuple[str, ...]:
    """The cells of an experiment.

    Args:
        observation: What it has observed.
        growth: The shape of its curve; ``None`` if it failed.

    Returns:
        Name, calls, shape, growth in MB, slope in kB a call, and what each step gave back.
    """
    name = f"{observation.name} / {observation.kind.name_ja}"
    if growth is None:
        return name, "-", observation.error or "-", "-", "-", ""
    given = (
        f"{one.step} {one.size_bytes / 1e6:.1f}"
        for one in observation.released
        if abs(one.size_bytes) >= 100_000  # noqa: PLR2004 what would be 0.0
    )
    return (
        name,
        f"{observation.calls:,}",
        f"{growth.verdict} / {SHAPES_JA[growth.verdict]}",
        f"{observation.rise() / 1e6:+.1f}",
        f"{growth.slope_bytes_per_call / 1e3:+.2f}",
        ", ".join(given),
    )
