"""Where PunctuationSplitter cuts, and where it must not."""

from __future__ import annotations

import json
import pickle
import re
import tracemalloc
from collections.abc import Callable, Iterable
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from safe_embed.errors import ConfigError
from safe_embed.text.graphemes import (
    CLOSERS,
    ELLIPSIS,
    END_MARK,
    LINE_BREAK,
    OPENERS,
    cluster_spans,
)
from safe_embed.text.punctuation import PunctuationSplitter

LEVELS = ("paragraph", "sentence", "clause")
DEPTHS = (0, 1, 2, None)

# Marks in many combinations, the letters and digits the rules look at, and what joins characters.
ATOMS = (
    *"。｡！？!?‼…‥．.、､，,;:；：―—・①",
    *"「」『』（）【】()[]《》",
    *"あとのアｱ一万漢3３aAz",
    *("が", "と言", "(笑)", "か゛", "か\u3099", "👨‍👩‍👧", "🇯🇵", "葛\U000e0100"),
    *("\r\n", "\n", "\r", "\v", "\x85", "\u2028", " ", "\u3000", "\t", "\0", "\x1f"),
    *("Dr. ", "モー娘。", "3.14", "https://a.jp/b?c=d!e", "x@a.jp"),
    # What joins the character before it, or the one behind, and what can be joined.
    *("\ufe0f", "\u200d", "\u3099", "\uff9e", "\u0301", "\u20dd", "゛", "\u0600", "\u094d"),
    *("‼\ufe0f", "ℹ\u200d‼", "👨", "🇯", "\u1100", "\u1161", "क", "▪"),
)
texts = st.lists(st.sampled_from(ATOMS), max_size=40).map("".join)
splitters = st.builds(
    PunctuationSplitter,
    level=st.sampled_from(LEVELS),
    depth=st.sampled_from(DEPTHS),
    line_breaks=st.booleans(),
)


def pieces(text: str, splitter: PunctuationSplitter) -> list[str]:
    """What the splitter cuts a text into."""
    return [text[start:end] for start, end in splitter.split(text)]


def cuts_of(text: str, splitter: PunctuationSplitter) -> list[int]:
    """Where the splitter cuts a text, its end left out."""
    return [end for _, end in splitter.split(text)][:-1]


def mark(text: str, splitter: PunctuationSplitter) -> str:
    """A text with | at its cuts."""
    return "|".join(pieces(text, splitter))


