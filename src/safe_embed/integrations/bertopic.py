"""BERTopic: a backend; extra ``bertopic``."""

from __future__ import annotations

from safe_embed.errors import MissingExtraError
from safe_embed.integrations.adapter import WordBackend

try:
    from bertopic.backend import BaseEmbedder
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "safe_embed.integrations.bertopic", error.name or "bertopic", "bertopic"
    ) from error

__all__ = ["SafeBackend"]


class SafeBackend(WordBackend, BaseEmbedder):
    """Embeds for BERTopic, as :class:`~safe_embed.integrations.adapter.WordBackend` says."""
