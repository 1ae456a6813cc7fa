"""What a run was made with: noted in its output, and compared when it is resumed."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from safe_embed.encoder import SafeEncoder
from safe_embed.errors import ConfigError, both
from safe_embed.jobs.files import explained
from safe_embed.jobs.job import Job
from safe_embed.jobs.rows import Source
from safe_embed.search.sample import is_same

# Whose releases may change vectors or chunks.
_PACKAGES = (
    *("safe-embed", "sentence-transformers", "transformers", "tokenizers", "torch", "numpy"),
    *("fugashi", "unidic-lite"),
)
# What is noted and not compared: the same model on another device gives nearly the same vectors.
_NOTED = {"device", "python"}


def asked_settings(job: Job, source: Source) -> dict[str, Any]:
    """Collect what is known before the model is loaded.

    Args:
        job: What is asked for.
        source: The input.

    Returns:
        JSON values by name.
    """
    return {
        **job.asked,
        "id_column": source.id_column,
        "input": source.identity,
        "calibration": _digest(job),
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def model_settings(encoder: SafeEncoder, prompt_name: str | None) -> dict[str, Any]:
    """Collect what the loaded model says.

    Args:
        encoder: With the model.
        prompt_name: Of the prompt that the texts get.

    Returns:
        JSON values by name.
    """
    facts = encoder.backend.model.facts
    return {
        "revision": facts.identity.revision,
        "dtype": facts.dtype.removeprefix("torch."),
        "dimension": encoder.get_embedding_dimension(),
        "max_seq_length": encoder.max_seq_length,
        "prompt": encoder.prompts.get(prompt_name or encoder.default_prompt_name or ""),
        "device": facts.device,
        "python": platform.python_version(),
        "fingerprint": [float(number) for number in encoder.fingerprint],
    }


def refuse_other(known: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to continue a run with other settings.

    Args:
        known: Of the unfinished run, or of the output.
        now: Of this run, or some of them.

    Raises:
        ConfigError: If one of those in *now* differs; its name is in the message.
    """
    compared = [name for name in now if name not in _NOTED | {"fingerprint", "versions"}]
    different = [name for name in compared if known.get(name) != now[name]]
    before, after = known.get("versions", {}), now.get("versions", {})
    different += [f"version of {name}" for name in after if after[name] != before.get(name)]
    prints = [
        np.array(each["fingerprint"], np.float32) for each in (known, now) if "fingerprint" in each
    ]
    if len(prints) == 2 and not is_same(*prints):  # noqa: PLR2004 of both
        different.append("fingerprint of the model")
    if different:
        names = ", ".join(different)
        raise ConfigError(
            both(
                f"The run was begun with other settings: {names}. Resume it with the same, or "
                "delete OUT and OUT.parts and begin anew.",
                f"前回と設定が違います（{names}）。同じ設定で再開するか、OUT と OUT.parts を"
                "削除して最初からやり直してください。",
            )
        )


def _digest(job: Job) -> str | None:
    if job.calibration is None:
        return None
    with explained(job.calibration.name):
        return hashlib.sha256(job.calibration.read_bytes()).hexdigest()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
