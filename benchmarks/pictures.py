"""The pictures of a run: the same run gives the same files."""

from __future__ import annotations

import logging
import warnings
from itertools import product
from pathlib import Path
from typing import Any

from quoted import of
from tables import SOURCES, Run


def draw(run: Run, folder: Path) -> None:
    """Draw tokens a second, memory by call, and R@1; the same run gives the same files."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings = {"svg.hashsalt": "safe_embed", "svg.fonttype": "none", "font.size": 9}
    with mpl.rc_context(settings):
        for name, fill in (("speed", _speed), ("memory", _memory), ("retrieval", _found)):
            figure = Figure(figsize=(7.2, 4.2), layout="constrained")
            fill(figure, run)
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})


# Lines of the pictures on growth: test, stack, arm, and their words in both languages.
CAUSES: dict[str, list[tuple[str, str, str, str, str]]] = {
    "allocator": [
        ("test_remedies", "current", "raw", "nothing is given back", "何も返さない"),
        ("test_remedies", "current", "reload", "a new model every 25", "25回ごとに作り直す"),
        ("test_remedies", "current", "trim", "a trim after each call", "毎回 malloc_trim"),
        ("test_remedies", "current", "default policy", "safe_embed", "safe_embed"),
    ],
    "paging": [
        ("test_causes", "current", "RssFile", "RssFile", "RssFile"),
        ("test_causes", "current", "RssAnon", "RssAnon", "RssAnon"),
    ],
    "tokenizer": [
        ("test_causes", "oldest", "whole", "0.20, whole texts", "0.20、文書を丸ごと"),
        ("test_causes", "oldest", "pieces", "0.20, pieces of 100", "0.20、100字ずつ"),
        ("test_causes", "current", "whole", "0.23, whole texts", "0.23、文書を丸ごと"),
    ],
    "threads": [
        ("test_causes", "current", "raw", "sentence-transformers", "sentence-transformers"),
        ("test_causes", "current", "default policy", "safe_embed", "safe_embed"),
    ],
    "analyser": [
        ("test_causes", "current", "tagger(text)", "tagger(text)", "tagger(text)"),
        ("test_causes", "current", "parse", "tagger.parse(text)", "tagger.parse(text)"),
    ],
    "shapes": [
        ("test_causes", "current", "all lengths", "all lengths", "長さがばらばら"),
        ("test_causes", "current", "one length", "one length", "同じ長さ"),
    ],
    "reading": [
        ("test_causes", "current", "raw", "sentence-transformers", "sentence-transformers"),
        ("test_causes", "current", "default policy", "safe_embed", "safe_embed"),
    ],
}
STEPS = {
    "threads": ("threads that have called", "呼んだスレッドの数"),
    "reading": ("thousand characters of the text", "文書の長さ（千字）"),
}
AXES = {"en": ("calls", "MB more"), "ja": ("呼び出しの回数", "増えたメモリ（MB）")}


def causes(run: Run, folder: Path) -> None:
    """Draw the curves of the pages on growth, once a language."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings = {"svg.hashsalt": "safe_embed", "svg.fonttype": "none", "font.size": 12}
    # The fonts that draw Japanese are those of the browser.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        for (language, (calls, y)), (name, lines) in product(AXES.items(), CAUSES.items()):
            is_japanese = language == "ja"
            figure = Figure(figsize=(5.6, 3.4), layout="constrained")
            axes = figure.subplots()
            for test, stack, arm, *words in lines:
                axes.plot(*_curve(run, test, name, stack, arm), label=words[is_japanese])
            axes.set_xlabel(STEPS[name][is_japanese] if name in STEPS else calls)
            axes.set_ylabel(y)
            figure.legend(loc="outside upper center", ncols=2, fontsize=10, frameon=False)
            path = folder / f"{name}{'.ja' if is_japanese else ''}.svg"
            figure.savefig(path, metadata={"Date": None, "Creator": None})


