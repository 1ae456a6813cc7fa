"""Rooms stay small: the length of modules and functions, and which tests look inside."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
MOST_MODULE_LINES = 350
MOST_FUNCTION_LINES = 40
# Unit tests of a room that reach behind its names; ruff's SLF001 holds all others to them.
MOST_TESTS_THAT_LOOK_INSIDE = 6


def function_lines(tree: ast.AST) -> dict[str, int]:
    """Name -> lines of each function, without its docstring: what is public is documented."""
    lines = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            count = (node.end_lineno or 0) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                text = node.body[0]
                count -= (text.end_lineno or 0) - text.lineno + 1
            lines[node.name] = count
    return lines


def test_modules_and_functions_are_short() -> None:
    """A module has at most 350 lines, a function at most 40."""
    too_long = {}
    for path in sorted((ROOT / "src").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > MOST_MODULE_LINES:
            too_long[path.name] = lines
        for name, count in function_lines(ast.parse(text)).items():
            if count > MOST_FUNCTION_LINES:
                too_long[f"{path.name}:{name}"] = count
    assert {} == too_long


def test_a_long_function_is_found() -> None:
    """The docstring does not count, the body does."""
    body = '    """One.\n\n    Two.\n    """\n' + "    x = 1\n" * 41
    assert {"f": 42} == function_lines(ast.parse(f"def f():\n{body}"))


def test_few_tests_look_inside() -> None:
    """They are listed one by one in pyproject.toml, with the reason."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    ignores = settings["tool"]["ruff"]["lint"]["per-file-ignores"]
    inside = [files for files, rules in ignores.items() if "SLF001" in rules]
    assert 0 < len(inside) <= MOST_TESTS_THAT_LOOK_INSIDE
    assert all((ROOT / files).is_file() for files in inside)
