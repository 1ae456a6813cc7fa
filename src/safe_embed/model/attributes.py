"""What there is to read and to set on a loaded SentenceTransformer, whichever version made it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from safe_embed.model.loader import SentenceTransformer

# What users set on a model; it goes over to a fresh one.
_USER_SETTINGS = (
    "max_seq_length",
    "prompts",
    "default_prompt_name",
    "truncate_dim",
    "similarity_fn_name",
)


def user_settings(model: SentenceTransformer) -> dict[str, Any]:
    """Note what users may have set on a model.

    Args:
        model: Any SentenceTransformer.

    Returns:
        For :func:`apply_settings`.
    """
    kept = {name: getattr(model, name) for name in _USER_SETTINGS if hasattr(model, name)}
    return {**kept, "device": model.device, "dtype": model.dtype}


def apply_settings(model: SentenceTransformer, wanted: Mapping[str, Any]) -> None:
    """Set on a fresh model what users had set on the one before.

    Args:
        model: A SentenceTransformer.
        wanted: What :func:`user_settings` gave.
    """
    for name in _USER_SETTINGS:
        if name in wanted and getattr(model, name) != wanted[name]:
            setattr(model, name, wanted[name])
    if (model.device, model.dtype) != (wanted["device"], wanted["dtype"]):
        model.to(wanted["device"], wanted["dtype"])
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
    """Tell the dimension of a model's vectors.

    Args:
        model: Any SentenceTransformer.

    Returns:
        The dimension, or ``None`` if the model does not know it.
    """
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
