"""Classes of characters: brackets, blanks, ends of sentences, emoji.

Each is a string for a set of a regular expression (``[...]``). They follow properties of Unicode;
a test compares them with the Unicode database.
"""

from __future__ import annotations

# Pairs of brackets: categories Ps with Pe and Pi with Pf, so < and > are none, and ≪≫ ＜＞, which
# Japanese uses as brackets. The partner has the same index. The pairs of most texts come first.
# Quotation marks that people write on both sides are left out, see brackets.directed.
OPENERS = (
    "「『（(【〔［[〈《｢〝{｛≪＜"
    "«‹⁅⁽₍⌈⌊\u2329❨❪❬❮❰❲❴⟅⟦⟨⟪⟬⟮⦃⦅⦇⦉⦋⦍⦏⦑⦓⦕⦗⧘⧚⧼⸂⸄⸉⸌⸜⸠⸢⸤⸦⸨⹕⹗⹙⹛"
    "〖〘〚༺༼᚛︗︵︷︹︻︽︿﹁﹃﹇﹙﹛﹝｟﴿"
)
CLOSERS = (
    "」』）)】〕］]〉》｣〟}｝≫＞"
    "»›⁆⁾₎⌉⌋\u232a❩❫❭❯❱❳❵⟆⟧⟩⟫⟭⟯⦄⦆⦈⦊⦌⦎⦐⦒⦔⦖⦘⧙⧛⧽⸃⸅⸊⸍⸝⸡⸣⸥⸧⸩⹖⹘⹚⹜"
    "〗〙〛༻༽᚜︘︶︸︺︼︾﹀﹂﹄﹈﹚﹜﹞｠﴾"
)
# Other marks that close a bracket: 〝あ〞 and 〝あ〟 are both written.
OTHER_CLOSERS = {"〞": "〝", "”": "“"}

LINE_BREAK = "\n\r\v\f\x85\u2028\u2029"
# Category Zs, the tab, and what has no width but is no part of a character: ZERO WIDTH SPACE, WORD
# JOINER, the byte order mark, and U+180E, a blank until Unicode 6.3.
BLANK = (
    " \t\u3000\u00a0\u1680\u180e\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u200b\u202f\u205f\u2060\ufeff"
)
DIGIT = "0-9０-９"
NUMERAL = f"{DIGIT}〇一二三四五六七八九十百千万億兆数"
# Marks of Japanese, vertical forms and emoji, and the question mark of Arabic.
FULL_STOP = "。｡︒"
EXCLAMATION = "！？‼⁇⁈⁉︕︖❗❓❕❔؟"
END_MARK = f"{FULL_STOP}{EXCLAMATION}!?"
ELLIPSIS = "…‥"

KANJI = "々〆〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KATAKANA = "ァ-ヺｦ-ｯｱ-ﾝ"
LATIN = "A-Za-zＡ-Ｚａ-ｚ"

# Emoji_Presentation without the end marks above, and all later pictographs.
_EMOJI = (
    "\u231a\u231b\u23e9-\u23ec\u23f0\u23f3\u25fd\u25fe\u2614\u2615\u2648-\u2653\u267f\u2693\u26a1"
    "\u26aa\u26ab\u26bd\u26be\u26c4\u26c5\u26ce\u26d4\u26ea\u26f2\u26f3\u26f5\u26fa\u26fd\u2705"
    "\u270a\u270b\u2728\u274c\u274e\u2795-\u2797\u27b0\u27bf\u2b1b\u2b1c\u2b50\u2b55"
    "\U0001f004\U0001f0cf\U0001f18e\U0001f191-\U0001f19a\U0001f1e6-\U0001f1ff\U0001f201-\U0001f265"
    "\U0001f300-\U0001faff"
)
# Characters that become emoji by U+FE0F: ❤️ ☺️ ☀️
_MAY_BE_EMOJI = "©®\u2122\u2139\u2194-\u21aa\u2300-\u27bf\u2934-\u2b55\u3030\u303d\u3297\u3299"
# 👉 and arrows point at what follows.  雨。👉次 -> 雨。|👉次
EMOJI = (
    rf"(?:(?![\U0001f449\U0001f447\u2190-\u21ff\u25b6\u27a1])(?:[{_EMOJI}]|[{_MAY_BE_EMOJI}]\ufe0f)"
    rf"(?:[\ufe0f\u200d\u20e3{_EMOJI}\U000e0020-\U000e007f]|(?<=\u200d)[{_MAY_BE_EMOJI}])*+)"
)
