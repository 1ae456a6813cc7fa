"""By which a model is known: the vector that it gives to a fixed text."""

from __future__ import annotations

from safe_embed.errors import ReloadError
from safe_embed.types import FloatArray
from safe_embed.upstream.files import files_changed, other_vectors
from safe_embed.upstream.settings import ModelFacts

CANARY = "吾輩は猫である。名前はまだ無い。どこで生れたか頓と見当がつかぬ。"
_LEAST_COSINE = 0.9999


def is_same(known: FloatArray, fresh: FloatArray) -> bool:
    """Tell whether two models give the same vectors, by their canaries.

    Args:
        known: Of the model that serves, a unit vector.
        fresh: Of one that is to take its place, likewise.

    Returns:
        Whether the one may stand in for the other; no for a vector of NaN.
    """
    return known.shape == fresh.shape and float(known @ fresh) >= _LEAST_COSINE


def difference(known: ModelFacts, fresh: ModelFacts, *, in_one_pool: bool) -> ReloadError | None:
    """Tell what keeps a worker from serving beside another one, or in its place.

    Args:
        known: What the other one says of its model.
        fresh: What the worker says.
        in_one_pool: Whether both are of one encoder; a pool may be on other devices, where a model
            of a narrower type gives vectors that differ a little more.

    Returns:
        The error; ``None`` if both have the same model.
    """
    if not known.identity.agrees(fresh.identity):
        before, now = set(known.identity.files), set(fresh.identity.files)
        return files_changed(sorted({mark[0] for mark in before ^ now}) or ["its revision"])
    has_one_form = (known.device.partition(":")[0], known.dtype) == (
        fresh.device.partition(":")[0],
        fresh.dtype,
    )
    if known.canary is None or fresh.canary is None or not (in_one_pool or has_one_form):
        return None
    if not is_same(known.canary, fresh.canary):
        return other_vectors()
    return None
