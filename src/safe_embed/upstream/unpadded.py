"""Batches without padding: chunks one after another in one row, each attending to itself alone.

sentence-transformers does this with FlashAttention on a GPU; here it is for processors. Everything
but attention works on single tokens, so it is attention alone that must know where chunks begin.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from safe_embed.batching import STEP

if TYPE_CHECKING:
    import torch

# Architectures whose attention sees nothing of other tokens but through the function below, in the
# version of transformers that the tests see; any other pads.
_ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "camembert", "modernbert")
_TRANSFORMERS = "5"
_NAME = "safe_embed_unpadded"
# Modules of sentence-transformers that read no more of a Transformer than the vectors of tokens and
# the padded input. Behind any other, and behind a user's own, batches are padded.
_READ_TOKENS = ("Pooling", "Normalize", "Dense", "Dropout", "LayerNorm", "WordWeights", "CNN")
# What a Transformer is given in one row.
_INPUT = frozenset({"input_ids", "token_type_ids", "position_ids"})


class NotAskedError(RuntimeError):
    """The model has computed attention without asking for it here, or gives more than tokens."""


@dataclass(slots=True)
class _Batch:
    """What a thread is working on.

    Attributes:
        features: The padded input.
        mask: Where its tokens are, of shape (n, columns).
        runs: (chunks, tokens of each), of equal length, in order.
        asked: How often attention was asked for.
    """

    features: dict[str, Any]
    mask: torch.Tensor
    runs: list[tuple[int, int]]
    asked: int = 0


class _Now(threading.local):
    """The batch of this thread: another may use the same model, padded, at the same moment."""

    batch: _Batch | None = None


_now = _Now()
# Of models in work, by the id of their configuration: their own attention, and by how many threads.
_users: dict[int, tuple[Any, int]] = {}
_changing = threading.Lock()


def _forget() -> None:
    """After a fork: threads that were at work are not in the child."""
    global _changing  # noqa: PLW0603 a lock that a vanished thread holds is never released
    _changing = threading.Lock()
    _users.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def is_supported(model: Any) -> bool:
    """Tell whether a model can be run without padding.

    Args:
        model: A SentenceTransformer.

    Returns:
        Yes for the architectures named above, as transformers itself runs them on a CPU.
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
        and all(_is_upstream_s(one, _READ_TOKENS) for one in others)
        and not any(getattr(one, "_compiled_call_impl", None) for one in (model, first, inner))
    )


def _gives_tokens(first: Any) -> bool:
    """Tell whether a Transformer gives a vector for each token, and nothing else but those."""
    hooks = [
        hook
        for one in (first, first.auto_model)
        for kind in ("_forward_pre_hooks", "_forward_hooks")  # torch shows them nowhere else
        for hook in getattr(one, kind).values()
    ]
    return (
        _is_upstream_s(first, ("Transformer",))
        # sentence-transformers 6 calls it by other names for poolers, scores …; 5 knows one.
        and getattr(first, "module_output_name", "token_embeddings") == "token_embeddings"
        and not first.auto_model.config.output_hidden_states
        and all(hook in (_flatten, _pad) for hook in hooks)
    )


def _is_upstream_s(module: Any, names: tuple[str, ...]) -> bool:
    """Tell whether a module is of one of these classes, and not of a user's own below them."""
    kind = type(module)
    return kind.__name__ in names and kind.__module__.startswith("sentence_transformers.")


def forward(model: Any, features: dict[str, Any]) -> dict[str, Any]:
    """Do what ``model(features)`` does, without computing anything for padding.

    Args:
        model: A SentenceTransformer that :func:`is_supported`.
        features: The input of a padded batch; changed, as upstream changes it.

    Returns:
        The features with ``sentence_embedding``, of shape (n, dimension).

    Raises:
        NotAskedError: If it cannot be done, against all expectation.
    """
    _prepare(model[0])
    mask = features["attention_mask"].bool()
    lengths = mask.sum(dim=1).tolist()
    runs = [(len(list(same)), length) for length, same in groupby(lengths)]
    if fill := -sum(lengths) % STEP:
        runs.append((1, fill))
    with _attending(model[0].auto_model.config):
        _now.batch = _Batch(features, mask, runs)
        try:
            found: dict[str, Any] = model(features)
        finally:
            _now.batch = None
    return found


