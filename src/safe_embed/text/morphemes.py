"""Cut Japanese text between morphemes or bunsetsu, with MeCab and UniDic.

For text without punctuation, and for sentences that are too long. Only this module imports fugashi.

MeCab parses one window of the text at a time. On longer input its time grows with the square of the
longest run of one character class, the sum of its costs overflows (a crash), and it loses what
follows 64 KiB of blanks. Windows overlap and are joined where two parses agree, so that the cuts
are those of one parse of the whole text.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from safe_embed.errors import ConfigError
from safe_embed.foreign import shown
from safe_embed.text.dictionaries import checked_dictionary, dictionary_options, refused
from safe_embed.text.graphemes import keep_whole, outside, spans_between
from safe_embed.text.marks import BLANK, KANJI
from safe_embed.text.removals import READING, WRAP, without
from safe_embed.text.words import checked_words
from safe_embed.types import Span

_BLANKS = frozenset(BLANK + "\n\r\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029")

Unit = Literal["bunsetsu", "morpheme"]

# Length of a window that MeCab parses at once, and of the overlap of two neighbouring windows.
# Source: 526,000 characters of 43 novels and articles without 。, 、 and line breaks, compared with
# one parse of each. Of 337,541 boundaries differ at 1,024/64: 0; 256/16: 0; 256/8: 3; 128/4: 72.
# test_windows_cut_as_one_parse repeats the first measurement.
WINDOW_CHARS = 1024
OVERLAP_CHARS = 64

# MeCab stops at NUL, and takes other control characters for words; it gets blanks instead.
# 今日は\0晴れ -> 今日は\0|晴れ
_CONTROLS = r"\x00-\x1f\x7f-\x9f"
_CONTROL = re.compile(f"[{_CONTROLS}]")
_WORD = re.compile(rf"[^\s{_CONTROLS}{BLANK}]")
_STRONG_MARK = re.compile(r"[。｡！？\n]")

# Part of speech, preceding blanks and surface of each morpheme, each followed by a tab.
_NODE = r"%F,[0,1,2]\t%pS\t%m\t"
_FIELDS = 3

# A morpheme: its start in the text, and its UniDic part of speech, such as 名詞,普通名詞,一般.
Node = tuple[int, str]


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
    Ends(r"", r"", rf"(?<=[\s{_CONTROLS}])"),
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


def _compile_ending(before: str, after: str) -> re.Pattern[str]:
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


class _Analyser:
    """MeCab with a dictionary, used by one thread at a time, and its cache of compiled rules."""

    def __init__(self, dictionary: str | None = None) -> None:
        self.parse = _load_mecab(dictionary)
        # Rules by parts of speech before and after; bounded: UniDic has about 70 of them.
        self._endings: dict[tuple[str, str], re.Pattern[str]] = {}

    def bunsetsu(self, text: str) -> Iterator[int]:
        """Yield the start of each bunsetsu but the first."""
        endings = self._endings
        for (_, before), (start, after) in pairwise(self.morphemes(text)):
            pair = before, after
            if pair not in endings:
                endings[pair] = _compile_ending(*pair)
            if endings[pair].match(text, start):
                yield start

    def morphemes(self, text: str) -> Iterator[Node]:
        """Yield the morphemes of a text of any length, parsed in overlapping windows."""
        end = min(WINDOW_CHARS, len(text))
        nodes = self._parse(text, 0, end)
        while end < len(text):
            start = _next_start(text, end)
            stop = min(start + WINDOW_CHARS, len(text))
            following = self._parse(text, start, stop)
            seam = _seam(nodes, following, (start + end) // 2)
            yield from nodes[: bisect_left(nodes, (seam,))]
            nodes, end = following[bisect_left(following, (seam,)) :], stop
        yield from nodes

    def _parse(self, text: str, start: int, end: int) -> list[Node]:
        """Return the morphemes of the window ``text[start:end]``, with positions in the text."""
        fields = self.parse(_CONTROL.sub(" ", text[start:end])).split("\t")
        tags = fields[:-1:_FIELDS]
        del fields[::_FIELDS]  # leaves blanks and surfaces in turn; they tile the window
        starts = list(accumulate(map(len, fields), initial=start))[1::2]
        return list(zip(starts, tags, strict=True))


# fugashi never frees a tagger: its dictionary stays mapped, 250 MB of address space. So idle
# analysers are used again: of each dictionary as many as threads have ever split with it at once.
# Source: 20 taggers created and deleted, VmSize +5.0 GB, RssAnon +1 MB (fugashi 1.5.2).
_IDLE: deque[_Analyser] = deque()
_IDLE_OF_OTHERS: dict[str, deque[_Analyser]] = {}


@contextmanager
def _analyser(dictionary: str | None = None) -> Iterator[_Analyser]:
    """Provide an analyser that no other thread uses, from the idle ones or a new one."""
    idle = _IDLE if dictionary is None else _IDLE_OF_OTHERS.setdefault(dictionary, deque())
    try:
        analyser = idle.pop()
    except IndexError:
        analyser = _Analyser(dictionary)
    try:
        yield analyser
    finally:
        idle.append(analyser)


def _next_start(text: str, end: int) -> int:
    """Return the start of the window after one up to *end*: behind a sentence mark if possible."""
    latest = end - OVERLAP_CHARS
    marks = [match.end() for match in _STRONG_MARK.finditer(text, latest - OVERLAP_CHARS, latest)]
    return marks[-1] if marks else latest


def _seam(nodes: list[Node], following: list[Node], middle: int) -> int:
    """Return the start nearest to *middle* of a morpheme that both windows have, or *middle*."""
    first = following[0][0] if following else middle
    shared = set(nodes[bisect_left(nodes, (first,)) :]).intersection(following)
    starts = (start for start, _ in shared)
    return min(starts, key=lambda start: (abs(start - middle), start), default=middle)


def _load_mecab(dictionary: str | None) -> Callable[[str], str]:
    """Return MeCab's parse function, with unidic-lite even if other dictionaries are installed.

    Never call the tagger itself: ``tagger(text)`` caches every surface for ever, while
    ``tagger.parse(text)`` keeps only the lattice of its longest window. ConfigError if it fails.
    """
    try:
        import fugashi
        import unidic_lite
    except ImportError as err:
        raise refused(None) from err
    options = dictionary_options(dictionary, Path(unidic_lite.DICDIR))
    try:
        tagger = fugashi.GenericTagger(f"{options} -O '' -F '{_NODE}' -U '{_NODE}' -E .")
    except RuntimeError as err:
        raise refused(dictionary) from err
    parse: Callable[[str], str] = tagger.parse
    if not parse("。").startswith("補助記号,句点"):
        raise refused(dictionary)
    return parse


@dataclass(frozen=True, slots=True, repr=False)
class MorphemeSplitter:
    """Cut text between bunsetsu (文節) or morphemes.

    No cut is made inside brackets, addresses, numbers and grapheme clusters. Blanks and control
    characters belong to the span before them. Texts of up to :data:`WINDOW_CHARS` characters are
    parsed at once, longer ones in windows. It can be used from any thread, and keeps no text.

    >>> text = "今日は良い天気なので図書館で本を読んでいる"
    >>> [text[start:end] for start, end in MorphemeSplitter().split(text)]
    ['今日は', '良い', '天気なので', '図書館で', '本を', '読んでいる']

    Args:
        unit: ``"bunsetsu"`` (a word with the particles after it) or ``"morpheme"``.
        depth: How many levels of brackets may be cut inside; ``None`` for any.
        dictionary: ``None`` for the package unidic-lite, which is always there; ``"unidic"`` for
            the larger package of that name; or a path to the folder of another UniDic, or to a
            user dictionary (``.dic``) that is added to unidic-lite.
        line_breaks: ``False`` for text with hard line wraps, which may stand inside words.
        names: Words that are kept whole.

    Raises:
        ConfigError: If *unit* is neither of these, *depth* is negative, *dictionary* is no str or
            path, or *names* is not a tuple of strings that are not blank.
    """

    unit: Unit = "bunsetsu"
    depth: int | None = field(default=0, kw_only=True)
    dictionary: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    line_breaks: bool = field(default=True, kw_only=True)
    names: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            msg = f"unit={shown(self.unit)} is not known. Use one of {', '.join(get_args(Unit))}."
            raise ConfigError(msg)
        if self.depth is not None and self.depth < 0:
            msg = f"depth={shown(self.depth)} is negative. Use 0 or more, or None for any depth."
            raise ConfigError(msg)
        if self.dictionary is not None:
            object.__setattr__(self, "dictionary", checked_dictionary(self.dictionary))
        object.__setattr__(self, "names", checked_words("names", self.names))

    def __repr__(self) -> str:
        """Return the call that makes this splitter; of the later arguments only what is given."""
        later = {"dictionary": None, "line_breaks": True, "names": ()}
        others = "".join(
            f", {name}={getattr(self, name)!r}"
            for name, default in later.items()
            if getattr(self, name) != default
        )
        return f"MorphemeSplitter(unit={self.unit!r}, depth={self.depth!r}{others})"

    def split(self, text: str) -> list[Span]:
        """Cut *text* into bunsetsu or morphemes.

        Invariant: ``"".join(text[s:e] for s, e in split(text)) == text``; time and memory grow
        linearly with the text.

        Args:
            text: Any string without lone surrogates.

        Returns:
            The spans in order, none empty; no spans for the empty string.

        Raises:
            ConfigError: If MeCab or its dictionary cannot be loaded.
        """
        word = _WORD.search(text)
        first = word.start() if word else len(text)
        patterns = (READING,) if self.line_breaks else (READING, WRAP)
        bare, place_of = without(text, *patterns)
        with _analyser(None if self.dictionary is None else str(self.dictionary)) as analyser:
            starts = (
                analyser.bunsetsu(bare)
                if self.unit == "bunsetsu"
                else (start for start, _ in analyser.morphemes(bare))
            )
            places = map(place_of, starts)
            cuts = [at for at in places if at > first and text[at] not in _BLANKS]
        if self.names:
            names = re.compile("|".join(map(re.escape, self.names)))
            cuts = outside(cuts, [match.span() for match in names.finditer(text)])
        return spans_between(keep_whole(text, cuts, depth=self.depth, atoms=True), len(text))
