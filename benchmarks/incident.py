"""The way of the incident that this library answers, as far as it was told."""

from __future__ import annotations

import re

LONGEST_CHARS = 200
_PIECE = re.compile(r"[^。、]*[。、]+|[^。、]+")

# MB a call, on macOS with another model; the same file for those who compare.
TABLE = {"encode": 55.5, "store": 3.2, "both": 56.5, "alone": 0.10}


def pieces(text: str) -> list[str]:
    """Cut a text of more than 200 characters at every 。 and 、; their vectors were averaged.

    >>> pieces("短い。")
    ['短い。']
    >>> pieces("春、" * 100 + "夏")[-2:]
    ['春、', '夏']

    Args:
        text: The text.

    Returns:
        Pieces that make up the text.
    """
    return [text] if len(text) <= LONGEST_CHARS else _PIECE.findall(text)
