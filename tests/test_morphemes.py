from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_embed.errors import ConfigError
from safe_embed.text import bunsetsu, morphemes
from safe_embed.text.bunsetsu import RULES
from safe_embed.text.graphemes import cluster_spans, keep_whole
from safe_embed.text.morphemes import (
    OVERLAP_CHARS,
    WINDOW_CHARS,
    MorphemeSplitter,
    _Analyser,
)
from safe_embed.text.taggers import Node
from safe_embed.types import Span, Splitter

SPLITTERS = [
    MorphemeSplitter(unit, depth=depth) for unit in ("bunsetsu", "morpheme") for depth in (0, None)
]
FAMILY = "👨\u200d👩\u200d👧"
GA = "か\u3099"
# Every kind of character that has a way of its own through MeCab or through keep_whole.
PIECES = st.sampled_from(
    [
        *"あいうかきくてでとはがをっょー今日本語東京大学行食べ。、！？「」『』（）…ー・々ア゛ﾊﾟｱ｡､ＡｚaB3.1,４",
        *("\0", "\x01", "\x1f", "\x7f", "\x85", "\r\n", "\n", "\r", "\t", "\v", " ", "\u3000"),
        *("\u00a0", "\u2028", "\u200b", "\ufeff", "\u3099", "\ufe0f", FAMILY, "🇯🇵", "葛\U000e0100"),
        *("https://a.jp/b", "食べている", "図書館で", "勉強する", "1,000円", "𠮷野家"),
        *(
            "\u200d",
            "\uff9e",
            "\u0301",
            "\u20dd",
            "‼\ufe0f",
            "🇯",
            "\u1100",
            "\u1161",
            "क\u094dष",
            "\u0600",
        ),
    ]
)
JAPANESE = st.lists(PIECES, max_size=60).map("".join)

BUNSETSU = [
    "今日は|良い|天気です。",
    "日本語の|文節を|考慮した|検索システムを|作っています。",
    "すももも|ももも|ももの|うち。",
    "彼女は|とても|元気だ。",
    "図書館で|本を|読んでいる|人を|見た。",
    "行かなければならない|ことは|ない。",
    "毎朝|六時に|起きてから|走ってみたい。",
    "東京都知事は|記者会見で|説明した。",
    "お茶を|飲み始める。",
    "学生ではないが、|勉強する。",
    "そして、|彼は|静かな|湖を|歩いた。",
    "2024年4月に|1,000円の|本が|3.5個|売れた。",
    "彼は|「今日は。明日も。」と|言った。",
    "https://a.jp/b?c=d!e を|見た。",
    "ジョン・スミスさんが|来た。",
    "美しい|花が|咲いた。|が、|雨だ。",
    "雪のような|白さだった。",
    "昨日|買った|本を|使いやすい|場所に|置いてください。",
    f"{FAMILY}と|一緒に|行く。",
    "  今日　は\r\n|晴れ  ",
    "今日は\0|晴れ",
    "\0 今日は|晴れ",
]


def pieces(splitter: Splitter, text: str) -> list[str]:
    """Cut a text into the strings of its spans."""
    return [text[start:end] for start, end in splitter.split(text)]


def starts(analyser: _Analyser, text: str) -> set[int]:
    """Find where morphemes start, windows and all."""
    return {start for start, _ in analyser.morphemes(text)}


def read(path: Path) -> list[dict[str, str]]:
    """Read one file of the evaluation data."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("splitter", SPLITTERS, ids=repr)
@given(text=JAPANESE)
def test_spans_tile(splitter: MorphemeSplitter, text: str) -> None:
    """Spans tile the text, none is empty, and only a text of blanks gives a piece of blanks."""
    spans = splitter.split(text)

    assert text == "".join(text[start:end] for start, end in spans)
    assert all(start < end for start, end in spans)
    blank = re.compile(r"[\s\x00-\x1f\x7f-\x9f]*")
    assert len(spans) <= 1 or not any(blank.fullmatch(text[start:end]) for start, end in spans)


@pytest.mark.parametrize("unit", ["bunsetsu", "morpheme"])
@given(text=JAPANESE)
def test_cuts_keep_whole_what_belongs_together(unit: morphemes.Unit, text: str) -> None:
    """No cut is one that keep_whole would drop: clusters, brackets, numbers, addresses."""
    cuts = [end for _, end in MorphemeSplitter(unit).split(text)][:-1]

    assert cuts == keep_whole(text, cuts, depth=0, atoms=True)


@pytest.mark.parametrize("splitter", SPLITTERS, ids=repr)
@given(text=JAPANESE)
def test_spans_end_where_clusters_end(splitter: MorphemeSplitter, text: str) -> None:
    """``{ends of spans} <= {ends of grapheme clusters}``, with either unit at every depth."""
    ends = {end for _, end in cluster_spans(text)}
    assert {end for _, end in splitter.split(text)} <= ends


@given(text=JAPANESE)
def test_bunsetsu_end_where_morphemes_end(text: str) -> None:
    """A bunsetsu is a whole number of morphemes."""
    assert set(MorphemeSplitter().split(text)) <= {
        Span(first.start, last.end)
        for spans in [MorphemeSplitter("morpheme").split(text)]
        for i, first in enumerate(spans)
        for last in spans[i:]
    }


@pytest.mark.parametrize("expected", BUNSETSU, ids=ascii)
def test_bunsetsu(expected: str) -> None:
    """Words keep the particles and auxiliaries behind them."""
    assert expected.split("|") == pieces(MorphemeSplitter(), expected.replace("|", ""))


def examples_of_the_rules() -> list[tuple[str, str]]:
    """Read the comments beside the rules."""
    table = inspect.getsource(bunsetsu).split("RULES: ")[1].split("\n)\n")[0]
    return re.findall(r"[#;] ([^;#\n]+?) -> ([^;\n]+)", table)


def test_examples_of_the_rules_hold() -> None:
    """What the comments beside the rules promise is what the splitter does."""
    examples = examples_of_the_rules()

    assert len(examples) >= len(RULES)
    for text, expected in examples:
        assert expected.split("|") == pieces(MorphemeSplitter(), text)


@pytest.mark.parametrize("i", range(len(RULES) - 1))
def test_every_rule_decides_something(i: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any one rule an example comes out differently."""
    monkeypatch.setattr(bunsetsu, "RULES", RULES[:i] + RULES[i + 1 :])
    monkeypatch.setattr(morphemes, "_ANALYSERS", {})  # they have compiled the rules

    assert any(
        expected.split("|") != pieces(MorphemeSplitter(), text)
        for text, expected in examples_of_the_rules()
    )


