"""mteb: an encoder that ``mteb.evaluate`` takes; extra ``mteb``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safe_embed.errors import MissingExtraError
from safe_embed.integrations.adapter import Adapter
from safe_embed.integrations.held_encoder import HeldEncoder, Task, Vectors

try:
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder, get_prompt_name
except ModuleNotFoundError as error:
    raise MissingExtraError("safe_embed.integrations.mteb", error.name or "mteb", "mteb") from error

__all__ = ["SafeMtebEncoder"]


class SafeMtebEncoder(Adapter, AbsEncoder):
    """Embeds the texts of a task whole, whatever their length.

    Queries and documents are embedded by ``encode_query`` and ``encode_document``, other texts by
    ``encode``. The prompt is that of the model for the task, the type of the task, or queries and
    documents: the first that the model has, as mteb chooses.

    Args:
        model: A SafeEncoder, or the name or folder of a model.
        encoder_options: Further arguments of SafeEncoder, with a name or a folder.
        name: Of the results, such as ``"us/our-model"``; ``None`` for the name of the model, if it
            has one.

    Raises:
        ConfigError: If an argument cannot work.
    """

    def __init__(
        self,
        model: Any = None,
        *,
        encoder_options: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        self._held = HeldEncoder(model, encoder_options)
        self.model = self._held.encoder  # AbsEncoder compares vectors as this says
        known = self._held.settings()["model"]
        if name is None and known is not None and "/" in known and not Path(known).exists():
            name = known
        overwrites = {} if name is None else {"name": name}
        self.mteb_model_meta = ModelMeta.create_empty(overwrites=overwrites)

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,  # noqa: ARG002 the signature is mteb's
        hf_subset: str,  # noqa: ARG002 the signature is mteb's
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> Vectors:
        """Embed the texts of a task.

        Args:
            inputs: A loader of batches with the key ``"text"``.
            task_metadata: Of the task; says which prompt is taken.
            hf_split: Not used.
            hf_subset: Not used.
            prompt_type: Query, document or ``None``.
            **kwargs: Arguments of ``encode``, such as ``batch_size``.

        Returns:
            Shape (n_texts, dimension).
        """
        texts = [text for batch in inputs for text in batch["text"]]
        encoder = self._held.encoder
        prompt_name = get_prompt_name(dict(encoder.prompts), task_metadata, prompt_type)
        tasks: dict[str | None, Task] = {"query": "query", "document": "document"}
        task = tasks.get(None if prompt_type is None else prompt_type.value)
        return self._held.vectors(texts, task, prompt_name=prompt_name, **kwargs)
