"""Read a text without some of its parts, and find the positions of the whole again."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate

from safe_embed.text.graphemes import RUBY
from safe_embed.text.marks import BLANK, KANJI

# What is no part of the words around it: the reading of a word, and a line wrap.
# 吾輩《わがはい》は猫 -> 吾輩《わがはい》は|猫; いただきまし\nた。 -> いただきまし\nた。
READING = re.compile(f"(?<=[{KANJI}]){RUBY}")
WRAP = re.compile(rf"(?<=[^\x00-\x7f])[{BLANK}]*+(?:\r\n|\n)[{BLANK}>＞]*+(?=[^\x00-\x7f])")


def without(text: str, *patterns: re.Pattern[str]) -> tuple[str, Callable[[int], int]]:
    """Remove the matches of each pattern.

    Args:
        text: Any string.
        *patterns: Expressions whose matches do not overlap, nor those of each other.

    Returns:
        What is left, and a function from a position in it to the position in *text* of the
        character that follows.
    """
    spans = sorted(match.span() for pattern in patterns for match in pattern.finditer(text))
    if not spans:
        return text, int
    bounds = [0, *(bound for span in spans for bound in span), len(text)]
    parts = [text[start:end] for start, end in zip(bounds[::2], bounds[1::2], strict=True)]
    places = list(accumulate(map(len, parts[:-1])))
    removed = [0, *accumulate(end - start for start, end in spans)]
    return "".join(parts), lambda position: position + removed[bisect_right(places, position)]
