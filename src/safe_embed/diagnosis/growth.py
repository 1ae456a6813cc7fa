"""The shape of a memory curve: flat, a cache that fills and stops, growth, or not clear yet.

No curve tells a leak from a cache that has been filling at a constant rate so far: experiments
decide that. The curve is called growth when nothing in it speaks against growth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite, sqrt
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from safe_embed.errors import ConfigError, MissingExtraError, both

if TYPE_CHECKING:
    from numpy.typing import NDArray

Verdict = Literal["flat", "plateau", "growth", "unclear"]
"""``"flat"``: no growth; ``"plateau"``: memory rose and stays; ``"growth"``: it rises, and does
not slow down; ``"unclear"``: more calls are needed."""

# 19 calls rose by +1,055 MB, 827 calls by +1,181 MB: a pool that fills looks like growth at first.
FEWEST_CALLS = 200
# Ten values in the second half are the fewest that have an autocorrelation worth estimating.
FEWEST_CALLS_TO_SETTLE = 20
# The C heap keeps and gives back about as much from one call to the next.
TOLERANCE_BYTES = 3_000_000
# 0.01, shared among five looks at a run that is doubled from 200 to 3,200 calls (Bonferroni).
SIGNIFICANCE = 0.002
# The interval that people expect; its upper end decides on "flat" as in a test of equivalence.
CONFIDENCE = 0.95
# All pairs of the second half are compared: 20,000 of them take milliseconds.
MOST_BLOCKS = 400
# Noise that depends on its past may drift, and by little more than it strays from the drift: a rise
# of ten times that is none of the noise, however few of its values are independent.
CERTAIN_RISE = 10
# From fewer independent values the spread of a slope is underestimated.
FEWEST_INDEPENDENT = 15
# Shows a cache that fills as 1 - exp(-calls / c) after 0.2 c calls: exp(-0.2 / 2) = 0.9.
SLOWING = 0.9
# The halves of a line lie as far apart as each rises; those of a sawtooth of two teeth do not.
LEAST_BETWEEN_HALVES = 0.5
# Four standard deviations of the noise: two to either side hold 95 % of it.
NOISE_BAND = 4.0
# The second half of a line rises by two thirds of its height; that of a plateau hardly does.
MOST_RISE_OF_PLATEAU = 1 / 3

_MAD_TO_DEVIATION = 1.4826  # of a normal distribution
_MOST_DEVIATIONS = 37.0  # the normal tail beyond is 0 in a double
_ROUNDING = 1e-9  # residuals below this share of the curve are rounding errors of a line


@dataclass(frozen=True, slots=True)
class Growth:
    """What a memory curve, a measurement after each call, shows.

    The slope is that of the second half of the calls: the first half is warm-up.

    Attributes:
        verdict: The shape of the curve.
        slope_bytes_per_call: Theil-Sen slope, the median of the slopes of all pairs.
        low_bytes_per_call: Lower end of its 95 % interval, which allows for autocorrelation.
        high_bytes_per_call: Upper end of that interval. A verdict ``"flat"`` excludes growth above
            it, and not below.
        p_value: Two-sided, of the Mann-Kendall test for a trend, corrected for autocorrelation.
        calls: Number of calls, those of the first half included.
        plateau_bytes: Height of the second half above the first call; ``None`` unless the verdict
            is ``"plateau"``.
        plateau_calls: Number of calls until that height was first reached; ``None`` likewise.
    """

    verdict: Verdict
    slope_bytes_per_call: float
    low_bytes_per_call: float
    high_bytes_per_call: float
    p_value: float
    calls: int
    plateau_bytes: float | None = None
    plateau_calls: int | None = None


class _Trend(NamedTuple):
    """The trend of the second half, per block, and how far it can be trusted."""

    slope: float
    low: float
    high: float
    p_value: float
    noise_band: float
    independent: float
    stray: float


def judge(series: Sequence[float], tolerance_bytes: float = TOLERANCE_BYTES) -> Growth:
    """Judge the shape of a memory curve.

    ``judge([x + c for x in series], t).verdict == judge(series, t).verdict``, and scaling series
    and tolerance together changes no verdict either.

    Memory is flat or at a plateau if its rise over the second half is certain to be less than the
    tolerance, or than half the width of its noise. Growth has a significant trend there, or rises
    by ten times what the curve strays from its line. It rises by more than the tolerance, is not
    slower than in the first half and stands above it. A cache that fills at a constant rate looks
    the same until it is full.

    Args:
        series: Memory that the process holds after each call, in bytes, oldest first.
        tolerance_bytes: A rise over the second half of the calls that is not growth yet.

    Returns:
        The verdict with its figures. Fewer than 200 calls are never growth, fewer than 20 always
        unclear.

    Raises:
        ConfigError: If the series has fewer than two values or one that is not finite, or if the
            tolerance is not positive.
        MissingExtraError: If scipy or pymannkendall is not installed.
    """
    _require_libraries()
    values = _checked(series, tolerance_bytes)
    blocks, size = _thin(values)
    half = blocks[min(len(blocks) // 2, len(blocks) - 2) :]
    trend = _trend(half)
    plateau = None
    verdict: Verdict = "unclear"
    if len(values) >= FEWEST_CALLS_TO_SETTLE and _is_settled(half, trend, tolerance_bytes):
        plateau = _plateau(blocks, half, trend, tolerance_bytes)
        verdict = "flat" if plateau is None else "plateau"
    elif len(values) >= FEWEST_CALLS and _is_growing(blocks, half, trend, tolerance_bytes):
        verdict = "growth"
    height, block = plateau or (None, None)
    return Growth(
        verdict,
        slope_bytes_per_call=trend.slope / size,
        low_bytes_per_call=trend.low / size,
        high_bytes_per_call=trend.high / size,
        p_value=trend.p_value,
        calls=len(values),
        plateau_bytes=height,
        plateau_calls=None if block is None else len(values) - (len(blocks) - block - 1) * size,
    )


def further_calls(growth: Growth, most_calls: int) -> int:
    """How many calls a run is to be prolonged by while its verdict is open.

    The run is doubled, so that its new second half holds nothing of what made the old one unclear.
    It starts with all calls that were planned: a look at fewer may meet a cache that still fills.

    Args:
        growth: The verdict on all calls so far.
        most_calls: The most calls of the whole run.

    Returns:
        The number of calls to make before all are judged again; 0 if the verdict is not
        ``"unclear"``, or the run may have no more calls.
    """
    if growth.verdict != "unclear":
        return 0
    calls = min(max(FEWEST_CALLS, 2 * growth.calls), most_calls)
    return max(0, calls - growth.calls)


def _require_libraries() -> None:
    try:
        import pymannkendall  # noqa: F401
        import scipy.stats  # noqa: F401
    except ImportError as error:
        package = (error.name or "pymannkendall").split(".")[0]
        raise MissingExtraError("safe_embed.diagnosis", package, "doctor") from error


def _checked(series: Sequence[float], tolerance_bytes: float) -> NDArray[Any]:
    """The series as an array that starts at 0: offsets cost no digits afterwards."""
    import numpy as np

    values = np.asarray(series, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():  # noqa: PLR2004
        raise ConfigError(
            both(
                "The series has no shape: at least two finite numbers of bytes are needed, "
                f"and an array of shape {values.shape} was given.",
                "系列の形を判定できません。2 個以上の有限なバイト数が必要です"
                f"（渡された配列の形: {values.shape}）。",
            )
        )
    if not (isfinite(tolerance_bytes) and tolerance_bytes > 0):
        raise ConfigError(
            both(
                f"tolerance_bytes={tolerance_bytes!r} must be a positive number of bytes.",
                f"tolerance_bytes={tolerance_bytes!r} は正のバイト数でなければなりません。",
            )
        )
    above_first: NDArray[Any] = values - values[0]
    return above_first


def _thin(values: NDArray[Any]) -> tuple[NDArray[Any], int]:
    """Medians of at most MOST_BLOCKS blocks, and their size in calls.

    The oldest calls, fewer than a block, are dropped.
    """
    import numpy as np

    size = ceil(len(values) / MOST_BLOCKS)
    return np.median(values[len(values) % size :].reshape(-1, size), axis=1), size


def _trend(half: NDArray[Any]) -> _Trend:
    import numpy as np
    import pymannkendall
    from scipy.stats import norm, theilslopes

    residuals = half - theilslopes(half).slope * np.arange(len(half))
    residuals -= np.median(residuals)
    noise_band = NOISE_BAND * _MAD_TO_DEVIATION * float(np.median(np.abs(residuals)))
    independent = _independent(residuals, float(np.ptp(half)))
    test = pymannkendall.original_test(half)
    inflation = len(half) / independent
    if 1 < independent < len(half):
        inflation = max(inflation, _hamed_rao(half) / test.var_s)
    deviations = norm.ppf((1 + CONFIDENCE) / 2) * sqrt(inflation)
    # Sen's interval, with the variance that autocorrelation makes of it.
    sen = theilslopes(half, alpha=2 * norm.sf(min(deviations, _MOST_DEVIATIONS)))
    return _Trend(
        float(sen.slope),
        float(sen.low_slope),
        float(sen.high_slope),
        float(2 * norm.sf(abs(test.z) / sqrt(inflation))),
        noise_band,
        independent,
        float(np.ptp(residuals)),
    )


def _independent(residuals: NDArray[Any], height: float) -> float:
    """How many independent values tell as much as these: n (1 - phi) / (1 + phi).

    Source:
        Bayley and Hammersley (1946), for AR(1). The bias of an AR(1) coefficient beside a fitted
        line is -(2 + 4 phi) / n; that of the lag-1 correlation is a little larger (simulated: 2.0,
        4.6 and 6.3 / n for phi 0, 0.5 and 0.8), so that some of it stays.
    """
    import numpy as np

    count = len(residuals)
    if count < FEWEST_CALLS_TO_SETTLE // 2:
        return 1.0
    if np.ptp(residuals) <= _ROUNDING * height:
        return float(count)
    around = residuals - residuals.mean()
    correlation = float(around[1:] @ around[:-1]) / float(around @ around)
    phi = min(max((count * correlation + 2) / (count - 4), 0.0), 1 - 1 / count)
    return count * (1 - phi) / (1 + phi)


def _hamed_rao(half: NDArray[Any]) -> float:
    """The variance of Mann-Kendall's S, with autocorrelation of any shape and lag.

    Source:
        Hamed and Rao (1998). The sum can become negative; such a variance decides nothing here.
    """
    import numpy as np
    import pymannkendall

    with np.errstate(invalid="ignore"):
        return float(pymannkendall.hamed_rao_modification_test(half).var_s)


def _is_settled(half: NDArray[Any], trend: _Trend, tolerance_bytes: float) -> bool:
    """Whether the second half stays in a band, or cannot rise by more than half its noise."""
    if half.max() - half.min() <= tolerance_bytes:
        return True
    most = max(tolerance_bytes, trend.noise_band / 2)
    return trend.independent >= FEWEST_INDEPENDENT and trend.high * len(half) <= most


def _is_growing(
    blocks: NDArray[Any], half: NDArray[Any], trend: _Trend, tolerance_bytes: float
) -> bool:
    """Whether the second half rises for certain, as fast as the first, and stands above it."""
    import numpy as np
    from scipy.stats import theilslopes

    rise = trend.slope * len(half)
    is_significant = trend.p_value < SIGNIFICANCE and trend.independent >= FEWEST_INDEPENDENT
    if not (is_significant or rise >= CERTAIN_RISE * trend.stray):
        return False
    first = blocks[: len(blocks) // 2]
    between = float(np.median(half) - np.median(first))
    return (
        rise > tolerance_bytes
        and between >= LEAST_BETWEEN_HALVES * rise
        and trend.slope >= SLOWING * float(theilslopes(first).slope)
    )


def _plateau(
    blocks: NDArray[Any], half: NDArray[Any], trend: _Trend, tolerance_bytes: float
) -> tuple[float, int] | None:
    """Height above the first call, and the first block about as high; None without a height."""
    import numpy as np

    height = float(np.median(half))
    least = max(tolerance_bytes, trend.noise_band)
    if height <= least or trend.slope * len(half) > MOST_RISE_OF_PLATEAU * height:
        return None
    return height, int(np.argmax(blocks >= height - least / 2))
