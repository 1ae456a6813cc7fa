"""Packing: the fewest groups, and among those the most even, at strong boundaries."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from safe_embed.text.packing import pack


def groups(sizes: list[int], ends: list[int]) -> list[int]:
    """The size of each group."""
    return [sum(sizes[start:end]) for start, end in pairwise([0, *ends])]


def best(sizes: list[int], capacity: int) -> tuple[int, int]:
    """The slow reference: fewest groups, and the smallest largest group among those."""
    last = len(sizes)
    for count in range(1, last + 1):
        largest = [
            max(groups(sizes, [*cuts, last])) for cuts in combinations(range(1, last), count - 1)
        ]
        if min(largest) <= capacity:
            return count, min(largest)
    raise AssertionError


problems = st.integers(1, 12).flatmap(
    lambda capacity: st.tuples(
        st.lists(st.integers(0, capacity), min_size=1, max_size=9), st.just(capacity)
    )
)


@given(problems)
@example(([0], 1))
@example(([0, 0, 0], 1))
@example(([5, 0, 0, 5], 5))
@example(([1] * 9, 4))
def test_groups_are_few_and_even(problem: tuple[list[int], int]) -> None:
    """Number and largest size of the groups are the best of all ways to part the pieces."""
    sizes, capacity = problem
    ends = pack(sizes, capacity)
    assert len(sizes) == ends[-1]
    assert all(before < after for before, after in pairwise([0, *ends]))
    found = groups(sizes, ends)
    assert best(sizes, capacity) == (len(found), max(found))


@given(st.integers(1, 500), st.integers(1, 60))
def test_equal_pieces_are_shared_out_evenly(count: int, capacity: int) -> None:
    """Groups of pieces of one token differ by at most one."""
    found = groups([1] * count, pack([1] * count, capacity))
    assert -(-count // capacity) == len(found)
    assert max(found) - min(found) <= 1


@given(st.lists(st.integers(0, 40), min_size=1, max_size=400), st.integers(40, 200))
def test_many_pieces(sizes: list[int], capacity: int) -> None:
    """In longer lists too, groups hold the capacity, and filling each greedily gives no fewer."""
    found = groups(sizes, pack(sizes, capacity))
    assert max(found) <= capacity
    greedy = filled = 0
    for size in sizes:
        if greedy and filled + size <= capacity:
            filled += size
        else:
            greedy, filled = greedy + 1, size
    assert greedy == len(found)


@given(problems, st.data())
def test_levels_cost_no_group(problem: tuple[list[int], int], data: st.DataObject) -> None:
    """With levels of boundaries, groups are as few, and hold the capacity."""
    sizes, capacity = problem
    levels = data.draw(st.lists(st.integers(0, 4), min_size=len(sizes), max_size=len(sizes)))
    ends = pack(sizes, capacity, levels)
    assert len(sizes) == ends[-1]
    assert all(before < after for before, after in pairwise([0, *ends]))
    found = groups(sizes, ends)
    assert best(sizes, capacity)[0] == len(found)
    assert max(found) <= capacity


def cost(sizes: list[int], ends: list[int], levels: list[int]) -> float:
    """Squared deviations from an equal share, and 0.05 for each level of an end."""
    share = sum(sizes) / len(ends)
    deviations = sum(((size - share) / share) ** 2 for size in groups(sizes, ends))
    return deviations + 0.05 * sum(levels[end - 1] for end in ends[:-1])


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=9),
    st.integers(9, 20),
    st.data(),
)
def test_the_cheapest_division_is_taken(
    sizes: list[int], capacity: int, data: st.DataObject
) -> None:
    """Of all divisions into the fewest groups, none has evener groups at stronger boundaries."""
    levels = data.draw(st.lists(st.integers(0, 4), min_size=len(sizes), max_size=len(sizes)))
    assume(len(set(levels[:-1])) > 1)
    ends = pack(sizes, capacity, levels)
    last = len(sizes)
    possible = [
        [*cuts, last]
        for cuts in combinations(range(1, last), len(ends) - 1)
        if max(groups(sizes, [*cuts, last])) <= capacity
    ]
    least = min(cost(sizes, other, levels) for other in possible)
    assert cost(sizes, ends, levels) == pytest.approx(least)


def test_a_group_ends_at_a_line_end_near_the_middle() -> None:
    """A line end that makes groups of 11 and 9 wins; one that would make 17 and 3 does not."""
    sizes = [1] * 20
    for line_end, expected in ((11, 11), (17, 10)):
        levels = [int(place != line_end) for place in range(1, 21)]
        assert [expected, 20] == pack(sizes, 18, levels)


def test_nothing_makes_no_groups() -> None:
    """No pieces, no ends."""
    assert [] == pack([], 5)


@pytest.mark.timeout(60)
def test_a_million_pieces() -> None:
    """Packing takes linear time, times the logarithm of the capacity."""
    sizes = [1, 2, 3, 4] * 250_000
    found = groups(sizes, pack(sizes, 512))
    assert -(-sum(sizes) // 510) == len(found)  # 51 times 1, 2, 3, 4 is what 512 can hold
    assert max(found) - min(found) <= 6
    levels = [place % 7 == 0 for place in range(len(sizes))]
    assert len(found) == len(pack(sizes, 512, levels))
