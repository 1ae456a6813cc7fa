"""An experiment in its own process: calls, what the process holds after each, and what comes back.

The process imports what it examines, calls it, and reports. When the parent asks for no more calls,
memory is given back step by step.
"""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import sys
import time
import tracemalloc
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

from safe_embed.diagnosis.containers import Container, container_sizes, grown_containers
from safe_embed.diagnosis.experiments import (
    TRIM,
    GoOn,
    Look,
    Observation,
    Order,
    Progress,
    Released,
)
from safe_embed.diagnosis.readings import (
    Reader,
    Reading,
    foreign_threads,
    held_reader,
    mapped_files,
    used_reader,
)
from safe_embed.diagnosis.stage_meter import StageMeter
from safe_embed.diagnosis.subjects import Called, make_called
from safe_embed.diagnosis.texts import TextMaker
from safe_embed.errors import ConfigError
from safe_embed.ipc.connection import Connection, ConnectionClosedError
from safe_embed.ipc.parent import end_with_parent
from safe_embed.ipc.signals import leave_to_parent
from safe_embed.memory.remedies import trim
from safe_embed.upstream import stages as upstream_stages

WARM_UP_CALLS = 20
READINGS = 50
# Of the time, what remains for giving memory back.
_SHARE_OF_CALLS = 0.8
_PROGRESS_SECONDS = 0.5
# A container that gains an entry every few calls holds what calls give.
_CALLS_PER_ENTRY = 4
# How deep below a line of the user's own code objects are made that it holds.
_FRAMES = 12
# So deep a trace makes calls ten times as slow: only these calls have it.
_CALLS_FOR_LINES = 30
_REPETITIONS = 50
_PACKAGES = frozenset(
    {"site-packages", "dist-packages", f"python{sys.version_info.major}.{sys.version_info.minor}"}
)
_HERE = Path(__file__).parent


