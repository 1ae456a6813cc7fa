"""Why a process grows: what its memory curve shows. Needs the extra ``doctor``."""

from __future__ import annotations

from safe_embed.diagnosis.growth import Growth, Verdict, further_calls, judge

__all__ = ["Growth", "Verdict", "further_calls", "judge"]
