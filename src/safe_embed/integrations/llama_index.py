"""LlamaIndex: a ``BaseEmbedding`` and a node parser; extra ``llama-index``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from safe_embed.errors import MissingExtraError
from safe_embed.integrations.adapter import Adapter
from safe_embed.integrations.held_encoder import HeldEncoder

try:
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.embeddings import BaseEmbedding
    from llama_index.core.node_parser import TextSplitter
    from llama_index.core.node_parser.node_utils import build_nodes_from_splits
    from llama_index.core.schema import BaseNode, MetadataMode
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "safe_embed.integrations.llama_index", error.name or "llama-index-core", "llama-index"
    ) from error

__all__ = ["SafeEmbedding", "SafeNodeParser"]


class SafeEmbedding(Adapter, BaseEmbedding):
    """Embeds with a SafeEncoder: texts by ``encode_document``, queries by ``encode_query``.

    ``SafeEmbedding.from_dict(embedding.to_dict())`` makes it again, unless a ready encoder was
    passed.

    Args:
        model: A SafeEncoder, or the name or folder of a model.
        encoder_options: Further arguments of SafeEncoder, with a name or a folder.
        encode_options: ``batch_size``, ``normalize_embeddings``, ``truncate_dim``,
            ``show_progress_bar`` and ``priority`` of every call.
        **settings: Those of every ``BaseEmbedding``, such as ``embed_batch_size``: texts in a call.

    Raises:
        ConfigError: If an argument cannot work.
    """

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
        **settings: Any,
    ) -> None:
        held = HeldEncoder(model, encoder_options, encode_options)
        named = held.settings()
        settings.setdefault("model_name", named["model"] or repr(held.encoder))
        super().__init__(**named, **settings)
        self._held = held
        _ = held.encoder  # a model that is missing is named here, not at the first call

    @classmethod
    def class_name(cls) -> str:
        """Give the name that settings are stored under.

        Returns:
            The name of the class.
        """
        return "SafeEmbedding"

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._held.documents([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._held.documents(texts)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._held.query(query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._held.adocuments([text]))[0]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._held.adocuments(texts)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await self._held.aquery(query)


class SafeNodeParser(Adapter, TextSplitter):
    """Makes a node of each chunk that the encoder reads whole, and loses no character.

    A chunk has at most the encoder's ``max_chunk_tokens``, or what the model reads; metadata that
    LlamaIndex puts in front of a node come on top. ``start_char_idx`` and ``end_char_idx`` are
    exact, for a text with repetitions as well.

    Args:
        model: A SafeEncoder, best the one that embeds the chunks, or the name or folder of a model.
        encoder_options: Further arguments of SafeEncoder, with a name or a folder, such as
            ``max_chunk_tokens``.
        **settings: Those of every node parser, such as ``include_metadata``.

    Raises:
        ConfigError: If an argument cannot work.
    """

    model: str | None = None
    encoder_options: dict[str, Any] = Field(default_factory=dict)
    _held: HeldEncoder = PrivateAttr()

    def __init__(
        self,
        model: Any = None,
        *,
        encoder_options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        held = HeldEncoder(model, encoder_options)
        super().__init__(
            model=held.settings()["model"],
            encoder_options=held.encoder_options,
            **settings,
        )
        self._held = held

    @classmethod
    def class_name(cls) -> str:
        """Give the name that settings are stored under.

        Returns:
            The name of the class.
        """
        return "SafeNodeParser"

    def split_text(self, text: str) -> list[str]:
        """Split a text.

        Args:
            text: Of any length.

        Returns:
            Its chunks, which joined are the text.
        """
        [spans] = self._held.spans([text])
        return [text[start:end] for start, end in spans]

    def _parse_nodes(
        self,
        nodes: Sequence[BaseNode],
        show_progress: bool = False,  # noqa: ARG002, FBT001, FBT002 the signature is LlamaIndex's
        **_: Any,
    ) -> list[BaseNode]:
        texts = [node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]
        made: list[BaseNode] = []
        for node, text, spans in zip(nodes, texts, self._held.spans(texts), strict=True):
            pieces = [text[start:end] for start, end in spans]
            for part, (start, end) in zip(
                build_nodes_from_splits(pieces, node, id_func=self.id_func), spans, strict=True
            ):
                part.start_char_idx, part.end_char_idx = start, end
                made.append(part)
        return made

    def _postprocess_parsed_nodes(self, nodes: list[BaseNode], *args: Any) -> list[BaseNode]:
        """Keep the exact places: LlamaIndex searches for the text of a node, from its last find."""
        places = [(node.start_char_idx, node.end_char_idx) for node in nodes]
        done: list[BaseNode] = super()._postprocess_parsed_nodes(nodes, *args)
        for node, place in zip(done, places, strict=True):
            node.start_char_idx, node.end_char_idx = place
        return done
