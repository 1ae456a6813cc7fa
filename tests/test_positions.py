"""What a model reads is never more than it has positions for, whatever is stated or left unstated."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import models
from safe_embed import SafeEncoder
from safe_embed.upstream.attributes import position_tokens

pytestmark = pytest.mark.usefixtures("forked_workers")

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

POSITIONS = 48
PADDING = 3  # the id in the small tokenizer
LONG = models.long_text(12)
BEGINNINGS = [LONG[:size] for size in range(1, 2 * POSITIONS)]
NO_LIMIT = int(1e30)  # what transformers says of a tokenizer that states none

# Architecture -> positions that come before the first token's.
RESERVED = {
    **dict.fromkeys(("roberta", "xlm-roberta", "camembert", "data2vec-text"), PADDING + 1),
    **dict.fromkeys(("longformer", "luke"), PADDING + 1),
    "mpnet": 2,  # whatever the id of padding is
    **dict.fromkeys(("bert", "distilbert", "gpt2", "roformer"), 0),
}


@cache
def saved(name: str, tokens: int = NO_LIMIT, **options: Any) -> Path:
    """A small model of an architecture whose tokenizer states so many tokens."""
    import torch
    from transformers import AutoConfig, AutoModel

    path = models.folder(f"positions_{name}_{tokens}_{len(options)}")
    tokenizer = models.llama_like(tokens)
    tokenizer.save_pretrained(path)
    torch.manual_seed(3)
    wanted = {
        "vocab_size": len(tokenizer),
        "pad_token_id": PADDING,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "max_position_embeddings": POSITIONS,
        "initializer_range": 0.2,
        **options,
    }
    usual = AutoConfig.for_model(name)
    known = {one: value for one, value in wanted.items() if hasattr(usual, one)}
    if name == "longformer":
        known["attention_window"] = 8
    AutoModel.from_config(AutoConfig.for_model(name, **known)).save_pretrained(path)
    return path


def load(path: Path, **options: Any) -> SentenceTransformer:
    """The model in sentence-transformers, with nothing stated but what options say."""
    return models.assemble(path, limit=None, **options)


def check(model: SentenceTransformer, limit: int) -> None:
    """A long text is read to its end in chunks that fill the limit, and as upstream reads each."""
    with SafeEncoder(model) as encoder:
        whole = LONG[: sum(not plan.is_long for plan in encoder.plan(BEGINNINGS))]
        [found] = encoder.encode_chunks(LONG)
        pieces = [LONG[start:end] for start, end in found.spans]
        assert LONG == "".join(pieces)
        assert limit / 2 < max(found.token_counts) <= limit
        assert limit - 3 < encoder.plan(whole)[0].token_counts[0] <= limit
        expected = np.stack([model.encode(piece) for piece in pieces])
        np.testing.assert_allclose(found.vectors, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(encoder.encode(whole), model.encode(whole), atol=1e-5)
        assert limit == encoder.max_seq_length == encoder.get_max_seq_length()


@pytest.mark.parametrize("name", RESERVED)
def test_positions_are_the_limit_where_none_is_stated(name: str) -> None:
    """Tokens have as many positions as the architecture leaves them, and texts fill these."""
    check(load(saved(name)), POSITIONS - RESERVED[name])


@pytest.mark.parametrize("name", ["roberta", "bert", "mpnet"])
def test_a_stated_limit_counts_where_it_is_less(name: str) -> None:
    """What a model states is kept below its positions, and is not believed above them."""
    less, more = load(saved(name, tokens=20)), load(saved(name))
    check(less, 20)
    more.max_seq_length = 20
    check(more, 20)
    for stated in (POSITIONS, 2 * POSITIONS):
        more.max_seq_length = stated
        check(more, POSITIONS - RESERVED[name])


def test_a_limit_that_is_set_later_is_bounded_too() -> None:
    """A limit that is set above the number of positions leaves the number of positions as the limit."""
    model = load(saved("roberta"))
    limit = POSITIONS - RESERVED["roberta"]
    with SafeEncoder(model) as encoder:
        for wanted, expected in ((20, 20), (1000, limit)):
            encoder.max_seq_length = wanted
            assert expected == encoder.max_seq_length
            assert expected / 2 < max(encoder.plan(LONG)[0].token_counts) <= expected
            encoder.encode(LONG)


@pytest.mark.parametrize("on_long", ["truncate", "error"])
def test_a_text_is_cut_or_refused_at_the_positions(on_long: Any) -> None:
    """What does not fit the positions is long, however on_long treats it."""
    limit = POSITIONS - RESERVED["roberta"]
    with SafeEncoder(load(saved("roberta")), on_long=on_long) as encoder:
        if on_long == "error":
            with pytest.raises(ValueError, match=f"more than the {limit} tokens"):
                encoder.encode(LONG)
        else:
            assert (limit,) == encoder.plan(LONG)[0].token_counts
            assert encoder.encode(LONG).shape == (32,)


def test_more_chunk_tokens_than_positions_are_refused() -> None:
    """max_chunk_tokens is compared with what the model reads, not with what it states."""
    limit = POSITIONS - RESERVED["roberta"]
    with pytest.raises(ValueError, match=f"more than the {limit} tokens"):
        SafeEncoder(load(saved("roberta")), max_chunk_tokens=POSITIONS)


def test_worker_processes_tell_the_same_limit() -> None:
    """With isolation="process" the limit is that of the positions, also when another was set."""
    path = models.folder("positions_whole")
    load(saved("roberta")).save(str(path))
    limit = POSITIONS - RESERVED["roberta"]
    with SafeEncoder(path) as here, SafeEncoder(path, isolation="process") as there:
        for encoder in (here, there):
            assert limit == encoder.max_seq_length
            encoder.max_seq_length = 1000
            assert limit == encoder.max_seq_length
        assert here.plan(LONG) == there.plan(LONG)
        np.testing.assert_allclose(here.encode(LONG), there.encode(LONG), atol=1e-6)


UNBOUNDED = {"t5": {"d_model": 32, "num_layers": 2, "num_heads": 2, "d_kv": 16, "d_ff": 32}}
if models.HAS_MODERNBERT:
    UNBOUNDED["modernbert"] = {"max_position_embeddings": POSITIONS}


@pytest.mark.parametrize("name", UNBOUNDED)
def test_positions_that_are_computed_bound_nothing(name: str) -> None:
    """Relative and rotary positions leave a model the limit that upstream gives it, or a user."""
    model = load(saved(name, **UNBOUNDED[name]))
    model.max_seq_length = 200
    with SafeEncoder(model) as encoder:
        assert 200 == encoder.max_seq_length
        text = LONG[:200]
        assert POSITIONS < encoder.plan(text)[0].token_counts[0] <= 200
        np.testing.assert_allclose(encoder.encode(text), model.encode(text), atol=1e-5)


def test_the_configuration_tells_where_modules_do_not() -> None:
    """Of a model that another engine runs, such as ONNX, what transformers' configuration says counts."""

    def positions(kind: str) -> int | None:
        config = SimpleNamespace(model_type=kind, max_position_embeddings=514, pad_token_id=1)
        return position_tokens([SimpleNamespace(auto_model=SimpleNamespace(config=config))])  # type: ignore[arg-type]

    assert [512, 512, None] == [positions(kind) for kind in ("xlm-roberta", "mpnet", "bert")]
