"""The pages with figures are what benchmarks/report.py makes of the run that is published."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

import pictures
import quoted
import report
from safe_embed.cli.demo import read_manual

RUN, OTHERS = report.published()
FIGURES = quoted.quoted(RUN, OTHERS)


def test_tables_are_of_the_published_runs() -> None:
    """Each committed table is made of the committed JSON, and none is left of another run."""
    committed = {path.stem: path.read_text("utf-8") for path in report.FIGURES.glob("*.md")}
    assert report.pages(RUN, OTHERS) == committed


def test_pictures_are_of_the_published_run(tmp_path: Path) -> None:
    """Each committed picture is made of the committed JSON."""
    pictures.draw(RUN, tmp_path)
    pictures.causes(RUN, tmp_path)
    pictures.forms(RUN, tmp_path)
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert drawn == {
        path.name: path.read_text(encoding="utf-8") for path in report.FIGURES.glob("*.svg")
    }


def test_pages_quote_the_published_run() -> None:
    """What pages quote in their sentences is picked from the committed JSON."""
    committed = json.loads(report.QUOTED.read_text(encoding="utf-8"))
    assert committed == FIGURES
    pages = (report.ROOT / "docs").rglob("*.md")
    names = {
        name
        for page in pages
        if "_build" not in page.parts
        for name in re.findall(r"{{ (\w+) }}", page.read_text(encoding="utf-8"))
    }
    assert names
    assert names <= committed.keys()


def test_the_demo_reads_the_figures() -> None:
    """Who asks the manual is not answered with the name of a figure."""
    pages = read_manual()
    assert len(pages) > 3
    assert not any("{{" in page.text for page in pages)


@pytest.mark.parametrize(("name", "language"), [("README.md", "en"), ("README.ja.md", "ja")])
def test_readmes_are_of_the_published_run(name: str, language: str) -> None:
    """The READMEs' figures are those of the committed JSON, unless that is a smoke run."""
    text = (report.ROOT / name).read_text(encoding="utf-8")
    assert report.readme(text, RUN, FIGURES, language) == text


@pytest.mark.parametrize("language", ["en", "ja"])
def test_only_what_stands_between_the_markers_is_replaced(language: str) -> None:
    """What stands before and behind the markers stays; a smoke run replaces nothing."""
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nbehind\n"
    machine = RUN["machine_info"]
    smoke = RUN | {"machine_info": machine | {"size": "smoke"}}
    normal = RUN | {"machine_info": machine | {"size": "normal"}}
    assert report.readme(text, smoke, FIGURES, language) == text
    before, inner, behind = re.split(
        f"{re.escape(report.BEGIN)}|{re.escape(report.END)}",
        report.readme(text, normal, FIGURES, language),
    )
    assert (before, behind) == ("before\n", "\nbehind\n")
    assert inner.count("\n|") == 2 + len(report.README_ROWS)
    assert "old" not in inner


def test_what_is_run_again_stands_for_the_first() -> None:
    """The newest samples of a test are those of the tables; of each it is said when it was run."""

    def part(commit: str, **samples: int) -> dict[str, Any]:
        made = [{"name": name, "extra_info": value} for name, value in samples.items()]
        return {"commit_info": commit, "datetime": commit, "benchmarks": made}

    run = report.renewed(part("first", a=1, b=1, c=1), part("second", b=2, c=2))
    run = report.renewed(run, part("third", c=3))
    assert {one["name"]: one["extra_info"] for one in run["benchmarks"]} == {"a": 1, "b": 2, "c": 3}
    assert run["commit_info"] == "first"
    assert {one["commit_info"]: one["tests"] for one in run["again"]} == {
        "second": ["b"],
        "third": ["c"],
    }


@pytest.mark.parametrize("run", [RUN, *OTHERS.values()], ids=["whole", *OTHERS])
def test_runs_say_what_their_figures_depend_on(run: dict[str, Any]) -> None:
    """Commit, versions, processor, seed and size are there; no name of a machine, and no path."""
    machine = run["machine_info"]
    assert {"cpu", "cores", "torch_threads", "versions", "size", "seed"} <= set(machine)
    assert re.fullmatch("[0-9a-f]{40}", run["commit_info"]["id"])
    assert "node" not in machine
    assert not re.search(r'"(/[\w.-]+){2,}', json.dumps(run))


def test_every_table_has_a_control() -> None:
    """A figure alone says nothing; how often a sentence comes again is a count of the data."""
    made = report.pages(RUN, OTHERS)
    found = {name for name, text in made.items() if "(control)" not in text}
    assert found == {"conditions", "repetitions", *(f"{machine}_conditions" for machine in OTHERS)}


def test_medians_come_from_the_samples() -> None:
    """Every sample of a round is in the JSON, and the median is theirs."""
    for run in (RUN, *OTHERS.values()):
        for info in quoted.of(run, "test_encode"):
            for arm in info["arms"].values():
                assert len(arm["seconds"]) == info["rounds"]
                assert arm["median_seconds"] == pytest.approx(statistics.median(arm["seconds"]))


# Modules of the benchmarks with examples in their docstrings.
EXAMPLES = (
    *("arms", "habit_tables", "habits", "incident", "limit", "paired", "ranking"),
    *("search_tables", "tables"),
)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    """The examples in the docstrings of the benchmarks hold."""
    results = doctest.testmod(importlib.import_module(name))
    assert (results.failed, results.attempted > 0) == (0, True)
