"""Who embeds: each function makes the arms of one process, and loads what they need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

Arms = Mapping[str, Callable[..., Any]]


def upstream(folder: str, device: str) -> Arms:
    """sentence-transformers as it is, with bfloat16, and as in the incident: a call a sentence."""
    import torch
    from sentence_transformers import SentenceTransformer

    import incident

    plain = SentenceTransformer(folder, device=device)
    half = SentenceTransformer(folder, device=device, model_kwargs={"dtype": torch.bfloat16})

    def embed(texts: Any, batch_size: int = 32) -> Any:
        return plain.encode(texts, batch_size=batch_size, show_progress_bar=False)

    def embed_half(texts: Any, batch_size: int = 32) -> Any:
        options = {"batch_size": batch_size, "show_progress_bar": False}
        return half.encode(texts, convert_to_tensor=True, **options).float().cpu().numpy()

    def loop(texts: list[str]) -> Any:
        pieces = [incident.pieces(text) for text in texts]
        return np.stack([np.mean([embed(one) for one in some], axis=0) for some in pieces])

    return {"float32": embed, "bfloat16": embed_half, "loop": loop}


def safe(folder: str, device: str, dtype: str | None, isolation: str = "none") -> Arms:
    """SafeEncoder; nobody watches memory here."""
    from safe_embed import SafeEncoder

    options: dict[str, Any] = {"dtype": dtype, "isolation": isolation}
    encoder = SafeEncoder(folder, device=device, reload=None, **options)

    return {"encode": encoder.encode, "plan": encoder.plan, "dtype": lambda: str(encoder.dtype)}


def budgets(folder: str, device: str) -> Arms:
    """SafeEncoder with batches of so many tokens at most, which are multiples of 512."""
    from safe_embed import SafeEncoder

    chunk = 512
    options: dict[str, Any] = {"max_chunk_tokens": chunk, "max_batch_tokens": 10**9}
    encoder = SafeEncoder(folder, device=device, reload=None, **options)

    def encode(texts: list[str], tokens: int) -> Any:
        return encoder.encode(texts, batch_size=tokens // chunk)

    return {"encode": encode, "plan": encoder.plan}


def others(folder: str) -> Arms:
    """Wrappers of other packages; "missing" gives the reasons for those that are not there."""
    import peers

    arms, missing = peers.available(peers.embedders(folder))
    return {**arms, "missing": lambda: missing}


def matrix(folder: str, device: str) -> Arms:
    """The products of the model alone."""
    import torch
    from transformers import AutoConfig

    import limit

    config = AutoConfig.from_pretrained(folder)

    @cache
    def made(dtype: str, count: int) -> Callable[[], None]:
        return limit.products(config, getattr(torch, dtype), count, device)

    def products(lengths: list[int], dtype: str) -> None:
        made(dtype, limit.operations(config, lengths))()

    return {"products": products}
