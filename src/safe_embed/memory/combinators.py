"""Combinators of policies: ``|`` (any of them acts) and ``&`` (all of them must act)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeGuard

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import listed, shown
from safe_embed.memory.types import Reason, ReloadPolicy, Usage


def is_policy(value: object) -> TypeGuard[ReloadPolicy]:
    """Tell whether a value is a policy instance.

    Args:
        value: Any object.

    Returns:
        Whether it has a method ``reason`` and is not a class.
    """
    return isinstance(value, ReloadPolicy) and not isinstance(value, type)


def printed(policy: object) -> str:
    """Format a policy for a message or a repr.

    Args:
        policy: Any policy.

    Returns:
        The expression that makes it, for a policy of this package; for a user's own class, whose
        repr may hold a text, the type only.
    """
    return repr(policy) if type(policy).__module__.startswith("safe_embed.") else shown(policy)


class Joinable:
    """Base class of policies: adds ``|`` and ``&`` with any policy, a user's own included."""

    __slots__ = ()

    def reason(self, usage: Usage) -> Reason | None:
        """Decide whether something must be done now.

        Args:
            usage: Counts and measurements of the loaded model.

        Returns:
            What must be done and why; ``None`` if nothing.
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
    """A combinator of one or more policies; raises ConfigError for none, or for other values."""

    policies: tuple[ReloadPolicy, ...]

    def __post_init__(self) -> None:
        given = tuple(self.policies)
        if not given or not all(is_policy(policy) for policy in given):
            msg = both(
                f"{type(self).__name__} was given ({listed(given)}). Give one or more policies, "
                "such as MemoryGrowth('200 MiB').",
                f"{type(self).__name__} に ({listed(given)}) が渡されました。"
                "MemoryGrowth('200 MiB') のようなポリシーを一つ以上渡してください。",
            )
            raise ConfigError(msg)
        object.__setattr__(self, "policies", tuple(self._flatten(given)))

    def _flatten(self, policies: Iterable[ReloadPolicy]) -> Iterator[ReloadPolicy]:
        """Replace each combinator of the same class by the policies inside it."""
        for policy in policies:
            yield from policy.policies if isinstance(policy, type(self)) else (policy,)


class AnyOf(_Joint):
    """Acts when at least one of the policies does; same as ``a | b``.

    Of several reasons it returns the one with the highest rung, whose remedy covers the others. If
    several allow the same rung, a single rung goes before a bound, the lower bound before the
    higher, and the earlier policy before the later. A trim never replaces a reload that is needed.

    Args:
        policies: One or more policies. A nested AnyOf is flattened.
    """

    __slots__ = ()

    def reason(self, usage: Usage) -> Reason | None:
        """Evaluate all policies.

        Args:
            usage: Counts and measurements of the loaded model.

        Returns:
            The strongest reason of the policies; ``None`` if none of them acts.
        """
        reasons = [policy.reason(usage) for policy in self.policies]
        acting = [reason for reason in reasons if reason is not None]
        return min(acting, key=_weakness, default=None)

    def __repr__(self) -> str:
        return " | ".join(map(printed, self.policies))


def _weakness(reason: Reason) -> tuple[int, bool, int]:
    """Sort key: the strongest reason has the smallest."""
    highest = reason.at_most if reason.rung is None else reason.rung
    return -highest, reason.rung is None, reason.bound_bytes or 0


class AllOf(_Joint):
    """Acts when all of the policies do; same as ``a & b``.

    It merges the reasons: texts joined with ``"; "``, the lowest bound, the lowest ``at_most``. If
    any policy has a bound, single rungs are ignored: ``EverySeconds(3600) & MemoryGrowth(2**26)``
    releases the growth in the cheapest way. Otherwise the highest rung counts, up to ``at_most``.

    Args:
        policies: One or more policies. A nested AllOf is flattened.
    """

    __slots__ = ()

    def reason(self, usage: Usage) -> Reason | None:
        """Evaluate the policies in order, until one does not act.

        Args:
            usage: Counts and measurements of the loaded model.

        Returns:
            The merged reason; ``None`` if a policy does not act.
        """
        reasons: list[Reason] = []
        for policy in self.policies:
            reason = policy.reason(usage)
            if reason is None:
                return None
            reasons.append(reason)
        at_most = min(reason.at_most for reason in reasons)
        bounds = [reason.bound_bytes for reason in reasons if reason.bound_bytes is not None]
        rungs = [reason.rung for reason in reasons if reason.rung is not None]
        return Reason(
            "; ".join(reason.text for reason in reasons),
            bound_bytes=min(bounds, default=None),
            rung=min(max(rungs), at_most) if rungs and not bounds else None,
            at_most=at_most,
        )

    def __repr__(self) -> str:
        parts = (
            f"({policy!r})" if isinstance(policy, AnyOf) else printed(policy)
            for policy in self.policies
        )
        return " & ".join(parts)
