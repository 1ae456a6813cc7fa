"""Loaders that a worker process can import: models that leak, hang, die, or do not load.

Texts reach a model as token ids; the small model's tokenizer knows these characters, so a text that
holds one of them can do harm.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import os
import signal
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from safe_embed.policies import Usage

POISON, SLEEP, ERROR = "ヱ", "ヰ", "ヵ"
MIB = 2**20


def plain(folder: str) -> SentenceTransformer:
    """The model of a folder."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(folder, device="cpu")


def harmful(folder: str, scratch: str) -> SentenceTransformer:
    """Dies of POISON, every time; hangs at SLEEP, once; raises at ERROR; counts its batches."""
    model = plain(folder)
    ids = {mark: _id_of(model, mark) for mark in (POISON, SLEEP, ERROR)}
    slept = Path(scratch) / "slept"

    def look(_: Any, inputs: tuple[dict[str, Any], ...]) -> None:
        found = set(inputs[0]["input_ids"].flatten().tolist())
        if ids[POISON] in found:
            os.kill(os.getpid(), signal.SIGKILL)
        if ids[SLEEP] in found and not slept.exists():
            slept.touch()
            time.sleep(3600)
        if ids[ERROR] in found:
            raise ArithmeticError("the model's own error")

    model.register_forward_pre_hook(look)
    return model


def noting(folder: str, scratch: str) -> SentenceTransformer:
    """Notes by which process and with how many threads batches are done."""
    import torch

    model = plain(folder)
    note = Path(scratch) / str(os.getpid())
    model.register_forward_pre_hook(
        lambda *_: note.write_text(str(torch.get_num_threads())) and None
    )
    return model


def leaking(folder: str, bytes_a_batch: int) -> SentenceTransformer:
    """Loses native memory with every batch, as no Python object shows."""
    model = plain(folder)
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p

    def leak(*_: Any) -> None:
        ctypes.memset(libc.malloc(bytes_a_batch), 1, bytes_a_batch)

    model.register_forward_pre_hook(leak)
    return model


def failing_once(folder: str, scratch: str) -> SentenceTransformer:
    """Does not load the second time; all other times it does."""
    marks = list(Path(scratch).glob("load*"))
    (Path(scratch) / f"load{len(marks)}").touch()
    if len(marks) == 1:
        raise ConnectionError("the hub is away")
    return harmful(folder, scratch)


def refusing(message: str) -> SentenceTransformer:
    """Does not load."""
    raise FileNotFoundError(message)


def ending() -> SentenceTransformer:
    """Looks for a model where there is none left."""
    return next(iter(()))


def killed() -> SentenceTransformer:
    """Dies while it loads, as when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def held_back(folder: str, scratch: str) -> SentenceTransformer:
    """Loads at once the first time, and after that only when it is let."""
    loaded, release = Path(scratch) / "loaded", Path(scratch) / "release"
    while loaded.exists() and not release.exists():
        time.sleep(0.01)
    loaded.touch()
    return plain(folder)


def leaking_held_back(folder: str, scratch: str, bytes_a_batch: int) -> SentenceTransformer:
    """Loses native memory with every batch; is loaded a second time only when it is let."""
    held_back(folder, scratch)
    return leaking(folder, bytes_a_batch)


def with_a_copy(folder: str, scratch: str) -> SentenceTransformer:
    """Forks a process that outlives its parent, and has all that it has open."""
    child = os.fork()
    if not child:
        time.sleep(3600)
        os._exit(0)
    (Path(scratch) / str(child)).touch()
    return plain(folder)


class Thoughtful:
    """A policy that takes its time, and then wants nothing."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def reason(self, _: Usage) -> None:
        """Think."""
        time.sleep(self.seconds)


# Exceptions that would end or cancel the caller; by name, so that a text can name the one to raise.
ENDINGS: dict[str, type[BaseException]] = {
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "GeneratorExit": GeneratorExit,
    "asyncio.CancelledError": asyncio.CancelledError,
    "concurrent.CancelledError": concurrent.futures.CancelledError,
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": SystemExit,
}