@pytest.mark.parametrize(
    "expected",
    [
        # Quotations and brackets
        "「今日は。明日も。」と言った。",
        "彼は「今日は。明日も。」と言った。|そう。",
        "『「（【甲。】乙。）丙。」丁。』|戊。|己。",
        "『甲。「乙。」丙。』と書く。|次。",
        "【甲。乙。】と【丙。】|丁（戊。己）庚。|辛",
        "「え？」|「は？」と。",
        "「あ。い。」|「う。え。」",
        "「あ。|い。|う。",
        "「あ。|い。\n\n|う。|え。」",
        "（あ。|い。",
        "あ。）|い。",
        "「あ。（い」う。|え）お。|か",
        "「行く。」と言った。|次",
        "「行く」。|次",
        "「行く。」。|次",
        "「行く。」|次",
        "どこ？と聞く。|次",
        "えっ！？と言う。|次",
        # Numbers, addresses, names
        "円周率は3.14です。|次",
        "円周率は３．１４です。|次",
        "1,000円です。|次",
        "１，０００円です。|次",
        "12:30に。|次",
        "https://a.jp/b?c=d!e を見た。",
        "https://a.jp/b?c=d!e を見た。|次",
        "user.name@example.jp へ。|次",
        "モー娘。が歌う。|次",
        "好きなのはモー娘。！|次",
        "モーニング娘。が歌う。|次",
        "ゲスの極み乙女。が歌う。|次",
        "a!b?c d.e を見た。|次",
        # Runs of marks
        "え……そう。|次",
        "え……。|そう。",
        "本当！？|うそ!?",
        "本当！？|うそ!?|次",
        "そう．．．|次",
        "そう。．|次",
        "A社は...|次",
        "すごい‼|次⁉|次",
        "(笑)。|次",
        "面白い（笑）。|次",
        "面白い。(笑)|次",
        "面白い。(笑)。|次",
        # Half-width, full-width, Latin
        "春､夏｡|秋",
        "論文です．|次に",
        "論文です．|次に，３．１４です．|終",
        "Dr. Smith came. |彼は",
        "An end. |Dr. Smith came. |彼は来た。|次",
        "No. 5 is J. Smith e.g. this. |次",
        "really? |Yes! |うん",
        "1. 項目\n|2. 項目",
        # Lines
        "一。\r\n|二。\r\n\r\n|三。",
        "一\r\n|二",
        "一。\n\n|二\n|三",
        "一。\n \n|二",
        "一\u2028|二\x85|三\v|四",
        "# 見出し\n\n|本文。|続き。\n|## 次\n",
        "・りんご\n|・みかん\n",
        "①りんご②みかん",
        "前\n|```py\na = 1。\n\nb\n```\n|後。|次",
        "前\n|~~~\nあ。い\n~~~\n|後",
        "前\n|```\n|あ。|い\n",
        "（注\n）次",
        "あ。\n）い",
        "あ\n\n」い",
        # What is one character to a reader
        "か゛き。|か\u3099き。|次",
        "👨‍👩‍👧。|🇯🇵。|葛\U000e0100。|次",
        "👨‍👩‍👧🇯🇵葛\U000e0100",
        "すごい‼\ufe0f|次⁉\ufe0f|次",
        "本当！\ufe0f？\u20dd|うそ!\ufe0f?|次",
        "え…\ufe0f…\ufe0fそう。\u200d|次",
        "あ。\u3099|い｡\uff9e|う。゛|え",
        "あ。\ufe0f \u3000|い！\u0301\r\n|う",
        "「あ。\ufe0f」\u20ddと言った。|「い。」\ufe0f|次",
        "「行く」\ufe0f。\ufe0f|次",
        "どこ？\ufe0fと聞く。|次",
        "面白い。\ufe0f(笑)\ufe0f。\ufe0f|次",
        "モー娘。\ufe0fが歌う。\ufe0f|次",
        "論文です．\u0301|３．\u0301１４です。|次",
        "すごい‼\u200d👨\u200d👩|次‼\u200d⁉\ufe0f|次",
        "ℹ\u200d‼\ufe0f|次",
        "あ。|\u3000\u0301い",
        "え！|と\u3099う。|次",
        # A line break joins nothing
        "あ\n|\u0301い\r\n|゛う\u2028|\ufe0fえ",
        # Controls, blanks
        "\0あ。|\0い。|\x07",
        "あ！\u3000|い。\u3000|う",
        "\r\n\r\n",
        "  ",
        "。。。",
        # Lists of numerals
        "3万、4万",
        "私は3万、君は4万。|次",
    ],
)
def test_sentences(expected: str) -> None:
    """A text is cut into sentences exactly where | stands."""
    text = expected.replace("|", "")
    assert expected == mark(text, PunctuationSplitter())


