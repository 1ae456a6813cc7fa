"""Whether a model can run in bfloat16: on this processor, and without other vectors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("safe_embed")

# A model is narrowed only if no text of the check moves further: cosine to its own float32 vector.
# e5-small moves to 0.9999; a model that overflows or has no bfloat16 kernel falls far below.
LEAST_COSINE = 0.999
# CUDA devices compute bfloat16 natively from Ampere on.
# Source: CUDA C++ Programming Guide, "Compute Capabilities".
_CUDA_CAPABILITY = (8, 0)

CHECK_TEXTS = (
    "猫。",
    "日本の首都はどこですか？",
    "2024年4月1日、東京都千代田区で気温が25.3℃に達した。",
    "インストールするには pip install を実行し、設定ファイルに API のアドレスを書いてください。",
    "「早く行こうよ」と彼女は言ったが、彼はまだ靴を履いていなかった。外では雨が降りはじめていた。",
    "京都は延暦13年に都と定められて以来、千年余りにわたって天皇の住まう都であった。" * 3,
)


def is_native(device: torch.device) -> bool:
    """Tell whether a device computes bfloat16 natively, and so faster than float32.

    Args:
        device: Where a model is.

    Returns:
        Yes for processors with AVX512-BF16 or AMX-BF16 and for CUDA from 8.0 on; no wherever torch
        does not say so.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _CUDA_CAPABILITY
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    asked = [getattr(torch.cpu, name, lambda: False) for name in names]
    return device.type == "cpu" and any(has() for has in asked)


def try_bfloat16(model: Any) -> bool:
    """Turn a model to bfloat16 where that is faster; tell whether it still gives its own vectors.

    Args:
        model: A SentenceTransformer that nobody else uses, with its own tokenizer. What is not
            in float32 stays as it is.

    Returns:
        Whether the model can be used; if not, its weights have lost their precision.
    """
    import torch

    if model.dtype != torch.float32 or not is_native(model.device):
        logger.info("dtype='auto': the model stays in %s.", model.dtype)
        return True
    before = _vectors(model)
    try:
        after = _vectors(model.to(torch.bfloat16))
    except (RuntimeError, TypeError) as error:  # a layer without a kernel for it
        logger.warning("dtype='auto': bfloat16 fails with %s; float32 it is.", type(error).__name__)
        return False
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    cosine = float(np.min(np.sum(before * after, axis=1) / lengths))
    if cosine >= LEAST_COSINE:
        logger.info("dtype='auto': the model runs in bfloat16, cosine to float32 %.5f.", cosine)
        return True
    logger.warning(
        "dtype='auto': in bfloat16 vectors move to a cosine of %.5f, less than %s; float32 it is.",
        *(cosine, LEAST_COSINE),
    )
    return False


def _vectors(model: Any) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    found = model.encode(list(CHECK_TEXTS), convert_to_tensor=True, show_progress_bar=False)
    vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]] = found.float().cpu().numpy()
    return vectors
