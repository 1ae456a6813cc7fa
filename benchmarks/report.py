"""Turns the JSON of published runs into the tables and pictures of docs, and the READMEs' own.

``make figures`` writes them. What a table says of a run is a pure function of its JSON, so a test
can tell whether the committed pages belong to it.
"""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pictures
from habit_tables import HABIT_TABLES
from quoted import quoted
from search_tables import SEARCH_TABLES
from tables import ELSEWHERE, TABLES, Run, table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FIGURES = ROOT / "docs" / "_figures"
QUOTED = ROOT / "docs" / "ja" / "figures.json"
# Draws bars of what pages quote.
BARS = ROOT / "docs" / "_pictures" / "draw.py"
BEGIN, END = "<!-- figures of benchmarks/report.py -->", "<!-- end of figures -->"
# Other machines than that of published.json, on which texts were embedded: published_epyc.json …
MACHINES = ("epyc", "amx", "gpu")


def published() -> tuple[Run, dict[str, Run]]:
    """Read the runs behind the published figures.

    Returns:
        The whole run, with what was run again on its machine; those of other machines, by name.
    """

    def read(name: str) -> Run:
        found: Run = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        return found

    run = read("published")
    for path in sorted(RESULTS.glob("published_again*.json")):
        run = renewed(run, read(path.stem))
    return run, {name: read(f"published_{name}") for name in MACHINES}


def renewed(run: Run, again: Run) -> Run:
    """Let the tests of a second run stand for those of the first.

    Args:
        run: The whole run.
        again: Some of its tests, run again.

    Returns:
        A run that says of both when and at which commit they were.
    """
    names = {one["name"] for one in again["benchmarks"]}
    kept = [one for one in run["benchmarks"] if one["name"] not in names]
    about = {key: again[key] for key in ("commit_info", "datetime")}
    about["tests"] = sorted({name.partition("[")[0] for name in names})
    before = [
        {**one, "tests": [test for test in one["tests"] if test not in about["tests"]]}
        for one in run.get("again", ())
    ]
    renewals = [*before, about]
    return {**run, "benchmarks": [*kept, *again["benchmarks"]], "again": renewals}


def pages(run: Run, others: Mapping[str, Run]) -> dict[str, str]:
    """Write all tables.

    Args:
        run: The whole run.
        others: Those of other machines.

    Returns:
        Name of a file without its ending -> Markdown.
    """
    tables = TABLES | SEARCH_TABLES | HABIT_TABLES
    found = {name: write(run) for name, write in tables.items()}
    for machine, other in others.items():
        found |= {f"{machine}_{name}": write(other) for name, write in ELSEWHERE.items()}
    return {name: text + "\n" for name, text in found.items() if text}


def readme(text: str, run: Run, figures: Mapping[str, str], language: str) -> str:
    """Put the figures of a run between the markers of a README; those of a smoke run stay out.

    Args:
        text: The README.
        run: The run.
        figures: What is quoted.
        language: "en" or "ja".

    Returns:
        The README.
    """
    if run["machine_info"]["size"] == "smoke":
        return text
    cores = run["machine_info"]["cores"]
    block = f"{BEGIN}\n{_readme_block({**figures, 'cores': cores}, language)}\n{END}"
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: block, text, flags=re.DOTALL)


# Ways of a document, and what the READMEs call them.
README_ROWS = (
    (
        "truncated",
        "truncated at 512 tokens, as sentence-transformers does",
        "512トークンで切り詰め（sentence-transformers の動作）",
    ),
    (
        "mean480",
        "mean of its chunks (up to 480 tokens)",
        "チャンクの平均（480トークンまで）",
    ),
    (
        "best480",
        "its best chunk (up to 480 tokens)",
        "いちばん近いチャンク（480トークンまで）",
    ),
    (
        "best120",
        "its best chunk (up to 120 tokens)",
        "いちばん近いチャンク（120トークンまで）",
    ),
    ("best_sentence", "its best sentence", "いちばん近い一文"),
)
README_WORDS = {
    "en": (
        (
            "{documents} Japanese articles of {shortest_chars} to {longest_chars} characters, "
            "{questions} questions:"
        ),
        "What stands for a document",
        (
            "Source: `make bench`, [the run](benchmarks/results/published.json) on {cores} cores, "
            "and [runs on other machines](docs/benchmarks.md#other-machines) for bfloat16; JaQuAD "
            "dev, multilingual-e5-small. [All benchmarks](docs/benchmarks.md)."
        ),
        (
            "Paragraphs are embedded {jaquad_fp32} times as fast as by `encode` with its defaults, "
            'sections of a manual {debian_fp32} times; with `dtype="auto"` {epyc_jaquad_bf16} and '
            "{epyc_debian_bf16} times on an AMD EPYC, {amx_jaquad_bf16} and {amx_debian_bf16} times"
            " on an Intel Xeon with AMX, {gpu_jaquad_bf16} and {gpu_debian_bf16} times on a GPU. "
            "With the batch size that suits it best, found by trying, `encode` itself gains "
            "{jaquad_best} and {debian_best} times."
        ),
    ),
    "ja": (
        "日本語の記事{documents}本（{shortest_chars}字から{longest_chars}字）、質問{questions}問での測定です。",
        "文書の表し方",
        (
            "出典は `make bench`（[測定記録](benchmarks/results/published.json)、{cores}コア、"
            "JaQuAD dev、multilingual-e5-small）。bfloat16 は[ほかの機械での測定]"
            "(docs/benchmarks.md#other-machines)です。[測定のすべて](docs/benchmarks.md)（英語）。"
        ),
        (
            "速さは、既定の `encode` に比べて、段落で{jaquad_fp32}倍、手引きの節で"
            '{debian_fp32}倍です。`dtype="auto"` なら、AMD EPYC で{epyc_jaquad_bf16}倍と'
            "{epyc_debian_bf16}倍、AMX のある Intel Xeon で{amx_jaquad_bf16}倍と"
            "{amx_debian_bf16}倍、GPU で{gpu_jaquad_bf16}倍と{gpu_debian_bf16}倍です。`encode` も、"
            "いちばん合う `batch_size` を探して使えば、{jaquad_best}倍と{debian_best}倍になります。"
        ),
    ),
}


def _readme_block(figures: Mapping[str, Any], language: str) -> str:
    said, head, source, speed = README_WORDS[language]
    rows = [
        [(english, japanese)[language == "ja"], figures[f"{way}_r1"], figures[f"{way}_mrr"]]
        for way, english, japanese in README_ROWS
    ]
    parts = (said, table([head, "R@1", "MRR"], rows), speed, source)
    return "\n" + "\n\n".join(part.format(**figures) for part in parts) + "\n"


def main() -> None:
    """Write tables, pictures, and the figures that pages and READMEs quote."""
    run, others = published()
    FIGURES.mkdir(exist_ok=True)
    for name, text in pages(run, others).items():
        (FIGURES / f"{name}.md").write_text(text, encoding="utf-8")
    pictures.draw(run, FIGURES)
    pictures.causes(run, FIGURES)
    pictures.forms(run, FIGURES)
    figures = quoted(run, others)
    QUOTED.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    runpy.run_path(str(BARS), run_name="__main__")
    for name, language in (("README.md", "en"), ("README.ja.md", "ja")):
        path = ROOT / name
        path.write_text(readme(path.read_text("utf-8"), run, figures, language), encoding="utf-8")


if __name__ == "__main__":
    main()
