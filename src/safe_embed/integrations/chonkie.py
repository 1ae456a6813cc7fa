"""chonkie: embeddings for its chunkers and refineries; extra ``chonkie``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safe_embed.errors import MissingExtraError
from safe_embed.integrations.adapter import Adapter
from safe_embed.integrations.held_encoder import HeldEncoder, Vectors

try:
    from chonkie.embeddings import BaseEmbeddings
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "safe_embed.integrations.chonkie", error.name or "chonkie", "chonkie"
    ) from error

__all__ = ["SafeEmbeddings"]


class SafeEmbeddings(Adapter, BaseEmbeddings):
    """Embeds texts by ``encode_document``.

    Args:
        model: A SafeEncoder, or the name or folder of a model.
        encoder_options: Further arguments of SafeEncoder, with a name or a folder.
        encode_options: ``batch_size``, ``normalize_embeddings``, ``truncate_dim``,
            ``show_progress_bar`` and ``priority`` of every call.

    Raises:
        ConfigError: If an argument cannot work.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        encoder_options: Mapping[str, Any] | None = None,
        encode_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._held = HeldEncoder(model, encoder_options, encode_options)
        # Chunkers count tokens, text by text: each reading of the encoder's tokenizer is a copy.
        self._tokenizer = self._held.encoder.tokenizer

    def embed(self, text: str) -> Vectors:
        """Embed a text.

        Args:
            text: Of any length.

        Returns:
            Its vector.
        """
        return self.embed_batch([text])[0]

    def embed_batch(self, texts: list[str]) -> list[Vectors]:
        """Embed texts.

        Args:
            texts: Of any length.

        Returns:
            One vector a text.
        """
        return list(self._held.vectors(texts, "document"))

    async def aembed(self, text: str) -> Vectors:
        """Embed a text without blocking the event loop.

        Args:
            text: Of any length.

        Returns:
            Its vector.
        """
        return (await self.aembed_batch([text]))[0]

    async def aembed_batch(self, texts: list[str]) -> list[Vectors]:
        """Embed texts without blocking the event loop.

        Args:
            texts: Of any length.

        Returns:
            One vector a text.
        """
        return list(await self._held.avectors(texts, "document"))

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self._held.dimension

    def get_tokenizer(self) -> Any:
        """Give the tokenizer by which chunkers count.

        Returns:
            A copy of the model's.
        """
        return self._tokenizer

    def __repr__(self) -> str:
        return f"SafeEmbeddings({self._held.encoder!r})"
