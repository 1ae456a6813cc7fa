"""Sentences as a Japanese reader divides them: given cases, and further ones of each kind."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import types
import unicodedata
from pathlib import Path

import pytest
import regex

from fakes import FakeReader
from safe_embed.errors import ConfigError
from safe_embed.text import marks
from safe_embed.text.chunking import Chunker
from safe_embed.text.morphemes import MorphemeSplitter
from safe_embed.text.punctuation import PunctuationSplitter
from safe_embed.text.splitters import ladder

CASES = Path(__file__).parent / "cases" / "japanese_spans.jsonl"
ROWS = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
# Where a reader's taste decides, and we decide otherwise than the case: adjacent quotations may be a
# list (「東京」「大阪」を結ぶ), an interjection is a sentence (あ！), a face alone ends none, and a line
# that is not wrapped ends its sentence. The value is the text with ¦ at our cuts.
DECIDED = {
    "nov5": "「行こう」「うん」「早く」\n¦三人は走り出した。",
    "nov11": "え？と思った。¦あ！¦そうだ、と手を打った。",
    "cha2": "おつかれー(＾▽＾)/ 明日もよろしく( ´∀｀ )",
    "mai4": "本日は、\n¦晴天なり。\n¦明日は雨。\n",
}

OWN = {
    "labels": [
        "ⅰ．序論\n¦ⅱ．本論\n",
        "Ａ．賛成\n¦Ｂ．反対\n",
        "十一．附則\n¦十二．雑則\n",
        "\u3000イ．大阪市\n¦\u3000ロ．堺市\n",
        "II. 方法\n¦III. 結果\n",
        "甲．売主\n¦乙．買主\n",
        "c. ぶどうを洗う。¦皮をむく。\n¦d. 梨を切る。\n",
        "問１．次の文を読め。\n¦問２．誤りを直せ。\n",
        "い．春の章\n¦ろ．夏の章\n",
        "- a. 東京\n¦- b. 大阪\n",
    ],
    "trails": [
        "優勝しました！🏆✨¦次も見てね。",
        "写真を撮った。📷\n¦帰ろう。",
        "行ってきます。(^o^)/¦お昼は何かな。",
        "ごめんなさい。(T_T)¦すぐ直します。",
        "御異議なしと認めます。（「異議なし」と呼ぶ者あり）¦よって決定しました。",
        "会議は中止です。（延期の予定）¦詳しくは後日。",
        "失業率は下がった。［3］¦しかし賃金は上がらない。",
        "有意差があった。(Sato et al., 2015)¦次に述べる。",
        "彼は泣いた。［＃改ページ］¦翌朝になった。",
        "本当❓¦うそ❗¦え❔¦あ❕",
        "雪だ。¦（寒くはない。）¦出かけよう。",
        "楽しかった！♪¦また来ます。",
        "やった！ｗｗｗ¦次いこう。",
        "彼は言った。¦（次郎）は黙った。",
        "規則は次のとおり。¦(1)遅刻しない。¦(2)騒がない。",
        "会えた！❤️¦また明日。",
        "ありがとう。👨\u200d👩\u200d👧¦元気です。",
        "すごい！ヽ(´ー｀)ノ¦次。",
        "終わった。¦【速報】雨が降る。",
        "続けます。",
    ],
    "goes_on": [
        "蜜蜂と遠雷。は読んだ。¦次。",
        "プリパラ!の映画を見た。¦次。",
        "アイカツ!を見る。¦次。",
        "左に「検索！」ボタン、右に「戻る！」リンクを置く。¦次。",
        "何時に！？を確かめた。¦次。",
        "画面の「送信しますか？」欄を読む。¦次。",
        "楽しい！って言う人がいる。¦次。",
        "眠いー！！と弟が叫んだ。¦次。",
        "それは本当か？を考える。¦次。",
        "行こう。¦でも雨だ。",
        "行こう。¦とても寒い。",
        "見た。¦がんばる人だ。",
        "笑う。¦にこにこと。",
        "そう。¦はい、そうです。",
        "寝た。¦のんびりした。",
        "雨だ。¦が、行く。",
        "行くな。¦もう遅い。",
        "言った。¦のに、来ない。",
        "買った。¦にもかかわらず壊れた。",
        "来た。¦はじめての人だ。",
        "終わり。¦やはり雨だ。",
        "え？¦とにかく急げ。",
        "泣いた。¦へえ、そうか。",
        "「ありがとう。」程度の英語。¦次。",
        "見た。¦とはいえ雨だ。",
        "そうか！¦では行こう。",
        "「わあ！」¦彼女は笑った。",
        "Go!プリンセスプリキュアを見る。¦次。",
        "義朝は「勅命だ。」¦頼朝は「退け」と言った。",
        "確認の「よろしいですか？」画面が出る。¦次。",
        "見た。¦はは、そうか。",
        "買う？¦をかしい。",
    ],
    "brackets": [
        "彼は｢今日は｡明日も｡｣と言った。¦次。",
        "昔の〝あれ。これ。〟が好き。¦次。",
        "題は«春。夏。»という。¦次。",
        "札に‘休み。明日も休み。’とある。¦次。",
        "『﹃甲。乙。﹄と﹁丙。﹂』の順。¦次。",
        "値は｛一。二。｝である。¦次。",
        "彼は”今日は。明日も。”と言った。¦次。",
        "”そうだ。”と”違う。”の二つ。¦次。",
        '彼は"はい。いいえ。"と言った。¦次。',
        "｟甲。乙。｠を見る。¦次。",
        '5"の画面だ。¦彼は"はい。"と言った。',
        "発売した。¦’90年代の曲だ。",
        "if a < b。¦c > d。¦次。",
        "⦅甲。乙。⦆を見る。¦次。",
    ],
    "fullstop": [
        "円周率は３．１４．¦次に述べる．",
        "勝率は.512だった。¦次。",
        "西暦は1999.¦翌年は2000.",
        "ｗｗｗ．ａ．ｃｏ．ｊｐを見る。¦次。",
        "Ｄｒ．スミスが来た。¦次。",
        "2. 準備\n¦10. 実行\n",
        "2.1. 装置\n¦2.2. 手順\n",
        "人数は12．¦次に述べる．",
        "図1. 装置の写真\n¦本文。",
        "It costs 300. ¦彼は払った。",
        "Ｕ．Ｓ．Ａ．を歌う。¦次。",
        "ver. 3.5に上げた。¦次。",
    ],
    "blanks": [
        "今日は。\xa0¦明日は。\u2003¦次。",
        "一。\u200b\u200b¦二。\ufeff¦三。",
        "一。\u2060¦二！\u202f¦三",
        "一。\u3000\xa0¦二。",
        "一。\xa0\n¦二。",
        "一\n\u200b\n¦二",
    ],
    "markdown": [
        "- 手順\n¦  ```\n  あ。い\n  ```\n¦- 次\n",
        "> 引用。\n¦> ~~~\n> あ。い\n> ~~~\n¦本文。",
        "1. 準備\n\n¦    ```sh\n    echo あ。い\n    ```\n¦2. 次\n",
        "| 甲 | 乙。 |\n¦| 丙 | 丁。¦戊。 |\n",
        "今日は晴れ。<br/>¦明日は雨。<br />¦次。",
        "今日は晴れ<br>¦明日は雨",
        "`甲。乙`と`丙。丁`を使う。¦次。",
        "<li>一つ目。</li>¦<li>二つ目。</li>",
        "- ```sh\n  ls。あ\n  ```\n¦次。",
    ],
    "morphemes": [
        "（参照）。¦次の¦文",
        "甘すぎる¦菓子を¦食べた",
        "寒すぎて¦動けない",
        "お願いいたします",
        "ご連絡いたします",
        "お待ちしております",
        "お買い上げの¦品を¦運ぶ",
        "春夏秋冬を¦描く",
        "食べ歩きの¦旅に¦出る",
        "飲み放題の¦店",
        "なんとしても¦勝つ",
        "つまらない¦本を¦読む",
        "くだらない¦話だ",
        "とんでもない¦話だ",
        "仕方ない¦人だ",
        "ご覧になる",
        "お気に召す",
        "立ち読みは¦禁止",
        "立ち話が¦長い",
        "早朝深夜は¦閉まる",
        "どうしても¦勝ちたい",
        "「見て」！¦次の¦日だ",
        "彼は¦言った)。¦次の¦人だ",
    ],
}

SPLITTERS = {"punctuation": PunctuationSplitter, "morphemes": MorphemeSplitter}


def mark(text: str, splitter: PunctuationSplitter | MorphemeSplitter) -> str:
    """A text with ¦ at its cuts."""
    return "¦".join(text[start:end] for start, end in splitter.split(text))


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_given_cases(row: dict[str, object]) -> None:
    """Each text is cut where a Japanese reader wants it, or where the decision above says."""
    splitter = SPLITTERS[str(row["splitter"])](**row["options"])
    expected = DECIDED.get(str(row["id"]), str(row["marked"]))
    assert row["today"] == "debatable" or expected == row["marked"]
    assert expected == mark(str(row["text"]), splitter)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [pytest.param(kind, text, id=f"{kind}{i}") for kind in OWN for i, text in enumerate(OWN[kind])],
)
def test_further_cases(kind: str, expected: str) -> None:
    """Five further cases of each kind, and their counterparts that must be cut."""
    splitter = MorphemeSplitter() if kind == "morphemes" else PunctuationSplitter()
    assert expected == mark(expected.replace("¦", ""), splitter)


# Words that a user adds


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"names": ("だよん。",)}, "だよん。を見る。¦好きなのはだよん。！¦次。"),
        ({"names": ("君の名は。展",)}, "君の名は。展へ行く。¦次。"),
        ({"names": ("みんな!エスパーだよ!",)}, "みんな!エスパーだよ!第一話。¦次。"),
        ({"names": ("ゆず。", "嵐!")}, "ゆず。歌う。¦嵐!踊る。¦次。"),
        ({"names": ("a.b社",)}, "昨日a.b社が来た。¦次。"),
        ({"names": ("Hey! Say! JUMP",)}, "Hey! Say! JUMPが歌う。¦次。"),
        ({"end_marks": ("♪",)}, "ららら♪¦るるる♪♪¦次。"),
        ({"end_marks": ("｜",)}, "甲｜¦乙｜\n¦丙"),
        ({"end_marks": ("以上",)}, "報告した以上¦次へ進む。"),
        ({"end_marks": ("|", "]")}, "a|¦b]¦c"),
        ({"end_marks": ("♪",)}, "らら♪\ufe0f¦るる♪と歌う。¦次。"),
        ({"abbreviations": ("Tel", "Bldg.")}, "Tel. 03に電話。¦ABC Bldg. 五階。¦次。"),
        ({"abbreviations": ("Ｔｅｌ",)}, "Ｔｅｌ．番号を見る。¦次。"),
    ],
)
def test_words_of_a_user(options: dict[str, tuple[str, ...]], expected: str) -> None:
    """Names, end marks and abbreviations are added to ours."""
    assert expected == mark(expected.replace("¦", ""), PunctuationSplitter(**options))


@pytest.mark.parametrize("name", ["names", "end_marks", "abbreviations"])
@pytest.mark.parametrize("value", ["♪", b"a", None, 3, ("",), (" ",), (3,), ("\u200b",), {"a": 1}])
def test_other_words_are_refused(name: str, value: object) -> None:
    """What is no tuple of visible strings is named, with what would do."""
    with pytest.raises(ConfigError, match=rf"^{name}(=| has the item )"):
        PunctuationSplitter(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["no", 2, None])
def test_other_line_breaks_are_refused(value: object) -> None:
    """line_breaks is True, False or "auto"."""
    with pytest.raises(ConfigError, match="Use True, False or 'auto'"):
        PunctuationSplitter(line_breaks=value)  # type: ignore[arg-type]


def test_words_hold_on_every_rung() -> None:
    """No chunk of a long text ends inside a name, on whatever rung it was cut."""
    name = "ずっと真夜中でいいのに。展覧会"
    text = f"今日は{name}に行って{name}を見て" * 20
    first = PunctuationSplitter(names=(name,), end_marks=("♪",), abbreviations=("Tel",))
    (found,) = Chunker(ladder(first)).chunk([text], FakeReader(), 24)
    inside = {at for m in re.finditer(name, text) for at in range(m.start() + 1, m.end())}
    assert len(found.chunks) > 10
    assert not inside & {chunk.span.end for chunk in found.chunks}
    for rung in ladder(first)[1:7]:
        assert isinstance(rung, PunctuationSplitter)
        assert (rung.names, rung.end_marks, rung.abbreviations) == ((name,), ("♪",), ("Tel",))


def test_a_splitter_shows_its_words() -> None:
    """Its repr names what was given, and no more."""
    assert "line_breaks='auto')" in repr(PunctuationSplitter())
    assert "names=('ゆず。',))" in repr(PunctuationSplitter(names=["ゆず。"]))  # type: ignore[arg-type]
    assert PunctuationSplitter(names=("a",)) != PunctuationSplitter()


# Characters


def test_brackets_are_those_of_unicode() -> None:
    """Each bracket of Unicode is known, but those that have no partner; < and > are none."""
    known = {*marks.OPENERS, *marks.CLOSERS, *marks.OTHER_CLOSERS}
    unpaired = {"\u201a", "\u201b", "\u201e", "\u201f", "\u2e42"}
    for character in map(chr, range(0x110000)):
        if unicodedata.category(character) in {"Ps", "Pe", "Pi", "Pf"}:
            assert character in known | unpaired | set("“‘’"), hex(ord(character))
    assert not known & set("<>")
    for opener, closer in zip(marks.OPENERS, marks.CLOSERS, strict=True):
        text = f"甲{opener}乙。丙。{closer}と丁。"
        assert [(0, len(text))] == PunctuationSplitter().split(text)


def test_blanks_are_those_of_unicode() -> None:
    """Each blank, and what has no width, stays with the sentence before."""
    blanks = {c for c in map(chr, range(0x110000)) if unicodedata.category(c) == "Zs"}
    assert blanks < set(marks.BLANK)
    for blank in marks.BLANK:
        text = f"一。{blank}{blank}二。{blank}"
        assert [(0, 4), (4, 7)] == PunctuationSplitter().split(text), hex(ord(blank))
        found = MorphemeSplitter().split(f"東京{blank}大阪{blank}に行く")
        assert all(f"東京{blank}大阪{blank}に行く"[start] != blank for start, _ in found)


def test_emoji_are_those_of_unicode() -> None:
    """Every emoji that shows as a picture stays with the sentence before, unless it points ahead."""
    left = []
    for character in map(chr, range(0x2000, 0x1FB00)):
        if (
            regex.fullmatch(r"\p{Emoji_Presentation}", character)
            and character not in marks.END_MARK
        ):
            found = mark(f"雨。{character}晴れ。", PunctuationSplitter())
            if found != f"雨。{character}¦晴れ。":
                left.append(character)
    assert {"👉", "👇"} >= set(left)


# Blanks as a rung, and chunks of one span each


def test_blanks_are_a_rung_above_bunsetsu() -> None:
    """Text of fields is cut between the fields before its words are."""
    text = "氏名 山田太郎の長男 住所 東京都千代田区の一丁目 職業 図書館の司書"
    (found,) = Chunker(ladder(PunctuationSplitter())).chunk([text], FakeReader(run_chars=1), 20)
    assert len(found.chunks) > 1
    assert all(text[chunk.span.end - 1] == " " for chunk in found.chunks[:-1])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("# 題\n\n---\n\n本文。\n", "# 題\n\n---\n\n¦本文。\n"),
        ("| 甲 | 乙 |\n|---|---|\n| 丙 | 丁 |\n", "| 甲 | 乙 |\n|---|---|\n¦| 丙 | 丁 |\n"),
        ("***\n本文。\n🎉\n", "***\n本文。\n🎉\n"),
        ("一。\n……\n二。\n", "一。\n……\n¦二。\n"),
        ("\u200b\n一。\n\u200b\n二。", "\u200b\n一。\n\u200b\n¦二。"),
        ("---\n***\n", "---\n***\n"),
        ("1\n二\n", "1\n¦二\n"),
    ],
)
def test_a_span_without_letters_joins_its_neighbour(text: str, expected: str) -> None:
    """With one chunk a span no chunk is a rule, a bar or a mark alone."""
    (found,) = Chunker(ladder(PunctuationSplitter()), "spans").chunk([text], FakeReader(), 60)
    assert expected == "¦".join(text[s:e] for (s, e), _ in found.chunks)


# Dictionaries


@pytest.fixture(scope="module")
def user_dictionary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user dictionary with one word, built for unidic-lite."""
    import unidic_lite

    folder = tmp_path_factory.mktemp("dictionary")
    features = "名詞,固有名詞,一般,*,*,*,モリノオト" + ",*" * 20
    (folder / "words.csv").write_text(f"森の音楽堂,4786,4786,-9000,{features}\n", encoding="utf-8")
    built = folder / "user.dic"
    code = "from fugashi.cli import build_dict; build_dict()"
    arguments = ["-d", unidic_lite.DICDIR, "-u", str(built), "-f", "utf8", "-t", "utf8"]
    command = [sys.executable, "-c", code, *arguments, str(folder / "words.csv")]
    subprocess.run(command, check=True, capture_output=True)
    return shutil.copy(built, tmp_path_factory.mktemp("辞書 a") / "user.dic")


