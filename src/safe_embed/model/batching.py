"""Chunks into batches under a token budget."""

from __future__ import annotations

from collections.abc import Sequence


def batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group chunks so that every batch, padded to its longest, has at most *max_tokens*.

    The longest come first: what does not fit in memory fails at once, not after an hour. A chunk
    that alone is larger than the budget runs alone.

    Args:
        lengths: Tokens of each chunk.
        max_tokens: Tokens of a padded batch.

    Returns:
        Indices into *lengths*, each in exactly one batch; within a batch by falling length.
    """
    found: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if found and (len(found[-1]) + 1) * longest <= max_tokens:
            found[-1].append(index)
        else:
            found.append([index])
            longest = lengths[index]
    return found