@pytest.mark.parametrize(
    "expected",
    [
        "春､|夏｡|秋",
        "春、|夏，|秋",
        "え……|そう。|次",
        "え……。|そう。",
        "そう…！|次",
        "うーん、、、|次",
        "つまり――|彼は",
        "つまり、――|彼は",
        "――。|次",
        "要点：|次；|次",
        "「春、夏」、|秋",
        "「春、|夏",
        "春、）夏",
        "春、 ）夏",
        "3万、4万",
        "3万、4万、|春",
        "私は3万、|君は4万。|次",
        "一、二冊",
        "1,000円、|１，０００円",
        "論文です．|次に，|３．１４",
        "a,b, |c; |d:e",
        "12：30に：|次",
        "①りんご|②みかん",
        "りんご |・みかん",
        "藤岡弘、が来た、|次",
        "https://a.jp/b,c;d を、|見た",
        "春、\ufe0f|夏､\uff9e|秋，\u0301、\u3099|冬",
        "え……\ufe0f|そう……\u0301。\u0301|次",
        "要点：\ufe0f|次；\u200d|次―\u0301―|次",
        "「春、\ufe0f夏」\ufe0f、\ufe0f|秋",
        "春、\ufe0f）夏",
        "a,\u0301 |c;\u20dd |d",
        "①\u20ddりんご|②\ufe0fみかん",
        "りんご \u0301・みかん、|梨 \u3000|・\ufe0f桃",
        "あ\u0600①い",
    ],
)
def test_clauses(expected: str) -> None:
    """A text is cut into clauses exactly where | stands."""
    text = expected.replace("|", "")
    assert expected == mark(text, PunctuationSplitter("clause"))


@pytest.mark.parametrize(
    "expected",
    [
        "一。二\n三。\n\n|四",
        "一\r\n二",
        "一\r\n\r\n|二",
        "一\r\r|二",
        "一\n\u3000\n\n|\u3000二",
        "「一\n\n|二」",
        "一、二。三",
        "一\n\n|\u0301二\r\n\r\n|゛三",
    ],
)
def test_paragraphs(expected: str) -> None:
    """A text is cut into paragraphs exactly where | stands."""
    text = expected.replace("|", "")
    assert expected == mark(text, PunctuationSplitter("paragraph"))


@pytest.mark.parametrize(
    "expected",
    [
        "折り返\nした文。\n|次の\r\n文。|終",
        "段落\n\n|次の\u3000\n段落",
        "折り返\r\nした文",
    ],
)
def test_hard_line_wraps(expected: str) -> None:
    """With line_breaks=False a single line break inside a sentence cuts nothing."""
    text = expected.replace("|", "")
    assert expected == mark(text, PunctuationSplitter(line_breaks=False))


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (0, "「甲。『乙。丙。』丁。」と。|戊"),
        (1, "「甲。|『乙。丙。』と丁。」と。|戊"),
        (2, "「甲。|『乙。|丙。』と丁。」と。|戊"),
        (None, "「甲。|『乙。|丙。』と丁。」と。|戊"),
        (0, "```\nあ。「い。う」\n```\n|え"),
        (1, "```\n|あ。|「い。う」\n|```\n|え"),
        (2, "```\n|あ。|「い。|う」\n|```\n|え"),
    ],
)
def test_depth_opens_brackets(depth: int | None, expected: str) -> None:
    """Each level of depth opens one more level of brackets; a code fence is one level."""
    text = expected.replace("|", "")
    assert expected == mark(text, PunctuationSplitter(depth=depth))


def test_the_empty_text_has_no_spans() -> None:
    """Nothing to cut gives no spans, at every level."""
    for level in LEVELS:
        assert [] == PunctuationSplitter(level).split("")


@given(texts, splitters)
def test_spans_tile_the_text(text: str, splitter: PunctuationSplitter) -> None:
    """``"".join(text[s:e]) == text``, in order, none empty, the same each time."""
    spans = splitter.split(text)
    assert text == "".join(text[start:end] for start, end in spans)
    assert all(start < end for start, end in spans)
    assert all(before.end == after.start for before, after in pairwise(spans))
    assert spans == PunctuationSplitter(splitter.level, splitter.depth, splitter.line_breaks).split(
        text
    )


@given(texts, splitters)
@example("一\r\n二", PunctuationSplitter("paragraph", line_breaks=False))
def test_crlf_is_never_parted(text: str, splitter: PunctuationSplitter) -> None:
    """No cut stands between a carriage return and its line feed."""
    assert [] == [cut for cut in cuts_of(text, splitter) if text[cut - 1 : cut + 1] == "\r\n"]


