"""What the doctor has found, as text: experiments, verdict in words, line to paste, environment."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from safe_embed.diagnosis.experiments import Observation
from safe_embed.diagnosis.growth import Growth
from safe_embed.diagnosis.picture import Line, draw
from safe_embed.diagnosis.verdicts import Finding

SHAPES_JA = {"flat": "増加なし", "plateau": "頭打ち", "growth": "増加", "unclear": "未確定"}
_WIDTH = 100
# Curves are cut at twice the median number of calls: experiments with few calls stay readable.
_WIDEST = 2


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the doctor has found.

    Attributes:
        subject: What was examined, in words.
        findings: The causes, alarms first.
        observations: What each experiment has observed, in the order of the experiments.
        growths: Name of an experiment -> shape of its curve; without those that failed.
        environment: Versions, device, allocator and limits.
        seconds: Duration.
    """

    subject: str
    findings: tuple[Finding, ...]
    observations: tuple[Observation, ...]
    growths: dict[str, Growth]
    environment: dict[str, str]
    seconds: float

    @property
    def grows(self) -> bool:
        """Whether a cause makes memory or file descriptors grow without an end in sight."""
        return any(finding.grows for finding in self.findings)

    @property
    def verdict(self) -> Finding:
        """The first finding."""
        return self.findings[0]

    def __str__(self) -> str:
        """The report as plain text, in both languages."""
        return text_report(self)

    def plot(self, path: str | os.PathLike[str], *, language: Literal["en", "ja"] = "en") -> None:
        """Draw the memory of each experiment by call.

        Args:
            path: File that ends in .svg, .png or .pdf.
            language: Of the words; Japanese needs .svg, whose fonts are those of the reader.

        Raises:
            ConfigError: If the file has another suffix, or no folder.
            MissingExtraError: If matplotlib is not installed.
        """
        is_japanese = language == "ja"
        shown = [one.calls for one in self.observations if one.name in self.growths]
        longest = _WIDEST * sorted(shown)[len(shown) // 2] if shown else 0
        lines = [
            Line(
                one.kind.name_ja if is_japanese else one.name,
                range(1, min(one.calls, longest) + 1),
                one.held_bytes[:longest],
                is_dashed=one.kind.is_traced,
            )
            for one in self.observations
            if one.name in self.growths
        ]
        words = self.verdict.words
        title = f"{self.subject}: {words.name_ja if is_japanese else words.name}"
        draw(path, lines, title, language=language)

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON: figures, curves and words, no text of the user's.

        Returns:
            Attribute name -> value.
        """
        return {
            "subject": self.subject,
            "grows": self.grows,
            "findings": [finding.to_dict() for finding in self.findings],
            "experiments": [
                {**one.to_dict(), "shape": asdict(self.growths[one.name])}
                if one.name in self.growths
                else one.to_dict()
                for one in self.observations
            ],
            "environment": self.environment,
            "seconds": round(self.seconds, 1),
        }


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
    table.add_column("experiment / 実験", no_wrap=True)
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
