"""The tables of searching: each is a pure function of a run's JSON."""

from __future__ import annotations

from typing import Any

from quoted import of
from tables import SOURCES, Run, number, table

SPEED_CONTROL = "faiss, float32 (IndexFlatIP)"


def search_forms(run: Run) -> str:
    """Bytes a document against R@1 and MRR, a table a set."""
    return "\n\n".join(map(_forms, of(run, "test_forms")))


def _forms(info: dict[str, Any]) -> str:
    def row(form: str, one: dict[str, Any]) -> list[Any]:
        low, high = one["interval"]
        mrr_low, mrr_high = one["mrr_interval"]
        paired = one["against_float32"]
        is_control = form == "float32"
        return [
            form + (" (control)" if is_control else ""),
            number(one["bytes_a_document"], 0),
            f"{one['recall_at_1']:.3f} ({low:.3f} to {high:.3f})",
            f"{one['mrr']:.3f} ({mrr_low:.3f} to {mrr_high:.3f})",
            "–" if is_control else f"{paired['better']} / {paired['worse']}",
            "–" if is_control else probability(paired["p"]),
        ]

    small = "" if info["is_enough"] else " Too few questions to decide between two rows."
    title = (
        f"**{SOURCES[info['source']]}**: {info['documents']} documents in "
        f"{number(info['chunks'], 0)} sentences, {number(info['questions'], 0)} questions; "
        f"calibrated on {number(info['calibrated_on'], 0)} sentences about Kyoto, unless it is "
        f"said.{small}"
    )
    head = ["", "bytes a document", "R@1 (95 %)", "MRR (95 %)", "better / worse", "p"]
    return f"{title}\n\n{table(head, [row(form, one) for form, one in info['forms'].items()])}"


def probability(value: float) -> str:
    """Write a p-value.

    >>> probability(0.0312), probability(0.0)
    ('0.031', '< 0.001')
    """
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def search_speed(run: Run) -> str:
    """Milliseconds of a query, and how many times faiss's exact search that is."""
    found = of(run, "test_rank")
    names = list(found[0]["seconds"]) if found else []
    rows = [
        [name + (" (control)" if name == SPEED_CONTROL else "")]
        + [
            f"{number(1e3 * one['seconds'][name], 2)} ({one['ratio_to_faiss'][name]:.2f} ×)"
            for one in found
        ]
        for name in names
    ]
    head = ["ms a query", *(f"{number(one['chunks'], 0)} chunks" for one in found)]
    return table(head, rows) if found else ""


def repetitions(run: Run) -> str:
    """What it saves that nothing is embedded twice in a call."""
    rows = [
        [
            f"`{one['source']}`",
            f"{number(one['texts'], 0)} ({number(one['distinct_texts'], 0)})",
            f"{number(one['sentences'], 0)} ({number(one['distinct_sentences'], 0)})",
            f"{100 * one['saved']:.1f} %",
        ]
        for one in of(run, "test_repetitions")
    ]
    head = ["set", "texts (distinct)", "sentences (distinct)", "tokens saved"]
    return table(head, rows) if rows else ""


SEARCH_TABLES = {one.__name__: one for one in (search_forms, search_speed, repetitions)}