@contextmanager
def _attending(config: Any) -> Iterator[None]:
    """Have a model ask for the attention below, until the last who wants it has left."""
    with _changing:
        before, users = _users.get(id(config)) or (config._attn_implementation, 0)  # noqa: SLF001
        _users[id(config)] = before, users + 1
        # Its public setter looks through all modules, for each batch.
        config._attn_implementation = _NAME  # noqa: SLF001
    try:
        yield
    finally:
        with _changing:
            before, users = _users.pop(id(config))
            if users > 1:
                _users[id(config)] = before, users - 1
            else:
                config._attn_implementation = before  # noqa: SLF001


def _prepare(first: Any) -> None:
    """Put the hooks below around a model's Transformer, and make the attention known, once."""
    if _flatten in first._forward_pre_hooks.values():  # noqa: SLF001 a copy of a model has them too
        return
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, _mask)
    first.register_forward_pre_hook(_flatten)
    first.register_forward_hook(_pad, prepend=True)  # others see what is padded


def _flatten(first: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Before the Transformer: put all tokens into one row."""
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
    """After it: put the vectors of tokens where the padded batch has them."""
    batch = _now.batch
    if batch is None:
        return given
    # Whatever else it gives is of the one row, where a chunk has no place of its own.
    others = given.keys() - _INPUT - {"token_embeddings"}
    found = given.get("token_embeddings")
    size = sum(count * length for count, length in batch.runs)
    if others or found is None or found.shape[:-1] != (1, size):
        raise NotAskedError
    if batch.asked != first.auto_model.config.num_hidden_layers:
        raise NotAskedError
    tokens = found[0]
    table = tokens.new_zeros((*batch.mask.shape, tokens.shape[-1]))
    table[batch.mask] = tokens[: int(batch.mask.sum())]
    return {**batch.features, "token_embeddings": table}


def _positions(inner: Any, ids: torch.Tensor) -> torch.Tensor:
    """Number the tokens of each row as the architecture does."""
    import torch

    if inner.config.model_type in {"bert", "modernbert"}:
        return torch.arange(ids.shape[1]).expand(ids.shape)
    # From the id of padding on, which itself does not count. Source: transformers,
    # create_position_ids_from_input_ids, after fairseq.
    padding = inner.config.pad_token_id
    counted = (ids != padding).long()
    positions: torch.Tensor = counted.cumsum(dim=1) * counted + padding
    return positions


def _mask(*args: Any, **options: Any) -> Any:
    """Make no mask: chunks that are not there cannot be seen."""
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
    """Attend within each chunk; chunks of the same length go together.

    Arguments and result are those of transformers' own functions: (1, heads, tokens, width) in,
    (1, tokens, heads, width) out.
    """
    import torch
    from transformers.integrations import sdpa_attention

    sdpa: Any = sdpa_attention.sdpa_attention_forward
    batch = _now.batch
    if batch is None:
        found: tuple[torch.Tensor, None] = sdpa(
            module, query, key, value, attention_mask, **options
        )
        return found
    batch.asked += 1
    parts, start = [], 0
    for count, length in batch.runs:
        end = start + count * length
        rows = [
            one[0, :, start:end].reshape(one.shape[1], count, length, -1).transpose(0, 1)
            for one in (query, key, value)
        ]
        window = _window(length, options.get("sliding_window"))
        out, _ = sdpa(module, *rows, window, **options)
        parts.append(out.flatten(0, 1))
        start = end
    return torch.cat(parts)[None], None


def _window(length: int, reach: int | None) -> torch.Tensor | None:
    """Say which tokens see each other where a layer looks no further than *reach* - 1 tokens."""
    import torch

    if reach is None or length <= reach:
        return None
    places = torch.from_numpy(np.arange(length))
    return ((places[:, None] - places).abs() < reach)[None, None]
