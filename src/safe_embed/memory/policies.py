"""Policies: when to release memory or to reload the model. They are immutable and hold no state.

``a | b`` acts when at least one of two policies acts, ``a & b`` when both act.

Jitter keeps several encoders from reloading at the same moment: the random number ``Usage.luck``
selects a part of it. Policies on counts, time and growth act later by up to the share *jitter* of
their threshold; ``MemoryAbove`` protects a limit, so it acts earlier by up to that share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import shown
from safe_embed.memory.arguments import CheckedPolicy
from safe_embed.memory.combinators import AllOf, AnyOf, is_policy
from safe_embed.memory.cool_down import CoolDown
from safe_embed.memory.sizes import format_mib, is_size, parse_size
from safe_embed.memory.types import Reason, ReloadPolicy, Rung, Usage

_JITTER = 0.1
_COOL_DOWN_SECONDS = 60.0


class Never(CheckedPolicy):
    """Never acts: memory is released only by an explicit call of ``reload``."""

    __slots__ = ()

    def reason(self, usage: Usage) -> None:
        """Return ``None``.

        Args:
            usage: Ignored.
        """


@dataclass(frozen=True, slots=True, repr=False)
class _Every(CheckedPolicy):
    """Reloads the model after *n* calls, texts or tokens (the field of Usage in ``_counted``)."""

    n: int
    jitter: float = field(default=_JITTER, kw_only=True)
    _counted: ClassVar[str]

    def reason(self, usage: Usage) -> Reason | None:
        """Compare the count since the model was loaded with its threshold.

        Args:
            usage: Counts and measurements of the loaded model.

        Returns:
            A reason with ``Rung.MODEL`` if the count is ``n + floor(n * jitter * luck)`` or more;
            ``None`` otherwise.
        """
        count: int = getattr(usage, self._counted)
        threshold = self.n + math.floor(self.n * self.jitter * usage.luck)
        if count < threshold:
            return None
        text = f"{count:,} {self._counted} since the model was loaded, {threshold:,} allowed"
        return Reason(text, rung=Rung.MODEL)


class EveryCalls(_Every):
    """Reloads the model after *n* calls of ``encode``.

    Args:
        n: Number of calls, 1 or more.
        jitter: Upper bound of the random delay, as a share of *n*. The default has no effect for
            *n* up to 10.
    """

    __slots__ = ()
    _counted = "calls"


class EveryTexts(_Every):
    """Reloads the model after *n* texts.

    Args:
        n: Number of texts, 1 or more.
        jitter: Upper bound of the random delay, as a share of *n*.
    """

    __slots__ = ()
    _counted = "texts"


class EveryTokens(_Every):
    """Reloads the model after *n* tokens, special tokens and prompts included.

    Args:
        n: Number of tokens, 1 or more.
        jitter: Upper bound of the random delay, as a share of *n*.
    """

    __slots__ = ()
    _counted = "tokens"


@dataclass(frozen=True, slots=True, repr=False)
class EverySeconds(CheckedPolicy):
    """Reloads the model after a time.

    Args:
        seconds: Time since the model was loaded, greater than 0.
        jitter: Upper bound of the random delay, as a share of *seconds*.
    """

    seconds: float
    jitter: float = field(default=_JITTER, kw_only=True)

    def reason(self, usage: Usage) -> Reason | None:
        """Compare the time since the model was loaded with its threshold.

        Args:
            usage: Counts and measurements of the loaded model.

        Returns:
            A reason with ``Rung.MODEL`` if the time is ``seconds * (1 + jitter * luck)`` or more;
            ``None`` otherwise.
        """
        threshold = self.seconds * (1 + self.jitter * usage.luck)
        if usage.seconds < threshold:
            return None
        text = f"{usage.seconds:,.1f} s since the model was loaded, {threshold:,.1f} s allowed"
        return Reason(text, rung=Rung.MODEL)


def _is_cooling(usage: Usage, policy: MemoryGrowth | MemoryAbove, bound_bytes: int) -> bool:
    allowed = None if policy.bytes is None else int(policy.bytes)
    return CoolDown(policy.cool_down_seconds, policy.at_most, allowed).holds(usage, bound_bytes)


@dataclass(frozen=True, slots=True, repr=False)
class MemoryGrowth(CheckedPolicy):
    """Acts when the memory of the process has grown since warm-up by more than allowed.

    Weights that are paged in do not count. The policy does not act before warm-up is over.

    Args:
        bytes: The growth that is allowed, in bytes or as a string such as ``"300 MiB"``.
        jitter: Upper bound of the random extra growth that is allowed, as a share of *bytes*.
        cool_down_seconds: The policy is silent for this time after a remedy of any policy with the
            same rung or a higher one, if the bound was missed, or if memory has hardly grown since.
            A policy with ``at_most=Rung.TRIM`` is silent after any remedy. When 80 % of a limit are
            used, a policy that may take the highest available rung has no cool-down.
        at_most: The highest rung that may be taken.

    Raises:
        ConfigError: If an argument is invalid.
    """

    bytes: int | str
    jitter: float = field(default=_JITTER, kw_only=True)
    cool_down_seconds: float = field(default=_COOL_DOWN_SECONDS, kw_only=True)
    at_most: Rung = field(default=Rung.PROCESS, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bytes", parse_size(self.bytes))
        CheckedPolicy.__post_init__(self)

    def reason(self, usage: Usage) -> Reason | None:
        """Compare the memory growth since the baseline with what is allowed.

        Args:
            usage: Counts and measurements of the loaded model.

        Returns:
            A reason with the bound baseline + *bytes* if the growth exceeds
            ``bytes * (1 + jitter * luck)``; ``None`` otherwise, and during the cool-down.
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
class MemoryAbove(CheckedPolicy):
    """Acts when the process holds too much memory, or when its memory limit is nearly reached.

    The limit is the one with the least room: of the cgroup, RLIMIT_AS, or the machine. Other
    processes may use it as well, but this process can release only its own memory: the bound is
    what it holds minus the excess. A bound below what the model needs cannot be reached, so combine
    a share with MemoryGrowth: ``MemoryAbove(share=0.9) & MemoryGrowth("64 MiB")``.

    Args:
        bytes: The memory that the process may hold, in bytes or as a string such as ``"2 GiB"``.
        share: The share of the limit that may be used, such as 0.9; instead of *bytes*.
        jitter: Upper bound of the random reduction of that value, as a share of it.
        cool_down_seconds: As in MemoryGrowth.
        at_most: The highest rung that may be taken.

    Raises:
        ConfigError: If an argument is invalid, or not exactly one of *bytes* and *share* is given.
    """

    bytes: int | str | None = None
    share: float | None = None
    jitter: float = field(default=_JITTER, kw_only=True)
    cool_down_seconds: float = field(default=_COOL_DOWN_SECONDS, kw_only=True)
    at_most: Rung = field(default=Rung.PROCESS, kw_only=True)

    def __post_init__(self) -> None:
        if (self.bytes is None) == (self.share is None):
            given = f"bytes={shown(self.bytes)}, share={shown(self.share)}"
            raise ConfigError(
                both(
                    f"MemoryAbove: {given}: give exactly one of them.",
                    f"MemoryAbove: {given}: どちらか一方だけを渡してください。",
                )
            )
        if self.bytes is not None:
            object.__setattr__(self, "bytes", parse_size(self.bytes))
        CheckedPolicy.__post_init__(self)

    def reason(self, usage: Usage) -> Reason | None:
        """Compare the memory of the process with *bytes*, or the use of its limit with *share*.

        Args:
            usage: Counts and measurements of the loaded model.

        Returns:
            A reason if more than ``(1 - jitter * luck)`` of *bytes*, or of *share* of the limit, is
            used; its bound is the held memory minus the excess. ``None`` otherwise.
        """
        sample = usage.sample
        held, used, limit = sample.held_bytes, sample.limit_used_bytes, sample.limit_bytes
        factor = 1 - self.jitter * usage.luck
        if self.share is None:
            used, limit = held, parse_size(self.bytes)
        else:
            factor *= self.share
        if held is None or used is None or limit is None:
            return None
        allowed = int(limit * factor)
        bound = max(0, held - used + allowed)
        if used <= allowed or _is_cooling(usage, self, bound):
            return None
        text = f"{format_mib(used)} used, {format_mib(allowed)} of {format_mib(limit)} allowed"
        return Reason(text, bound_bytes=bound, at_most=self.at_most)


