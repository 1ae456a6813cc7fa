"""Calls that are one task with one item: no text is cut for them, and nothing is embedded."""

from __future__ import annotations

from typing import Any, assert_never

from safe_embed.errors import WorkerError, both
from safe_embed.inference.request import (
    FetchFeatures,
    FetchFingerprint,
    FetchTokenizer,
    Move,
    SingleCall,
    StartPool,
)
from safe_embed.inference.tasks import (
    LOST,
    CopyTokenizer,
    EmbedFixedText,
    Flow,
    MoveModel,
    Preprocess,
    StartProcesses,
    Task,
    Wave,
)


def single(call: SingleCall) -> Flow[Any]:
    """Give the only stage of a call.

    Args:
        call: The call.

    Returns:
        A generator, as that of :meth:`Pipeline.stages`; it returns what the task gives, and raises
        a WorkerError if no worker process survives the task.
    """
    return _done(*_task_of(call))


def _done(task: Task, purpose: str) -> Flow[Any]:
    """Have a task done that has one item; *purpose* completes "before …" in the error."""
    [[value]] = yield Wave([task])
    if value is LOST:
        raise WorkerError(
            both(
                f"Every worker process ended before {purpose}. Call it again; if it comes again, "
                "look at the memory limit.",
                "どのワーカープロセスも途中で終了しました。もう一度呼び、繰り返すならメモリの上限を"
                "確かめてください。",
            )
        )
    return value


def _task_of(call: SingleCall) -> tuple[Task, str]:
    """Give the one task of a call, and what it is for, as an error says."""
    match call:
        case FetchTokenizer():
            return CopyTokenizer(), "the tokenizer was copied"
        case FetchFingerprint():
            return EmbedFixedText(), "the fingerprint of the model was made"
        case FetchFeatures():
            item = (call.texts, call.prompt, call.options)
            return Preprocess([item]), "the features were made"
        case Move():
            return MoveModel([(call.device, call.dtype)]), "the model was moved"
        case StartPool():
            return StartProcesses([call.devices]), "a pool was started"
        case _:
            assert_never(call)
