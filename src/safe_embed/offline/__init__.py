"""The model that comes in a package."""

from safe_embed.offline.cache import model_path as model_path
