"""Run a batch on a CPU without padding: all chunks in one row, attention within each chunk only.

sentence-transformers does the same with FlashAttention on GPUs. All layers except attention work on
single tokens, so that only attention needs to know where chunks begin.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import groupby
from typing import TYPE_CHECKING, Any

from safe_embed.batching import STEP
from safe_embed.upstream.blocks import attend, feed_in_blocks

if TYPE_CHECKING:
    import torch

# Architectures whose tokens interact only through the attention function below, in the version of
# transformers that the tests run with. Any other model runs with padding.
_ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "camembert", "modernbert")
_TRANSFORMERS = "5"
_NAME = "safe_embed_unpadded"
# Modules of sentence-transformers that read only the token vectors and the padded input. A model
# with any other module after its Transformer, such as a user's own, runs with padding.
_READ_TOKENS = ("Pooling", "Normalize", "Dense", "Dropout", "LayerNorm", "WordWeights", "CNN")
# The inputs of a Transformer that are put into one row.
_INPUT = frozenset({"input_ids", "token_type_ids", "position_ids"})


class NotAskedError(RuntimeError):
    """The model did not use the attention function of this module, or returns more than tokens."""


@dataclass(slots=True)
class _Batch:
    """The batch that a thread is computing.

    Attributes:
        features: The padded input.
        mask: Whether a position holds a token, bool, shape (n, columns).
        runs: For each run of consecutive chunks of equal length: (number of chunks, tokens of each
            chunk).
        asked: Number of calls of the attention function.
    """

    features: dict[str, Any]
    mask: torch.Tensor
    runs: list[tuple[int, int]]
    asked: int = 0


@dataclass(slots=True)
class _Running:
    """A model that threads run without padding.

    Attributes:
        attention: Its own attention implementation.
        undo: Each takes away one of our hooks on its Transformer.
        threads: How many threads run it.
    """

    attention: Any
    undo: tuple[Callable[[], None], ...]
    threads: int = 0


class _Now(threading.local):
    """The batch of the current thread; other threads may run the same model with padding."""

    batch: _Batch | None = None


_now = _Now()
# id of a running model's configuration -> what must be undone when the last thread has left it.
_running: dict[int, _Running] = {}
_changing = threading.Lock()


def _reset_after_fork() -> None:
    """Reset lock and counts in a forked child, where the threads that held them do not exist."""
    global _changing  # noqa: PLW0603 the old lock may be held by a thread of the parent
    _changing = threading.Lock()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


def is_supported(model: Any) -> bool:
    """Tell whether a model can be run without padding.

    Args:
        model: A SentenceTransformer.

    Returns:
        Whether it is one of ``_ARCHITECTURES`` with the standard classes, on a CPU, and nothing
        else reads or changes the output of its Transformer.
    """
    first, *others = model
    inner = getattr(first, "auto_model", None)
    config: Any = getattr(inner, "config", None)
    return (
        getattr(config, "model_type", None) in _ARCHITECTURES
        and version("transformers").partition(".")[0] == _TRANSFORMERS
        and type(inner).__module__.startswith("transformers.models.")
        and getattr(config, "_attn_implementation", None) in {"sdpa", _NAME}
        and not getattr(config, "is_decoder", False)
        and model.device.type == "cpu"
        and model.tokenizer.padding_side == "right"
        and _gives_tokens(first)
        and all(_is_upstream_class(module, _READ_TOKENS) for module in others)
        and not any(
            getattr(module, "_compiled_call_impl", None) for module in (model, first, inner)
        )
    )


def _gives_tokens(first: Any) -> bool:
    """Whether a Transformer returns token vectors, nothing else, and has no hooks of others."""
    hooks = [
        hook
        for module in (first, first.auto_model)
        for kind in ("_forward_pre_hooks", "_forward_hooks")  # torch has no public attribute
        for hook in getattr(module, kind).values()
    ]
    return (
        _is_upstream_class(first, ("Transformer",))
        # In sentence-transformers 6 the output may be a pooler's, scores …; 5 has only tokens.
        and getattr(first, "module_output_name", "token_embeddings") == "token_embeddings"
        and not first.auto_model.config.output_hidden_states
        and all(hook in (_flatten, _pad) for hook in hooks)
    )


def _is_upstream_class(module: Any, names: tuple[str, ...]) -> bool:
    """Whether a module is of one of these classes of sentence-transformers, not a subclass."""
    kind = type(module)
    return kind.__name__ in names and kind.__module__.startswith("sentence_transformers.")


def forward(model: Any, features: dict[str, Any]) -> dict[str, Any]:
    """Compute ``model(features)`` without computing anything for padding tokens.

    Args:
        model: A SentenceTransformer for which :func:`is_supported` returns ``True``.
        features: The input of a padded batch; modified in place, as ``model(features)`` does.

    Returns:
        The features with ``sentence_embedding``, shape (n, dimension).

    Raises:
        NotAskedError: If the model did not use the attention function of this module in each layer,
            or returned more than token vectors.
    """
    mask = features["attention_mask"].bool()
    lengths = mask.sum(dim=1).tolist()
    runs = [(len(list(same)), length) for length, same in groupby(lengths)]
    if fill := -sum(lengths) % STEP:
        runs.append((1, fill))
    with _attending(model[0], sum(lengths)):
        _now.batch = _Batch(features, mask, runs)
        try:
            result: dict[str, Any] = model(features)
        finally:
            _now.batch = None
    return result


@contextmanager
def _attending(first: Any, tokens: int) -> Iterator[None]:
    """Make a Transformer run a batch in one row, until the last thread has left the block.

    Hooks and attention are set for that time only: the model may be a user's own, which is pickled,
    copied or used elsewhere.
    """
    config = first.auto_model.config
    with _changing:
        running = _running.get(id(config)) or _begin(first, config, tokens)
        running.threads += 1
    try:
        yield
    finally:
        with _changing:
            running.threads -= 1
            if not running.threads:
                del _running[id(config)]
                config._attn_implementation = running.attention  # noqa: SLF001
                for undo in running.undo:
                    undo()


def _begin(first: Any, config: Any, tokens: int) -> _Running:
    """Set our hooks and our attention on a Transformer."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, _mask)
    undo = (
        first.register_forward_pre_hook(_flatten).remove,
        # Hooks of others get padded output.
        first.register_forward_hook(_pad, prepend=True).remove,
        *feed_in_blocks(first.auto_model, tokens),
    )
    running = _running[id(config)] = _Running(config._attn_implementation, undo)  # noqa: SLF001
    # The public setter visits all modules, which is too slow for each batch.
    config._attn_implementation = _NAME  # noqa: SLF001
    return running


