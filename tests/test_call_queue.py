"""Calls and their turns, and tasks that a process died of: pure, no thread and no model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_embed import SafeEmbedError
from safe_embed.backends.call_queue import MOST_DEATHS, MOST_DEATHS_ALONE, CallQueue
from safe_embed.backends.calls import PendingCall, wait_for
from safe_embed.inference.tasks import LOST, CallEnded, ChunkTexts, Flow, Task, Wave


class MyExit(BaseException):
    """What another library ends its own threads with."""


def task(items: Iterable[Any]) -> Task:
    """A task; what it is asked to do is nothing to the queue."""
    return ChunkTexts(list(items), "", 0, want_spans=False)


def flow(sizes: list[int]) -> Flow[list[Any]]:
    """One wave with a task of each size; the items are counted through."""
    ends = [sum(sizes[: at + 1]) for at in range(len(sizes))]
    values = yield Wave(
        [task(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    )
    return [value for part in values for value in part]


def queue_of(*flows: Callable[[], Flow[Any]]) -> tuple[CallQueue, list[PendingCall]]:
    """A queue with these calls, the first of which have begun."""
    queue = CallQueue(lambda texts: None)
    calls = [PendingCall(begin) for begin in flows]
    for call in calls:
        queue.add(call)
    queue.advance()
    return queue, calls


def sized(*sizes: list[int]) -> tuple[CallQueue, list[PendingCall]]:
    """A queue with calls of one wave each."""
    return queue_of(*(lambda wanted=wanted: flow(wanted) for wanted in sizes))


def next_of(queue: CallQueue) -> Any:
    """The task whose turn it is."""
    return queue.next() or pytest.fail("there is work")


def serve(queue: CallQueue, most: int = 1000) -> list[Any]:
    """Do so many tasks; give the first item of each."""
    log: list[Any] = []
    while len(log) < most and (pair := queue.next()) is not None:
        log.append(pair[1].task.items[0])
        queue.note(*pair, list(pair[1].task.items))
        queue.advance()
    return log


# What kills processes


@given(
    sizes=st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=9),
    poison=st.sets(st.integers(0, 30), max_size=3),
    kills=st.sets(st.integers(0, 60), max_size=MOST_DEATHS_ALONE - 1),
)
def test_what_kills_is_told_from_what_is_killed(
    sizes: list[list[int]], poison: set[int], kills: set[int]
) -> None:
    """Exactly the items that kill are lost; those that a kill from outside hits are done again."""
    queue, calls = sized(*sizes)
    turn = 0
    while (pair := queue.next()) is not None:
        call, pending = pair
        if turn in kills or poison & set(pending.task.items):
            queue.again(call, pending)
        else:
            queue.note(call, pending, [item * 2 for item in pending.task.items])
        turn += 1
        queue.advance()
    for wanted, call in zip(sizes, calls, strict=True):
        expected = [LOST if item in poison else item * 2 for item in range(sum(wanted))]
        assert expected == call.future.result(0)


@pytest.mark.parametrize(("size", "times"), [(1, MOST_DEATHS_ALONE), (2, MOST_DEATHS + 6)])
def test_how_often_a_task_is_done_at_most(size: int, times: int) -> None:
    """One item so often; two of them twice together, then each by itself."""
    queue, [call] = sized([size])
    deaths = 0
    while (pair := queue.next()) is not None:
        queue.again(*pair)
        deaths += 1
        queue.advance()
    assert (times, [LOST] * size) == (deaths, call.future.result(0))


# Turns


def named(name: str, waves: int = 3) -> Callable[[], Flow[str]]:
    """A call of so many waves, with a task each that has name and number of the wave."""

    def steps() -> Flow[str]:
        for wave in range(waves):
            yield Wave([task([f"{name}{wave}"])])
        return name

    return steps


def test_four_calls_are_served_in_turn_and_others_wait_in_order() -> None:
    """A task of each of four, round and round; who waits is let in in order of arrival."""
    queue, calls = queue_of(*map(named, "abcdef"))
    log = serve(queue)
    assert [*"abcdef"] == [call.future.result(0) for call in calls]
    assert [f"{name}{at}" for at in range(3) for name in "abcd"] == log[:12]
    assert [f"{name}{at}" for at in range(3) for name in "ef"] == log[12:]


def test_calls_have_their_turn() -> None:
    """A short call behind a long one does not wait for its end."""
    queue, [long, short] = sized([1] * 50, [1])
    serve(queue, 2)
    assert (False, True) == (long.future.done(), short.future.done())


def test_no_more_than_four_calls_are_begun() -> None:
    """The texts of those behind are not tokenized yet: pending work is bounded."""
    begun = [0, 0]

    def steps() -> Flow[None]:
        begun[0] += 1
        begun[1] = max(begun)
        for _ in range(3):
            yield Wave([task([0])])
        begun[0] -= 1

    queue, calls = queue_of(*[steps] * 20)
    serve(queue)
    assert [0, 4] == begun
    assert all(call.future.done() for call in calls)


def test_a_queue_says_what_is_left() -> None:
    """Quiet before calls begin, with tasks while nobody does them, empty at the end."""
    queue, [call] = CallQueue(lambda texts: None), [PendingCall(named("a", waves=1))]
    assert (True, True, False) == (queue.is_quiet, queue.is_empty, queue.has_tasks)
    queue.add(call)
    assert (True, False, False) == (queue.is_quiet, queue.is_empty, queue.has_tasks)
    queue.advance()
    assert (False, False, True) == (queue.is_quiet, queue.is_empty, queue.has_tasks)
    pair = next_of(queue)
    assert (False, False, False) == (queue.is_quiet, queue.is_empty, queue.has_tasks)
    queue.note(*pair, ["a0"])
    queue.advance()
    assert (True, True, False) == (queue.is_quiet, queue.is_empty, queue.has_tasks)


def test_a_cancelled_call_gives_up_its_place() -> None:
    """Before its turn it is never begun, during it it is closed; all others are served."""
    closed: list[str] = []

    def endless() -> Flow[None]:
        try:
            while True:
                yield Wave([task(["b"])])
        finally:
            closed.append("b")

    flows = {name: named(name) for name in "acdefg"} | {"b": endless}
    queue, calls = queue_of(*(flows[name] for name in "abcdefg"))
    assert calls[5].future.cancel()  # f, which waits
    log = serve(queue, 6)
    assert log.count("b") == 2
    assert calls[1].future.cancel()
    queue.advance()
    log += serve(queue)
    assert ["b"] == closed
    assert 2 == log.count("b")
    assert [*"acdeg"] == [calls[at].future.result(0) for at in (0, 2, 3, 4, 6)]
    assert not [step for step in log if step.startswith("f")]
    for at in (1, 5):
        with pytest.raises(CancelledError):
            calls[at].future.result(0)


def test_a_wait_that_is_broken_off_cancels_the_call() -> None:
    """KeyboardInterrupt in a caller gives up the place of its call."""

    class Interrupted(Future[Any]):
        def result(self, timeout: float | None = None) -> Any:
            raise KeyboardInterrupt

    queue, call = CallQueue(lambda texts: None), PendingCall(named("a"), Interrupted())
    queue.add(call)
    queue.advance()
    with pytest.raises(KeyboardInterrupt):
        wait_for(call.future)
    queue.advance()
    assert call.future.cancelled()
    assert queue.is_empty


# Ends


def test_calls_are_counted_with_their_texts() -> None:
    """Once each, when their work is done; a call that fails before that is not counted."""
    counted: list[int] = []
    queue = CallQueue(counted.append)

    def steps(texts: int, error: Exception | None = None) -> Flow[int]:
        yield Wave([task([texts])])
        if error is not None:
            raise error
        yield CallEnded(texts)
        return texts

    calls = [
        PendingCall(lambda: steps(3)),
        PendingCall(lambda: steps(5, ValueError())),
        PendingCall(lambda: steps(7)),
    ]
    for call in calls:
        queue.add(call)
    queue.advance()
    serve(queue)
    assert [3, 7] == counted
    assert (3, 7) == (calls[0].future.result(0), calls[2].future.result(0))
    assert isinstance(calls[1].future.exception(0), ValueError)


def test_an_error_of_one_call_is_its_own() -> None:
    """Calls that fail, at their beginning or between two tasks, touch no other."""

    def late() -> Flow[None]:
        yield Wave([task([0])])
        raise KeyError

    good = [named(name) for name in "abcdef"]
    bad = [lambda: raising(ZeroDivisionError()), late, lambda: raising(SystemExit())]
    queue, calls = queue_of(*good[:3], *bad, *good[3:])
    serve(queue)
    for call, error in zip(calls[3:6], (ZeroDivisionError, KeyError, SystemExit), strict=True):
        assert isinstance(call.future.exception(0), error)
    assert [*"abcdef"] == [call.future.result(0) for call in (*calls[:3], *calls[6:])]


class BrokenBar:
    """A progress bar whose terminal is gone."""

    def update(self) -> None:
        """Fail."""
        raise OSError("no terminal")


def test_a_broken_bar_ends_its_own_call_alone() -> None:
    """The error belongs to the caller who asked for the bar."""

    def shown() -> Flow[Any]:
        return (yield Wave([task([1])], BrokenBar()))

    queue, [other, call] = queue_of(lambda: flow([1]), shown)
    serve(queue)
    assert isinstance(call.future.exception(0), OSError)
    assert [0] == other.future.result(0)


def test_each_caller_gets_an_error_of_its_own() -> None:
    """Tracebacks grow where an exception is raised: two callers must not share one."""
    queue, calls = sized(*[[1]] * 30)
    queue.fail_all(lambda: RuntimeError("the end"))
    errors = [call.future.exception(0) for call in calls]
    assert {"the end"} == {str(error) for error in errors}
    assert len(calls) == len(set(map(id, errors)))
    assert queue.is_empty
    assert queue.next() is None


ENDINGS = [StopIteration(7), StopAsyncIteration(), GeneratorExit(), asyncio.CancelledError()]
ENDINGS += [CancelledError()]


def raising(error: BaseException) -> Any:
    """Raise."""
    raise error


def flow_of(step: Callable[[], Any]) -> Flow[Any]:
    """A flow that does something after its first wave, which has no tasks."""
    yield Wave([])
    return step()


@pytest.mark.parametrize("error", ENDINGS, ids=lambda error: type(error).__name__)
def test_what_would_end_the_caller_is_told_as_an_error(error: BaseException) -> None:
    """At the beginning of a call, of a task, or in its flow: it is no result, and cancels nobody."""
    queue, [of_a_task, *others] = queue_of(
        lambda: flow([1]), lambda: raising(error), lambda: flow_of(lambda: raising(error))
    )
    queue.fail(of_a_task, error)
    for call in (of_a_task, *others):
        raised = call.future.exception(0)
        assert isinstance(raised, SafeEmbedError | RuntimeError)
        assert error in {raised.__cause__, getattr(raised.__cause__, "__cause__", None)}
    assert queue.next() is None


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), MyExit(), ValueError("theirs")]
)
def test_what_ends_the_program_or_is_an_error_comes_as_it_is(error: BaseException) -> None:
    """Whoever called decides what becomes of it."""
    queue, [call] = sized([1])
    queue.fail(call, error)
    assert error is call.future.exception(0)


def test_a_flow_that_cannot_be_closed_ends_its_call() -> None:
    """A terminal that is gone makes a progress bar fail once more as it is closed."""

    def with_a_bar() -> Flow[Any]:
        try:
            yield Wave([task([1])])
        finally:
            raise OSError("no terminal")

    queue, [other, call] = queue_of(lambda: flow([1]), with_a_bar)
    queue.fail(call, ValueError("theirs"))
    assert "theirs" == str(call.future.exception(0))
    serve(queue)
    assert [0] == other.future.result(0)
