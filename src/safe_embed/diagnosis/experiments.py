"""The experiments of the doctor, and what each observes: plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from safe_embed.diagnosis.containers import Container
from safe_embed.diagnosis.readings import Reading

Part = Literal["splitter", "tokenizer", "forward", "whole"]
"""What an experiment calls: a part of the encoder, or all of it (a user's function is whole)."""

Inputs = Literal["same", "one length", "each length twice", "short and long"]
"""The texts of an experiment; only ``"same"`` repeats one."""

TRIM = "trim"
RELEASES = ("gc", TRIM, "tokenizer cache", "new tokenizer", "new model")
"""How memory is given back after the calls, one step after the other."""


class Kind(NamedTuple):
    """A kind of experiment.

    Attributes:
        part: What is called.
        inputs: With which texts.
        callers: From how many threads, in turn; each stays alive.
        is_traced: Whether Python's own memory is traced instead: that takes memory and time.
        name_ja: Its name in Japanese.
    """

    part: Part
    inputs: Inputs
    name_ja: str
    callers: int = 1
    is_traced: bool = False


CALLERS = 16
KINDS: dict[str, Kind] = {
    # The one that most is read from comes first: it may take the longest.
    "varying lengths": Kind("whole", "each length twice", "長さの異なる文"),
    "python objects": Kind("whole", "each length twice", "Python オブジェクト", is_traced=True),
    "one length": Kind("whole", "one length", "同じ長さの文"),
    "same text": Kind("whole", "same", "同じ文"),
    "short and long": Kind("whole", "short and long", "短文と長文"),
    "many threads": Kind("whole", "one length", "多数のスレッド", callers=CALLERS),
    "tokenizer alone": Kind("tokenizer", "each length twice", "トークナイザのみ"),
    "forward alone": Kind("forward", "each length twice", "forward のみ"),
    "splitter alone": Kind("splitter", "each length twice", "分割のみ"),
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined.

    Attributes:
        encoder: ``"sentence-transformers"`` or ``"safe-embed"``; unused with a target.
        model: A folder or the name of a model; unused with a target.
        device: Device of the model; ``None`` leaves it to sentence-transformers.
        target: A function of the user's, as ``"package.module:function"``.
        texts: The user's texts, which inputs are cut from; empty for the packaged ones.
    """

    encoder: Literal["sentence-transformers", "safe-embed"] = "sentence-transformers"
    model: str = "offline"
    device: str | None = None
    target: str | None = None
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """What a fresh process is to do: its first message.

    Attributes:
        name: Name of the experiment, a key of :data:`KINDS`.
        subject: What is examined.
        calls: The most calls to make before the first look.
        deadline_seconds: Time for everything, from the order.
        most_bytes: No more calls are made once the process has grown by so much.
    """

    name: str
    subject: Subject
    calls: int
    deadline_seconds: float
    most_bytes: int

    @property
    def kind(self) -> Kind:
        """The kind of the experiment."""
        return KINDS[self.name]


@dataclass(frozen=True, slots=True)
class GoOn:
    """A message to the process: so many calls more, or none, to end."""

    calls: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A message of the process: how far it is; *planned* is 0 while it loads."""

    calls: int
    planned: int


class Released(NamedTuple):
    """A step that gives memory back, and how much it gave."""

    step: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Observation:
    """What an experiment has observed.

    Attributes:
        name: Name of the experiment.
        held_bytes: Memory that the process held after each call, warm-up left out; if the
            experiment is traced, memory of Python objects instead.
        again_from: Index in *held_bytes* from which lengths come again, or many threads call;
            ``None`` if there is no such point.
        stage_bytes: Stage (``"forward"``, ``"tokenizer"``, ``"call"``: the rest of a call,
            ``"between"`` calls) -> growth of the process during it.
        forward_bytes: How much more memory is in use after each repetition of the last forward
            pass, with nothing around it; ``None`` if no model was called.
        readings: At regular intervals, the first one after warm-up.
        new_mappings: Name of a file -> how many mappings of it the calls have added.
        forward_threads: How many threads have called the model.
        pools: Names of native threads of libraries (such as tokio's) -> their number.
        released: What each step gave back afterwards.
        containers: If traced, the Python containers that have grown.
        line: If traced, the line of code whose objects have grown most, as ``"file.py:12"``.
        seconds: Duration of the calls alone.
        is_out_of_time: Whether it had less time than it wanted.
        error: Name of the type of an exception that ended it; ``None`` if it ended well.
    """

    name: str
    held_bytes: Sequence[int] = ()
    again_from: int | None = None
    stage_bytes: dict[str, int] | None = None
    forward_bytes: float | None = None
    readings: tuple[Reading, ...] = ()
    new_mappings: dict[str, int] | None = None
    forward_threads: int = 0
    pools: dict[str, int] | None = None
    released: tuple[Released, ...] = ()
    containers: tuple[Container, ...] = ()
    line: str = ""
    seconds: float = 0.0
    is_out_of_time: bool = False
    error: str | None = None

    @property
    def kind(self) -> Kind:
        """The kind of the experiment."""
        return KINDS[self.name]

    @property
    def calls(self) -> int:
        """Number of calls, warm-up left out."""
        return len(self.held_bytes)

    def rise(self, start: int = 0, end: int | None = None) -> int:
        """How much memory has risen over a part of the calls, single peaks left out.

        Args:
            start: Index of the first call.
            end: Index after the last call; ``None`` for all.

        Returns:
            In bytes: the median of the last few calls less that of the first few.
        """
        part = _ends(self.held_bytes[start:end])
        return 0 if part is None else part[1] - part[0]

    def gave_back(self, *steps: str) -> int:
        """How much memory some steps gave back.

        Args:
            *steps: Of :data:`RELEASES`.

        Returns:
            The sum in bytes; what a step took instead counts as 0.
        """
        return sum(max(0, one.size_bytes) for one in self.released if one.step in steps)

    def to_dict(self) -> dict[str, Any]:
        """Return the observation for JSON.

        Returns:
            Attribute name -> value.
        """
        values = asdict(self) | {"held_bytes": list(self.held_bytes)}
        values["readings"] = [reading.to_dict() for reading in self.readings]
        values["released"] = {one.step: one.size_bytes for one in self.released}
        values["containers"] = [one._asdict() for one in self.containers]
        return values


class Look(NamedTuple):
    """A message of the process: the calls that were asked for are made. It waits for an answer."""

    observation: Observation


def _ends(values: Sequence[int]) -> tuple[int, int] | None:
    """The medians of the first and of the last values of a series; ``None`` if it has none."""
    few = max(1, min(10, len(values) // 4))
    if not values:
        return None
    return sorted(values[:few])[few // 2], sorted(values[-few:])[few // 2]
