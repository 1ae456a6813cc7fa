"""Chunking with a tokenizer that is none: every rule without a model."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fakes import EverySplitter, FakeReader
from safe_embed.errors import ConfigError, TextTooLongError
from safe_embed.text.chunking import Chunker, Mode
from safe_embed.text.graphemes import at_cluster_ends, cluster_spans, spans_between
from safe_embed.text.morphemes import MorphemeSplitter
from safe_embed.text.packing import pack
from safe_embed.text.punctuation import PunctuationSplitter
from safe_embed.text.splitters import ladder
from safe_embed.types import ChunkedInput, Span

TINY = (EverySplitter("。\n"), EverySplitter("。\n、"))
REAL = ladder(PunctuationSplitter())

ATOMS = [
    *"あいうアカ漢字東aZ09。。、「」！…",
    *(" ", "\u3000", "\n", "\r\n", " " * 20, "\n" * 40),
    *("か\u3099", "か゛", "👨‍👩‍👧", "🇯🇵", "葛\U000e0100", "\0", "ああああああああ", "漢字漢字漢字"),
    # What joins the character before it, or the one behind, and what can be joined.
    *("\ufe0f", "\u200d", "\u3099", "\uff9e", "\u0301", "\u20dd", "゛", "\u0600", "क\u094dष"),
    *("‼", "👨", "🇯", "\u1100", "\u1161", "\u11a8", "👨" + "\u200d👩" * 9, "か" + "\u3099" * 20),
]
texts = st.lists(st.sampled_from(ATOMS), max_size=60).map("".join)
readers = st.builds(
    FakeReader,
    prompt=st.sampled_from(["", "検索文書: ", "ああ"]),  # the last one's run goes on in the text
    special=st.integers(0, 2),
    run_chars=st.integers(1, 4),
    seam_tokens=st.integers(0, 1),
    blank_chars=st.sampled_from([None, 1, 16]),
    costs=st.sampled_from([{}, {"\0": 0}]),
)
modes = st.sampled_from(["packed", "spans"])
tiny = st.builds(Chunker, st.just(TINY), modes)
# Room for the largest single character of any of these readers.
rooms = st.integers(4, 40)


def chunk(
    chunker: Chunker, texts: Sequence[str], reader: FakeReader, room: int
) -> list[ChunkedInput]:
    """Chunk texts with so much room besides prompt and special tokens."""
    return chunker.chunk(texts, reader, reader.overhead_tokens + room)


def pieces(text: str, found: ChunkedInput) -> list[str]:
    """The characters of each chunk."""
    return [text[start:end] for (start, end), _ in found.chunks]


def top_spans(text: str) -> list[Span]:
    """The spans of the first splitter, each cut moved to the end of the cluster it lies in."""
    cuts = [end for _, end in TINY[0].split(text)][:-1]
    return spans_between(at_cluster_ends(text, cuts), len(text))


def cut_inside(text: str, found: ChunkedInput) -> tuple[int, ...]:
    """Where a chunk ends inside a grapheme cluster of the whole text."""
    ends = {0, *(end for _, end in cluster_spans(text))}
    return tuple(span.end for span, _ in found.chunks if span.end not in ends)


@given(st.lists(texts, max_size=4), tiny, readers, rooms)
@example(["あ" * 100, "", " \n", "。" * 50], Chunker(TINY), FakeReader(seam_tokens=1), 4)
@example(["いい。ああああ。"], Chunker(TINY), FakeReader("文:", run_chars=1, seam_tokens=1), 4)
def test_chunks_tile_and_fit(
    given_texts: list[str], chunker: Chunker, reader: FakeReader, room: int
) -> None:
    """Spans tile each text; each encoding is that of its chunk, and within the budget."""
    found = chunk(chunker, given_texts, reader, room)
    assert len(given_texts) == len(found)
    for text, one in zip(given_texts, found, strict=True):
        assert text == "".join(pieces(text, one))
        assert (0, len(text)) == (one.chunks[0].span.start, one.chunks[-1].span.end)
        for piece, (_, encoding) in zip(pieces(text, one), one.chunks, strict=True):
            assert len(encoding) <= reader.overhead_tokens + room
            assert len(one.chunks) == 1 or piece
            # Blanks at the ends of a part are not read; a text that fits is read as it is.
            read = piece.strip() if one.is_long or len(one.chunks) > 1 else text
            (expected,) = reader.encode([read])
            np.testing.assert_array_equal(expected.ids, encoding.ids)


@given(texts, tiny, readers, rooms)
@example(" " * 500 + "あ。" * 9 + "\n" * 500, Chunker(TINY), FakeReader(), 4)
def test_no_chunk_is_white_space(
    text: str, chunker: Chunker, reader: FakeReader, room: int
) -> None:
    """No chunk is white space alone, unless its text is; then it is the only one."""
    (found,) = chunk(chunker, [text], reader, room)
    blank = [piece for piece in pieces(text, found) if not piece.strip()]
    assert blank == ([] if text.strip() else [text])


@given(texts, readers, rooms)
@example("漢あ" * 10, FakeReader(seam_tokens=1), 39)
@example("ああ、漢字、ああ、漢字、", FakeReader("ああ"), 7)
@example("あ。" * 20, FakeReader(run_chars=4), 20)
@example("あ" + " " * 200 + "い", FakeReader(), 4)
@example("あ。                    い。                    う。", FakeReader(), 6)
def test_a_text_that_fits_is_one_chunk(text: str, reader: FakeReader, room: int) -> None:
    """Packed: a text whose encoding fits is read whole, as the model alone would read it."""
    assume(len(text) <= 8 * room)  # what is longer is cut unasked
    (whole,) = reader.encode([text])
    fits = len(whole) <= reader.overhead_tokens + room
    for ladder_ in (TINY, TINY[:1], (EverySplitter("あいうアカ漢字東。、 "),)):
        (found,) = chunk(Chunker(ladder_), [text], reader, room)
        assert fits == (not found.is_long)
        assert not fits or len(found.chunks) == 1


@given(st.lists(texts, min_size=1, max_size=4), tiny, readers, rooms)
def test_texts_do_not_know_each_other(
    given_texts: list[str], chunker: Chunker, reader: FakeReader, room: int
) -> None:
    """A text is cut as if it were alone."""
    together = chunk(chunker, given_texts, reader, room)
    for text, one in zip(given_texts, together, strict=True):
        (alone,) = chunk(chunker, [text], reader, room)
        assert [chunk.span for chunk in alone.chunks] == [chunk.span for chunk in one.chunks]
        assert (alone.is_long, alone.cut_clusters) == (one.is_long, one.cut_clusters)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(30, 99))
def test_chunks_are_packed_evenly(sizes: list[int], room: int) -> None:
    """Where tokens add up, chunks are those that packing promises: few, and even."""
    reader = FakeReader(run_chars=1)
    text = "".join("あ" * (size - 1) + "。" for size in sizes)
    (found,) = chunk(Chunker(TINY), [text], reader, room)
    ends = [0, *pack(sizes, room)]
    expected = [sum(sizes[start:end]) for start, end in pairwise(ends)]
    assert expected == [len(piece) for piece in pieces(text, found)]


@given(st.integers(1, 800), st.integers(4, 60))
def test_text_without_boundaries_is_cut_evenly(length: int, room: int) -> None:
    """Where nothing guides the cuts, chunks are few and differ by less than a block."""
    reader = FakeReader(run_chars=1)
    (found,) = chunk(Chunker(TINY), ["あ" * length], reader, room)
    sizes = [len(piece) for piece in pieces("あ" * length, found)]
    block = max(1, (room + reader.overhead_tokens) // 4)
    assert max(sizes) - min(sizes) <= block
    assert len(sizes) <= -(-length // (room - block + 1))


@given(texts, readers, rooms)
def test_spans_mode_makes_a_chunk_of_each_span(text: str, reader: FakeReader, room: int) -> None:
    """One chunk a span that has more than blanks, even if the whole text would fit."""
    reader = replace(reader, costs={})
    spans = top_spans(text)
    parts = [text[start:end] for start, end in spans]
    read = [part.strip() for part in parts]
    assume(all(len(piece) <= 8 * room for piece in read))  # what is longer is cut unasked
    assume(all(count <= room for count in reader.count(read)))
    assume(all(len(one) <= reader.overhead_tokens + room for one in reader.encode(read)))
    (found,) = chunk(Chunker(TINY, "spans"), [text], reader, room)
    assert max(1, sum(bool(part.strip()) for part in parts)) == len(found.chunks)
    ends = {end for _, end in spans}
    assert {span.end for span, _ in found.chunks} <= ends | {0}


@given(texts, readers, rooms)
def test_spans_mode_never_joins_spans(text: str, reader: FakeReader, room: int) -> None:
    """A chunk lies inside one span of the first splitter, blanks around it left aside."""
    reader = replace(reader, costs={})
    (found,) = chunk(Chunker(TINY, "spans"), [text], reader, room)
    spans = top_spans(text)
    for (start, end), _ in found.chunks:
        inside = [at for at in range(start, end) if not text[at].isspace()]
        holders = {index for index, (s, e) in enumerate(spans) for at in inside if s <= at < e}
        assert len(holders) <= 1


def test_long_is_what_does_not_fit() -> None:
    """In spans mode, a text is long if it does not fit as a whole, whatever its chunks are."""
    reader = FakeReader(run_chars=4)
    texts = ["あ。い。", "あ。い。う。え。お。", "あ\nい\nうえ\nお", "あいうえお"]
    found = chunk(Chunker(TINY, "spans"), texts, reader, 4)
    assert [2, 5, 4, 1] == [len(one.chunks) for one in found]
    assert [False, True, False, False] == [one.is_long for one in found]


@given(
    st.lists(
        st.sampled_from(["か\u3099", "👨‍👩‍👧", "🇯🇵", "葛\U000e0100", "漢", "か゛"]), max_size=80
    ).map("".join),
    st.integers(5, 20),
)
def test_clusters_are_kept_whole(text: str, room: int) -> None:
    """Between two cuts stand whole grapheme clusters while each fits the budget."""
    reader = FakeReader(run_chars=1)
    (found,) = chunk(Chunker(TINY), [text], reader, room)
    assert () == found.cut_clusters
    assert {span.end for span, _ in found.chunks} <= {0, *(end for _, end in cluster_spans(text))}


@pytest.mark.parametrize(
    "text",
    [
        "か" + "\u3099" * 30,
        "あい" + "か" + "\u3099" * 30 + "うえ",
        "👨" + "\u200d👨" * 12,
        "あ。" + "か" + "\u3099" * 11 + "。い。か" + "\u3099" * 9,
    ],
)
@pytest.mark.parametrize("mode", ["packed", "spans"])
def test_a_cut_cluster_is_reported(text: str, mode: Mode) -> None:
    """A cluster alone over the budget is cut by code point, where ``cut_clusters`` says."""
    reader = FakeReader(run_chars=1)
    room = 8
    (found,) = chunk(Chunker(TINY, mode), [text], reader, room)
    ends = {end for _, end in cluster_spans(text)}
    inside = [span.end for span, _ in found.chunks if span.end not in ends]
    assert inside
    assert tuple(inside) == found.cut_clusters
    over = [
        (start, end)
        for start, end in cluster_spans(text)
        if reader.count([text[start:end]])[0] > room
    ]
    assert all(any(s < cut < e for s, e in over) for cut in found.cut_clusters)


# Behind a cut in its middle, emoji of a family begin clusters of their own, if they stand alone.
@pytest.mark.parametrize(
    ("text", "room", "least"),
    [
        ("👨\u200d👩\u200d👧\u200d👦", 2, 3),
        ("👨\u200d👩\u200d👧\u200d👦", 3, 2),
        ("あ。" + "👨\u200d👩\u200d👧\u200d👦" + "い。", 2, 3),
        ("🇯🇵🇫🇷", 1, 2),
        ("क\u094dष\u094dक\u094dष", 2, 3),
        ("\u1100\u1100\u1161\u11a8", 2, 1),
        ("か゛゛゛゛゛", 2, 2),
        ("か\u3099き\u3099", 2, 0),
    ],
)
@pytest.mark.parametrize("mode", ["packed", "spans"])
def test_every_cut_in_a_cluster_is_named(text: str, room: int, least: int, mode: Mode) -> None:
    """A cluster of several chunks is named at each of them, by the clusters of the whole text."""
    (found,) = chunk(Chunker(TINY, mode), [text], FakeReader(run_chars=1, special=0), room)
    assert cut_inside(text, found) == found.cut_clusters
    assert len(found.cut_clusters) >= least
    assert bool(least) == bool(found.cut_clusters)


@given(texts, readers, rooms, modes, st.sampled_from(["。\n", "。🇯か👨", "\u200d\u3099\u1100\r"]))
@example("👨" + "\u200d👩" * 9 + "。", FakeReader(run_chars=1), 4, "packed", "。\n")
@example("。か\u3099\r\n🇯🇵", FakeReader(), 40, "spans", "。🇯か👨")
def test_cut_clusters_are_those_that_are_cut(
    text: str, reader: FakeReader, room: int, mode: Mode, marks: str
) -> None:
    """``cut_clusters == ends of chunks - ends of clusters``; each cluster cut is over the budget.

    Whatever the splitter: one of the user's may cut clusters, and its spans are joined.
    """
    (found,) = chunk(Chunker((EverySplitter(marks), *REAL), mode), [text], reader, room)
    assert text == "".join(pieces(text, found))
    assert cut_inside(text, found) == found.cut_clusters
    for cut in found.cut_clusters:
        (cluster,) = [text[start:end] for start, end in cluster_spans(text) if start < cut < end]
        (count,), (encoding,) = reader.count([cluster]), reader.encode([cluster])
        assert count > room or len(encoding) > reader.overhead_tokens + room


def test_spans_that_cut_clusters_are_joined() -> None:
    """A user's own object may cut anywhere: its cut is moved to the end of the cluster."""
    text = "あ。\ufe0fい。か\u3099\r\n🇯🇵"
    chunker = Chunker((EverySplitter("。か\r🇯"),), "spans")
    (found,) = chunk(chunker, [text], FakeReader(), 40)
    assert ["あ。\ufe0f", "い。", "か\u3099\r\n", "🇯🇵"] == pieces(text, found)
    assert () == found.cut_clusters


