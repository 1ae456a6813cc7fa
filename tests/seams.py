"""What tests exchange and wait for: conditions of an encoder, a policy on demand, states."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from safe_embed import SafeEncoder
from safe_embed.memory.types import Event, MemorySample, Reason, Rung, Usage
from safe_embed.supervision.conditions import Conditions

WAYS = ("beside", "after")


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a state that another thread or process brings about."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the state did not come"
        time.sleep(0.002)


def encoder_with(**conditions: Any) -> type[SafeEncoder]:
    """SafeEncoder under other conditions; an idle one looks at its memory only when asked."""
    given = Conditions(**{"idle_seconds": 3600.0, **conditions})
    return type("SafeEncoder", (SafeEncoder,), {"conditions": given})


def beside(sample: MemorySample, load_bytes: int, weights_bytes: int) -> bool:
    """There is room for two models."""
    return True


def after(sample: MemorySample, load_bytes: int, weights_bytes: int) -> bool:
    """There is no room for two models: the old one goes first."""
    return False


HEADROOM = {"beside": beside, "after": after}


@dataclass
class OnDemand:
    """A policy that asks for the rungs that a test puts into *wanted*, one after the other."""

    wanted: list[Rung] = field(default_factory=list)

    def reason(self, usage: Usage) -> Reason | None:
        """Ask for the next rung, once."""
        return Reason("test", rung=self.wanted.pop(0)) if self.wanted else None

    def take(self, encoder: SafeEncoder, *rungs: Rung) -> None:
        """Let the encoder take rungs, and wait until it has."""
        self.wanted += rungs
        while self.wanted:
            encoder.backend.idle()
        encoder.backend.idle()


def kinds(encoder: SafeEncoder) -> list[tuple[str, Rung]]:
    """What the encoder did about memory."""
    return [(event.kind, event.rung) for event in encoder.stats.events]


@dataclass
class Hooked:
    """A hook that keeps its events, and does something at each."""

    then: Callable[[Event], Any] = lambda event: None
    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        """Keep the event."""
        self.events.append(event)
        self.then(event)
