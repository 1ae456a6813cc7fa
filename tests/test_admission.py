"""How many texts wait, and who is next: the rule by itself, and real encoders that are busy."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import process_models
from safe_embed import SafeEmbedError, SafeEncoder
from safe_embed.backends.admission import Admission, Place, pending_call
from safe_embed.backends.call_queue import ACTIVE_CALLS, CallQueue
from safe_embed.backends.calls import PendingCall
from safe_embed.backends.priority_queue import PriorityQueue
from safe_embed.errors import ConfigError, QueueFullError, WorkerError
from safe_embed.inference.tasks import ChunkTexts, Flow, Wave
from seams import wait_until

pytestmark = pytest.mark.usefixtures("forked_workers")

BOUND = 10
HELD = process_models.POISON * 100  # what fits is not split

# The rule, once more, as plainly as it can be said


@dataclass
class Caller:
    """A caller of the reference, and its real place."""

    texts: int
    priority: int
    place: Place
    state: str = "waits"

    def __post_init__(self) -> None:
        self.first_texts = self.texts


def waiting(callers: list[Caller], priority: int) -> int:
    """How many texts wait inside that are served before a call of this priority."""
    return sum(
        caller.texts
        for caller in callers
        if caller.state == "inside" and caller.priority >= priority
    )


def let_in(callers: list[Caller]) -> None:
    """Let in callers, the highest priority first and the earliest of it, while there is room."""
    while outside := [caller for caller in callers if caller.state == "waits"]:
        first = max(outside, key=lambda caller: caller.priority)
        before = waiting(callers, first.priority)
        if first.texts and before and before + first.texts > BOUND:
            return
        first.state = "inside"


STEPS = st.one_of(
    st.tuples(st.just("enter"), st.integers(0, 14), st.integers(-1, 2)),
    st.tuples(st.just("leave"), st.integers(0, 30), st.just(0)),
    st.tuples(st.just("resize"), st.integers(0, 30), st.integers(0, 14)),
)


def take(step: tuple[str, int, int], admission: Admission, callers: list[Caller]) -> None:
    """Do one step on both."""
    kind, number, value = step
    if kind == "enter":
        callers.append(Caller(number, value, admission.enter(number, value)))
    elif callers:
        caller = callers[number % len(callers)]
        if kind == "leave":
            caller.state = "left"
            caller.place.leave()
        elif caller.state != "left":
            caller.texts = value
            caller.place.resize(value)
    let_in(callers)


@given(st.lists(STEPS, max_size=60))
def test_callers_are_let_in_as_the_rule_says(steps: list[tuple[str, int, int]]) -> None:
    """By priority, then in turn; never more than the bound; and in the end everybody."""
    admission, callers = Admission(BOUND, "wait"), list[Caller]()
    for step in steps:
        take(step, admission, callers)
        for caller in callers:
            if caller.state != "left":
                assert (caller.state == "inside") == caller.place.admitted.done()
    while inside := [caller for caller in callers if caller.state == "inside"]:
        inside[0].place.leave()
        inside[0].state = "left"
        let_in(callers)
    assert all(caller.place.admitted.done() for caller in callers if caller.state != "left")
    assert not [caller for caller in callers if caller.state == "waits"]


@given(
    st.lists(st.tuples(st.integers(0, 14), st.integers(-1, 2)), max_size=40),
    st.randoms(use_true_random=False),
)
def test_the_bound_is_kept_at_each_priority(sizes: list[tuple[int, int]], random: Any) -> None:
    """What waits at a priority fits the bound, or is one call that is larger; both modes agree."""
    waits, refuses = Admission(BOUND, "wait"), Admission(BOUND, "error")
    places: list[Place] = []
    kept = Counter[int]()
    for texts, priority in sizes:
        place = waits.enter(texts, priority)
        places.append(place)
        if random.random() < 0.4:
            places.pop(random.randrange(len(places))).leave()
        inside = Counter[int]()
        for other in places:
            if other.admitted.done():
                inside[other.priority] += other.texts
        for level, total in inside.items():
            largest = max(p.texts for p in places if p.admitted.done() and p.priority == level)
            assert total <= max(BOUND, largest)
        before = kept[priority] + sum(kept[level] for level in kept if level > priority)
        if texts and before and before + texts > BOUND:
            with pytest.raises(QueueFullError) as caught:
                refuses.enter(texts, priority)
            assert before == caught.value.waiting_texts
        else:
            assert refuses.enter(texts, priority).admitted.done()
            kept[priority] += texts


def test_nobody_is_refused_who_would_not_wait() -> None:
    """A call that is larger than the bound is served alone; no texts need no room."""
    admission = Admission(BOUND, "error")
    large = admission.enter(BOUND + 5, 0)
    with pytest.raises(QueueFullError, match="15 texts wait") as caught:
        admission.enter(1, 0)
    assert 15 == caught.value.waiting_texts
    assert isinstance(caught.value, RuntimeError)
    assert isinstance(caught.value, SafeEmbedError)
    assert "when_full" in str(caught.value).splitlines()[1]
    admission.enter(0, 0)
    admission.enter(BOUND, 1)
    with pytest.raises(QueueFullError):
        admission.enter(1, -1)
    large.leave()
    large.leave()
    with pytest.raises(QueueFullError, match="max_waiting_texts=10"):
        admission.enter(1, 1)
    assert not admission.enter(1, 1, must_wait=True).admitted.done()


def test_a_large_call_is_not_passed_for_ever() -> None:
    """Small ones that come later wait behind it, those of a higher priority do not."""
    admission = Admission(BOUND, "wait")
    first, large = admission.enter(1, 0), admission.enter(BOUND, 0)
    small, urgent, low = admission.enter(1, 0), admission.enter(1, 1), admission.enter(0, -1)
    done = [place.admitted.done() for place in (first, large, small, urgent, low)]
    assert [True, False, False, True, False] == done
    first.leave()
    urgent.leave()
    assert [True, False] == [place.admitted.done() for place in (large, small)]


def test_any_number_may_wait() -> None:
    """Without a bound nobody waits for room."""
    admission = Admission(None, "error")
    places = [admission.enter(10**9, at % 3) for at in range(50)]
    assert all(place.admitted.done() for place in places)


def test_the_end_reaches_all_callers() -> None:
    """Each has an error of its own; who comes later is let in, and told by the queue."""
    admission = Admission(1, "wait")
    admission.enter(1, 0)
    outside = [admission.enter(1, at) for at in (0, -1, -2)]
    admission.fail_waiting(lambda: WorkerError("no worker"))
    errors = [place.admitted.exception(0) for place in outside]
    assert 3 == len(set(map(id, errors)))
    late = admission.enter(1, 0)
    assert not late.admitted.done()
    admission.close(lambda: WorkerError("closed"))
    assert "closed" == str(late.admitted.exception(0))
    assert admission.enter(1, 0).admitted.result(0) is None


def test_threads_that_come_and_go() -> None:
    """No place is lost, and none is given twice, whatever threads do at the same time."""
    admission = Admission(BOUND, "wait")
    inside, most, lock = [0], [0], threading.Lock()

    def call(texts: int) -> int:
        with admission.enter(texts, 0) as place:
            place.admitted.result(120)
            with lock:
                inside[0] += texts
                most[0] = max(most[0], inside[0])
            with lock:
                inside[0] -= texts
        return texts

    sizes = [1 + at % 4 for at in range(400)]
    with ThreadPoolExecutor(8) as threads:
        assert sizes == list(threads.map(call, sizes))
    assert 0 < most[0] <= BOUND
    assert admission.enter(BOUND, 0).admitted.done()


def test_a_caller_that_is_dropped_leaves_its_place() -> None:
    """The garbage collector may end it in the middle of anything, also of another's turn."""
    admission = Admission(1, "wait")

    def caller() -> Iterator[Future[None]]:
        with admission.enter(1, 0) as place:
            yield place.admitted

    first = caller()
    next(first)
    steps = caller()
    waits = next(steps)
    assert not waits.done()
    # The callback asks for a place while the admission still hands out places.
    waits.add_done_callback(lambda _: admission.enter(1, 0).leave())
    del first
    gc.collect()
    assert waits.done()


