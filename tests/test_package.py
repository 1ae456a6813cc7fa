"""The wheel: what is in it, and that it works where the sources are not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "sentence_transformers", "tokenizers", "fugashi")

# Run by the tests below in a fresh interpreter; each prints one JSON value.
WHERE = "import safe_embed; print(json.dumps(safe_embed.__file__))"
VERSION = "from importlib.metadata import version; print(json.dumps(version('safe-embed')))"
SPLIT = """
from safe_embed.text.punctuation import PunctuationSplitter
print(json.dumps(PunctuationSplitter().split("春が来た。花が咲く。")))
"""
ENTRY_POINT = """
from importlib.metadata import entry_points
(script,) = entry_points(group="console_scripts", name="safe-embed")
print(json.dumps(callable(script.load())))
"""
PYTEST_PLUGIN = """
from importlib.metadata import entry_points
(plugin,) = entry_points(group="pytest11", name="safe_embed")
print(json.dumps(callable(plugin.load().assert_flat_memory)))
"""
LOADED = "import safe_embed; print(json.dumps(sorted(sys.modules)))"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the working tree by the backend itself: no network."""
    folder = tmp_path_factory.mktemp("wheel")
    _run("-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=ROOT)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    options = ("--quiet", "--no-deps", "--no-index", "--target", str(target))
    _run("-m", "pip", "install", *options, str(wheel), cwd=target)
    return target


def test_the_wheel_holds_the_package_its_types_and_the_manual(wheel: Path) -> None:
    """Every module, py.typed, each page of the Japanese manual and the licence; nothing else."""
    package = ROOT / "src" / "safe_embed"
    sources = [path.relative_to(package).as_posix() for path in package.rglob("*.py")]
    manual = [f"manual/{path.name}" for path in (ROOT / "docs" / "ja").glob("*.md")]
    assert manual
    others = ("manual/figures.json", "py.typed")
    expected = {f"safe_embed/{name}" for name in (*sources, *manual, *others)}
    names = set(ZipFile(wheel).namelist())
    assert expected == {name for name in names if ".dist-info/" not in name}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_installed_package_comes_from_the_wheel(installed: Path) -> None:
    """Without the sources on the path, ``import safe_embed`` finds the wheel's files."""
    assert installed / "safe_embed" / "__init__.py" == Path(str(_in_wheel(installed, WHERE)))


def test_the_version_is_that_of_pyproject(installed: Path) -> None:
    """The version stands once, in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == _in_wheel(installed, VERSION)


def test_the_installed_package_splits(installed: Path) -> None:
    """The installed package works, not only its import."""
    assert [[0, 5], [5, 10]] == _in_wheel(installed, SPLIT)


def test_the_console_script_can_be_loaded(installed: Path) -> None:
    """What ``safe-embed`` starts is in the wheel."""
    assert _in_wheel(installed, ENTRY_POINT) is True


def test_the_plugin_of_pytest_can_be_loaded(installed: Path) -> None:
    """What pytest finds by its entry point has the fixture."""
    assert _in_wheel(installed, PYTEST_PLUGIN) is True


def test_import_loads_nothing_heavy(installed: Path) -> None:
    """``import safe_embed`` stays light: the libraries are loaded when they are used."""
    loaded = _in_wheel(installed, LOADED)
    assert isinstance(loaded, list)
    assert "safe_embed" in loaded
    assert [] == [name for name in HEAVY if name in loaded]


def _in_wheel(installed: Path, code: str) -> object:
    # -S: no site, so no .pth file of an editable install; the dependencies come by their folder.
    folders = [str(installed), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    return json.loads(_run("-S", "-c", f"import json, sys\n{code}", cwd=installed, env=env))


def _run(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