@pytest.mark.parametrize("mode", ["packed", "spans"])
def test_a_character_over_the_budget_is_refused(mode: Mode) -> None:
    """A code point that alone has too many tokens is named by input and position, not shown."""
    reader = FakeReader(costs={"𠮷": 9})
    fine, bad = "あ。" * 50, "あ。い。 \n 𠮷。う"
    with pytest.raises(
        TextTooLongError, match="position 7 of input 1 alone has more tokens"
    ) as caught:
        chunk(Chunker(TINY, mode), [fine, bad, bad], reader, 8)
    assert 1 in caught.value.indices
    assert "𠮷" not in str(caught.value)
    with pytest.raises(TextTooLongError, match="input 7") as caught:
        Chunker(TINY, mode).chunk([fine, bad], reader, reader.overhead_tokens + 8, [4, 7])
    assert (7,) == caught.value.indices
    assert 1 == len(chunk(Chunker(TINY), ["𠮷"], reader, 9)[0].chunks)


def test_a_prompt_that_leaves_no_room_is_refused() -> None:
    """The error gives both numbers and what to change; nothing was read before."""
    reader = FakeReader(prompt="検索文書: ", run_chars=1)
    told = "prompt and the special tokens take 7 of the 7 tokens"
    with pytest.raises(ConfigError, match=re.escape(told)):
        Chunker(TINY).chunk(["あ"], reader, 7)
    assert [] == reader.pieces
    assert 1 == len(Chunker(TINY).chunk(["あ"], reader, 8)[0].chunks)


