"""Calls whose tasks are done elsewhere, and sometimes not at all: pure, no process is begun."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_embed import SafeEmbedError
from safe_embed.backends.call_queue import (
    ACTIVE_CALLS,
    MOST_DEATHS,
    MOST_DEATHS_ALONE,
    CallQueue,
)
from safe_embed.backends.calls import PendingCall
from safe_embed.inference.tasks import LOST, CallEnded, ChunkTexts, Flow, Task, Wave


class MyExit(BaseException):
    """What another library ends its own threads with."""


def task_of(items: Any) -> Task:
    """A task with these items; what they are does not matter to a queue."""
    return ChunkTexts(items, "", 512, want_spans=False, first_index=0)


def flow(sizes: list[int]) -> Flow[list[Any]]:
    """One wave with a task of each size; the items are counted through."""
    ends = [sum(sizes[: at + 1]) for at in range(len(sizes))]
    tasks = [task_of(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    found = yield Wave(tasks)
    return [one for part in found for one in part]


def calls_with(*calls_sizes: list[int]) -> tuple[CallQueue, list[PendingCall]]:
    """A queue with calls of tasks of these sizes."""
    calls = CallQueue(lambda texts: None)
    jobs = [PendingCall(lambda sizes=sizes: flow(sizes)) for sizes in calls_sizes]
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

    def shown() -> Flow[Any]:
        return (yield Wave([task_of([1])], BrokenBar()))

    job = PendingCall(shown)
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
    at_the_beginning = PendingCall(lambda: raising(error))
    in_the_flow = PendingCall(lambda: flow_of(lambda: raising(error)))
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
    """A flow that does something after its first stage."""
    yield Wave([])
    return step()


def test_a_flow_that_cannot_be_closed_ends_its_call() -> None:
    """A terminal that is gone makes a progress bar fail once more as it is closed."""

    def with_a_bar() -> Flow[Any]:
        try:
            yield Wave([task_of([1])])
        finally:
            raise OSError("no terminal")

    calls, [other] = calls_with([1])
    job = PendingCall(with_a_bar)
    calls.add(job)
    calls.advance()
    calls.fail(job, ValueError("theirs"))
    assert "theirs" == str(job.future.exception(0))
    calls.note(*(calls.next() or pytest.fail("there is work")), [0])
    calls.advance()
    assert [0] == other.future.result(0)


# Turns


def serve(calls: CallQueue, log: list[Any]) -> None:
    """Do one task after the other, as a thread would; note their items."""
    calls.advance()
    while (found := calls.next()) is not None:
        call, pending = found
        log += pending.task.items
        calls.note(call, pending, list(pending.task.items))
        calls.advance()


def stages(name: str, count: int = 3) -> Flow[str]:
    """A call of so many stages of one task each."""
    for stage in range(count):
        yield Wave([task_of([f"{name}{stage}"])])
    return name


def test_four_calls_are_served_in_turn_and_others_wait_in_order() -> None:
    """A task of each of four, round and round; the next call begins when one has ended."""
    calls, log = CallQueue(lambda texts: None), []
    jobs = [PendingCall(lambda name=name: stages(name)) for name in "abcdef"]
    for job in jobs:
        calls.add(job)
    serve(calls, log)
    assert [*"abcdef"] == [job.future.result(0) for job in jobs]
    assert [f"{name}{at}" for at in range(3) for name in "abcd"] == log[:12]
    assert [f"{name}{at}" for at in range(3) for name in "ef"] == log[12:]


def test_no_more_than_four_calls_are_begun() -> None:
    """The texts of those behind are not tokenized yet: pending work is bounded."""
    calls = CallQueue(lambda texts: None)
    begun: list[int] = []
    ended: list[int] = []
    most: list[int] = []

    def counted(index: int) -> Flow[None]:
        begun.append(index)
        most.append(len(begun) - len(ended))
        yield from stages("a")
        ended.append(index)

    jobs = [PendingCall(lambda index=index: counted(index)) for index in range(20)]
    for job in jobs:
        calls.add(job)
    serve(calls, [])
    assert all(job.future.done() for job in jobs)
    assert ACTIVE_CALLS == max(most) == 4


def test_a_cancelled_call_gives_up_its_place() -> None:
    """Before its turn it is never begun, during it it is closed; all others are served."""
    calls, log = CallQueue(lambda texts: None), []
    closed: list[str] = []

    def cancels() -> Flow[None]:
        try:
            yield Wave([task_of(["b0"])])
            jobs[1].future.cancel()
            while True:
                yield Wave([task_of(["b1"])])
        finally:
            closed.append("b")

    jobs = [PendingCall(lambda name=name: stages(name)) for name in "abcdefg"]
    jobs[1] = PendingCall(cancels)
    for job in jobs:
        calls.add(job)
    assert jobs[5].future.cancel()  # f, which waits
    serve(calls, log)
    assert ["a", "c", "d", "e", "g"] == [jobs[at].future.result(0) for at in (0, 2, 3, 4, 6)]
    assert ["b"] == closed
    assert not [step for step in log if step.startswith("f")]
    for at in (1, 5):
        with pytest.raises(CancelledError):
            jobs[at].future.result(0)


def test_an_error_of_one_call_is_its_own() -> None:
    """Calls that fail, at their beginning or between two stages, touch no other."""
    calls = CallQueue(lambda texts: None)
    good = [PendingCall(lambda: stages("a")) for _ in range(3)]
    bad = [
        PendingCall(lambda: raising(ZeroDivisionError())),
        PendingCall(lambda: flow_of(lambda: raising(KeyError()))),
        PendingCall(lambda: flow_of(lambda: raising(SystemExit()))),
    ]
    for pair in zip(good, bad, strict=True):
        for job in pair:
            calls.add(job)
    serve(calls, [])
    errors = [type(job.future.exception(0)) for job in bad]
    assert [ZeroDivisionError, KeyError, SystemExit] == errors
    assert ["a"] * 3 == [job.future.result(0) for job in good]


def test_a_call_is_counted_when_it_has_done_its_work() -> None:
    """With the number of its texts; a call that fails before is not."""
    counted: list[int] = []
    calls = CallQueue(counted.append)

    def ends(texts: int) -> Flow[None]:
        yield from stages("a")
        yield CallEnded(texts)

    for job in (PendingCall(lambda: ends(3)), PendingCall(lambda: raising(KeyError()))):
        calls.add(job)
    serve(calls, [])
    assert [3] == counted


def test_a_queue_says_what_there_is() -> None:
    """Empty without calls; quiet while none is under way; with tasks while nobody does them."""
    calls = CallQueue(lambda texts: None)
    assert (True, True, False) == (calls.is_empty, calls.is_quiet, calls.has_tasks)
    calls.add(PendingCall(lambda: stages("a", 1)))
    assert (False, True, False) == (calls.is_empty, calls.is_quiet, calls.has_tasks)
    calls.advance()
    assert (False, False, True) == (calls.is_empty, calls.is_quiet, calls.has_tasks)
    call, pending = calls.next() or pytest.fail("there is work")
    assert (False, False, False) == (calls.is_empty, calls.is_quiet, calls.has_tasks)
    calls.note(call, pending, [0])
    calls.advance()
    assert (True, True, False) == (calls.is_empty, calls.is_quiet, calls.has_tasks)
