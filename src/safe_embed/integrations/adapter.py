"""What adapters for several libraries have in common; it knows no library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from safe_embed.integrations.held_encoder import HeldEncoder, Vectors


class Adapter:
    """A class of a library that embeds with a SafeEncoder; for ``with``."""

    _held: HeldEncoder

    def close(self) -> None:
        """Close the encoder if it was opened here; the next call opens it again."""
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class WordBackend(Adapter):
    """A backend of BERTopic and KeyBERT, which have the same interface.

    It embeds documents and words alike, by ``encode``: they are compared with one another.

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
        super().__init__(embedding_model=self._held)  # type: ignore[call-arg] # of the library's class
        _ = self._held.encoder  # a model that is missing is named here, not at the first call

    def embed(
        self,
        documents: Sequence[str],
        verbose: bool = False,  # noqa: FBT001, FBT002 the signature is that of both libraries
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
