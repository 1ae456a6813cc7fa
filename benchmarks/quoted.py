"""The figures that pages quote in their sentences, by name: ``{{ best120_r1 }}`` in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

# Name of a way in the pages -> its form, its vector.
WAYS = {
    "truncated": ("truncated by sentence-transformers", "mean"),
    "mean480": ("480 tokens", "mean"),
    "weighted480": ("480 tokens", "token_weighted"),
    "mean120": ("120 tokens", "mean"),
    "mean_sentences": ("sentences", "mean"),
    "best480": ("480 tokens", "best chunk"),
    "best120": ("120 tokens", "best chunk"),
    "best_sentence": ("sentences", "best chunk"),
    "incident_mode": ("the incident's mode", "mean"),
}
# Name of an arm in the pages -> its name in the tables.
EMBEDDERS = {
    "fp32": "safe_embed, float32",
    "bf16": "safe_embed, bfloat16",
    "calls": "a call a sentence",
    "best": "sentence-transformers, best batch",
}
SPLITTERS = {
    "sentences": "punctuation: sentences",
    "clauses": "punctuation: clauses",
    "bunsetsu": "morphemes: bunsetsu",
    "morphemes": "morphemes",
}
CHUNKERS = {
    "bare": "bare encode_batch",
    "chunks": "safe_embed, punctuation",
    "chonkie": "chonkie SentenceChunker",
    "semantic": "semantic-text-splitter",
}
# Ways to keep the vectors of sentences.
FORMS = {"whole": "float32", "bits": "1 bit", "zero": "1 bit at 0, as sentence-transformers"}
SETS = {"jaquad": "jaquad_dev_paragraphs", "debian": "debian_ja_sections"}
CALLERS = {"raw": "raw", "safe": "default policy"}


def of(run: dict[str, Any], test: str) -> list[dict[str, Any]]:
    """Give what a test noted, for each of its parameters, in order."""
    return [one["extra_info"] for one in run["benchmarks"] if one["name"].partition("[")[0] == test]


def quoted(run: dict[str, Any], others: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    """Pick what the pages quote.

    Args:
        run: The JSON of the whole run.
        others: Those of other machines, on which texts were embedded.

    Returns:
        Name -> the figure as it is written; the name of another machine stands in front. What a
        run does not have is left out.
    """
    picks = (_retrieval, _search, _embedding, _splitting, _memory, _delays, _processes)
    found = {name: text for pick in picks for name, text in pick(run)}
    for machine, other in others.items():
        found |= {f"{machine}_{name}": text for name, text in _embedding(other)}
    return found


def _retrieval(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    found = {one["form"]: one for one in of(run, "test_retrieval") if one["source"] == "jaquad_dev"}
    for name, (form, vector) in WAYS.items():
        arm = found[form]["arms"][vector]
        yield f"{name}_r1", f"{arm['recall_at_1']:.3f}"
        yield f"{name}_mrr", f"{arm['mrr']:.3f}"
    first = next(iter(found.values()))
    for key in ("documents", "questions", "shortest_chars", "longest_chars"):
        yield key, f"{first[key]:,}"


def _search(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for info in of(run, "test_forms"):
        corpus = info["source"].partition("_")[0]
        for name, form in FORMS.items():
            one = info["forms"][form]
            yield f"{corpus}_{name}_r1", f"{one['recall_at_1']:.3f}"
            yield f"{corpus}_{name}_kb", f"{one['bytes_a_document'] / 1e3:.1f}"


def _embedding(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, source in SETS.items():
        for info in of(run, "test_encode"):
            if info["source"] != source:
                continue
            for short, arm in EMBEDDERS.items():
                if arm in info["arms"]:
                    yield f"{name}_{short}", f"{info['arms'][arm]['times_control']:.2f}"


def _splitting(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    [split], [chunk] = of(run, "test_split"), of(run, "test_chunk")
    for name, arm in SPLITTERS.items():
        yield f"{name}_mb_s", f"{split['arms'][arm]['per_second']:.1f}"
    for name, arm in CHUNKERS.items():
        if arm in chunk["arms"]:
            yield f"{name}_mb_s", f"{chunk['arms'][arm]['per_second']:.1f}"
    yield "chunks_share", f"{chunk['arms'][CHUNKERS['chunks']]['times_control']:.2f}"
    yield "cap_tokens", f"{chunk['cap_tokens']}"


def _memory(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    threads = {one["arm"]: one for one in of(run, "test_threads")}
    peaks = {one["arm"]: one for one in of(run, "test_peak")}
    for name, arm in CALLERS.items():
        yield f"{name}_callers", f"{threads[arm]['callers']}"
        yield f"{name}_threads_mb", f"{threads[arm]['growth_mb']:.0f}"
        yield f"{name}_threads_more", f"{threads[arm]['more_native_threads']}"
        if arm in peaks:
            yield f"{name}_peak_mb", f"{peaks[arm]['peak_over_base_mb']:,.0f}"
            yield "peak_documents", f"{peaks[arm]['count']}"
            yield "peak_chars", f"{peaks[arm]['longest_chars']:,}"
    for test in ("remedies", "long_runs"):
        for one in of(run, f"test_{test}"):
            name = f"{test}_{one['stack']}_{one['arm']}".replace(" ", "_")
            yield f"{name}_kept_mb", f"{one['kept_mb']:+.0f}".replace("-", "−")
            yield f"{name}_mb", f"{one['growth_mb']:+.0f}".replace("-", "−")
            yield f"{test}_calls", f"{one['calls']}"
    for one in of(run, "test_causes"):
        name = re.sub(r"\W+", "_", f"{one['name']}_{one['stack']}_{one['arm']}").strip("_")
        yield f"{name}_mb", f"{one['grown_mb']:.0f}"
        yield f"{one['name']}_steps", f"{one['count']:,}"
    [back] = of(run, "test_give_back")
    for step in ("bare", "loaded", "worked", "dropped"):
        yield f"back_{step}_mb", f"{back[step] / 1e6:.0f}"


def _delays(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for one in of(run, "test_delay"):
        name = "_".join(filter(None, (one["rung"], one["way"]))).replace(" ", "_")
        yield f"{name}_ms", f"{one['during_median_ms']:,.0f}"
        yield f"{name}_max_ms", f"{one['during_max_ms']:,.0f}"
        if one["rung"] == "trim":
            yield "usual_ms", f"{one['quiet_median_ms']:.0f}"
    [cost] = of(run, "test_cost_of_the_default_policy")
    yield "watch_us", f"{cost['watch_us_a_call']:.0f}"
    yield "watch_percent", f"{100 * cost['watch_share']:.1f}"


def _processes(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, one in zip(("short", "many"), of(run, "test_overhead"), strict=True):
        yield f"{name}_beside_ms", f"{1e3 * one['beside_seconds']:.1f}"
        yield f"{name}_apart_ms", f"{1e3 * one['apart_seconds']:.1f}"
        yield f"{name}_more_ms", f"{one['overhead_ms']:.1f}"
        yield f"{name}_ratio", f"{one['throughput_ratio']:.2f}"
        yield f"{name}_texts", f"{one['texts']:,}"
    for name, one in zip(("takeover", "death"), of(run, "test_replacement"), strict=True):
        yield f"{name}_usual_ms", f"{one['usual_median_ms']:.1f}"
        yield f"{name}_ms", f"{one['median_ms']:.1f}"
        yield f"{name}_max_ms", f"{one['max_ms']:,.0f}"
        seconds = sorted(one["replaced_in_seconds"])
        yield f"{name}_seconds", f"{seconds[len(seconds) // 2]:.0f}"
