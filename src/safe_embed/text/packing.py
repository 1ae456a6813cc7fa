"""Pack consecutive pieces into the fewest groups of limited size, evenly, at strong boundaries."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]

# What a level of a boundary costs, beside the squared deviation of a group from an equal share.
# Source: docs/decisions/splitting.md.
_COST_PER_LEVEL = 0.05
# How many boundaries on each side of the even division are looked at.
_REACH = 32


def pack(sizes: Sequence[int], capacity: int, levels: Sequence[int] = ()) -> list[int]:
    """Divide consecutive pieces into the fewest groups of at most *capacity*, evenly.

    Invariants: the number of groups is the smallest possible; of all divisions into that number,
    the largest group is as small as possible, unless *levels* differ: then groups end at boundaries
    of low levels, and evenness is weighed against that.

    Args:
        sizes: Size of each piece, in order (tokens, in chunking); none above *capacity*.
        capacity: Largest sum of sizes in a group.
        levels: Level of the boundary behind each piece, 0 the best; none if all are alike.

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
    even = _balanced(sums, high, groups)
    if groups == 1 or len(set(levels[:-1])) < 2:  # noqa: PLR2004
        return even
    return _at_strong_boundaries(even, sums, capacity, levels)


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


def _at_strong_boundaries(
    even: Sequence[int], sums: Sequence[int], capacity: int, levels: Sequence[int]
) -> list[int]:
    """Move the ends of an even division to stronger boundaries near them; the last end stays.

    The cheapest of all ways through the boundaries near each end, which is found group by group:
    the even division is one of them, so there always is one.
    """
    totals = np.asarray(sums, np.float64)
    penalties = _COST_PER_LEVEL * np.asarray(levels, np.float64)
    last = len(sums) - 1
    share = totals[-1] / len(even)
    ends, costs = np.zeros(1, np.int64), np.zeros(1)
    steps: list[tuple[IntArray, IntArray]] = []
    for middle in even:
        starts = ends
        near = range(max(1, middle - _REACH), min(last - 1, middle + _REACH) + 1)
        ends = np.array([last] if middle == last else near)
        taken = totals[ends][:, None] - totals[starts]
        ways = ((taken - share) / share) ** 2 + costs
        ways[(taken > capacity) | (ends[:, None] <= starts)] = np.inf
        best = ways.argmin(axis=1)
        costs = ways[np.arange(len(ends)), best] + penalties[ends - 1]
        steps.append((starts, best))
    return _traced(steps, last)


def _traced(steps: Sequence[tuple[IntArray, IntArray]], last: int) -> list[int]:
    """Follow the cheapest way back from the last end; each step has its starts, and the best."""
    ends, place = [last], 0
    for starts, best in reversed(steps[1:]):
        place = int(best[place])
        ends.append(int(starts[place]))
    return ends[::-1]