def default_policy() -> ReloadPolicy:
    """Return the default policy of an encoder.

    Growth of 8 MiB: trim, in milliseconds. 48 MiB that a trim does not release: empty the cache of
    the tokenizer, or load a new tokenizer. 300 MiB, or 64 MiB with 90 % of the limit used: any rung
    that is needed. Memory use of other processes alone has no effect.

    Returns:
        The policy.

    Source:
        300 MB: the growth after which loky replaces a worker process. 48 MiB: a third of the growth
        of the tokenizer of the oldest supported versions in 500 texts (docs/ja/growth.md).
    """
    return (
        MemoryGrowth("300 MiB")
        | MemoryAbove(share=0.9) & MemoryGrowth("64 MiB")
        | MemoryGrowth("48 MiB", at_most=Rung.TOKENIZER)
        | MemoryGrowth("8 MiB", at_most=Rung.TRIM, cool_down_seconds=0.5)
    )


def resolve_policy(policy: ReloadPolicy | str | None) -> ReloadPolicy:
    """Check the value of the argument ``reload``.

    Args:
        policy: A policy; a size such as ``"200 MiB"`` for the growth that is allowed, as in
            :class:`MemoryGrowth`; ``None`` disables automatic remedies.

    Returns:
        The policy; ``Never()`` for ``None``.

    Raises:
        ConfigError: If *policy* is none of these.
    """
    if policy is None:
        return Never()
    if isinstance(policy, str) and is_size(policy):
        return MemoryGrowth(policy)
    if not is_policy(policy):
        raise ConfigError(
            both(
                f"reload={shown(policy)} is not a policy. Use one such as EveryCalls(10), a size "
                "such as '200 MiB' for the growth that is allowed, 'default', or None.",
                f"reload={shown(policy)} は使えません。EveryCalls(10) のようなポリシー、増加の上限"
                "（'200 MiB' など）、'default'、None のどれかを渡してください。",
            )
        )
    return policy


def names_model(policy: ReloadPolicy) -> bool:
    """Tell whether a policy can request a reload of the model regardless of memory use.

    Args:
        policy: Any policy; a user's own policy counts as one that cannot.

    Returns:
        Whether its reason can be ``Rung.MODEL`` without a bound: ``Every...`` policies, ``|`` with
        at least one of them, ``&`` of nothing else.
    """
    match policy:
        case AnyOf(policies=policies):
            return any(map(names_model, policies))
        case AllOf(policies=policies):
            return all(map(names_model, policies))
        case _:
            return isinstance(policy, _Every | EverySeconds)