def test_a_user_dictionary_adds_its_words(user_dictionary: Path) -> None:
    """A word of the user's is one morpheme; without the dictionary it is several."""
    text = "森の音楽堂で聴く"
    usual = MorphemeSplitter("morpheme")
    ours = MorphemeSplitter("morpheme", dictionary=user_dictionary)
    assert mark(text, usual).startswith("森¦の¦")
    assert mark(text, ours) == "森の音楽堂¦で¦聴く"
    assert mark(text, usual).startswith("森¦の¦")
    assert ours == MorphemeSplitter("morpheme", dictionary=str(user_dictionary))
    assert str(user_dictionary) in repr(ours)


def test_a_folder_is_a_dictionary() -> None:
    """The folder of a UniDic serves, here that of unidic-lite; below it every rung has it."""
    import unidic_lite

    splitter = MorphemeSplitter(dictionary=unidic_lite.DICDIR)
    text = "図書館で本を読む"
    assert MorphemeSplitter().split(text) == splitter.split(text)
    rungs = ladder(splitter)
    assert {unidic_lite.DICDIR} == {
        rung.dictionary for rung in rungs if isinstance(rung, MorphemeSplitter)
    }


def test_unidic_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """dictionary="unidic" takes the folder of the package of that name."""
    import unidic_lite

    package = types.ModuleType("unidic")
    package.DICDIR = unidic_lite.DICDIR  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "unidic", package)
    assert [(0, 4), (4, 6)] == MorphemeSplitter(dictionary="unidic").split("図書館で読む")


