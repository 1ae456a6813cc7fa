"""The documentation: every example runs, every name is in the reference, every link leads somewhere."""

from __future__ import annotations

import asyncio
import configparser
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import safe_embed
from models import saved
from pages import DOCS, IN_EXAMPLES, PAGES, fences, is_copy, name, run, twin
from safe_embed import SafeEncoder, errors
from safe_embed.diagnosis import read_log
from safe_embed.memory import policies
from safe_embed.testing import assert_flat_memory

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")

# Pages that show how an encoder is made, again and again: a small model will do. All others run on
# the offline one.
MAKING = {
    *("doctor", "index", "incident", "ja/splitting", "memory", "processes"),
    *("recipes/macos", "recipes/modes", "reference/differences"),
}
WITH_PYTHON = [page for page in PAGES if fences(page, "python")]
RUN_HERE = [
    page
    for page in WITH_PYTHON
    if name(page).removeprefix("ja/") not in IN_EXAMPLES and not is_copy(page)
]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SafeEncoder]]:
    """All encoders that an example makes; closed in the end, whatever the example does."""
    made: list[SafeEncoder] = []
    init = SafeEncoder.__init__

    def noted(self: SafeEncoder, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(SafeEncoder, "__init__", noted)
    yield made
    for encoder in made:
        encoder.close()


def _server(module: ModuleType, folder: Path) -> None:
    from fastapi.testclient import TestClient

    with TestClient(module.app) as client:
        documents = client.post("/documents", json={"texts": ["長い文書です。" * 120, "短い文。"]})
        assert (2, 384) == np.shape(documents.json())
        assert (1, 384) == np.shape(client.post("/queries", json={"texts": ["何ですか"]}).json())
        assert [] == client.post("/queries", json={"texts": []}).json()
        assert {"held_bytes", "room_bytes", "reloads"} == set(client.get("/memory").json())
        refused = client.post(
            "/queries",
            content=json.dumps({"texts": ["よい文。", "\ud800"]}).encode(),
            headers={"content-type": "application/json"},
        )
        assert (422, 1) == (refused.status_code, refused.json().get("index"))


def _asyncio(module: ModuleType, folder: Path) -> None:
    with SafeEncoder("offline") as encoder:
        vector = asyncio.run(module.within(encoder, "短い文です。", 60.0))
        assert 384 == len(vector)
        assert asyncio.run(module.within(encoder, "長い文書です。" * 2000, 0.01)) is None


def _batch(module: ModuleType, folder: Path) -> None:
    source, target = folder / "texts.jsonl", folder / "rows.f32"
    lines = [json.dumps({"text": f"{number}番の文です。"}) for number in range(7)]
    source.write_text("\n".join(lines[:4]) + "\n", encoding="utf-8")
    assert 4 == module.embed(source, target, "offline")
    with target.open("ab") as rows:
        rows.write(b"broken off")
    source.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert 7 == module.embed(source, target, "offline")
    rows = np.memmap(target, np.float32).reshape(-1, 384)
    with SafeEncoder("offline") as encoder:
        expected = encoder.encode_document([json.loads(line)["text"] for line in lines])
    np.testing.assert_allclose(rows, expected, atol=1e-5)


def _guard(module: ModuleType, folder: Path) -> None:
    module.test_the_encoder_does_not_grow()


def _watch(module: ModuleType, folder: Path) -> None:
    module.serve(["短い文です。"] * 3, folder / "memory.jsonl")
    assert 3 == read_log(folder / "memory.jsonl").readings[-1].calls
    module.tell(folder / "memory.jsonl")
    module.test_splitting_keeps_memory_flat(assert_flat_memory)


def _prometheus(module: ModuleType, folder: Path) -> None:
    from prometheus_client import REGISTRY

    module.encoder.reload("a test")
    labels = {"rung": "MODEL", "kind": "remedy"}
    assert 1.0 == REGISTRY.get_sample_value("safe_embed_events_total", labels)
    assert 0 < (REGISTRY.get_sample_value("safe_embed_held_bytes") or 0)


def _errors(module: ModuleType, folder: Path) -> None:
    with SafeEncoder("offline") as encoder:
        assert 2 == len(module.encode_what_can_be(encoder, ["一つ。", "二つ。"]))
    with pytest.raises(errors.WorkerError):
        module.encode_what_can_be(encoder, ["一つ。"])


# What is done with a page's program once it has run.
USES = {
    "recipes/server": _server,
    "recipes/asyncio": _asyncio,
    "recipes/batch": _batch,
    "recipes/guard": _guard,
    "recipes/watch": _watch,
    "recipes/prometheus": _prometheus,
    "reference/errors": _errors,
}


@pytest.mark.model
@pytest.mark.usefixtures("forked_workers")
@pytest.mark.parametrize("page", RUN_HERE, ids=name)
def test_the_examples_of_a_page_run(
    page: Path, opened: list[SafeEncoder], tmp_path: Path, offline_model_path: Path
) -> None:
    """The Python blocks of a page, one after the other, are a program that runs."""
    making = name(page) in MAKING
    module = run(page, tmp_path, str(saved("small", offline_model_path)) if making else "offline")
    if name(page) in USES:
        USES[name(page)](module, tmp_path)


@pytest.mark.parametrize("page", sorted((DOCS / "ja" / "recipes").glob("*.md")), ids=name)
def test_a_japanese_recipe_has_the_program_of_the_english_one(page: Path) -> None:
    """Only comments and words differ, so that running one of them proves both."""
    assert is_copy(page)
    for language in ("yaml", "ini", "dockerfile"):
        assert fences(twin(page), language) == fences(page, language)


def test_no_page_takes_a_name_of_sphinx() -> None:
    """Sphinx writes its own page over one of that name, and says nothing."""
    assert set() == {name(page) for page in PAGES} & {"search", "genindex", "py-modindex"}


def test_each_recipe_stands_in_both_languages() -> None:
    """Start, Why and Recipes are complete in English and in Japanese."""
    pages = {name(page) for page in PAGES}
    wanted = {"index", "start", "truncation", "splitting", "growth", "doctor", "incident"}
    wanted |= {"ranking", "habits", "long_documents", "encode_files", "frameworks"}
    wanted |= {page for page in pages if page.startswith("recipes/")}
    assert set() == {page for page in wanted if f"ja/{page}" not in pages}
    assert set() == {page for page in wanted if page not in pages}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_that_is_english_only_has_a_japanese_summary(page: Path) -> None:
    """Whatever has no translation says in Japanese what it holds."""
    if (DOCS / "ja") in page.parents or (DOCS / "ja" / page.relative_to(DOCS)).is_file():
        return
    text = page.read_text(encoding="utf-8")
    summarised = (DOCS / "ja" / "summaries" / "decisions.md").read_text(encoding="utf-8")
    assert "日本語" in text or f"../{name(page)}.md" in summarised


def test_the_configuration_files_of_recipes_are_well_formed() -> None:
    """YAML and unit files can be read, and name what the text says they name."""
    import yaml

    (manifest,) = fences(DOCS / "recipes" / "containers.md", "yaml")
    (container,) = yaml.safe_load(manifest)["spec"]["template"]["spec"]["containers"]
    assert "/memory" == container["readinessProbe"]["httpGet"]["path"]
    (unit,) = fences(DOCS / "recipes" / "systemd.md", "ini")
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string(unit)
    assert ["Unit", "Service", "Install"] == parser.sections()


def test_the_commands_of_the_reference_print_what_it_says() -> None:
    """Each ``printf … | safe-embed split`` gives the lines below it."""
    shown: list[tuple[str, list[str]]] = []
    for block in fences(DOCS / "reference" / "command-line.md", "console"):
        for line in block.splitlines():
            if line.startswith("$ "):
                shown.append((line[2:], []))
            else:
                shown[-1][1].append(line)
    checked = 0
    for command, lines in shown:
        if match := re.fullmatch(r"printf '(.*)' \| safe-embed (split.*)", command):
            text, arguments = match.groups()
            done = subprocess.run(
                [
                    sys.executable,
                    "-c",
                    "from safe_embed.cli.app import main; main()",
                    *arguments.split(),
                ],
                input=text,
                capture_output=True,
                text=True,
                check=True,
            )
            assert lines == done.stdout.splitlines()
            checked += 1
    assert 2 == checked


def described() -> set[str]:
    """Collect the names that the reference describes."""
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    names = re.findall(
        r"^\.\. (?:auto)?(?:class|function|exception):: ([\w.]+)", text, re.MULTILINE
    )
    return {one.rpartition(".")[2] for one in names}


def test_nothing_public_is_missing_from_the_reference() -> None:
    """Each name of ``__all__``, each error and each policy stands in the reference."""
    of_errors = {one for one, value in vars(errors).items() if inspect.isclass(value)}
    of_policies = {
        one
        for one, value in vars(policies).items()
        if inspect.isclass(value) and value.__module__ == policies.__name__
    }
    public = {*safe_embed.__all__, *of_errors, *of_policies}
    missing = {one for one in public - described() if not one.startswith("_")} - {"Any", "Sequence"}
    assert set() == missing


def test_everything_public_has_a_docstring() -> None:
    """Each name of ``__all__``, and each public member of it."""
    bare = []
    for one in safe_embed.__all__:
        value = getattr(safe_embed, one)
        members = vars(value) if inspect.isclass(value) else {}
        if not inspect.getdoc(value):
            bare.append(one)
        for member, held in members.items():
            if member.startswith("_") or not (callable(held) or isinstance(held, property)):
                continue
            if not inspect.getdoc(held):
                bare.append(f"{one}.{member}")
    assert [] == bare


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")), ids=lambda path: path.name)
def test_links_of_the_pages_beside_the_code_lead_somewhere(path: Path) -> None:
    """READMEs and their like are not built by Sphinx; their files and headings are there."""
    text = path.read_text(encoding="utf-8")
    lost = []
    for link in LINK.findall(text):
        if re.match(r"https?:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file) if file else path
        if not target.exists() or (anchor and anchor not in headings(target)):
            lost.append(link)
    assert [] == lost


def headings(page: Path) -> set[str]:
    """Anchors of a page as GitHub makes them."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("path", [*sorted(ROOT.glob("*.md")), *PAGES], ids=lambda path: path.name)
def test_each_picture_has_a_text_and_a_file(path: Path) -> None:
    """Those who cannot see it read what it shows."""
    text = path.read_text(encoding="utf-8")
    for words, link in re.findall(r"!\[(.*?)\]\(([^)]*)\)", text, re.DOTALL):
        assert words.strip()
        assert (path.parent / link).is_file()


def test_the_pictures_are_those_of_the_measured_table() -> None:
    """``python docs/_pictures/draw.py`` would change nothing."""
    draw = load("_pictures/draw.py")
    drawn = draw.pictures()
    assert drawn
    for path, svg in drawn.items():
        assert svg == path.read_text(encoding="utf-8")
    for picture in json.loads((DOCS / "_pictures/measured.json").read_text("utf-8")).values():
        assert picture["source"]


def load(path: str) -> ModuleType:
    """Load a script of the documentation."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, DOCS / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_page_leads_to_its_translation_or_to_the_start() -> None:
    """The named page first, then the one of the same name, then the start page."""
    find = load("_sphinx/languages.py").other_language
    pages = {"index", "start", "api", "ja/index", "ja/start", "ja/summary"}
    assert "ja/start" == find("start", None, pages)
    assert "start" == find("ja/start", None, pages)
    assert "ja/summary" == find("api", "ja/summary", pages)
    assert "ja/index" == find("api", None, pages)
    assert "index" == find("ja/summary", None, pages)


def test_the_sidebar_holds_one_language() -> None:
    """Captions with Japanese characters belong to Japanese pages."""
    keep = load("_sphinx/languages.py").one_language
    english = '<p class="caption">Why</p><ul>a</ul>'
    japanese = '<p class="caption">わけ</p><ul>b</ul>'
    assert english == keep(english + japanese, japanese=False)
    assert japanese == keep(english + japanese, japanese=True)


def test_the_look_at_the_pages_finds_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing files and anchors, a wrong language and a page that scrolls sideways are told."""
    monkeypatch.syspath_prepend(DOCS / "_browser")
    check = load("_browser/check.py")
    (tmp_path / "a.html").touch()
    base = "http://127.0.0.1:1/"
    links = [f"{base}a.html#there", f"{base}a.html#gone", f"{base}b.html", "https://example.org/"]
    look = {"lang": "ja", "scroll": 5, "wide": ["TABLE."], "missing": [], "nameless": ["x.png"]}
    look |= {"lonely": [], "top": 844, "links": links, "ids": ["there"]}
    assert [
        "a.html (narrow): nameless: x.png",
        "a.html (narrow): scrolls sideways by 5 px: TABLE.",
        "a.html (narrow): begins only after 844 px",
        "a.html (narrow): lang is 'ja'",
    ] == check.complaints("a.html", look, "narrow")
    assert ["a.html: no anchor a.html#gone", "a.html: no file b.html"] == check.broken_links(
        {"a.html": look}, base, tmp_path
    )


def test_without_a_browser_the_look_says_what_to_install(tmp_path: Path) -> None:
    """``make docs-check`` fails then, and helps."""
    done = subprocess.run(
        [sys.executable, str(DOCS / "_browser" / "check.py")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 2 == done.returncode
    assert "apt-get install" in done.stderr
