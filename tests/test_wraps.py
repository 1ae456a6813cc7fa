"""Line breaks inside sentences: lines of nearly one width that end without a mark."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeReader
from safe_embed import MorphemeSplitter, PunctuationSplitter
from safe_embed.text.chunking import Chunker
from safe_embed.text.splitters import ladder
from safe_embed.text.wraps import wraps

PROSE = (
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で"
    "ニャーニャー泣いていた事だけは記憶している。吾輩はここで始めて人間というものを見た。しかもあとで"
    "聞くとそれは書生という人間中で一番獰悪な種族であったそうだ。この書生というのは時々我々を捕えて"
    "煮て食うという話である。しかしその当時は何という考もなかったから別段恐しいとも思わなかった。"
)


@dataclass(frozen=True)
class Wrapped:
    """A text with line breaks every so many columns, and where they stand inside a sentence."""

    text: str
    inside: tuple[int, ...]


def wrap(text: str, columns: int, prefix: str = "") -> Wrapped:
    """Wrap a text as editors do: a mark hangs over the edge, an ASCII character has one column."""
    lines: list[str] = []
    line = prefix
    for character in text:
        width = sum(1 if one < "\x80" else 2 for one in line + character)
        if width > columns and character not in "、。」":
            lines.append(line)
            line = prefix
        line += character
    wrapped = "\n".join([*lines, line])
    ends, end = [], 0
    for one in lines:
        end += len(one) + 1
        ends.append(end)
    return Wrapped(wrapped, tuple(end for end in ends if wrapped[end - 2] not in "。」"))


def cuts(text: str, splitter: PunctuationSplitter | MorphemeSplitter) -> set[int]:
    """Where a splitter cuts a text."""
    return {end for _, end in splitter.split(text)}


@pytest.mark.parametrize("columns", [30, 40, 56, 72, 76])
@pytest.mark.parametrize("prefix", ["", "> "])
def test_wrapped_lines_are_no_ends(columns: int, prefix: str) -> None:
    """Mail, quoted or not, is cut at its sentences alone, at any usual width."""
    wrapped = wrap(PROSE, columns, prefix)
    assert len(wrapped.inside) >= 3
    assert not cuts(wrapped.text, PunctuationSplitter()) & set(wrapped.inside)
    assert set(wrapped.inside) <= cuts(wrapped.text, PunctuationSplitter(line_breaks=True))


@pytest.mark.parametrize(
    "expected",
    [
        "見出し\n¦本文が続きます。¦次の文です。\n¦次の見出し\n¦本文です。",
        "・りんご\n¦・みかん\n¦・ぶどう\n",
        "春はあけぼの\n¦夏は夜\n¦秋は夕暮れ\n¦冬はつとめて\n",
        "東京都千代田区の図書館と美術館の一覧表\n¦大阪\n¦京都府京都市の図書館\n¦札幌市の図書館と美術館\n",
        "import os\n¦import sys\n¦from collections import abc\n",
        "1. 東京都千代田区霞が関の図書館に行く\n¦2. 東京都千代田区永田町の図書館に行く\n",
        "| 東京都千代田区の図書館 | 月曜日 |\n¦| 京都府京都市内の図書館 | 火曜日 |\n¦| 北海道札幌市の図書館内 | 水曜日 |",
    ],
)
def test_other_lines_are_ends(expected: str) -> None:
    """Headings, items, verse, rows and code keep their lines."""
    text = expected.replace("¦", "")
    assert expected == "¦".join(text[s:e] for s, e in PunctuationSplitter().split(text))


def test_a_heading_above_wrapped_lines_is_parted() -> None:
    """A short line without a mark is no part of the paragraph below it."""
    text = "第一章　猫の話\n" + wrap(PROSE, 40).text
    assert 8 in cuts(text, PunctuationSplitter())
    assert wraps(text) == {end + 8 for end in wrap(PROSE, 40).inside}


@pytest.mark.parametrize("line_breaks", [False, "auto"])
@pytest.mark.parametrize("room", [8, 16, 40])
def test_no_chunk_ends_at_a_wrap_while_a_better_cut_exists(line_breaks: object, room: int) -> None:
    """On every rung a wrap is no boundary: neither clauses nor bunsetsu are cut there."""
    wrapped = wrap(PROSE.replace("。", "、"), 40)  # one long sentence
    chunker = Chunker(ladder(PunctuationSplitter(line_breaks=line_breaks)))  # type: ignore[arg-type]
    (found,) = chunker.chunk([wrapped.text], FakeReader(), room + FakeReader().overhead_tokens)
    assert len(found.chunks) >= 3
    ends = {chunk.span.end for chunk in found.chunks}
    words = cuts(wrapped.text, MorphemeSplitter(line_breaks=False))
    assert ends & set(wrapped.inside) <= words


@pytest.mark.parametrize(
    "expected",
    [
        "ご依頼いただきまし\nた¦見積書の¦件",
        "温度を¦測\n定する",
        "図書館で\n¦本を¦読む",
        "> ¦今日は¦晴\n> れです",
    ],
)
def test_words_are_whole_over_wraps(expected: str) -> None:
    """With line_breaks=False a line break stands inside a word, and a cut only where words end."""
    text = expected.replace("¦", "")
    found = MorphemeSplitter(line_breaks=False).split(text)
    assert expected == "¦".join(text[start:end] for start, end in found)


def test_lines_of_code_are_cut_though_text_is_wrapped() -> None:
    """A fence that is too long is cut at its lines."""
    code = "".join(f"a = {'x' * (5 * i)}\n" for i in range(1, 9))
    first = PunctuationSplitter()
    lines = first.finer("sentence", 1).split(f"```\n{code}```\n")
    assert len(lines) == 10


@given(st.text("あ漢。、\n 「」ab>・", max_size=200), st.booleans())
def test_wraps_are_line_breaks(text: str, part: bool) -> None:
    """Each is the position behind a line feed, inside the text."""
    assert all(text[at - 1] == "\n" and 0 < at < len(text) for at in wraps(text, part=part))


@given(st.text("あ漢。、\n 「」ab", max_size=200), st.sampled_from([0, 1, None]))
def test_auto_is_between_both(text: str, depth: int | None) -> None:
    """Its cuts are among those of True, and those of False among its."""
    found = [
        cuts(text, PunctuationSplitter(depth=depth, line_breaks=b)) for b in (False, "auto", True)
    ]
    assert found[0] <= found[1] <= found[2]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "make", [lambda n: "漢\n" * (n // 2), lambda n: ("漢" * 30 + "\n") * (n // 31)]
)
def test_long_texts_take_linear_time(make: Callable[[int], str]) -> None:
    """Many lines, wrapped or not, are looked at once."""
    assert len(PunctuationSplitter().split(make(320_000))) >= 1


@pytest.mark.parametrize("name", ["kyoto_wiki_longdocs", "jaquad_dev_longdocs", "aozora_works"])
def test_real_lines_are_kept(name: str, data_dir: Path) -> None:
    """In texts whose lines are paragraphs nothing is taken to be wrapped."""
    with (data_dir / f"{name}.jsonl").open(encoding="utf-8") as rows:
        texts = [json.loads(row)["text"] for row in rows]
    assert sum(len(wraps(text)) for text in texts) == 0


def test_real_text_wrapped_is_found(data_dir: Path) -> None:
    """Of the wraps inside sentences of encyclopedia articles at least 96 % cut nothing."""
    with (data_dir / "kyoto_wiki_longdocs.jsonl").open(encoding="utf-8") as rows:
        texts = [json.loads(row)["text"] for row in rows][:40]
    for columns in (40, 72):
        inside = cut = 0
        for text in texts:
            for paragraph in text.split("\n"):
                if len(paragraph) > 4 * columns:
                    wrapped = wrap(paragraph, columns)
                    inside += len(wrapped.inside)
                    cut += len(cuts(wrapped.text, PunctuationSplitter()) & set(wrapped.inside))
        assert inside > 1000
        assert cut <= 0.04 * inside
