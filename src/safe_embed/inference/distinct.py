"""Repetitions in a sequence: what comes again is computed once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from hashlib import blake2b
from typing import NamedTuple

from safe_embed.types import Encoding

# Of a digest: two of 2^32 encodings are taken for the same with a probability of 2^-65.
_DIGEST_BYTES = 16


class Distinct(NamedTuple):
    """The distinct values of a sequence.

    Attributes:
        firsts: The index at which each distinct value comes first, ascending.
        places: For each item of the sequence, which of the distinct values it is.
    """

    firsts: list[int]
    places: list[int]


def distinct(values: Iterable[Hashable]) -> Distinct:
    """Find the distinct values of a sequence.

    >>> distinct("雨雪雨")
    Distinct(firsts=[0, 1], places=[0, 1, 0])

    Args:
        values: Equal values are the same.

    Returns:
        Their indices.
    """
    numbers: dict[Hashable, int] = {}
    firsts: list[int] = []
    places: list[int] = []
    for index, value in enumerate(values):
        number = numbers.setdefault(value, len(firsts))
        if number == len(firsts):
            firsts.append(index)
        places.append(number)
    return Distinct(firsts, places)


def digest(encoding: Encoding) -> bytes:
    """Give a short value that is the same for two encodings if the model reads the same.

    Args:
        encoding: Of a chunk.

    Returns:
        16 bytes, or 32 with segment ids; an encoding itself takes 4 a token, and 8 with them.
    """
    rows = (encoding.ids, encoding.type_ids)
    return b"".join(
        blake2b(row.data, digest_size=_DIGEST_BYTES).digest() for row in rows if row is not None
    )
