"""Run the experiments, each in a fresh process, and decide."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from safe_embed.diagnosis.case import judged
from safe_embed.diagnosis.decide import decide
from safe_embed.diagnosis.environment import environment
from safe_embed.diagnosis.experiments import (
    KINDS,
    GoOn,
    Look,
    Observation,
    Order,
    Part,
    Progress,
    Subject,
)
from safe_embed.diagnosis.growth import FEWEST_CALLS, further_calls
from safe_embed.diagnosis.report import Diagnosis
from safe_embed.diagnosis.subjects import is_importable, model_folder
from safe_embed.errors import ConfigError, both
from safe_embed.foreign import shown
from safe_embed.ipc.connection import Connection, ConnectionClosedError
from safe_embed.ipc.spawn import start_process
from safe_embed.ipc.surroundings import Surroundings
from safe_embed.memory.sampling import take_sample

BUDGET_SECONDS = 180.0
SMALLEST_BUDGET_SECONDS = 30.0
# Below 20 kB a call, 2,000 calls rise by more than the noise of a heap.
CALLS = 2_000
_MOST_CALLS = 8_000
# Two cores: two processes at a time.
_AT_ONCE = 2
# Of the budget, for the last process to end and the report.
_RESERVE = 0.08
_MOST_BYTES = 2**30
_SHARE_OF_ROOM = 0.2
_GRACE_SECONDS = 20.0
_ENTRY = "safe_embed.diagnosis.probe:main"
# OpenMP: with one thread there are no native threads that could pile up; sleeping threads do not
# wait for each other on a busy machine. No progress bars of the libraries.
_VARIABLES = {
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "passive",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

Report = Callable[[str, int, int], None]
"""Is told the progress: name of an experiment, calls so far, calls planned (0 while it loads)."""


def diagnose(  # noqa: PLR0913 the options of the command
    model: str = "offline",
    *,
    encoder: Literal["sentence-transformers", "safe-embed"] = "sentence-transformers",
    target: str | None = None,
    texts: Iterable[str] = (),
    calls: int = CALLS,
    budget_seconds: float = BUDGET_SECONDS,
    device: str | None = None,
    progress: Report = lambda _name, _calls, _planned: None,
) -> Diagnosis:
    """Run small experiments, each in a fresh process, and say why memory grows.

    Args:
        model: A folder, the name of a model, or ``"offline"`` for the packaged one.
        encoder: What embeds: ``"sentence-transformers"`` or ``"safe-embed"``.
        target: A function of one's own to examine in the place of a model, as
            ``"package.module:function"``. Each process imports it; it is called with a text, or
            with nothing if it takes no argument.
        texts: Texts that the inputs are cut from; empty for the packaged manual.
        calls: Calls of each experiment before its curve is judged, 2,000 by default,
            at least 200. An experiment makes fewer if the budget does not suffice, and more while
            its verdict is open.
        budget_seconds: Time for everything, 180 by default, at least 30.
        device: Device of the model; ``None`` leaves it to sentence-transformers.
        progress: Is told how far each experiment is, from several threads.

    Returns:
        The diagnosis.

    Raises:
        ConfigError: If an argument is wrong, or no experiment could be run.
        MissingExtraError: If scipy or pymannkendall is not installed.
    """
    started = time.monotonic()
    subject = Subject(encoder, model, device, target, tuple(texts))
    _check(subject, calls, budget_seconds)
    names = [name for name, kind in KINDS.items() if kind.part in _parts(subject)]
    deadline = started + budget_seconds * (1 - _RESERVE)
    runner = _Runner(subject, calls, deadline, len(names), progress)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        observations = tuple(pool.map(runner.run, names))
    if all(one.error for one in observations):
        raise _nothing_ran(observations[0].error or "")
    growths = {one.name: judged(one) for one in observations if not one.error and one.calls > 1}
    return Diagnosis(
        target or f"{encoder}, model {Path(model).name}",  # a path may name a user
        tuple(decide(observations)),
        observations,
        growths,
        environment(device),
        time.monotonic() - started,
    )


def _parts(subject: Subject) -> tuple[Part, ...]:
    """What can be examined by itself: the parts of upstream's own way, and our splitters."""
    if subject.target is not None:
        return ("whole",)
    if subject.encoder == "safe-embed":
        return ("whole", "splitter")
    return ("whole", "tokenizer", "forward", "splitter")


