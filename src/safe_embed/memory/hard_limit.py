"""The hard limit: where calls wait until memory was given back, whatever a policy allows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import shown
from safe_embed.memory.combinators import AnyOf
from safe_embed.memory.policies import MemoryAbove, MemoryGrowth, Never
from safe_embed.memory.sizes import format_mib, parse_size
from safe_embed.memory.types import MemorySample, Reason, ReloadPolicy, Rung, Usage

# Of the policy's bound, and of the limit of the process, where nothing else was asked for.
_OF_BOUND = 1.5
_OF_LIMIT = 0.97
# Near the limit of the process calls wait only if the encoder itself has grown by so much: what
# others use there is not given back by a reload.
_LEAST_GROWTH_BYTES = 32 * 2**20
# Below that limit there is room for so many batches like the largest one: the next, and the two by
# which a reload tells that the model is the same.
_BATCHES = 3
# A climb that begins at the hard limit keeps so much of the growth, and so ends at the bound of the
# policy, not a byte below the hard limit.
_KEPT_OF_GROWTH = 2 / 3


@dataclass(frozen=True, slots=True)
class HardLimit:
    """How much memory is too much to go on.

    Attributes:
        growth_bytes: The growth since warm-up; ``None`` for any.
        held_bytes: What the process holds; ``None`` for any.
        share: The share of the limit that may be used; ``None`` for all of it.
        includes_machine: Whether *share* is of the machine's memory too, where neither a cgroup nor
            RLIMIT_AS leaves less room.
    """

    growth_bytes: int | None = None
    held_bytes: int | None = None
    share: float | None = None
    includes_machine: bool = False

    def reason(self, usage: Usage, loaded_bytes: int, batch_bytes: int) -> Reason | None:
        """Tell whether calls must wait, and what for.

        Args:
            usage: Counts and measurements of the loaded model.
            loaded_bytes: What the process held when the model was loaded.
            batch_bytes: What a batch was seen to add.

        Returns:
            A reason with the bound under which the process must come; ``None`` if calls may go on.
        """
        held, baseline = usage.sample.held_bytes, usage.baseline
        if held is None:
            return None
        warm = None if baseline is None else baseline.held_bytes
        growth = held - (loaded_bytes if warm is None else warm)
        marks = [self.held_bytes or math.inf]
        if warm is not None and self.growth_bytes is not None:
            marks.append(warm + self.growth_bytes)
        room = self.room_bytes(usage.sample, batch_bytes)
        if growth >= max(_LEAST_GROWTH_BYTES, -room):
            marks.append(held + room)
        mark = min(marks)
        if held <= mark:
            return None
        bound = int(min(mark, held - growth + growth * _KEPT_OF_GROWTH))
        text = f"{format_mib(held)} held, calls wait above {format_mib(mark)}"
        return Reason(text, bound_bytes=max(0, bound), at_most=Rung.PROCESS)

    def room_bytes(self, sample: MemorySample, batch_bytes: int) -> float:
        """Say how much of the limit of the process may still be used.

        Args:
            sample: A measurement.
            batch_bytes: What a batch was seen to add.

        Returns:
            Memory in bytes, negative if too much is used; infinity where no limit counts.
        """
        limit, used = sample.limit_bytes, sample.limit_used_bytes
        is_machine = sample.limit_kind == "machine" and not self.includes_machine
        if self.share is None or limit is None or used is None or is_machine:
            return math.inf
        return min(self.share * limit, limit - _BATCHES * batch_bytes) - used


@dataclass(frozen=True, slots=True)
class Enforced:
    """A policy, and the hard limit behind it; a :class:`ReloadPolicy` itself.

    Attributes:
        policy: Says when memory must be given back while calls go on.
        hard_limit: Says when they wait for it.
    """

    policy: ReloadPolicy
    hard_limit: HardLimit

    def reason(self, usage: Usage) -> Reason | None:
        """Ask the policy.

        Args:
            usage: Counts and measurements of the loaded model.

        Returns:
            What the policy gives.
        """
        return self.policy.reason(usage)


def hard_limit_of(policy: ReloadPolicy) -> HardLimit:
    """Give the hard limit behind a policy.

    Args:
        policy: Any policy.

    Returns:
        Its hard limit; one that is never reached, if it has none.
    """
    return policy.hard_limit if isinstance(policy, Enforced) else HardLimit()


def resolve_hard_limit(value: Any, policy: ReloadPolicy) -> HardLimit:
    """Check the value of the argument ``hard_limit``.

    Args:
        value: A size, for the growth since warm-up; a share of the limit, as a float; ``None`` for
            1.5 times the bound of the policy, and 97 % of the limit of a cgroup or RLIMIT_AS.
        policy: When memory must be given back.

    Returns:
        The hard limit. With ``None`` and a policy that never acts, none at all.

    Raises:
        ConfigError: If *value* is none of these.
    """
    if value is None:
        return HardLimit() if isinstance(policy, Never) else _behind(policy)
    if isinstance(value, float) and 0 < value <= 1:
        return HardLimit(share=float(value), includes_machine=True)
    is_size = isinstance(value, int | str)
    try:
        if is_size:
            return HardLimit(growth_bytes=parse_size(value), share=_OF_LIMIT)
    except ConfigError:
        pass  # the message below says what else there is
    raise ConfigError(
        both(
            f"hard_limit={shown(value)} is not valid. Give the growth at which calls wait, such as "
            "'400 MiB' or a number of bytes, a share of the memory limit such as 0.9, or None.",
            f"hard_limit={shown(value)} は使えません。呼び出しを待たせる増加の上限（'400 MiB' や"
            "バイト数）、メモリ制限に対する割合（0.9 など）、None のどれかを渡してください。",
        )
    )


def _behind(policy: ReloadPolicy) -> HardLimit:
    """Give the hard limit that follows from the lowest bounds of a policy."""
    alternatives = policy.policies if isinstance(policy, AnyOf) else (policy,)
    growths: list[int] = []
    sizes: list[int] = []
    for one in alternatives:
        if not isinstance(one, MemoryGrowth | MemoryAbove) or one.at_most < Rung.MODEL:
            continue  # one that may not load a model asks nobody to wait for a model
        if one.bytes is not None:
            kind = growths if isinstance(one, MemoryGrowth) else sizes
            kind.append(int(_OF_BOUND * parse_size(one.bytes)))
    return HardLimit(min(growths, default=None), min(sizes, default=None), _OF_LIMIT)
