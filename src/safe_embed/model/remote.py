"""What an encoder knows of a model that it does not hold: facts, settings, and how calls flow."""

from __future__ import annotations

from collections import deque
from typing import Any

from safe_embed.errors import WorkerError
from safe_embed.model.attributes import least
from safe_embed.model.batching import needs_padding, work
from safe_embed.model.inference import Inference, Settings, Task
from safe_embed.model.loader import similarity_function
from safe_embed.model.messages import ModelFacts


class RemoteInference(Inference):
    """Flows whose tasks are done by worker processes.

    Args:
        settings: What the encoder does with every text.
        changes: Takes note of what calls change on the model, for workers that come later.

    Attributes:
        facts: What is known of the model; ``None`` before the first worker is ready.
        model: Its settings, as users see and change them.
        ended: Texts of each call that has ended and no worker knows of yet.
    """

    __slots__ = ("_changes", "ended", "facts", "model")

    def __init__(self, settings: Settings, changes: dict[str, Any]) -> None:
        super().__init__(settings, unit_length=False)
        self._changes = changes
        self.facts: ModelFacts | None = None
        self.model: RemoteModel | None = None
        self.ended: deque[int] = deque()

    def learn(self, facts: ModelFacts) -> None:
        """Take note of the model, the first time; later workers have the same one.

        Args:
            facts: What a worker says of its model.
        """
        if self.facts is None:
            self.facts = facts
            self.model = RemoteModel(facts)
            self.unit_length = facts.unit_length

    def learn_from(self, other: RemoteInference) -> None:
        """Take over what is known, and what users have set.

        Args:
            other: Of the same model.
        """
        self.facts, self.model = other.facts, other.model
        self.unit_length = other.unit_length

    def tally(self, texts: int) -> None:
        """Note that a call has ended.

        Args:
            texts: How many it had.
        """
        super().tally(texts)
        self.ended.append(texts)

    def move(self, device: Any) -> None:
        """Leave it to the tasks of the call, which bring the device along; see :meth:`count`.

        Args:
            device: As upstream's ``encode`` takes it.
        """

    def count(self, task: Task) -> None:
        """Count what a task has given the model to read.

        Args:
            task: A task that is done.
        """
        if task.name == "forward":
            can = self.facts is not None and self.facts.unpadded and self.device_type == "cpu"
            unpads = can and not task.options["model_kwargs"] and needs_padding(task.items)
            shape = task.options["shape"]
            self.done = self.done.plus(**work(task.items, shape, fills=not unpads))
            device = task.options["device"]
            if device is not None:  # which works: later workers begin there
                self.known.device_name = str(device)
                self._changes["device"] = device

    @property
    def limit_tokens(self) -> float | None:
        """Tokens that the model reads of one chunk, as it says itself."""
        return self.known.max_seq_length

    @property
    def device_type(self) -> str:
        """Kind of the device that the model is on."""
        return self.known.device_name.partition(":")[0]

    @property
    def known(self) -> RemoteModel:
        """The model's settings; no call is begun before the first worker has told them."""
        if self.model is None:
            raise WorkerError("The first worker is not ready yet.")
        return self.model


class RemoteModel:
    """What users read and set on a SentenceTransformer, of one in another process.

    Nothing here imports torch unless a user asks for something that is torch's.

    Args:
        facts: What a worker says of its model.
    """

    def __init__(self, facts: ModelFacts) -> None:
        self._positions = facts.positions
        self._limit = facts.limit_tokens
        self.device_name = facts.device
        self.dtype_name = facts.dtype
        self.prompts: dict[str, Any] = facts.settings["prompts"]
        self.default_prompt_name: str | None = facts.settings["default_prompt_name"]
        self.truncate_dim: int | None = facts.settings["truncate_dim"]
        self._similarity = str(facts.settings["similarity_fn_name"])
        self._dimension = facts.dimension
        self._model_kwargs = facts.model_kwargs

    @property
    def max_seq_length(self) -> float | None:
        """Tokens that the model reads of one chunk; may be set, but not above its positions."""
        return least(self._limit, self._positions)

    @max_seq_length.setter
    def max_seq_length(self, value: float) -> None:
        self._limit = value

    @property
    def device(self) -> Any:
        """Where the model is, as torch says it."""
        import torch

        return torch.device(self.device_name)

    @property
    def dtype(self) -> Any:
        """The type of the model's weights, as torch says it."""
        import torch

        return getattr(torch, self.dtype_name.removeprefix("torch."))

    @property
    def similarity_fn_name(self) -> str:
        """Which function compares vectors; may be set."""
        return self._similarity

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: Any) -> None:
        name = str(getattr(value, "value", value))
        similarity_function(name, pairwise=False)  # raises if there is none
        self._similarity = name

    def get_embedding_dimension(self) -> int | None:
        """Tell the dimension of the vectors that ``encode`` gives."""
        if self._dimension is None or self.truncate_dim is None:
            return self._dimension
        return min(self._dimension, self.truncate_dim)

    def get_model_kwargs(self) -> list[str]:
        """Name the further arguments that the model takes."""
        return self._model_kwargs

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Compare all vectors with all; upstream's own function."""
        return similarity_function(self._similarity, pairwise=False)(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Compare vectors in pairs; upstream's own function."""
        return similarity_function(self._similarity, pairwise=True)(embeddings1, embeddings2)
