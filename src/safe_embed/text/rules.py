"""The rules by which Japanese text is cut at its punctuation: data, and their compilation.

A rule has the characters that a cut can follow (``after``), a regular expression that must match
directly after them (``where``), and an example in a comment.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

from safe_embed.text.brackets import ALL_CLOSERS
from safe_embed.text.continuations import GOES_ON, PARTICLE, PARTICLE_FIRST, QUOTED
from safe_embed.text.labels import NO_LABEL, NO_NUMBER
from safe_embed.text.marks import (
    BLANK,
    DIGIT,
    ELLIPSIS,
    END_MARK,
    EXCLAMATION,
    FULL_STOP,
    KATAKANA,
    LATIN,
    LINE_BREAK,
    NUMERAL,
)
from safe_embed.text.trailers import BAR, TRAILER

Level = Literal["paragraph", "sentence", "clause"]

# Names that hold a mark.  モー娘。が歌う。 -> モー娘。が歌う。; 藤岡弘、が来た -> 藤岡弘、が来た
NAMES = ("モー娘。", "モーニング娘。", "ゲスの極み乙女。", "藤岡弘、", "Yahoo!")
# Titles and Latin abbreviations whose full stop does not end a sentence.  Dr. Smith -> Dr. Smith
ABBREVIATIONS = (
    *("Dr", "Mr", "Ms", "Mrs", "Mt", "Prof", "St", "Ste", "Jr", "Sr", "Gen", "Col", "Capt", "Lt"),
    *("Gov", "Sen", "Rep", "Rev", "Messrs", "Mme", "Mlle", "vs", "cf", "etc", "al", "approx", "ca"),
    *(
        "Fig",
        "Figs",
        "fig",
        "Eq",
        "Eqs",
        "Sec",
        "Ch",
        "No",
        "Nos",
        "Vol",
        "vol",
        "Ver",
        "ver",
        "pp",
    ),
    *("ed", "eds", "Ed", "Eds", "Inc", "Ltd", "Co", "Corp", "Bros", "Dept", "Univ", "Assoc", "Ave"),
    *("Blvd", "feat", "ft", "e.g", "i.e", "Ph.D", "a.m", "p.m"),
)


class Words(NamedTuple):
    """Names, end marks and abbreviations; a user's are added to ours."""

    names: tuple[str, ...] = ()
    end_marks: tuple[str, ...] = ()
    abbreviations: tuple[str, ...] = ()


class Rule(NamedTuple):
    """A cut is possible after each character of *after* at which *where* matches next.

    The cut lies at the end of the match, which may include more marks and blanks.
    """

    level: Level
    after: str
    where: str


_CLOSE = f"[{re.escape(ALL_CLOSERS)}]"
# What belongs to a mark and may follow it: more marks, what trails it, closing brackets, blanks and
# line breaks.  本当！？うそ!? -> 本当！？|うそ!?; 面白い。(笑)次 -> 面白い。(笑)|次
# 「あ。」。い -> 「あ。」。|い; そう．．．次 -> そう．．．|次
# Where a mark does not end a sentence, this empty group matches instead. The marks up to there are
# part of that match and are not tried again one by one, so that 。。。…。」と takes linear time.
_STAYS = "()"
_BLANKS = f"(?>(?:[{BLANK}]*+[{LINE_BREAK}]++)++|[{BLANK}]*+)"
_END = f"(?:{_CLOSE}++(?!{GOES_ON}))?+(?!{_CLOSE}){BAR}{_BLANKS}(?!{_CLOSE})"
# A line that starts with a closing bracket continues the line before.  （注\n）次 -> （注\n）次
_BEGINS = f"(?:(?!{_CLOSE})|{_STAYS})"
# うーん、、、次 -> うーん、、、|次; つまり、――次 -> つまり、――|次; そう……。次 -> そう……。|次
_PAUSE = f"[、､，{ELLIPSIS}―—]*+(?:(?!{_CLOSE}|[{END_MARK}．])[{BLANK}]*+(?!{_CLOSE})|{_STAYS})"

_PARAGRAPHS = (
    # 一段落。\n\n二段落。 -> 一段落。\n\n|二段落。
    Rule("paragraph", "\n", f"(?:[{BLANK}]*+[{LINE_BREAK}]++)++{_BEGINS}"),
    Rule("paragraph", "\r", f"\n?+(?:[{BLANK}]*+[{LINE_BREAK}]++)++{_BEGINS}"),
)
# Every line break, those of paragraphs too.
# 見出し\n本文 -> 見出し\n|本文; ・りんご\r\n・みかん -> ・りんご\r\n|・みかん
_LINES = (
    Rule(
        "sentence",
        LINE_BREAK,
        # Fast path: usually the next line begins at once.
        f"(?:(?=[^{BLANK}{LINE_BREAK}{re.escape(ALL_CLOSERS)}])"
        f"|(?:[{BLANK}]*+[{LINE_BREAK}]++)*+{_BEGINS})",
    ),
)
_FULL_WIDTH = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
# Endings of sentences before a note or a star.
_POLITE_END = "(?<=(?:です|ます|した|せん|ょう|さい|だよ|すよ|すね|たよ|たね|いよ|いね|よね|かな).)"
# 今日は晴れ<br>明日は雨 -> 今日は晴れ<br>|明日は雨
BREAK_TAG = re.compile("<[bB][rR] ?/?>")
_TAGS = Rule("sentence", ">", f"(?i:(?<=<br>)|(?<=<br/>)|(?<=<br />)){_BLANKS}{_BEGINS}")


