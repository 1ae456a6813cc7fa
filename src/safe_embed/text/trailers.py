"""What trails the mark at the end of a sentence and belongs to it: regular expressions."""

from __future__ import annotations

import re

from safe_embed.text.brackets import ALL_CLOSERS, ALL_OPENERS
from safe_embed.text.marks import (
    BLANK,
    DIGIT,
    ELLIPSIS,
    EMOJI,
    END_MARK,
    LATIN,
    LINE_BREAK,
    NUMERAL,
)

_BRACKETS = re.escape(ALL_OPENERS + ALL_CLOSERS)
_LINE_END = f"(?=[{BLANK}]*+(?:[{LINE_BREAK}]|\\Z))"

# Faces: a bracket with eyes, mouths and cheeks but no words, perhaps between arms.
# (≧▽≦)ノ -> face; m(__)m -> face; (´・ω・｀) -> face; (注) -> no face; (a_b) -> no face
_EYES = "\\^＾≧≦´｀`∀∇▽△ωДд_＿￣∩⌒◕ﾟ°゜;；><＞＜TＴoOQ・･*＊ˊˋ·•꒳"
_FACE_PART = (
    f"[^\\w{_BRACKETS}{LINE_BREAK}。]|[_＿TＴoOｏＯQxXvVuUwWnзεωσДдшヮロノﾉヘへつ口皿艸人ー゜ﾟ๑]"
)
FACE = (
    f"(?:[mｍヽヾ＼\\\\oｏOdσ┐٩ψ∩ლヘ]?[（(](?=[^（）()]{{0,10}}[{_EYES}])(?:{_FACE_PART}){{2,14}}[)）]"
    f"(?:[mｍvVbdoｏ](?![{LATIN}])|[ノﾉシｼつ](?![ァ-ヶー])|[／/ゞ彡۶┘ψ∩⊃*;；ﾞ])*+"
    "|[\\^＾][-_oOωﾟ.]?[\\^＾][;；vV]*+|[T＞>;][_][T＜<;]|[oO][rR][zZ])"
)
# A remark in brackets without a sentence of its own, and no number of an item.
# 終わる。（拍手）次 -> 終わる。（拍手）|次; 雨だ。（傘はない。） -> 雨だ。|（傘はない。）
# 次の通り。(1)名前 -> 次の通り。|(1)名前; 見た。（株）山田 -> 見た。|（株）山田
_REMARK = (
    "[（(〔](?:笑|爆笑|苦笑|爆|汗|泣|涙|怒|謎|嘘|[^\\S\\w]*+"
    f"(?![{NUMERAL}ivxIVXア-ン]{{1,4}}[）)〕])"
    f"(?:[^{_BRACKETS}{END_MARK}{LINE_BREAK}]|「[^{_BRACKETS}{END_MARK}{LINE_BREAK}]{{1,30}}」){{2,40}}"
    "(?<![はがをにもで])(?<![^（(〔]{5}[たるすだいうくつぬむぶ]))[）)〕]"
    "(?![のがはをにへもでやとな])"
)
# 雨だ。[2]次 -> 雨だ。[2]|次; 笑った。［＃「笑」に傍点］次 -> 笑った。［＃「笑」に傍点］|次
_CITATION = (
    f"[\\[［](?:[{DIGIT}][{DIGIT},，、\\-–~〜 ]{{0,20}}|＃[^［］\\[\\]{LINE_BREAK}]{{0,200}}"
    f"|(?:要出典|注|脚注|note)[^［］\\[\\]{LINE_BREAK}]{{0,20}})[\\]］]|[¹²³⁰-⁹]"
)
# 雨だ。</p> -> 雨だ。</p>; 雨だ。<br>次 -> 雨だ。<br>|次
_BREAK_TAG = "<[bB][rR][ ]?/?>"
_TAG = f"</[A-Za-z][A-Za-z0-9]{{0,15}}>|{_BREAK_TAG}"

# 楽しい。😊次 -> 楽しい。😊|次; 楽しい！♪次 -> 楽しい！♪|次; 楽しい！ｗｗ次 -> 楽しい！ｗｗ|次
TRAILER = (
    f"(?:{EMOJI}++(?![{END_MARK}{ELLIPSIS}])|[♪♫♬♩♡♥]|[☆★]++(?=[{BLANK}{LINE_BREAK}{_BRACKETS}]|\\Z)|[wｗ]++(?![{LATIN}!-~])"
    f"|{FACE}|{_REMARK}|{_CITATION}|{_TAG}|[{BLANK}]{{1,2}}(?:{EMOJI}|{FACE})++(?=[{BLANK}{LINE_BREAK}]|\\Z))"
)
# The last bar of a row: | 甲 | 乙。 | -> | 甲 | 乙。 |
BAR = f"(?:[{BLANK}]*+[|｜]{_LINE_END})?+"
