"""The causes of growth, each by itself, step by step; docs/growth.md shows the curves."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

from meter import held, load, status, texts, trimmed
from safe_embed.memory.allocators import trim_heap


def cause(model: str, name: str, arm: str, count: int) -> dict[str, Any]:
    """Let one cause of growth show itself: what the process holds more, step by step."""
    bases: list[float] = []

    def note(step: float, value: float) -> None:
        if not bases:
            bases.append(value)
        curve.append([step, round((value - bases[0]) / 1e6, 2)])

    curve: list[list[float]] = []
    _CAUSES[name](model, arm, count, note)
    return {"curve": curve, "grown_mb": curve[-1][1]}


Note = Callable[[float, float], None]


def _settled() -> int:
    """RssAnon without free blocks; collecting all garbage takes half a second beside torch."""
    trim_heap()
    return held()


def _paging(model: str, arm: str, count: int, note: Note) -> None:
    """Texts with new words: mapped pages (arm "RssFile") beside allocated ones ("RssAnon")."""
    encoder = load(model, "raw")
    for step, text in enumerate(texts(count, longest=400)):
        encoder.encode(text)
        trim_heap()
        note(step, status()[arm])


def _words(model: str, arm: str, count: int, note: Note) -> None:
    """Runs without a blank through the tokenizer alone, whole or in pieces of 100 characters."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    for step, text in enumerate(texts(count, shortest=200, blanks=False)):
        size = len(text) if arm == "whole" else 100
        for start in range(0, len(text), size):
            tokenizer(text[start : start + size], verbose=False)
        if step % 10 == 0:
            note(step, _settled())


def _callers(model: str, arm: str, count: int, note: Note) -> None:
    """One more thread that calls, and stays alive, a step."""
    encoder, mine = load(model, arm), list(texts(4, 20, 400))
    stop = threading.Event()
    encoder.encode(mine)
    note(0, _settled())
    for step in range(count):
        done = threading.Event()

        def call(done: threading.Event = done) -> None:
            encoder.encode(mine)
            done.set()
            stop.wait()

        threading.Thread(target=call).start()
        done.wait()
        note(step + 1, _settled())
    stop.set()


def _analyser(model: str, arm: str, count: int, note: Note) -> None:  # noqa: ARG001 no model here
    """Texts of words that do not exist, through fugashi's two ways."""
    from fugashi import Tagger

    tagger, chance = Tagger(), random.Random(0)
    read = tagger.__call__ if arm == "tagger(text)" else tagger.parse
    kana = [chr(code) for code in range(0x30A1, 0x30FB)]
    for step in range(count):
        read(" ".join("".join(chance.choices(kana, k=8)) for _ in range(40)))
        if step % 100 == 0:
            note(step, _settled())


def _shapes(model: str, arm: str, count: int, note: Note) -> None:
    """Texts of all lengths, or of one, with a trim after each."""
    encoder = load(model, "raw")
    for step, text in enumerate(texts(count, longest=1_000)):
        encoder.encode(text if arm == "all lengths" else text[:1].ljust(200, "猫"))
        note(step, _settled())


# How much longer each text is than the one before.
_STEP_CHARS = 110_000


def _reading(model: str, arm: str, count: int, note: Note) -> None:
    """The highest moment while a text of so many thousand characters is embedded."""
    encoder = load(model, arm)
    [long] = texts(1, _STEP_CHARS * count, _STEP_CHARS * count + 1)
    encoder.encode(long[:2_000])
    note(0, trimmed())
    for step in range(count):
        chars = _STEP_CHARS * (step + 1)
        base, highest, over = trimmed(), [0], threading.Event()

        def watch(highest: list[int] = highest, over: threading.Event = over) -> None:
            while not over.wait(0.002):
                highest.append(held())

        watcher = threading.Thread(target=watch)
        watcher.start()
        encoder.encode(long[:chars])
        over.set()
        watcher.join()
        note(chars // 1000, max(base, *highest))


_CAUSES: dict[str, Callable[[str, str, int, Note], None]] = {
    "paging": _paging,
    "tokenizer": _words,
    "threads": _callers,
    "analyser": _analyser,
    "shapes": _shapes,
    "reading": _reading,
}
