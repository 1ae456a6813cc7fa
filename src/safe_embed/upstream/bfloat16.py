"""Convert a model to bfloat16 if the device supports it and its vectors stay the same."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("safe_embed")

# Smallest cosine, over all check texts, between the float32 and the bfloat16 vector of a text.
# e5-small reaches 0.9999; a model that overflows in bfloat16 falls far below.
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
        device: The device of a model.

    Returns:
        ``True`` for CPUs with AVX512-BF16 or AMX, and for CUDA devices of compute capability 8.0 or
        higher; ``False`` otherwise, and if torch cannot tell.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _CUDA_CAPABILITY
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    checks = [getattr(torch.cpu, name, lambda: False) for name in names]
    return device.type == "cpu" and any(is_supported() for is_supported in checks)


def try_bfloat16(model: Any) -> bool:
    """Convert a float32 model to bfloat16 in place, if the device computes bfloat16 natively.

    Args:
        model: A SentenceTransformer that no other thread uses, with its own tokenizer.

    Returns:
        ``True`` if the model can be used: it was not converted, or its vectors have stayed within
        ``LEAST_COSINE``. ``False`` if it must be loaded again, since its weights have lost
        precision.
    """
    import torch

    if model.dtype != torch.float32 or not is_native(model.device):
        logger.info("dtype='auto': the model is not converted and stays in %s.", model.dtype)
        return True
    before = _vectors(model)
    try:
        after = _vectors(model.to(torch.bfloat16))
    except (RuntimeError, TypeError) as error:  # a layer without a bfloat16 kernel
        name = type(error).__name__
        logger.warning("dtype='auto': the model raises %s in bfloat16; using float32.", name)
        return False
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    cosine = float(np.min(np.sum(before * after, axis=1) / lengths))
    if cosine >= LEAST_COSINE:
        logger.info("dtype='auto': using bfloat16; smallest cosine to float32 %.5f.", cosine)
        return True
    logger.warning(
        "dtype='auto': bfloat16 changes vectors to a cosine of %.5f, below %s; using float32.",
        *(cosine, LEAST_COSINE),
    )
    return False


def _vectors(model: Any) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Embed the check texts: float32, shape (n_texts, dimension)."""
    tensor = model.encode(list(CHECK_TEXTS), convert_to_tensor=True, show_progress_bar=False)
    vectors: np.ndarray[tuple[int, int], np.dtype[np.float32]] = tensor.float().cpu().numpy()
    return vectors
