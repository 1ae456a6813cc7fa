"""What a worker process imports, and from where: nothing that its parent would not.

Modules with names of the standard library's are planted where no worker may look; each notes that
it was imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

import models
import safe_embed
from safe_embed.ipc.surroundings import Surroundings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="worker processes need POSIX")

SOURCES = str(Path(safe_embed.__file__).parents[1])
USER_SITE = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
NAMES = (
    *("json", "socket", "struct", "signal", "queue", "ctypes", "pickle", "logging", "readline"),
    *("sitecustomize", "usercustomize", "numpy", "safe_embed", "encodings/__init__"),
)
# One line, so that it may stand in a .pth file too.
PLANTED = (
    "import posix; posix.write(posix.open({marks!r}, posix.O_WRONLY | posix.O_CREAT |"
    " posix.O_APPEND), b'{name}\\n')\n"
)
# A loader that does not load: what it sees is enough, and torch is not needed for it.
LOOKER = """
import json, os, sys
def note(who):
    names = ("isolated", "ignore_environment", "no_user_site", "optimize", "no_site", "utf8_mode")
    flags = {name: getattr(sys.flags, name) for name in names}
    path = [entry for entry in sys.path if isinstance(entry, str)]
    found = {"path": path, "environ": dict(os.environ), "flags": flags, "options": sys._xoptions}
    with open(os.environ["NOTES"] + who, "w") as file:
        json.dump(found, file)
def look():
    note("worker")
    raise LookupError("seen")
"""
USE = """
import os, sys
from pathlib import Path
{before}
from safe_embed import SafeEncoder
import looker
try:
    SafeEncoder(looker.look, isolation="process")
except LookupError:
    looker.note("parent")
"""
IN_TRAP = "os.chdir('../trap')"
NO_FOLDERS = r"[Path('.'), b'.', None, 7, 'ä', '\udcff', '\0', '\ud800']"
ON_PATH = "sys.path[:0] = os.environ['PYTHONPATH'].split(os.pathsep)"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Folders: where a test begins, its script, its modules, and where no worker may look."""
    for name in ("clean/lib", "script", "modules", "trap"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "modules" / "looker.py").write_text(LOOKER)
    plant(tmp_path, "trap")
    plant(tmp_path, "trap/lib")
    return tmp_path