@pytest.mark.parametrize("installed", [False, True])
def test_unidic_is_missing(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the package or its data the message has the commands for both."""
    package = types.ModuleType("unidic") if installed else None
    if package is not None:
        package.DICDIR = str(tmp_path)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "unidic", package)
    splitter = MorphemeSplitter(dictionary="unidic", depth=3)
    monkeypatch.setattr("safe_embed.text.morphemes._ANALYSERS", {})
    with pytest.raises(ConfigError, match="pip install unidic && python -m unidic download"):
        splitter.split("今日")


@pytest.mark.parametrize("made", ["nothing", "no dictionary", "empty folder"])
def test_a_path_without_a_dictionary_is_refused(made: str, tmp_path: Path) -> None:
    """It is an error of our own that does not repeat the path."""
    path = tmp_path / "secret.dic"
    if made == "no dictionary":
        path.write_bytes(b"not a dictionary" * 100)
    if made == "empty folder":
        path.mkdir()
    with pytest.raises(ConfigError, match="dictionary") as caught:
        MorphemeSplitter(dictionary=path).split("今日")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("value", ["", 3, True, os])
def test_what_is_no_dictionary_is_refused(value: object) -> None:
    """Neither a name nor a path: refused at construction."""
    with pytest.raises(ConfigError, match="dictionary="):
        MorphemeSplitter(dictionary=value)  # type: ignore[arg-type]
