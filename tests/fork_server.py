"""Worker processes that begin in a moment, as torch need not be imported by each of them.

A server imports what workers import, once, and forks a worker whenever the library starts a
process. The worker then runs the code, with the arguments, the environment, the descriptors and the
blocked signals that ``subprocess.Popen`` was to have given it, in the same folder; only the start of
an interpreter and its imports are left out. Where those are the point, a test asks for the fixture ``real_starts``.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

# What a worker imports.
_IMPORTED = ("safe_embed.backends.process.worker", "sentence_transformers", "torch")
_PR_SET_CHILD_SUBREAPER = 36
# A request: its length, then a pickle.
_LENGTH_BYTES = 8


@dataclass(frozen=True)
class Start:
    """The arguments of ``subprocess.Popen`` with which the library starts a worker process."""

    arguments: list[str]
    pipe: int
    environment: dict[str, str]
    blocked: list[int]


@dataclass(eq=False)
class Forked:
    """A worker, with what the library uses of a ``Popen``."""

    pid: int
    returncode: int | None = None

    def wait(self) -> int:
        """Wait for its end."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def kill(self) -> None:
        """Kill it, if it has not been waited for."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)


class ForkServer:
    """The server, as seen from the tests' process; Linux alone has what it needs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pipe, theirs = socket.socketpair()
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined] # noqa: SLF001
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *flags, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "TQDM_DISABLE": "1"},  # as the library has it for workers
            )

    def close(self) -> None:
        """End the server; workers live on."""
        self._pipe.close()
        self._process.wait()

    def subprocess(self) -> Any:
        """The module ``subprocess``, with a ``Popen`` that forks."""
        return SimpleNamespace(**{**vars(subprocess), "Popen": self._start})

    def _start(
        self,
        arguments: list[str],
        *,
        pass_fds: list[int],
        env: dict[str, str],
        stderr: int | None,
        **_: Any,
    ) -> Forked:
        blocked = [*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))]
        [pipe] = pass_fds
        request = pickle.dumps(Start(arguments, pipe, env, blocked))
        with self._lock, Path(os.devnull).open("wb") as nowhere, _working_folder() as folder:
            error = 2 if stderr is None else nowhere.fileno()
            length = len(request).to_bytes(_LENGTH_BYTES, "big")
            # A process whose parent ends is given to the next one above that takes such.
            _set_subreaper(is_on=True)
            try:
                socket.send_fds(self._pipe, [length], [pipe, error, folder])
                self._pipe.sendall(request)
                answer = self._pipe.recv(_LENGTH_BYTES, socket.MSG_WAITALL)
            finally:
                _set_subreaper(is_on=False)
        if not answer:
            raise ChildProcessError("the fork server has ended")
        return Forked(int.from_bytes(answer, "big"))


@contextlib.contextmanager
def _working_folder() -> Iterator[int]:
    """Open it; it may have been deleted."""
    folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield folder
    finally:
        os.close(folder)


def _set_subreaper(*, is_on: bool) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(is_on), 0, 0, 0)


def _serve(server: socket.socket) -> None:
    """Fork a worker for each request, until nobody asks any more."""
    while True:
        length, descriptors, _, _ = socket.recv_fds(server, _LENGTH_BYTES, 3)
        if not length:
            return
        size = int.from_bytes(length, "big")
        start = pickle.loads(server.recv(size, socket.MSG_WAITALL))  # noqa: S301 of the tests
        between = os.fork()
        if not between:
            between = os.getpid()
            if os.fork():
                os._exit(0)
            _be_worker(server, start, descriptors, between)
        os.waitpid(between, 0)
        for descriptor in descriptors:
            os.close(descriptor)


def _be_worker(server: socket.socket, start: Start, descriptors: list[int], between: int) -> None:
    """Be as a process that was just started, once this is a child of the tests' process."""
    try:
        while os.getppid() == between:
            time.sleep(0.0005)
        server.sendall(os.getpid().to_bytes(_LENGTH_BYTES, "big"))
        server.close()
        pipe, error, folder = descriptors
        os.fchdir(folder)
        os.dup2(error, 2)
        os.dup2(pipe, start.pipe, inheritable=True)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1):
            os.dup2(nowhere, standard)
        for descriptor in {pipe, error, folder, nowhere} - {start.pipe}:
            os.close(descriptor)
        os.environ.clear()
        os.environ.update(start.environment)
        at = start.arguments.index("-c")
        sys.argv[:] = ["-c", *start.arguments[at + 2 :]]
        sys.modules["__main__"] = ModuleType("__main__")
        signal.pthread_sigmask(signal.SIG_SETMASK, start.blocked)
        exec(start.arguments[at + 1], vars(sys.modules["__main__"]))  # noqa: S102 the library's own
    except BaseException:  # noqa: BLE001 it is said where a worker's errors are
        traceback.print_exc()
    finally:
        os._exit(1)


if __name__ == "__main__":
    # The terminal's signals are for workers, which take them as they were started.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    for name in _IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    # Requests name this class as the tests' process knows it.
    sys.modules["fork_server"] = sys.modules["__main__"]
    _serve(socket.socket(fileno=int(sys.argv[1])))
