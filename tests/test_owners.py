"""Hooks, pooling functions and policies are code of the user's own, and may hold what holds them."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import models
from safe_embed import SafeEncoder
from safe_embed.memory.types import Event
from seams import Headroom, Loader, encoder_with, wait_until

pytestmark = pytest.mark.usefixtures("forked_workers")

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="worker processes need POSIX")
ISOLATIONS = ["none", pytest.param("process", marks=POSIX)]


class Owner:
    """Has an encoder, and a method that is its hook."""

    def __init__(self, model: Any, **options: Any) -> None:
        self.events: list[Event] = []
        self.encoder = SafeEncoder(model, hooks=[self.note], **options)

    def note(self, event: Event) -> None:
        """Take note."""
        self.events.append(event)


class Recorder:
    """Is known to nobody but the encoder, by its method."""

    told: list[Event] = []  # noqa: RUF012 shared on purpose

    def note(self, event: Event) -> None:
        """Take note."""
        self.told.append(event)


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_an_owner_whose_method_is_a_hook_can_be_dropped(saved: Path, isolation: str) -> None:
    """It is called while it is there; when it is gone thread and processes end."""
    before = {one.pid for one in psutil.Process().children()}
    threads = set(threading.enumerate())
    owner = Owner(saved, isolation=isolation, reload=None)
    owner.encoder.reload()
    events, gone = owner.events, weakref.ref(owner)
    wait_until(lambda: events)
    del owner
    gc.collect()
    assert gone() is None
    wait_until(lambda: threads >= set(threading.enumerate()))
    wait_until(lambda: before >= {one.pid for one in psutil.Process().children()})


def test_a_hook_that_only_the_encoder_knows_stays(saved: Path) -> None:
    """A method of an object that nobody else holds, and functions made on the spot."""
    told: list[Event] = []
    Recorder.told.clear()
    hooks = [Recorder().note, told.append, partial(told.append)]
    with SafeEncoder(saved, reload=None, hooks=hooks) as encoder:
        del hooks
        gc.collect()
        encoder.reload()
        encoder.backend.idle()
    assert Recorder.told
    assert 2 * len(Recorder.told) == len(told)


# Pooling

LONG = models.long_text(12)


def in_place(vectors: Any, _: Any) -> Any:
    """Centre vectors, and spoil those that are not its own."""
    vectors -= vectors.mean(axis=0)
    return vectors[0]


def test_a_pooling_function_cannot_change_the_vectors(saved: Path) -> None:
    """It is told so; encode_chunks gives what the model gave."""
    with SafeEncoder(saved, reload=None, pooling=in_place) as encoder:
        with pytest.raises(ValueError, match="read-only"):
            encoder.encode(LONG)
        assert (32,) == encoder.encode("雨").shape


@pytest.mark.parametrize(
    "pooling",
    [lambda vectors, _: vectors[0], lambda vectors, _: vectors[:1].reshape(-1)],
    ids=["row", "view"],
)
def test_what_a_pooling_function_gives_is_the_callers_own(saved: Path, pooling: Any) -> None:
    """A row of the vectors is copied: both may be changed."""
    with SafeEncoder(saved, reload=None, pooling=pooling) as encoder:
        [text] = encoder.encode_chunks(LONG)
        first = text.vectors[0].copy()
        pooled = text.pooled()
        pooled += 1
        np.testing.assert_array_equal(first, text.vectors[0])
        text.vectors[0] = 0
        np.testing.assert_array_equal(first + 1, text.pooled())


# Ctrl-C

# Shorter than what closing an encoder waits for: a test that waited would find the load ended.
LOAD_SECONDS = 20.0


class SlowLoad:
    """Holds up a load until it is let, or for a while."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()

    def __call__(self) -> None:
        """Wait."""
        self.began.set()
        self.may_end.wait(LOAD_SECONDS)


def interrupted(loader: Loader, load: SlowLoad, thread: threading.Thread, *, first: bool) -> None:
    """Load, for the first time or in a ``with`` block, while a thread sends Ctrl-C."""
    if first:
        loader.fault = load
        thread.start()
        SafeEncoder(loader)
        return
    made = encoder_with(headroom=Headroom(is_there=False))  # nothing serves while it loads
    with made(loader, reload=None) as encoder:
        loader.fault = load
        thread.start()
        encoder.reload()


@pytest.mark.parametrize("isolation", ISOLATIONS)
def test_ctrl_c_while_the_thread_of_an_encoder_starts_ends_it(
    saved: Path, isolation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``Thread.start`` waits until the thread runs, and can be interrupted meanwhile."""
    start, started = threading.Thread.start, list[threading.Thread]()

    def interrupt(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "safe_embed":
            started.append(thread)
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupt)
    with pytest.raises(KeyboardInterrupt):
        SafeEncoder(str(saved), isolation=isolation)
    wait_until(lambda: not any(thread.is_alive() for thread in started))
    assert started


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to threads")
@pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
def test_ctrl_c_during_a_load_waits_for_nothing(saved: Path, *, first: bool) -> None:
    """Not for the load either, which nobody needs."""
    loader, load = Loader(saved), SlowLoad()
    main = threading.main_thread().ident or 0

    def interrupt() -> None:
        assert load.began.wait(120)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            interrupted(loader, load, thread, first=first)
        still_loads = loader.at_once > 0
    finally:
        signal.signal(signal.SIGINT, before)
        load.may_end.set()
        thread.join()
    assert still_loads
    wait_until(lambda: not any(one.is_alive() for one in loader.threads))
