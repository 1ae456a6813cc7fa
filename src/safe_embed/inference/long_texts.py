"""Texts and prompts that do not fit, or that take long: refused by name, or reported in the log."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from safe_embed.errors import ConfigError, TextTooLongError, WorkerError, both
from safe_embed.inference.request import OnLong
from safe_embed.inference.tasks import LOST
from safe_embed.text.chunk_job import MAX_CHARS_PER_TOKEN

logger = logging.getLogger("safe_embed")

# Most indices of texts in a message.
_MOST_LISTED = 20


def check_prompt_length(prompt: str, budget_tokens: int) -> None:
    """Refuse a prompt that is too long by its characters, before it is tokenized.

    Args:
        prompt: What goes in front of every chunk, with the title of the text.
        budget_tokens: What one chunk may have.

    Raises:
        ConfigError: If the prompt has more characters than the tokenizer is given at once.
    """
    if len(prompt) > MAX_CHARS_PER_TOKEN * budget_tokens:
        msg = both(
            f"The prompt has {len(prompt)} characters, too many for the {budget_tokens} tokens "
            "that a chunk may have; a title counts as a part of the prompt. Use a shorter prompt "
            "or title, or a larger max_chunk_tokens.",
            f"プロンプト（タイトルがあれば、それも含む）が {len(prompt)} 字あり、チャンクの "
            f"{budget_tokens} トークンに収まりません。プロンプトやタイトルを短くするか、"
            "max_chunk_tokens を大きくしてください。",
        )
        raise ConfigError(msg)


def check_long(inputs: Sequence[Any], on_long: OnLong, budget_tokens: int, first: int) -> None:
    """Refuse or report texts that do not fit, as ``on_long`` says.

    Args:
        inputs: A ChunkedInput for each text, or LOST.
        on_long: As for :class:`safe_embed.SafeEncoder`.
        budget_tokens: What one chunk may have.
        first: Index of the first text in the caller's inputs.

    Raises:
        TextTooLongError: If texts do not fit and ``on_long="error"``.
    """
    if on_long == "error":
        refuse_long(inputs, "on_long='error'", budget_tokens, first)
    cut = _long(inputs, first) if on_long == "truncate" else []
    if cut:
        logger.warning(
            "%d of %d texts were cut at %d tokens: inputs %s",
            *(len(cut), len(inputs), budget_tokens, _listed(cut)),
        )


def refuse_long(inputs: Sequence[Any], asked: str, budget_tokens: int, first: int = 0) -> None:
    """Refuse texts that do not fit.

    Args:
        inputs: A ChunkedInput for each text, or LOST.
        asked: Which argument allows none, for the message.
        budget_tokens: What one chunk may have.
        first: Index of the first text in the caller's inputs.

    Raises:
        TextTooLongError: If there are any; it names every index.
    """
    long = _long(inputs, first)
    if long:
        msg = both(
            f"{len(long)} of {len(inputs)} texts have more than the {budget_tokens} "
            f"tokens of one chunk, and {asked} allows none: inputs {_listed(long)}. Shorten "
            "them, or use on_long='chunk' and the default output_value.",
            f"{len(inputs)} 件中 {len(long)} 件の文章が上限の {budget_tokens} トークンを"
            f"超えています（番号 {_listed(long)}）。短くするか、on_long='chunk' と既定の "
            "output_value を使ってください。",
        )
        raise TextTooLongError(msg, long)


def report_slow(tokens: int) -> None:
    """Log that shorter chunks are faster on a CPU.

    Args:
        tokens: Of a text that is read whole.
    """
    logger.warning(
        "A text of %d tokens is read whole, as the model can. On a CPU, SafeEncoder(..., "
        "max_chunk_tokens=512) is faster on such texts, and other calls wait less; the vector is "
        "then the mean of chunks.\n"
        "%d トークンの文章を、分けずに読みます。CPU では max_chunk_tokens=512 を指定すると、"
        "長い文章が速くなり、ほかの呼び出しの待ち時間も短くなります。",
        *(tokens, tokens),
    )


def lost_texts(lost: Sequence[int], results: Sequence[Any]) -> WorkerError:
    """Make the error for texts that no worker process survived.

    Args:
        lost: Their indices.
        results: What the other texts gave; ``None`` for these.

    Returns:
        The error.
    """
    msg = both(
        f"No worker process survived {len(lost)} of the texts: inputs {_listed(lost)}. The "
        "results of all others are in this error's .results; leave those texts out.",
        f"{len(lost)} 件の文章（番号 {_listed(lost)}）でワーカープロセスが異常終了しました。"
        "ほかの結果はこの例外の .results にあります。その文章を除いてください。",
    )
    return WorkerError(msg, lost, results)


def _long(inputs: Sequence[Any], first: int) -> list[int]:
    return [index for index, text in enumerate(inputs, first) if text is not LOST and text.is_long]


def _listed(indices: Sequence[int]) -> str:
    """Write indices for a message, the first few of many."""
    more = f", … ({len(indices)} in all)" if len(indices) > _MOST_LISTED else ""
    return ", ".join(map(str, indices[:_MOST_LISTED])) + more
