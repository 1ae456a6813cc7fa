from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import growth_simulation as simulation
from safe_embed.diagnosis import Growth, further_calls, judge
from safe_embed.diagnosis.growth import TOLERANCE_BYTES
from safe_embed.errors import ConfigError, MissingExtraError

MB = 1_000_000
FEWEST_CALLS = 200
Series = NDArray[np.int64]


def filling(calls: int, full: int, height: int) -> Series:
    """A pool that fills at a constant rate, is full after *full* calls, and stays."""
    return np.minimum(np.arange(calls), full) * height // full


def mixed(seed: int, calls: int, noise: int, slope: int, cache: int) -> Series:
    """Noise that depends on its past, on a slope, a cache and perhaps a step; whole bytes."""
    random = np.random.default_rng(seed)
    time = np.arange(calls)
    step = random.choice([0, 30 * MB])
    past = np.cumsum(random.normal(0, noise, calls)) * random.random()
    shape = slope * time + cache * (1 - np.exp(-6 * time / calls)) + step * (time > calls // 3)
    return np.rint(shape + random.normal(0, noise, calls) + past).astype(np.int64)


sizes = st.sampled_from([0, MB // 100, MB, 30 * MB])
any_calls = st.integers(2, 500)


def any_series(calls: st.SearchStrategy[int] = any_calls) -> st.SearchStrategy[Series]:
    """Series of every shape and verdict."""
    slopes = st.sampled_from([-MB, 0, MB // 50, MB])
    seeds = st.integers(0, 10**6)
    return st.builds(mixed, seeds, calls, sizes, slopes, sizes)


# --- Properties -----------------------------------------------------------------------------------


@given(value=st.integers(0, 10**12), calls=st.integers(20, 2_000))
def test_a_constant_series_is_flat(value: int, calls: int) -> None:
    """From 20 calls on, with a slope of 0 that is certain."""
    assert Growth("flat", 0, 0, 0, p_value=1, calls=calls) == judge([value] * calls)


@given(calls=st.integers(2, 19))
def test_nothing_can_be_said_of_fewer_than_20_calls(calls: int) -> None:
    """Not even that they are flat."""
    assert "unclear" == judge([5] * calls).verdict


@given(series=any_series(), offset=st.integers(-(10**12), 10**12))
def test_an_offset_changes_nothing(series: Series, offset: int) -> None:
    """judge(series + c) == judge(series)."""
    assert judge(series) == judge(series + offset)


@given(series=any_series(), scale=st.sampled_from([2.0**-10, 0.5, 2.0, 2.0**20]))
def test_the_unit_changes_nothing(series: Series, scale: float) -> None:
    """judge(k * series, k * tolerance) == k * judge(series, tolerance); powers of 2 are exact."""
    growth = judge(series, MB)
    expected = replace(
        growth,
        slope_bytes_per_call=growth.slope_bytes_per_call * scale,
        low_bytes_per_call=growth.low_bytes_per_call * scale,
        high_bytes_per_call=growth.high_bytes_per_call * scale,
        plateau_bytes=None if growth.plateau_bytes is None else growth.plateau_bytes * scale,
    )
    assert expected == judge(series * scale, MB * scale)


@given(slope=st.integers(MB // 10, 10**9), calls=st.integers(FEWEST_CALLS, 3_000))
def test_a_line_is_growth(slope: int, calls: int) -> None:
    """Without noise its slope is exact, and so is the interval, however many calls a block has."""
    growth = judge(slope * np.arange(calls))
    assert "growth" == growth.verdict
    assert (slope,) * 3 == pytest.approx(
        (growth.low_bytes_per_call, growth.slope_bytes_per_call, growth.high_bytes_per_call)
    )


@given(series=any_series(st.integers(2, FEWEST_CALLS - 1)))
def test_fewer_than_200_calls_are_never_growth(series: Series) -> None:
    """Whatever their shape."""
    assert "growth" != judge(series).verdict


@given(slope=st.integers(1, 10**9), calls=st.integers(2, FEWEST_CALLS - 1))
def test_a_line_of_fewer_than_200_calls_is_not_growth(slope: int, calls: int) -> None:
    """Not even without noise."""
    assert "growth" != judge(slope * np.arange(calls)).verdict


@given(
    calls=st.integers(FEWEST_CALLS, 2_000),
    share=st.floats(0.1, 0.9),
    height=st.integers(10 * MB, 10**10),
)
def test_what_rises_and_then_stays_is_not_growth(calls: int, share: float, height: int) -> None:
    """A pool that was full before the run ended; before its second half it is a plateau."""
    full = int(share * calls)
    growth = judge(filling(calls, full, height))
    assert "growth" != growth.verdict
    if full < calls // 2:
        assert "plateau" == growth.verdict
        assert growth.plateau_bytes == pytest.approx(height, rel=0.02)
        assert growth.plateau_calls is not None
        assert full == pytest.approx(growth.plateau_calls, abs=max(20, 0.3 * full))


@given(series=any_series())
def test_what_falls_is_not_growth(series: Series) -> None:
    """Each value at or below the one before."""
    assert "growth" != judge(np.minimum.accumulate(series)).verdict


@given(series=any_series())
def test_the_slope_lies_in_its_interval(series: Series) -> None:
    """The plateau is named with the verdict, and only then."""
    growth = judge(series)
    assert growth.low_bytes_per_call <= growth.slope_bytes_per_call <= growth.high_bytes_per_call
    assert 0 <= growth.p_value <= 1
    assert len(series) == growth.calls
    plateau = (growth.plateau_bytes, growth.plateau_calls)
    assert ("plateau" == growth.verdict) == (None not in plateau)


@given(verdict=st.sampled_from(["flat", "plateau", "growth"]), calls=st.integers(2, 10**6))
def test_a_run_that_is_decided_is_not_prolonged(verdict: str, calls: int) -> None:
    """Whatever its length."""
    decided = replace(judge([0, 0]), verdict=verdict, calls=calls)  # type: ignore[arg-type]
    assert 0 == further_calls(decided, 2 * calls)


@given(calls=st.integers(2, 10**6), most=st.integers(1, 10**6))
def test_an_open_run_is_doubled_up_to_its_end(calls: int, most: int) -> None:
    """To 200 calls at least; a run that may have no more of them is left as it is."""
    unclear = replace(judge([0, 0]), calls=calls)
    expected = max(calls, min(max(FEWEST_CALLS, 2 * calls), most))
    assert expected == calls + further_calls(unclear, most)


# --- Known curves ---------------------------------------------------------------------------------


def test_a_minute_of_calls_is_not_read_as_a_slope() -> None:
    """+1,055 MB over 19 calls, +1,181 MB over 827: the same pool, which fills."""
    pool = np.concatenate([filling(19, 18, 1_055 * MB), [1_100 * MB] * 5, [1_181 * MB] * 803])
    trap = judge(pool[:19])
    assert "unclear" == trap.verdict
    assert FEWEST_CALLS - 19 == further_calls(trap, 827)
    growth = judge(pool)
    assert ("plateau", 1_181 * MB) == (growth.verdict, growth.plateau_bytes)


@pytest.mark.parametrize("every", [1, 7, 20, 50])
def test_a_leak_in_steps_is_growth(every: int) -> None:
    """An allocator takes memory in larger pieces than it leaks: 0.3 MB a call."""
    calls = np.arange(1_600)
    growth = judge(MB * 0.3 * every * (calls // every))
    assert "growth" == growth.verdict
    assert 0.3 * MB == pytest.approx(growth.slope_bytes_per_call, rel=0.1)


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_peaks_that_come_and_go_are_flat(share: float) -> None:
    """A long text now and then."""
    random = np.random.default_rng(1)
    series = 300 * MB * (random.random(400) < share) + random.normal(0, MB, 400)
    assert "flat" == judge(series).verdict


@pytest.mark.parametrize("at", [0.55, 0.7, 0.9])
def test_one_step_in_the_second_half_is_not_growth(at: float) -> None:
    """It is open, until the step lies in the first half of a longer run: then a plateau."""
    series = 30.0 * MB * (np.arange(3_200) > 400 * at)
    series += np.random.default_rng(2).normal(0, MB, 3_200)
    assert "growth" != judge(series[:400]).verdict
    assert "plateau" == simulation.prolonged(series, 400).verdict


@pytest.mark.parametrize("calls", [200, 400, 1_000])
@pytest.mark.parametrize("teeth", [2, 4, 8])
def test_a_tooth_that_begins_where_the_last_began_is_not_growth(calls: int, teeth: int) -> None:
    """A reload gives all back: each tooth rises in a straight line, and the series does not."""
    series = MB * (np.arange(calls) % (calls // teeth))
    assert "growth" != judge(series).verdict


@pytest.mark.parametrize("seed", range(10))
def test_a_random_walk_is_not_growth(seed: int) -> None:
    """Each call moves memory a little from where it was: a few hundred calls hold one bend."""
    steps = np.random.default_rng(seed).normal(0, MB, 3_200)
    assert "growth" != simulation.prolonged(np.cumsum(steps)).verdict


def test_growth_that_slows_down_is_open() -> None:
    """The square root has no end, and no slope either."""
    series = 10 * MB * np.sqrt(np.arange(3_200))
    assert "unclear" == simulation.prolonged(series).verdict


def test_a_rise_within_the_tolerance_is_flat() -> None:
    """The tolerance is meant for the second half of the calls, without noise."""
    line = np.arange(400) * 14_000  # 2.8 MB there
    assert "flat" == judge(line).verdict
    assert "growth" == judge(line, tolerance_bytes=MB).verdict


def test_slopes_lie_in_their_intervals_as_often_as_the_intervals_say() -> None:
    """95 of 100, for values that depend on those before them."""
    name = "slope of 0.3 MB a call, AR(0.8) of 8 MB"
    growths = simulation.simulate(name, seed=3, count=40)
    within = [g.low_bytes_per_call <= 0.3 * MB <= g.high_bytes_per_call for g in growths]
    assert sum(within) >= 36


def test_the_figures_are_those_of_the_libraries() -> None:
    """Noise with a short and a long memory: no p-value is smaller than Mann-Kendall's or Hamed-Rao's."""
    import pymannkendall
    from scipy.stats import theilslopes

    for seed in range(20):
        random = np.random.default_rng(seed)
        series = 1_000 * np.arange(400) + simulation.noise(random, 0.95, MB)[:400]
        series += random.normal(0, MB, 400)
        growth, half = judge(series), series[200:]
        assert theilslopes(half).slope == pytest.approx(growth.slope_bytes_per_call)
        assert growth.p_value >= pymannkendall.original_test(half).p * 0.999
        assert growth.p_value >= pymannkendall.hamed_rao_modification_test(half).p * 0.999


def test_noise_without_a_memory_is_flat_at_the_first_look() -> None:
    """8 MB of noise hide 3 MB of tolerance; a flat run is not prolonged for that."""
    growths = simulation.simulate("flat, white noise of 8 MB", seed=1, count=40)
    decided = [growth for growth in growths if growth.calls == FEWEST_CALLS]
    assert {"flat"} == {growth.verdict for growth in decided}
    assert len(decided) >= 38


def test_few_independent_values_decide_nothing() -> None:
    """200 calls of AR(0.95) tell as much as five independent ones."""
    randoms = [np.random.default_rng([7, seed]) for seed in range(40)]
    looks = [judge(MB * simulation.noise(random, 0.95, 8)[:200]).verdict for random in randoms]
    assert looks.count("unclear") >= 38


def test_a_trend_by_chance_is_not_growth() -> None:
    """200 first looks at noise, some of which rise by more than the tolerance, and in each half."""
    randoms = [np.random.default_rng([8, seed]) for seed in range(200)]
    looks = [judge(MB * simulation.noise(random, 0.6, 8)[:200]) for random in randoms]
    assert sum(100 * look.slope_bytes_per_call > 3 * MB for look in looks) > 40
    assert "growth" not in {look.verdict for look in looks}


def test_a_rise_below_the_tolerance_is_not_growth() -> None:
    """2.8 MB over the second half, for certain, where 3 MB are allowed."""
    verdicts = set()
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(0, 0.5 * MB, 200)
        growth = judge(28_000 * np.arange(200) + noise, tolerance_bytes=3 * MB)
        assert growth.p_value < 1e-6
        if growth.slope_bytes_per_call < 30_000:
            assert growth.verdict in {"flat", "unclear"}
            verdicts.add(growth.verdict)
    assert {"flat", "unclear"} == verdicts


@pytest.mark.parametrize(
    ("calls", "at", "reached"), [(400, 10, 11), (4_000, 100, 110), (407, 57, 59)]
)
def test_the_call_that_reaches_the_plateau(calls: int, at: int, reached: int) -> None:
    """To within a block, of which there are 400 at most."""
    growth = judge(100 * MB * (np.arange(calls) >= at))
    assert ("plateau", 100 * MB, reached) == (
        growth.verdict,
        growth.plateau_bytes,
        growth.plateau_calls,
    )


@pytest.mark.parametrize(
    "name",
    [
        "flat, AR(0.8) of 8 MB",
        "flat, AR(0.95) of 8 MB",
        "sawtooth of reloads",
        "cache, ever slower, full after 1/6 of the longest run",
        "slope of 0.3 MB a call, AR(0.8) of 8 MB",
        "slope of 0.3 MB a call, AR(0.95) of 8 MB",
    ],
)
def test_the_simulation_in_small(name: str) -> None:
    """Few false alarms, and slopes are found; benchmarks/growth_simulation.py has all kinds."""
    growths = simulation.simulate(name, seed=5, count=20)
    assert simulation.holds(simulation.KINDS[name], growths)


def test_the_simulation_can_fail() -> None:
    """A false alarm in twenty is one too few to be told apart; two are too many, and so are misses."""
    flat = judge([0] * 200)
    alarm = replace(flat, verdict="growth")
    kinds = simulation.KINDS
    quiet, steep = kinds["one-off steps"], kinds["slope of 1 MB a call, AR(0.8) of 8 MB"]
    assert simulation.holds(quiet, [alarm] + [flat] * 19)
    assert not simulation.holds(quiet, [alarm] * 2 + [flat] * 18)
    assert simulation.holds(steep, [flat] + [alarm] * 19)
    assert not simulation.holds(steep, [flat] * 2 + [alarm] * 18)


# --- What is refused, and what is loaded ----------------------------------------------------------


@pytest.mark.parametrize(
    "series", [[], [1], [1, float("nan")], [1, float("inf")], [[1, 2], [3, 4]]]
)
def test_what_has_no_shape_is_refused(series: list[float]) -> None:
    """Too few values, or some that are no number of bytes."""
    with pytest.raises(ConfigError, match="two finite numbers"):
        judge(series)


@pytest.mark.parametrize("tolerance", [0, -1, float("nan"), float("inf")])
def test_a_tolerance_is_a_positive_number(tolerance: float) -> None:
    """Nothing would be flat without noise otherwise."""
    with pytest.raises(ConfigError, match="tolerance_bytes"):
        judge([1, 2, 3], tolerance)


@pytest.mark.parametrize("package", ["pymannkendall", "scipy.stats"])
def test_a_missing_library_is_named_with_its_extra(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MissingExtraError says what to install."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"safe-embed\[doctor\]") as caught:
        judge([0] * 20)
    assert f"{package.partition('.')[0]!r}" in str(caught.value)


def test_the_import_is_light() -> None:
    """For users' own tests: neither torch nor the encoder, and no statistics before a verdict."""
    code = "import sys, safe_embed.diagnosis; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "safe_embed.diagnosis.growth" in loaded
    heavy = {"torch", "sentence_transformers", "safe_embed.encoder", "numpy", "scipy"}
    assert set() == loaded & {*heavy, "pymannkendall"}


def test_the_default_tolerance_is_a_round_number() -> None:
    """Messages and pages name it."""
    assert 3 * MB == TOLERANCE_BYTES


def test_a_line_that_hardly_strays_is_growth() -> None:
    """Slow waves of 10 kB, which depend on their past, are none of a rise of 50 kB a call."""
    calls = np.arange(400)
    line = 50_000 * calls + 5_000 * np.sin(calls / 20)
    assert "growth" == judge(line).verdict
    assert "growth" != judge(line + 2 * MB * np.sin(calls / 20)).verdict