def plant(place: Path, folder: str, *names: str) -> None:
    """Put modules that nobody may import into a folder."""
    for name in names or NAMES:
        path = (place / folder / name).with_suffix(Path(name).suffix or ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(PLANTED.format(marks=str(place / "marks"), name=f"{folder}/{name}"))


def run(place: Path, code: str, by_stdin: bool = False, **options: Any) -> None:
    """Run code, as a script or by standard input, with further variables of its environment."""
    script = place / "script" / "use.py"
    script.write_text(code)
    where, flags = options.pop("where", "clean"), options.pop("flags", ())
    program = options.pop("program", sys.executable)
    path = [*options.pop("path", ()), SOURCES, str(place / "modules")]
    environ = {"PYTHONPATH": os.pathsep.join(path), "NOTES": f"{place}/", **options}
    done = subprocess.run(
        [program, *flags, "-" if by_stdin else str(script)],
        input=code if by_stdin else "",
        capture_output=True,
        text=True,
        cwd=place / where,
        timeout=120,
        check=False,
        env=os.environ | environ,
    )
    marks = place / "marks"
    imported = marks.read_text().split() if marks.exists() else []
    assert ([], 0) == (imported, done.returncode), done.stderr


def noted(place: Path, who: str) -> dict[str, Any]:
    """What the parent or the worker saw."""
    found: dict[str, Any] = json.loads((place / who).read_text())
    found["environ"].pop("TQDM_DISABLE", None)  # a worker draws no bars
    return found


@pytest.mark.parametrize(
    ("options", "before"),
    [
        ({"where": "trap", "PYTHONINSPECT": "1"}, ""),
        ({"where": "trap", "flags": ("-I", "-X", "utf8")}, ON_PATH),
        ({"where": "script", "flags": ("-P", "-E", "-s", "-O")}, ON_PATH),
        ({"path": ("", "/x", "", ".", "lib", "..//clean")}, IN_TRAP),
        ({}, f"{IN_TRAP}; from safe_embed import SafeEncoder; sys.path += {NO_FOLDERS}"),
    ],
    ids=["elsewhere", "isolated", "safe path", "PYTHONPATH", "no folders"],
)
def test_nothing_comes_from_the_working_directory(
    place: Path, options: dict[str, Any], before: str
) -> None:
    """Before the parent's path is laid and after; path, environment and flags are the parent's."""
    if options.get("where") == "script":
        plant(place, "script")
    run(place, USE.format(before=before), **options)
    expected = noted(place, "parent")
    there = [one for one in expected["path"] if one not in {"\0", "\ud800"}]  # in no file system
    expected["path"] = [str(place / "trap" / one) for one in there]
    assert expected == noted(place, "worker")


def test_folders_of_python_itself_stay_the_parents(place: Path) -> None:
    """A relative one means another folder once the parent has changed its working directory."""
    plant(place, f"trap/base/{USER_SITE}", "planted.pth")
    plant(place, f"trap/base/{Path(USER_SITE).parent}")
    (place / "clean" / "base").symlink_to(sys.base_prefix)
    options: dict[str, Any] = {
        "program": sys._base_executable,  # type: ignore[attr-defined] # noqa: SLF001 a venv has no user's folder
        "path": (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")),
        "PYTHONUSERBASE": "base",
        "PYTHONHOME": "base",
    }
    run(place, USE.format(before=IN_TRAP), **options)
    assert noted(place, "parent") == noted(place, "worker")


def test_a_sitecustomize_of_the_parents_is_the_workers_too(place: Path) -> None:
    """It stands in a folder that a relative entry of PYTHONPATH names, as for tracing tools."""
    (place / "clean" / "lib" / "sitecustomize.py").write_text("import os; os.here = os.getcwd()")
    (place / "modules" / "looker.py").write_text(LOOKER.replace('"seen"', "os.here"))
    run(place, USE.format(before="assert os.here"), path=("lib", ""))
    assert noted(place, "parent") == noted(place, "worker")


NOTEBOOK = """
import os, sys
from pathlib import Path
sys.path[1:1] = ["lib", Path("/x"), "."]
from safe_embed import SafeEncoder
from safe_embed.errors import ReloadError
import mine
with SafeEncoder(mine.load, reload=None, isolation="process") as encoder:
    assert (32,) == encoder.encode("雨").shape
    os.chdir("../trap")
    os.environ["NOTES"] += "later-"
    try:
        encoder.reload("test")
    except ReloadError as error:
        assert isinstance(error.__cause__, LookupError), error.__cause__
    os.environ["NOTES"] += "pool-"
    try:
        encoder.start_multi_process_pool(["cpu"])
    except LookupError:
        pass
"""


@pytest.mark.long
def test_a_notebook_finds_its_modules_after_a_change_of_directory(place: Path) -> None:
    """Relative entries mean what they meant when the encoder was made, each in its place."""
    models.small().save(str(place / "model"))
    (place / "clean" / "mine.py").write_text("from helper import load")
    (place / "clean" / "lib" / "helper.py").write_text(
        "import os, looker\ndef load():\n    looker.note('worker')\n"
        "    if os.environ['NOTES'].endswith('-'):\n        raise LookupError('seen')\n"
        "    from sentence_transformers import SentenceTransformer\n"
        f"    return SentenceTransformer({str(place / 'model')!r}, device='cpu')\n"
    )
    plant(place, "trap", "mine", "helper", "looker")
    run(place, NOTEBOOK, by_stdin=True)
    expected = [str(place / "clean"), str(place / "clean" / "lib"), str(place / "clean")]
    for who in ("worker", "later-worker", "later-pool-worker"):
        assert expected == noted(place, who)["path"][:3]


def test_a_mark_of_a_finder_is_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Editable installs put names on the path that only their own finder knows."""

    def hook(entry: str) -> Any:
        if entry != "__editable__.mark":
            raise ImportError
        return object()

    monkeypatch.setattr(sys, "path_hooks", [hook, *sys.path_hooks])
    monkeypatch.setattr(sys, "path", ["__editable__.mark", "app.pyz", "", "/x/../y", "../z"])
    expected = ["__editable__.mark", "/a/app.pyz", "/a", "/x/../y", "/a/../z"]
    assert expected == Surroundings(folder="/a").path()
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    assert ["__editable__.mark", "/x/../y"] == Surroundings().path()  # its folder is gone
