"""Rules for the ends of bunsetsu (文節), by the parts of speech of UniDic."""

from __future__ import annotations

import re
from typing import NamedTuple

from safe_embed.text.marks import KANJI

# Control characters, which MeCab takes for words.
CONTROLS = r"\x00-\x1f\x7f-\x9f"


class Ends(NamedTuple):
    """A rule: a bunsetsu ends between two morphemes.

    *before* and *after* are regular expressions for their parts of speech. *where* is matched
    against the text at the position between them.
    """

    before: str
    after: str
    where: str = ""


class Joins(NamedTuple):
    """A rule: no bunsetsu ends between two morphemes. Fields as for :class:`Ends`."""

    before: str
    after: str
    where: str = ""


_CONTENT = r"名詞|動詞|形容詞|副詞|連体詞|接続詞|感動詞|代名詞|形状詞|接頭辞|記号|補助記号,括弧開"
_NUMERAL = "0-9０-９〇一二三四五六七八九十百千万億兆"

_RENYO = "[いきぎしちにびみりえけげせてねべめれ]"
# The stem of a verb of two characters, not behind a particle: 歩き|スマホ.
_STEM = rf"(?<=[{KANJI}]{_RENYO})(?<![をにがはへでとも、][{KANJI}].)"
# The stem of a verb, or a noun, between お or ご and に: お求めに|なる, ご覧に|なる.
_POLITE = (
    "(?:"
    + "|".join(f"(?<=お{'.' * n}{_RENYO}に)" for n in (1, 2, 3))
    + rf"|(?<=ご覧に)|(?<=ご[{KANJI}]{{2}}に))"
)
_DEICTIC = "[今昨明去来毎最先現以当本同]"

# The first rule that matches applies.
RULES: tuple[Ends | Joins, ...] = (
    # 一、二冊 -> 一、二冊
    Joins(r"補助記号,読点", r"名詞,数詞", rf"(?<=[{_NUMERAL}][、，､])"),
    # A full stop may be part of a longer mark.
    # [参照]。次の -> [参照]。|次の
    Ends(r"記号", r"(?!補助記号)", r"(?<=[。｡！？])"),
    # 晴れ、だから行く -> 晴れ、|だから|行く
    Ends(r"補助記号,[句読]点", r"(?!補助記号)"),
    # 図書館では -> 図書館では; 食べられた -> 食べられた; 田中さん -> 田中さん
    Joins(r"", rf"(?!{_CONTENT})"),
    # 雪のような花 -> 雪のような|花; 降りそうだ -> 降りそうだ
    Joins(r"", r"形状詞,助動詞語幹"),
    # 東京 大阪 -> 東京 |大阪
    Ends(r"", r"", rf"(?<=[\s{CONTROLS}])"),
    # お茶を飲む -> お茶を|飲む; 行く「東京」 -> 行く|「東京」
    Joins(r"接頭辞|補助記号,括弧開", r""),
    # 食べている人 -> 食べている|人; 読んでほしい -> 読んでほしい
    Joins(r"助詞,接続助詞", r"(?:動詞|形容詞),非自立可能", r"(?<=[てで])"),
    # 行かなければならない -> 行かなければならない; 見てはいけない -> 見てはいけない
    Joins(r"助詞", r"動詞", r"(?:(?<=れば)|(?<=[てで]は))(?=なら|なり|いけ)"),
    # 良くない -> 良くない; 学生ではない -> 学生ではない; ことがない -> ことが|ない
    Joins(r"形容詞|助動詞|形状詞", r"形容詞,非自立可能", r"(?=な[いくけか])"),
    Joins(r"助詞,係助詞", r"形容詞,非自立可能", r"(?<=[でく][はも])(?=な[いくけか])"),
    # もったいない -> もったいない; 問題ない -> 問題ない; とんでもない -> とんでもない
    Joins(r"名詞,普通名詞(?!,副詞可能)", r"形容詞,非自立可能", r"(?<!こと)(?=な[いくけかさ])"),
    Joins(r"副詞", r"形容詞,非自立可能", r"(?<=とんでも)"),
    # 多すぎる -> 多すぎる; 静かすぎる -> 静かすぎる
    Joins(r"形容詞|形状詞|名詞,普通名詞.*形状詞可能", r"動詞,非自立可能", r"(?=すぎ|過ぎ)"),
    # お知らせいたします -> お知らせいたします; お聞かせください -> お聞かせください
    Joins(r"助動詞", r"動詞,非自立可能", r"(?=いたし|いたす|致|いただ|頂|くださ|下さ)"),
    # 猫である -> 猫である; 学者でもある -> 学者でもある
    Joins(r"助動詞|助詞,係助詞", r"動詞,非自立可能", r"(?:(?<=で)|(?<=で[はも]))(?=あ[るりっろ])"),
    # お求めになる -> お求めになる; ご覧になる -> ご覧になる; お気に入りの -> お気に入りの
    Joins(r"助詞,格助詞", r"動詞", rf"{_POLITE}(?=な[るりっら])|(?<=お気に)(?=入|召)"),
    # どうしても -> どうしても; なんとしても -> なんとしても
    Joins(r"副詞|助詞", r"動詞,非自立可能", r"(?:(?<=どう)|(?<=なんと)|(?<=何と))(?=しても)"),
    # 歩きスマホは -> 歩きスマホは; 飲み放題の -> 飲み放題の; 服を脱ぎシャツを -> 服を|脱ぎ|シャツを
    Joins(r"動詞", r"名詞", rf"{_STEM}(?=[ァ-ヶ]{{2}}|放題)"),
    # 勉強する -> 勉強する; 近代化した -> 近代化した; 利用できる -> 利用できる
    Joins(r".*サ変", r"動詞,非自立可能", r"(?=[さしすせ]|でき|出来|いた|致|なさ|くださ|下さ)"),
    # 食べ始める -> 食べ始める
    Joins(r"動詞", r"動詞"),
    # 年末年始は -> 年末年始は; 早朝深夜は -> 早朝深夜は; 今日午後は -> 今日|午後は
    Joins(r".*副詞可能", r"名詞,普通名詞", rf"(?<=([{KANJI}])[{KANJI}])(?=\1)"),
    Joins(
        r".*副詞可能",
        r".*副詞可能",
        rf"(?<=[朝昼夕夜晩日前後間末])(?<!{_DEICTIC}.)(?=[早深夜夕昼朝午休祝当翌])",
    ),
    # 今日東京に行く -> 今日|東京に|行く
    Ends(r"名詞,普通名詞,副詞可能", r""),
    # 東京都知事が -> 東京都知事が; 2024年4月に -> 2024年4月に; 経済的利益 -> 経済的利益
    Joins(r"名詞|記号|接尾辞,(?:名詞|形状詞)的|形状詞", r"名詞|記号|接頭辞|形状詞"),
    # ジョン・スミスが -> ジョン・スミスが
    Joins(r"補助記号,一般|記号", r"名詞|記号", r"(?<=[・･＝=～〜/／-])"),
    # 美しい花が -> 美しい|花が; とても元気だ -> とても|元気だ
    Ends(r"", r""),
)


def compile_ending(before: str, after: str) -> re.Pattern[str]:
    """Compile the rules for two parts of speech into one pattern.

    The pattern matches at a position between two such morphemes if a bunsetsu ends there.
    """
    pattern = ""
    for rule in reversed(RULES):
        if re.match(rule.before, before) and re.match(rule.after, after):
            where = f"(?={rule.where})"
            pattern = (
                f"(?:{where}|{pattern})" if isinstance(rule, Ends) else f"(?!{where}){pattern}"
            )
    return re.compile(pattern)
