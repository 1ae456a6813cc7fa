"""Levels of boundaries, and headings, which stay with their text."""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeReader
from safe_embed.text.boundaries import Boundary, boundary_levels, heading_spans, outside_headings
from safe_embed.text.chunking import Chunker
from safe_embed.text.punctuation import PunctuationSplitter
from safe_embed.text.splitters import ladder

LADDER = ladder(PunctuationSplitter())


@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        ("雨が降った。\n", Boundary.LINE),
        ("雨が降った。\n\n", Boundary.LINE),
        ("見出し\r\n", Boundary.LINE),
        ("雨が降った。\u2028", Boundary.LINE),
        ("雨が降った。", Boundary.SENTENCE),
        ("本当！？　", Boundary.SENTENCE),
        ("「行く。」", Boundary.SENTENCE),
        ("It rained. ", Boundary.SENTENCE),
        ("論文です．", Boundary.SENTENCE),
        ("春、", Boundary.CLAUSE),
        ("（注）", Boundary.CLAUSE),
        ("要点：", Boundary.CLAUSE),
        ("東京 ", Boundary.BLANK),
        ("東京　", Boundary.BLANK),
        ("東京へ", Boundary.WORD),
        ("", Boundary.WORD),
        ("）", Boundary.CLAUSE),
        (" ", Boundary.BLANK),
    ],
)
def test_a_boundary_has_the_level_of_what_is_before_it(piece: str, expected: Boundary) -> None:
    """Line ends are stronger than sentence ends, these than clauses, blanks and words."""
    assert [expected] == boundary_levels(piece, [len(piece)])
    assert [Boundary.WORD, expected] == boundary_levels("図書館へ" + piece, [4, 4 + len(piece)])


# ¦ parts a heading from its text, where no chunk may end.
HEADINGS = [
    "成り立ち\n¦簪の始まりは、縄文時代である。",
    "第1章 はじめに\n1.1. 目的\n¦この文書の目的を述べる。",
    "成り立ち\n\n¦簪の始まりは、縄文時代である。",
    "　　第一章　旅立ち\n\n¦　朝だった。",
    "（目的）\n¦第一条　この条例は、市民の安全を守る。",
    "第5条（秘密保持）\r\n¦甲は、秘密を守る。",
    "## 使い方\n¦次のように実行する。",
    "雨が降った。\n注記\n¦詳しくは付録を見よ。\n",
    "用例：\n¦彼は行く。",
]
NO_HEADINGS = [
    "雨が降った。\n傘を持つ。\n",
    "「行こう」\n三人は走り出した。",
    "・りんご\n・みかん\n果物である。",
    "りんご\nみかん\nばなな\n果物である。",
    "| 列 | 値 |\n表である。",
    "- 12 -\n本文である。",
    "12\n本文である。",
    "```sh\n実行する。",
    "今日は、\n晴天なり。",
    "とても長い行" * 20 + "\n本文である。",
    "本文のない見出し\n",
    "本文のない見出し",
    "\n\n",
    "",
]


@pytest.mark.parametrize("marked", HEADINGS)
def test_headings_stay_with_their_text(marked: str) -> None:
    """A cut behind a heading, or in it, is dropped; others stay."""
    text = marked.replace("¦", "")
    heading_end = marked.index("¦")
    headings = heading_spans(text)
    assert heading_end == headings[-1].end
    cuts = list(range(1, len(text)))
    kept = outside_headings(cuts, headings)
    assert heading_end not in kept
    assert set(range(heading_end + 1, len(text))) <= {*kept}
    assert set(range(1, headings[0].start + 1)) <= {*kept}


@pytest.mark.parametrize("text", NO_HEADINGS)
def test_other_lines_are_no_headings(text: str) -> None:
    """Sentences, speech, lists, tables, page numbers and fences may end a chunk."""
    assert [] == heading_spans(text)


@given(st.text(st.sampled_from("あ。、\n\r\u2028 　「」・A1"), max_size=80))
def test_headings_are_ordered_and_within_the_text(text: str) -> None:
    """Headings do not overlap, and each ends with a line break that has text behind it."""
    end = 0
    for span in heading_spans(text):
        assert end <= span.start < span.end < len(text)
        assert text[span.end - 1] in "\n\r\u2028"
        end = span.end


@pytest.mark.parametrize("room", [12, 20, 40])
def test_a_chunk_begins_with_its_heading(room: int) -> None:
    """A long sentence behind a heading is cut finer, so that its beginning stays with it."""
    reader = FakeReader()
    text = "".join(f"見出し{n}\n今日は雨で、明日は晴れで、明後日は曇りである。\n" for n in range(9))
    [found] = Chunker(LADDER).chunk([text], reader, reader.overhead_tokens + room)
    ends = [span.end for span, _ in found.chunks]
    assert found.is_long
    assert not {*ends} & {span.end for span in heading_spans(text)}


def test_a_heading_that_leaves_no_room_is_parted() -> None:
    """Where heading and text do not fit together at all, both are still embedded."""
    reader = FakeReader(run_chars=1)
    text = "長い見出しの一行\n今日は雨である。"
    [found] = Chunker(LADDER).chunk([text], reader, reader.overhead_tokens + 8)
    assert text == "".join(text[slice(*span)] for span, _ in found.chunks)


def test_spans_mode_keeps_headings_apart() -> None:
    """With chunks="spans" each span is a chunk, a heading too."""
    reader = FakeReader()
    text = "見出し\n今日は雨である。明日は晴れである。"
    [found] = Chunker(LADDER, "spans").chunk([text], reader, reader.overhead_tokens + 8)
    assert 4 == found.chunks[0].span.end


@pytest.mark.parametrize(("room", "most"), [(62, 0.02), (126, 0.0)])
def test_headings_of_real_documents(data_dir: Path, room: int, most: float) -> None:
    """Of the headings of encyclopaedia articles and of a manual, few are parted from their text."""
    texts = []
    for name in ("kyoto_wiki_longdocs", "debian_ja_longdocs"):
        with (data_dir / f"{name}.jsonl").open(encoding="utf-8") as lines:
            texts += [json.loads(line)["text"][:30_000] for line in lines][:15]
    reader = FakeReader(run_chars=2)
    ended = at_line_ends = parted = headings = 0
    for text, found in zip(
        texts, Chunker(LADDER).chunk(texts, reader, reader.overhead_tokens + room), strict=True
    ):
        ends = [*accumulate(span.end - span.start for span, _ in found.chunks)][:-1]
        heading_ends = {span.end for span in heading_spans(text)}
        headings += len(heading_ends)
        parted += len(heading_ends.intersection(ends))
        ended += len(ends)
        at_line_ends += sum(text[end - 1] == "\n" for end in ends)
    assert headings > 500
    assert parted <= most * headings
    assert at_line_ends > 0.3 * ended