@given(texts, splitters)
@example("すごい‼\ufe0f次", PunctuationSplitter())
@example("あ、\u3099い", PunctuationSplitter("clause", None))
@example("あ」\u20ddい。\u3000\u0301う", PunctuationSplitter())
@example("‼\u200d⁉\ufe0fあ", PunctuationSplitter())
@example("あ\u0600①い", PunctuationSplitter("clause"))
def test_spans_end_where_clusters_end(text: str, splitter: PunctuationSplitter) -> None:
    """``{ends of spans} <= {ends of grapheme clusters}``, at every level and depth."""
    ends = {end for _, end in cluster_spans(text)}
    assert {end for _, end in splitter.split(text)} <= ends


JOINERS = st.sampled_from(
    ["", "", "\ufe0f", "\u3099", "\uff9e", "\u0301\u20dd", "゛", "\u200d\ufe0f"]
)
plain = st.sampled_from([atom for atom in ATOMS[: ATOMS.index("\ufe0f")] if atom not in ",;:"])


@given(st.lists(st.tuples(plain, JOINERS), max_size=20), splitters)
@example([("本当！", "\ufe0f"), ("？", "\ufe0f"), ("うそ", "")], PunctuationSplitter())
@example([("行く。", "\u20dd"), ("」", "\ufe0f"), ("と", "")], PunctuationSplitter())
@example([("(笑)", "\ufe0f"), ("。", "\u0301"), ("\u3000", ""), ("次", "")], PunctuationSplitter())
def test_what_joins_a_mark_changes_no_rule(
    parts: list[tuple[str, str]], splitter: PunctuationSplitter
) -> None:
    """Marks with a joiner each are cut where the bare marks are, the joiners left with them."""
    marks = CLOSERS + END_MARK + ELLIPSIS + "、､，．.―—；："
    joined = [atom + (joiner if atom[-1] in marks else "") for atom, joiner in parts]
    place = dict(
        zip(
            accumulate((len(atom) for atom, _ in parts), initial=0),
            accumulate(map(len, joined), initial=0),
            strict=True,
        )
    )
    bare = splitter.split("".join(atom for atom, _ in parts))
    found = [end for _, end in splitter.split("".join(joined))]
    if all(end in place for _, end in bare):  # 。 inside モー娘。 has no joiner here
        assert [place[end] for _, end in bare] == found


def test_nothing_that_joins_a_mark_is_cut_off() -> None:
    """Whatever Unicode lets join the character before it stays with the full stop."""
    joiners = [
        character
        for character in map(
            chr, (*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE1000))
        )
        if len(cluster_spans("。" + character)) == 1
    ]
    assert len(joiners) > 2000
    cut = [
        ascii(joiner)
        for joiner in joiners
        if [(0, 3), (3, 4)] != PunctuationSplitter().split(f"あ。{joiner}い")
    ]
    assert [] == cut


@given(texts, splitters)
@example("え……。そう", PunctuationSplitter("clause"))
@example("そう．．．次", PunctuationSplitter())
def test_a_run_of_marks_is_never_parted(text: str, splitter: PunctuationSplitter) -> None:
    """No cut stands between two of the marks that end or suspend a sentence."""
    marks = END_MARK + ELLIPSIS
    names = {at.end() for at in re.finditer("モー娘。", text)}
    parted = [
        cut
        for cut in cuts_of(text, splitter)
        if text[cut] in marks and text[cut - 1] in marks and cut not in names
    ]
    assert [] == parted


@given(texts, splitters)
@example("あ、」い", PunctuationSplitter("clause", None))
@example("あ。\n」い", PunctuationSplitter())
@example("あ\n\n」い", PunctuationSplitter("paragraph"))
def test_no_piece_begins_with_a_closing_bracket(text: str, splitter: PunctuationSplitter) -> None:
    """No cut stands before a closing bracket, matched or not."""
    assert [] == [cut for cut in cuts_of(text, splitter) if text[cut] in CLOSERS]


