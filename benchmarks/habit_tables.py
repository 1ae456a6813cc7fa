"""The tables of what people add to chunks: each is a pure function of a run's JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from quoted import of
from search_tables import probability
from tables import Run, number, table

Comparison = dict[str, Any]

HABITS = {
    "test_titles": "The title of the article before each chunk",
    "test_heading_paths": "The headings above a section before each of its chunks",
    "test_late_chunking": "Late chunking, in windows of 512 tokens",
    "test_overlap": "Overlap",
}
CORPORA = {"jaquad_dev": "JaQuAD dev", "jsquad_valid": "JSQuAD valid", "rust_book": "Rust book"}
# What is found in a corpus, by target.
FOUND = {
    ("rust_book", "document"): "section",
    ("jaquad_dev", "document"): "article",
    ("jsquad_valid", "document"): "article",
}
# Above this probability no difference is shown.
MOST_BY_CHANCE = 0.05


def habits(run: Run) -> str:
    """Each habit against plain chunks: R@1, and the paired test; a table a habit."""
    return "\n\n".join(_habit(name, of(run, name)) for name in HABITS if of(run, name))


def _habit(name: str, found: Sequence[dict[str, Any]]) -> str:
    pairs = [(info, one) for info in found for one in info["comparisons"]]
    decided = [one for _, one in pairs if one["is_enough"]]
    corrected = iter(holm([one["against_control"]["p"] for one in decided]))
    rows = [
        list(_row(info, one, next(corrected) if one["is_enough"] else None)) for info, one in pairs
    ]
    counts = {info["source"]: info["documents"] for info in found}
    corpora = ", ".join(f"{CORPORA[source]} ({number(n, 0)})" for source, n in counts.items())
    title = f"**{HABITS[name]}**. Documents: {corpora}."
    head = [
        *("chunks of up to", "what is found", "questions", "plain (control), R@1", "with it, R@1"),
        *("better / worse", "p (corrected)", "outcome", "tokens"),
    ]
    return f"{title}\n\n{table(head, rows)}"


def _row(info: dict[str, Any], one: Comparison, corrected: float | None) -> Iterator[str]:
    size = "a sentence" if info["cap"] is None else f"{info['cap']} tokens"
    share = f", overlap of {100 * info['share']:.0f} %" if "share" in info else ""
    yield f"{CORPORA[info['source']]}, {size}{share}"
    yield FOUND.get((info["source"], one["target"]), "paragraph")
    few = "" if one["set"] == "all" else f": {one['set']}"
    yield number(one["questions"], 0) + few
    for which in ("control", "arm"):
        low, high = one[which]["interval"]
        yield f"{one[which]['recall_at_1']:.3f} ({low:.3f} to {high:.3f})"
    paired = one["against_control"]
    yield f"{paired['better']} / {paired['worse']}"
    yield "–" if corrected is None else f"{probability(paired['p'])} ({probability(corrected)})"
    yield outcome(one, corrected)
    yield f"{100 * (info['tokens'] / info['tokens_control'] - 1):+.0f} %".replace("-", "−")


def outcome(one: Comparison, corrected: float | None) -> str:
    """Say what a paired test has shown.

    Args:
        one: What was compared.
        corrected: The probability of such a difference by chance; ``None`` where the questions are
            too few to decide.

    Returns:
        The outcome, in a few words.
    """
    if corrected is None:
        return "too few questions to decide"
    if corrected >= MOST_BY_CHANCE:
        return "no difference shown"
    paired = one["against_control"]
    return "helps" if paired["better"] > paired["worse"] else "harms"


def holm(values: Sequence[float]) -> list[float]:
    """Correct p-values for how many there are.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979).

    >>> holm([0.04, 0.01, 0.5])
    [0.08, 0.03, 0.5]

    Args:
        values: p-values of tests that are read together.

    Returns:
        The corrected p-values, in the same order.
    """
    found, highest = [0.0] * len(values), 0.0
    for done, at in enumerate(np.argsort(values, kind="stable")):
        highest = max(highest, min(1.0, (len(values) - done) * values[at]))
        found[at] = highest
    return found


HABIT_TABLES = {habits.__name__: habits}