class Lossy:
    """A user's splitter that loses the last character."""

    def split(self, text: str) -> list[tuple[int, int]]:
        """Give one span too short."""
        return [(0, len(text) - 1)]


def test_a_splitter_that_loses_text_is_refused() -> None:
    """Whatever rung it stands on."""
    for rungs in ((Lossy(),), (EverySplitter("。"), Lossy())):
        with pytest.raises(ConfigError, match=r"Lossy.split gave spans up to"):
            chunk(Chunker(rungs, "packed"), ["あ漢" * 50], FakeReader(), 5)


@pytest.mark.parametrize("text", ["", " ", "\n\n\n", "\u3000" * 1000, "\t" * 100_000])
@pytest.mark.parametrize("mode", ["packed", "spans"])
@pytest.mark.parametrize("blank_chars", [None, 1, 16])
def test_blank_texts_are_one_chunk(text: str, mode: Mode, blank_chars: int | None) -> None:
    """The empty and the blank text have one chunk, all of it, even if blanks cost tokens."""
    reader = FakeReader(blank_chars=blank_chars)
    found = chunk(Chunker(TINY, mode), [text] * (1 if text else 0) + [""], reader, 5)[0]
    assert [(0, len(text))] == [span for span, _ in found.chunks]
    assert len(found.chunks[0].encoding) <= reader.overhead_tokens + 5
    assert found.is_long == (len(text) > 8 * 5)


