"""The two reports of docs/doctor.md: the packaged model, raw and through SafeEncoder; 6 minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from safe_embed import diagnose

REPORTS = Path(__file__).parents[1] / "docs" / "_reports"
ENCODERS: dict[str, Literal["sentence-transformers", "safe-embed"]] = {
    "raw": "sentence-transformers",
    "safe": "safe-embed",
}


def main() -> None:
    """Write the reports as text, and their pictures in both languages."""
    for name, encoder in ENCODERS.items():
        diagnosis = diagnose(encoder=encoder)
        report = f"{diagnosis}\n"
        (REPORTS / f"doctor_{name}.txt").write_text(report, encoding="utf-8")
        diagnosis.plot(REPORTS / f"doctor_{name}.svg")
        diagnosis.plot(REPORTS / f"doctor_{name}.ja.svg", language="ja")
        print(report)


if __name__ == "__main__":
    main()
