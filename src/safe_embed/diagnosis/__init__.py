"""Why a process grows: experiments, its memory curve, a log of it. Needs the extra ``doctor``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from safe_embed.diagnosis.growth import Growth, Verdict, further_calls, judge

if TYPE_CHECKING:
    from safe_embed.diagnosis.containers import Container
    from safe_embed.diagnosis.doctor import diagnose
    from safe_embed.diagnosis.experiments import Observation, Released
    from safe_embed.diagnosis.log_file import Log, read_log
    from safe_embed.diagnosis.log_shape import shape_of
    from safe_embed.diagnosis.readings import Reading
    from safe_embed.diagnosis.report import Diagnosis
    from safe_embed.diagnosis.verdicts import Cause, Finding
    from safe_embed.diagnosis.watching import MemoryLog, watch

__all__ = [
    "Cause",
    "Container",
    "Diagnosis",
    "Finding",
    "Growth",
    "Log",
    "MemoryLog",
    "Observation",
    "Reading",
    "Released",
    "Verdict",
    "diagnose",
    "further_calls",
    "judge",
    "read_log",
    "shape_of",
    "watch",
]

# Loaded when it is first used: the shape of a curve needs no process to read.
_HOMES = {
    "Cause": "verdicts",
    "Container": "containers",
    "Diagnosis": "report",
    "Finding": "verdicts",
    "Log": "log_file",
    "MemoryLog": "watching",
    "diagnose": "doctor",
    "Observation": "experiments",
    "Reading": "readings",
    "Released": "experiments",
    "read_log": "log_file",
    "shape_of": "log_shape",
    "watch": "watching",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