def test_no_texts_have_no_chunks() -> None:
    """An empty list gives an empty list."""
    assert [] == Chunker(TINY).chunk([], FakeReader(), 10)


LONG = {
    "prose": "彼は「今日は雨だ、明日も。」と言った。そして、" * 2_000,
    "no boundary": "漢" * 100_000,
    "Latin": "a" * 100_000,
    "blanks": " " * 100_000,
    "blanks in between": ("あ" + " " * 5_000) * 20,
    "one word in blanks": " " * 50_000 + "あ" + "\n" * 50_000,
    "blank lines": "あ。" + "\n \n" * 30_000 + "い。",
    "one cluster": "か" + "\u3099" * 20_000,
    "blank and not": (" " * 300 + "あ。") * 300,
    "nothing to the reader": "\0" * 50_000 + "あ" + "\0" * 50_000,
    "dashes": "―" * 100_000,
    "open brackets": "「" * 50_000,
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG.keys())
@pytest.mark.parametrize("mode", ["packed", "spans"])
@pytest.mark.parametrize("run_chars", [1, 4, 100])
def test_the_reader_is_never_handed_a_whole_long_text(
    text: str, mode: Mode, run_chars: int
) -> None:
    """No piece it is handed is longer than eight characters for each token of the budget."""
    reader = FakeReader(prompt="検索文書: ", run_chars=run_chars, costs={"\0": 0})
    budget = 40
    (found,) = Chunker(TINY, mode).chunk([text], reader, budget)
    assert text == "".join(pieces(text, found))
    assert max(map(len, reader.pieces)) <= 8 * budget


