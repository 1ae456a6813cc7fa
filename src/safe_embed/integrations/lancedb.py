"""LanceDB: an embedding function of its registry, ``"safe-embed"``; extra ``lancedb``.

Importing this module registers it, which a process must do before it opens a table that was made
with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from safe_embed.errors import ConfigError, MissingExtraError, both
from safe_embed.foreign import shown
from safe_embed.integrations.held_encoder import HeldEncoder, Task, shared

try:
    from lancedb.embeddings import TextEmbeddingFunction, register
    from pydantic import Field, PrivateAttr
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "safe_embed.integrations.lancedb", error.name or "lancedb", "lancedb"
    ) from error

__all__ = ["SafeEmbeddings"]


@register("safe-embed")
class SafeEmbeddings(TextEmbeddingFunction):
    """Embeds a source column by ``encode_document``, and queries by ``encode_query``.

    Make it with ``get_registry().get("safe-embed").create(model=…)``. LanceDB keeps the settings in
    the table and makes the function anew from them, so the model is known by a name or a folder;
    functions of equal settings share an encoder. A row without text gets no vector, which
    ``table.add(…, on_bad_vectors="null")`` keeps.

    Args:
        model: The name or folder of a model.
        encoder_options: Further arguments of SafeEncoder.
        encode_options: ``batch_size``, ``normalize_embeddings``, ``truncate_dim``,
            ``show_progress_bar`` and ``priority`` of every call.
        **settings: Those of every ``TextEmbeddingFunction``. ``max_retries`` is 0: what fails here
            fails again.

    Raises:
        ConfigError: If an argument cannot work.
    """

    model: Any = None
    encoder_options: dict[str, Any] = Field(default_factory=dict)
    encode_options: dict[str, Any] = Field(default_factory=dict)
    max_retries: int = 0
    _held: HeldEncoder = PrivateAttr()

    def __init__(
        self,
        model: Any = None,
        *,
        encoder_options: Mapping[str, Any] | None = None,
        encode_options: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        if not isinstance(model, str):
            raise ConfigError(
                both(
                    f"model={shown(model)} is no name: LanceDB keeps it in the "
                    "table, and opens the model by it. Pass the name or the folder of a model.",
                    f"model={shown(model)} は名前ではありません。LanceDB はモデル名"
                    "をテーブルに保存し、その名前でモデルを開きます。モデル名かフォルダーを渡して"
                    "ください。",
                )
            )
        held = shared(model, encoder_options, encode_options)
        settings |= held.settings()
        super().__init__(**settings)
        self._original_args = settings
        self._held = held

    def generate_embeddings(self, texts: Any, *_: Any, **__: Any) -> list[Any]:
        """Embed the texts of a source column.

        Args:
            texts: A list of texts; ``None`` for a row without text.

        Returns:
            A vector a text, ``None`` for ``None``.
        """
        return self._embed(texts, "document")

    def compute_query_embeddings(self, query: Any, *_: Any, **__: Any) -> list[Any]:
        """Embed a query.

        Args:
            query: A query, or a list of queries.

        Returns:
            A list with a vector a query.
        """
        return self._embed(query, "query")

    def ndims(self) -> int:
        """Tell the length of a vector.

        Returns:
            The dimension.
        """
        return self._held.dimension

    def close(self) -> None:
        """Close the encoder, for all functions of these settings; the next call opens it again."""
        self._held.close()

    def __hash__(self) -> int:
        """Hash the name: LanceDB's own takes no dict."""
        return hash(self.model)

    def __eq__(self, other: object) -> bool:
        """Compare the settings."""
        return isinstance(other, SafeEmbeddings) and self._held is other._held

    def _embed(self, inputs: Any, task: Task) -> list[Any]:
        texts = list(self.sanitize_input(inputs))
        given = [text for text in texts if text is not None]
        vectors = iter(self._held.vectors(given, task))
        return [None if text is None else next(vectors) for text in texts]
