"""Haystack: embedders of texts and of documents; extra ``haystack``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from safe_embed.errors import MissingExtraError
from safe_embed.integrations.adapter import Adapter
from safe_embed.integrations.held_encoder import HeldEncoder

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "safe_embed.integrations.haystack", error.name or "haystack-ai", "haystack"
    ) from error

__all__ = ["SafeDocumentEmbedder", "SafeTextEmbedder"]


class _Embedder(Adapter):
    """What both components have. ``@component`` makes a class anew: no ``super()`` in either."""

    def to_dict(self) -> dict[str, Any]:
        """Give the settings; they name no model if a ready SafeEncoder was passed.

        Returns:
            What :meth:`from_dict` takes.
        """
        settings: dict[str, Any] = default_to_dict(self, **self._settings())
        return settings

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Make the component from its settings.

        Args:
            data: What :meth:`to_dict` gave.

        Returns:
            The component.
        """
        made: Self = default_from_dict(cls, data)
        return made

    def warm_up(self) -> None:
        """Open the encoder; the first run does it as well."""
        _ = self._held.encoder

    def _settings(self) -> dict[str, Any]:
        return self._held.settings()


@component
class SafeTextEmbedder(_Embedder):
    """Embeds a query by ``encode_query``.

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
        self._held = HeldEncoder(model, encoder_options, encode_options)

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Embed a query.

        Args:
            text: The query.

        Returns:
            ``embedding``: its vector.
        """
        return {"embedding": self._held.query(text)}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, Any]:
        """Embed a query without blocking the event loop.

        Args:
            text: The query.

        Returns:
            ``embedding``: its vector.
        """
        return {"embedding": await self._held.aquery(text)}


@component
class SafeDocumentEmbedder(_Embedder):
    """Embeds the contents of documents by ``encode_document``.

    Args:
        model: A SafeEncoder, or the name or folder of a model.
        encoder_options: Further arguments of SafeEncoder, with a name or a folder.
        encode_options: ``batch_size``, ``normalize_embeddings``, ``truncate_dim``,
            ``show_progress_bar`` and ``priority`` of every call.
        meta_fields_to_embed: Fields of the metadata that go in front of the content.
        embedding_separator: What stands between them.

    Raises:
        ConfigError: If an argument cannot work.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        encoder_options: Mapping[str, Any] | None = None,
        encode_options: Mapping[str, Any] | None = None,
        meta_fields_to_embed: Sequence[str] = (),
        embedding_separator: str = "\n",
    ) -> None:
        self._held = HeldEncoder(model, encoder_options, encode_options)
        self.meta_fields_to_embed = list(meta_fields_to_embed)
        self.embedding_separator = embedding_separator

    def _settings(self) -> dict[str, Any]:
        own = {
            "meta_fields_to_embed": self.meta_fields_to_embed,
            "embedding_separator": self.embedding_separator,
        }
        return {**self._held.settings(), **own}

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Embed documents.

        Args:
            documents: Of any length.

        Returns:
            ``documents``: copies with their vectors.
        """
        return _with_vectors(documents, self._held.documents(self._texts(documents)))

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """Embed documents without blocking the event loop.

        Args:
            documents: Of any length.

        Returns:
            ``documents``: copies with their vectors.
        """
        return _with_vectors(documents, await self._held.adocuments(self._texts(documents)))

    def _texts(self, documents: list[Document]) -> list[str]:
        texts = []
        for document in documents:
            fields = [document.meta.get(name) for name in self.meta_fields_to_embed]
            known = [str(field) for field in fields if field is not None]
            texts.append(self.embedding_separator.join([*known, document.content or ""]))
        return texts


def _with_vectors(documents: list[Document], vectors: list[list[float]]) -> dict[str, Any]:
    pairs = zip(documents, vectors, strict=True)
    return {"documents": [replace(document, embedding=vector) for document, vector in pairs]}
