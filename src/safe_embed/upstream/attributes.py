"""What a loaded SentenceTransformer, of any version, or its files say of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


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


# Modules that define the class: of sentence-transformers 6, and of 5.
_HOMES = (
    "sentence_transformers.sentence_transformer.model",
    "sentence_transformers.SentenceTransformer",
)


def least(*limits: float | None) -> float | None:
    """Choose the limit that counts.

    Args:
        *limits: Numbers of tokens, or ``None`` for each that does not exist.

    Returns:
        The least of them, or ``None`` if there is none.
    """
    return min((limit for limit in limits if limit is not None), default=None)


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
    if isinstance(padding_id := getattr(table, "padding_idx", None), int):
        return padding_id + 1
    if isinstance(offset := getattr(table, "offset", None), int):  # BART, OPT
        return offset
    ids = getattr(owner, "position_ids", None)  # from 2 on in Nystromformer
    return max(padding + 1, 0 if ids is None or not len(ids) else int(ids.min()))


def task_limits(model: SentenceTransformer) -> dict[str | None, int]:
    """Tell the limits that a model's first module sets besides ``max_seq_length``.

    Args:
        model: Any SentenceTransformer.

    Returns:
        Tokens by task (``"query"``, ``"document"``), or by ``None`` for all texts; each wins over
        ``max_seq_length``, as in sentence-transformers, and the one for all texts over the others.
    """
    module = model[0]
    of_all = (getattr(module, "processing_kwargs", None) or {}).get("text", {}).get("max_length")
    limits: dict[str | None, Any] = {
        None: of_all,
        "query": of_all or getattr(module, "query_length", None),
        "document": of_all or getattr(module, "document_length", None),
    }
    return {task: limit for task, limit in limits.items() if isinstance(limit, int)}


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
    return sum(weight.numel() * weight.element_size() for weight in weights)


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
            dimension: int | None = method()
            return dimension
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


def similarity_function(name: str, *, pairwise: bool) -> Any:
    """Find upstream's function that compares vectors.

    Args:
        name: Such as ``"cosine"``.
        pairwise: Whether it compares in pairs, or all with all.

    Returns:
        The function of two arrays or tensors; gives a tensor.
    """
    from sentence_transformers import SimilarityFunction

    if pairwise:
        return SimilarityFunction.to_similarity_pairwise_fn(name)
    return SimilarityFunction.to_similarity_fn(name)


def stop_pool(pool: Any) -> None:
    """Stop the processes of upstream's own pool.

    Args:
        pool: What upstream's ``start_multi_process_pool`` gave.
    """
    sentence_transformer().stop_multi_process_pool(pool)


def sentence_transformer() -> type[SentenceTransformer]:
    """Find upstream's class, also where a program has put another one in its place.

    ``sentence_transformers.SentenceTransformer = SafeEncoder`` makes libraries use SafeEncoder,
    which must not call itself then.

    Returns:
        What has that name in sentence_transformers, if it is a model of torch; else the class from
        the module that defines it.
    """
    import sentence_transformers
    from torch import nn

    kind: Any = sentence_transformers.SentenceTransformer
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        for home in _HOMES:
            with suppress(ImportError):
                kind = import_module(home).SentenceTransformer
                break
    return kind  # type: ignore[no-any-return]


def assemble(modules: Iterable[Any], options: Mapping[str, Any]) -> SentenceTransformer:
    """Put a SentenceTransformer together from modules; it cannot be reloaded.

    Args:
        modules: Modules of torch, in order, such as a Transformer and a Pooling.
        options: Further arguments for ``SentenceTransformer``.

    Returns:
        The model.
    """
    return sentence_transformer()(modules=list(modules), **options)


def preprocess(
    model: SentenceTransformer, texts: Sequence[str], prompt: str | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Make the features of texts by upstream's own method.

    Args:
        model: Any SentenceTransformer.
        texts: The texts.
        prompt: What goes in front of each; ``None`` for nothing.
        options: Further arguments of the method.

    Returns:
        Tensors by name.
    """
    if hasattr(model, "preprocess"):
        features: dict[str, Any] = model.preprocess(list(texts), prompt=prompt, **options)
    else:  # sentence-transformers 5 calls it tokenize, and its callers put the prompt in front
        features = model.tokenize([(prompt or "") + text for text in texts], **options)
    return features
