"""A caller asks for a new model, and is told what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from safe_embed.errors import ReloadError, both


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
                f"The model could not be loaded anew; {left}. See the error before this one.",
                f"モデルを読み込み直せませんでした。{left_ja}。直前のエラーを見てください。",
            )
        )
        failed.__cause__ = error
        self.done(failed)


def not_loaded_here() -> ReloadError:
    """Make the error of a request for a model that the user has loaded.

    Returns:
        The error.
    """
    return ReloadError(
        both(
            "The model was loaded elsewhere and cannot be loaded anew here. Pass a name, a "
            "folder or a loader to SafeEncoder instead of a SentenceTransformer.",
            "読み込み済みの SentenceTransformer は読み込み直せません。SafeEncoder には、モデル名、"
            "フォルダー、ローダーのどれかを渡してください。",
        )
    )
