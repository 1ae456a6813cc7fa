"""KeyBERT: a backend; extra ``keybert``."""

from __future__ import annotations

from safe_embed.errors import MissingExtraError
from safe_embed.integrations.adapter import WordBackend

try:
    from keybert.backend import BaseEmbedder
except ModuleNotFoundError as error:
    raise MissingExtraError(
        "safe_embed.integrations.keybert", error.name or "keybert", "keybert"
    ) from error

__all__ = ["SafeBackend"]


class SafeBackend(WordBackend, BaseEmbedder):
    """Embeds for KeyBERT, as :class:`~safe_embed.integrations.adapter.WordBackend` says."""
