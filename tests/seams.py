"""What a test exchanges around an encoder: loader, policy, clock, headroom; and how it waits."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from safe_embed import SafeEncoder
from safe_embed.ipc import spawn
from safe_embed.memory.types import MemorySample, Reason, Rung, Usage
from safe_embed.supervision.conditions import Conditions

# After so long every rung that failed may be taken again.
_LONGEST_BACK_OFF_SECONDS = 3600.0
# So long a test waits for what another thread or process does, on the busiest machine.
_PATIENCE_SECONDS = 120.0


def wait_until(condition: Callable[[], object], seconds: float = _PATIENCE_SECONDS) -> None:
    """Wait for a state that another thread or process brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the state did not come"
        time.sleep(0.002)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Stop a process until it is killed, or the block ends: it does nothing, and reads nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def real_starts() -> Iterator[None]:
    """Let worker processes begin as those of users do, where those of a module are forked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spawn, "subprocess", subprocess)
        yield


def encoder_with(**conditions: Any) -> type[SafeEncoder]:
    """A SafeEncoder under these conditions; see Conditions."""
    return type("Encoder", (SafeEncoder,), {"conditions": Conditions(**conditions)})


class Gate:
    """Holds up every thread that calls it, until it is opened."""

    def __init__(self) -> None:
        self._reached, self._opened = threading.Event(), threading.Event()

    def __call__(self, *_: object) -> None:
        """Wait."""
        self._reached.set()
        assert self._opened.wait(_PATIENCE_SECONDS), "nobody has opened the gate"

    @property
    def is_reached(self) -> bool:
        """Whether a thread has come to the gate."""
        return self._reached.is_set()

    def wait_until_reached(self) -> None:
        """Wait until a thread has come to the gate."""
        assert self._reached.wait(_PATIENCE_SECONDS), "nobody has come to the gate"

    def open(self) -> None:
        """Let all threads pass, now and later."""
        self._opened.set()


class Clock:
    """Stands still until a test moves it on."""

    def __init__(self) -> None:
        self.now = 1e6

    def __call__(self) -> float:
        """The time in seconds."""
        return self.now


@dataclass(eq=False)
class HeldMemory:
    """Measures a process that holds what a test says; stands for the class of the sampler, too."""

    held_mib: int = 500
    limit_mib: int | None = None

    def __call__(self, *_: Any, **__: Any) -> HeldMemory:
        """Make a sampler."""
        return self

    def hold(self, held_mib: int) -> None:
        """Let the process hold so much from now on."""
        self.held_mib = held_mib

    def take(self, **_: Any) -> MemorySample:
        """Measure."""
        held = self.held_mib * 2**20
        limit = None if self.limit_mib is None else self.limit_mib * 2**20
        return MemorySample(
            time.monotonic(), rss_anon_bytes=held, limit_bytes=limit, limit_used_bytes=held
        )


@dataclass(eq=False)
class Headroom:
    """Whether a second model fits beside the first, as a test says."""

    is_there: bool = True

    def __call__(self, sample: MemorySample, load_bytes: int, weights_bytes: int) -> bool:
        """Tell."""
        return self.is_there


@dataclass(eq=False)
class OnDemand:
    """A policy that asks for the rungs it was given, one at each look."""

    rungs: deque[Rung] = field(default_factory=deque)

    def reason(self, usage: Usage) -> Reason | None:
        """Ask for the next rung, if there is one."""
        return Reason("test", rung=self.rungs.popleft()) if self.rungs else None


@dataclass(eq=False)
class Controls:
    """Encoders whose clock, headroom and rungs a test moves by hand; they are never idle."""

    clock: Clock = field(default_factory=Clock)
    headroom: Headroom = field(default_factory=Headroom)
    policy: OnDemand = field(default_factory=OnDemand)

    def encoder(self, model: Any, **options: Any) -> SafeEncoder:
        """Make an encoder; its policy is that of the controls, unless *options* name another."""
        given = {"clock": self.clock, "headroom": self.headroom, "idle_seconds": 3600.0}
        return encoder_with(**given)(model, **{"reload": self.policy, **options})

    def take(self, encoder: SafeEncoder, rung: Rung) -> None:
        """Have a rung taken, also if it failed a moment ago, and wait until that has ended."""
        self.clock.now += _LONGEST_BACK_OFF_SECONDS
        self.policy.rungs.append(rung)
        encoder.plan("雨")
        encoder.backend.idle()
        assert not self.policy.rungs


@dataclass(eq=False)
class Loader:
    """A function that loads a model, and watches all models that it has loaded.

    Attributes:
        folder: Of the model.
        fault: Called before a load; what it gives is taken for the model, unless that is ``None``.
        before_batch: Called with the features of every batch.
        loads: How often it was called.
        most_at_once: How many calls were under way at once, at most.
        threads: Where it was called; the first is the encoder's own.
        batches: For each batch, that of a check included, the number of the load of its model.
    """

    folder: Path
    fault: Callable[[], Any] | None = None
    before_batch: Callable[[Any], object] | None = None
    loads: int = 0
    at_once: int = 0
    most_at_once: int = 0
    threads: list[threading.Thread] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    loaded: list[weakref.ref[Any]] = field(default_factory=list)

    def __call__(self) -> Any:
        """Load."""
        from sentence_transformers import SentenceTransformer

        self.loads += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.threads.append(threading.current_thread())
        try:
            if self.fault is not None and (other := self.fault()) is not None:
                return other
            model = SentenceTransformer(str(self.folder), device="cpu")
            self._watch(model, self.loads)
            return model
        finally:
            self.at_once -= 1

    def _watch(self, model: Any, number: int) -> None:
        def note(_: Any, args: tuple[Any, ...]) -> None:
            self.batches.append(number)
            if self.before_batch is not None:
                self.before_batch(args[0])

        model.register_forward_pre_hook(note)
        self.loaded.append(weakref.ref(model))

    @property
    def models(self) -> list[Any]:
        """The models that are still there, oldest first."""
        return [model for watched in self.loaded if (model := watched()) is not None]

    @property
    def model(self) -> Any:
        """The newest model."""
        return self.models[-1]
