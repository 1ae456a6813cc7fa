"""Calls of an event loop: awaited, and where their own steps take long, done on another thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class _Step(NamedTuple):
    """What a generator of futures has come to: its next future, or its end with a value."""

    is_last: bool
    value: Any


async def drive_async(steps: Generator[Future[Any], Any, T], *, aside: bool = False) -> T:
    """Wait for the futures of a generator one by one, without blocking the event loop.

    Args:
        steps: Yields futures, is sent their results or errors, and returns the value.
        aside: Whether the steps between two futures may take long, and are done on another thread.

    Returns:
        The value.
    """
    go_on: Callable[[], Future[Any]] = partial(next, steps)
    while True:
        step = await _Aside(steps, go_on).take() if aside else _take(go_on)
        if step.is_last:
            value: T = step.value
            return value
        try:
            result = await asyncio.wrap_future(step.value)
        except BaseException as error:  # noqa: BLE001 the steps may have something to end
            go_on = partial(steps.throw, error)
        else:
            go_on = partial(steps.send, result)


def _take(go_on: Callable[[], Future[Any]]) -> _Step:
    try:
        return _Step(is_last=False, value=go_on())
    except StopIteration as done:  # no future can hold it
        return _Step(is_last=True, value=done.value)


class _Aside:
    """One step on another thread; if its task is cancelled meanwhile, the call is given up.

    Args:
        steps: The generator.
        go_on: Takes the step.
    """

    def __init__(
        self, steps: Generator[Future[Any], Any, Any], go_on: Callable[[], Future[Any]]
    ) -> None:
        self._steps = steps
        self._go_on = go_on
        self._lock = threading.Lock()
        self._step: _Step | None = None
        self._is_given_up = False

    async def take(self) -> _Step:
        """Take the step, and wait for that."""
        try:
            return await asyncio.to_thread(self._run)
        except asyncio.CancelledError:
            with self._lock:
                self._is_given_up = True
                is_over = self._step is not None
            if is_over:
                self._give_up()
            raise

    def _run(self) -> _Step:
        step = _take(self._go_on)
        with self._lock:
            self._step = step
            is_given_up = self._is_given_up
        if is_given_up:
            self._give_up()
        return step

    def _give_up(self) -> None:
        if self._step is not None and not self._step.is_last:
            self._step.value.cancel()
        self._steps.close()
