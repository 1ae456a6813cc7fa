"""What there is to read and to set on a loaded SentenceTransformer, whichever version made it.

The settings of users are one value. It is read from the first model that is loaded, belongs to the
encoder from then on, and is pushed into every model: now, and whenever a fresh one takes over.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_embed.model.files import Identity
from safe_embed.types import FloatArray

if TYPE_CHECKING:
    from safe_embed.model.loader import SentenceTransformer

# Fields of ModelSettings that are attributes of a SentenceTransformer by the same name.
_USER_SETTINGS = (
    "max_seq_length",
    "prompts",
    "default_prompt_name",
    "truncate_dim",
    "similarity_fn_name",
)

# Tables of positions, by their names in transformers' models.
_POSITIONS = frozenset(
    {"position_embeddings", "position_embedding", "embed_positions", "wpe", "positions_embed"}
)
_NO_TEXT = re.compile("vision|visual|image|audio")
# Architectures that number tokens from the id of padding + 1 on, as fairseq does. Source:
# transformers, the models with create_position_ids_from_input_ids.
_RESERVING = frozenset(
    {
        *("roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod", "camembert"),
        *("mpnet", "longformer", "data2vec-text", "ibert", "luke", "lilt", "markuplm", "esm"),
    }
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
    """

    max_seq_length: float | None
    prompts: dict[str, Any]
    default_prompt_name: str | None
    truncate_dim: int | None
    similarity_fn_name: str
    device: str | None = None

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


class ModelState:
    """A model as its encoder knows it: the facts, and the current settings.

    Args:
        facts: Of the model.
        settings: Of users; ``None`` for those that the model was loaded with.
    """

    def __init__(self, facts: ModelFacts, settings: ModelSettings | None = None) -> None:
        self.facts = facts
        self._settings = settings or facts.settings
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
        return least(self.settings.max_seq_length, self.facts.positions)

    @property
    def device(self) -> str:
        """Where the model is, such as ``"cuda:0"``."""
        return self.settings.device or self.facts.device

    @property
    def dtype(self) -> str:
        """The type of the weights, such as ``"torch.float32"``."""
        return self.facts.dtype

    @property
    def dimension(self) -> int | None:
        """The dimension of the vectors that ``encode`` gives; ``None`` if it is unknown."""
        whole, kept = self.facts.dimension, self.settings.truncate_dim
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


def least(*limits: float | None) -> float | None:
    """Choose the limit that counts.

    Args:
        *limits: Numbers of tokens, or ``None`` for each that does not exist.

    Returns:
        The least of them, or ``None`` if there is none.
    """
    return min((one for one in limits if one is not None), default=None)


def stated_limit(folder: Path) -> int | None:
    """Read from the files of a model how many tokens it reads, without loading it.

    Args:
        folder: Of a SentenceTransformer, or of a model of transformers.

    Returns:
        At most so many tokens; ``None`` where the files do not say.
    """
    modules = _read_json(folder / "modules.json")
    first = modules[0].get("path", "") if isinstance(modules, list) and modules else ""
    inner = folder / str(first)
    if isinstance(stated := _stated(inner / "sentence_bert_config.json", "max_seq_length"), int):
        return stated
    positions = _stated(inner / "config.json", "max_position_embeddings")
    longest = _stated(inner / "tokenizer_config.json", "model_max_length")
    if not isinstance(positions, int) or positions < 1:
        return None
    return min(positions, longest) if isinstance(longest, int) else positions


def _stated(file: Path, name: str) -> Any:
    values = _read_json(file)
    return values.get(name) if isinstance(values, dict) else None


def _read_json(file: Path) -> Any:
    """Read a file; ``None`` if there is none, or if it is for upstream to complain about."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return None


def position_tokens(model: SentenceTransformer) -> int | None:
    """Count the tokens that a model has positions for; upstream takes all of them for granted.

    Of the 514 positions of a RoBERTa, two come before the first token's.

    Args:
        model: Any SentenceTransformer.

    Returns:
        How many tokens; ``None`` where positions are computed for any, as rotary ones are, or
        relative.
    """
    inner: Any = getattr(model[0], "auto_model", None)
    config: Any = getattr(inner, "config", None)
    reserves = getattr(config, "model_type", None) in _RESERVING
    if not hasattr(inner, "named_modules"):  # none at all, or that of another engine, such as ONNX
        return config.max_position_embeddings - config.pad_token_id - 1 if reserves else None
    return min(
        (
            table.weight.shape[0] - _reserved(table, owner, config.pad_token_id if reserves else -1)
            for path, owner in inner.named_modules()
            for name, table in owner.named_children()
            if name in _POSITIONS and hasattr(table, "weight") and not _NO_TEXT.search(path)
        ),
        default=None,
    )


def _reserved(table: Any, owner: Any, padding: int) -> int:
    """Count the positions before that of the first token."""
    if isinstance(found := getattr(table, "padding_idx", None), int):
        return found + 1
    if isinstance(offset := getattr(table, "offset", None), int):  # BART, OPT
        return offset
    ids = getattr(owner, "position_ids", None)  # from 2 on in Nystromformer
    return max(padding + 1, 0 if ids is None or not len(ids) else int(ids.min()))


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
    model.eval()


def set_tokenizer(model: SentenceTransformer, tokenizer: Any) -> None:
    """Put another tokenizer into a model.

    Args:
        model: Any SentenceTransformer.
        tokenizer: What its first module is to read texts with.
    """
    module = model[0]
    # sentence-transformers 6 keeps it as the module's processor and once more in its input
    # formatter, 5 as its tokenizer.
    for owner in (module, getattr(module, "input_formatter", None)):
        name = "processor" if hasattr(owner, "processor") else "tokenizer"
        if hasattr(owner, name):
            setattr(owner, name, tokenizer)


def weights_bytes(model: SentenceTransformer | None) -> int:
    """Count what the weights of a model take on its device.

    Args:
        model: Any SentenceTransformer; ``None`` counts nothing.

    Returns:
        Their size in bytes.
    """
    weights = [] if model is None else [*model.parameters(), *model.buffers()]
    return sum(one.numel() * one.element_size() for one in weights)


def embedding_dimension(model: SentenceTransformer) -> int | None:
    """Tell the dimension of all that a model gives, however much of it users want.

    Args:
        model: Any SentenceTransformer.

    Returns:
        The dimension, or ``None`` if the model does not know it.
    """
    wanted, model.truncate_dim = model.truncate_dim, None
    try:
        return _stated_dimension(model)
    finally:
        model.truncate_dim = wanted


def _stated_dimension(model: SentenceTransformer) -> int | None:
    # sentence-transformers 5 knows the second name only, 6 warns about it.
    for name in ("get_embedding_dimension", "get_sentence_embedding_dimension"):
        if method := getattr(model, name, None):
            found: int | None = method()
            return found
    return None


def ends_in_normalize(model: SentenceTransformer) -> bool:
    """Tell whether a model's vectors have unit length by construction.

    Args:
        model: Any SentenceTransformer.

    Returns:
        Whether its last module is Normalize.
    """
    # By name: the class lives in other modules in sentence-transformers 5 than in 6.
    return type(model[-1]).__name__ == "Normalize"
