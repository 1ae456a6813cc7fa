"""Splitters that users bring along: expressions, functions of other libraries, objects."""

from __future__ import annotations

import pickle
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from safe_embed.errors import ConfigError
from safe_embed.foreign import shown
from safe_embed.text.graphemes import cluster_spans
from safe_embed.text.morphemes import MorphemeSplitter
from safe_embed.text.punctuation import PunctuationSplitter
from safe_embed.text.splitters import ladder, resolve_splitter
from safe_embed.text.user_splitters import (
    FunctionSplitter,
    RegexSplitter,
    check_tiling,
    checked_split,
)
from safe_embed.types import Span, Splitter

SECRET = "秘密の文章"  # noqa: S105

texts = st.text(st.sampled_from("あい漢a。、 \u3000\t\n\r\v\x1c\x85\u2028"), max_size=30)
# What joins the characters around it to one that a reader sees.
JOINED = ("\ufe0f", "\u200d", "\u3099", "\uff9e", "\u0301", "\u20dd", "゛", "\u0600", "क\u094dष")
joined_texts = st.lists(
    st.sampled_from(
        [*"あ。、 \u3000", "\r\n", "\n", *"👨👩🇯🇵", "‼", "\u1100", "\u1161", "각", *JOINED]
    ),
    max_size=20,
).map("".join)


def pieces(text: str, splitter: Splitter) -> list[str]:
    """What a splitter cuts a text into."""
    return [text[start:end] for start, end in splitter.split(text)]


class Sentences:
    """An object of another library: its bound method gives stripped sentences."""

    def cut(self, text: str) -> list[str]:
        """Cut at 。 and leave the white space out."""
        return [piece.strip() for piece in re.findall("[^。]+。?", text) if piece.strip()]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("[。、]", "春、|夏。|秋"),
        (re.compile("。+"), "春。。|夏"),
        ("$", "春\n夏"),
        ("", "春夏"),
        ("x*", "春xx|夏"),
        ("(?=夏)", "春夏"),
        ("(春)|夏", "春|夏|秋"),
        (".", "春|夏|秋"),
        ("秋", "春夏秋"),
        ("(?i)A", "春a|夏A|秋"),
        ("[。‼]", "春。\ufe0f|夏‼\u200d👨|秋"),
        ("か", "か\u3099|か゛|か|き"),
        ("ｶ", "ｶﾞ|ｷ"),
        ("\r", "一\r\n|二\r|三"),
        ("[👨🇯]", "👨\u200d👩\u200d👧|🇯🇵|🇯🇵|次"),
        ("\n", "一\n|\u0301二"),
        (".", "か\u3099|\u3000\u0301|①\u20dd|क\u094dष|\u1100\u1161"),
        ("。", "春。\ufe0f"),
    ],
)
def test_an_expression_cuts_behind_its_matches(
    pattern: str | re.Pattern[str], expected: str
) -> None:
    """Each match that is not empty ends a piece; where two end, there is one cut."""
    assert expected == "|".join(pieces(expected.replace("|", ""), RegexSplitter(pattern)))


def test_short_texts_stay_whole() -> None:
    """``min_chars`` is the length from which on a text is cut."""
    splitter = RegexSplitter("、", min_chars=4)
    assert [(0, 3)] == splitter.split("あ、い")
    assert [(0, 2), (2, 4)] == splitter.split("あ、いう")


@given(texts, st.sampled_from(["[。、]", r"\s", r"\s*", ".", "(?s).", "あ|い", "あ*"]))
def test_expressions_tile(text: str, pattern: str) -> None:
    """``"".join(text[s:e]) == text``, whatever the expression matches."""
    spans = RegexSplitter(pattern).split(text)
    assert spans == check_tiling(text, spans, RegexSplitter)


@given(joined_texts, st.sampled_from(["[。、‼]", r"\s", "(?s).", "あ|👨", "[🇯\u1100]", "\u200d"]))
@example("あ。\ufe0f", "[。、‼]")
def test_expressions_cut_no_cluster(text: str, pattern: str) -> None:
    """``{ends of spans} == {ends of the clusters in which a match ends}``, and the text's end."""
    inside = {m.end() for m in re.finditer(pattern, text)} | {len(text)}
    clusters = cluster_spans(text)
    expected = [end for start, end in clusters if inside & set(range(start + 1, end + 1))]
    assert expected == [end for _, end in RegexSplitter(pattern).split(text)]