def test_morphemes() -> None:
    """The finer unit cuts at every morpheme, but never in front of a mark."""
    expected = ["図書", "館", "で", "本", "を", "読ん", "で", "いる。"]

    assert expected == pieces(MorphemeSplitter("morpheme"), "".join(expected))


def test_depth_opens_brackets() -> None:
    """With depth=None a cut may stand inside brackets."""
    text = "「今日は良い天気です」"

    assert [text] == pieces(MorphemeSplitter(), text)
    assert ["「今日は", "良い", "天気です」"] == pieces(MorphemeSplitter(depth=None), text)


def test_empty_text() -> None:
    """The empty string has no spans, and blanks alone are one."""
    assert [] == MorphemeSplitter().split("")
    assert [Span(0, 3)] == MorphemeSplitter("morpheme").split("\0 \u3000")


@pytest.mark.parametrize("arguments", [{"unit": "word"}, {"depth": -1}])
def test_refuses_what_cannot_work(arguments: dict[str, object]) -> None:
    """An unknown unit and a negative depth are refused at construction."""
    with pytest.raises(ConfigError):
        MorphemeSplitter(**arguments)  # type: ignore[arg-type]


def test_missing_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the dictionary the message says what to install."""
    monkeypatch.setattr(morphemes, "_ANALYSERS", {})
    monkeypatch.setitem(sys.modules, "unidic_lite", None)
    with pytest.raises(ConfigError, match=r"pip install .*unidic-lite"):
        MorphemeSplitter().split("今日")


def test_fugashi_is_loaded_at_the_first_text() -> None:
    """Importing the module and making a splitter load no analyser."""
    code = (
        "import sys; from safe_embed.text.morphemes import MorphemeSplitter as M; s = M();"
        "assert 'fugashi' not in sys.modules; s.split('今日'); assert 'fugashi' in sys.modules"
    )
    subprocess.run([sys.executable, "-X", "utf8", "-c", code], check=True)


def repickle(splitter: MorphemeSplitter) -> MorphemeSplitter:
    """Send a splitter through pickle."""
    return pickle.loads(pickle.dumps(splitter))  # noqa: S301 - our own bytes


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, repickle])
def test_is_a_small_value(again: object) -> None:
    """Copies and pickles are equal, and hold no tagger."""
    splitter = MorphemeSplitter("morpheme", depth=None)
    splitter.split("今日は晴れ")
    twin = again(splitter)  # type: ignore[operator]

    assert splitter == twin
    assert hash(splitter) == hash(twin)
    assert "MorphemeSplitter(unit='morpheme', depth=None)" == repr(twin)
    assert len(pickle.dumps(splitter)) < 300
    assert splitter.split("今日は晴れ") == twin.split("今日は晴れ")
    assert MorphemeSplitter("morpheme") != splitter
    assert isinstance(splitter, Splitter)


def count_windows(text: str) -> list[int]:
    """Measure the windows that one text is parsed in, in characters."""
    analyser = _Analyser()
    sizes: list[int] = []
    parse = analyser.parse

    def counting(window: str, first: int) -> list[Node]:
        sizes.append(len(window))
        return parse(window, first)

    analyser.parse = counting
    for _ in analyser.morphemes(text):
        pass
    return sizes


@pytest.mark.parametrize(
    "unit", ["「", "。", "a", "ア", "ー", " ", "\0", "1", FAMILY, "今日は晴れ"]
)
def test_work_is_linear(unit: str) -> None:
    """MeCab gets no more than a window at once, and a share of the text twice: the work is linear."""
    text = (unit * 100_000)[:100_000]
    sizes = count_windows(text)

    assert max(sizes) <= WINDOW_CHARS
    assert sum(sizes) <= len(text) * (1 + 2.5 * OVERLAP_CHARS / WINDOW_CHARS)
    assert text == "".join(pieces(MorphemeSplitter("morpheme"), text))


def test_text_of_one_window_is_parsed_once() -> None:
    """Up to the window, which no sentence exceeds, there is one parse."""
    assert [WINDOW_CHARS] == count_windows(("今日は良い天気です" * 200)[:WINDOW_CHARS])


@given(text=JAPANESE)
def test_spans_tile_over_seams(text: str) -> None:
    """With a seam every few characters the spans tile all the same, and starts ascend."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(morphemes, "WINDOW_CHARS", 12)
        patch.setattr(morphemes, "OVERLAP_CHARS", 4)
        found = [start for start, _ in _Analyser().morphemes(text)]
        cut = "".join(pieces(MorphemeSplitter("morpheme"), text))

    assert text == cut
    assert sorted(set(found)) == found


