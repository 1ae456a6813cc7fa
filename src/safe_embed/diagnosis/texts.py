"""The texts of experiments: new ones without end, of given lengths."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from safe_embed.diagnosis.experiments import Inputs
from safe_embed.packaged_manual import manual_folder

SHORTEST_CHARS = 20
# About 260 tokens: a short call, and 380 distinct lengths.
LONGEST_CHARS = 400
_KATAKANA = "アイウエオカキクケコサシスセソタチツテトナニヌネノハヒフヘホマミムメモラリルレロワン"
# New words come up in real texts without end: names, products, mistakes.
_CHARS_PER_NEW_WORD = 60


class TextMaker:
    """Makes texts that differ, by cutting them from a pool of text.

    Args:
        texts: The user's texts; empty for the packaged manual, with made-up words in it.
        seed: Of the random choices.
    """

    def __init__(self, texts: Sequence[str] = (), seed: int = 0) -> None:
        self._random = random.Random(seed)  # noqa: S311 for data, not for secrets
        self._makes_words = not texts
        pool = " ".join("".join(texts or _manual()).split())
        self._pool = pool * (1 + 2 * LONGEST_CHARS // max(1, len(pool)))
        lengths = sorted(map(len, texts)) or [SHORTEST_CHARS, LONGEST_CHARS]
        self.shortest, self.longest = max(1, lengths[0]), max(2, min(lengths[-1], len(self._pool)))
        self.median = lengths[len(lengths) // 2] if texts else (SHORTEST_CHARS + LONGEST_CHARS) // 4

    def make(self, chars: int) -> str:
        """Make a text.

        Args:
            chars: Its length in characters.

        Returns:
            A text that has not been made before, with a probability that is near 1.
        """
        start = self._random.randrange(max(1, len(self._pool) - chars))
        text = self._pool[start : start + chars]
        if not self._makes_words:
            return text
        for at in range(0, chars - 8, _CHARS_PER_NEW_WORD):
            text = text[:at] + "".join(self._random.choices(_KATAKANA, k=6)) + text[at + 6 :]
        return text

    def lengths(self, number: int) -> list[int]:
        """Spread lengths evenly, in random order.

        Args:
            number: How many.

        Returns:
            Lengths in characters; all distinct if there are so many.
        """
        width = self.longest - self.shortest
        lengths = [self.shortest + at * width // max(1, number - 1) for at in range(number)]
        self._random.shuffle(lengths)
        return lengths

    def stream(self, inputs: Inputs, lengths: Sequence[int]) -> Iterator[str]:
        """Make the texts of an experiment, without end.

        Args:
            inputs: What kind of texts.
            lengths: For ``"each length twice"``: the lengths, again and again.

        Yields:
            The next text.
        """
        make: dict[Inputs, Callable[[int], int]] = {
            "same": lambda _: self.median,
            "one length": lambda _: self.median,
            "short and long": lambda at: (self.shortest, self.longest)[at % 2],
            "each length twice": lambda at: lengths[at % len(lengths)],
        }
        same = self.make(self.median)
        for at in count():
            yield same if inputs == "same" else self.make(make[inputs](at))


def _manual() -> list[str]:
    pages = sorted(manual_folder().glob("*.md"))
    return [page.read_text(encoding="utf-8") for page in pages] or [
        "吾輩は猫である。名前はまだ無い。"
    ]