def test_a_bad_expression_is_refused() -> None:
    """A pattern that is none is named at construction."""
    with pytest.raises(
        ConfigError, match=r"pattern='\[' is not a valid regular expression: unterminated"
    ):
        RegexSplitter("[")


def test_an_expression_is_a_value() -> None:
    """Pickled and compared, a RegexSplitter is what it says."""
    splitter = RegexSplitter("[。、]", 3)
    again = pickle.loads(pickle.dumps(splitter))  # noqa: S301
    assert splitter == again == RegexSplitter(re.compile("[。、]"), 3)
    assert [(0, 2), (2, 3)] == again.split("あ。い")


@pytest.mark.parametrize(
    ("function", "text", "expected"),
    [
        (str.split, " いち に\u3000 さん ", [" いち ", "に\u3000 ", "さん "]),
        (str.split, "いち", ["いち"]),
        (str.splitlines, "一\n\n二\r\n三", ["一\n\n", "二\r\n", "三"]),
        (str.splitlines, "\n一", ["\n一"]),
        (Sentences().cut, "一。 二。\n三", ["一。 ", "二。\n", "三"]),
        (lambda text: text.split("。"), "一。二。", ["一。", "二。"]),
        (lambda text: re.split("(。)", text), "一。二", ["一", "。", "二"]),
        (lambda text: (part for part in text), "同同", ["同", "同"]),
        (list, "ああ", ["あ", "あ"]),
        (lambda text: [(1, 2), [2, 4]], "一二三四五", ["一二", "三四五"]),
        (lambda text: [Span(0, 1), Span(3, 3), Span(3, 4)], "一二三四", ["一二三", "四"]),
        (
            lambda text: [match.span() for match in re.finditer("二|四", text)],
            "一二三四",
            ["一二三", "四"],
        ),
        (lambda text: [], "一二", ["一二"]),
        (lambda text: [""], "一二", ["一二"]),
        (lambda text: [], "", []),
        (str.split, " \n", [" \n"]),
        (list, "か\u3099き゛。\ufe0f\r\n次", ["か\u3099", "き゛", "。\ufe0f", "\r\n", "次"]),
        (lambda text: [(0, 2), (2, 4), (5, 7)], "あ。\ufe0f🇯🇵🇫🇷", ["あ。\ufe0f", "🇯🇵", "🇫🇷"]),
        (lambda text: re.split("(?<=。)", text), "あ。\u0301", ["あ。\u0301"]),
    ],
)
def test_functions_of_other_libraries(
    function: Callable[[str], Iterable[str | tuple[int, int]]], text: str, expected: list[str]
) -> None:
    """A piece begins where the function's piece begins; what it left out stays before."""
    assert expected == pieces(text, FunctionSplitter(function))


@given(texts, st.sampled_from([str.split, str.splitlines, Sentences().cut, list]))
def test_functions_tile(text: str, function: Callable[[str], list[str]]) -> None:
    """``"".join(text[s:e]) == text``, although the function drops white space."""
    spans = FunctionSplitter(function).split(text)
    assert spans == check_tiling(text, spans, function)


@given(joined_texts, st.sampled_from([str.split, str.splitlines, list]))
def test_functions_cut_no_cluster(text: str, function: Callable[[str], list[str]]) -> None:
    """``{ends of spans} <= {ends of grapheme clusters}``: a piece begins behind the cluster."""
    spans = FunctionSplitter(function).split(text)
    assert spans == check_tiling(text, spans, function)
    assert {end for _, end in spans} <= {end for _, end in cluster_spans(text)}


