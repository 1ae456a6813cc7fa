"""Messages between an encoder and its worker processes.

A message is pickled, but its large arrays travel as they are (protocol 5, out of band), over a pair
of sockets: no shared memory, no semaphore, nothing to be left over. Both ends are our own
processes; nothing is unpickled from anywhere else.

The encoder posts its messages, as the thread that deals with all workers waits for none of them. A
worker sends its own, as it must not pile up results.
"""

from __future__ import annotations

import contextlib
import pickle
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

# Smaller buffers are cheaper inside the message.
_OUT_OF_BAND_BYTES = 2**16
_COUNT = struct.Struct("<I")
_SIZE = struct.Struct("<Q")
# Written in one step: more than a socket holds where nobody has set that.
_STEP_BYTES = 2**18
# A worker that takes nothing for so long hangs.
SEND_SECONDS = 60.0


class ConnectionClosedError(Exception):
    """The other end is gone, or what it says can no longer be told apart."""


class UnreadableMessageError(Exception):
    """A message came whole, but what it holds cannot be made here."""


class Outbox:
    """Writes messages without waiting: what the socket does not take at once is written later.

    Whatever goes wrong shuts the socket down, so that both ends notice.

    Args:
        pipe: A connected stream socket.
        seconds: The other end hangs if it takes no byte for so long.
        stuck: Is called then, on a thread of its own.

    Attributes:
        is_stuck: Whether the other end hung.
        taken_bytes: What the other end has taken of messages that the socket did not hold at once.
    """

    def __init__(self, pipe: socket.socket, seconds: float, stuck: Callable[[], None]) -> None:
        self.is_stuck = False
        self.taken_bytes = 0
        self._pipe = pipe
        self._seconds = seconds
        self._stuck = stuck
        self._lock = threading.Lock()  # held for moments: the flusher writes without it
        self._left: deque[memoryview] = deque()
        self._flusher: threading.Thread | None = None  # lives while something is left
        self._is_closed = False

    def add(self, parts: Sequence[memoryview]) -> None:
        """Write what the socket takes at once; the flusher writes the rest.

        Args:
            parts: Of a message, none of them empty; not to be changed until they are written.

        Raises:
            ConnectionClosedError: If nothing can be written any more.
        """
        with self._lock:
            if self._is_closed:
                raise ConnectionClosedError
            self._left.extend(parts)
            if self._flusher is not None:
                return
            try:
                for part in parts:
                    if self._write() < part.nbytes:
                        self._begin()
                        break
            except (OSError, MemoryError, RuntimeError) as error:  # no thread could be begun
                self._end()
                _shut_down(self._pipe)
                raise ConnectionClosedError from error

    def close(self) -> None:
        """Drop what is left, and wait until nothing is being written."""
        with self._lock:
            self._is_closed = True
            flusher = self._flusher
        if flusher is not None:
            _shut_down(self._pipe)
            flusher.join()

    def abandon(self) -> None:
        """Drop what is left in a forked copy: no flusher is there, and perhaps holds the lock."""
        self._left = deque()

    def _begin(self) -> None:
        flusher = threading.Thread(target=self._flush, name="safe_embed-send", daemon=True)
        flusher.start()
        self._flusher = flusher

    def _flush(self) -> None:
        """Write until nothing is left, the other end is gone, or it takes nothing for too long."""
        writable = select.poll()
        writable.register(self._pipe, select.POLLOUT)
        try:
            while self._goes_on():
                # What is free may be too little for poll to tell, and yet shows that it reads.
                taken = self._write()
                if not taken and not writable.poll(self._seconds * 1000):
                    taken = self._write()
                    if not taken:
                        raise TimeoutError
                self.taken_bytes += taken
        except (OSError, MemoryError) as error:
            self.is_stuck = isinstance(error, TimeoutError)
            _shut_down(self._pipe)
            with self._lock:
                self._end()
            if self.is_stuck:
                self._stuck()

    def _goes_on(self) -> bool:
        with self._lock:
            if self._left and not self._is_closed:
                return True
            self._left.clear()
            self._flusher = None
            return False

    def _end(self) -> None:
        self._is_closed = True
        self._left.clear()
        self._flusher = None

    def _write(self) -> int:
        """Write of the first part what the socket takes; give how many bytes that is."""
        part = self._left[0]
        try:
            count = self._pipe.send(part[:_STEP_BYTES], socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        if count == part.nbytes:
            self._left.popleft()
        else:
            self._left[0] = part[count:]
        return count


class Connection:
    """One end of the connection between an encoder and a worker process.

    An end either posts its messages or sends them.

    Args:
        pipe: A connected stream socket.
        send_seconds: The other end hangs if it takes no byte of what was posted for so long.
        stuck: Is called then, on a thread of its own.
    """

    def __init__(
        self,
        pipe: socket.socket,
        send_seconds: float = SEND_SECONDS,
        stuck: Callable[[], None] = lambda: None,
    ) -> None:
        pipe.settimeout(None)  # whatever socket.setdefaulttimeout says
        self._pipe = pipe
        self._received_bytes = 0
        self._sending = threading.Lock()
        self._outbox = Outbox(pipe, send_seconds, stuck)

    @property
    def is_stuck(self) -> bool:
        """Whether the other end hung, and nothing can be posted any more."""
        return self._outbox.is_stuck

    @property
    def moved_bytes(self) -> int:
        """What shows that the other end runs: bytes that came from it, or that it took."""
        return self._received_bytes + self._outbox.taken_bytes

    def post(self, message: Any) -> None:
        """Let a message be written whole, after those before it, without waiting for its reader.

        Args:
            message: Anything that can be pickled. Large arrays are not copied, so they are not to
                be changed any more.

        Raises:
            ConnectionClosedError: If the other end is gone, or reads nothing any more.
        """
        self._outbox.add(_pickled(message))

    def send(self, message: Any) -> None:
        """Send a message whole, and wait until it is written; from any thread.

        Args:
            message: Anything that can be pickled.

        Raises:
            ConnectionClosedError: If the other end is gone.
        """
        parts = _pickled(message)
        with self._sending:
            try:
                for part in parts:
                    self._pipe.sendall(part)
            except OSError as error:
                raise ConnectionClosedError from error

    def receive(self) -> Any:
        """Wait for a message.

        Returns:
            The message.

        Raises:
            ConnectionClosedError: If the other end is gone, or there is no memory for what it says.
            UnreadableMessageError: If a message holds what cannot be made here; the next may do.
        """
        try:
            (count,) = _COUNT.unpack(self._read(_COUNT.size))
            sizes = self._read(count * _SIZE.size)
            head, *buffers = (self._read(size) for (size,) in _SIZE.iter_unpack(sizes))
        except MemoryError as error:  # half a message is read
            raise ConnectionClosedError from error
        try:
            return pickle.loads(head, buffers=buffers)  # noqa: S301 from a process of our own
        except BaseException as error:  # a module that exits as it is imported
            # What an object says that makes itself again may hold a text; names of code do not.
            kind = type(error)
            names_code = kind is AttributeError or kind is ModuleNotFoundError
            msg = f"{kind.__name__}: {error}" if names_code else kind.__name__
            raise UnreadableMessageError(msg) from error

    def hang_up(self) -> None:
        """Let both ends know that nothing more is said; the socket stays until :meth:`close`."""
        _shut_down(self._pipe)

    def close(self) -> None:
        """Free the socket, and drop what is posted and not written yet."""
        self._outbox.close()
        self._pipe.close()

    def abandon(self) -> None:
        """Free a forked copy of the socket; the process that it was copied from can go on."""
        self._outbox.abandon()
        self._pipe.close()

    def _read(self, size: int) -> bytearray:
        content = bytearray(size)
        view = memoryview(content)
        while view:
            try:
                count = self._pipe.recv_into(view)
            except OSError as error:
                raise ConnectionClosedError from error
            if not count:
                raise ConnectionClosedError
            self._received_bytes += count
            view = view[count:]
        return content


def _pickled(message: Any) -> list[memoryview]:
    """Give the parts of a message as they are written: sizes with the pickle, then large arrays."""
    buffers: list[pickle.PickleBuffer] = []

    def keeps(buffer: pickle.PickleBuffer) -> bool:
        is_small = buffer.raw().nbytes < _OUT_OF_BAND_BYTES
        if not is_small:
            buffers.append(buffer)
        return is_small

    pickled = pickle.dumps(message, protocol=5, buffer_callback=keeps)
    arrays = [buffer.raw() for buffer in buffers]
    sizes = [len(pickled), *(array.nbytes for array in arrays)]
    head = b"".join((_COUNT.pack(len(sizes)), *map(_SIZE.pack, sizes), pickled))
    return [memoryview(head), *arrays]


def _shut_down(pipe: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other end did so before
        pipe.shutdown(socket.SHUT_RDWR)
