"""The import direction: errors <- types <- {text, memory, …} <- upstream <- … <- encoder <- cli."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "safe_embed"
SOURCE = Path(__file__).parent.parent / "src" / PACKAGE

GROUND = frozenset({"errors", "foreign", "types"})
# What stands on the ground beside one another. text and vectors take values, and no room beside
# them; memory measures and decides.
PURE = frozenset({"text", "vectors", "batching", "memory", "ipc", "validation"})
MIDDLE = GROUND | PURE | {"pooling"}
MODEL = MIDDLE | {"upstream"}
CALLS = MODEL | {"inference"}
KEPT = CALLS | {"supervision"}
SERVED = KEPT | {"backends", "backends.process"}
ASKED = SERVED | {
    *("prompts", "options", "waiting", "streaming", "encoding", "compat", "placement", "copying"),
    *("encoder_options", "offline", "search", "chunk_calls"),
}
# What users' own tests need, and what writes and reads a log of one's own process: neither loads a
# model.
MEASURED = frozenset({"errors", "memory"})
EXAMINED = frozenset(
    f"diagnosis.{name}" for name in ("growth", "verdicts", "readings", "containers", "environment")
)
WATCHED = frozenset(f"diagnosis.{name}" for name in ("log_file", "watching"))
ALL = ASKED | {"encoder", "", "policies", "splitters", "packaged_manual"}

# Room -> the rooms it may import besides itself. A module is in the room with the longest name that
# fits; "" is the package's __init__.
ROOMS: dict[str, frozenset[str]] = {
    "errors": frozenset(),
    "foreign": frozenset({"errors"}),
    "types": frozenset({"errors"}),
    **dict.fromkeys(PURE, GROUND),
    "pooling": GROUND | {"vectors"},
    "search": GROUND | {"vectors"},
    "offline": GROUND,
    "upstream": MIDDLE,
    "inference": MODEL,
    "supervision": CALLS,
    "backends": KEPT,
    "backends.process": KEPT | {"backends"},
    "prompts": GROUND | {"validation"},
    "options": SERVED | {"prompts"},
    "waiting": SERVED,
    "streaming": SERVED | {"options", "waiting"},
    "encoding": SERVED | {"options", "waiting", "search"},
    "chunk_calls": SERVED | {"options", "encoding", "search"},
    "placement": SERVED,
    "compat": SERVED | {"prompts", "options", "placement", "waiting"},
    "encoder_options": SERVED | {"prompts", "options", "offline"},
    "copying": SERVED | {"encoder_options"},
    "encoder": ASKED,
    "packaged_manual": frozenset(),
    "policies": GROUND | {"memory"},
    "splitters": GROUND | {"text"},
    "": ASKED | {"encoder", "diagnosis", "diagnosis.watching"},
    "diagnosis": ALL | EXAMINED | WATCHED,
    "diagnosis.growth": frozenset({"errors"}),  # pure
    **dict.fromkeys(EXAMINED - {"diagnosis.growth"}, MEASURED),
    "diagnosis.watching": MEASURED | EXAMINED | WATCHED,
    **dict.fromkeys(WATCHED - {"diagnosis.watching"}, MEASURED | EXAMINED),
    "testing": MEASURED | EXAMINED,
    "pytest_plugin": frozenset({"", "testing", "diagnosis.growth"}),
    "jobs": ALL,
    "integrations": ALL,
    "cli": ALL | EXAMINED | WATCHED | {"diagnosis", "jobs"},
    "__main__": frozenset({"cli"}),
}

# Library -> the room that alone may import it.
SOLE_IMPORTERS = {
    "sentence_transformers": "upstream",
    "transformers": "upstream",
    "tokenizers": "offline",
    "fugashi": "text.taggers",
    "psutil": "memory.sampling",
    "pymannkendall": "diagnosis.growth",
    "scipy": "diagnosis.growth",
    "pyarrow": "jobs.parquet",
}


def read_modules(source: Path) -> dict[str, str]:
    """Module name below the package ("" is its __init__) -> source text."""
    modules = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = path.read_text(encoding="utf-8")
    return modules


def imported_names(module: str, tree: ast.AST, packages: set[str]) -> Iterator[str]:
    """Yield each dotted name that *module* imports, anywhere in it: functions count too."""
    full = f"{PACKAGE}.{module}".rstrip(".")
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=origin, names=names, level=level):
                # `from . import a` in a package starts at the package, in a module at its parent.
                up = level - 1 if module in packages else level
                parts = full.split(".")[: len(full.split(".")) - up] if level else []
                prefix = ".".join([*parts, *([origin] if origin else [])])
                yield from (f"{prefix}.{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Name(id=called) | ast.Attribute(attr=called),
                args=[ast.Constant(value=str(name)), *_],
            ) if called in {"import_module", "__import__"}:
                yield name


def own_module(name: str, modules: dict[str, str]) -> str | None:
    """Map a dotted name to the module of ours that holds it, or None if it is not ours."""
    if name != PACKAGE and not name.startswith(f"{PACKAGE}."):
        return None
    below = name.removeprefix(PACKAGE).removeprefix(".")
    while below and below not in modules:
        below = below.rpartition(".")[0]
    return below


def room_of(module: str) -> str | None:
    """The room with the longest name that fits, or None: a module without a room."""
    rooms = [room for room in ROOMS if module == room or (room and module.startswith(f"{room}."))]
    return max(rooms, key=len, default=None)


def violations(modules: dict[str, str]) -> list[str]:
    """Every import against the arrows, as "importer -> imported"."""
    packages = {""} | {name.rpartition(".")[0] for name in modules if "." in name}
    found = [f"{name} has no room" for name in modules if room_of(name) is None]
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for module, text in modules.items():
        room = room_of(module)
        for name in imported_names(module, ast.parse(text), packages):
            target = own_module(name, modules)
            if target is None:
                sole = SOLE_IMPORTERS.get(name.split(".")[0], module)
                allowed = module == sole or module.startswith(f"{sole}.")
            else:
                graph[module] |= {target} - {module}
                allowed = room is None or room_of(target) in ROOMS[room] | {room}
            if not allowed:
                found.append(f"{module or PACKAGE} -> {name}")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append("cycle: " + " -> ".join(error.args[1]))
    return found


PLANTED = (
    *("text.a", "text.b", "text.morphemes", "memory.a", "upstream.a", "offline.a", "inference.a"),
    *("supervision.a", "backends.a", "backends.process.b", "integrations.a"),
)


def test_the_package_keeps_its_arrows() -> None:
    """No module of safe_embed imports against the arrows, at its top or inside a function."""
    modules = read_modules(SOURCE)
    assert {"", "errors", "types", "text.graphemes"} <= set(modules)
    assert [] == violations(modules)


@pytest.mark.parametrize(
    ("module", "line", "expected"),
    [
        ("errors", "import safe_embed.types", "errors -> safe_embed.types"),
        ("types", "from safe_embed import text", "types -> safe_embed.text"),
        ("text.a", "from safe_embed.vectors import mean", "text.a -> safe_embed.vectors.mean"),
        ("text.a", "from ..vectors import mean", "text.a -> safe_embed.vectors.mean"),
        ("text", "from .. import memory", "text -> safe_embed.memory"),
        (
            "text.a",
            "def f():\n    from safe_embed import upstream",
            "text.a -> safe_embed.upstream",
        ),
        ("text.a", "from safe_embed import SafeEncoder", "text.a -> safe_embed.SafeEncoder"),
        ("memory.a", "import safe_embed.ipc", "memory.a -> safe_embed.ipc"),
        ("upstream.a", "import safe_embed.offline", "upstream.a -> safe_embed.offline"),
        ("offline", "import safe_embed.upstream", "offline -> safe_embed.upstream"),
        ("inference.a", "from safe_embed import backends", "inference.a -> safe_embed.backends"),
        (
            "supervision.a",
            "import safe_embed.backends.calls",
            "supervision.a -> safe_embed.backends.calls",
        ),
        (
            "backends.a",
            "import safe_embed.backends.process.b",
            "backends.a -> safe_embed.backends.process.b",
        ),
        ("encoder", "import safe_embed.cli", "encoder -> safe_embed.cli"),
        ("jobs", "import safe_embed.cli", "jobs -> safe_embed.cli"),
        ("jobs", "import pyarrow.parquet", "jobs -> pyarrow.parquet"),
        ("encoder", "import safe_embed.jobs", "encoder -> safe_embed.jobs"),
        ("encoder", "import safe_embed.integrations", "encoder -> safe_embed.integrations"),
        ("integrations.a", "import safe_embed.jobs", "integrations.a -> safe_embed.jobs"),
        ("", "from .cli import main", "safe_embed -> safe_embed.cli.main"),
        (
            "diagnosis.growth",
            "from safe_embed import memory",
            "diagnosis.growth -> safe_embed.memory",
        ),
        ("diagnosis", "import scipy.stats", "diagnosis -> scipy.stats"),
        (
            "diagnosis.watching",
            "import safe_embed.upstream",
            "diagnosis.watching -> safe_embed.upstream",
        ),
        ("testing", "import safe_embed.encoder", "testing -> safe_embed.encoder"),
        ("pytest_plugin", "import safe_embed.memory", "pytest_plugin -> safe_embed.memory"),
        (
            "cli",
            "def f():\n    from sentence_transformers import util",
            "cli -> sentence_transformers.util",
        ),
        ("cli", "importlib.import_module('fugashi')", "cli -> fugashi"),
        ("inference.a", "import transformers", "inference.a -> transformers"),
    ],
)
def test_a_planted_violation_is_found(module: str, line: str, expected: str) -> None:
    """Each forbidden import, planted alone into an innocent package, is the one thing reported."""
    modules = dict.fromkeys([*ROOMS, *PLANTED], "")
    assert [] == violations(modules)
    assert [expected] == violations({**modules, module: line})


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("text.a", "from safe_embed.errors import ConfigError"),
        ("text.a", "from . import b"),
        ("backends.a", "from safe_embed.supervision import a"),
        ("backends.process.b", "from safe_embed.backends import a"),
        ("upstream.a", "def f():\n    from sentence_transformers import SentenceTransformer"),
        ("text.taggers", "import fugashi"),
        ("offline.a", "from tokenizers import Tokenizer"),
        ("diagnosis", "from safe_embed.diagnosis.growth import judge"),
        ("cli", "from safe_embed import SafeEncoder, offline"),
        ("", "from safe_embed.encoder import SafeEncoder"),
    ],
)
def test_what_the_arrows_allow_is_not_reported(module: str, line: str) -> None:
    """The imports that the design asks for pass."""
    modules = dict.fromkeys([*ROOMS, *PLANTED], "")
    assert [] == violations({**modules, module: line})


def test_a_cycle_inside_a_room_is_found() -> None:
    """Two modules of one room that import each other are a cycle, even from inside a function."""
    modules = {
        "text": "",
        "text.a": "from safe_embed.text.b import x",
        "text.b": "def f():\n    from safe_embed.text import a",
    }
    (found,) = violations(modules)
    assert found in {"cycle: text.a -> text.b -> text.a", "cycle: text.b -> text.a -> text.b"}


def test_a_module_without_a_room_is_found() -> None:
    """A new module must be given its place in the table."""
    assert ["utils has no room"] == violations({"": "", "utils": ""})
