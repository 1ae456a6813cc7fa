"""The soak itself: it sees what is lost, wrong, repeated, too large or left over."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import soak
from fakes import vector_of

TEXTS = ["春", "夏", "秋", "冬"]
REFERENCE = {text: vector_of(text) for text in TEXTS}


def gone(texts: list[str]) -> Any:
    """An encoder that fails."""
    raise RuntimeError(f"{len(texts)} of them are gone")


def rows_of(texts: list[str]) -> list[Any]:
    """An encoder that works."""
    return [vector_of(text) for text in texts]


CASES: list[tuple[Callable[[list[str]], Any], str]] = [
    (rows_of, "none"),
    (lambda texts: [row + 1e-7 for row in rows_of(texts)], "none"),
    (gone, "lost"),
    (lambda texts: rows_of(texts)[:-1], "lost"),
    (lambda texts: rows_of([*texts, texts[-1]]), "repeated"),
    (lambda texts: [*rows_of(texts)[:-1], np.zeros(8)], "wrong"),
    (lambda texts: [row * 1.01 for row in rows_of(texts)], "wrong"),
    (lambda texts: [row * np.nan for row in rows_of(texts)], "wrong"),
]


@pytest.mark.parametrize(("encode", "expected"), CASES)
def test_each_call_is_compared(
    monkeypatch: pytest.MonkeyPatch, encode: Callable[[list[str]], Any], expected: str
) -> None:
    """All rows, with the reference; an error of a call is its texts lost."""
    monkeypatch.setattr(soak, "WAYS", [lambda _, texts, priority: encode(texts)])
    subject = soak.Subject(None)  # type: ignore[arg-type] # no encoder is needed here
    soak.call(subject, REFERENCE, random.Random(1))
    seen = {kind for kind in ("lost", "wrong", "repeated") if subject.counts[kind]}
    assert seen == {expected} - {"none"}


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        (("encoders", "thread", "lost"), 3, "thread: 3 lost"),
        (("encoders", "thread", "wrong"), 1, "thread: 1 wrong"),
        (("encoders", "thread", "repeated"), 2, "thread: 2 repeated"),
        (("encoders", "thread", "peak_growth_of_a_worker_mib"), 500.0, "thread: grew to 500.0 MiB"),
        (("encoders", "thread", "calls"), 0, "an encoder was not called"),
        (("left over", "descriptors"), 4, "left over: 4 descriptors"),
        (("faults", "changed files that were not noticed"), 1, "1 changed files that were"),
    ],
)
def test_each_promise_that_is_not_kept_is_named(
    where: tuple[str, ...], value: Any, words: str
) -> None:
    """One by one; nothing is named when all are kept."""
    seen = {"calls": 9, "lost": 0, "wrong": 0, "repeated": 0, "peak_growth_of_a_worker_mib": 60.0}
    figures: dict[str, Any] = {
        "encoders": {"thread": seen},
        "faults": {"kill": 1},
        "left over": {"threads": 0, "descriptors": 0},
    }
    assert [] == soak.faults_in(figures)
    place = figures
    for name in where[:-1]:
        place = place[name]
    place[where[-1]] = value
    [broken] = soak.faults_in(figures)
    assert broken.startswith(words)