@dataclass(frozen=True)
class Ending:
    """A splitter that raises what a text names, and else makes two spans of a text."""

    def split(self, text: str) -> list[tuple[int, int]]:
        """Cut in the middle."""
        if text in ENDINGS:
            raise ENDINGS[text]
        ends = [0, *([len(text) // 2] if len(text) > 1 else []), *([len(text)] if text else [])]
        return list(pairwise(ends))


@dataclass(frozen=True)
class EndingPolicy:
    """A policy that raises whenever it is asked."""

    name: str

    def reason(self, _: Usage) -> None:
        """Raise."""
        raise ENDINGS[self.name]


class EndingWhenRead:
    """A splitter whose own unpickling ends the thread that reads it."""

    def __getstate__(self) -> dict[str, str]:
        return {"any": "state"}

    def __setstate__(self, state: dict[str, str]) -> None:
        raise SystemExit

    def split(self, text: str) -> list[tuple[int, int]]:
        """Give no piece."""
        return []


class QuotingError(Exception):
    """An error of the user's own, which says the text."""


class QuotingValueError(ValueError):
    """Likewise, but descended from a builtin."""


@dataclass(frozen=True)
class Quoting:
    """A splitter whose errors quote the text that it was given."""

    kind: type[Exception]

    def split(self, text: str) -> list[tuple[int, int]]:
        """Fail, after another failure."""
        try:
            dict[str, int]()[text]
        except KeyError as error:
            raise self.kind(text) from error


class Unreadable:
    """A splitter that cannot be made again in a worker, and says what it holds."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __getstate__(self) -> dict[str, str]:
        return {"text": self.text}

    def __setstate__(self, state: dict[str, str]) -> None:
        raise ValueError(state["text"])

    def split(self, text: str) -> list[tuple[int, int]]:
        """Give no piece."""
        return []


def while_there(folder: str, gone: str) -> SentenceTransformer:
    """Does not load while a file says so."""
    if Path(gone).exists():
        raise ConnectionError("the hub is away")
    return plain(folder)


def other_second_time(folder: str, scratch: str) -> SentenceTransformer:
    """Gives another model the second time."""
    import torch

    model = plain(folder)
    mark = Path(scratch) / "loaded"
    if mark.exists():
        with torch.no_grad():
            weight = model[0].auto_model.embeddings.word_embeddings.weight
            weight.copy_(weight.roll(1, 0))
    mark.touch()
    return model


def _id_of(model: SentenceTransformer, mark: str) -> int:
    ids = model.tokenizer(mark, add_special_tokens=False)["input_ids"]
    assert len(ids) == 1, "a character of its own"
    return int(ids[0])


def hoarding(folder: str, bytes_a_batch: int) -> SentenceTransformer:
    """Keeps memory of every batch that holds POISON; a new model begins without it."""
    import torch

    model = plain(folder)
    mark = _id_of(model, POISON)
    kept: list[torch.Tensor] = []

    def keep(_: Any, inputs: tuple[dict[str, Any], ...]) -> None:
        if mark in inputs[0]["input_ids"]:
            kept.append(torch.ones(bytes_a_batch, dtype=torch.uint8))

    model.register_forward_pre_hook(keep)
    return model


def needing(folder: str, bytes_to_work: int) -> SentenceTransformer:
    """Takes memory with its third batch, once: what it needs to work."""
    import torch

    model = plain(folder)
    held: list[torch.Tensor | None] = []

    def take(*_: Any) -> None:
        held.append(torch.ones(bytes_to_work, dtype=torch.uint8) if len(held) == 2 else None)
        del held[3:]

    model.register_forward_pre_hook(take)
    return model


def falling_back(folder: str) -> SentenceTransformer:
    """A model whose batches are padded after the first attempt: a layer asks for no attention."""
    model = plain(folder)
    model[0].auto_model.config.num_hidden_layers += 1
    return model


@dataclass(frozen=True)
class Held:
    """A splitter that waits at a text with POISON until a file is there, and says that it waits."""

    scratch: str

    def split(self, text: str) -> list[tuple[int, int]]:
        """Give one piece."""
        if POISON in text:
            (Path(self.scratch) / "reached").touch()
            while not (Path(self.scratch) / "release").exists():
                time.sleep(0.002)
        return [(0, len(text))] if text else []


def leaving(status: int) -> SentenceTransformer:
    """Ends its process."""
    os._exit(status)


class UnspeakableError(Exception):
    """An error whose own code fails."""

    def __str__(self) -> str:
        raise ValueError


def unspeakable() -> SentenceTransformer:
    """Fails, and cannot say why."""
    raise UnspeakableError


def exiting() -> SentenceTransformer:
    """Means to end the program."""
    raise SystemExit(3)