@pytest.mark.parametrize(
    ("function", "number"),
    [
        (lambda text: [text.replace("密", "蜜")], 0),
        (lambda text: [text[:2], text[:2]], 1),
        (lambda text: [text[2:], text[:2]], 1),
        (lambda text: [(2, 4), (0, 2)], 1),
        (lambda text: [(0, 99)], 0),
        (lambda text: [(-2, 1)], 0),
        (lambda text: [(3, 1)], 0),
        (lambda text: [text, text.upper() + "。"], 1),
    ],
)
def test_lossy_functions_are_refused(
    function: Callable[[str], Iterable[str | tuple[int, int]]], number: int
) -> None:
    """Changed, repeated or disordered pieces are an error that does not show the text."""
    told = rf"gave a piece \(number {number}\) that does not follow.*text of 5 characters"
    with pytest.raises(ConfigError, match=told) as caught:
        FunctionSplitter(function).split(SECRET)
    assert not set("秘密蜜") & set(str(caught.value))


@pytest.mark.parametrize(
    ("spans", "told"),
    [
        ([(0, 2)], "up to 2 for a text of 5 characters"),
        ([], "up to 0 for a text of 5"),
        ([(0, 2), (3, 5)], r"span 1 as \(3, 5\) where a span that starts at 2"),
        ([(0, 0), (0, 5)], r"span 0 as \(0, 0\)"),
        ([(0, 2), (2, 2), (2, 5)], r"span 1 as \(2, 2\)"),
        ([(1, 5)], r"span 0 as \(1, 5\) where a span that starts at 0"),
        ([(0, 6)], "up to 6 for a text of 5"),
        ([(0, -1)], r"span 0 as \(0, -1\)"),
    ],
)
def test_spans_that_do_not_tile_are_refused(spans: list[tuple[int, int]], told: str) -> None:
    """Gaps, empty spans and missing ends are named with the splitter's class."""
    with pytest.raises(
        ConfigError, match=rf"^Sentences\.split gave spans? {told.removeprefix('span ')}"
    ) as caught:
        check_tiling(SECRET, spans, Sentences())
    assert SECRET not in str(caught.value)


class Overlapping:
    """A splitter of spans, the second of which begins in the first."""

    def split(self, text: str) -> list[tuple[int, int]]:
        """Cut a text in two."""
        return [(0, 4), (2, len(text))]


@pytest.mark.parametrize(
    "splitter",
    [
        FunctionSplitter(lambda text: [text[:4], text[2:]]),
        FunctionSplitter(lambda text: [text[:3], text[2:4], text[3:]]),
        FunctionSplitter(lambda text: [(0, 4), (2, len(text))]),
        Overlapping(),
    ],
)
def test_pieces_that_overlap_get_an_error_of_their_own(splitter: Splitter) -> None:
    """As splitters of other libraries give them by default: it is said what to set."""
    with pytest.raises(ConfigError, match="overlaps the one before it") as caught:
        checked_split(splitter, SECRET)
    assert "chunk_overlap=0" in str(caught.value)
    assert "重なり" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_tiling_spans_pass() -> None:
    """Plain tuples come back as spans; the empty text has none."""
    assert [Span(0, 2), Span(2, 5)] == check_tiling(SECRET, [(0, 2), (2, 5)], None)
    assert [] == check_tiling("", [], None)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("punctuation", PunctuationSplitter()),
        ("morphemes", MorphemeSplitter()),
        (re.compile("。"), RegexSplitter("。")),
        (str.split, FunctionSplitter(str.split)),
        (PunctuationSplitter("clause"), PunctuationSplitter("clause")),
    ],
)
def test_what_may_stand_for_a_splitter(spec: object, expected: Splitter) -> None:
    """A name, an expression, a function and a splitter each give their splitter."""
    assert expected == resolve_splitter(spec)


@pytest.mark.parametrize("spec", ["sentences", "", None, 3, ["。"]])
def test_what_is_no_splitter_is_refused(spec: object) -> None:
    """Anything else is named, with what would do."""
    told = f"splitter={shown(spec)} is not a splitter. Use 'pun"
    with pytest.raises(ConfigError, match=re.escape(told)):
        resolve_splitter(spec)