def matched_pairs(text: str) -> list[tuple[int, int]]:
    """The slow reference: each closer takes the nearest open partner of its paragraph."""
    opened: list[int] = []
    pairs = []
    at = 0
    for line in re.findall(f"[^{LINE_BREAK}]*(?:\r\n|[{LINE_BREAK}]|$)", text):
        if not line.strip() and line:
            opened = []
        for where, mark in enumerate(line, at):
            if mark in OPENERS:
                opened.append(where)
            elif mark in CLOSERS:
                partner = OPENERS[CLOSERS.index(mark)]
                found = [index for index in opened if text[index] == partner]
                if found:
                    pairs.append((found[-1], where + 1))
                    opened = [index for index in opened if index < found[-1]]
        at += len(line)
    return pairs


@given(texts, st.sampled_from(LEVELS), st.sampled_from((0, 1, 2)))
def test_no_cut_inside_brackets(text: str, level: str, depth: int) -> None:
    """A cut stands inside at most *depth* matched pairs, by an independent matcher."""
    pairs = matched_pairs(text)
    for cut in cuts_of(text, PunctuationSplitter(level, depth=depth)):
        assert sum(start < cut < end for start, end in pairs) <= depth


@given(texts, st.sampled_from(DEPTHS), st.booleans())
def test_finer_levels_keep_coarser_cuts(text: str, depth: int | None, line_breaks: bool) -> None:
    """The cuts of a level are among those of the next finer one."""
    paragraph, sentence, clause = (
        set(cuts_of(text, PunctuationSplitter(level, depth, line_breaks))) for level in LEVELS
    )
    assert paragraph <= sentence
    assert sentence <= clause


@given(texts, st.sampled_from(LEVELS))
def test_opening_brackets_only_adds_cuts(text: str, level: str) -> None:
    """With a larger depth every cut stays."""
    found = [set(cuts_of(text, PunctuationSplitter(level, depth))) for depth in DEPTHS]
    assert all(fewer <= more for fewer, more in pairwise(found))


@given(texts)
def test_line_breaks_only_adds_cuts(text: str) -> None:
    """The cuts inside paragraphs with hard line wraps are among those of other text."""
    wrapped = set(cuts_of(text, PunctuationSplitter(line_breaks=False, depth=None)))
    assert wrapped <= set(cuts_of(text, PunctuationSplitter(depth=None)))


def incident_parts(text: str) -> list[str]:
    """The reference: the parts that the incident's team embedded one by one."""
    if len(text) <= 200:
        return [text]
    parts, part = [], ""
    for character in text:
        part += character
        if character in "。、":
            parts.append(part)
            part = ""
    return [part for part in [*parts, part] if part.strip()]


@given(
    st.lists(st.sampled_from(["。", "、", "あ", "漢字", "「", "」", "3.14", " ", "\n"]), min_size=1)
    .map("".join)
    .flatmap(lambda part: st.integers(1, 300).map(lambda times: (part * times)[:400]))
)
@example("あ" * 200 + "。い")
@example("あ、" * 100)
@example("あ、" * 100 + "い")
@example("あ、" * 99 + "い、")
@example("、。" * 101)
def test_the_incident_is_repeated(text: str) -> None:
    """``incident()`` gives the parts of the ten-line reference; blanks alone are no part there."""
    parts = [text[start:end] for start, end in PunctuationSplitter.incident().split(text)]
    assert text == "".join(parts)
    expected = incident_parts(text)
    assert expected == ([part for part in parts if part.strip()] if len(text) > 200 else parts)


