"""What a process will hold by the time that help arrives, if it goes on to grow as it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from safe_embed.memory.types import Reason, Rung, Usage

# What a process holds jumps about for a moment, and shows no trend.
_SHORTEST_TREND_SECONDS = 2.0


def early_reason(
    usage: Usage, lead_seconds: float, ask: Callable[[Usage], Reason | None]
) -> Reason | None:
    """Ask a policy about the moment when another process could take over.

    Otherwise memory would go on to grow above the bound while that process loads.

    Args:
        usage: What is used now.
        lead_seconds: How long another process takes to take over.
        ask: Asks the policy.

    Returns:
        The policy's reason, its bound lowered by the growth to come; ``None`` if nothing grows, or
        no process is to be replaced for it.
    """
    growth = usage.growth_bytes
    if usage.baseline is None or not growth or growth < 0:
        return None
    since = usage.sample.elapsed_seconds - usage.baseline.elapsed_seconds
    more = int(growth * lead_seconds / max(since, _SHORTEST_TREND_SECONDS))
    later = replace(usage.sample, rss_anon_bytes=(usage.sample.held_bytes or 0) + more)
    reason = ask(replace(usage, sample=later))
    if reason is None or reason.bound_bytes is None or reason.at_most < Rung.PROCESS:
        return None
    text = f"{reason.text}, in {lead_seconds:.0f} s when another process is ready"
    return replace(reason, text=text, bound_bytes=reason.bound_bytes - more)
