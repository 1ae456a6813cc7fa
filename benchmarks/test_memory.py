"""Does a worker stay flat, and how high does it go in between? Each in a process of its own.

The same on the oldest stack that is supported, whose tokenizer remembers long words, where
``make test-oldest`` has made its environment.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import incident
import models
from conftest import OLDEST, Size, expect
from memory_worker import ARMS, ENDLESS, LONG_RUNS, LONG_TEXT_ARMS, REMEDIES, Forks, measure
from safe_embed.offline.cache import model_path

pytestmark = pytest.mark.usefixtures("records")  # skips where there are no data

Measure = Callable[..., dict[str, Any]]
SMOKE_ARMS = ("default policy", None)
STACKS = ("current", "oldest")
# What any process of this kind stays within, on any machine.
SANE_MB = (-2_000, 20_000)

needs_modernbert = pytest.mark.skipif(
    not models.HAS_MODERNBERT, reason="ModernBERT came with transformers 4.48"
)


@pytest.fixture(scope="module")
def measures(size: Size, forks: dict[str, Forks]) -> dict[str, Measure]:
    """For each stack what runs a scenario in a process of its own; for a smoke run, in a fork."""
    if size.name == "smoke":
        return {name: one.measure for name, one in forks.items()}
    found: dict[str, Measure] = {"current": measure}
    if OLDEST.exists():
        found["oldest"] = functools.partial(measure, python=str(OLDEST))
    return found


@pytest.fixture
def run(benchmark: BenchmarkFixture, measures: dict[str, Measure], size: Size) -> Measure:
    """Runs a scenario once, and notes what it found."""

    def once(
        scenario: str, model: Path | str, *, stack: str = "current", **options: Any
    ) -> dict[str, Any]:
        if size.name == "smoke" and stack == "oldest" and options.get("arm") not in SMOKE_ARMS:
            pytest.skip("a smoke run takes fewer arms on the oldest stack")
        if stack not in measures:
            pytest.skip("there is no .venv-oldest: `make test-oldest` makes it")
        if size.name == "smoke" and stack == "current":
            model = "small"  # loads in no time, but is saved in the form of this stack
        if isinstance(model, str):
            model = models.saved(model, model_path())
        found: dict[str, Any] = benchmark.pedantic(
            measures[stack], (scenario, model), options, rounds=1
        )
        benchmark.extra_info |= {"stack": stack, **options, **found}
        figures = {name: value for name, value in found.items() if not isinstance(value, list)}
        print(f"\n{scenario} {stack} {options}: {figures}")
        return found

    return once


@pytest.mark.parametrize("arm", REMEDIES)
@pytest.mark.parametrize("stack", STACKS)
def test_remedies(stack: str, arm: str, run: Measure, size: Size, model_folder: Path) -> None:
    """Texts of 20 to 1,200 characters, one a call: upstream with each remedy, then ours."""
    calls, longest = size.pick(30, 100, 1000), size.pick(60, 1200, 1200)
    found = run("growth", model_folder, stack=stack, arm=arm, calls=calls, longest=longest)
    assert len(found["curve"]) >= 30
    expect(found, growth_mb=SANE_MB, kept_mb=SANE_MB, largest_growth_mb=SANE_MB, seconds=(0, 1e5))


@pytest.mark.parametrize("arm", ["raw", "default policy"])
@pytest.mark.parametrize("stack", STACKS)
def test_long_runs(
    stack: str, arm: str, run: Measure, size: Size, short_model_folder: Path
) -> None:
    """Runs of 200 to 20,000 characters without a blank: what a tokenizer may remember whole."""
    calls, longest = size.pick(30, 300, 1500), size.pick(300, 10_000, 20_000)
    options = {**LONG_RUNS, "longest": longest}
    found = run("growth", short_model_folder, stack=stack, arm=arm, calls=calls, **options)
    expect(found, growth_mb=SANE_MB, running_growth_mb=SANE_MB)


@pytest.mark.parametrize("stack", STACKS)
def test_tokenizer_alone(stack: str, run: Measure, size: Size, short_model_folder: Path) -> None:
    """The control of the long runs: the same texts, and no model."""
    options = {**LONG_RUNS, "longest": size.pick(300, 10_000, 20_000)}
    count = size.pick(30, 300, 1500)
    found = run("tokenize", short_model_folder, stack=stack, count=count, **options)
    expect(found, growth_mb=SANE_MB)


# Cause, stack, arm, and how many steps in a smoke run and otherwise.
CAUSES = (
    ("paging", "current", "RssFile", 5, 200),
    ("paging", "current", "RssAnon", 5, 200),
    ("tokenizer", "oldest", "whole", 20, 1000),
    ("tokenizer", "oldest", "pieces", 20, 1000),
    ("tokenizer", "current", "whole", 20, 1000),
    ("threads", "current", "raw", 3, 60),
    ("threads", "current", "default policy", 3, 60),
    ("analyser", "current", "tagger(text)", 101, 4000),
    ("analyser", "current", "parse", 101, 4000),
    ("shapes", "current", "all lengths", 5, 300),
    ("shapes", "current", "one length", 5, 300),
    ("reading", "current", "raw", 1, 3),
    ("reading", "current", "default policy", 1, 3),
)


@pytest.mark.parametrize("case", CAUSES, ids=lambda case: "-".join(case[:3]))
def test_causes(
    case: tuple[str, str, str, int, int],
    run: Measure,
    size: Size,
    short_model_folder: Path,
    model_folder: Path,
) -> None:
    """Each cause of growth by itself, beside what does not grow."""
    name, stack, arm, few, many = case
    folder = model_folder if name in {"paging", "threads"} else short_model_folder
    count = size.pick(few, many, many)
    found = run("cause", folder, stack=stack, name=name, arm=arm, count=count)
    expect(found, grown_mb=SANE_MB)


@pytest.mark.parametrize(
    ("part", "arm"),
    [*((part, "raw") for part in incident.TABLE), ("both", "default policy")],
)
@needs_modernbert
def test_incident(
    part: str, arm: str, run: Measure, size: Size, benchmark: BenchmarkFixture
) -> None:
    """Sections of all lengths through a ModernBERT of the incident's shape, and into a store."""
    calls, longest = size.pick(10, 60, 300), size.pick(100, None, None)
    found = run("incident", "ruri", arm=arm, part=part, calls=calls, longest=longest)
    benchmark.extra_info["told_mb_a_call"] = incident.TABLE[part]
    expect(found, rss_mb_a_call=SANE_MB, anonymous_mb_a_call=SANE_MB, trimmed_mb_a_call=SANE_MB)


