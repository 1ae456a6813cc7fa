"""Cut Japanese text between morphemes or bunsetsu, with MeCab and UniDic.

For text without punctuation, and for sentences that are too long. The only importer of fugashi.

MeCab is never handed more than a window: on longer input its time grows with the square of a run of
one character class, the sum of its costs overflows (a crash), and it loses what follows 64 KiB of
blanks. Windows overlap and are joined where two parses agree, so that a text is cut as if it had
been parsed in one piece.
"""

from __future__ import annotations

import re
import shlex
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
from safe_embed.text.graphemes import keep_whole, spans_between
from safe_embed.types import Span

Unit = Literal["bunsetsu", "morpheme"]

# Characters that MeCab parses at once, and that two neighbouring windows share.
# Source: 526,000 characters of 43 novels and articles without 。, 、 and line breaks, against one
# parse of each. Of 337,541 boundaries differ at 1,024/64: 0; 256/16: 0; 256/8: 3; 128/4: 72.
# test_windows_cut_as_one_parse repeats the first.
WINDOW_CHARS = 1024
OVERLAP_CHARS = 64

# MeCab ends at NUL, and takes other controls for words; we give it blanks instead.
# 今日は\0晴れ -> 今日は\0|晴れ
_CONTROLS = r"\x00-\x1f\x7f-\x9f"
_CONTROL = re.compile(f"[{_CONTROLS}]")
_WORD = re.compile(rf"[^\s{_CONTROLS}]")
_STRONG_MARK = re.compile(r"[。｡！？\n]")

# Part of speech, blanks in front, and surface of each morpheme, all ended by a tab.
_NODE = r"%F,[0,1,2]\t%pS\t%m\t"
_FIELDS = 3


# A morpheme: where it starts, and its part of speech in UniDic's words, 名詞,普通名詞,一般.
Node = tuple[int, str]


class Ends(NamedTuple):
    """A rule: a bunsetsu ends between two morphemes.

    *before* and *after* are regular expressions for their parts of speech, *where* is one for the
    text around the place, seen from there.
    """

    before: str
    after: str
    where: str = ""


class Joins(NamedTuple):
    """A rule: no bunsetsu ends there. Fields as for :class:`Ends`."""

    before: str
    after: str
    where: str = ""


_CONTENT = r"名詞|動詞|形容詞|副詞|連体詞|接続詞|感動詞|代名詞|形状詞|接頭辞|記号|補助記号,括弧開"
_NUMERAL = "0-9０-９〇一二三四五六七八九十百千万億兆"

# The first rule that fits decides.
RULES: tuple[Ends | Joins, ...] = (
    # 一、二冊 -> 一、二冊
    Joins(r"補助記号,読点", r"名詞,数詞", rf"(?<=[{_NUMERAL}][、，､])"),
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
    # 勉強する -> 勉強する; 近代化した -> 近代化した; 利用できる -> 利用できる
    Joins(r".*サ変", r"動詞,非自立可能", r"(?=[さしすせ]|でき|出来|いた|致|なさ|くださ|下さ)"),
    # 食べ始める -> 食べ始める
    Joins(r"動詞", r"動詞"),
    # 今日東京に行く -> 今日|東京に|行く
    Ends(r"名詞,普通名詞,副詞可能", r""),
    # 東京都知事が -> 東京都知事が; 2024年4月に -> 2024年4月に; 経済的利益 -> 経済的利益
    Joins(r"名詞|記号|接尾辞,(?:名詞|形状詞)的|形状詞", r"名詞|記号|接頭辞|形状詞"),
    # ジョン・スミスが -> ジョン・スミスが
    Joins(r"補助記号,一般|記号", r"名詞|記号", r"(?<=[・･＝=～〜/／-])"),
    # 美しい花が -> 美しい|花が; とても元気だ -> とても|元気だ
    Ends(r"", r""),
)


