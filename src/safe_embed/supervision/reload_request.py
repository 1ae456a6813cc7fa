"""A caller asks for a new model, and is told what became of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from safe_embed.errors import ReloadError, both
from safe_embed.memory.ladder import Ladder, Remedy
from safe_embed.memory.types import Rung
from safe_embed.supervision.model_swap import ModelSwap


@dataclass(frozen=True, slots=True)
class ReloadRequest:
    """A caller has asked for a new model.

    Attributes:
        reason: Why.
        done: Is called with ``None`` when the model was exchanged, or with a ReloadError.
        keep_tokenizer: Whether the tokenizer stays.
    """

    reason: str
    done: Callable[[BaseException | None], None]
    keep_tokenizer: bool

    def climb(self, ladder: Ladder, remedy: Remedy, swap: ModelSwap) -> Iterator[None]:
        """Reload the model, and report the result to the caller who asked.

        Args:
            ladder: Takes the rung.
            remedy: Loads the model.
            swap: Knows whether there is a model afterwards.

        Returns:
            An iterator; each ``next`` does a part of the work, until the model is loaded.
        """
        error: BaseException | None
        try:
            _, error = yield from ladder.take(Rung.MODEL, self.reason, remedy=remedy)
        except Exception as raised:  # noqa: BLE001 it belongs to the caller of reload()
            error = raised
        self.end(error, is_lost=swap.is_lost)

    def end(self, error: BaseException | None, *, is_lost: bool) -> None:
        """Say what became of the request.

        Args:
            error: What kept the model from being exchanged; ``None`` if it was.
            is_lost: Whether there is no model now.
        """
        if error is None:
            self.done(None)
            return
        left, left_ja = (
            ("there is none now", "いまはモデルがありません")
            if is_lost
            else ("the old one serves on", "前のモデルで続けます")
        )
        failed = ReloadError(
            both(
                f"The model could not be reloaded; {left}. See the error before this one.",
                f"モデルを読み込み直せませんでした。{left_ja}。直前のエラーを見てください。",
            )
        )
        failed.__cause__ = error
        self.done(failed)


def model_is_lost() -> ReloadError:
    """Make the error of a call for which there is no model.

    Returns:
        The error.
    """
    return ReloadError(
        both(
            "There is no model: it had to be dropped before the new one was loaded, which failed. "
            "It is tried again with later calls; the log says why it failed.",
            "モデルがありません。前のモデルを捨てたあとで、新しいモデルを読み込めませんでした。"
            "次の呼び出しでまた試します。理由はログにあります。",
        )
    )


def not_loaded_here() -> ReloadError:
    """Make the error of a request for a model that the user has loaded.

    Returns:
        The error.
    """
    return ReloadError(
        both(
            "The model was loaded elsewhere and cannot be reloaded here. Pass a name, a "
            "folder or a loader to SafeEncoder instead of a SentenceTransformer.",
            "読み込み済みの SentenceTransformer は読み込み直せません。SafeEncoder には、モデル名、"
            "フォルダー、ローダーのどれかを渡してください。",
        )
    )
