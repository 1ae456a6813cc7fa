"""Chroma: an embedding function, ``"safe_embed"``; extra ``chroma``.

Importing this module registers it, which a process must do before it opens a collection that was
made with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from safe_embed.errors import ConfigError, MissingExtraError, both
from safe_embed.integrations.held_encoder import HeldEncoder, shared

try:
    from chromadb.api.types import Documents, EmbeddingFunction
    from chromadb.utils.embedding_functions import register_embedding_function
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "safe_embed.integrations.chroma", error.name or "chromadb", "chroma"
    ) from error

__all__ = ["SafeEmbeddingFunction"]


@register_embedding_function
class SafeEmbeddingFunction(EmbeddingFunction[Documents]):
    """Embeds documents by ``encode_document``, and queries by ``encode_query``.

    Chroma keeps the settings in the collection and makes the function anew from them; functions of
    equal settings share an encoder. A collection that was made with a ready SafeEncoder must be
    given one again whenever it is opened; without, Chroma is refused texts to embed, and takes no
    other model.

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
        self._held: HeldEncoder | None = shared(model, encoder_options, encode_options)

    @property
    def _encoder(self) -> HeldEncoder:
        if self._held is None:
            raise ConfigError(
                both(
                    "The collection was made with a ready SafeEncoder, which it cannot name. Open "
                    "it with get_collection(…, embedding_function=SafeEmbeddingFunction(encoder)).",
                    "このコレクションは作成済みの SafeEncoder で作られ、モデル名が残っていません。"
                    "get_collection(…, embedding_function=SafeEmbeddingFunction(encoder)) で開いて"
                    "ください。",
                )
            )
        return self._held

    def __call__(self, input: Documents) -> Any:  # noqa: A002 Chroma passes it by this name
        """Embed documents.

        Args:
            input: Of any length.

        Returns:
            One vector a document.
        """
        return list(self._encoder.vectors(input, "document").astype(np.float32))

    def embed_query(self, input: Documents) -> Any:  # noqa: A002 Chroma passes it by this name
        """Embed queries.

        Args:
            input: The queries.

        Returns:
            One vector a query.
        """
        return list(self._encoder.vectors(input, "query").astype(np.float32))

    @staticmethod
    def name() -> str:
        """Give the name that collections keep.

        Returns:
            The name.
        """
        return "safe_embed"

    def default_space(self) -> Any:
        """Give the distance of a collection that names none.

        Returns:
            That of the cosine: vectors need not have length 1.
        """
        return "cosine"

    def get_config(self) -> dict[str, Any]:
        """Give what collections keep.

        Returns:
            The settings; of a ready SafeEncoder they name no model.
        """
        return {"model": None} if self._held is None else self._held.settings()

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> SafeEmbeddingFunction:
        """Make the function from what a collection kept.

        Args:
            config: What :meth:`get_config` gave.

        Returns:
            The function; without a model its calls raise ConfigError.
        """
        if config["model"] is not None:
            return SafeEmbeddingFunction(**config)
        # Chroma asks for the function also when it makes and opens a collection, where an error
        # would refuse both; without a function it would embed with a model of its own.
        nameless = SafeEmbeddingFunction.__new__(SafeEmbeddingFunction)
        nameless._held = None  # noqa: SLF001 of this class itself
        return nameless

    def validate_config_update(
        self, old_config: Mapping[str, Any], new_config: Mapping[str, Any]
    ) -> None:
        """Refuse another model for the vectors of a collection.

        Args:
            old_config: What the collection kept.
            new_config: What it is to keep.

        Raises:
            ConfigError: If the models differ.
        """
        if old_config.get("model") != new_config.get("model"):
            raise ConfigError(
                both(
                    "The collection holds vectors of another model. Make a new collection, and add "
                    "the documents again.",
                    "コレクションには別のモデルのベクトルが入っています。新しいコレクションを作り、"
                    "文書を追加し直してください。",
                )
            )

    def close(self) -> None:
        """Close the encoder that was opened here, for all functions of these settings."""
        if self._held is not None:
            self._held.close()
