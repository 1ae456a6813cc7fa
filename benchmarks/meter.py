"""What the measured processes share: real texts, what a process holds, and what embeds in it."""

from __future__ import annotations

import gc
import json
import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from incident import pieces as incident_pieces
from safe_embed import SafeEncoder
from safe_embed.memory.allocators import trim_heap
from safe_embed.memory.sampling import anonymous_bytes, parse_status

RELOAD_EVERY_CALLS = 25  # the incident's worker did so every 10 calls


def texts(
    count: int, shortest: int = 20, longest: int = 20_000, *, blanks: bool = True
) -> Iterator[str]:
    """Pieces of real Japanese text of log-uniform length in characters, always the same.

    Without *blanks* and line breaks each is one run, which tokenizers 0.20 remembers whole.
    """
    folder = Path(os.environ["SAFE_EMBED_DATA"])
    pool = "\n".join(
        json.loads(line)["text"]
        for name in ("kyoto_wiki_longdocs", "aozora_works")
        for line in (folder / f"{name}.jsonl").open(encoding="utf-8")
    )
    if not blanks:
        pool = "".join(pool.split())
    chance = random.Random(0)
    for _ in range(count):
        length = int(math.exp(chance.uniform(math.log(shortest), math.log(longest))))
        start = chance.randrange(len(pool) - length)
        yield pool[start : start + length]


def documents(count: int, longest: int = 14_500) -> list[str]:
    """Whole documents of all lengths up to *longest* characters, the longest first."""
    folder = Path(os.environ["SAFE_EMBED_DATA"])
    found = [
        json.loads(line)["text"]
        for name in ("debian_ja_longdocs", "kyoto_wiki_longdocs")
        for line in (folder / f"{name}.jsonl").open(encoding="utf-8")
    ]
    fitting = sorted((text for text in found if len(text) <= longest), key=len, reverse=True)
    return [fitting[at * len(fitting) // count] for at in range(count)]


def held(encoder: Any = None) -> int:
    """RssAnon as it is, with that of the encoder's own processes."""
    found = anonymous_bytes()
    if found is None:
        raise SystemExit("the system does not tell RssAnon")
    workers = encoder.stats.workers if isinstance(encoder, SafeEncoder) else ()
    return found + sum(status(one.pid)["RssAnon"] for one in workers)


def status(pid: int | str = "self") -> dict[str, int]:
    """What the system says of a process."""
    return parse_status(Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))


def trimmed(encoder: Any = None) -> int:
    """RssAnon without garbage and free blocks; an encoder's own processes are left as they are."""
    gc.collect()
    trim_heap()
    return held(encoder)


class Upstream:
    """sentence-transformers, and a remedy that its users build around it.

    Args:
        model: Folder of the model.
        remedy: An arm: "raw" for none; "split" cuts texts as the incident did.
    """

    def __init__(self, model: str, remedy: str) -> None:
        self._path, self._remedy, self._calls = model, remedy, 0
        self._load()

    def _load(self) -> None:
        from sentence_transformers import SentenceTransformer

        self._model: Any = None  # the old one goes first
        if self._remedy == "reload and trim":
            gc.collect()
            trim_heap()
        self._model = SentenceTransformer(self._path, device="cpu")

    def encode(self, text: Any) -> Any:
        """Embed, then do what the remedy does."""
        if self._remedy == "split":
            return self._model.encode(incident_pieces(text)).mean(axis=0)
        found = self._model.encode(text)
        self._calls += 1
        if self._remedy == "trim":
            trim_heap()
        if self._remedy.startswith("reload") and self._calls % RELOAD_EVERY_CALLS == 0:
            self._load()
        return found


def load(model: str | Callable[[], Any], arm: str) -> Any:
    """Load what the arm embeds with; a loader is for ours alone."""
    if callable(model):
        return SafeEncoder(model, reload=None if arm == "no policy" else "default")
    if arm in {"raw", "split", "trim", "reload", "reload and trim"}:
        return Upstream(model, arm)
    isolation: Any = "process" if arm == "process" else "none"
    policy: Any = None if arm == "no policy" else "default"
    return SafeEncoder(model, reload=policy, isolation=isolation, device="cpu")
