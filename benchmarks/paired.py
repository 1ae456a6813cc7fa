"""What may be said of a share of hits: its interval, and whether two ways differ."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap

# With fewer questions than this a set is too small to decide between two ways.
ENOUGH_QUESTIONS = 200
_SEED = 0


def interval(values: NDArray[Any]) -> list[float]:
    """The 95 % interval of a mean over questions, by 2,000 bootstrap samples (percentiles).

    >>> interval(np.array([True] * 90 + [False] * 10))
    [0.84, 0.96]
    """
    found = bootstrap(
        (np.asarray(values, dtype=float),),
        np.mean,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return [round(float(found.low), 3), round(float(found.high), 3)]


def compared(ranks: NDArray[np.int64], control: NDArray[np.int64]) -> dict[str, Any]:
    """How many questions a way answers that its control misses, and the other way round.

    The p-value is that of McNemar's exact test. Source: McNemar, Psychometrika 12 (1947).

    >>> compared(np.array([1, 1, 2, 1]), np.array([2, 2, 1, 1]))
    {'better': 2, 'worse': 1, 'p': 1.0}
    """
    better = int(((ranks == 1) & (control != 1)).sum())
    worse = int(((ranks != 1) & (control == 1)).sum())
    p = binomtest(better, better + worse).pvalue if better + worse else 1.0
    return {"better": better, "worse": worse, "p": round(float(p), 4)}