# Calls that wait


def flow(name: str, waves: int) -> Flow[str]:
    """A call of so many waves, with a task each."""
    for _ in range(waves):
        yield Wave([ChunkTexts([(0, name)], "", 0, want_spans=False)])
    return name


@given(
    st.lists(st.tuples(st.integers(-1, 1), st.integers(1, 3)), min_size=1, max_size=25),
    st.sets(st.integers(0, 24), max_size=5),
)
def test_tasks_are_done_by_priority(calls: list[tuple[int, int]], cancelled: set[int]) -> None:
    """Always one of the highest priority there is, in turn; nobody is lost, few have begun."""
    queue, begun = CallQueue(lambda texts: None), Counter[int]()
    pending: list[PendingCall] = []
    for at, (priority, waves) in enumerate(calls):

        def begin(at: int = at, waves: int = waves) -> Flow[str]:
            begun[at] += 1
            return flow(str(at), waves)

        place = Admission(None, "wait").enter(1, priority)
        pending.append(pending_call(begin, place))
        queue.add(pending[-1])
    for at in cancelled & set(range(len(pending))):
        assert pending[at].future.cancel()
    queue.advance()
    last: dict[int, list[str]] = {}
    while (pair := queue.next()) is not None:
        call, task = pair
        alive = [other for other in pending if not other.future.done()]
        assert call.priority == max(other.priority for other in alive)
        active = Counter(calls[at][0] for at in begun if not pending[at].future.done())
        assert max(active.values()) <= ACTIVE_CALLS
        [(_, name)] = task.task.items
        last.setdefault(call.priority, []).append(str(name))
        queue.note(call, task, [name])
        queue.advance()
    for at, call in enumerate(pending):
        assert call.future.cancelled() if at in cancelled else str(at) == call.future.result(0)
    for level, names in last.items():  # calls of a priority end in turn if they are equally long
        ends = [name for at, name in enumerate(names) if name not in names[at + 1 :]]
        same = [int(name) for name in ends if calls[int(name)] == (level, 1)]
        assert sorted(same) == same
    assert not cancelled & set(begun)
    assert queue.is_empty


