"""Which containers of Python have grown, who owns them, and what types their entries have."""

from __future__ import annotations

import gc
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import islice
from types import CellType, FrameType, GeneratorType
from typing import Any, NamedTuple

_KINDS = (list, dict, set, deque)
# What refers to a container only while it is looked at.
_PASSING = {FrameType, CellType, GeneratorType, type({}.values()), type({}.items())}
# Entries that are looked at for their types: the newest of a list, any of a dict.
_SAMPLE = 50


class Container(NamedTuple):
    """A container that has grown.

    Attributes:
        kind: Type of the container, such as ``"list"``.
        owner: Type of what refers to it, such as ``"fugashi.fugashi.Tagger"``, or the module whose
            global variable it is; empty if neither can be told.
        more_entries: How many entries it has gained.
        entry_kind: The commonest type of its entries, such as ``"numpy.ndarray"``.
        size_bytes: An estimate of what the gained entries hold.
    """

    kind: str
    owner: str
    more_entries: int
    entry_kind: str
    size_bytes: int


def container_sizes() -> dict[int, int]:
    """Count the entries of all containers of Python that the garbage collector knows.

    Returns:
        id of the container -> number of entries.
    """
    return {id(one): _length(one) for one in _containers()}


def grown_containers(before: dict[int, int], fewest: int) -> list[Container]:
    """List the containers that have gained entries since, the largest first.

    Args:
        before: What :func:`container_sizes` returned.
        fewest: Containers that have gained fewer entries are left out.

    Returns:
        At most five of them.
    """
    grown = [
        (_length(one) - before.get(id(one), 0), one)
        for one in _containers()
        if one is not before and _length(one) - before.get(id(one), 0) >= fewest
    ]
    found = [_describe(one, more) for more, one in grown]
    return sorted(found, key=lambda one: -one.size_bytes)[:5]


def _containers() -> Iterable[Any]:
    # A dict of plain values is not tracked by the collector, but what it hangs on is.
    known: set[int] = set()
    for one in gc.get_objects():
        for candidate in (one, *_untracked(one)):
            if _is_container(candidate) and id(candidate) not in known:
                known.add(id(candidate))
                yield candidate


def _untracked(one: Any) -> Iterable[Any]:
    """Dicts that the collector does not track, among those that an object refers to."""
    if type(one) in {list, set, deque, tuple}:
        return []
    return [value for value in gc.get_referents(one) if type(value) is dict]


def _kind(one: Any) -> type[Any]:
    """The built-in type of a container, whose methods are called: a subclass may raise anything."""
    return next(kind for kind in _KINDS if issubclass(type(one), kind))


def _length(container: Any) -> int:
    return int(_kind(container).__len__(container))


def _is_container(one: Any) -> bool:
    """By type: isinstance would run code of proxies."""
    return issubclass(type(one), _KINDS)


def _describe(container: Any, more: int) -> Container:
    owner = _owner(container)  # before there are iterators, which would refer to it, too
    kind = _kind(container)
    entries = reversed(dict.values(container)) if kind is dict else _newest_first(kind, container)
    newest = list(islice(entries, _SAMPLE))
    kinds = Counter(_name(type(entry)) for entry in newest)
    entry_kind = kinds.most_common(1)[0][0] if kinds else ""
    each = sum(map(_size, newest)) / max(1, len(newest))
    keys = list(islice(dict.__iter__(container), _SAMPLE)) if kind is dict else []
    each += sum(map(_size, keys)) / max(1, len(keys))
    return Container(type(container).__name__, owner, more, entry_kind, int(more * each))


def _newest_first(kind: type[Any], container: Any) -> Iterator[Any]:
    walk: Iterator[Any] = getattr(kind, "__reversed__", kind.__iter__)(container)
    return walk


def _owner(container: Any) -> str:
    """Type of an object, or name of a module, that refers to a container; views of it are none."""
    for one in gc.get_referrers(container):
        if type(one) is dict and "__name__" in one and "__spec__" in one:
            return str(one["__name__"])
        if not issubclass(type(one), (*_KINDS, tuple)) and type(one) not in _PASSING:
            return _name(type(one))
    return ""


def _size(entry: Any) -> int:
    """Size of an entry: of a tensor its storage, of other things what Python tells."""
    try:
        nbytes = getattr(entry, "nbytes", 0)  # of arrays that do not own their data, of tensors
        return max(sys.getsizeof(entry), nbytes if isinstance(nbytes, int) else 0)
    except Exception:  # noqa: BLE001 an object of the user's may raise anything
        return 0


def _name(kind: type) -> str:
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"
