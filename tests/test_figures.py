"""The pages with figures are what benchmarks/report.py makes of the run that is published."""

from __future__ import annotations

import doctest
import importlib
import json
import re
import statistics
from pathlib import Path

import pytest

import report
from safe_embed.demo import read_manual

RUN = json.loads(report.PUBLISHED.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", report.TABLES)
def test_tables_are_of_the_published_run(name: str) -> None:
    """Each committed table is made of the committed JSON."""
    page = (report.FIGURES / f"{name}.md").read_text(encoding="utf-8")
    assert report.TABLES[name](RUN) + "\n" == page


def test_pictures_are_of_the_published_run(tmp_path: Path) -> None:
    """Each committed picture is made of the committed JSON."""
    report.pictures(RUN, tmp_path)
    report.causes(RUN, tmp_path)
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert drawn == {
        path.name: path.read_text(encoding="utf-8") for path in report.FIGURES.glob("*.svg")
    }


def test_pages_quote_the_published_run() -> None:
    """What pages quote in their sentences is picked from the committed JSON."""
    committed = json.loads(report.QUOTED.read_text(encoding="utf-8"))
    assert report.quoted(RUN) == committed
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
    assert report.readme(text, RUN, language) == text


@pytest.mark.parametrize("language", ["en", "ja"])
def test_only_what_stands_between_the_markers_is_replaced(language: str) -> None:
    """What stands before and behind the markers stays; a smoke run replaces nothing."""
    text = f"before\n{report.BEGIN}\nold\n{report.END}\nbehind\n"
    machine = RUN["machine_info"]
    smoke = RUN | {"machine_info": machine | {"size": "smoke"}}
    normal = RUN | {"machine_info": machine | {"size": "normal"}}
    assert report.readme(text, smoke, language) == text
    before, inner, behind = re.split(
        f"{re.escape(report.BEGIN)}|{re.escape(report.END)}", report.readme(text, normal, language)
    )
    assert (before, behind) == ("before\n", "\nbehind\n")
    assert inner.count("\n|") == 2 + len(report.README_ROWS)
    assert "old" not in inner


def test_the_run_says_what_its_figures_depend_on() -> None:
    """Commit, versions, processor, seed and size are there; no name of a machine, and no path."""
    machine = RUN["machine_info"]
    assert {"cpu", "cores", "torch_threads", "versions", "size", "seed"} <= set(machine)
    assert re.fullmatch("[0-9a-f]{40}", RUN["commit_info"]["id"])
    assert "node" not in machine
    assert not re.search(r'"(/[\w.-]+){2,}', json.dumps(RUN))


def test_every_table_has_a_control() -> None:
    """A figure alone says nothing."""
    tables = set(report.TABLES) - {"conditions"}
    without = {name for name in tables if "(control)" not in report.TABLES[name](RUN)}
    assert without == set()


def test_medians_come_from_the_samples() -> None:
    """Every sample of a round is in the JSON, and the median is theirs."""
    for info in report.of(RUN, "test_encode"):
        for arm in info["arms"].values():
            assert len(arm["seconds"]) == info["rounds"]
            assert arm["median_seconds"] == pytest.approx(statistics.median(arm["seconds"]))


@pytest.mark.parametrize("name", ["arms", "incident", "limit", "ranking", "report"])
def test_examples(name: str) -> None:
    """The examples in the docstrings of the benchmarks hold."""
    results = doctest.testmod(importlib.import_module(name))
    assert (results.failed, results.attempted > 0) == (0, True)