def test_a_call_of_a_higher_priority_begins_at_once() -> None:
    """Four that are under way hold up those of their own priority alone."""
    queue, begun = CallQueue(lambda texts: None), list[str]()

    def add(name: str, priority: int) -> None:
        def begin() -> Flow[str]:
            begun.append(name)
            return flow(name, 9)

        queue.add(PendingCall(begin, priority=priority))
        queue.advance()

    for name in "abcdef":
        add(name, 0)
    add("low", -1)
    add("high", 1)
    assert [*"abcd", "high"] == begun
    turn = queue.next()
    assert turn is not None
    assert [(0, "high")] == turn[1].task.items


class Begin:
    """What a call begins with; it holds the texts."""

    def __call__(self) -> Flow[Any]:
        """Begin."""
        return flow("a", 1)


def test_a_cancelled_call_keeps_nothing() -> None:
    """Its texts go at once, and its entry before long, whatever stays ahead of it for ever."""
    queue = CallQueue(lambda texts: None)
    begin = Begin()
    watched = weakref.ref(begin)
    call = PendingCall(begin, priority=-1)
    queue.add(call)
    del begin
    call.future.cancel()
    assert watched() is None
    entries = PriorityQueue[Future[Any]](lambda future: future.done())
    entries.push(Future(), 1)
    gone = []
    for _ in range(500):
        future: Future[Any] = Future()
        entries.push(future, 0)
        gone.append(weakref.ref(future))
        future.cancel()
        del future
    assert sum(entry() is not None for entry in gone) < 100


# Real encoders


class Texts(list[str]):
    """A list that notes when it is read."""

    def __init__(self, texts: list[str], read: list[Any]) -> None:
        super().__init__(texts)
        self._read = read

    def __iter__(self) -> Iterator[str]:
        self._read.append(self)
        return super().__iter__()


async def until(condition: Callable[[], object]) -> None:
    """Wait for a state; a loop that is blocked never comes back from here."""
    while not condition():  # noqa: ASYNC110 another thread or process brings it about
        await asyncio.sleep(0.002)


def one_by_one(texts: list[str]) -> Iterator[str]:
    """A generator, which has no length."""
    yield from texts


BULK = [f"文{at % 7}です。" for at in range(30)]


