"""A log of the memory of one's own process, as JSON lines."""

from __future__ import annotations

import functools
import inspect
import logging
import math
import os
import platform
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from safe_embed.diagnosis.environment import package_versions
from safe_embed.diagnosis.log_file import header_line, is_log, to_line
from safe_embed.diagnosis.readings import Reader, held_reader
from safe_embed.errors import ConfigError, both
from safe_embed.memory.allocators import allocator_name
from safe_embed.memory.sizes import parse_size

_LEAST_INTERVAL_SECONDS = 0.01
_LEAST_BYTES = 65_536
# 100,000 free blocks are visited in 20 ms: 0.03 % of the time.
_HEAP_SECONDS = 60.0
# Lines of calls that wait for the next interval: 100 kB, which is no growth to be seen.
_MOST_PENDING = 1000
# So few lines are kept even if they are too long for the file: threads have a great many names.
_FEWEST_LINES = 10
# The kinds of lines. Only a reading at the interval has this key.
_INTERVAL, _CALL = 0, 1
_OF_INTERVAL = b'"python_threads"'

Function = TypeVar("Function", bound=Callable[..., Any])


class MemoryLog:
    """A log that is being written; see :func:`safe_embed.watch`.

    Its methods may be called from any thread. In a forked child they do nothing.
    """

    def __init__(
        self,
        path: Path,
        *,
        interval_seconds: float,
        each_call: bool,
        device: str | None,
        max_bytes: int,
    ) -> None:
        self._file = _LogFile(path, max_bytes)
        self._interval_seconds = interval_seconds
        self._each_call = each_call
        self._device = device
        self._calls = 0
        self._pid: int | None = None  # of the process that writes; None before and after
        # Reentrant: a signal handler may count a call, too.
        self._lock = threading.RLock()
        self._ended = threading.Event()

    @property
    def calls(self) -> int:
        """Number of calls so far."""
        return self._calls

    def call(self) -> None:
        """Count a call that has ended; with ``each_call`` its memory is read now."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._calls += 1
            if self._each_call and self._file.wants(_CALL, self._calls - 1):
                values = {
                    "elapsed_seconds": round(time.monotonic() - self._start, 3),
                    "calls": self._calls,
                    "rss_anon_bytes": self._held(),
                }
                self._file.add(to_line(values))

    def wrap(self, function: Function) -> Function:
        """Make a function of which each call is counted when it ends, also by an error.

        Args:
            function: A function, or a coroutine function.

        Returns:
            A function that does the same.
        """
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def counted_later(*args: Any, **kwargs: Any) -> Any:
                try:
                    return await function(*args, **kwargs)
                finally:
                    self.call()

            return cast("Function", counted_later)

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            finally:
                self.call()

        return cast("Function", counted)

    def __enter__(self) -> Self:
        if self._pid is not None or self._ended.is_set():
            raise ConfigError(
                both(
                    "A memory log is written once. Call safe_embed.watch for each block.",
                    "メモリの記録は一度だけ使えます。ブロックごとに safe_embed.watch を"
                    "呼んでください。",
                )
            )
        self._file.open(
            header_line(
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                pid=os.getpid(),
                interval_seconds=self._interval_seconds,
                each_call=self._each_call,
                device=self._device,
                packages=package_versions(),
                python=platform.python_version(),
                platform=platform.platform(),
                allocator=allocator_name(),
            )
        )
        self._held = held_reader()
        self._reader = Reader(self._device, costly_seconds=_HEAP_SECONDS)
        self._read()
        self._start = self._reader.start_seconds  # one clock for calls and intervals
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="safe-embed-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pid != os.getpid():
            return
        self._ended.set()
        self._thread.join()
        self._read()
        self._pid = None
        self._file.close()

    def _run(self) -> None:
        tick = 0
        while not self._ended.wait(self._interval_seconds):
            tick += 1
            if self._file.wants(_INTERVAL, tick):
                self._read()
            else:
                with self._lock:
                    self._file.flush()

    def _read(self) -> None:
        with self._lock:
            self._file.add(to_line(self._reader.take(self._calls).to_dict()))
            self._file.flush()


def watch(
    path: str | PathLike[str],
    *,
    interval_seconds: float = 10.0,
    each_call: bool = False,
    device: str | None = None,
    max_bytes: int | str = "8 MiB",
) -> MemoryLog:
    """Log the memory of this process while a ``with`` block runs, as JSON lines.

    A daemon thread writes a reading at each interval: elapsed time, RssAnon, RssFile, address
    space, threads (native, and Python threads by name), memory that the C heap uses and keeps,
    device memory, file descriptors, and the number of calls. Texts are never written. The first
    line tells versions, platform, allocator and the time. Every line is written whole, so that the
    log of a process that was killed can be read; ``safe-embed doctor --log FILE`` does.

    When the file has reached *max_bytes*, every second reading is dropped and from then on only
    every second is written: the whole curve stays, evenly spaced, in a file of bounded size, at
    half the density. A log of an earlier process at the same path is renamed, with ``.1`` added to
    its name. Give each process a path of its own. Where the disk is full, the log ends with a
    warning and the program goes on. Nothing is logged in a forked child.

    .. code-block:: python

        with safe_embed.watch("memory.jsonl") as log:
            serve(log.wrap(encoder.encode))

    Args:
        path: The file to write.
        interval_seconds: Time between two readings, 0.01 or more. One takes 1 to 3
            milliseconds, 0.03 % of a core at the default. The C heap is measured once a minute.
        each_call: Whether RssAnon is read after each call as well, in about 40 microseconds. Calls
            are counted by :meth:`safe_embed.diagnosis.MemoryLog.call` or
            :meth:`safe_embed.diagnosis.MemoryLog.wrap`.
        device: A device whose memory is read as well, such as ``"mps"`` or ``"cuda:0"``.
        max_bytes: The most that the file takes: a number of bytes or a text such as ``"8 MiB"``,
            64 KiB or more. At the default interval 8 MiB hold three days at full density.

    Returns:
        A context manager that gives the log, to count calls.

    Raises:
        ConfigError: If an argument is invalid. On entering the block: if the path cannot be
            written, or holds a file that is no memory log.
    """
    size = parse_size(max_bytes)
    if not (math.isfinite(interval_seconds) and interval_seconds >= _LEAST_INTERVAL_SECONDS):
        raise ConfigError(
            both(
                f"interval_seconds={interval_seconds}: give {_LEAST_INTERVAL_SECONDS} or more.",
                f"interval_seconds={interval_seconds}: {_LEAST_INTERVAL_SECONDS} 以上にします。",
            )
        )
    if size < _LEAST_BYTES:
        raise ConfigError(
            both(
                f"max_bytes={max_bytes}: give 64 KiB or more.",
                f"max_bytes={max_bytes}: 64 KiB 以上にします。",
            )
        )
    return MemoryLog(
        Path(path),
        interval_seconds=interval_seconds,
        each_call=each_call,
        device=device,
        max_bytes=size,
    )


class _LogFile:
    """Whole lines into a file of bounded size.

    Lines are collected here and not in a buffer of the file: that of a forked child would be
    written at the child's end, a second time.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._pending: list[bytes] = []
        self._strides = {_INTERVAL: 1, _CALL: 1}
        self._is_open = False

    def open(self, header: bytes) -> None:
        try:
            if self._path.exists() and (
                not self._path.is_file() or (self._path.stat().st_size and not is_log(self._path))
            ):
                raise ConfigError(
                    both(
                        f"{self._path}: is there, and is no memory log. Give another path.",
                        f"{self._path}: メモリの記録ではないものがすでにあります。"
                        "別のパスを指定してください。",
                    )
                )
            if self._path.exists() and self._path.stat().st_size:
                self._path.replace(f"{self._path}.1")
            self._file = self._path.open("w+b", buffering=0)
            self._size = self._file.write(header)
        except OSError as error:
            raise ConfigError(
                both(
                    f"{self._path}: cannot be written ({error.strerror}). Give a path in a folder "
                    "that is there and may be written.",
                    f"{self._path}: 書き込めません（{error.strerror}）。"
                    "書き込めるフォルダーのパスを指定してください。",
                )
            ) from error
        self._is_open = True

    def wants(self, kind: int, number: int) -> bool:
        """Whether the reading of this number, from 0, is one of those that are written."""
        return self._is_open and number % self._strides[kind] == 0

    def add(self, line: bytes) -> None:
        self._pending.append(line)
        if len(self._pending) >= _MOST_PENDING:
            self.flush()

    def flush(self) -> None:
        lines, self._pending = self._pending, []
        if not self._is_open or not lines:
            return
        try:
            content = b"".join(lines)
            if self._size + len(content) > self._max_bytes:
                self._rewrite(lines)
            else:
                self._size += self._file.write(content)
        except OSError as error:
            logging.getLogger("safe_embed").warning("%s: the log ends: %s", self._path, error)
            self.close()

    def close(self) -> None:
        self._is_open = False
        self._file.close()

    def _rewrite(self, further: list[bytes]) -> None:
        """Write a new file, of every second line of the kind that takes more space."""
        self._file.seek(0)
        header, *lines = self._file.readall().splitlines(keepends=True)
        lines += further
        while len(header) + sum(map(len, lines)) > self._max_bytes and len(lines) > _FEWEST_LINES:
            of_calls = sum(len(line) for line in lines if _OF_INTERVAL not in line)
            kind = _CALL if 2 * of_calls > sum(map(len, lines)) else _INTERVAL
            lines = _every_second(lines, kind)
            self._strides[kind] *= 2
        # Replaced at once: a kill leaves the old file or the new one.
        part = Path(f"{self._path}.part")
        file = part.open("w+b", buffering=0)
        self._size = file.write(header + b"".join(lines))
        part.replace(self._path)
        self._file.close()
        self._file = file


def _every_second(lines: list[bytes], kind: int) -> list[bytes]:
    """Drop every second line of a kind."""
    kept = []
    number = -1
    for line in lines:
        is_thinned = (kind == _INTERVAL) == (_OF_INTERVAL in line)
        number += is_thinned
        if not is_thinned or number % 2 == 0:
            kept.append(line)
    return kept
