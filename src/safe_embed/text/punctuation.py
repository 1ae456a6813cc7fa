"""Cut Japanese text at its punctuation: paragraphs, sentences, clauses.

The rules are data. A rule has the characters that a cut can follow (``after``), a regular
expression that must match directly after them (``where``), and an example in a comment.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from heapq import merge
from operator import itemgetter
from typing import Literal, NamedTuple, get_args

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import shown
from safe_embed.text.graphemes import (
    BLANK,
    CLOSERS,
    DIGIT,
    ELLIPSIS,
    END_MARK,
    JOINER,
    LINE_BREAK,
    at_cluster_ends,
    between_clusters,
    joined_clusters,
    keep_whole,
    spans_between,
)
from safe_embed.text.user_splitters import RegexSplitter
from safe_embed.types import Span

Level = Literal["paragraph", "sentence", "clause"]

# Names that end in a mark.  モー娘。が歌う。 -> モー娘。が歌う。; 藤岡弘、が来た -> 藤岡弘、が来た
NAMES = ("モー娘。", "モーニング娘。", "ゲスの極み乙女。", "藤岡弘、")

_CLOSE = f"[{re.escape(CLOSERS)}]"
_NUMERAL = f"{DIGIT}〇一二三四五六七八九十百千万億兆数"
# Titles and Latin abbreviations whose full stop does not end a sentence.  Dr. Smith -> Dr. Smith
_ABBREVIATIONS = (
    *("Dr", "Mr", "Ms", "Mrs", "Prof", "St", "Jr", "Sr", "vs", "cf", "etc", "al"),
    *("Fig", "Eq", "No", "Vol", "pp", "Inc", "Ltd", "Co", "e.g", "i.e"),
)
# 「行く。」と言った -> 「行く。」と言った; どこ？と聞く -> どこ？と聞く: the sentence continues.
_GOES_ON = r"(?:[とのがをはにへもでやか、，､。．・…‥―—ー]|って|など|より|だ[がっ。]|です|である)"
_QUOTED = r"(?:と[いう言云思叫聞問考の呼怒笑答書述か、]|って[いう言思]|という|の[かはがでに])"


class Rule(NamedTuple):
    """A cut is possible after each character of *after* at which *where* matches next.

    The cut lies at the end of the match, which may include more marks and blanks.
    """

    level: Level
    after: str
    where: str


def _not_after(words: tuple[str, ...]) -> str:
    """Return an expression that matches where none of *words* ends."""
    return "".join(f"(?<!{re.escape(word)})" for word in words)


# What belongs to a mark and may follow it: more marks, an aside, closing brackets, blanks and line
# breaks.  本当！？うそ!? -> 本当！？|うそ!?; 面白い。(笑)次 -> 面白い。(笑)|次
# 「あ。」。い -> 「あ。」。|い; そう．．．次 -> そう．．．|次
# Where a mark does not end a sentence, this empty group matches instead. The marks up to there are
# part of that match and are not tried again one by one, so that 。。。…。」と takes linear time.
_STAYS = "()"
_RUN = f"[{END_MARK}{ELLIPSIS}．]*+"
_ASIDE = f"(?:[（(](?:笑|爆笑|苦笑|爆|汗|泣|涙|怒|謎|嘘)[）)]{_RUN})?+"
_CLOSED = f"(?:{_CLOSE}++[{END_MARK}{ELLIPSIS}．]++)*+"
_BLANKS = f"(?>(?:[{BLANK}]*+[{LINE_BREAK}]++)++|[{BLANK}]*+)"
_END = f"(?:{_CLOSE}++(?!{_GOES_ON}))?+(?!{_CLOSE}){_BLANKS}(?!{_CLOSE})"
# A line that starts with a closing bracket continues the line before.  （注\n）次 -> （注\n）次
_BEGINS = f"(?:(?!{_CLOSE})|{_STAYS})"
# Fast path: usually none of these follows.  今日は。明日も -> 今日は。|明日も
_PLAIN = f"(?![{END_MARK}{ELLIPSIS}．（({re.escape(CLOSERS)}{BLANK}{LINE_BREAK}])"
_TAIL = f"(?:{_PLAIN}|{_RUN}{_ASIDE}{_CLOSED}(?:{_END}|{_STAYS}))"
# うーん、、、次 -> うーん、、、|次; つまり、――次 -> つまり、――|次; そう……。次 -> そう……。|次
_PAUSE = f"[、､，{ELLIPSIS}―—]*+(?:(?!{_CLOSE}|[{END_MARK}．])[{BLANK}]*+(?!{_CLOSE})|{_STAYS})"

RULES: tuple[Rule, ...] = (
    # 一段落。\n\n二段落。 -> 一段落。\n\n|二段落。
    Rule("paragraph", "\n", f"(?:[{BLANK}]*+[{LINE_BREAK}]++)++{_BEGINS}"),
    Rule("paragraph", "\r", f"\n?+(?:[{BLANK}]*+[{LINE_BREAK}]++)++{_BEGINS}"),
    # 見出し\n本文 -> 見出し\n|本文; ・りんご\r\n・みかん -> ・りんご\r\n|・みかん
    Rule("sentence", LINE_BREAK, f"(?:[{BLANK}]*+[{LINE_BREAK}]++)*+{_BEGINS}"),
    # 今日は。明日も。 -> 今日は。|明日も。; ｡も -> ｡|も; モー娘。が歌う。 -> モー娘。が歌う。
    Rule("sentence", "。｡", _not_after(NAMES) + _TAIL),
    # 本当！次 -> 本当！|次; えっ！？と言う。 -> えっ！？と言う。
    Rule("sentence", "！？‼⁇⁈⁉", f"{_RUN}(?:(?!{_QUOTED}){_TAIL}|{_STAYS})"),
    # うそ!次 -> うそ!|次; a!b?c -> a!b?c (in Latin text a blank must follow)
    Rule(
        "sentence",
        "!?",
        f"{_RUN}(?:(?!{_QUOTED})(?!(?<=[!?])[!-'*-\\\\^-~]){_TAIL}|{_STAYS})",
    ),
    # 論文です．次に -> 論文です．|次に; ３．１４ -> ３．１４
    Rule("sentence", "．", f"(?<![{DIGIT}]．){_TAIL}"),
    # Dr. Smith came. 彼は -> Dr. Smith came. |彼は; 3.14 -> 3.14; a.b -> a.b; 1. 項目 -> 1. 項目
    Rule(
        "sentence",
        ".",
        f"(?<![{DIGIT}]\\.)(?<![^A-Za-z][A-Z]\\.)(?<!\\A[A-Z]\\.)(?<!\\.[A-Za-z]\\.)"
        + _not_after(tuple(f"{word}." for word in _ABBREVIATIONS))
        + f"(?=[\"')\\]]?(?:[{BLANK}]++[^a-z]|[{LINE_BREAK}]|[^\\x00-\\x7f]|\\Z))[\"']?+{_TAIL}",
    ),
    # 春、夏 -> 春、|夏; 3万、4万 -> 3万、4万; ､ -> ､|
    Rule("clause", "、､", f"{_not_after(NAMES)}(?!(?<=[{_NUMERAL}].)[{_NUMERAL}]){_PAUSE}"),
    # 春，夏 -> 春，|夏; １，０００円 -> １，０００円; 1,000 -> 1,000; a,b -> a,b
    Rule("clause", "，", f"(?!(?<=[{DIGIT}].)[{DIGIT}]){_PAUSE}"),
    Rule("clause", ",;:", f"(?:[{BLANK}]++|(?=[^\\x00-\\x7f])(?<![{DIGIT}].))(?!{_CLOSE})"),
    # そして……彼は -> そして……|彼は; つまり――彼 -> つまり――|彼; 要点：次 -> 要点：|次
    Rule("clause", f"{ELLIPSIS}―—；：", f"(?<![{DIGIT}]：){_PAUSE}"),
)

# List marks before which a cut is possible.
# ①りんご②みかん -> ①りんご|②みかん; りんご ・みかん -> りんご |・みかん
_NUMBERED = "①-⑳㋐-㋾"
_LIST_MARK = re.compile(f"[{_NUMBERED}・●■◆▪•](?:(?<=[{_NUMBERED}])|(?<=[{BLANK}].))")

# The marks and blanks that a match can end with.
_MARKS = "".join(rule.after for rule in RULES) + CLOSERS + END_MARK + ELLIPSIS + BLANK + "\"'"
_MARK = re.compile(f"[{re.escape(''.join(sorted({*_MARKS} - {*LINE_BREAK})))}]")
# No character in these ranges joins the one before it; most Japanese text has no others.
_JOINS_NOTHING = (
    "\x00-\u02ff\u0370-\u0482\u200e-\u20cf\u2100-\u2cee\u3000-\u3029\u3030-\u3098\u309d-\ua66e"
)
_MAY_JOIN = re.compile(f"[^{_JOINS_NOTHING}\uac00-\ud7a3\uff01-\uff9d\uffe0-\uffee]")


def _compile(level: Level, *, line_breaks: bool) -> re.Pattern[str]:
    """Compile the rules up to *level* into one pattern.

    A cut is possible at the end of each match, unless the group of ``_STAYS`` took part in it.
    """
    levels = get_args(Level)[: get_args(Level).index(level) + 1]
    rules = [
        rule for rule in RULES if rule.level in levels and (line_breaks or rule.after != LINE_BREAK)
    ]
    # `re` scans quickly for a set of characters at the start, and tries the rest only there.
    front = re.escape("".join(rule.after for rule in rules))
    tails = "|".join(f"(?<=[{re.escape(rule.after)}]){rule.where}" for rule in rules)
    return re.compile(f"[{front}](?:{tails})", re.DOTALL)


def _any_joins(characters: str) -> bool:
    """Return whether any of these characters joins the one before it in a grapheme cluster."""
    return bool(_MAY_JOIN.search(characters) and JOINER.search(characters))


def _strip_joiners(text: str) -> tuple[str, list[int], list[int]]:
    """Remove the characters that join a mark in a cluster, so that the rules see the mark alone.

    A joined blank is visible, so it is replaced by the character that joins it.
    すごい‼\ufe0f次 -> すごい‼次

    Returns the bare text, the positions in it after each such mark, and how many characters were
    removed before each of these positions, and in all.
    """
    parts: list[str] = []
    places: list[int] = []
    removed = [0]
    last = 0
    for start, end in joined_clusters(text):
        match = _MARK.search(text, start, end)
        if match is None or match.end() == end:
            continue
        mark = match.start()
        parts += (text[last:mark], text[mark + 1] if text[mark] in BLANK else text[mark])
        removed.append(removed[-1] + end - mark - 1)
        places.append(end - removed[-1])
        last = end
    return "".join((*parts, text[last:])), places, removed


@dataclass(frozen=True, slots=True)
class PunctuationSplitter:
    """Cut text at its punctuation.

    No cut is made inside brackets, addresses, numbers, runs of ``！？…``, names like as モー娘。 or
    grapheme clusters. Blanks and line breaks belong to the span before them, as does a character
    that joins a mark, such as a variation selector.

    >>> text = "「今日は。明日も。」と言った。円周率は3.14です。本当！？"
    >>> [text[start:end] for start, end in PunctuationSplitter().split(text)]
    ['「今日は。明日も。」と言った。', '円周率は3.14です。', '本当！？']

    Args:
        level: The finest cut: ``"paragraph"`` cuts at blank lines, ``"sentence"`` after sentences
            too, ``"clause"`` after clauses too.
        depth: How many levels of brackets may be cut inside; ``None`` for any.
        line_breaks: Whether a single line break ends a sentence; ``False`` for text with hard
            line wraps, in which only a blank line does.

    Raises:
        ConfigError: If *level* is none of these, or *depth* is negative.
    """

    level: Level = "sentence"
    depth: int | None = 0
    line_breaks: bool = True
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.level not in get_args(Level):
            levels = ", ".join(get_args(Level))
            msg = both(
                f"level={shown(self.level)} is not known. Use one of {levels}.",
                f"level={shown(self.level)} は使えません。{levels} のどれかにしてください。",
            )
            raise ConfigError(msg)
        if self.depth is not None and self.depth < 0:
            msg = both(
                f"depth={shown(self.depth)} is negative. Use 0 or more, or None for any depth.",
                f"depth={shown(self.depth)} は負です。0以上か、無制限なら None にしてください。",
            )
            raise ConfigError(msg)
        pattern = _compile(self.level, line_breaks=self.line_breaks)
        object.__setattr__(self, "_pattern", pattern)

    def split(self, text: str) -> list[Span]:
        """Cut *text* into paragraphs, sentences or clauses.

        Invariant: ``"".join(text[s:e] for s, e in split(text)) == text``; time and memory grow
        linearly with the text.

        Args:
            text: Any string.

        Returns:
            The spans in order, none empty; no spans for the empty string.
        """
        cuts = self._ends(text)
        if cuts and cuts[-1] == len(text):
            cuts.pop()
        if cuts and _any_joins("".join(itemgetter(*cuts)(text))):
            cuts = self._ends_with_joiners(text)
        if self.level == "clause" and _LIST_MARK.search(text, 1):
            marks = between_clusters(text, [m.start() for m in _LIST_MARK.finditer(text, 1)])
            cuts = list(dict.fromkeys(merge(cuts, marks)))
        return spans_between(keep_whole(text, cuts, depth=self.depth), len(text))

    def _ends(self, text: str) -> list[int]:
        """Return the positions after which the rules allow a cut."""
        return [m.end() for m in self._pattern.finditer(text) if m.lastindex is None]

    def _ends_with_joiners(self, text: str) -> list[int]:
        """Return the cuts of the rules in a text in which characters join the marks."""
        bare, places, removed = _strip_joiners(text)
        cuts = [cut + removed[bisect_right(places, cut)] for cut in self._ends(bare)]
        if cuts and cuts[-1] == len(text):
            cuts.pop()
        return at_cluster_ends(text, cuts)

    @staticmethod
    def incident() -> RegexSplitter:
        """Return the splitter of the production incident that led to this library.

        It cuts texts of more than 200 characters at every 。 and 、, whatever surrounds them; with
        ``chunks="spans"`` the spans are embedded one by one and averaged.

        Returns:
            A splitter for comparison, not a recommendation.
        """
        return RegexSplitter("[。、]", min_chars=201)