def _flatten(first: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Hook before the Transformer: put the tokens of the batch into one row, without padding."""
    import torch

    batch = _now.batch
    if batch is None:
        return None
    size = sum(count * length for count, length in batch.runs)
    positions = _positions(first.auto_model, batch.features["input_ids"])
    tables = {**batch.features, "position_ids": positions}
    flat = {}
    for name in _INPUT & tables.keys():
        row = tables[name][batch.mask]
        flat[name] = torch.nn.functional.pad(row, (0, size - len(row)))[None]
    return flat, *args[1:]


def _pad(first: Any, args: tuple[Any, ...], given: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001 torch's signature
    """Hook after the Transformer: put the token vectors into the shape of the padded batch.

    Raises NotAskedError if the output is not one row of token vectors, or a layer did not use the
    attention function of this module.
    """
    batch = _now.batch
    if batch is None:
        return given
    # Any other output would be about the whole row, not about single chunks.
    others = given.keys() - _INPUT - {"token_embeddings"}
    embeddings = given.get("token_embeddings")
    size = sum(count * length for count, length in batch.runs)
    if others or embeddings is None or embeddings.shape[:-1] != (1, size):
        raise NotAskedError
    if batch.asked != first.auto_model.config.num_hidden_layers:
        raise NotAskedError
    tokens = embeddings[0]
    table = tokens.new_zeros((*batch.mask.shape, tokens.shape[-1]))
    table[batch.mask] = tokens[: int(batch.mask.sum())]
    return {**batch.features, "token_embeddings": table}


def _positions(inner: Any, ids: torch.Tensor) -> torch.Tensor:
    """Return the position ids of padded rows of token ids, as the architecture numbers them."""
    import torch

    if inner.config.model_type in {"bert", "modernbert"}:
        return torch.arange(ids.shape[1]).expand(ids.shape)
    # Positions begin after the id of the padding token; padding tokens are not counted.
    # Source: transformers, create_position_ids_from_input_ids, after fairseq.
    padding = inner.config.pad_token_id
    is_token = (ids != padding).long()
    positions: torch.Tensor = is_token.cumsum(dim=1) * is_token + padding
    return positions


def _mask(*args: Any, **options: Any) -> Any:
    """Return no mask for a batch in one row; otherwise that of transformers."""
    from transformers.masking_utils import sdpa_mask

    return sdpa_mask(*args, **options) if _now.batch is None else None


def _attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention within each chunk; chunks of the same length are computed together.

    Arguments and result are those of transformers' attention functions: input of shape (1, heads,
    tokens, width), output of shape (1, tokens, heads, width).
    """
    import torch
    from transformers.integrations import sdpa_attention

    sdpa: Any = sdpa_attention.sdpa_attention_forward
    batch = _now.batch
    if batch is None:
        output: tuple[torch.Tensor, None] = sdpa(
            module, query, key, value, attention_mask, **options
        )
        return output
    batch.asked += 1
    parts, start = [], 0
    for count, length in batch.runs:
        end = start + count * length
        rows = [
            states[0, :, start:end].reshape(states.shape[1], count, length, -1).transpose(0, 1)
            for states in (query, key, value)
        ]
        out = attend(partial(sdpa, module, **options), rows, options.get("sliding_window"))
        parts.append(out.flatten(0, 1))
        start = end
    return torch.cat(parts)[None], None
