"""The descriptors 0, 1 and 2, which a daemon may have closed."""

from __future__ import annotations

import os
import socket

_STANDARD_ERROR = 2


def has_standard_error() -> bool:
    """Tell whether standard error can be written to.

    Returns:
        Whether descriptor 2 is open and inherited by child processes. A file that Python opened is
        not inherited: such a file got the number 2 by chance, after standard error was closed.
    """
    try:
        return os.get_inheritable(_STANDARD_ERROR)
    except OSError:
        return False


def above_standard(pipe: socket.socket) -> socket.socket:
    """Move a socket off the descriptors 0, 1 and 2, which are free where a daemon closed them.

    Args:
        pipe: A socket; closed if it is moved.

    Returns:
        The same socket, or a copy of it with a higher descriptor.
    """
    if pipe.fileno() > _STANDARD_ERROR:
        return pipe
    import fcntl  # Windows has none, and gets here never

    with pipe:
        return socket.socket(fileno=fcntl.fcntl(pipe, fcntl.F_DUPFD_CLOEXEC, _STANDARD_ERROR + 1))