@pytest.mark.parametrize(
    ("first", "names"),
    [
        (
            PunctuationSplitter("paragraph"),
            ["PunctuationSplitter"] * 7 + ["RegexSplitter"] + ["MorphemeSplitter"] * 3,
        ),
        (
            RegexSplitter("。"),
            ["RegexSplitter"]
            + ["PunctuationSplitter"] * 6
            + ["RegexSplitter"]
            + ["MorphemeSplitter"] * 3,
        ),
        (MorphemeSplitter(), ["MorphemeSplitter"] * 4),
    ],
)
def test_a_ladder_begins_with_the_users_own(first: Splitter, names: list[str]) -> None:
    """Below it come punctuation, blanks and morphemes; below morphemes nothing else; all can be pickled."""
    rungs = ladder(first)
    assert first == rungs[0]
    assert names == [type(rung).__name__ for rung in rungs]
    assert rungs == pickle.loads(pickle.dumps(rungs))  # noqa: S301
    assert ["「今日、", "雨」"] == pieces("「今日、雨」", rungs[-1])  # every bracket is open


@pytest.mark.parametrize("piece", [1, None, (1, 2, 3), ("a", "b"), b"abc"])
def test_a_function_that_gives_no_pieces(piece: object) -> None:
    """What is neither a str nor a pair of numbers is refused, with what is needed."""
    with pytest.raises(ConfigError, match=r"\(start, end\) pairs"):
        FunctionSplitter(lambda _: [piece]).split("春夏秋冬")  # type: ignore[arg-type]


def test_a_function_that_gives_numpy_pairs() -> None:
    """Offsets of another library may be numpy's integers."""
    pairs = np.array([[0, 2], [2, 4]])
    assert [(0, 2), (2, 4)] == FunctionSplitter(lambda _: pairs).split("春夏秋冬")  # type: ignore[arg-type]


MOST = 1000


class Asked:
    """Pieces or spans without an end, which counts how many were taken."""

    def __init__(self, make: Callable[[int], object]) -> None:
        self.make = make
        self.taken = 0

    def __iter__(self) -> Iterator[object]:
        return self

    def __next__(self) -> object:
        self.taken += 1
        assert self.taken < MOST, "it would take pieces for ever"
        return self.make(self.taken - 1)