def _check(subject: Subject, calls: int, budget_seconds: float) -> None:
    judged(Observation("same text", (0, 0)))  # the libraries are there
    if calls < FEWEST_CALLS:
        raise ConfigError(
            both(
                f"calls={shown(calls)}: growth is judged from {FEWEST_CALLS} calls on. Give as "
                "many.",
                f"calls={shown(calls)}: 増加の判定には {FEWEST_CALLS} 回以上の呼び出しが必要です。",
            )
        )
    if not budget_seconds >= SMALLEST_BUDGET_SECONDS:
        raise ConfigError(
            both(
                f"budget_seconds={shown(budget_seconds)}: give {SMALLEST_BUDGET_SECONDS:.0f} s or "
                "more; each process takes some seconds to load.",
                f"budget_seconds={shown(budget_seconds)}: {SMALLEST_BUDGET_SECONDS:.0f} 秒以上に"
                "します。プロセスの起動だけで数秒かかります。",
            )
        )
    if subject.target is None:
        model_folder(subject.model)  # builds the packaged model, once, before the time counts
        return
    module, _, function = subject.target.partition(":")
    if not function or not is_importable(module):
        raise ConfigError(
            both(
                f"target={subject.target!r} names no module that can be imported from here. Give "
                "'package.module:function'.",
                f"target={subject.target!r} のモジュールをここからインポートできません。"
                "'package.module:function' の形で指定してください。",
            )
        )


def _nothing_ran(error: str) -> ConfigError:
    refused = error.removeprefix("ConfigError: ")
    if refused != error:
        english, _, japanese = refused.partition("\n")
        return ConfigError(both(english, japanese))
    return ConfigError(
        both(
            f"No experiment could be run: the first call ended with {error}. Call the function "
            "once in Python to see the error.",
            f"実験を実行できませんでした。最初の呼び出しが {error} で終わりました。Python で一度"
            "呼び出して、エラーを確認してください。",
        )
    )


class _Runner:
    """Runs experiments, each in a process, and shares the time among them."""

    def __init__(
        self, subject: Subject, calls: int, deadline: float, count: int, report: Report
    ) -> None:
        self._subject, self._calls, self._report = subject, calls, report
        self._deadline, self._left = deadline, count
        self._lock = threading.Lock()
        room = take_sample().room_bytes
        self._most_bytes = min(_MOST_BYTES, int((room or _MOST_BYTES) * _SHARE_OF_ROOM))

    def run(self, name: str) -> Observation:
        """Run an experiment to its end; what goes wrong is in the observation."""
        seconds = self._share()
        order = Order(name, self._subject, self._calls, seconds, self._most_bytes)
        ours = {key: value for key, value in _VARIABLES.items() if key not in os.environ}
        process, connection = start_process(Surroundings(ours), _ENTRY)
        timer = threading.Timer(seconds + _GRACE_SECONDS, process.kill)
        timer.start()
        try:
            return self._talk(order, connection)
        except ConnectionClosedError:
            return Observation(name, error="end of its process")
        finally:
            timer.cancel()
            connection.close()
            process.kill()
            process.wait()

    def _share(self) -> float:
        """An equal part of the time that is left, for each process that runs at a time."""
        with self._lock:
            left, self._left = self._left, self._left - 1
        remaining = max(1.0, self._deadline - time.monotonic())
        return min(remaining, remaining * _AT_ONCE / max(left, _AT_ONCE))

    def _talk(self, order: Order, connection: Connection) -> Observation:
        connection.send(order)
        while True:
            message = connection.receive()
            if isinstance(message, Progress):
                self._report(order.name, message.calls, message.planned)
            elif isinstance(message, Look):
                connection.send(GoOn(self._more(message.observation)))
            else:
                observation: Observation = message
                return observation

    def _more(self, observation: Observation) -> int:
        """How many calls more: none if the curve is clear, or there is no time."""
        if observation.is_out_of_time or observation.calls < 2:  # noqa: PLR2004 no curve
            return 0
        grown = observation.held_bytes[-1] - observation.held_bytes[0]
        if grown > self._most_bytes:
            return 0
        return further_calls(judged(observation), _MOST_CALLS)
