"""Policies joined with ``|`` and ``&``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeGuard

from safe_embed.errors import ConfigError
from safe_embed.foreign import listed, shown
from safe_embed.memory.types import Reason, ReloadPolicy, Usage


def is_policy(value: object) -> TypeGuard[ReloadPolicy]:
    """Tell whether something is a policy: a value, not its class.

    Args:
        value: Anything.

    Returns:
        Whether it can be asked for a reason.
    """
    return isinstance(value, ReloadPolicy) and not isinstance(value, type)


def printed(policy: object) -> str:
    """Write a policy for a message or a repr.

    Args:
        policy: Any policy.

    Returns:
        What makes it again, if it is of this package; the type of a user's own, whose repr may hold
        anything.
    """
    return repr(policy) if type(policy).__module__.startswith("safe_embed.") else shown(policy)


class Joinable:
    """Can be joined with other policies, a user's own among them."""

    __slots__ = ()

    def reason(self, usage: Usage) -> Reason | None:
        """Look at what was used.

        Args:
            usage: Counts and measurements.

        Returns:
            Why something must be done, or ``None``.
        """
        raise NotImplementedError

    def __or__(self, other: object) -> AnyOf:
        return AnyOf((self, other)) if is_policy(other) else NotImplemented

    def __ror__(self, other: object) -> AnyOf:
        return AnyOf((other, self)) if is_policy(other) else NotImplemented

    def __and__(self, other: object) -> AllOf:
        return AllOf((self, other)) if is_policy(other) else NotImplemented

    def __rand__(self, other: object) -> AllOf:
        return AllOf((other, self)) if is_policy(other) else NotImplemented


@dataclass(frozen=True, slots=True, repr=False)
class _Joint(Joinable):
    policies: tuple[ReloadPolicy, ...]

    def __post_init__(self) -> None:
        given = tuple(self.policies)
        if not given or not all(is_policy(one) for one in given):
            msg = f"{type(self).__name__} was given ({listed(given)}). Give policies, one or more."
            raise ConfigError(msg)
        object.__setattr__(self, "policies", tuple(self._flatten(given)))

    def _flatten(self, policies: Iterable[ReloadPolicy]) -> Iterator[ReloadPolicy]:
        for one in policies:
            yield from one.policies if isinstance(one, type(self)) else (one,)


class AnyOf(_Joint):
    """Acts when one of the policies does; ``a | b`` makes it.

    Of several reasons it gives the one whose remedy does most for the others: that which may climb
    highest; of equals a rung, which is certain to be taken, before a bound; then the lowest bound;
    then the first. A trim never hides the need of a reload, and whatever is still wrong after it is
    told when asked again.

    Args:
        policies: One or more; those inside another AnyOf are taken out of it.
    """

    __slots__ = ()

    def reason(self, usage: Usage) -> Reason | None:
        """Ask all policies.

        Args:
            usage: Counts and measurements.

        Returns:
            The strongest reason, or ``None`` if no policy has one.
        """
        reasons = [found for one in self.policies if (found := one.reason(usage)) is not None]
        return min(reasons, key=_weakness, default=None)

    def __repr__(self) -> str:
        return " | ".join(map(printed, self.policies))


def _weakness(reason: Reason) -> tuple[int, bool, int]:
    climbs_to = reason.at_most if reason.rung is None else reason.rung
    return -climbs_to, reason.rung is None, reason.bound_bytes or 0


class AllOf(_Joint):
    """Acts when all of the policies do; ``a & b`` makes it.

    The reasons become one: texts joined, the lowest bound, the lowest ``at_most``. A rung, the
    highest, is left only where no policy has a bound: after an hour *and* grown means to give back
    what has grown, as cheaply as it can be done.

    Args:
        policies: One or more; those inside another AllOf are taken out of it.
    """

    __slots__ = ()

    def reason(self, usage: Usage) -> Reason | None:
        """Ask the policies until one has no reason.

        Args:
            usage: Counts and measurements.

        Returns:
            All reasons in one, or ``None`` if a policy has none.
        """
        reasons: list[Reason] = []
        for one in self.policies:
            found = one.reason(usage)
            if found is None:
                return None
            reasons.append(found)
        at_most = min(found.at_most for found in reasons)
        bounds = [found.bound_bytes for found in reasons if found.bound_bytes is not None]
        rungs = [found.rung for found in reasons if found.rung is not None]
        return Reason(
            "; ".join(found.text for found in reasons),
            bound_bytes=min(bounds, default=None),
            rung=min(max(rungs), at_most) if rungs and not bounds else None,
            at_most=at_most,
        )

    def __repr__(self) -> str:
        told = (f"({one!r})" if isinstance(one, AnyOf) else printed(one) for one in self.policies)
        return " & ".join(told)
