"""Pack pieces into the fewest bins, as evenly as their order allows."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate


def pack(sizes: Sequence[int], capacity: int) -> list[int]:
    """Part consecutive pieces into the fewest groups that hold at most *capacity*, evenly.

    Invariants: the number of groups is the smallest possible, and so is the largest group among
    all ways to part the pieces into that number.

    Args:
        sizes: Size of each piece, in order, none above *capacity*.
        capacity: What a group may hold.

    Returns:
        The end of each group, as an index into *sizes*; the last is ``len(sizes)``.
    """
    if not sizes:
        return []
    sums = [0, *accumulate(sizes)]
    groups = _count(sums, capacity)
    high = max(*sizes, -(-sums[-1] // groups))
    too_low = high - 1
    # What is needed is mostly little more than a fair share: it is looked for from there.
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
    """Count the groups if each is filled as far as it goes; *sums* are the running totals."""
    groups = at = 0
    last = len(sums) - 1
    while at < last:
        at = max(at + 1, bisect_right(sums, sums[at] + capacity, at + 1) - 1)
        groups += 1
    return groups


def _balanced(sums: Sequence[int], capacity: int, groups: int) -> list[int]:
    """End each group where the rest is shared out most evenly, within *capacity*."""
    last = len(sums) - 1
    # earliest[k]: where the rest may begin so that k groups still hold it
    earliest = [last]
    for _ in range(groups):
        earliest.append(bisect_left(sums, sums[earliest[-1]] - capacity, 0, earliest[-1] + 1))
    ends: list[int] = []
    at = 0
    for left in range(groups, 1, -1):
        target = sums[at] + (sums[last] - sums[at]) / left
        end = bisect_right(sums, target, at + 1) - 1
        if end < last and sums[end + 1] - target < target - sums[end]:
            end += 1
        fullest = bisect_right(sums, sums[at] + capacity, at + 1) - 1
        at = min(max(end, earliest[left - 1], at + 1), fullest, last - left + 1)
        ends.append(at)
    return [*ends, last]
