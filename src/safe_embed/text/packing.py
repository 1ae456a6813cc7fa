"""Pack consecutive pieces into the fewest groups of limited size, as evenly as possible."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate


def pack(sizes: Sequence[int], capacity: int) -> list[int]:
    """Divide consecutive pieces into the fewest groups of at most *capacity*, evenly.

    Invariants: the number of groups is the smallest possible; of all divisions into that number,
    the largest group is as small as possible.

    Args:
        sizes: Size of each piece, in order (tokens, in chunking); none above *capacity*.
        capacity: Largest sum of sizes in a group.

    Returns:
        The end of each group, as an index into *sizes*: the last is ``len(sizes)``.
    """
    if not sizes:
        return []
    sums = [0, *accumulate(sizes)]
    groups = _count(sums, capacity)
    high = max(*sizes, -(-sums[-1] // groups))
    too_low = high - 1
    # The capacity needed is usually just above an equal share, so the search starts there.
    step = 1
    while high < capacity and _count(sums, high) > groups:
        too_low, high, step = high, high + step, 2 * step
    high = min(high, capacity)
    while high - too_low > 1:
        middle = (too_low + high) // 2
        if _count(sums, middle) <= groups:
            high = middle
        else:
            too_low = middle
    return _balanced(sums, high, groups)


def _count(sums: Sequence[int], capacity: int) -> int:
    """Count the groups that greedy filling needs; *sums* are the running totals, from 0."""
    groups = start = 0
    last = len(sums) - 1
    while start < last:
        start = max(start + 1, bisect_right(sums, sums[start] + capacity, start + 1) - 1)
        groups += 1
    return groups


def _balanced(sums: Sequence[int], capacity: int, groups: int) -> list[int]:
    """Return the end of each group, each as near to an equal share as *capacity* allows."""
    last = len(sums) - 1
    # earliest[k]: first start from which k groups can hold all remaining pieces
    earliest = [last]
    for _ in range(groups):
        earliest.append(bisect_left(sums, sums[earliest[-1]] - capacity, 0, earliest[-1] + 1))
    ends: list[int] = []
    start = 0
    for left in range(groups, 1, -1):
        target = sums[start] + (sums[last] - sums[start]) / left
        end = bisect_right(sums, target, start + 1) - 1
        if end < last and sums[end + 1] - target < target - sums[end]:
            end += 1
        fullest = bisect_right(sums, sums[start] + capacity, start + 1) - 1
        start = min(max(end, earliest[left - 1], start + 1), fullest, last - left + 1)
        ends.append(start)
    return [*ends, last]