class _Tail(NamedTuple):
    """Expressions for what follows a mark: more marks, and all up to the next sentence."""

    run: str
    tail: str


def _tail(end_marks: tuple[str, ...]) -> _Tail:
    """Return the expressions for what follows a mark, *end_marks* among the marks."""
    marks = END_MARK + re.escape("".join(mark for mark in end_marks if len(mark) == 1))
    run = f"[{marks}{ELLIPSIS}．]*+"
    # Fast paths: usually one of these follows.  今日は。明日も -> 今日は。|明日も
    kana = {*map(chr, range(0x3041, 0x3094))} - {*PARTICLE_FIRST}
    plain = "(?!)" if end_marks else f"(?=[\u4e00-\u9fffァ-ヺ「『{''.join(sorted(kana))}])"
    line_end = f"(?=\n)(?:{_BLANKS}(?!{_CLOSE})|{_STAYS})"
    closed = f"(?:{_CLOSE}++[{marks}{ELLIPSIS}．]++)*+"
    goes_on = f"(?={PARTICLE}){_STAYS}"
    trailed = f"(?:{TRAILER}{run})*+{closed}(?:{_END}|{_STAYS})"
    return _Tail(run, f"(?:{plain}|{line_end}|{run}(?:{goes_on}|{trailed}))")


def _sentence_rules(words: Words) -> tuple[Rule, ...]:
    """Return the rules for marks that end a sentence; the first is for most of them."""
    run, tail = _tail(words.end_marks)
    names = (*NAMES, *words.names)
    # 可愛い（？）部類 -> 可愛い（？）部類
    doubt = f"(?<=[（(].){run}(?=[）)]){_STAYS}"
    # In Latin text a blank must follow.  a!b?c -> a!b?c
    latin = f"(?!(?<=[!?])(?!{TRAILER})[!-'*-\\\\^-~]|”[ ]*+[a-z])"
    # ラブライブ!サンシャイン -> ラブライブ!サンシャイン
    title = f"(?!(?<=[{KATAKANA}ー{LATIN}]!)[{KATAKANA}])"
    quoted = f"(?:{doubt}|{run}(?:(?!{QUOTED}){{}}{tail}|{_STAYS}))"
    return (
        # 今日は。明日も。 -> 今日は。|明日も。; ｡も -> ｡|も; モー娘。が歌う。 -> モー娘。が歌う。
        Rule("sentence", FULL_STOP, _not_in(names, FULL_STOP) + tail),
        # 本当！次 -> 本当！|次; えっ！？と言う。 -> えっ！？と言う。
        Rule("sentence", EXCLAMATION, _not_in(names, EXCLAMATION) + quoted.replace("{}", "")),
        # うそ!次 -> うそ!|次; a!b?c -> a!b?c
        Rule("sentence", "!?", _not_in(names, "!?") + title + quoted.replace("{}", latin)),
        *_dot_rules(words, tail),
        # 予約しました♪まだ -> 予約しました♪|まだ; まどか☆マギカ -> まどか☆マギカ
        Rule("sentence", "♪♫♬♡♥☆★", f"{_POLITE_END}[♪♫♬♡♥☆★]*+(?!{GOES_ON}){tail}"),
        *(
            Rule("sentence", mark[-1], f"(?<={re.escape(mark)})(?!{QUOTED}){tail}")
            for mark in words.end_marks
        ),
    )


def _dot_rules(words: Words, tail: str) -> tuple[Rule, ...]:
    """Return the rules for the full-width and the half-width full stop of Latin text."""
    names = (*NAMES, *words.names)
    abbreviations = (*ABBREVIATIONS, *(word.removesuffix(".") for word in words.abbreviations))
    full_width = tuple(word.translate(_FULL_WIDTH) for word in abbreviations)
    # Behind the end of a Japanese verb a decimal begins a sentence.  です．３ -> です．|３
    decimal = f"(?!(?<![すただるいうくむぶぐつぬ]．)[{DIGIT}])"
    address = "(?!(?<=[Ａ-Ｚａ-ｚ０-９]．)[ａ-ｚ])(?<!．[Ａ-Ｚａ-ｚ]．)"
    # A blank, a line break or Japanese must follow, and no word in small letters.
    latin = f"(?=[\"'”)\\]]?(?:[{BLANK}]++[^a-z]|[{LINE_BREAK}]|[^\\x00-\\x7f”]|\\Z))"
    # J. Smith -> J. Smith; plan B. 次へ -> plan B. |次へ; U.S.A.を -> U.S.A.を
    initial = (
        "(?<!\\.[A-Za-z]\\.)(?:(?<![^A-Za-z][A-Z]\\.)(?<!\\A[A-Z]\\.)"
        f"|(?<=[a-z] [A-Z]\\.)(?=[{BLANK}]++[^\\x00-\\x7f]))"
    )
    return (
        # 論文です．次に -> 論文です．|次に; ３．１４ -> ３．１４; ｅ．ｎｅｔ -> ｅ．ｎｅｔ
        Rule(
            "sentence",
            "．",
            f"{decimal}{NO_LABEL}{NO_NUMBER}{address}"
            f"{_not_abbreviated((*abbreviations, *full_width), '．')}{_not_in(names, '．')}{tail}",
        ),
        # Dr. Smith came. 彼は -> Dr. Smith came. |彼は; 3.14 -> 3.14; a.b -> a.b
        # 1. 項目 -> 1. 項目
        Rule(
            "sentence",
            ".",
            f"{latin}{NO_LABEL}{NO_NUMBER}(?<![^{DIGIT}][{DIGIT}]{{2}}\\.){initial}"
            f"{_not_abbreviated(abbreviations, '.')}{_not_in(names, '.')}[\"']?+{tail}",
        ),
    )


