"""Start a child process that is connected to this one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from safe_embed.ipc.connection import SEND_SECONDS, Connection
from safe_embed.ipc.descriptors import above_standard, has_standard_error
from safe_embed.ipc.signals import held_back
from safe_embed.ipc.surroundings import Surroundings

# No `multiprocessing`: its children import the caller's __main__ again, which a notebook or a
# script without a guard does not survive. The folders that modules are found in come before any
# import: with -P, nothing is found in the working directory until then.
_BOOT = """
import sys
first = int(sys.argv[3])
sys.path[:] = sys.argv[first:]
import importlib, os, socket
for variable in sys.argv[4:first]:
    name, has_value, value = variable.partition("=")
    os.environ.pop(name, None)
    if has_value:
        os.environ[name] = value
module, _, function = sys.argv[2].partition(":")
pipe = socket.socket(fileno=int(sys.argv[1]))
pipe.set_inheritable(False)
del sys.argv[2:]
getattr(importlib.import_module(module), function)(pipe)
"""
_ARGUMENTS = 4  # of sys.argv above, before the variables


def start_process(
    surroundings: Surroundings, entry: str
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Start a process that runs a function, with the other end of a connection as its argument.

    Its standard output leads nowhere, as the caller's may carry a protocol; errors go to the
    caller's, if it has that. Ctrl-C and the like are held back until the function takes them; see
    :func:`safe_embed.ipc.signals.leave_to_parent`.

    Args:
        surroundings: Where it finds modules, and what to set besides this process's environment.
        entry: The function, as ``"module:function"``; it is given the socket.

    Returns:
        The process, and the connection to it.
    """
    at_start, path = surroundings.at_start(), surroundings.path()
    environment = dict(os.environ)
    usual = [f"{name}={environment[name]}" if name in environment else name for name in at_start]
    ours, theirs = map(above_standard, socket.socketpair())
    with theirs, held_back():
        pipe, first = str(theirs.fileno()), str(_ARGUMENTS + len(usual))
        process = subprocess.Popen(  # noqa: S603 this interpreter, with code from above
            [
                *(sys.executable, *_interpreter_flags(), "-P", "-c", _BOOT),
                *(pipe, entry, first, *usual, *path),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if has_standard_error() else subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env={**environment, **surroundings.variables, **at_start},
        )
    return process, Connection(ours, SEND_SECONDS, process.kill)


def _interpreter_flags() -> list[str]:
    """Give the options that this interpreter runs with, such as -O, -I and -X utf8."""
    return list(subprocess._args_from_interpreter_flags())  # type: ignore[attr-defined] # noqa: SLF001
