"""Processes whose memory is measured; tests/test_flat.py and the benchmarks run them.

:func:`measure` runs a scenario, one of the functions below, in a fresh process, of this stack or of
another; :class:`Forks` runs them in forks, to see quickly that they run. Sizes are RssAnon.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Self

import models
from causes import cause
from meter import documents, held, load, status, texts, trimmed
from safe_embed import MemoryGrowth, SafeEncoder
from safe_embed.memory.sampling import take_sample
from safe_embed.memory.types import Event, Reason, Rung, Usage
from safe_embed.supervision.conditions import Conditions

# What embeds: upstream's own way is the control; then ours with no policy, and with the default.
ARMS = ("raw", "no policy", "default policy")
# The remedies that users build around upstream, one at a time, and ours.
REMEDIES = ("raw", "split", "trim", "reload", "reload and trim", "default policy", "process")
# Texts that the tokenizer of the oldest stack remembers: long runs without a blank.
LONG_RUNS: dict[str, Any] = {"shortest": 200, "blanks": False}
WARM_UP_CALLS = 20
POINTS = 200
STACK = ("torch", "sentence-transformers", "transformers", "tokenizers")
MIB = 2**20


def measure(
    scenario: str, model: Path, *, python: str = sys.executable, **options: Any
) -> dict[str, Any]:
    """Run a scenario in a process of its own.

    Args:
        scenario: Name of a function of this file.
        model: Folder of a model.
        python: The interpreter: that of another environment for another stack.
        **options: Further arguments.

    Returns:
        What the function gives.
    """
    command = [python, __file__, scenario, json.dumps({"model": str(model), **options})]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=_environment())
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _environment() -> dict[str, str]:
    # Two threads everywhere: with one, upstream has no native threads that could pile up.
    # They sleep while they wait: on a busy machine they would wait for each other for ever.
    tests = str(Path(__file__).parents[1] / "tests")  # where the small models are
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "passive",
    }


class Forks:
    """A process that has imported everything, and forks for each scenario: quick, not clean.

    A fork has what the imports left in memory, and nothing of earlier scenarios.

    Args:
        python: The interpreter.
    """

    def __init__(self, python: str = sys.executable) -> None:
        self._process = subprocess.Popen(
            [python, __file__, "forks", "{}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=_environment(),
        )

    def measure(self, scenario: str, model: Path, **options: Any) -> dict[str, Any]:
        """Run a scenario in a fork; the same as the function :func:`measure`."""
        assert self._process.stdin
        assert self._process.stdout
        told = {"scenario": scenario, "model": str(model), **options}
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        if "failed" in found:
            raise RuntimeError(found["failed"])
        return found

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def forks() -> None:
    """Run what stdin names, a line each, in forks of this process: one line of JSON each."""
    import sentence_transformers

    assert sentence_transformers
    for line in sys.stdin:
        told = json.loads(line)
        if not (child := os.fork()):
            try:
                answer = json.dumps(scenario_of(told.pop("scenario"))(**told))
            except BaseException:  # noqa: BLE001 whatever it is, the benchmark is told
                answer = json.dumps({"failed": traceback.format_exc()[-3000:]})
            os.write(1, f"{answer}\n".encode())
            os._exit(0)
        os.waitpid(child, 0)


def remedies(encoder: Any) -> list[str]:
    """Name the rungs that an encoder took, in order."""
    stats = getattr(encoder, "stats", None)
    return [f"{event.kind} {event.rung.name}" for event in stats.events] if stats else []


def growth(
    model: str, arm: str, calls: int, *, hoard: bool = False, **of_texts: Any
) -> dict[str, Any]:
    """Embed one text a call; then reload what can be reloaded.

    *hoard* adds 100 MB to the model and as much to its tokenizer: what a reload must give back.
    """
    watched = Watched(model)
    encoder = load(watched if hoard else model, arm)
    waiting = texts(WARM_UP_CALLS + calls, **of_texts)
    for text in islice(waiting, WARM_UP_CALLS):
        encoder.encode(text)
    base = trimmed(encoder)
    curve: list[tuple[int, int]] = []
    started = time.monotonic()
    for number, text in enumerate(waiting):
        encoder.encode(text)
        if number % max(1, calls // POINTS) == 0:
            curve.append((number, held(encoder)))
    seconds = time.monotonic() - started
    if hoard:
        _hoarding_model(watched.model)
        _hoarding_tokenizer(watched.model)
    kept, end = held(encoder), trimmed(encoder)
    sizes = [size for _, size in curve]
    tenth = max(1, len(sizes) // 10)
    found: dict[str, Any] = {
        "versions": {name: version(name) for name in STACK},
        "seconds": round(seconds, 2),
        "base_bytes": base,
        "end_bytes": end,
        "kept_mb": round((kept - base) / 1e6, 1),  # before that trim
        # What no trim gives back; and while calls go on: the last tenth over the first.
        "growth_mb": round((end - base) / 1e6, 1),
        "running_growth_mb": round((median(sizes[-tenth:]) - median(sizes[:tenth])) / 1e6, 1),
        "largest_growth_mb": round((max(sizes) - base) / 1e6, 1),
        "native_threads": take_sample().native_threads,
        "remedies": remedies(encoder),
        "curve": curve,
    }
    if arm in ARMS[1:]:
        encoder.reload()
        found["reloaded_bytes"] = held()
    if isinstance(encoder, SafeEncoder):
        encoder.close()
    return found


def threads(model: str, arm: str, callers: int) -> dict[str, Any]:
    """Embed the same texts from one thread, then from many that stay alive."""
    encoder = load(model, arm)
    mine = list(texts(8, 20, 400))
    turn = threading.Lock()  # upstream's tokenizer is not for two threads at once
    all_there = threading.Barrier(callers + 1)

    def call() -> None:
        if arm == "raw":
            with turn:
                encoder.encode(mine)
        else:
            encoder.encode(mine)
        all_there.wait()

    encoder.encode(mine)
    trimmed()  # or the keeper's first trim would hide what the callers leave
    before = take_sample()
    with ThreadPoolExecutor(callers) as pool:
        calls = [pool.submit(call) for _ in range(callers)]
        all_there.wait()
        trimmed()
        after = take_sample()
        for one in calls:
            one.result()
    return {
        "growth_mb": ((after.rss_anon_bytes or 0) - (before.rss_anon_bytes or 0)) / 1e6,
        "more_native_threads": (after.native_threads or 0) - (before.native_threads or 0),
    }


def give_back(model: str) -> dict[str, int]:
    """Reload where there is no room for two, and look at the moment when neither is there."""
    from sentence_transformers import SentenceTransformer

    seen: list[int] = []

    def loader() -> SentenceTransformer:
        seen.append(held())
        return SentenceTransformer(model, device="cpu")

    bare = trimmed()
    with ENCODERS["after"](loader, reload=None) as encoder:
        loaded = trimmed()
        encoder.encode(list(texts(20, longest=1_000)))
        worked = trimmed()
        encoder.reload()
        again = trimmed()
    return {
        "bare": bare,
        "loaded": loaded,
        "worked": worked,
        "dropped": seen[1],
        "again": again,
    }


def tokenize(model: str, count: int, **of_texts: Any) -> dict[str, float]:
    """Let the bare tokenizer read texts, as transformers calls it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    waiting = texts(count + WARM_UP_CALLS, **of_texts)
    for _ in range(WARM_UP_CALLS):
        tokenizer(next(waiting), verbose=False)
    base = trimmed()
    for text in waiting:
        tokenizer(text, verbose=False)
    return {"growth_mb": (trimmed() - base) / 1e6}