def _ending(before: str, after: str) -> re.Pattern[str]:
    """Join what the rules say about two parts of speech into one pattern.

    It matches at the places between such morphemes where a bunsetsu ends.
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
    """MeCab with unidic-lite, for one text at a time, and what it keeps between texts."""

    def __init__(self) -> None:
        self.parse = _load_mecab()
        # What the rules say; bounded, since UniDic has some 70 parts of speech.
        self._endings: dict[tuple[str, str], re.Pattern[str]] = {}

    def bunsetsu(self, text: str) -> Iterator[int]:
        """Find where bunsetsu start behind the first."""
        known = self._endings
        for (_, before), (start, after) in pairwise(self.morphemes(text)):
            pair = before, after
            if pair not in known:
                known[pair] = _ending(*pair)
            if known[pair].match(text, start):
                yield start

    def morphemes(self, text: str) -> Iterator[Node]:
        """Parse a text of any length in windows, and join them where they agree."""
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
        """Parse one window; its nodes carry positions in the whole text."""
        fields = self.parse(_CONTROL.sub(" ", text[start:end])).split("\t")
        tags = fields[:-1:_FIELDS]
        del fields[::_FIELDS]  # what stays are blanks and surfaces in turn, which tile the window
        starts = list(accumulate(map(len, fields), initial=start))[1::2]
        return list(zip(starts, tags, strict=True))


# fugashi never frees a tagger: each one that is dropped leaves its dictionary mapped, 250 MB of
# address space. So idle ones are used again, as many as there were threads that split at once.
# Source: 20 taggers made and dropped, VmSize +5.0 GB, RssAnon +1 MB (fugashi 1.5.2).
_IDLE: deque[_Analyser] = deque()


@contextmanager
def _analyser() -> Iterator[_Analyser]:
    """Lend an analyser that nobody else uses meanwhile."""
    try:
        analyser = _IDLE.pop()
    except IndexError:
        analyser = _Analyser()
    try:
        yield analyser
    finally:
        _IDLE.append(analyser)


def _next_start(text: str, end: int) -> int:
    """Choose where the window after the one up to *end* starts: behind a strong mark if it can."""
    latest = end - OVERLAP_CHARS
    marks = [match.end() for match in _STRONG_MARK.finditer(text, latest - OVERLAP_CHARS, latest)]
    return marks[-1] if marks else latest


def _seam(nodes: list[Node], following: list[Node], middle: int) -> int:
    """Find where to change windows: at a node of both, far from the edges that spoil a parse."""
    first = following[0][0] if following else middle
    shared = set(nodes[bisect_left(nodes, (first,)) :]).intersection(following)
    return min((at for at, _ in shared), key=lambda at: (abs(at - middle), at), default=middle)


def _load_mecab() -> Callable[[str], str]:
    """Load MeCab with unidic-lite, whatever other dictionary may be installed.

    NB: never call the tagger itself: ``tagger(text)`` keeps every surface it ever saw;
    ``tagger.parse(text)`` keeps nothing but the lattice of its longest window.
    """
    try:
        import fugashi
        import unidic_lite

        folder = Path(unidic_lite.DICDIR)
        paths = f"-r {shlex.quote(str(folder / 'mecabrc'))} -d {shlex.quote(str(folder))}"
        tagger = fugashi.GenericTagger(f"{paths} -O '' -F '{_NODE}' -U '{_NODE}' -E .")
    except (ImportError, RuntimeError) as err:
        raise ConfigError(
            "MorphemeSplitter needs fugashi and the dictionary unidic-lite, and cannot load them. "
            "Install them with: pip install --force-reinstall fugashi unidic-lite\n"
            "fugashi または辞書 unidic-lite を読み込めません。次を実行してください: "
            "pip install --force-reinstall fugashi unidic-lite"
        ) from err
    parse: Callable[[str], str] = tagger.parse
    return parse


@dataclass(frozen=True, slots=True)
class MorphemeSplitter:
    """Cut text between bunsetsu (文節) or morphemes, and keep whole what belongs together.

    Brackets with all they hold, addresses, numbers and grapheme clusters are not cut. Blanks and
    control characters stay with what stands before them.

    A text of up to :data:`WINDOW_CHARS` is parsed in one piece. No two threads use one MeCab at a
    time, and none keeps anything of the texts it has read.

    >>> text = "今日は良い天気なので図書館で本を読んでいる"
    >>> [text[start:end] for start, end in MorphemeSplitter().split(text)]
    ['今日は', '良い', '天気なので', '図書館で', '本を', '読んでいる']

    Args:
        unit: What is cut off: a bunsetsu (a word with the particles behind it), or a morpheme.
        depth: How many levels of brackets may be opened for a cut; ``None`` for any.

    Raises:
        ConfigError: If *unit* is no unit, or *depth* is negative.
    """

    unit: Unit = "bunsetsu"
    depth: int | None = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            msg = f"unit={shown(self.unit)} is not known. Use one of {', '.join(get_args(Unit))}."
            raise ConfigError(msg)
        if self.depth is not None and self.depth < 0:
            msg = (
                f"depth={shown(self.depth)} is negative. Use 0, a positive number, or None for any."
            )
            raise ConfigError(msg)

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
        with _analyser() as analyser:
            starts = (
                analyser.bunsetsu(text)
                if self.unit == "bunsetsu"
                else (start for start, _ in analyser.morphemes(text))
            )
            cuts = [at for at in starts if at > first and not text[at].isspace()]
        return spans_between(keep_whole(text, cuts, depth=self.depth, atoms=True), len(text))
