"""A search worker for a parent in any language: JSON-RPC 2.0 over standard input and output.

    python worker.py FOLDER [MODEL]

Methods: ``add_sections(sections=[{"id", "text"}, …])``, ``search(query, limit=5)``, ``stats()`` and
``shutdown()``. Requests run at the same time, and are answered as they end. The worker ends when it
is asked to, or when its parent has closed its input; what was begun is done first.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from protocol import (
    FAILED,
    NO_METHOD,
    NO_REQUEST,
    WRONG_PARAMS,
    Fault,
    Request,
    parse,
    refusal,
    response,
    written,
)
from sections import Sections

from safe_embed import SafeEncoder
from safe_embed.errors import SafeEmbedError

MOST_BYTES = 4 * 2**20
THREADS = 8
# Lines that are read before the first of them is answered: a parent that sends more has to wait.
MOST_WAITING = 64
MOST_RESULTS = 100
END = "shutdown"

Method = Callable[..., Any]


class Worker:
    """Answers lines.

    Args:
        methods: Name -> what does it.
        output: Where responses go.
    """

    def __init__(self, methods: dict[str, Method], output: BinaryIO) -> None:
        self._methods = methods
        self._output = output
        self._writing = threading.Lock()
        self._has_room = threading.Semaphore(MOST_WAITING)

    def serve(self, lines: BinaryIO) -> None:
        """Answer lines until ``shutdown`` or their end.

        Args:
            lines: Where requests come from.
        """
        with ThreadPoolExecutor(THREADS) as threads:
            while line := lines.readline(MOST_BYTES + 1):
                if line.isspace():
                    continue
                if len(line) > MOST_BYTES:
                    _skip_rest(line, lines)
                    line = b""
                requests, is_batch = parse(line) if line else ([_too_long()], False)
                if any(map(_is_end, requests)):
                    threads.shutdown()  # what was begun is answered first
                    self._answer(requests, is_batch=is_batch)
                    return
                self._has_room.acquire()
                done = threads.submit(self._answer, requests, is_batch=is_batch)
                done.add_done_callback(lambda _: self._has_room.release())

    def _answer(self, requests: list[Request | Fault], *, is_batch: bool) -> None:
        responses = [one for request in requests if (one := self._done(request)) is not None]
        if responses:
            self._write(responses if is_batch else responses[0])

    def _done(self, request: Request | Fault) -> dict[str, Any] | None:
        """Do a request; give the response, ``None`` for a notification."""
        if isinstance(request, Fault):
            return refusal(request)
        try:
            result = response(request.id, self._result(request))
        except Fault as fault:
            result = refusal(Fault(fault.code, str(fault), request.id))
        except Exception as error:  # noqa: BLE001 one failed request must not end the worker
            # The errors of safe_embed never quote a text; of others only the kind is passed on.
            message = str(error) if isinstance(error, SafeEmbedError) else type(error).__name__
            result = refusal(Fault(FAILED, message, request.id))
        return None if request.is_notification else result

    def _result(self, request: Request) -> Any:
        if (method := self._methods.get(request.method)) is None:
            known = ", ".join(self._methods)
            raise Fault(NO_METHOD, f"There is no such method. There are: {known}.")
        return method(**request.params)

    def _write(self, value: Any) -> None:
        try:
            with self._writing:
                self._output.write(written(value))
                self._output.flush()
        except BrokenPipeError:  # the parent is gone; its input ends, too
            pass


def methods_of(table: Sections, encoder: Any) -> dict[str, Method]:
    """Name what callers may ask for; each method checks what it is given."""

    def add_sections(sections: Any = None, **others: Any) -> dict[str, int]:
        _refuse(others, "add_sections", "sections")
        texts = _texts(sections)
        return {"sections": len(texts), "chunks": table.add(texts)}

    def search(query: Any = None, limit: Any = 5, **others: Any) -> list[dict[str, Any]]:
        _refuse(others, "search", "query, limit")
        if not isinstance(query, str) or not query.strip():
            raise Fault(WRONG_PARAMS, "query must be a text that is not empty.")
        if isinstance(limit, bool) or not isinstance(limit, int) or not 0 < limit <= MOST_RESULTS:
            raise Fault(WRONG_PARAMS, f"limit must be an integer from 1 to {MOST_RESULTS}.")
        return table.search(query, limit)

    def stats(**others: Any) -> dict[str, Any]:
        _refuse(others, "stats", "no parameter")
        seen = getattr(encoder, "stats", None)
        counts = {} if seen is None else {"reloads": seen.reloads, "calls": seen.calls}
        return {"chunks": len(table), "pid": os.getpid(), **counts}

    def shutdown(**others: Any) -> None:
        _refuse(others, END, "no parameter")

    return {"add_sections": add_sections, "search": search, "stats": stats, END: shutdown}


def _texts(given: Any) -> dict[str, str]:
    """Check the sections of a request: id -> text."""
    if not isinstance(given, list) or not given:
        raise Fault(WRONG_PARAMS, "sections must be a list of one section at least.")
    texts: dict[str, str] = {}
    for place, one in enumerate(given):
        is_right = isinstance(one, dict) and one.keys() == {"id", "text"}
        if not is_right or not all(isinstance(value, str) and value for value in one.values()):
            raise Fault(WRONG_PARAMS, f"Section {place} needs an id and a text, not empty.")
        if one["id"] in texts:
            raise Fault(WRONG_PARAMS, f"The id of section {place} comes twice.")
        texts[one["id"]] = one["text"]
    return texts


def _refuse(others: dict[str, Any], method: str, known: str) -> None:
    if others:
        raise Fault(WRONG_PARAMS, f"{method} has {known}, and no {', '.join(sorted(others))}.")


def _is_end(request: Request | Fault) -> bool:
    return isinstance(request, Request) and request.method == END and not request.params


def _too_long() -> Fault:
    return Fault(
        NO_REQUEST, f"The line has more than {MOST_BYTES} bytes. Send fewer sections in it."
    )


def _skip_rest(line: bytes, lines: BinaryIO) -> None:
    """Read to the end of a line without keeping it."""
    while line and not line.endswith(b"\n"):
        line = lines.readline(MOST_BYTES)


def main(make_encoder: Callable[[str], Any] = SafeEncoder) -> None:
    """Serve standard input and output.

    Args:
        make_encoder: Makes what embeds, from the name of a model.
    """
    folder, model = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "offline"
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the responses
    with make_encoder(model) as encoder:
        table = Sections(folder, encoder, model)
        Worker(methods_of(table, encoder), output).serve(sys.stdin.buffer)


if __name__ == "__main__":
    main()
