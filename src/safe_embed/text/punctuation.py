"""Cut Japanese text at its punctuation: paragraphs, sentences, clauses.

The rules are data. A rule names the characters a cut can follow (``after``), what must hold around
them (``where``, a regular expression that starts right behind the character), and shows an example.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import merge
from operator import itemgetter
from typing import Literal, NamedTuple, get_args

from safe_embed.errors import ConfigError
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
# Titles and Latin abbreviations before which a full stop ends nothing.  Dr. Smith -> Dr. Smith
_ABBREVIATIONS = (
    *("Dr", "Mr", "Ms", "Mrs", "Prof", "St", "Jr", "Sr", "vs", "cf", "etc", "al"),
    *("Fig", "Eq", "No", "Vol", "pp", "Inc", "Ltd", "Co", "e.g", "i.e"),
)
# 「行く。」と言った -> 「行く。」と言った; どこ？と聞く -> どこ？と聞く: the quotation goes on.
_GOES_ON = r"(?:[とのがをはにへもでやか、，､。．・…‥―—ー]|って|など|より|だ[がっ。]|です|である)"
_QUOTED = r"(?:と[いう言云思叫聞問考の呼怒笑答書述か、]|って[いう言思]|という|の[かはがでに])"


class Rule(NamedTuple):
    """Where a cut may stand: behind one of *after*, if *where* matches from there."""

    level: Level
    after: str
    where: str


def _not_before(words: Iterator[str] | tuple[str, ...]) -> str:
    return "".join(f"(?<!{re.escape(word)})" for word in words)


# What may follow a mark and belongs to it: more marks, an aside, closing brackets, blanks and line
# breaks.  本当！？うそ!? -> 本当！？|うそ!?; 面白い。(笑)次 -> 面白い。(笑)|次
# 「あ。」。い -> 「あ。」。|い; そう．．．次 -> そう．．．|次
# Where a mark turns out to end nothing, the empty group matches instead: what was read up to there
# is not read again from each of its marks, so that 。。。…。」と takes linear time.
_STAYS = "()"
_RUN = f"[{END_MARK}{ELLIPSIS}．]*+"
_ASIDE = f"(?:[（(](?:笑|爆笑|苦笑|爆|汗|泣|涙|怒|謎|嘘)[）)]{_RUN})?+"
_CLOSED = f"(?:{_CLOSE}++[{END_MARK}{ELLIPSIS}．]++)*+"
_BLANKS = f"(?>(?:[{BLANK}]*+[{LINE_BREAK}]++)++|[{BLANK}]*+)"
_END = f"(?:{_CLOSE}++(?!{_GOES_ON}))?+(?!{_CLOSE}){_BLANKS}(?!{_CLOSE})"
# A line that begins with a closing bracket goes on.  （注\n）次 -> （注\n）次
_BEGINS = f"(?:(?!{_CLOSE})|{_STAYS})"
# Mostly none of that follows, and one look tells.  今日は。明日も -> 今日は。|明日も
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
    Rule("sentence", "。｡", _not_before(NAMES) + _TAIL),
    # 本当！次 -> 本当！|次; えっ！？と言う。 -> えっ！？と言う。
    Rule("sentence", "！？‼⁇⁈⁉", f"{_RUN}(?:(?!{_QUOTED}){_TAIL}|{_STAYS})"),
    # うそ!次 -> うそ!|次; a!b?c -> a!b?c (inside Latin text a blank must follow)
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
        + _not_before(tuple(f"{word}." for word in _ABBREVIATIONS))
        + f"(?=[\"')\\]]?(?:[{BLANK}]++[^a-z]|[{LINE_BREAK}]|[^\\x00-\\x7f]|\\Z))[\"']?+{_TAIL}",
    ),
    # 春、夏 -> 春、|夏; 3万、4万 -> 3万、4万; ､ -> ､|
    Rule("clause", "、､", f"{_not_before(NAMES)}(?!(?<=[{_NUMERAL}].)[{_NUMERAL}]){_PAUSE}"),
    # 春，夏 -> 春，|夏; １，０００円 -> １，０００円; 1,000 -> 1,000; a,b -> a,b
    Rule("clause", "，", f"(?!(?<=[{DIGIT}].)[{DIGIT}]){_PAUSE}"),
    Rule("clause", ",;:", f"(?:[{BLANK}]++|(?=[^\\x00-\\x7f])(?<![{DIGIT}].))(?!{_CLOSE})"),
    # そして……彼は -> そして……|彼は; つまり――彼 -> つまり――|彼; 要点：次 -> 要点：|次
    Rule("clause", f"{ELLIPSIS}―—；：", f"(?<![{DIGIT}]：){_PAUSE}"),
)

# Marks a cut may stand in front of.
# ①りんご②みかん -> ①りんご|②みかん; りんご ・みかん -> りんご |・みかん
_NUMBERED = "①-⑳㋐-㋾"
_LIST_MARK = re.compile(f"[{_NUMBERED}・●■◆▪•](?:(?<=[{_NUMBERED}])|(?<=[{BLANK}].))")

# A mark or a blank that a match can end with.
_MARKS = "".join(rule.after for rule in RULES) + CLOSERS + END_MARK + ELLIPSIS + BLANK + "\"'"
_MARK = re.compile(f"[{re.escape(''.join(sorted({*_MARKS} - {*LINE_BREAK})))}]")
# Nothing in these ranges joins what stands before it, and Japanese text has little else.
_JOINS_NOTHING = (
    "\x00-\u02ff\u0370-\u0482\u200e-\u20cf\u2100-\u2cee\u3000-\u3029\u3030-\u3098\u309d-\ua66e"
)
_MAY_JOIN = re.compile(f"[^{_JOINS_NOTHING}\uac00-\ud7a3\uff01-\uff9d\uffe0-\uffee]")


def _compile(level: Level, *, line_breaks: bool) -> re.Pattern[str]:
    """Join the rules up to *level* into one pattern.

    Its matches end where a cut may stand, except those in which the group of ``_STAYS`` took part.
    """
    levels = get_args(Level)[: get_args(Level).index(level) + 1]
    rules = [
        rule for rule in RULES if rule.level in levels and (line_breaks or rule.after != LINE_BREAK)
    ]
    # A set of characters at the front is what `re` scans for quickly; the rest is tried only there.
    front = re.escape("".join(rule.after for rule in rules))
    tails = "|".join(f"(?<=[{re.escape(rule.after)}]){rule.where}" for rule in rules)
    return re.compile(f"[{front}](?:{tails})", re.DOTALL)


def _joins(characters: str) -> bool:
    """Tell whether any of these characters joins the one before it; one look mostly tells."""
    return bool(_MAY_JOIN.search(characters) and JOINER.search(characters))


def _bare(text: str) -> tuple[str, list[int], list[int]]:
    """Leave out what joins a mark, so that the rules read the mark as if it stood alone.

    A blank that is joined shows something and is no blank: what joins it takes its place.
    すごい‼\ufe0f次 -> すごい‼次

    Returns the bare text, the places in it behind the marks that were joined, and the numbers of
    characters that are left out before the first of the places, the second, and so on.
    """
    parts: list[str] = []
    places: list[int] = []
    left_out = [0]
    last = 0
    for start, end in joined_clusters(text):
        found = _MARK.search(text, start, end)
        if found is None or found.end() == end:
            continue
        at = found.start()
        parts += (text[last:at], text[at + 1] if text[at] in BLANK else text[at])
        left_out.append(left_out[-1] + end - at - 1)
        places.append(end - left_out[-1])
        last = end
    return "".join((*parts, text[last:])), places, left_out


@dataclass(frozen=True, slots=True)
class PunctuationSplitter:
    """Cut text at its punctuation, and keep whole what belongs together.

    Brackets with all they hold, addresses, numbers, runs of ``！？…``, names such as モー娘。 and
    grapheme clusters are not cut. Blanks and line breaks stay with what stands before them, and so
    does what joins a mark, such as a variation selector.

    >>> text = "「今日は。明日も。」と言った。円周率は3.14です。本当！？"
    >>> [text[start:end] for start, end in PunctuationSplitter().split(text)]
    ['「今日は。明日も。」と言った。', '円周率は3.14です。', '本当！？']

    Args:
        level: The finest cut: at blank lines, after sentences, or after clauses too.
        depth: How many levels of brackets may be opened for a cut; ``None`` for any.
        line_breaks: Whether a single line break ends a sentence; ``False`` for text with hard
            line wraps, in which only a blank line does.

    Raises:
        ConfigError: If *level* is no level, or *depth* is negative.
    """

    level: Level = "sentence"
    depth: int | None = 0
    line_breaks: bool = True
    _pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.level not in get_args(Level):
            msg = (
                f"level={shown(self.level)} is not known. Use one of {', '.join(get_args(Level))}."
            )
            raise ConfigError(msg)
        if self.depth is not None and self.depth < 0:
            msg = (
                f"depth={shown(self.depth)} is negative. Use 0, a positive number, or None for any."
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
        if cuts and _joins("".join(itemgetter(*cuts)(text))):
            cuts = self._ends_of_clusters(text)
        if self.level == "clause" and _LIST_MARK.search(text, 1):
            marks = between_clusters(text, [m.start() for m in _LIST_MARK.finditer(text, 1)])
            cuts = list(dict.fromkeys(merge(cuts, marks)))
        return spans_between(keep_whole(text, cuts, depth=self.depth), len(text))

    def _ends(self, text: str) -> list[int]:
        """Find where the rules cut."""
        return [m.end() for m in self._pattern.finditer(text) if m.lastindex is None]

    def _ends_of_clusters(self, text: str) -> list[int]:
        """Find where the rules cut a text in which characters join the marks."""
        bare, places, left_out = _bare(text)
        cuts = [cut + left_out[bisect_right(places, cut)] for cut in self._ends(bare)]
        if cuts and cuts[-1] == len(text):
            cuts.pop()
        return at_cluster_ends(text, cuts)

    @staticmethod
    def incident() -> RegexSplitter:
        """Give the rule of the incident this library began with.

        Its team cut texts of more than 200 characters at every 。 and 、, whatever stood around
        them; with ``chunks="spans"`` the parts are embedded one by one and averaged.

        Returns:
            A splitter for comparison, not a recommendation.
        """
        return RegexSplitter("[。、]", min_chars=201)