@given(texts, readers, rooms, modes)
def test_properties_hold_on_the_real_ladder(
    text: str, reader: FakeReader, room: int, mode: Mode
) -> None:
    """With punctuation, brackets and morphemes, too: tiling, budget, no blank chunk, clusters."""
    (found,) = chunk(Chunker(REAL, mode), [text], reader, room)
    assert text == "".join(pieces(text, found))
    assert all(len(encoding) <= reader.overhead_tokens + room for _, encoding in found.chunks)
    assert not text.strip() or all(piece.strip() for piece in pieces(text, found))
    ends = {0, *(end for _, end in cluster_spans(text)), *found.cut_clusters}
    assert {span.end for span, _ in found.chunks} <= ends


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (40, "彼は「今日は雨だ、明日も。（たぶん。）」と言った。"),
        (24, "「今日は雨だ、明日も。」と言った。|そして、家に帰った。"),
        (11, "「今日は雨だ、|明日も。」と言った。"),
        (7, "朝、彼女は|図書館で|本を読んだ。"),
        (2, "図書|館で"),
    ],
)
def test_a_piece_goes_down_the_ladder(room: int, expected: str) -> None:
    """Sentence, clause, inside brackets, bunsetsu: only as far as it must."""
    text = expected.replace("|", "")
    (found,) = chunk(Chunker(REAL), [text], FakeReader(run_chars=1), room)
    assert expected == "|".join(pieces(text, found))


def test_the_analyser_reads_only_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a text it is handed the clause that does not fit, and no more; mostly nothing at all."""
    handed: list[str] = []
    usual = MorphemeSplitter.split

    def split(self: MorphemeSplitter, text: str) -> list[Span]:
        handed.append(text)
        return usual(self, text)

    monkeypatch.setattr(MorphemeSplitter, "split", split)
    clause = "今日は良い天気なので図書館で本を読んでいる。"
    text = "春は花、夏は鳥。" * 9 + clause + "秋は月、冬は雪。" * 9
    reader = FakeReader(run_chars=1)
    chunk(Chunker(REAL), [text], reader, len(clause))
    assert [] == handed
    chunk(Chunker(REAL), [text], reader, len(clause) - 1)
    assert [clause] == handed


def test_what_is_handed_over_does_not_depend_on_hashing() -> None:
    """Two runs give the same chunks, and leave the reader's settings alone."""
    source = random.Random(5)
    text = "".join(source.choice(ATOMS) for _ in range(500))
    reader = FakeReader(seam_tokens=1)
    first, again = (chunk(Chunker(REAL), [text], replace(reader, pieces=[]), 12)[0] for _ in "12")
    assert [one.span for one in first.chunks] == [one.span for one in again.chunks]
