"""What must stay together: clusters, brackets, addresses, numbers, runs of marks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from safe_embed.text.graphemes import (
    CLOSERS,
    OPENERS,
    at_cluster_ends,
    between_clusters,
    bracket_spans,
    cluster_cuts,
    cluster_spans,
    keep_whole,
    spans_between,
)

# U+094D and other linkers are left out: the package `regex` joins a consonant of Devanagari to
# whatever stands before its linker, the standard only to a consonant.
texts = st.lists(
    st.sampled_from(
        [
            *"あが漢aア3゛゜ﾞﾟ。、「」（）(",
            *("\u3099", "\u309a", "\u0301", "\u200d", "\ufe0f", "\U000e0100", "\u0600", "\u0903"),
            *("👨", "👩", "🏽", "❤", "🇯", "🇵", "🇫", "\u1100", "\u1161", "\u11a8", "각", "1\u20e3"),
            *("\r", "\n", "\r\n", "\0", " "),
        ]
    ),
    max_size=30,
).map("".join)


def pieces(text: str) -> list[str]:
    """The clusters of a text."""
    return [text[start:end] for start, end in cluster_spans(text)]


@pytest.mark.parametrize(
    "expected",
    [
        "か゛|き",
        "か\u3099|は\u309a|き",
        "ｶﾞ|ﾊﾟ|ｷ",
        "👨‍👩‍👧|👨🏽|❤️|漢",
        "🇯🇵|🇫🇷|🇯|a",
        "🇯🇵\u200d|🇫🇷",
        "葛\U000e0100|城",
        "\r\n|\n|\r|あ",
        "각|e\u0301|1\ufe0f\u20e3",
        "゛|あ",
        "\r\n|゛|あ|\u2028|゜゛|。゛",
    ],
)
def test_clusters(expected: str) -> None:
    """What a reader sees as one character is one cluster."""
    assert expected.split("|") == pieces(expected.replace("|", ""))


@given(texts)
@example("🇯" * 7 + "\u0301゛🇵🇫")
def test_clusters_are_those_of_the_standard(text: str) -> None:
    """Clusters are those of UAX 29, and a voicing mark with a width joins what it follows.

    It joins no line break and no other control, as no other mark does (GB4).
    """
    expected: list[str] = []
    for cluster in regex.findall(r"\X", text):
        if expected and cluster[0] in "゛゜" and expected[-1][-1] not in "\r\n\0":
            expected[-1] += cluster
        else:
            expected.append(cluster)
    assert expected == pieces(text)


@given(texts, st.integers(1, 9))
def test_cluster_cuts_are_the_first_that_are_far_enough(text: str, size: int) -> None:
    """Each cut is the first cluster end at least *size* behind the one before."""
    ends = [end for _, end in cluster_spans(text)][:-1]
    expected, start = [], 0
    for end in ends:
        if end - start >= size:
            expected.append(end)
            start = end
    assert expected == cluster_cuts(text, size)


@given(texts, st.integers(1, 3))
@example("か\u3099き゛🇯🇵🇫🇷\r\nか", 1)
@example("🇯🇵🇫🇷🇯か\u3099", 2)
def test_cuts_inside_clusters_are_moved_or_dropped(text: str, step: int) -> None:
    """What lies inside a cluster goes to its end, or goes; all other cuts stay."""
    ends = [end for _, end in cluster_spans(text)][:-1]
    cuts = list(range(1, len(text), step))
    moved = {min((end for end in ends if end >= cut), default=0) for cut in cuts} - {0}
    assert sorted(moved) == at_cluster_ends(text, cuts)
    assert sorted({*cuts} & {*ends}) == between_clusters(text, cuts)


@given(texts)
@example("🇯🇵🇫🇷か\u3099\r\n゛")
def test_clusters_of_a_part_are_those_of_the_text(text: str) -> None:
    """A text cut at the end of a cluster has the same clusters on both sides."""
    clusters = cluster_spans(text)
    for _, cut in clusters:
        before = cluster_spans(text[:cut])
        behind = [(cut + start, cut + end) for start, end in cluster_spans(text[cut:])]
        assert clusters == [*before, *behind]


@pytest.mark.parametrize(
    ("text", "depth", "expected"),
    [
        ("あ「い」う（え）", 0, ["「い」", "（え）"]),
        ("『あ「い」（う【え】）』", 0, ["『あ「い」（う【え】）』"]),
        ("『あ「い」（う【え】）』", 1, ["「い」", "（う【え】）"]),
        ("『あ「い」（う【え】）』", 2, ["【え】"]),
        ("『あ「い」（う【え】）』", 3, []),
        ("『あ「い」（う【え】）』", None, []),
        ("「あ（い」う）", 0, ["「あ（い」"]),
        ("「「あ」", 0, ["「あ」"]),
        ("「あ」」", 0, ["「あ」"]),
        ("「あ）」", 0, ["「あ）」"]),
        ("「あ\nい」", 0, ["「あ\nい」"]),
        ("「あ\n\nい」", 0, []),
        ("「あ\r\nい」", 0, ["「あ\r\nい」"]),
        ("「あ\r\n\r\nい」", 0, []),
        ("「あ\n \u3000\t\nい」", 0, []),
        ("「あ\u2028\u2028い」", 0, []),
        ("a(b[c])《d》〈e〉“f”", 0, ["(b[c])", "《d》", "〈e〉", "“f”"]),
        ("```\n「あ\n```\nい」", 0, ["```\n「あ\n```\n"]),
        ("あ\n  ~~~py\n```\n~~~\nい", 0, ["  ~~~py\n```\n~~~\n"]),
        ("```\nあ「い」\n```\n", 1, ["「い」"]),
        ("あ```い```", 0, []),
        ("    ```\nあ\n    ```\n", 0, []),
        ("```\nあ", 0, []),
        ("", 0, []),
    ],
)
def test_brackets(text: str, depth: int | None, expected: list[str]) -> None:
    """Matched brackets and code fences are found level by level; open ends protect nothing."""
    found = bracket_spans(text, depth)
    assert expected == [text[start:end] for start, end in found]


brackets = st.text(st.sampled_from(OPENERS + CLOSERS + "あ\n"), max_size=40)


@given(brackets, st.integers(0, 3))
@example("```\n「\n```\n」", 0)
@example("「\n```\n」\n```\n", 1)
def test_bracket_spans_are_disjoint_and_ordered(text: str, depth: int) -> None:
    """Spans of one level do not overlap, and each begins and ends with partners or a fence."""
    spans = bracket_spans(text, depth)
    assert all(before.end <= after.start for before, after in pairwise(spans))
    for start, end in spans:
        first, last = text[start], text[end - 1]
        assert first == "`" or OPENERS.index(first) == CLOSERS.index(last)


@given(brackets)
def test_deeper_spans_lie_inside(text: str) -> None:
    """Each span of a level lies inside one of the level above."""
    for depth in range(3):
        above = bracket_spans(text, depth)
        for start, end in bracket_spans(text, depth + 1):
            assert any(outer.start <= start and end <= outer.end for outer in above)


@pytest.mark.parametrize(
    "expected",
    [
        "あ|い|「うえ」|お",
        "https://a.jp/b?c=d!e| |を|見|た。",
        "見|よ|https://a.jp/b。|次",
        "user.name@example.jp| |へ",
        "約|3.14|か|３．１４",
        "1,000|円|12:30|時|2026/11/22",
        "え……|そ|う",
        "本|当！？|次",
        "つ|――|つ",
        "コー|ヒー|と|人々",
        "ちょっ|と|待っ|て",
        "か゛|か\u3099|ｶﾞ|🇯🇵|👨‍👩‍👧|葛\U000e0100|次",
        "あ）|い",
        "あ、|い，|う",
    ],
)
def test_atoms_are_kept_whole(expected: str) -> None:
    """Of all cuts those stay that part no address, number, run of marks or cluster."""
    text = expected.replace("|", "")
    cuts = keep_whole(text, range(1, len(text)), atoms=True)
    assert expected == "|".join(text[start:end] for start, end in spans_between(cuts, len(text)))


def test_an_opening_bracket_stays_with_what_follows() -> None:
    """（|注 is no cut, even where the bracket has no partner."""
    assert [1, 3] == keep_whole("あ（注い", [1, 2, 3], atoms=True)
    assert [1, 2, 3] == keep_whole("あ（注い", [1, 2, 3])


@given(texts, st.sampled_from([0, 1, None]), st.booleans())
def test_keep_whole_only_drops_cuts(text: str, depth: int | None, atoms: bool) -> None:
    """What is kept is among what was given; clusters are never cut where atoms are minded."""
    given_cuts = list(range(1, len(text)))
    kept = keep_whole(text, given_cuts, depth=depth, atoms=atoms)
    assert kept == [cut for cut in given_cuts if cut in set(kept)]
    inside = [
        cut
        for cut in kept
        if any(start < cut < end for start, end in bracket_spans(text, depth))
        or (atoms and any(start < cut < end for start, end in cluster_spans(text)))
    ]
    assert [] == inside


@given(st.sets(st.integers(1, 49)), st.integers(50, 60))
def test_spans_between_tile(cuts: set[int], length: int) -> None:
    """There is one span more than cuts, and together they cover all."""
    spans = spans_between(sorted(cuts), length)
    assert len(cuts) + 1 == len(spans)
    assert list(range(length)) == [at for start, end in spans for at in range(start, end)]


def test_nothing_has_no_spans() -> None:
    """The empty text has neither spans nor clusters nor cuts."""
    assert [] == spans_between([], 0) == cluster_spans("") == cluster_cuts("", 1)


HOSTILE: dict[str, Callable[[int], str]] = {
    "flags": lambda n: "🇯" * n,
    "family": lambda n: "👨\u200d" * (n // 2),
    "marks": lambda n: "か" + "\u3099" * n,
    "wide marks": lambda n: "゛" * n,
    "linkers": lambda n: "क\u094d" * (n // 2),
    "jamo": lambda n: "\u1100" * n,
    "prepended": lambda n: "\u0600" * n,
    "addresses": lambda n: "ab://!" * (n // 6),
    "half an address": lambda n: "ab://" + "!" * n,
    "schemes": lambda n: "a:" * (n // 2),
    "half a mail": lambda n: "a@" * (n // 2),
    "dotted": lambda n: "a." * (n // 2),
    "numbers": lambda n: "1." * (n // 2),
    "dashes": lambda n: "―" * n,
    "open brackets": lambda n: "「" * n,
    "crossed brackets": lambda n: "「（" * (n // 4) + "」）" * (n // 4),
    "open lines": lambda n: "「\n" * (n // 2),
    "fences": lambda n: "```\n" * (n // 4),
}


# A quadratic search takes minutes for each of these, a linear one a second.
@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_takes_linear_time(make: Callable[[int], str]) -> None:
    """No repeated unit makes a search read a stretch again from each of its characters."""
    text = make(500_000)
    cuts = range(1, len(text), 2)
    assert len(keep_whole(text, cuts, atoms=True)) <= len(cuts)
    assert len(at_cluster_ends(text, cuts)) <= len(cuts)
    assert len(cluster_cuts(text, 100)) <= len(text) // 100
