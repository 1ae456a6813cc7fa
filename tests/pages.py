"""The pages of the documentation and the programs in them: read and run by tests and examples."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parents[1] / "docs"
# Not what is built, nor what pages include.
PAGES = [
    path for path in sorted(DOCS.rglob("*.md")) if "/_" not in path.as_posix()[len(str(DOCS)) :]
]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# What pages take for granted, as their readers do.
GIVEN = """from safe_embed import SafeEncoder

documents = ["短い文です。", "長い文書です。" * 120]
"""
# Pages whose programs need libraries that only `make examples` installs: run by
# examples/test_stores.py and examples/test_adapters.py.
IN_EXAMPLES = {"frameworks", "long_documents", "recipes/stores"}


def fences(page: Path, language: str) -> list[str]:
    """Find the blocks of a language in a page."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [code for name, code in found if name == language]


def name(page: Path) -> str:
    """Name a page as Sphinx does."""
    return page.relative_to(DOCS).with_suffix("").as_posix()


def program(page: Path) -> str:
    """Put the Python blocks of a page together."""
    return "\n\n".join(fences(page, "python"))


def twin(page: Path) -> Path:
    """Find the English page of the same name."""
    return DOCS / page.relative_to(DOCS / "ja")


def is_copy(page: Path) -> bool:
    """Tell whether a Japanese page has the very program of the English page."""
    if (DOCS / "ja") not in page.parents or not twin(page).is_file():
        return False
    return _without_words(program(page)) == _without_words(program(twin(page)))


def run(page: Path, folder: Path, model: str, given: str = GIVEN) -> ModuleType:
    """Run a page as a module of its own, on a model and processors that are here.

    Long texts are shorter, but still longer than the model reads.

    Args:
        page: The page.
        folder: Where the module is written.
        model: The model in place of the one that the page names.
        given: Lines before the program of the page.

    Returns:
        The module.
    """
    code = program(page).replace("cl-nagoya/ruri-v3-30m", model)
    code = re.sub(r"cuda:\d", "cpu", code).replace("workers=2", "workers=1")
    if int(version("transformers").partition(".")[0]) < 5:
        code = code.replace('{"dtype":', '{"torch_dtype":')  # as the page says
    code = re.sub(r'"長い文書です。" \* \d+', '"長い文書です。" * 120', code)
    path = folder / f"page_{name(page).replace('/', '_').replace('-', '_')}.py"
    path.write_text(given + code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _without_words(code: str) -> str:
    """Leave of a program what is no comment."""
    return ast.dump(ast.parse(code))
