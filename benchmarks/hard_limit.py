"""Calls that lose memory, in a control group that allows little: no kill, and the peak.

A model loses memory with every call: natively in a process of its own, or with the model on a
thread of this one. Busy loops take the processor from the loads. tests/test_hard_limit.py runs a
small part of it; `make hard-limit` runs all, and leaves a record.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import run_record

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

MIB = 2**20
MODES = ("none", "process")
# What the record of `make hard-limit` covers.
ROOMS = ("backends", "ipc", "memory", "supervision")
# Control groups of version 1 and 2: folder, file of the limit, of the highest use, of kills.
_GROUPS = (
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes", "oom_control"),
    ("/sys/fs/cgroup", "memory.max", "memory.peak", "events"),
)
_COLUMNS = (
    *("isolation", "lost_mib", "calls", "limit", "room_mib", "kills", "wrong", "peak_mib"),
    *("growth_mib", "most_growth_allowed_mib", "reloads", "waited", "seconds"),
)


@contextmanager
def control_group(name: str) -> Iterator[Path | None]:
    """Make a control group for memory; give None where none may be made."""
    for root, limit, *_ in _GROUPS:
        path = Path(root, f"safe_embed-hard-limit-{os.getpid()}-{name}")
        try:
            path.mkdir()
        except OSError:
            continue
        try:
            if (path / limit).exists():
                yield path
                return
        finally:
            _remove(path)
    yield None


def _remove(path: Path) -> None:
    """Remove a control group, once its processes are gone."""
    for _ in range(3000):
        try:
            path.rmdir()
        except OSError:
            time.sleep(0.01)
        else:
            return


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Keep the processors busy."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


class Watched:
    """The memory limit of an experiment: of a control group, or RLIMIT_AS of a process.

    Args:
        group: The folder of the group; ``None`` for RLIMIT_AS.
    """

    def __init__(self, group: Path | None) -> None:
        if group is not None:  # before anything is imported that shall count
            try:
                (group / "cgroup.procs").write_text("0")
            except OSError:  # a group may be made and not joined, as in some containers
                group = None
        self._group = group
        names = [names for names in _GROUPS if group is not None and Path(names[0]) == group.parent]
        self._names = names[0] if names else None
        self.kind = "RLIMIT_AS" if group is None else "cgroup"

    def used_bytes(self, pid: int) -> int:
        """What counts against the limit: without page cache, or the size of the process."""
        from safe_embed.memory.limits import parse_stat
        from safe_embed.memory.sampling import parse_status

        if self._group is None:
            return parse_status(Path(f"/proc/{pid}/status").read_text())["VmSize"]
        stat = parse_stat((self._group / "memory.stat").read_text())
        return stat.get("total_rss") or stat["anon"]

    def allow(self, room_bytes: int, pid: int) -> None:
        """Set the limit to what is used now, and so much more."""
        limit = self.used_bytes(pid) + room_bytes
        if self._group is None or self._names is None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            resource.prlimit(pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        else:
            (self._group / self._names[1]).write_text(str(limit))

    def kills(self) -> int:
        """How many processes the system has killed for memory."""
        if self._group is None or self._names is None:
            return 0
        text = (self._group / f"memory.{self._names[3]}").read_text()
        return sum(int(line.split()[1]) for line in text.splitlines() if "oom_kill " in line)


def lose(isolation: str, lost_mib: int, calls: int, room_mib: int) -> dict[str, Any]:
    """Make the calls; give what came of them. The whole life of a process of its own."""
    group = os.environ.get("HARD_LIMIT_GROUP")
    limit = Watched(Path(group) if group else None)

    import models
    import process_models
    from safe_embed import SafeEncoder
    from safe_embed.memory import Rung

    with tempfile.TemporaryDirectory() as folder:
        models.small().save(folder)
        kind = process_models.leaking if isolation == "process" else process_models.hoarding
        loader, events = partial(kind, folder, lost_mib * MIB), list[Any]()
        options: Any = {"isolation": isolation}
        with SafeEncoder(loader, **options) as encoder:  # says how much a loaded model needs
            workers = encoder.stats.workers
            limit.allow(room_mib * MIB, workers[0].pid if workers else os.getpid())
        # A limit that is set under a running process may be noticed a second late.
        with SafeEncoder(loader, **options, hooks=[events.append]) as encoder:
            expected = encoder.encode(process_models.POISON)
            peak = growth = wrong = 0
            most_wait, began = 0.0, time.monotonic()
            for _ in range(calls):
                started = time.monotonic()
                wrong += bool((encoder.encode(process_models.POISON) != expected).any())
                most_wait = max(most_wait, time.monotonic() - started)
                stats = encoder.stats
                [pid] = [worker.pid for worker in stats.workers] or [os.getpid()]
                if Path(f"/proc/{pid}").exists():
                    peak = max(peak, limit.used_bytes(pid))
                if stats.baseline is not None:
                    held, base = stats.sample.held_bytes or 0, stats.baseline.held_bytes or 0
                    growth = max(growth, held - base)
            seconds = time.monotonic() - began
    told = Counter(event.kind for event in events)
    return {
        "isolation": isolation,
        "lost_mib": lost_mib,
        "calls": calls,
        "limit": limit.kind,
        "room_mib": room_mib,
        "kills": limit.kills() + told["died"],
        "wrong": wrong,
        "peak_mib": peak // MIB,
        "growth_mib": growth // MIB,
        "most_growth_allowed_mib": 450 + lost_mib,
        "reloads": sum(event.kind == "remedy" and event.rung >= Rung.MODEL for event in events),
        "waited": round(most_wait, 1),
        "seconds": round(seconds, 1),
    }


def apart(isolation: str, lost_mib: int, calls: int, room_mib: int) -> dict[str, Any]:
    """Make the calls in a process of its own, in a control group where there may be one."""
    options = [f"--{name}={value}" for name, value in (("calls", calls), ("room-mib", room_mib))]
    with control_group(f"{isolation}-{lost_mib}") as group:
        done = subprocess.run(
            [
                sys.executable,
                __file__,
                "--inside",
                isolation,
                "--lost-mib",
                str(lost_mib),
                *options,
            ],
            env={**os.environ, "HARD_LIMIT_GROUP": str(group or "")},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode:
        return {"isolation": isolation, "lost_mib": lost_mib, "kills": f"exit {done.returncode}"}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def faults_in(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Name what was not kept: a process was killed, a vector wrong, the growth too much."""
    faults: list[str] = []
    for row in rows:
        name = f"{row['isolation']}, {row['lost_mib']} MiB a call"
        if row["kills"]:
            faults.append(f"{name}: killed ({row['kills']})")
        if row.get("wrong"):
            faults.append(f"{name}: {row['wrong']} wrong")
        if row.get("growth_mib", 0) > row.get("most_growth_allowed_mib", 0):
            faults.append(f"{name}: grew by {row['growth_mib']} MiB")
    return faults