ENDLESS_PIECES: dict[str, Callable[[int], object]] = {
    "nothing": lambda _: "",
    "an empty pair": lambda _: (0, 0),
    "an empty pair at the end": lambda _: (5, 5),
    "the same piece": lambda _: SECRET[:2],
    "the same pair": lambda _: (0, 2),
    "pairs beyond the end": lambda at: (at, at + 1),
    "empty pairs beyond the end": lambda at: (at, at),
    "the text, then nothing": lambda at: SECRET if at == 0 else "",
    "a piece and nothing in turn": lambda at: SECRET[at // 2 : at // 2 + at % 2],
}


@pytest.mark.parametrize("make", ENDLESS_PIECES.values(), ids=ENDLESS_PIECES)
def test_a_function_that_gives_pieces_without_end(make: Callable[[int], object]) -> None:
    """It is refused once it has given more than a text of 5 characters can have."""
    asked = Asked(make)
    with pytest.raises(ConfigError, match="splitter") as caught:
        FunctionSplitter(lambda _: asked).split(SECRET)  # type: ignore[arg-type, return-value]
    assert asked.taken < 50
    assert not set(SECRET) & set(str(caught.value))


ENDLESS_SPANS: dict[str, Callable[[int], object]] = {
    "empty": lambda _: (0, 0),
    "the same": lambda _: (0, 2),
    "beyond the end": lambda at: (at, at + 1),
    "in great steps": lambda at: (at * 10**9, (at + 1) * 10**9),
    "whole, then empty": lambda at: (0, 5) if at == 0 else (5, 5),
    "backwards": lambda at: (-at, 1 - at),
    "shrinking": lambda at: (0, 5 - at),
}


@pytest.mark.parametrize("make", ENDLESS_SPANS.values(), ids=ENDLESS_SPANS)
def test_a_splitter_that_gives_spans_without_end(make: Callable[[int], object]) -> None:
    """No span is asked for behind the first that does not fit the text."""
    asked = Asked(make)
    with pytest.raises(ConfigError, match=r"Sentences\.split gave span"):
        check_tiling(SECRET, asked, Sentences())
    assert asked.taken <= len(SECRET) + 1


def test_empty_pieces_between_others_are_no_mistake() -> None:
    """An expression that matches nothing too, with groups: more empty pieces than characters."""
    text = "春夏秋冬" * 50
    spans = FunctionSplitter(lambda text: re.split("(x*)", text)).split(text)
    assert [(at, at + 1) for at in range(len(text))] == spans


@pytest.mark.parametrize(
    "form",
    [list, tuple, iter, lambda spans: (one for one in spans), np.array, deque, dict.fromkeys],
    ids=["list", "tuple", "iterator", "generator", "array", "deque", "keys"],
)
@pytest.mark.parametrize("whole", [int, np.int64, np.uint8], ids=lambda kind: kind.__name__)
def test_spans_come_in_any_form(form: Callable[..., Any], whole: Callable[[int], Any]) -> None:
    """What can be iterated over once will do, of any whole numbers; they come out as plain ones."""
    given = [(whole(0), whole(2)), (whole(2), whole(5))]
    for found in (
        check_tiling(SECRET, form(given), None),
        FunctionSplitter(lambda _: form(given)).split(SECRET),
    ):
        assert [Span(0, 2), Span(2, 5)] == found
        assert {int} == {type(one) for span in found for one in span}


NO_SPANS = [
    (0.0, 5.0),
    (0, 5.0),
    (np.float64(0), np.float64(5)),
    (False, True),
    (0, True),
    (np.False_, np.True_),
    ("0", "5"),
    ("秘", "密"),
    "秘密",
    b"\x00\x05",
    bytearray(b"\x00\x05"),
    (0, 5, 5),
    (5,),
    (),
    None,
    5,
    {0, 5},
    {0: 1, 5: 2},
    {"start": 0, "end": 5},
    (None, 5),
    ((0, 2), (2, 5)),
    iter(int, 1),
]


@pytest.mark.parametrize("span", NO_SPANS, ids=lambda span: type(span).__name__)
def test_what_is_no_span_is_refused(span: object) -> None:
    """A pair of whole numbers is needed; what was given is named by its type."""
    with pytest.raises(ConfigError, match=r"span 0 .*\(start, end\)") as caught:
        check_tiling(SECRET, [span], Sentences())
    assert "秘" not in str(caught.value)
    if not isinstance(span, str):
        with pytest.raises(ConfigError, match=r"\(start, end\) pairs"):
            FunctionSplitter(lambda _: [span]).split(SECRET)  # type: ignore[list-item]


@pytest.mark.parametrize("given", [None, 5, SECRET, print, SECRET.encode(), {1.5: 2}])
def test_what_gives_no_spans_at_all_is_refused(given: object) -> None:
    """A splitter object that forgets to return, or gives pieces instead."""
    with pytest.raises(ConfigError, match=r"Sentences\.split gave .*\(start, end\)") as caught:
        check_tiling(SECRET, given, Sentences())
    assert "秘" not in str(caught.value)


@pytest.mark.parametrize("given", [None, 5, print])
def test_a_function_that_gives_nothing_to_go_through(given: object) -> None:
    """A function that returns None is refused, with a message that says so."""
    with pytest.raises(ConfigError, match=r"splitter function gave (NoneType|int|builtin)"):
        FunctionSplitter(lambda _: given).split(SECRET)  # type: ignore[arg-type, return-value]


def _next_of_nothing(_: str) -> list[str]:
    return [next(iter(()))]


def _generator_without_end_of_its_own(_: str) -> Iterator[str]:
    yield next(iter(()))


@pytest.mark.parametrize("function", [_next_of_nothing, _generator_without_end_of_its_own])
def test_a_function_that_raises_stop_iteration(function: Callable[[str], Iterable[str]]) -> None:
    """It would end a loop over texts without a word: here it is an error."""
    with pytest.raises(ConfigError, match="The splitter raised StopIteration"):
        list(map(FunctionSplitter(function).split, [SECRET]))
