"""What the benchmark of titles, headings, late chunking and overlap takes for granted."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from habit_tables import habits, holm
from habits import Corpus, Cutter, Document, Form, holds, pooled_late, prolonged, sections
from safe_embed.types import Span


def spans_of(ends: set[int]) -> list[Span]:
    """Cover a text by spans that end at these places."""
    return [Span(*pair) for pair in pairwise(sorted({0, *ends}))]


ENDS = st.sets(st.integers(1, 200), min_size=1, max_size=20)


@given(ENDS, st.data())
def test_a_passage_is_held_by_a_chunk(ends: set[int], data: st.DataObject) -> None:
    """Wherever a passage lies in a text, one of the chunks that cover the text counts as a hit."""
    start = data.draw(st.integers(0, max(ends) - 1))
    end = data.draw(st.integers(start + 1, max(ends)))
    assert holds(spans_of(ends), Span(start, end)).any()


def test_a_chunk_that_only_touches_a_passage_does_not_hold_it() -> None:
    """Nor does a chunk that ends where it begins."""
    found = holds([Span(0, 10), Span(10, 100), Span(100, 200)], Span(10, 104))
    assert [False, True, False] == found.tolist()


@given(ENDS, ENDS, ENDS, st.integers(-1, 30))
def test_overlap_keeps_ends_and_room(
    ends: set[int], tokens: set[int], cuts: set[int], room: int
) -> None:
    """Spans end where they did, begin no later, and hold at most so many tokens more."""
    cores = spans_of(ends)
    longer = prolonged(cores, room, sorted(tokens | {0}), sorted(cuts | {0}))
    assert [one.end for one in cores] == [one.end for one in longer]
    for core, one in zip(cores, longer, strict=True):
        assert one.start <= core.start
        assert sum(one.start <= at < core.start for at in tokens | {0}) <= max(0, room)


def test_late_pooling_averages_the_tokens_of_each_span() -> None:
    """Tokens count for the span in which their last character lies, in whatever window they are."""
    vectors = np.array([[1, 0], [1, 0], [0, 1], [3, 4]], np.float32)
    found = pooled_late(np.array([0, 4, 6, 9]), vectors, [Span(0, 5), Span(5, 8), Span(8, 12)])
    np.testing.assert_allclose(found, [[1, 0], [0, 1], [0.6, 0.8]], rtol=1e-6)


def test_sections_know_the_headings_above_them() -> None:
    """Within a chapter, also those of its other files; markup of headings is left out."""
    files = [
        ("ch01-00.md", "# 章\n\n文。\n"),
        (
            "ch01-01.md",
            "前書き\n## `節`\n文。\n#### 項\n文。\n### <ruby>目<rt>め</rt></ruby>\n文。\n",
        ),
        ("ch02-00.md", "## 次の章\n~~~\n# 注釈\n~~~\n"),
    ]
    assert [
        ((), "章"),
        (("章",), "節"),
        (("章", "節"), "項"),
        (("章", "節"), "目"),
        ((), "次の章"),
    ] == [(one.path, one.heading) for one in sections(files)]


def test_ranks_by_document_and_by_passage() -> None:
    """The best chunk stands for a document; a passage is found by a chunk that holds it."""
    form = Form(
        [[Span(0, 5), Span(5, 10)], [Span(0, 10)]],
        np.array([[1, 0], [0, 1], [0.8, 0.6]], np.float32),
        tokens=12,
    )
    corpus = Corpus(
        [Document("あ" * 10), Document("い" * 10)],
        np.array([[1, 0], [1, 0]], np.float32),
        np.array([0, 1]),
        [Span(6, 9), Span(0, 10)],
        {"all": np.ones(2, bool)},
    )
    assert [1, 2] == form.document_ranks(corpus).tolist()
    assert [3, 2] == form.passage_ranks(corpus).tolist()


@pytest.mark.model
def test_the_arms_keep_to_the_cap(offline_model_path: Path) -> None:
    """Titles and overlap are counted; late vectors come of the tokens of the chunk itself."""
    from sentence_transformers import SentenceTransformer

    cutter = Cutter(SentenceTransformer(str(offline_model_path), device="cpu"))
    text = "受付は九時からです。駐車場は地下にあります。" * 12
    document = Document(text, "市民会館の手引き")
    titled = cutter.titled(document, 60)
    assert text == "".join(text[slice(*span)] for span, _ in titled)
    assert all(string.startswith("市民会館の手引き\n") for _, string in titled)
    repeated = cutter.overlapping(document, 60, 0.2)
    assert all(after.start < before.end for (before, _), (after, _) in pairwise(repeated))
    reader = cutter.encoder(512)
    for pieces in (titled, repeated):
        counts = [plan.token_counts for plan in reader.plan([one for _, one in pieces], "document")]
        assert all(len(one) == 1 and one[0] <= 60 for one in counts)
    late = cutter.embed_late([Document("短い文です。")], (None,))[None]
    whole = cutter.embed([Document("短い文です。")], lambda one: cutter.plain(one, None), None)
    assert 0.95 < float(late.vectors[0] @ whole.vectors[0]) < 1
    cutter.close()


def comparison(better: int, worse: int, p: float, questions: int = 300) -> dict[str, Any]:
    """What a test notes of a comparison."""
    figure = {"recall_at_1": 0.9, "interval": [0.85, 0.95]}
    return {
        "target": "document",
        "set": "all",
        "questions": questions,
        "is_enough": questions >= 200,
        "control": figure,
        "arm": figure,
        "against_control": {"better": better, "worse": worse, "p": p},
    }


def test_the_table_says_what_the_paired_test_has_shown() -> None:
    """Few questions decide nothing, and p-values are corrected for their number."""
    compared = [
        comparison(20, 2, 0.0001),
        comparison(3, 14, 0.0127),
        comparison(9, 16, 0.23),
        comparison(0, 20, 0.0001, questions=150),
    ]
    info = {"source": "jaquad_dev", "cap": 120, "documents": 40, "tokens": 110}
    noted = info | {"tokens_control": 100, "share": 0.1, "comparisons": compared}
    rows = habits({"benchmarks": [{"name": "test_overlap[0.1-120]", "extra_info": noted}]})
    outcomes = [line.split(" | ")[-2] for line in rows.splitlines()[4:]]
    assert ["helps", "harms", "no difference shown", "too few questions to decide"] == outcomes
    assert "0.013 (0.025)" in rows
    assert "(control)" in rows


def test_there_is_no_table_of_a_run_without_the_benchmark() -> None:
    """``make figures`` writes no empty file."""
    assert not habits({"benchmarks": []})


def test_corrected_p_values_keep_their_order_and_stay_below_one() -> None:
    """Holm's correction never makes a larger p-value the smaller."""
    assert [] == holm([])
    assert [1.0, 1.0, pytest.approx(0.04)] == holm([0.6, 0.5, 0.04 / 3])
