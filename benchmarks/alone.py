"""Arms in a process of their own, where no other arm's threads are.

libgomp lets its threads sleep between two operations, not spin, as soon as a process has more of
them than there are cores: two models that two threads use in turn are both slower for it, by up to
a quarter (https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

Makes = Callable[..., Mapping[str, Callable[..., Any]]]
# Idle threads of an arm spin for 3 ms before they sleep, on the cores that the next arm needs.
_CALM_SECONDS = 0.01

# All begin as forks of a process that has imported what takes seconds, and has run nothing; with
# CUDA, which no fork may inherit, each imports for itself.
_CONTEXT = get_context("spawn" if torch.cuda.is_available() else "forkserver")
_CONTEXT.set_forkserver_preload(["sentence_transformers", "safe_embed.encoder"])

_arms: dict[str, Callable[..., Any]] = {}
_kept: Any = None


class Alone:
    """A process with arms.

    Args:
        make: Makes them there: a function of a module, that gives each arm by name.
        *args: Its arguments.
    """

    def __init__(self, make: Makes, *args: Any) -> None:
        self._pool = ProcessPoolExecutor(
            1, mp_context=_CONTEXT, initializer=_begin, initargs=(make, args)
        )
        self._pool.submit(_keep, None)  # begins to load, beside the others

    def keep(self, inputs: Any) -> None:
        """Hand over what the arms are timed with."""
        self._pool.submit(_keep, inputs).result()

    def result(self, arm: str, *args: Any) -> Any:
        """Run an arm on what is given here, and give its result."""
        return self._pool.submit(_result, arm, args).result()

    def timed(self, arm: str, *options: Any) -> Callable[[], float]:
        """Give a function that runs an arm on what was kept, and gives its seconds."""
        return lambda: self._pool.submit(_seconds, arm, options).result()

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def _begin(make: Makes, args: tuple[Any, ...]) -> None:
    _arms.update(make(*args))


def _keep(inputs: Any) -> None:
    global _kept  # noqa: PLW0603 a process of one purpose
    _kept = inputs


def _result(arm: str, args: tuple[Any, ...]) -> Any:
    return _arms[arm](*args)


def _seconds(arm: str, options: tuple[Any, ...]) -> float:
    time.sleep(_CALM_SECONDS)
    started = time.perf_counter()
    _arms[arm](_kept, *options)
    return time.perf_counter() - started