def test_long_blanks_lose_nothing() -> None:
    """MeCab loses what follows 64 KiB of blanks; windows do not."""
    text = "今日は" + " " * 70_000 + "晴れ"

    assert ["今日", "は" + " " * 70_000, "晴れ"] == pieces(MorphemeSplitter("morpheme"), text)


def unpunctuated(data_dir: Path) -> list[str]:
    """Take real long texts and remove what would synchronise the windows."""
    texts: list[str] = []
    for name in ("aozora_works.jsonl", "kyoto_wiki_longdocs.jsonl"):
        bare = (re.sub(r"[。、\n\r]", "", row["text"])[:24_000] for row in read(data_dir / name))
        texts += [text for text in bare if len(text) >= 5_000][:12]
    return texts


def differing(analyser: _Analyser, texts: list[str]) -> tuple[int, int]:
    """Count the boundaries that windows and one parse do not share, and those of one parse."""
    wholes = [{start for start, _ in analyser._parse(text, 0, len(text))} for text in texts]
    different = [whole ^ starts(analyser, text) for whole, text in zip(wholes, texts, strict=True)]
    return sum(map(len, different)), sum(map(len, wholes))


def test_windows_cut_as_one_parse(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, record_property: pytest.RecordProperty
) -> None:
    """At most 0.1 % of the boundaries of real long texts differ from those of one parse."""
    analyser, texts = _Analyser(), unpunctuated(data_dir)
    different, boundaries = differing(analyser, texts)
    record_property("chars", sum(map(len, texts)))
    record_property("boundaries", boundaries)
    record_property("differing_share", different / boundaries)

    assert sum(map(len, texts)) >= 200_000
    assert different / boundaries <= 0.001
    # The measure can fail: windows that hardly overlap do differ.
    monkeypatch.setattr(morphemes, "WINDOW_CHARS", 64)
    monkeypatch.setattr(morphemes, "OVERLAP_CHARS", 2)
    assert differing(analyser, texts)[0] / boundaries > 0.001


def test_agrees_with_gold_morphemes(data_dir: Path, record_property: pytest.RecordProperty) -> None:
    """Boundaries agree with those that people set, apart from what is kept whole on purpose."""
    splitter = MorphemeSplitter("morpheme", depth=None)
    hits = ours = theirs = 0
    for row in read(data_dir / "ud_gsd_test_sentences.jsonl"):
        text, ends = row["text"], []
        for token in row["tokens"]:
            ends.append((ends[-1] if ends else 0) + len(token))
        gold = set(keep_whole(text, ends[:-1], depth=None, atoms=True))
        found = {end for _, end in splitter.split(text)} - {len(text)}
        hits, ours, theirs = hits + len(gold & found), ours + len(found), theirs + len(gold)
    f1 = 2 * hits / (ours + theirs)
    record_property("boundary_f1", f1)

    assert f1 >= 0.985


GROWTH = """
import random, sys
from safe_embed.text.morphemes import MorphemeSplitter

def anonymous_mb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024

if sys.argv[1] == "ours":
    split = MorphemeSplitter().split
else:
    import fugashi
    split = fugashi.Tagger()
rng = random.Random(0)
kana = [chr(code) for code in range(0x30A1, 0x30F6)]
word = lambda: "".join(rng.choices(kana, k=rng.randint(3, 9))) + rng.choice("はがを、")
for i in range(3_000):
    split("".join(word() for _ in range(20)))
    if i == 500:
        before = anonymous_mb()
print(anonymous_mb() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_is_flat() -> None:
    """Random words do not make the splitter grow; calling a tagger on them does."""

    def growth_mb(who: str) -> float:
        command = [sys.executable, "-X", "utf8", "-c", GROWTH, who]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert growth_mb("ours") < 2
    assert growth_mb("tagger(text)") > 5
