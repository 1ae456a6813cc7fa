"""What shows that a sentence goes on behind a mark or a closing bracket: regular expressions."""

from __future__ import annotations

from safe_embed.text.marks import DIGIT, KANJI, KATAKANA, LATIN

_WORD = f"[{KANJI}{KATAKANA}{LATIN}{DIGIT}「『“]"

# Directly behind a mark, a particle shows that the mark is part of a name or of a quotation. Words
# that begin like a particle begin sentences, so what follows decides: before kanji, katakana and
# Latin a particle stands alone; in hiragana only before the words listed here.
# Source: of 10,924 sentences of real text 0.07 % begin with such a particle.
PARTICLE = "|".join(
    (
        # 君の名は。を観た -> 君の名は。を観た; いと。をかし -> いと。|をかし
        "を(?!ば|とこ|とめ|んな|かし)",
        # Wii U!が当たる -> Wii U!が当たる; 行く。がんばる -> 行く。|がんばる
        # 行く。が、 -> 行く。|が、
        f"が(?={_WORD}|ある|あっ|あり|ない|なく|なか|いる|いな|いい|いた|すご|すき|でき|ほし|とて)",
        # いいのに。の新曲 -> いいのに。の新曲; 行く。のんびり -> 行く。|のんびり
        f"の(?={_WORD}|は(?!ら)|が(?![さしすれ])|を|よう|こと|ほう|ため|とき|はず|なか|ほか|あと)",
        # けいおん!は名作だ -> けいおん!は名作だ; 見た。はい -> 見た。|はい
        # 見た。は虫類 -> 見た。|は虫類
        f"は(?!虫|種|握)(?={_WORD}|とて|すご|すば|ない|もう|まだ|この|その|どう|もち|やは|かわ|、)",
        # 君の名は。に感動 -> 君の名は。に感動; 笑う。にこにこ -> 笑う。|にこにこ
        f"に(?={_WORD}|つい|よる|よっ|より|おけ|おい|なる|なっ|ある|あり|する|はま|は(?!とり))",
        # 君の名は。へ行く -> 君の名は。へ行く; 見た。へえ -> 見た。|へえ
        f"へ(?={_WORD}|の(?!こ))",
        # 君の名は。も観た -> 君の名は。も観た; 言った。もう -> 言った。|もう
        f"も(?!少|一)(?={_WORD}|すご|とて|ある|いい|よい|よく)",
        # 君の名は。で泣く -> 君の名は。で泣く; 見た。で結局 -> 見た。|で結局
        # 見た。でも -> 見た。|でも
        f"で(?!結局|今|次|何|実|昨|最|明|私|僕|俺|彼|誰|急|突)(?={_WORD}|お[なす])|で(?:す|した)[。！]",
        # 君の名は。や天気の子 -> 君の名は。や天気の子; 見た。やはり -> 見た。|やはり
        f"や(?!否|れ)(?={_WORD})",
        # 行くな。と叫ぶ -> 行くな。と叫ぶ; 見た。と同時に -> 見た。|と同時に
        "と(?:[思叫呟聞書答述語感笑怒考問記告呼]|言(?!えば|って[もい]|うわけ|うの|うこ))",
        # 行くな。って言う -> 行くな。って言う; 見た。っていうか -> 見た。|っていうか
        "って(?!か|いうか|ゆ|こと|わけ|な[わこん]|いうこと)",
        # だよん。さんの配信 -> だよん。さんの配信; だよん。さんま -> だよん。|さんま
        "(?:さん|くん|様|氏)(?=[のがはをにもとへ、])|ちゃん(?=[のがはをにも、])",
        # 君の名は。等の -> 君の名は。等の
        "等(?=[のがはをに、])",
    )
)
# Behind ！ and ？ a quotation without brackets is usual.
# どこ？と聞く -> どこ？と聞く; えっ！と少し -> えっ！と少し; え！とうとう -> え！|とうとう
QUOTED = (
    f"と(?:[いの、]|か(?!く)|(?!同時|共|或|言えば){_WORD})"
    f"|って[いう言思]|の[かはがでに]|など|{PARTICLE}"
)
# What PARTICLE can begin with, and what a trailing face can.
PARTICLE_FIRST = "をがのはにへもでやとっさくち様氏等ヽヾヘ"

# Behind a closing bracket: 「行く。」と言った -> 「行く。」と言った
# 「行く。」程度の -> 「行く。」程度の
GOES_ON = (
    "(?:[とのがをにへでやか、，､．・…‥―—ー]|も(?!う|し|ち|っと)|は(?!い)|って|など|より|だ[がっ。]"
    "|です|である|から|まで|だけ|ばかり|[くぐ]らい|しか(?!し)|こそ|さえ|なる(?!ほど)|なん[てか]|じゃ"
    "|らしい|みたい|っぽ|等|以[外上下]|程度|式|風|的|系|ﾄ|ﾉ|ｶﾞ|ｦ|ﾊ|ﾆ|ﾍ|ﾓ|ﾃﾞ|ﾔ|ｶ|ｯﾃ)"
)
