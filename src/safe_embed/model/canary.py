"""By which a model is known: the vector that it gives to a fixed text."""

from __future__ import annotations

from safe_embed.types import FloatArray

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