def sections(count: int, longest: int | None = None) -> list[str]:
    """Sections of technical documents, of all lengths, evenly spread over the file."""
    path = Path(os.environ["SAFE_EMBED_DATA"]) / "debian_ja_sections.jsonl"
    rows = [json.loads(line)["text"][:longest] for line in path.open(encoding="utf-8")]
    return [rows[at * len(rows) // count] for at in range(count)]


def incident(
    model: str, arm: str, part: str, calls: int, longest: int | None = None
) -> dict[str, Any]:
    """Replay the incident: sections one by one; *part* is "encode", "store", "both" or "alone".

    "alone" is the model with other texts, all of one length.
    """
    encoder = load(model, arm)
    waiting = sections(WARM_UP_CALLS + calls, longest)
    if part == "alone":
        pool, length = "".join(waiting), len("".join(waiting)) // len(waiting)
        waiting = [pool[at * length : (at + 1) * length] for at in range(len(waiting))]
    vector = encoder.encode(waiting[0])
    with tempfile.TemporaryDirectory() as folder:
        kind, add = store(Path(folder)) if part in {"store", "both"} else ("none", None)
        sizes: list[tuple[int, int]] = []
        for text in waiting:
            if part != "store":
                vector = encoder.encode(text)
            if add:
                add(text, vector)
            now = status()
            sizes.append((now["VmRSS"], now["RssAnon"]))
    (rss, anonymous), (rss_end, anonymous_end) = sizes[WARM_UP_CALLS - 1], sizes[-1]
    return {
        "store": kind,
        "rss_mb_a_call": round((rss_end - rss) / 1e6 / calls, 3),
        "anonymous_mb_a_call": round((anonymous_end - anonymous) / 1e6 / calls, 3),
        "largest_growth_mb": round((max(size for _, size in sizes) - anonymous) / 1e6, 1),
        "trimmed_mb_a_call": round((trimmed() - anonymous) / 1e6 / calls, 3),
        "native_threads": take_sample().native_threads,
        "curve": [(at, size) for at, (_, size) in enumerate(sizes)],
    }


def store(folder: Path) -> tuple[str, Callable[[str, Any], object]]:
    """Give what rows are kept in, LanceDB if it is there, and a function that adds one."""
    try:
        import lancedb
    except ImportError:
        rows = (folder / "rows.jsonl").open("a", encoding="utf-8")
        return "a file", lambda text, vector: rows.write(json.dumps([text, vector.tolist()]))
    base = lancedb.connect(folder)
    tables: list[Any] = []

    def add(text: str, vector: Any) -> None:
        row = [{"text": text, "vector": vector}]
        if tables:
            tables[0].add(row)
        else:
            tables.append(base.create_table("rows", row))

    return "LanceDB", add


class Highest:
    """Watches how high RssAnon goes while a block runs.

    Args:
        *pids: Other processes to watch.

    Attributes:
        bytes: The highest value so far.
        others: That of each of the other processes.
    """

    def __init__(self, *pids: int) -> None:
        self.bytes = held()
        self.others = [0] * len(pids)
        self._pids = pids
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._is_over.wait(0.002):
            self.bytes = max(self.bytes, held())
            found = (status(pid)["RssAnon"] for pid in self._pids)
            self.others = list(map(max, self.others, found))

    def __enter__(self) -> Self:
        """Begin to watch."""
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self._is_over.set()
        self._watcher.join()


# How a text of many tokens is embedded -> arguments of SafeEncoder; none for upstream's own way.
LONG_TEXT_ARMS: dict[str, dict[str, Any] | None] = {
    "upstream": None,
    "whole": {},
    "chunks of 512": {"max_chunk_tokens": 512},
}


def long_text(model: str, arm: str, tokens: int) -> dict[str, Any]:
    """Embed one text of so many tokens, while another thread asks for a query.

    *model* is one of ``models.SHAPES``. The query is asked for when the model begins with the text.
    """
    options = LONG_TEXT_ARMS[arm]
    upstream = models.shaped(model)
    encoder: Any = upstream if options is None else SafeEncoder(upstream, **options)
    text = models.long_text(tokens)
    ids = upstream.tokenizer(text, return_offsets_mapping=True, verbose=False)
    text = text[: ids["offset_mapping"][tokens - 2][1]]
    found = len(upstream.tokenizer(text, verbose=False)["input_ids"])
    encoder.encode(text[:600])
    waited: list[float] = []
    has_begun = threading.Event()
    upstream.register_forward_pre_hook(lambda *_: has_begun.set())

    def ask() -> None:
        has_begun.wait()
        begun = time.perf_counter()
        encoder.encode("雨です。")
        waited.append(time.perf_counter() - begun)

    base = trimmed()
    caller = threading.Thread(target=ask)
    with Highest() as highest:
        caller.start()
        begun = time.perf_counter()
        encoder.encode(text)
        seconds = time.perf_counter() - begun
        caller.join()
    return {
        "tokens": found,
        "peak_over_base_mb": round((highest.bytes - base) / 1e6, 1),
        "tokens_per_second": round(found / seconds),
        "seconds": round(seconds, 3),
        "query_seconds": round(waited[0], 3),
    }


# Kinds of texts without end: what each consists of.
ENDLESS = {
    "no marks": "今日は良い天気なので図書館で本を読んでいると友達が来たから一緒に帰った",
    "full stops": "。",
    "open brackets": "「",
    "right to left": "\u202e",
    "families": "👨\u200d👩\u200d👧",
    "blanks": "\u3000",
    "one word": "abcdefghij",
    "digits": "0123456789",
    "combining": "か\u3099\u0301\u0302",
    "sentences": "今日は良い天気です。図書館で本を読んだ。\n",
}


def one_text(
    model: str, kind: str, call: str, chars: int, **options: Any
) -> dict[str, float | int]:
    """Plan or encode one endless text, and watch how high RssAnon goes, here and in workers."""
    text = (ENDLESS[kind] * chars)[:chars]
    # With the default policy: without trims the allocator keeps what was freed.
    with SafeEncoder(model, device="cpu", **options) as encoder:
        getattr(encoder, call)(ENDLESS["sentences"] * 20)
        workers = [worker.pid for worker in encoder.stats.workers]
        before = [status(pid)["RssAnon"] for pid in workers]
        base = trimmed()
        with Highest(*workers) as highest:
            begun = time.perf_counter()
            getattr(encoder, call)([text])
            seconds = time.perf_counter() - begun
    return {
        "peak_over_base_mib": round((highest.bytes - base) / MIB, 1),
        "worker_peak_over_base_mib": round(
            max((after - old for after, old in zip(highest.others, before, strict=True)), default=0)
            / MIB,
            1,
        ),
        "seconds": round(seconds, 2),
    }


def peak(model: str, arm: str, count: int, longest: int = 14_500) -> dict[str, Any]:
    """Embed documents one by one, and watch how high RssAnon goes in between."""
    encoder = load(model, arm)
    waiting = documents(count, longest)
    encoder.encode(min(waiting, key=len))
    base = trimmed()
    with Highest() as highest:
        for text in waiting:
            encoder.encode(text)
    return {
        "longest_chars": max(map(len, waiting)),
        "base_mb": round(base / 1e6, 1),
        "peak_mb": round(highest.bytes / 1e6, 1),
        "peak_over_base_mb": round((highest.bytes - base) / 1e6, 1),
        "end_mb": round(held() / 1e6, 1),
    }


class Watched:
    """A loader that knows the newest model it has loaded, and does not keep it.

    Args:
        folder: Of the model.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._newest: Callable[[], Any] = lambda: None

    def __call__(self) -> Any:
        """Load."""
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(self._folder, device="cpu")
        self._newest = weakref.ref(model)
        return model

    @property
    def model(self) -> Any:
        """The newest model."""
        return self._newest()


class Beside(SafeEncoder):
    """Finds room for two models."""

    conditions = Conditions(headroom=lambda *_: True)


class After(SafeEncoder):
    """Finds no room for two models."""

    conditions = Conditions(headroom=lambda *_: False)


# Way in which a new model is loaded -> what does so; none where none is loaded.
ENCODERS: dict[str, type[SafeEncoder]] = {"beside": Beside, "after": After, "": SafeEncoder}


# So long after it was asked for a rung must have been taken; less than a benchmark may take, whose
# error would leave the answer of this scenario to the next.
_EVENT_SECONDS = 60.0


@dataclass
class OnRequest:
    """A policy that takes one rung, once, when asked to."""

    rung: Rung | None = None

    def reason(self, _: Usage) -> Reason | None:
        """Ask for the rung, and forget it."""
        rung, self.rung = self.rung, None
        return None if rung is None else Reason("measured", rung=rung)


def delay(
    model: str, rung: str, way: str, repeats: int, pause_seconds: float = 1
) -> dict[str, Any]:
    """Take a rung again and again while a caller embeds one short text after the other.

    *rung* is a name, or "by hand" for the full reload of :meth:`SafeEncoder.reload`; *way* says
    whether there is room for two models.
    """
    policy = OnRequest()
    events: queue.Queue[Event] = queue.Queue()
    last_block: Any = None  # of those that the trim gives back
    latencies: list[tuple[float, float]] = []  # begin and end of each call
    is_over = threading.Event()

    def call() -> None:
        while not is_over.is_set():
            begun = time.monotonic()
            encoder.encode("吾輩は猫である。")
            latencies.append((begun, time.monotonic()))

    rounds: list[Event] = []
    with ENCODERS[way](model, reload=policy, hooks=[events.put], device="cpu") as encoder:
        encoder.encode(list(texts(6)))
        caller = threading.Thread(target=call)
        caller.start()
        for _ in range(repeats):
            time.sleep(pause_seconds)  # as things are without a remedy
            if rung == "by hand":
                encoder.reload()
            else:
                if rung == "trim":  # is only reported where it gives something back
                    last_block = _free_blocks(None)
                policy.rung = Rung[rung.upper()]
            rounds.append(events.get(timeout=_EVENT_SECONDS))
        time.sleep(0.1)  # a call that the last rung delayed ends
        is_over.set()
        caller.join()
        del last_block
    spans = [(one.before.elapsed_seconds, one.after.elapsed_seconds) for one in rounds]
    touched = [
        any(begun < end and start < ended for start, end in spans) for begun, ended in latencies
    ]
    found: dict[str, Any] = {"kinds": sorted({one.kind for one in rounds})}
    for name, wanted in (("quiet", False), ("during", True)):
        took = [
            1e3 * (ended - begun)
            for (begun, ended), is_touched in zip(latencies, touched, strict=True)
            if is_touched == wanted
        ]
        found |= {
            f"{name}_calls": len(took),
            f"{name}_median_ms": round(median(took), 2),
            f"{name}_max_ms": round(max(took), 2),
        }
    return found | {
        "rung_seconds": [round(one.seconds, 4) for one in rounds],
        "before_mb": [round((one.before.held_bytes or 0) / 1e6, 1) for one in rounds],
        "after_mb": [round((one.after.held_bytes or 0) / 1e6, 1) for one in rounds],
    }


def _free_blocks(_: Any) -> Any:
    """Free what lies below a block that is held: the allocator keeps it."""
    blocks = [bytes(5000) for _ in range(20_000)]
    last = blocks[-1]
    blocks.clear()
    return last


def _old_garbage(_: Any) -> None:
    """Leave a cycle behind that has outlived a full collection, as a long-lived object has."""
    cycle: list[Any] = [b"\1" * MIB for _ in range(100)]
    cycle.append(cycle)
    gc.collect()


class Hoard(list[bytes]):
    """100 MB that no copy takes along."""

    def __init__(self) -> None:
        super().__init__(b"\1" * MIB for _ in range(100))

    def __deepcopy__(self, memo: object) -> None: ...


def _hoarding_tokenizer(model: Any) -> None:
    model.tokenizer.hoard = Hoard()


def _hoarding_model(model: Any) -> None:
    model.hoard = Hoard()


# What is done with the model that an encoder has loaded.
PLANTS: dict[str, Callable[[Any], Any]] = {
    "free blocks": _free_blocks,
    "old garbage": _old_garbage,
    "hoarding tokenizer": _hoarding_tokenizer,
    "hoarding model": _hoarding_model,
}


def planted(model: str, plant: str) -> dict[str, Any]:
    """Let something grow by 100 MB that one rung gives back, and see how far the policy goes."""
    policy = MemoryGrowth("48 MiB", cool_down_seconds=0, jitter=0)
    watched = Watched(model)
    with SafeEncoder(watched, reload=policy) as encoder:
        while encoder.stats.baseline is None:
            encoder.encode("今日は雨です。")
        baseline = encoder.stats.baseline.held_bytes or 0
        kept = PLANTS[plant](watched.model)
        grown = held() - baseline
        end = time.monotonic() + 30
        while held() > baseline + 48 * MIB and time.monotonic() < end:
            encoder.encode("今日は雨です。")
            time.sleep(0.05)
        found = {"grown": grown, "left": held() - baseline, "remedies": remedies(encoder)}
        del kept
    return found


SCENARIOS = (
    *(cause, growth, threads, give_back, tokenize),
    *(peak, long_text, one_text, delay, planted, incident),
)


def scenario_of(name: str) -> Callable[..., dict[str, Any]]:
    """Give the function of that name."""
    [found] = [one for one in SCENARIOS if one.__name__ == name]
    return found


def main(name: str, options: str) -> None:
    """Run one scenario, and print what it found."""
    if name == "forks":
        forks()
    else:
        print(json.dumps(scenario_of(name)(**json.loads(options))))


if __name__ == "__main__":
    main(*sys.argv[1:])