def _clause_rules(words: Words) -> tuple[Rule, ...]:
    """Return the rules for marks inside a sentence."""
    names = (*NAMES, *words.names)
    return (
        # 春、夏 -> 春、|夏; 3万、4万 -> 3万、4万; ､ -> ､|
        Rule("clause", "、､", f"{_not_in(names, '、､')}(?!(?<=[{NUMERAL}].)[{NUMERAL}]){_PAUSE}"),
        # 春，夏 -> 春，|夏; １，０００円 -> １，０００円; 1,000 -> 1,000; a,b -> a,b
        Rule("clause", "，", f"(?!(?<=[{DIGIT}].)[{DIGIT}]){_PAUSE}"),
        Rule("clause", ",;:", f"(?:[{BLANK}]++|(?=[^\\x00-\\x7f])(?<![{DIGIT}].))(?!{_CLOSE})"),
        # そして……彼は -> そして……|彼は; つまり――彼 -> つまり――|彼; 要点：次 -> 要点：|次
        Rule("clause", f"{ELLIPSIS}―—；：", f"(?<![{DIGIT}]：){_PAUSE}"),
    )


def _not_in(names: tuple[str, ...], marks: str) -> str:
    """Return an expression that matches after one of *marks* unless the mark is part of a name."""
    parts = (
        (re.escape(name[:end]), re.escape(name[end:]))
        for name in names
        for end in range(1, len(name) + 1)
        if name[end - 1] in marks
    )
    return "".join(
        f"(?!(?<={before}){after})" if after else f"(?<!{before})" for before, after in parts
    )


def _not_abbreviated(words: tuple[str, ...], dot: str) -> str:
    """Return an expression that matches after a *dot* unless it ends one of *words*."""
    by_length: dict[int, list[str]] = {}
    for word in words:
        by_length.setdefault(len(word), []).append(re.escape(word))
    return "".join(
        f"(?<!{before}(?:{'|'.join(same)}){re.escape(dot)})"
        for same in by_length.values()
        for before in (f"[^{LATIN}]", "\\A")
    )


@lru_cache(maxsize=256)
def compile_rules(
    level: Level, words: Words, *, line_breaks: bool, tags: bool = False
) -> re.Pattern[str]:
    """Compile the rules up to *level* into one pattern.

    A cut is possible at the end of each match, unless a group took part in it.

    Args:
        level: The finest level of the rules.
        words: What the user adds to our names, end marks and abbreviations.
        line_breaks: Whether a single line break ends a sentence.
        tags: Whether the text has tags that break lines.

    Returns:
        The pattern.
    """
    levels = get_args(Level)[: get_args(Level).index(level) + 1]
    lines = _LINES if line_breaks and level != "paragraph" else _PARAGRAPHS
    full_stop, *others = _sentence_rules(words)
    # The rule for most characters comes first.
    rules = [
        rule
        for rule in (full_stop, *lines, *others, *_clause_rules(words), *([_TAGS] * tags))
        if rule.level in levels
    ]
    # `re` scans quickly for a set of characters at the start, and tries the rest only there.
    front = re.escape("".join(rule.after for rule in rules))
    tails = "|".join(f"(?<=[{re.escape(rule.after)}]){rule.where}" for rule in rules)
    return re.compile(f"[{front}](?:{tails})", re.DOTALL)


@lru_cache(maxsize=256)
def compile_marks(words: Words) -> re.Pattern[str]:
    """Compile a pattern for the marks and blanks that a match of the rules can end with.

    Args:
        words: What the user adds to ours.

    Returns:
        A pattern of one character.
    """
    rules = (*_sentence_rules(words), *_clause_rules(words))
    marks = "".join(rule.after for rule in rules) + ALL_CLOSERS + END_MARK + BLANK + "\"'"
    return re.compile(f"[{re.escape(''.join(sorted({*marks} - {*LINE_BREAK})))}]")