# Forms of vectors in the picture of their sizes, and their words in both languages.
FORMS = {
    "one vector a document, float32": ("one vector a document", "文書に一本"),
    "1 bit at 0, as sentence-transformers": ("1 bit at 0", "1 ビット（0 が境）"),
    "1 bit on both sides (Hamming)": ("1 bit, Hamming", "1 ビット（ハミング距離）"),
    "1 bit": ("1 bit about the mean", "1 ビット（平均が境）"),
    "8 bits": ("8 bits", "8 ビット"),
    "float32": ("float32", "float32"),
}
FORM_AXES = {
    "en": ("kB a document", "R@1, with its 95 % interval"),
    "ja": ("一文書の大きさ（kB）", "R@1（95 % 区間）"),
}


def forms(run: Run, folder: Path) -> None:
    """Draw bytes a document against R@1, once a language; nothing for a run without them."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    found = of(run, "test_forms")
    settings = {"svg.hashsalt": "safe_embed", "svg.fonttype": "none", "font.size": 11}
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with mpl.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")
        for language, (x, y) in FORM_AXES.items() if found else ():
            is_japanese = language == "ja"
            figure = Figure(figsize=(7.2, 3.6 * len(found)), layout="constrained")
            for axes, info in zip(
                figure.subplots(len(found), squeeze=False)[:, 0], found, strict=True
            ):
                for form, words in FORMS.items():
                    one = info["forms"][form]
                    low, high = one["interval"]
                    size, right = one["bytes_a_document"] / 1e3, one["recall_at_1"]
                    axes.errorbar(size, right, [[right - low], [high - right]], fmt="o", color="C0")
                    axes.annotate(
                        words[is_japanese], (size, right), (7, -4), textcoords="offset points"
                    )
                axes.set(xscale="log", xlabel=x, ylabel=y, title=SOURCES[info["source"]])
                axes.margins(x=0.25)
            path = folder / f"search{'.ja' if is_japanese else ''}.svg"
            figure.savefig(path, metadata={"Date": None, "Creator": None})


def _curve(run: Run, test: str, name: str, stack: str, arm: str) -> tuple[list[float], list[float]]:
    """Give the steps of a curve, and the MB more at each."""
    [one] = [
        one
        for one in of(run, test)
        if (one["stack"], one["arm"]) == (stack, arm) and one.get("name", name) == name
    ]
    steps, sizes = zip(*one["curve"], strict=True)
    if test == "test_causes":
        return list(steps), list(sizes)
    return list(steps), [(size - one["base_bytes"]) / 1e6 for size in sizes]


def _speed(figure: Any, run: Run) -> None:
    found = of(run, "test_encode")
    for axes, info in zip(figure.subplots(1, len(found), sharey=True), found, strict=True):
        names = list(info["arms"])[::-1]
        colors = ["C0" if name.startswith("safe_embed") else "0.6" for name in names]
        axes.barh(names, [info["arms"][name]["per_second"] for name in names], color=colors)
        axes.set_title(SOURCES[info["source"]])
        axes.set_xlabel(f"tokens/s, {info['device']}")


def _memory(figure: Any, run: Run) -> None:
    found = of(run, "test_remedies")
    stacks = list(dict.fromkeys(one["stack"] for one in found))
    for axes, stack in zip(
        figure.subplots(1, len(stacks), sharey=True, squeeze=False)[0], stacks, strict=True
    ):
        for one in found:
            if one["stack"] == stack:
                calls, sizes = zip(*one["curve"], strict=True)
                grown = [(size - one["base_bytes"]) / 1e6 for size in sizes]
                axes.plot(calls, grown, label=one["arm"].replace("raw", "nothing"), linewidth=1)
        axes.set_title(f"{stack} stack")
        axes.set_xlabel("calls")
    figure.axes[0].set_ylabel("anonymous memory over warm-up, MB")
    figure.axes[0].legend(fontsize=7)


def _found(figure: Any, run: Run) -> None:
    found = of(run, "test_retrieval")
    sources = list(dict.fromkeys(one["source"] for one in found))
    for axes, source in zip(figure.subplots(1, len(sources), sharey=True), sources, strict=True):
        rows = [
            (f"{one['form']}: {vector.replace('_', '-')}", arm["recall_at_1"])
            for one in found
            if one["source"] == source
            for vector, arm in one["arms"].items()
        ][::-1]
        names, values = zip(*rows, strict=True)
        axes.barh(names, values, color=["C0" if "best" in name else "0.6" for name in names])
        axes.set_title(source)
        axes.set_xlabel("R@1")
        axes.tick_params(axis="y", labelsize=7)