def test_the_incident_starts_above_200_characters() -> None:
    """A text of 200 characters stays whole, one more is cut at every 。 and 、, brackets or not."""
    splitter = PunctuationSplitter.incident()
    assert [(0, 200)] == splitter.split("「あ、。」" * 40)
    assert [(0, 3), (3, 4), (4, 201)] == splitter.split("「あ、。" + "い" * 197)


@given(texts)
@example("あ。\ufe0fい、\u3099う")
def test_the_incident_cuts_no_cluster(text: str) -> None:
    """Its parts end where grapheme clusters end: a variation selector alone says nothing."""
    text = "あ" * 200 + text
    ends = {end for _, end in cluster_spans(text)}
    assert {end for _, end in PunctuationSplitter.incident().split(text)} <= ends


@pytest.mark.parametrize("level", LEVELS)
def test_a_splitter_is_a_value(level: str) -> None:
    """Pickled, compared and hashed, a splitter is what it says."""
    splitter = PunctuationSplitter(level, depth=None, line_breaks=False)
    again = pickle.loads(pickle.dumps(splitter))  # noqa: S301
    assert splitter == again
    assert hash(splitter) == hash(again)
    assert splitter.split("あ。「い、う。」\nえ") == again.split("あ。「い、う。」\nえ")
    assert f"PunctuationSplitter(level='{level}', depth=None, line_breaks=False)" == repr(splitter)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"level": "word"}, "level='word' is not known. Use one of paragraph, sentence, clause."),
        ({"level": None}, "level=None is not known"),
        ({"depth": -1}, "depth=-1 is negative. Use 0 or more, or None"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], told: str) -> None:
    """An argument that cannot work is named, with what would."""
    with pytest.raises(ConfigError, match=re.escape(told)):
        PunctuationSplitter(**arguments)