def held_encoder(saved: Path, scratch: Path, **options: Any) -> SafeEncoder:
    """An encoder that stops at the text HELD until the file ``release`` is there."""
    splitter = process_models.Held(str(scratch))
    return SafeEncoder(saved, device="cpu", reload=None, splitter=splitter, **options)


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_a_busy_encoder_reads_no_more_than_it_may(
    saved: Path, tmp_path: Path, isolation: Any
) -> None:
    """Callers wait before their texts are read, and each has its result; queries come first.

    Some are cancelled, one has more texts than may wait, the loop is never blocked.
    """
    read, ended = list[Any](), list[str]()

    async def named(name: str, encoder: SafeEncoder, inputs: Any, **options: Any) -> Any:
        vectors = await encoder.aencode(inputs, **options)
        ended.append(name)
        return vectors

    async def main(encoder: SafeEncoder) -> None:
        held = asyncio.create_task(encoder.aencode(HELD))
        await until((tmp_path / "reached").exists)
        bulk = [asyncio.create_task(named("bulk", encoder, Texts([text], read))) for text in BULK]
        large = asyncio.create_task(named("large", encoder, Texts(BULK, read)))
        stream = asyncio.create_task(asyncio.to_thread(list, encoder.encode_stream(BULK)))
        given_up = [asyncio.create_task(encoder.aencode(Texts(["雨"], read))) for _ in range(9)]
        await asyncio.sleep(0.01)
        for task in given_up:
            task.cancel()
        await asyncio.wait(given_up)
        urgent = asyncio.create_task(named("urgent", encoder, Texts(["急"], read), priority=1))
        try:
            await until(lambda: ["急"] in read)
            # Those that have begun wait no longer: three more with processes.
            assert len(read) - 1 <= 3 + ACTIVE_CALLS
            assert not held.done()
        finally:
            (tmp_path / "release").touch()
        for text, task in zip(BULK, bulk, strict=True):
            np.testing.assert_array_equal(expected[text], (await task)[0])
        for rows in (await large, await stream):
            for text, row in zip(BULK, rows, strict=True):
                np.testing.assert_allclose(expected[text], row, rtol=0, atol=1e-6)
        np.testing.assert_array_equal(expected["急"], (await urgent)[0])
        await held

    with held_encoder(saved, tmp_path, isolation=isolation, max_waiting_texts=3) as encoder:
        expected = {text: encoder.encode([text])[0] for text in {*BULK, "急"}}
        asyncio.run(main(encoder))
        assert "urgent" == ended[0]
        assert 32 == len(ended)
        encoder.encode(BULK)  # nobody has kept a place


def test_a_full_encoder_says_so_at_once(saved: Path, tmp_path: Path) -> None:
    """With an error of its own, before anything is read; queries and streams are not refused."""
    read = list[Any]()
    with (
        held_encoder(saved, tmp_path, max_waiting_texts=3, when_full="error") as encoder,
        ThreadPoolExecutor(3) as threads,
        contextlib.ExitStack() as stack,
    ):
        expected = encoder.encode(BULK[:3])
        held = threads.submit(encoder.encode, HELD)
        wait_until((tmp_path / "reached").exists)
        waits = threads.submit(encoder.encode, Texts(BULK[:3], read))
        wait_until(lambda: read)
        texts = Texts(["雨"], read)
        stack.callback((tmp_path / "release").touch)
        for method in (encoder.encode, encoder.encode_query, encoder.encode_document):
            with pytest.raises(QueueFullError):
                method(texts)
        for call in (encoder.encode_chunks, encoder.plan, encoder.tokenize):
            with pytest.raises(QueueFullError):
                call(texts)
        with pytest.raises(QueueFullError):
            asyncio.run(encoder.aencode(texts))
        with pytest.raises(QueueFullError):
            encoder.encode(one_by_one(texts))
        assert texts not in read
        assert (0,) == encoder.encode([]).shape
        urgent = encoder.backend.enter(3, 1)
        assert urgent.admitted.done()
        urgent.leave()
        stream = threads.submit(list, encoder.encode_stream(BULK[:3]))
        stack.close()
        np.testing.assert_array_equal(expected, waits.result(120))
        np.testing.assert_array_equal(expected, stream.result(120))
        held.result(120)
        encoder.encode(BULK)  # more than may wait


