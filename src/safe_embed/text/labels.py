"""Numbers and letters that label an item, and numbers whose full stop ends nothing.

Each expression is matched directly after a full stop (``.`` or ``．``).
"""

from __future__ import annotations

from safe_embed.text.marks import BLANK, DIGIT, LINE_BREAK

_DOT = "[.．]"


def _unless(anchors: str, *labels: tuple[int, str]) -> str:
    """Return an expression that matches unless a label stands behind an anchor or at the start.

    *anchors* is a set of characters, *labels* are numbers of characters and expressions.
    """
    by_length: dict[int, list[str]] = {}
    for length, label in labels:
        by_length.setdefault(length, []).append(label)
    return "".join(
        f"(?<!{anchor}(?:{'|'.join(same)}){_DOT})"
        for same in by_length.values()
        for anchor in (f"[{anchors}]", "\\A")
    )


# Ⅰ．総則 -> Ⅰ．総則; ア．東京 -> ア．東京; a. りんご -> a. りんご; 一．目的 -> 一．目的; 甲．売主
# い．春 -> い．春; 十一．附則 -> 十一．附則; II. 方法 -> II. 方法; 第一章．序 -> 第一章．序
NO_LABEL = _unless(
    f"{LINE_BREAK}{BLANK}>＞",
    (1, "[a-zａ-ｚＡ-Ｚⅰ-ⅿⅠ-Ⅿア-ンｱ-ﾝ一二三四五六七八九十甲乙丙丁戊己①-⑳㋐-㋾]"),
    *((length, f"[ivxIVX]{{{length}}}") for length in (2, 3)),
) + _unless(
    LINE_BREAK,
    (1, "[ぁ-んA-Z]"),
    (4, "[ivxIVX]{4}"),
    *((length, f"[一二三四五六七八九十]{{{length}}}") for length in (2, 3)),
    *((n + 2, f"第[{DIGIT}一二三四五六七八九十]{{{n}}}[章節条項部編回]") for n in (1, 2, 3)),
)
# A decimal has a digit behind its point (打率.380), a numbering the start of a line before it
# (2.1. 装置, 問１．次の). A single digit, and two behind a blank, number an item inside a line.
# ３．１４ -> ３．１４; 2. 準備 -> 2. 準備
# was 2020. 彼は -> was 2020. |彼は; ０．５．次 -> ０．５．|次
NO_NUMBER = (
    _unless(
        LINE_BREAK,
        *((n, f"[{DIGIT}]{{{n}}}") for n in (1, 2, 3, 4)),
        *((n + 1, f"[問例図表式注付][{DIGIT}]{{{n}}}") for n in (1, 2, 3)),
        *((n + m + 1, f"[{DIGIT}]{{{n}}}{_DOT}[{DIGIT}]{{{m}}}") for n in (1, 2) for m in (1, 2)),
    )
    + f"(?<![{BLANK}>＞（(][{DIGIT}]{{2}}{_DOT})"
    + f"(?:(?<![^{DIGIT}.．=＝<＜>＞+＋/／A-Za-z][{DIGIT}]{_DOT})(?<!\\A[{DIGIT}]{_DOT})"
    + f"|(?<=[^{BLANK}{LINE_BREAK}][{DIGIT}]．)(?=[ぁ-ん]))"
)
