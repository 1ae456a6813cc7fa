"""A caller asks for a new model, and is told what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from safe_embed.errors import ReloadError


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
        left = "there is none now" if is_lost else "the old one serves on"
        failed = ReloadError(
            f"The model could not be loaded anew; {left}. See the error before this one."
        )
        failed.__cause__ = error
        self.done(failed)


def not_loaded_here() -> ReloadError:
    """Make the error of a request for a model that the user has loaded.

    Returns:
        The error.
    """
    return ReloadError(
        "The model was loaded elsewhere and cannot be loaded anew here. Pass a name, a "
        "folder or a loader to SafeEncoder instead of a SentenceTransformer."
    )