def test_closing_while_callers_wait_for_room(saved: Path, tmp_path: Path) -> None:
    """All of them are told."""
    read = list[Any]()
    with (
        ThreadPoolExecutor(6) as threads,
        held_encoder(saved, tmp_path, max_waiting_texts=1) as encoder,
    ):
        calls = [threads.submit(encoder.encode, HELD)]
        wait_until((tmp_path / "reached").exists)
        calls += [threads.submit(encoder.encode, Texts(["雨"], read)) for _ in range(4)]
        wait_until(lambda: read)
        closing = threads.submit(encoder.close)
        try:
            for call in calls:
                with pytest.raises(WorkerError, match="closed"):
                    call.result(120)
        finally:
            (tmp_path / "release").touch()
        closing.result(120)
    assert 1 == len(read)


def test_a_source_that_is_slow_holds_up_nobody(saved: Path) -> None:
    """A generator, or a stream, that waits for its next text takes no room meanwhile."""
    reached, go = threading.Event(), threading.Event()

    def slow() -> Iterator[str]:
        yield "雨"
        reached.set()
        assert go.wait(120)
        yield "雪"

    with SafeEncoder(saved, reload=None, max_waiting_texts=1) as encoder:
        expected = np.concatenate([encoder.encode(["雨"]), encoder.encode(["雪"])])
        for call in (encoder.encode, lambda texts: list(encoder.encode_stream(texts))):
            with ThreadPoolExecutor(1) as threads:
                vectors = threads.submit(call, slow())
                try:
                    assert reached.wait(120)
                    np.testing.assert_array_equal(expected[:1], encoder.encode(["雨"]))
                finally:
                    go.set()
                np.testing.assert_allclose(expected, vectors.result(120), rtol=0, atol=1e-6)
            reached.clear()
            go.clear()


@pytest.mark.parametrize("priority", ["high", 1.5, None, True, [1], "今日は雨です"])
def test_a_priority_is_an_integer(saved: Path, priority: Any) -> None:
    """Anything else is refused by every method, before anything is read."""
    read = list[Any]()
    with SafeEncoder(saved, reload=None) as encoder:
        for name in ("encode", "encode_query", "encode_document", "encode_chunks", "plan"):
            with pytest.raises(ConfigError, match=r"priority[^今]*\n.*priority には[^今]*$"):
                getattr(encoder, name)(Texts(["雨"], read), priority=priority)
        with pytest.raises(ConfigError, match="priority"):
            encoder.encode_stream(Texts(["雨"], read), priority=priority)
        with pytest.raises(ConfigError, match="priority"):
            asyncio.run(encoder.aencode(Texts(["雨"], read), priority=priority))
        assert not read
        row = encoder.encode("雨", priority=np.int64(-3))
        np.testing.assert_array_equal(encoder.encode("雨"), row)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_waiting_texts": 0}, "max_waiting_texts"),
        ({"max_waiting_texts": -5}, "max_waiting_texts"),
        ({"max_waiting_texts": 1.5}, "max_waiting_texts"),
        ({"max_waiting_texts": "100"}, "max_waiting_texts"),
        ({"max_waiting_texts": True}, "max_waiting_texts"),
        ({"when_full": "drop"}, "when_full='drop'.*'wait', 'error'"),
        ({"when_full": None}, "when_full=None"),
        ({"priority": 1}, "'priority' is an argument of encode"),
    ],
)
def test_arguments_of_the_encoder(options: dict[str, Any], match: str) -> None:
    """Refused before anything is loaded, in English and Japanese."""
    with pytest.raises(ConfigError, match=match) as caught:
        SafeEncoder("there is no such model", **options)
    assert any("ぁ" <= character <= "ん" for character in str(caught.value).splitlines()[1])


def test_where_the_arguments_belong(saved: Path) -> None:
    """Each that is given to the wrong one names the right one."""
    with SafeEncoder(saved, reload=None) as encoder:
        for wrong in ({"max_waiting_texts": 5}, {"when_full": "wait"}):
            with pytest.raises(ConfigError, match=r"Pass it to SafeEncoder"):
                encoder.encode("雨", **wrong)
        with pytest.raises(ConfigError, match=r"Did you mean 'priority'"):
            encoder.encode("雨", priority_=1)