@pytest.mark.parametrize("arm", ARMS)
def test_threads(arm: str, run: Measure, size: Size) -> None:
    """What calling threads leave behind while they live."""
    found = run("threads", "tiny", arm=arm, callers=size.pick(4, 60, 60))
    expect(found, growth_mb=SANE_MB, more_native_threads=(-10, 1000))


def test_give_back(run: Measure, model_folder: Path) -> None:
    """RssAnon before a load, with the model, between drop and load, and with the model again."""
    found = run("give_back", model_folder)
    expect(found, bare=(1e7, 1e10), loaded=(1e7, 1e10), dropped=(1e7, 1e10), again=(1e7, 1e10))


@needs_modernbert
@pytest.mark.parametrize("arm", ["raw", "default policy"])
def test_peak(arm: str, run: Measure, size: Size) -> None:
    """How high RssAnon goes on long documents; attention takes memory with the square of length."""
    longest = size.pick(1_500, 14_500, 14_500)
    found = run("peak", "ruri", arm=arm, count=size.pick(2, 20, 120), longest=longest)
    expect(found, peak_over_base_mb=(0, 20_000))


@needs_modernbert
@pytest.mark.parametrize("tokens", [512, 2048, 8190])
@pytest.mark.parametrize("shape", models.SHAPES)
@pytest.mark.parametrize("arm", LONG_TEXT_ARMS)
def test_long_texts(
    arm: str, shape: str, tokens: int, benchmark: BenchmarkFixture, size: Size
) -> None:
    """A text that the model reads whole: memory, pace, and what a query beside it waits."""
    if size.name == "smoke" and (shape, tokens) != ("ruri-v3-30m", 2048):
        pytest.skip("a smoke run takes one shape and one length")
    found = benchmark.pedantic(
        measure, ("long_text", Path(shape)), {"arm": arm, "tokens": tokens}, rounds=1
    )
    benchmark.extra_info |= {"shape": shape, "arm": arm, **found}
    print(f"\n{shape} {arm}: {found}")
    expect(found, peak_over_base_mb=(-100, 20_000), query_seconds=(0, 1e4))


@pytest.mark.parametrize("call", ["plan", "encode"])
@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("isolation", ["none", "process"])
def test_one_text(isolation: str, kind: str, call: str, run: Measure, size: Size) -> None:
    """One text of 10,000,000 characters: 64 MiB above the base, in parent and worker each."""
    if size.name == "smoke" and (isolation, kind, call) != ("none", "no marks", "plan"):
        pytest.skip("a smoke run takes one kind")
    chars = size.pick(60_000, 1_000_000, 10_000_000)
    found = run("one_text", "tiny", kind=kind, call=call, chars=chars, isolation=isolation)
    expect(found, peak_over_base_mib=(-1, 64), worker_peak_over_base_mib=(-1, 64))


@pytest.mark.sizes("full")
@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("tiny", {"calls": 2000}),
        ("offline", {"calls": 300}),
        pytest.param("ruri", {"calls": 300}, marks=needs_modernbert),
    ],
)
def test_growth(model: str, options: dict[str, Any], arm: str, run: Measure) -> None:
    """Texts of 20 to 20,000 characters through models of three kinds."""
    found = run("growth", model_path() if model == "offline" else model, arm=arm, **options)
    expect(found, growth_mb=SANE_MB)
