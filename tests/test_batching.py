"""Batches: each chunk once, within the budget, and in few shapes where that matters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from safe_embed import SafeEncoder
from safe_embed.batching import batches, rounded_length

lengths = st.lists(st.integers(1, 512), max_size=60)


@given(lengths, st.integers(1, 4096), st.booleans())
def test_every_chunk_is_in_one_batch_and_fits(
    given_lengths: list[int], max_tokens: int, few_shapes: bool
) -> None:
    """Each chunk is in exactly one batch that is wide enough; a full batch keeps the budget."""
    found = batches(given_lengths, max_tokens, limit=512, few_shapes=few_shapes)
    assert list(range(len(given_lengths))) == sorted(i for batch in found for i in batch.indices)
    for batch in found:
        assert batch.rows >= len(batch.indices)
        assert 512 >= batch.columns >= max(given_lengths[i] for i in batch.indices)
        assert len(batch.indices) == 1 or len(batch.indices) * batch.columns <= max_tokens


@given(st.lists(st.integers(1, 512), min_size=1, max_size=500))
def test_few_shapes_are_few(given_lengths: list[int]) -> None:
    """However lengths vary, there are at most 9 widths, with powers of two as numbers of rows."""
    found = batches(given_lengths, 1024, limit=512, few_shapes=True)
    assert {batch.columns for batch in found} <= {32, 48, 64, 96, 128, 192, 256, 384, 512}
    assert {batch.rows for batch in found} <= {1, 2, 4, 8, 16, 32}


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_rounded_lengths_grow_and_keep_the_limit(length: int, limit: int) -> None:
    """A rounded length is no shorter, at most half as long again from 32 on, within the limit."""
    rounded = rounded_length(length, max(length, limit))
    assert length <= rounded <= max(length, limit)
    assert rounded <= max(32, 1.5 * length)
    assert rounded_length(length) <= rounded_length(length + 1)


def test_few_shapes_change_no_vector() -> None:
    """Vectors with few shapes are those without; the padding is told; the model sees few shapes."""
    import numpy as np

    import models

    model = models.small()
    texts = [models.long_text(n) for n in range(1, 12)] + ["あ", "い" * 50]
    shapes = set()
    model[0].register_forward_pre_hook(
        lambda _, args: shapes.add(tuple(args[0]["input_ids"].shape))
    )
    with SafeEncoder(model) as plain, SafeEncoder(model, few_shapes=True) as few:
        expected = plain.encode(texts)
        shapes.clear()
        for text in texts:
            few.encode([text, texts[0]])
        seen = len(shapes)
        np.testing.assert_allclose(expected, few.encode(texts), atol=1e-6)
        assert few.stats.padding_tokens > 0
    assert seen <= 9


@given(
    lengths=st.lists(st.integers(1, 512), max_size=60),
    max_tokens=st.integers(1, 4096),
    limit=st.none() | st.integers(512, 600),
)
def test_fewer_shapes_cost_little(lengths: list[int], max_tokens: int, limit: int | None) -> None:
    """Long rows are multiples of 8, or the limit; short ones are as they are; all are there once."""
    found = batches(lengths, max_tokens, limit=limit, fewer_shapes=True)
    assert sorted(range(len(lengths))) == sorted(i for one in found for i in one.indices)
    for one in found:
        longest = max(lengths[i] for i in one.indices)
        assert longest <= one.columns < longest + 8
        assert one.columns == longest or one.columns % 8 == 0 or one.columns == limit
        assert longest > 64 or one.columns == longest
        assert len(one.indices) == one.rows
        assert one.rows == 1 or one.rows * one.columns <= max_tokens
