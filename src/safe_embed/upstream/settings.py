"""What an encoder knows of its model, and what users set on it.

The settings of users are one value. It is read from the first model that is loaded, belongs to the
encoder from then on, and is pushed into every model: now, and whenever a fresh one takes over.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from safe_embed.types import FloatArray
from safe_embed.upstream.attributes import least
from safe_embed.upstream.files import Identity

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

# Fields of ModelSettings that are attributes of a SentenceTransformer by the same name.
_USER_SETTINGS = (
    "max_seq_length",
    "prompts",
    "default_prompt_name",
    "truncate_dim",
    "similarity_fn_name",
)


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What users may set on a model; the same for every model that an encoder loads.

    Attributes:
        max_seq_length: Tokens that the model reads of one chunk, special tokens included; ``None``
            or infinity for any number.
        prompts: Name -> prompt. Users may change the dictionary in place.
        default_prompt_name: The prompt of calls that name none.
        truncate_dim: How many dimensions of a vector are kept; ``None`` for all.
        similarity_fn_name: Which function compares vectors, such as ``"cosine"``.
        device: Where the model was moved to; ``None`` for where it was loaded.
        dtype: What its weights were cast to, such as ``"torch.float16"``; ``None`` for as loaded.
    """

    max_seq_length: float | None
    prompts: dict[str, Any]
    default_prompt_name: str | None
    truncate_dim: int | None
    similarity_fn_name: str
    device: str | None = None
    dtype: str | None = None

    @classmethod
    def of(cls, model: SentenceTransformer) -> ModelSettings:
        """Read the settings of a model that was just loaded.

        Args:
            model: Any SentenceTransformer.

        Returns:
            Its settings; the dictionary of prompts is the model's own.
        """
        read: dict[str, Any] = {name: getattr(model, name, None) for name in _USER_SETTINGS}
        return cls(**read)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model since it was loaded, wherever it is.

    Attributes:
        settings: As they were loaded.
        device: Where it was loaded, such as ``"cuda:0"``.
        dtype: The type of its weights, such as ``"torch.float32"``.
        unit_length: Whether it ends in Normalize.
        dimension: Of its whole vectors; ``None`` if the model does not know it.
        model_kwargs: Names of the further arguments that its forward takes.
        weights_bytes: What its weights take on the device.
        load_bytes: Anonymous memory of the process with the model, before any work.
        canary: The vector of a fixed text, by which the model is known in other processes, shape
            (dimension,); ``None`` where there are none.
        positions: Tokens that it has positions for; ``None`` for any number.
        identity: What its files are known by.
        task_limits: See :func:`safe_embed.upstream.attributes.task_limits`.
        engine: What computes it: ``"torch"``, ``"onnx"`` or ``"openvino"``.
    """

    settings: ModelSettings
    device: str
    dtype: str
    unit_length: bool
    dimension: int | None
    model_kwargs: list[str]
    weights_bytes: int
    load_bytes: int
    canary: FloatArray | None = field(default=None, repr=False)
    positions: int | None = None
    identity: Identity = field(default_factory=Identity)
    task_limits: dict[str | None, int] = field(default_factory=dict)
    engine: str = "torch"


class ModelState:
    """A model as its encoder knows it: the facts, and the current settings.

    Args:
        facts: Of the model.
        settings: Of users; ``None`` for those that the model was loaded with.
    """

    def __init__(self, facts: ModelFacts, settings: ModelSettings | None = None) -> None:
        self.facts = facts
        self._settings = settings or facts.settings
        # The vector of a fixed text, by which the model is known, once it has been asked for.
        self.fingerprint: FloatArray | None = facts.canary
        # Whether it has been reported that most of its bits about 0 tell nothing.
        self.is_sign_reported = False
        self._changing = threading.Lock()

    @property
    def settings(self) -> ModelSettings:
        """The settings of users, as they are now."""
        return self._settings

    def change(self, **changes: Any) -> ModelSettings:
        """Change settings; from any thread.

        Args:
            **changes: Fields of :class:`ModelSettings`.

        Returns:
            The new value, for the models.
        """
        with self._changing:
            self._settings = replace(self._settings, **changes)
            return self._settings

    @property
    def limit_tokens(self) -> float | None:
        """Tokens that the model reads of one chunk: as it is set, and as it has positions."""
        return self.limit_of_task(None)

    def limit_of_task(self, task: Any) -> float | None:
        """Tell how many tokens the model reads of one chunk for a task.

        Args:
            task: Such as ``"query"``; ``None`` for none.

        Returns:
            The limit; ``None`` for any number.
        """
        limits = self.facts.task_limits
        default = limits.get(None, self.settings.max_seq_length)
        known = task if isinstance(task, str) else None
        return least(limits.get(known, default), self.facts.positions)

    @property
    def device(self) -> str:
        """Where the model is, such as ``"cuda:0"``."""
        return self.settings.device or self.facts.device

    @property
    def dtype(self) -> str:
        """The type of the weights, such as ``"torch.float32"``."""
        return self.settings.dtype or self.facts.dtype

    @property
    def is_shared(self) -> bool:
        """Whether the user has loaded the model, so that it cannot be reloaded."""
        return False

    def model_card_data(self) -> Any:
        """Give the data of a model card, which evaluators write their scores into."""
        from sentence_transformers import SentenceTransformerModelCardData

        return SentenceTransformerModelCardData()

    @property
    def dimension(self) -> int | None:
        """The dimension of the vectors that ``encode`` gives; ``None`` if it is unknown."""
        return self.dimension_of(None)

    def dimension_of(self, truncate_dim: int | None) -> int | None:
        """Tell the dimension of the vectors of a call.

        Args:
            truncate_dim: How many dimensions the call keeps; ``None`` for what is set.

        Returns:
            The dimension; ``None`` if it is unknown.
        """
        whole = self.facts.dimension
        kept = self.settings.truncate_dim if truncate_dim is None else truncate_dim
        return whole if whole is None or kept is None else min(whole, kept)


class SharedModelState(ModelState):
    """The state of a model that the user has loaded, and may change outside the encoder.

    Args:
        facts: Of the model.
        model: The model; what it says holds.
    """

    def __init__(self, facts: ModelFacts, model: SentenceTransformer) -> None:
        super().__init__(facts)
        self._model = model

    @property
    def settings(self) -> ModelSettings:
        """The settings of the model, as they are now."""
        return replace(ModelSettings.of(self._model), device=str(self._model.device))

    def change(self, **changes: Any) -> ModelSettings:
        """Change settings of the model.

        Args:
            **changes: Fields of :class:`ModelSettings`.

        Returns:
            The new value.
        """
        settings = replace(self.settings, **changes)
        apply_settings(self._model, settings)
        return settings

    @property
    def dtype(self) -> str:
        """The type of the weights, such as ``"torch.float32"``."""
        return str(self._model.dtype)

    @property
    def is_shared(self) -> bool:
        """Whether the user has loaded the model, so that it cannot be reloaded."""
        return True

    def model_card_data(self) -> Any:
        """Give the data of the model's own card."""
        return self._model.model_card_data


def apply_settings(model: SentenceTransformer, settings: ModelSettings) -> None:
    """Set on a model what users have set on its encoder.

    Args:
        model: A SentenceTransformer.
        settings: Their current value.
    """
    for name in _USER_SETTINGS:
        wanted = getattr(settings, name)
        if getattr(model, name, None) != wanted:
            setattr(model, name, wanted)
    if settings.device is not None and str(model.device) != settings.device:
        model.to(settings.device)
    if settings.dtype is not None and str(model.dtype) != settings.dtype:
        model.to(dtype_of(settings.dtype))
    model.eval()


def dtype_of(name: str) -> torch.dtype | None:
    """Find a type by its name.

    Args:
        name: Such as ``"torch.float16"``.

    Returns:
        The type; ``None`` if torch has none of that name.
    """
    import torch

    dtype: torch.dtype | None = getattr(torch, name.removeprefix("torch."), None)
    return dtype
