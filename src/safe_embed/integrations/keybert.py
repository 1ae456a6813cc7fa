"""KeyBERT: a backend; extra ``keybert``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safe_embed.errors import MissingExtraError
from safe_embed.integrations.held_encoder import HeldEncoder, Vectors

try:
    from keybert.backend import BaseEmbedder
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "safe_embed.integrations.keybert", error.name or "keybert", "keybert"
    ) from error

__all__ = ["SafeBackend"]


class SafeBackend(BaseEmbedder):
    """Embeds documents and words alike, by ``encode``: KeyBERT compares them with one another.

    Args:
        model: A SafeEncoder, or the name or folder of a model.
        encoder_options: Further arguments of SafeEncoder, with a name or a folder.
        encode_options: ``batch_size``, ``normalize_embeddings``, ``truncate_dim``,
            ``show_progress_bar`` and ``priority`` of every call.
        prompt_name: Which of the model's prompts goes in front, such as its prompt for topics.

    Raises:
        ConfigError: If an argument cannot work.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        encoder_options: Mapping[str, Any] | None = None,
        encode_options: Mapping[str, Any] | None = None,
        prompt_name: str | None = None,
    ) -> None:
        self._held = HeldEncoder(model, encoder_options, encode_options)
        self.prompt_name = prompt_name
        super().__init__(embedding_model=self._held)
        _ = self._held.encoder  # a model that is missing is named here, not at the first call

    def embed(
        self,
        documents: Sequence[str],
        verbose: bool = False,  # noqa: FBT001, FBT002 the signature is KeyBERT's
    ) -> Vectors:
        """Embed documents, or words.

        Args:
            documents: Of any length.
            verbose: Whether to draw a progress bar.

        Returns:
            Shape (n_documents, dimension).
        """
        arguments = {"show_progress_bar": True} if verbose else {}
        return self._held.vectors(list(documents), None, prompt_name=self.prompt_name, **arguments)

    def close(self) -> None:
        """Close the encoder if it was opened here; the next call opens it again."""
        self._held.close()
