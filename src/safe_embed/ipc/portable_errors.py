"""Errors that another process can raise."""

from __future__ import annotations

import pickle
import traceback

from safe_embed.errors import SafeEmbedError, WorkerError, both


def portable(error: BaseException, *, reads_texts: bool = False) -> BaseException:
    """Make an error such that another process can raise it without importing anything for it.

    Args:
        error: Any error.
        reads_texts: Whether it was raised over texts, which its words may hold.

    Returns:
        The error itself if it is ours or a builtin, else the builtin it descends from, or a
        WorkerError; the traceback is in its notes. Where texts were read both are without words:
        those of a builtin are its raiser's own, and those that we repeat would be ours.
    """
    kind = type(error)
    words = "" if reads_texts else _words(error)
    text = f"{kind.__name__}: {words}" if words else f"{kind.__name__} in the worker process"
    said = both(text, f"ワーカープロセスで {kind.__name__} が起きました。")
    if isinstance(error, SafeEmbedError) or kind.__module__ == "builtins":
        sent = error
    else:
        bases = [base for base in kind.__mro__ if base.__module__ == "builtins"]
        base = bases[0] if bases[0] is not Exception else WorkerError
        try:
            sent = base(text) if base is not WorkerError else WorkerError(said)
        except TypeError:  # UnicodeError and the like want more
            sent = WorkerError(said)
    try:
        sent = pickle.loads(pickle.dumps(sent))  # noqa: S301 what was pickled here
    except Exception:  # noqa: BLE001 whatever it holds stays here
        sent = WorkerError(said)
    trace = _frames(error) if reads_texts else "".join(traceback.format_exception(error))
    sent.add_note(f"In the worker process:\n{trace}")
    return sent


def _words(error: BaseException) -> str:
    """What an error says; nothing if its own code cannot say it."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 whatever that raises, there is an error to be told already
        return ""


def _frames(error: BaseException | None) -> str:
    """Say where an error was raised, and those before it, without a word of theirs."""
    parts: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        where = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"{where}{type(error).__name__}\n")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "and then\n".join(reversed(parts))
