"""Memory stays flat, in processes of their own: real models, real text, RssAnon. Each with a control.

SAFE_EMBED_FULL=1 makes 10,000 calls where a few hundred are made otherwise. Growth counts twice, like
with like: trimmed after warm-up and at the end; and while calls go on, with the free blocks that
are not given back yet, the median of the first calls and of the last.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import models
from memory_worker import LONG_RUNS, MIB, PLANTS, measure
from safe_embed.memory.sampling import anonymous_bytes

FULL = os.environ.get("SAFE_EMBED_FULL") == "1"
CALLERS = 60
# What they may cost.
CALLERS_MB = 8
IS_OLDEST = tuple(map(int, version("tokenizers").split(".")[:2])) < (0, 21)

pytestmark = [
    pytest.mark.model,
    pytest.mark.long,
    pytest.mark.timeout(7_200 if FULL else 1_200),
    pytest.mark.skipif(
        sys.platform != "linux" or anonymous_bytes() is None, reason="there is no RssAnon"
    ),
]


@pytest.fixture(scope="module")
def tiny(data_dir: Path, offline_model_path: Path) -> Path:
    """Two random layers with the tokenizer of the offline model; the texts are in *data_dir*."""
    return models.saved("tiny", offline_model_path)


@pytest.fixture(scope="module")
def small(offline_model_path: Path) -> Path:
    """The same with a small vocabulary."""
    return models.saved("small", offline_model_path)


def test_calls_of_all_lengths(tiny: Path) -> None:
    """Texts of 20 to 20,000 characters, one a call, by the default policy: at most 16 MB more.

    On the oldest stack 64 MB, below which the policy leaves the tokenizer what it remembers.
    """
    calls = 10_000 if FULL else 250
    found = measure("growth", tiny, arm="default policy", calls=calls)
    most_mb = 64 if IS_OLDEST else 16
    assert found["growth_mb"] <= most_mb
    assert found["running_growth_mb"] <= most_mb


def test_a_reload_gives_back_what_has_grown(tiny: Path) -> None:
    """After 1,000 calls and 200 MB, which are the control, a reload leads back to within 10 %."""
    found = measure("growth", tiny, arm="no policy", calls=1_000, longest=1_000, hoard=True)
    base = found["base_bytes"]
    assert found["end_bytes"] > 1.2 * base
    assert abs(found["reloaded_bytes"] - base) <= 0.1 * base


def test_nothing_is_left_between_drop_and_load(offline_model_path: Path, data_dir: Path) -> None:
    """No room for two: before the load at least 90 % of model and tokenizer are given back."""
    found = measure("give_back", offline_model_path)
    added = found["loaded"] - found["bare"]
    assert added > 200e6
    assert found["worked"] - found["dropped"] >= 0.9 * added
    assert found["again"] <= 1.1 * found["worked"]


def test_threads_that_call_leave_nothing(tiny: Path) -> None:
    """60 callers that stay alive cost at most 8 MB, and no thread but their own."""
    found = measure("threads", tiny, arm="default policy", callers=CALLERS)
    assert found["growth_mb"] <= CALLERS_MB
    assert CALLERS == found["more_native_threads"]


def test_threads_that_call_upstream_leave_much(tiny: Path) -> None:
    """The control: the same by ``SentenceTransformer.encode`` piles up memory and threads.

    How much depends on processor and stack: 18 MB (oldest) and 60 on a Xeon, 120 on an EPYC.
    """
    found = measure("threads", tiny, arm="raw", callers=CALLERS)
    assert found["growth_mb"] > CALLERS_MB
    assert found["more_native_threads"] >= 1.5 * CALLERS


@pytest.mark.parametrize(("plant", "rungs"), [*zip(PLANTS, range(1, 5), strict=True)])
def test_each_rung_cures_what_no_cheaper_one_does(plant: str, rungs: int, small: Path) -> None:
    """100 MB are planted: the policy climbs to the rung that gives them back, and no further."""
    found = measure("planted", small, plant=plant)
    assert found["grown"] > 90 * MIB
    names = ("TRIM", "TOKENIZER_CACHE", "TOKENIZER", "MODEL")
    taken = [f"remedy {name}" for name in names[:rungs]]
    # A trim that gives nothing back is not reported.
    assert found["remedies"] in ([taken, taken[1:]] if rungs > 1 else [taken])
    assert found["left"] <= 48 * MIB


@pytest.mark.skipif(not IS_OLDEST, reason="tokenizers 0.21 and newer do not remember long words")
def test_the_oldest_tokenizer_grows(tiny: Path) -> None:
    """The control: 1,500 texts through the bare tokenizer of the oldest stack leave 200 MB."""
    found = measure("tokenize", tiny, count=1_500, **LONG_RUNS)
    assert found["growth_mb"] > 200


def test_long_texts_whatever_the_tokenizer_remembers(tiny: Path) -> None:
    """Texts of 200 to 20,000 characters, by the default policy: at most 64 MB more, on any stack."""
    calls = 1_500 if IS_OLDEST or FULL else 100
    found = measure("growth", tiny, arm="default policy", calls=calls, **LONG_RUNS)
    assert found["growth_mb"] <= 64
    assert found["running_growth_mb"] <= 64