# One unit, repeated; the engine must not read the same stretch from each of its characters.
HOSTILE: dict[str, Callable[[int], str]] = {
    "no punctuation": lambda n: "漢" * n,
    "open brackets": lambda n: "「" * n,
    "closing brackets": lambda n: "」" * n,
    "nested brackets": lambda n: "「" * (n // 2) + "」" * (n // 2),
    "crossed brackets": lambda n: "「（" * (n // 4) + "」）" * (n // 4),
    "full stops": lambda n: "。" * n,
    "full stops, quoted": lambda n: "。" * n + "」と",
    "closed full stops": lambda n: "。」" * (n // 2) + "と",
    "open sentences": lambda n: "「。" * (n // 2),
    "closed sentences": lambda n: "（あ。" * (n // 4) + "）" * (n // 4),
    "asides": lambda n: "。(笑)" * (n // 4) + "」と",
    "exclamations": lambda n: "！" * n + "と言",
    "Latin exclamations": lambda n: "!" * n + "a",
    "full-width dots": lambda n: "．" * n + "」",
    "dots": lambda n: "." * n,
    "ellipses": lambda n: "…" * n + "」",
    "commas": lambda n: "、" * n + "」",
    "blanks after marks": lambda n: "。 " * (n // 2),
    "blanks": lambda n: "。" + " " * n + "」",
    "line feeds": lambda n: "\n" * n + "」",
    "vertical tabs": lambda n: "\v" * n + "」",
    "blank lines": lambda n: " \v" * (n // 2) + "」",
    "carriage returns": lambda n: "\r" * n + "」",
    "open lines": lambda n: "「\n" * (n // 2),
    "fences": lambda n: "```\n" * (n // 4),
    "fence marks": lambda n: "`" * n,
    "abbreviations": lambda n: "Dr. " * (n // 4),
    "initials": lambda n: "A." * (n // 2),
    "numbers": lambda n: "1," * (n // 2),
    "numerals": lambda n: "万、" * (n // 2),
    "list marks": lambda n: "①" * n,
    "joined full stops": lambda n: "。\ufe0f" * (n // 2),
    "marks on a full stop": lambda n: "。" + "\u0301" * n + "」",
    "family of marks": lambda n: "‼\u200d" * (n // 2),
    "open remarks": lambda n: "。（あ" * (n // 3),
    "open faces": lambda n: "。(^" * (n // 3),
    "open notes": lambda n: "。［＃" * (n // 3),
    "emoji": lambda n: "。 😊" * (n // 3),
    "quotation marks": lambda n: '"”‘' * (n // 3),
    "code": lambda n: "`a" * (n // 2),
    "fences in quotations": lambda n: "```\n> " * (n // 6),
    "bars": lambda n: "。   |" * (n // 5),
    "tags": lambda n: "。<br>" * (n // 5),
    "particles": lambda n: "。が" * (n // 2),
    "labels": lambda n: "a. １．" * (n // 5),
    "quotations": lambda n: "に「あ！」漢" * (n // 6),
    "wrapped lines": lambda n: ("漢" * 30 + "\n") * (n // 31),
}
hostile = pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())


# A quadratic search takes over 100 s for each of these, a linear one less than 0.3 s.
@pytest.mark.timeout(60)
@hostile
def test_long_texts_take_linear_time(make: Callable[[int], str]) -> None:
    """No repeated unit makes the search read a stretch again from each of its characters."""
    text = make(320_000)
    for splitter in (PunctuationSplitter(), PunctuationSplitter("clause", None, line_breaks=False)):
        assert len(text) == sum(end - start for start, end in splitter.split(text))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=name, marks=[pytest.mark.long] * (name == "tags"))
        for name, make in HOSTILE.items()
    ],
)
def test_memory_grows_linearly(make: Callable[[int], str]) -> None:
    """Four times the text takes at most four times the memory, and no kilobyte a character."""

    def peak_bytes(text: str) -> int:
        tracemalloc.start()
        PunctuationSplitter("clause").split(text)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    # Python keeps 2,000 pairs at hand, which are not measured: a small text would need no others.
    small, large = peak_bytes(make(20_000)), peak_bytes(make(80_000))
    assert large <= 5 * small + 50_000
    assert large < 80_000 * 1_000


@pytest.mark.timeout(600)
@pytest.mark.parametrize("unit", ["漢", "「", "。"])
def test_ten_million_characters(unit: str) -> None:
    """The three texts of the contract are split, whole."""
    text = unit * 10**7
    assert [(0, 10**7)] == PunctuationSplitter().split(text)


def boundary_f1(documents: Iterable[list[str]]) -> float:
    """Micro F1 over the boundaries between the sentences of each document, its end left out."""
    hits = found = wanted = 0
    for sentences in documents:
        text = "".join(sentences)
        gold = set(accumulate(map(len, sentences))) - {len(text)}
        cuts = set(cuts_of(text, PunctuationSplitter()))
        hits += len(gold & cuts)
        found += len(cuts)
        wanted += len(gold)
    return 2 * hits / (found + wanted)


def read(path: Path, name: str) -> list[object]:
    """One field of every record of a JSONL file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)[name] for line in lines]


def test_boundaries_of_the_kyoto_corpus(
    data_dir: Path, record_property: Callable[[str, object], None]
) -> None:
    """On the hand-divided paragraphs of the Kyoto corpus boundary F1 is at least 0.99."""
    found = boundary_f1(read(data_dir / "kyoto_wiki_sentences.jsonl", "sentences"))
    record_property("boundary_f1_kyoto_wiki", round(found, 4))
    assert found >= 0.99


@pytest.mark.parametrize("part", ["dev", "test"])
def test_boundaries_of_ud_gsd(
    part: str, data_dir: Path, record_property: Callable[[str, object], None]
) -> None:
    """Between the unrelated sentences of UD Japanese GSD, joined, boundary F1 is reported."""
    found = boundary_f1([read(data_dir / f"ud_gsd_{part}_sentences.jsonl", "text")])
    record_property(f"boundary_f1_ud_gsd_{part}", round(found, 4))
    assert found >= 0.98
