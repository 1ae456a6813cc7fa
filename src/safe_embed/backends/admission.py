"""How many texts may wait for an encoder, and who is let in next: admission control.

A caller asks for a place before its texts are read. It leaves the place when its call begins, or is
given up. So what waits in the queue is bounded, and beyond it callers wait with nothing of ours.
"""

from __future__ import annotations

import math
import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Self

from safe_embed.backends.calls import PendingCall, settle
from safe_embed.backends.priority_queue import PriorityQueue
from safe_embed.errors import QueueFullError, both
from safe_embed.inference.request import WhenFull
from safe_embed.inference.tasks import Flow


class Place:
    """The place of a call among those that wait; left at the end of a ``with`` block at the latest.

    Args:
        admission: Who gives it.
        texts: How many texts the call has.
        priority: Of the call; higher is earlier.

    Attributes:
        admitted: Is done when the call may be queued; has the error if it never may.
        priority: As given.
        texts: How many texts the call has.
        is_inside: Whether the texts count among those that wait.
        is_left: Whether the place is needed no longer.
    """

    __slots__ = ("_admission", "admitted", "is_inside", "is_left", "priority", "texts")

    def __init__(self, admission: Admission, texts: int, priority: int) -> None:
        self._admission = admission
        self.texts = texts
        self.priority = priority
        self.admitted: Future[None] = Future()
        self.is_inside = False
        self.is_left = False

    def resize(self, texts: int) -> None:
        """Correct the number of texts, which is known for certain once they are read.

        Args:
            texts: How many there are. If they are more than before, the bound may be passed: they
                have been read, and a wait for others that have been read too would never end.
        """
        self._admission.resize(self, texts)

    def leave(self) -> None:
        """Make room for others; may be called again, and by any thread."""
        self._admission.leave(self)

    def __enter__(self) -> Self:
        """Give the place itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the place."""
        self.leave()


class Admission:
    """Gives places to callers, by priority, and within a priority in order of arrival.

    A place is free for a call if its texts fit under the bound together with all texts that wait at
    its priority or a higher one, or if none wait there: a call that is larger than the bound is
    served too. What waits at a lower priority does not count, or queries would wait for bulk.

    Any thread may call. The lock may be taken twice by one thread: the garbage collector can end a
    coroutine, and so leave a place, in the middle of all of this.

    Args:
        max_texts: How many texts may wait; ``None`` for any number.
        when_full: Whether callers beyond that wait, or get a QueueFullError.
    """

    def __init__(self, max_texts: int | None, when_full: WhenFull) -> None:
        self._max_texts = math.inf if max_texts is None else max_texts
        self._waits = when_full == "wait"
        self._lock = threading.RLock()
        self._inside: Counter[int] = Counter()  # priority -> texts
        self._callers = PriorityQueue[Place](lambda place: place.is_left)
        self._pid = os.getpid()

    def enter(self, texts: int, priority: int, *, must_wait: bool = False) -> Place:
        """Ask for a place.

        Args:
            texts: How many texts the call has.
            priority: Of the call; higher is earlier.
            must_wait: Whether the call waits for a place in any case, also where others are
                refused.

        Returns:
            The place; the call may be queued when ``admitted`` is done.

        Raises:
            QueueFullError: If there is no room, and callers are not to wait.
        """
        place = Place(self, texts, priority)
        with self._lock:
            self._callers.push(place, priority)
        self._admit()
        if not (self._waits or must_wait or place.admitted.done()):
            place.leave()
            raise self._full_error(place)
        return place

    def resize(self, place: Place, texts: int) -> None:
        """Correct the number of texts of a place; see :meth:`Place.resize`."""
        with self._lock:
            if place.is_inside:
                self._inside[place.priority] += texts - place.texts
            place.texts = texts
        self._admit()

    def leave(self, place: Place) -> None:
        """Take back a place; see :meth:`Place.leave`."""
        if os.getpid() != self._pid:
            return  # a copy made by a fork: a thread that is not here may hold the lock
        with self._lock:
            place.is_left = True
            if place.is_inside:
                place.is_inside = False
                self._inside[place.priority] -= place.texts
                if not self._inside[place.priority]:
                    del self._inside[place.priority]
        self._admit()

    def fail_waiting(self, error: Callable[[], BaseException]) -> None:
        """Give an error to all callers that wait for a place.

        Args:
            error: Makes it; each caller gets an error, and so a traceback, of its own.
        """
        with self._lock:
            while (place := self._callers.first) is not None:
                self._callers.pop()
                settle(place.admitted, error=error())

    def close(self, error: Callable[[], BaseException]) -> None:
        """Give an error to all callers that wait for a place; let in later ones, to be told why.

        Args:
            error: Makes it.
        """
        self._max_texts = math.inf
        self.fail_waiting(error)

    def _admit(self) -> None:
        """Let in callers as long as the next of them has room."""
        admitted: list[Place] = []
        with self._lock:
            while (place := self._callers.first) is not None and self._has_room(place):
                self._callers.pop()
                place.is_inside = True
                self._inside[place.priority] += place.texts
                admitted.append(place)
        for place in admitted:  # outside of the lock: this calls whatever waits for it
            settle(place.admitted)

    def _has_room(self, place: Place) -> bool:
        waiting = self._waiting_texts(place.priority)
        return not (place.texts and waiting) or waiting + place.texts <= self._max_texts

    def _waiting_texts(self, priority: int) -> int:
        return sum(texts for level, texts in self._inside.items() if level >= priority)

    def _full_error(self, place: Place) -> QueueFullError:
        waiting = self._waiting_texts(place.priority)
        return QueueFullError(
            both(
                f"{waiting:,} texts wait for this encoder already, and max_waiting_texts="
                f"{self._max_texts} leaves no room for {place.texts:,} more. Call it again later, "
                "or use when_full='wait'.",
                f"このエンコーダーでは {waiting:,} 件の文章が待っており、max_waiting_texts="
                f"{self._max_texts} のため、あと {place.texts:,} 件は入りません。あとでもう一度"
                "呼ぶか、when_full='wait' を使ってください。",
            ),
            waiting,
        )


def pending_call(begin: Callable[[], Flow[Any]], place: Place | None) -> PendingCall:
    """Make a call that leaves its place as soon as it begins.

    Args:
        begin: Gives the stages of the call.
        place: Of the call; ``None`` if it has no texts.

    Returns:
        The call.
    """
    if place is None:
        return PendingCall(begin)
    return PendingCall(begin, priority=place.priority, on_begin=place.leave)
