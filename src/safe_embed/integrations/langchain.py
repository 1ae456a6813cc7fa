"""LangChain: an ``Embeddings`` and a ``TextSplitter``; extra ``langchain``."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from safe_embed.errors import MissingExtraError
from safe_embed.integrations.adapter import Adapter
from safe_embed.integrations.held_encoder import HeldEncoder

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_text_splitters import TextSplitter
    from pydantic import BaseModel, ConfigDict, Field, PrivateAttr
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "safe_embed.integrations.langchain", error.name or "langchain-core", "langchain"
    ) from error

__all__ = ["SafeEmbeddings", "SafeTextSplitter"]


class SafeEmbeddings(Adapter, BaseModel, Embeddings):
    """Embeds with a SafeEncoder: documents by ``encode_document``, queries by ``encode_query``.

    ``SafeEmbeddings(**embeddings.model_dump())`` makes it again, unless a ready encoder was passed.

    Args:
        model: A SafeEncoder, or the name or folder of a model.
        encoder_options: Further arguments of SafeEncoder, with a name or a folder.
        encode_options: ``batch_size``, ``normalize_embeddings``, ``truncate_dim``,
            ``show_progress_bar`` and ``priority`` of every call.

    Raises:
        ConfigError: If an argument cannot work.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str | None = None
    encoder_options: dict[str, Any] = Field(default_factory=dict)
    encode_options: dict[str, Any] = Field(default_factory=dict)
    _held: HeldEncoder = PrivateAttr()

    def __init__(
        self,
        model: Any = None,
        *,
        encoder_options: Mapping[str, Any] | None = None,
        encode_options: Mapping[str, Any] | None = None,
    ) -> None:
        held = HeldEncoder(model, encoder_options, encode_options)
        super().__init__(**held.settings())
        self._held = held
        _ = held.encoder  # a model that is missing is named here, not at the first call

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents.

        Args:
            texts: Of any length.

        Returns:
            One vector a text.
        """
        return self._held.documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """Embed a query.

        Args:
            text: The query.

        Returns:
            Its vector.
        """
        return self._held.query(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents without blocking the event loop.

        Args:
            texts: Of any length.

        Returns:
            One vector a text.
        """
        return await self._held.adocuments(texts)

    async def aembed_query(self, text: str) -> list[float]:
        """Embed a query without blocking the event loop.

        Args:
            text: The query.

        Returns:
            Its vector.
        """
        return await self._held.aquery(text)


class SafeTextSplitter(Adapter, TextSplitter):
    """Splits texts into the chunks that the encoder reads whole, and loses no character.

    ``"".join(splitter.split_text(text)) == text``. A chunk has at most the encoder's
    ``max_chunk_tokens``, or what the model reads. Documents get ``start_index`` in their metadata:
    where the chunk begins in its text, in characters.

    Args:
        model: A SafeEncoder, best the one that embeds the chunks, or the name or folder of a model.
        encoder_options: Further arguments of SafeEncoder, with a name or a folder, such as
            ``max_chunk_tokens``.

    Raises:
        ConfigError: If an argument cannot work.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        encoder_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(chunk_overlap=0, add_start_index=True, strip_whitespace=False)
        self._held = HeldEncoder(model, encoder_options)

    def split_text(self, text: str) -> list[str]:
        """Split a text.

        Args:
            text: Of any length.

        Returns:
            Its chunks, which joined are the text.
        """
        [spans] = self._held.spans([text])
        return [text[start:end] for start, end in spans]

    def create_documents(
        self, texts: list[str], metadatas: list[dict[Any, Any]] | None = None
    ) -> list[Document]:
        """Make documents of the chunks of texts.

        Args:
            texts: Of any length.
            metadatas: One for each text, copied into each of its documents.

        Returns:
            The documents, with ``start_index`` in their metadata.
        """
        given = metadatas or [{} for _ in texts]
        return [
            Document(
                page_content=text[start:end],
                metadata={**copy.deepcopy(metadata), "start_index": start},
            )
            for text, metadata, spans in zip(texts, given, self._held.spans(texts), strict=True)
            for start, end in spans
        ]
