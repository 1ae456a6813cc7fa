"""When to give memory back, or to load the model anew: small values without state.

Policies are joined: ``a | b`` acts when one of them says so, ``a & b`` when both do.

Jitter keeps a fleet from reloading at once; ``Usage.luck`` says how much of it applies. Counts,
time and growth act up to the share *jitter* later than asked for; ``MemoryAbove`` protects a limit,
so it acts up to that share earlier. A policy whose bound is kept is silent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from safe_embed.errors import ConfigError
from safe_embed.foreign import shown
from safe_embed.memory.combinators import AllOf, AnyOf, Joinable, is_policy
from safe_embed.memory.cool_down import CoolDown
from safe_embed.memory.sizes import format_mib, format_size, parse_size
from safe_embed.memory.types import Reason, ReloadPolicy, Rung, Usage

_JITTER = 0.1
_COOL_DOWN_SECONDS = 60.0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# Printed without a name.
_FIRST = frozenset({"n", "seconds", "bytes"})

# Argument -> what it must be, as a test and in words.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "n": (lambda n: isinstance(n, int) and _is_number(n) and n >= 1, "a whole number from 1 on"),
    "seconds": (lambda time: _is_number(time) and time > 0, "a number above 0"),
    "share": (
        lambda share: share is None or (_is_number(share) and 0 < share <= 1),
        "0 < share <= 1",
    ),
    "jitter": (lambda share: _is_number(share) and 0 <= share < 1, "0 <= jitter < 1"),
    "bytes": (lambda _: True, "a size"),  # parse_size has looked at it
    "cool_down_seconds": (lambda time: _is_number(time) and time >= 0, "a number from 0 on"),
    "at_most": (lambda rung: isinstance(rung, Rung), "a Rung, such as Rung.TRIM"),
}


@dataclass(frozen=True, slots=True, repr=False)
class _Policy(Joinable):
    """A policy that is no joint: checks its arguments, and prints as what makes it again."""

    def __post_init__(self) -> None:
        for name, value in self._arguments():
            allowed, needed = _RULES[name]
            if not allowed(value):
                msg = f"{type(self).__name__}: {name}={shown(value)} cannot be used. Give {needed}."
                raise ConfigError(msg)

    def _arguments(self) -> Iterator[tuple[str, Any]]:
        return ((one.name, getattr(self, one.name)) for one in fields(self))

    def __repr__(self) -> str:
        usual = {one.name: one.default for one in fields(self)}
        told = {name: value for name, value in self._arguments() if value != usual[name]}
        shown = [f"{name}={_shown(name, value)}" for name, value in told.items()]
        if shown and next(iter(told)) in _FIRST:
            shown[0] = shown[0].partition("=")[2]
        return f"{type(self).__name__}({', '.join(shown)})"


def _shown(name: str, value: object) -> str:
    if name == "bytes":
        return repr(format_size(parse_size(value)))
    return f"Rung.{value.name}" if isinstance(value, Rung) else repr(value)


class Never(_Policy):
    """Does nothing: memory is given back only when asked for."""

    __slots__ = ()

    def reason(self, usage: Usage) -> None:
        """Find nothing to do.

        Args:
            usage: Not looked at.
        """


@dataclass(frozen=True, slots=True, repr=False)
class _Every(_Policy):
    """Loads the model anew after so many of something."""

    n: int
    jitter: float = field(default=_JITTER, kw_only=True)
    _counted: ClassVar[str]

    def reason(self, usage: Usage) -> Reason | None:
        """Look at the count since the model was loaded.

        Args:
            usage: Counts and measurements.

        Returns:
            From ``n + floor(n * jitter * luck)`` on, that the model is to be loaded anew.
        """
        done: int = getattr(usage, self._counted)
        due = self.n + math.floor(self.n * self.jitter * usage.luck)
        if done < due:
            return None
        text = f"{done:,} {self._counted} since the model was loaded, {due:,} allowed"
        return Reason(text, rung=Rung.MODEL)


class EveryCalls(_Every):
    """Loads the model anew after so many calls of ``encode``.

    Args:
        n: How many.
        jitter: Up to which share of *n* it may be later; 10 calls stay 10 at the default.
    """

    __slots__ = ()
    _counted = "calls"


class EveryTexts(_Every):
    """Loads the model anew after so many texts.

    Args:
        n: How many.
        jitter: Up to which share of *n* it may be later.
    """

    __slots__ = ()
    _counted = "texts"


class EveryTokens(_Every):
    """Loads the model anew after so many tokens, special tokens and prompts included.

    Args:
        n: How many.
        jitter: Up to which share of *n* it may be later.
    """

    __slots__ = ()
    _counted = "tokens"


@dataclass(frozen=True, slots=True, repr=False)
class EverySeconds(_Policy):
    """Loads the model anew after a time.

    Args:
        seconds: How long after it was loaded.
        jitter: Up to which share of *seconds* it may be later.
    """

    seconds: float
    jitter: float = field(default=_JITTER, kw_only=True)

    def reason(self, usage: Usage) -> Reason | None:
        """Look at the time since the model was loaded.

        Args:
            usage: Counts and measurements.

        Returns:
            From ``seconds * (1 + jitter * luck)`` on, that the model is to be loaded anew.
        """
        due = self.seconds * (1 + self.jitter * usage.luck)
        if usage.seconds < due:
            return None
        text = f"{usage.seconds:,.1f} s since the model was loaded, {due:,.1f} s allowed"
        return Reason(text, rung=Rung.MODEL)


def _is_cooling(usage: Usage, policy: MemoryGrowth | MemoryAbove, bound_bytes: int) -> bool:
    allowed = None if policy.bytes is None else int(policy.bytes)
    return CoolDown(policy.cool_down_seconds, policy.at_most, allowed).holds(usage, bound_bytes)


@dataclass(frozen=True, slots=True, repr=False)
class MemoryGrowth(_Policy):
    """Acts when the process holds so much more than after warm-up, to get it back under that.

    Paged-in weights are no growth. Before warm-up is over there is nothing to compare with.

    Args:
        bytes: How much more is allowed, such as ``"300 MiB"``.
        jitter: Up to which share of *bytes* more it may be before something is done.
        cool_down_seconds: How long the policy is silent after a remedy, by whichever policy, that
            did as much as it could do itself, and missed its bound or had little to give back
            since. A policy that only trims is silent after any remedy. Near a limit, from 80 % on,
            a policy that may take the highest rung there is has no cool-down.
        at_most: The highest rung that it may ask for.

    Raises:
        ConfigError: If an argument cannot be used.
    """

    bytes: int | str
    jitter: float = field(default=_JITTER, kw_only=True)
    cool_down_seconds: float = field(default=_COOL_DOWN_SECONDS, kw_only=True)
    at_most: Rung = field(default=Rung.PROCESS, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bytes", parse_size(self.bytes))
        _Policy.__post_init__(self)

    def reason(self, usage: Usage) -> Reason | None:
        """Look at the growth of what the process holds.

        Args:
            usage: Counts and measurements.

        Returns:
            Above ``bytes * (1 + jitter * luck)``, that it must get under the baseline + *bytes*.
        """
        held, growth = usage.sample.held_bytes, usage.growth_bytes
        if held is None or growth is None:
            return None
        allowed = int(self.bytes)
        bound = held - growth + allowed
        if growth <= allowed * (1 + self.jitter * usage.luck) or _is_cooling(usage, self, bound):
            return None
        text = f"{format_mib(growth)} more than after warm-up, {format_mib(allowed)} allowed"
        return Reason(text, bound_bytes=bound, at_most=self.at_most)


@dataclass(frozen=True, slots=True, repr=False)
class MemoryAbove(_Policy):
    """Acts when the process holds too much, or when its limit is nearly reached.

    The limit is the one with the least room: cgroup, RLIMIT_AS or machine. Others may use it up as
    well, and all that this process can do is to give back its own: what is too much is taken off
    what it holds. A bound below what the model needs cannot be kept, so join a share with
    MemoryGrowth: near the limit *and* grown.

    Args:
        bytes: What the process may hold, such as ``"2 GiB"``.
        share: Or which share of the limit may be used, such as 0.9.
        jitter: Up to which share of that less it acts.
        cool_down_seconds: As in MemoryGrowth.
        at_most: The highest rung that it may ask for.

    Raises:
        ConfigError: If an argument cannot be used, or not exactly one of *bytes* and *share* is
            given.
    """

    bytes: int | str | None = None
    share: float | None = None
    jitter: float = field(default=_JITTER, kw_only=True)
    cool_down_seconds: float = field(default=_COOL_DOWN_SECONDS, kw_only=True)
    at_most: Rung = field(default=Rung.PROCESS, kw_only=True)

    def __post_init__(self) -> None:
        if (self.bytes is None) == (self.share is None):
            msg = f"bytes={shown(self.bytes)}, share={shown(self.share)}: give exactly one of them."
            raise ConfigError(f"MemoryAbove: {msg}")
        if self.bytes is not None:
            object.__setattr__(self, "bytes", parse_size(self.bytes))
        _Policy.__post_init__(self)

    def reason(self, usage: Usage) -> Reason | None:
        """Look at what the process holds, or at its limit.

        Args:
            usage: Counts and measurements.

        Returns:
            Above ``bytes * (1 - jitter * luck)``, or that share of the limit, that it must hold
            less by what is too much.
        """
        sample = usage.sample
        held, used, whole = sample.held_bytes, sample.limit_used_bytes, sample.limit_bytes
        part = 1 - self.jitter * usage.luck
        if self.share is None:
            used, whole = held, parse_size(self.bytes)
        else:
            part *= self.share
        if held is None or used is None or whole is None:
            return None
        allowed = int(whole * part)
        bound = max(0, held - used + allowed)
        if used <= allowed or _is_cooling(usage, self, bound):
            return None
        text = f"{format_mib(used)} used, {format_mib(allowed)} of {format_mib(whole)} allowed"
        return Reason(text, bound_bytes=bound, at_most=self.at_most)


def default_policy() -> ReloadPolicy:
    """Give the policy for a worker that nobody tuned.

    Free blocks that the allocator keeps are given back at once, in milliseconds. 48 MiB that a trim
    cannot get at cost the tokenizer its cache, or a fresh one; 300 MiB, or 64 near the limit, cost
    whatever is needed. A machine that others fill up makes it do nothing.

    Returns:
        The policy.

    Source:
        300 MB: the growth after which loky retires a worker. 48 MiB: a third of what the tokenizer
        of the oldest supported stack grows by in 500 texts (docs/ja/growth.md).
    """
    return (
        MemoryGrowth("300 MiB")
        | MemoryAbove(share=0.9) & MemoryGrowth("64 MiB")
        | MemoryGrowth("48 MiB", at_most=Rung.TOKENIZER)
        | MemoryGrowth("8 MiB", at_most=Rung.TRIM, cool_down_seconds=0.5)
    )


def resolve_policy(policy: ReloadPolicy | None) -> ReloadPolicy:
    """Check what was given as ``reload``.

    Args:
        policy: A policy; ``None`` turns everything off.

    Returns:
        The policy, or Never.

    Raises:
        ConfigError: If it is no policy.
    """
    if policy is None:
        return Never()
    if not is_policy(policy):
        msg = f"reload={shown(policy)} is no policy. Give one such as EveryCalls(10), or None."
        raise ConfigError(msg)
    return policy


def names_model(policy: ReloadPolicy) -> bool:
    """Tell whether a policy may insist on a new model, whatever the memory is.

    Args:
        policy: A policy; of a user's own it is not known, and taken as one that does not.

    Returns:
        Whether its reason can be the model rung; joined to a bound by ``&`` it is the bound.
    """
    match policy:
        case AnyOf(policies=policies):
            return any(map(names_model, policies))
        case AllOf(policies=policies):
            return all(map(names_model, policies))
        case _:
            return isinstance(policy, _Every | EverySeconds)
