"""Messages between an encoder and its worker processes, and how such a process is begun.

A message is pickled, but its large arrays travel as they are (protocol 5, out of band), over a pair
of sockets: no shared memory, no semaphore, nothing to be left over. Both ends are our own
processes; nothing is unpickled from anywhere else.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import struct
import subprocess
import sys
import threading
from typing import Any

from safe_embed.ipc.surroundings import Surroundings

# Smaller buffers are cheaper inside the message.
_OUT_OF_BAND_BYTES = 2**16
_COUNT = struct.Struct("<I")
_SIZE = struct.Struct("<Q")
# A worker that reads nothing for so long hangs.
_SEND_SECONDS = 60

# No `multiprocessing`: its children import the caller's __main__ again, which a notebook or a
# script without a guard does not survive. The folders that modules are found in come before any
# import: with -P, nothing is found in the working directory until then.
_BOOT = """
import sys
first = int(sys.argv[2])
sys.path[:] = sys.argv[first:]
import os, signal, socket
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which hangs up
for variable in sys.argv[3:first]:
    name, has_value, value = variable.partition("=")
    os.environ.pop(name, None)
    if has_value:
        os.environ[name] = value
del sys.argv[2:]
pipe = socket.socket(fileno=int(sys.argv[1]))
pipe.set_inheritable(False)
from safe_embed.backends.process.worker import main
main(pipe)
"""
_ARGUMENTS = 3  # of sys.argv above, before the variables


class WireClosedError(Exception):
    """The other end is gone, or what it says can no longer be told apart."""


class UnreadableError(Exception):
    """A message came whole, but what it holds cannot be made here."""


class Wire:
    """One end of the connection between an encoder and a worker process.

    Args:
        pipe: A connected stream socket.
    """

    def __init__(self, pipe: socket.socket) -> None:
        self._pipe = pipe
        self._sending = threading.Lock()

    def send(self, message: Any) -> None:
        """Send a message whole; from any thread.

        Args:
            message: Anything that can be pickled.

        Raises:
            WireClosedError: If the other end is gone, or reads nothing any more.
        """
        buffers: list[pickle.PickleBuffer] = []

        def keeps(buffer: pickle.PickleBuffer) -> bool:
            is_small = buffer.raw().nbytes < _OUT_OF_BAND_BYTES
            if not is_small:
                buffers.append(buffer)
            return is_small

        head = pickle.dumps(message, protocol=5, buffer_callback=keeps)
        parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
        sizes = b"".join(_SIZE.pack(part.nbytes) for part in parts)
        with self._sending:
            try:
                self._pipe.sendall(b"".join((_COUNT.pack(len(parts)), sizes, head)))
                for part in parts[1:]:
                    self._pipe.sendall(part)
            except OSError as error:
                raise WireClosedError from error

    def receive(self) -> Any:
        """Wait for a message.

        Returns:
            The message.

        Raises:
            WireClosedError: If the other end is gone, or there is no memory for what it says.
            UnreadableError: If the message holds what cannot be made here; the next one may do.
        """
        try:
            (count,) = _COUNT.unpack(self._read(_COUNT.size))
            sizes = self._read(count * _SIZE.size)
            head, *buffers = (self._read(size) for (size,) in _SIZE.iter_unpack(sizes))
        except MemoryError as error:  # half a message is read
            raise WireClosedError from error
        try:
            return pickle.loads(head, buffers=buffers)  # noqa: S301 from a process of our own
        except BaseException as error:  # a module that exits as it is imported
            # What an object says that makes itself again may hold a text; names of code do not.
            kind = type(error)
            names_code = kind is AttributeError or kind is ModuleNotFoundError
            msg = f"{kind.__name__}: {error}" if names_code else kind.__name__
            raise UnreadableError(msg) from error

    def hang_up(self) -> None:
        """Let both ends know that nothing more is said; the socket stays until :meth:`close`."""
        with contextlib.suppress(OSError):  # the other end did so before
            self._pipe.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free the socket; another process that has a copy of it can go on."""
        self._pipe.close()

    def _read(self, size: int) -> bytearray:
        found = bytearray(size)
        view = memoryview(found)
        while view:
            try:
                count = self._pipe.recv_into(view)
            except OSError as error:
                raise WireClosedError from error
            if not count:
                raise WireClosedError
            view = view[count:]
        return found


def begin_process(surroundings: Surroundings) -> tuple[subprocess.Popen[bytes], Wire]:
    """Begin a worker process, which runs :func:`safe_embed.backends.process.worker.main`.

    Its standard output leads nowhere, as the caller's may carry a protocol; errors go to the
    caller's.

    Args:
        surroundings: Where it finds modules, and what to set besides this process's environment.

    Returns:
        The process, and the wire to it.
    """
    at_start, path = surroundings.at_start(), surroundings.path()
    environment = dict(os.environ)
    usual = [f"{name}={environment[name]}" if name in environment else name for name in at_start]
    ours, theirs = socket.socketpair()
    with theirs:
        told = (str(theirs.fileno()), str(_ARGUMENTS + len(usual)), *usual, *path)
        process = subprocess.Popen(  # noqa: S603 this interpreter, with code from above
            [sys.executable, *_interpreter_flags(), "-P", "-c", _BOOT, *told],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**environment, **surroundings.variables, **at_start},
        )
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_SECONDS, 0))
    return process, Wire(ours)


def _interpreter_flags() -> list[str]:
    """Give the options that this interpreter runs with, such as -O, -I and -X utf8."""
    return list(subprocess._args_from_interpreter_flags())  # type: ignore[attr-defined] # noqa: SLF001
