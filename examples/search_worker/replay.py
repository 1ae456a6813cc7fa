"""The incident replayed: a Node parent, a worker with LanceDB, 2,000 requests, nothing restarted.

    python replay.py DOCUMENTS.jsonl [--requests 2000] [--picture replay.svg] [--json replay.json]

The worker on SafeEncoder and the same worker on sentence-transformers alone, one after the other.
Growth is counted from the end of a warm-up, a tenth of the requests, in RssAnon. Needs Node 18 and
Linux.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
WORKERS = {"safe_embed": "worker.py", "sentence-transformers (control)": "raw_worker.py"}
WARM_UP_SHARE = 0.1
MOST_GROWTH_MIB = 32


def replay(script: str, documents: Path, requests: int) -> dict[str, Any]:
    """Let a parent send requests to a worker; give what was seen of it."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        command = [sys.executable, str(FOLDER / script), str(Path(folder) / "table")]
        parent = ["node", str(FOLDER / "parent.mjs"), str(documents), str(requests), str(log)]
        done = subprocess.run([*parent, *command], stdout=subprocess.PIPE, text=True, check=True)
        entries = [json.loads(line) for line in log.read_text().splitlines()]
    warm = entries[int(len(entries) * WARM_UP_SHARE) :]
    mib = [entry["rss_anon_kb"] / 1024 for entry in warm]
    threads = [entry["native_threads"] for entry in warm]
    return {
        "requests": len(entries),
        "growth_mib": round(mib[-1] - mib[0], 1),
        "peak_growth_mib": round(max(mib) - mib[0], 1),
        "threads_after_warm_up": threads[0],
        "threads_at_the_end": threads[-1],
        "chars": sum(entry["chars"] for entry in entries),
        "longest": max(entry["chars"] for entry in entries),
        "seconds_of_requests": round(sum(entry["ms"] for entry in entries) / 1000, 1),
        "stats": json.loads(done.stdout.splitlines()[-1]),
        "curve_mib": [round(entry["rss_anon_kb"] / 1024, 1) for entry in entries],
    }


def draw(seen: dict[str, dict[str, Any]], file: Path) -> None:
    """Draw RssAnon over requests, a line a worker."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, found in seen.items():
        curve = found["curve_mib"]
        axes.plot(range(1, len(curve) + 1), curve, label=f"{name}: {found['growth_mib']:+.0f} MiB")
    axes.set_xlabel("requests: one at a time, then eight at once")
    axes.set_ylabel("RssAnon of the worker, MiB")
    axes.set_ylim(bottom=0)
    axes.legend(title="growth after warm-up")
    figure.savefig(file, metadata={"Date": None, "Creator": None})


def main() -> None:
    """Replay, print the figures; fail if the worker grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "documents", type=Path, help="JSONL: id and text of a document in each line"
    )
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    seen: dict[str, dict[str, Any]] = {}
    for name, script in WORKERS.items():
        seen[name] = replay(script, given.documents, given.requests)
        shown = {key: value for key, value in seen[name].items() if key != "curve_mib"}
        print(name, json.dumps(shown, ensure_ascii=False), flush=True)
    if given.json:
        given.json.write_text(json.dumps(seen, indent=2, ensure_ascii=False) + "\n")
    if given.picture:
        draw(seen, given.picture)
    if (growth := seen["safe_embed"]["growth_mib"]) > MOST_GROWTH_MIB:
        sys.exit(f"The worker grew by {growth} MiB after its warm-up.")


if __name__ == "__main__":
    main()