def main() -> None:
    """Run what is asked for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--lost-mib", type=int, nargs="+", default=[1, 10, 50])
    parser.add_argument("--isolation", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--room-mib", type=int, default=1000)
    parser.add_argument("--busy", type=int, default=8)
    parser.add_argument("--at-once", type=int, default=6, help="how many rows run at the same time")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each row")
    parser.add_argument("--record", action="store_true", help="leave a record in results/")
    parser.add_argument("--inside", choices=MODES)
    given = parser.parse_args()
    if given.inside:
        print(json.dumps(lose(given.inside, given.lost_mib[0], given.calls, given.room_mib)))
        return
    if not given.json:
        print("| " + " | ".join(_COLUMNS) + " |\n" + "| --- " * len(_COLUMNS) + "|")
    rows: list[dict[str, Any]] = []
    began = time.monotonic()
    cases = list(product(given.isolation, given.lost_mib))
    with busy_loops(given.busy), ThreadPoolExecutor(given.at_once) as threads:
        for row in threads.map(lambda case: apart(*case, given.calls, given.room_mib), cases):
            rows.append(row)
            cells = " | ".join(str(row.get(name, "")) for name in _COLUMNS)
            print(json.dumps(row) if given.json else f"| {cells} |", flush=True)
    broken = faults_in(rows)
    if given.record:
        figures = {"busy loops": given.busy, "rows at once": given.at_once}
        figures |= {"rows": rows, "broken": broken}
        run_record.write("hard_limit", ROOMS, time.monotonic() - began, figures)
    sys.exit("\n".join(broken) or 0)


if __name__ == "__main__":
    main()
