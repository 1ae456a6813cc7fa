"""Calls whose tasks are done elsewhere, and sometimes not at all: pure, no process is begun."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safe_embed.model.calls import MOST_DEATHS, MOST_DEATHS_ALONE, Calls
from safe_embed.model.inference import LOST, Flow, Task, Wave
from safe_embed.model.turns import Job

from safe_embed import SafeEmbedError


class MyExit(BaseException):
    """What another library ends its own threads with."""


def flow(sizes: list[int]) -> Flow[list[Any]]:
    """One wave with a task of each size; the items are counted through."""
    ends = [sum(sizes[: at + 1]) for at in range(len(sizes))]
    tasks = [
        Task("chunk", range(end - size, end), {}) for size, end in zip(sizes, ends, strict=True)
    ]
    found = yield Wave(tasks)
    return [one for part in found for one in part]


def calls_with(*sizes: list[int]) -> tuple[Calls, list[Job]]:
    """Calls of these tasks, on two workers."""
    calls = Calls(None, 2)  # type: ignore[arg-type] # these flows ask for no model
    jobs = [Job(lambda _, one=one: flow(one)) for one in sizes]
    for job in jobs:
        calls.add(job)
    calls.advance()
    return calls, jobs


@given(
    sizes=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=9),
    poison=st.sets(st.integers(0, 30), max_size=3),
    kills=st.sets(st.integers(0, 60), max_size=MOST_DEATHS_ALONE - 1),
)
def test_what_kills_is_told_from_what_is_killed(
    sizes: list[list[int]], poison: set[int], kills: set[int]
) -> None:
    """Exactly the items that kill are lost; those that a kill from outside hits are done again."""
    calls, jobs = calls_with(*sizes)
    turn = 0
    while (found := calls.next()) is not None:
        job, piece = found
        if turn in kills or poison & set(piece.task.items):
            calls.again(job, piece)
        else:
            calls.note(job, piece, [item * 2 for item in piece.task.items])
        turn += 1
        calls.advance()
    for one, job in zip(sizes, jobs, strict=True):
        expected = [LOST if item in poison else item * 2 for item in range(sum(one))]
        assert expected == job.future.result(0)


@pytest.mark.parametrize(("size", "times"), [(1, MOST_DEATHS_ALONE), (2, MOST_DEATHS + 6)])
def test_how_often_a_task_is_done_at_most(size: int, times: int) -> None:
    """One item so often; two of them twice together, then each by itself."""
    calls, [job] = calls_with([size])
    deaths = 0
    while (found := calls.next()) is not None:
        calls.again(*found)
        deaths += 1
        calls.advance()
    assert (times, [LOST] * size) == (deaths, job.future.result(0))


def test_calls_have_their_turn() -> None:
    """A short call behind a long one does not wait for its end."""
    calls, [long, short] = calls_with([1] * 50, [1])
    for _ in range(2):
        job, piece = calls.next() or pytest.fail("there is work")
        calls.note(job, piece, [0])
    calls.advance()
    assert (False, True) == (long.future.done(), short.future.done())


class BrokenBar:
    """A progress bar whose terminal is gone."""

    def update(self) -> None:
        """Fail."""
        raise OSError("no terminal")


def test_a_broken_bar_ends_its_own_call_alone() -> None:
    """The error belongs to the caller who asked for the bar."""
    calls, [other] = calls_with([1])

    def shown(_: Any) -> Flow[Any]:
        return (yield Wave([Task("chunk", [1], {})], BrokenBar()))

    job = Job(shown)
    calls.add(job)
    calls.advance()
    while (found := calls.next()) is not None:
        calls.note(*found, [0])
        calls.advance()
    assert isinstance(job.future.exception(0), OSError)
    assert [0] == other.future.result(0)


def test_each_caller_gets_an_error_of_its_own() -> None:
    """Tracebacks grow where an exception is raised: two callers must not share one."""
    calls, jobs = calls_with(*[[1]] * 30)
    calls.fail_all(lambda: RuntimeError("the end"))
    errors = [job.future.exception(0) for job in jobs]
    assert len(jobs) == len({id(one) for one in errors})
    assert calls.next() is None


ENDINGS = [StopIteration(7), StopAsyncIteration(), GeneratorExit(), asyncio.CancelledError()]
ENDINGS += [CancelledError()]


def raising(error: BaseException) -> Any:
    """Raise."""
    raise error


@pytest.mark.parametrize("error", ENDINGS, ids=lambda error: type(error).__name__)
def test_what_would_end_the_caller_is_told_as_an_error(error: BaseException) -> None:
    """At the beginning of a call, of a task, or in its flow: it is no result, and cancels nobody."""
    calls, [of_a_task] = calls_with([1])
    at_the_beginning = Job(lambda _: raising(error))
    in_the_flow = Job(lambda _: flow_of(lambda: raising(error)))
    for job in (at_the_beginning, in_the_flow):
        calls.add(job)
    calls.advance()
    calls.fail(of_a_task, error)
    for job in (at_the_beginning, in_the_flow, of_a_task):
        found = job.future.exception(0)
        assert isinstance(found, SafeEmbedError | RuntimeError)
        assert error in {found.__cause__, getattr(found.__cause__, "__cause__", None)}
    assert calls.next() is None


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), MyExit(), ValueError("theirs")]
)
def test_what_ends_the_program_or_is_an_error_comes_as_it_is(error: BaseException) -> None:
    """Whoever called decides what becomes of it."""
    calls, [job] = calls_with([1])
    calls.fail(job, error)
    assert error is job.future.exception(0)


def flow_of(step: Callable[[], Any]) -> Flow[Any]:
    """A flow that does something after its first pause."""
    yield None
    return step()


def test_a_flow_that_cannot_be_closed_ends_its_call() -> None:
    """A terminal that is gone makes a progress bar fail once more as it is closed."""

    def with_a_bar(_: Any) -> Flow[Any]:
        try:
            yield Wave([Task("chunk", [1], {})])
        finally:
            raise OSError("no terminal")

    calls, [other] = calls_with([1])
    job = Job(with_a_bar)
    calls.add(job)
    calls.advance()
    calls.fail(job, ValueError("theirs"))
    assert "theirs" == str(job.future.exception(0))
    calls.note(*(calls.next() or pytest.fail("there is work")), [0])
    calls.advance()
    assert [0] == other.future.result(0)