class Experiment:
    """Calls what is examined, and notes what the process holds.

    Args:
        order: What is to be done.
        report: Is told the progress.
    """

    def __init__(self, order: Order, report: Callable[[Progress], None]) -> None:
        self._order, self._kind, self._report = order, order.kind, report
        self._deadline = time.monotonic() + order.deadline_seconds
        self._read = held_reader()
        self._reader = Reader(order.subject.device)
        self._called: Called = make_called(order.subject, order.kind.part)
        self._meter = StageMeter(self._read)
        self._maker = TextMaker(order.subject.texts, seed=sum(map(ord, order.name)))
        # Threads that stay alive, as those of a server.
        self._callers = cycle([ThreadPoolExecutor(1) for _ in range(self._kind.callers)])
        self._held = array("q")
        self._forwards = upstream_stages.Forwards()
        self._readings: list[Reading] = []
        self._again_from: int | None = None
        self._seconds = 0.0
        self._is_out_of_time = False

    def warm_up(self) -> int:
        """Make the first calls, and plan how many there is time for.

        Returns:
            The number of calls to make before the first look.
        """
        for at, text in enumerate(islice(self._maker.stream("short and long", ()), WARM_UP_CALLS)):
            if at == WARM_UP_CALLS // 2:  # the first calls load what is loaded lazily
                started = time.monotonic()
            self._called.call(text)
        pace = (time.monotonic() - started) / (WARM_UP_CALLS - WARM_UP_CALLS // 2)
        left = (self._deadline - time.monotonic()) * _SHARE_OF_CALLS
        fitting = int(left / (pace * (2 if self._kind.is_traced else 1)))
        planned = max(WARM_UP_CALLS, min(self._order.calls, fitting))
        self._is_out_of_time = planned < self._order.calls
        twice = self._kind.inputs == "each length twice" or self._kind.callers > 1
        self._again_from = planned // 2 if twice else None
        lengths = self._maker.lengths(max(1, planned // 2))
        self._texts = self._maker.stream(self._kind.inputs, lengths)
        if not self._kind.is_traced:  # now that the first calls have imported what they need
            self._forwards = upstream_stages.observe_stages(self._meter.stage)
            self._meter.reset()
        gc.collect()
        self._mappings = mapped_files()
        if self._kind.is_traced:
            self._sizes = container_sizes()
            tracemalloc.start()
        self._readings.append(self._reader.take(0, fresh=True))
        return planned

    def make_calls(self, count: int) -> None:
        """Make calls until there are so many, or the time is over, or too much has grown.

        Args:
            count: The number of calls.
        """
        every, told = max(1, count // READINGS), 0.0
        target = len(self._held) + count
        ends = self._deadline - (1 - _SHARE_OF_CALLS) * self._order.deadline_seconds
        for text in islice(self._texts, count):
            started = time.monotonic()
            with self._meter.stage("call"):
                self._call(text)
            self._note()
            ended = time.monotonic()
            self._seconds += ended - started
            if len(self._held) % every == 0:
                self._readings.append(self._reader.take(len(self._held)))
            if ended - told > _PROGRESS_SECONDS:
                told = ended
                self._report(Progress(len(self._held), target))
            if ended > ends or self._held[-1] - self._held[0] > self._order.most_bytes:
                self._is_out_of_time |= ended > ends
                break
        self._readings.append(self._reader.take(len(self._held), fresh=True))

    def _call(self, text: str) -> None:
        """Call from this thread, or from the next of many; those start half-way."""
        if self._kind.callers == 1 or len(self._held) < (self._again_from or 0):
            self._called.call(text)
        else:
            next(self._callers).submit(self._called.call, text).result()

    def _note(self) -> None:
        is_traced = self._kind.is_traced
        self._held.append(tracemalloc.get_traced_memory()[0] if is_traced else self._read())

    def look(self) -> Observation:
        """Tell what was observed so far."""
        mappings = mapped_files()
        new = {name: count - self._mappings.get(name, 0) for name, count in mappings.items()}
        return Observation(
            self._order.name,
            tuple(self._held),
            again_from=self._again_from,
            stage_bytes=dict(self._meter.grown),
            readings=tuple(self._readings),
            new_mappings={name: count for name, count in new.items() if count > 0},
            forward_threads=len(self._meter.threads),
            pools=foreign_threads(),
            seconds=self._seconds,
            is_out_of_time=self._is_out_of_time,
        )

    def held_objects(self) -> tuple[tuple[Container, ...], str]:
        """Name the containers that have grown, and the line of code that has grown most."""
        gc.collect()
        fewest = max(5, len(self._held) // _CALLS_PER_ENTRY)
        containers = tuple(grown_containers(self._sizes, fewest))
        tracemalloc.stop()
        tracemalloc.start(_FRAMES)
        for text in islice(self._texts, _CALLS_FOR_LINES):
            self._call(text)
        gc.collect()
        statistics = tracemalloc.take_snapshot().statistics("traceback")
        tracemalloc.stop()
        return containers, _line_that_grew(statistics)

    def forward_bytes(self) -> float | None:
        """How much memory is in use more after each repetition of the last forward pass."""
        if not self._forwards.all():
            return None
        read = used_reader()
        with contextlib.suppress(Exception):  # a forward that cannot be repeated shows nothing
            upstream_stages.repeat(self._forwards, _REPETITIONS // 10)
            before = read()
            upstream_stages.repeat(self._forwards, _REPETITIONS)
            return (read() - before) / _REPETITIONS
        return None

    def give_back(self) -> tuple[Released, ...]:
        """Give memory back, one step after the other."""
        self._forwards.close()
        steps: dict[str, Callable[[], object]] = {
            "gc": gc.collect,
            TRIM: lambda: trim((self._order.subject.device or "").partition(":")[0]),
            "tokenizer cache": upstream_stages.empty_tokenizers,
            "new tokenizer": upstream_stages.renew_tokenizers,
        }
        if self._called.renew is not None:
            steps["new model"] = self._called.renew
        released = []
        for name, step in steps.items():
            before = self._read()
            with contextlib.suppress(Exception):  # what cannot be done gives nothing back
                step()
            if name not in {"gc", TRIM}:
                trim()
            released.append(Released(name, before - self._read()))
        return tuple(released)


def _line_that_grew(statistics: Iterable[tracemalloc.Statistic]) -> str:
    """The innermost line outside installed packages whose objects have grown most."""
    grown: Counter[str] = Counter()
    for one in statistics:
        for frame in reversed(one.traceback):  # the innermost first
            path = Path(frame.filename)
            if path.is_file() and not _PACKAGES & set(path.parts) and path.parent != _HERE:
                grown[f"{path.name}:{frame.lineno}"] += one.size
                break
    return grown.most_common(1)[0][0] if grown else ""


def main(pipe: socket.socket) -> None:
    """Do one experiment: the whole life of the process.

    Args:
        pipe: Leads to the parent.
    """
    end_with_parent()
    leave_to_parent()
    connection = Connection(pipe)
    with contextlib.suppress(ConnectionClosedError):
        order: Order = connection.receive()
        try:
            connection.send(_observe(order, connection))
        except ConnectionClosedError:
            raise
        except BaseException as error:  # noqa: BLE001 of the user's function, whatever it is
            connection.send(_failed(order, error))
    sys.stderr.flush()
    os._exit(0)  # threads of what was examined may still run


def _observe(order: Order, connection: Connection) -> Observation:
    connection.send(Progress(0, 0))
    experiment = Experiment(order, connection.send)
    more = experiment.warm_up()
    while more:
        experiment.make_calls(more)
        connection.send(Look(experiment.look()))
        answer: GoOn = connection.receive()
        more = answer.calls
    observation = experiment.look()
    if order.kind.is_traced:
        containers, line = experiment.held_objects()
        return replace(observation, containers=containers, line=line)
    observation = replace(observation, forward_bytes=experiment.forward_bytes())
    return replace(observation, released=experiment.give_back())


def _failed(order: Order, error: BaseException) -> Observation:
    """What ended the experiment, by the name of its type: its message may hold a text."""
    name = f"{type(error).__name__}"
    if isinstance(error, ConfigError):
        name += f": {error}"
    return Observation(order.name, error=name)
