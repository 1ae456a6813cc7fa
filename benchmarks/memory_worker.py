"""A worker that embeds texts of all lengths and tells what it holds; run by test_memory.

``python memory_worker.py MODEL ARM CALLS`` prints one JSON object.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SHORTEST_CHARS, LONGEST_CHARS = 20, 20_000
WARM_UP_CALLS = 20
POINTS = 200


def texts(calls: int) -> Iterator[str]:
    """Pieces of real Japanese text, 20 to 20,000 characters long, log-uniform, always the same."""
    folder = Path(os.environ["SAFE_EMBED_DATA"])
    pool = "\n".join(
        json.loads(line)["text"]
        for name in ("kyoto_wiki_longdocs", "aozora_works")
        for line in (folder / f"{name}.jsonl").open(encoding="utf-8")
    )
    chance = random.Random(0)
    for _ in range(calls):
        length = int(math.exp(chance.uniform(math.log(SHORTEST_CHARS), math.log(LONGEST_CHARS))))
        start = chance.randrange(len(pool) - length)
        yield pool[start : start + length]


def build(kind: str) -> str:
    """Make a model: ``offline``, ``tiny`` (2 random layers), or ``ruri`` (its shape); a folder."""
    from safe_embed.offline import model_path

    if kind == "offline":
        return str(model_path())
    import torch
    from sentence_transformers import SentenceTransformer, models
    from transformers import AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    if kind == "tiny":
        from transformers import BertConfig, BertModel

        network: Any = BertModel(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
            ),
            add_pooling_layer=False,
        )
        limit = 512
    else:
        from transformers import ModernBertConfig, ModernBertModel

        limit = 8192
        network = ModernBertModel(
            ModernBertConfig(
                vocab_size=len(tokenizer),
                hidden_size=256,
                intermediate_size=1024,
                num_hidden_layers=10,
                num_attention_heads=4,
                max_position_embeddings=limit,
                reference_compile=False,
                attn_implementation="sdpa",
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                cls_token_id=tokenizer.bos_token_id,
                sep_token_id=tokenizer.eos_token_id,
            )
        )
    folder = tempfile.mkdtemp()
    tokenizer.model_max_length = limit
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformer = models.Transformer(folder, max_seq_length=limit)
    chain = [transformer, models.Pooling(network.config.hidden_size)]
    whole = tempfile.mkdtemp()
    SentenceTransformer(modules=chain, device="cpu").save(whole)
    return whole


def encoder(model: str, arm: str) -> Callable[[str], Any]:
    """Give the function that the arm calls."""
    if arm == "raw":
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(model, device="cpu").encode
    from safe_embed import SafeEncoder

    return SafeEncoder(model, reload=None if arm == "no policy" else "default").encode


def main(kind: str, arm: str, calls: int) -> None:
    """Run, and print the curve."""
    from safe_embed.memory.sampling import anonymous_bytes, take_sample

    encode = encoder(build(kind), arm)
    curve: list[tuple[int, int]] = []
    for number, text in enumerate(texts(calls + WARM_UP_CALLS)):
        encode(text)
        if number >= WARM_UP_CALLS and (number - WARM_UP_CALLS) % max(1, calls // POINTS) == 0:
            curve.append((number - WARM_UP_CALLS, anonymous_bytes() or 0))
    sample = take_sample()
    base, end = curve[0][1], sample.rss_anon_bytes or 0
    print(
        json.dumps(
            {
                "base_bytes": base,
                "end_bytes": end,
                "growth_mb": round((end - base) / 1e6, 1),
                "largest_growth_mb": round(max(held - base for _, held in curve) / 1e6, 1),
                "peak_bytes": sample.peak_bytes,
                "native_threads": sample.native_threads,
                "curve": curve,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
