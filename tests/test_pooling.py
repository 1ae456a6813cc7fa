"""Chunk vectors into a text vector, and into the form the caller asked for."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from models import UPSTREAM
from safe_embed.errors import ConfigError
from safe_embed.pooling import (
    Pooling,
    max_pool,
    mean_pool,
    pool,
    resolve_pooling,
    token_weighted_pool,
)
from safe_embed.vectors import (
    check_precision,
    normalize,
    pad_to_dim,
    quantize,
    truncate_and_normalize,
)

POOLINGS = {"mean": mean_pool, "token_weighted": token_weighted_pool, "max": max_pool}
every_pooling = pytest.mark.parametrize("function", POOLINGS.values(), ids=POOLINGS.keys())

# Chunks of a text: their vectors, and tokens of each.
chunks = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        npst.arrays(np.float32, (n, 5), elements=st.floats(-8, 8, width=32)),
        st.lists(st.integers(1, 512), min_size=n, max_size=n),
    )
)


def random_vectors(count: int, dim: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Vectors such as models give."""
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


@every_pooling
@given(given_chunks=chunks, data=st.data())
def test_the_order_of_chunks_does_not_matter(
    function: Callable[..., Any], given_chunks: tuple[Any, list[int]], data: st.DataObject
) -> None:
    """A permutation of the chunks of a text gives the same vector."""
    vectors, counts = given_chunks
    order = data.draw(st.permutations(range(len(counts))))
    expected = pool(vectors, counts, function, unit_length=False)
    actual = pool(vectors[order], [counts[at] for at in order], function, unit_length=False)
    np.testing.assert_allclose(expected, actual, atol=1e-5)


@every_pooling
@given(given_chunks=chunks)
def test_no_dimension_leaves_the_range_of_its_chunks(
    function: Callable[..., Any], given_chunks: tuple[Any, list[int]]
) -> None:
    """Each dimension lies between the smallest and the largest of the chunks, in float32."""
    vectors, counts = given_chunks
    pooled = pool(vectors, counts, function, unit_length=False)
    assert (np.float32, (5,)) == (pooled.dtype, pooled.shape)
    assert (vectors.min(axis=0) - 1e-5 <= pooled).all()
    assert (pooled <= vectors.max(axis=0) + 1e-5).all()


@every_pooling
@given(given_chunks=chunks)
def test_unit_vectors_stay_unit_vectors(
    function: Callable[..., Any], given_chunks: tuple[Any, list[int]]
) -> None:
    """Where the model ends in Normalize, what is pooled has length 1 as well."""
    vectors, counts = given_chunks
    vectors = vectors + np.float32(9)  # none is zero
    length = np.linalg.norm(pool(normalize(vectors), counts, function, unit_length=True))
    assert 1 == pytest.approx(length, abs=1e-5)


@pytest.mark.parametrize("name", POOLINGS)
def test_the_poolings_by_hand(name: str) -> None:
    """Mean, token-weighted mean and maximum of two chunks, by hand."""
    vectors = np.array([[1, -4], [3, 0]], dtype=np.float32)
    expected = {"mean": [2, -2], "token_weighted": [1.5, -3], "max": [3, 0]}[name]
    actual = pool(vectors, (30, 10), resolve_pooling(name), unit_length=False)
    np.testing.assert_array_equal(np.array(expected, dtype=np.float32), actual)


@every_pooling
@pytest.mark.parametrize("unit_length", [False, True])
def test_one_chunk_is_its_text(function: Callable[..., Any], unit_length: bool) -> None:
    """A text of one chunk has that chunk's vector to the bit, whatever the pooling."""
    vectors = random_vectors(1, 7)
    np.testing.assert_array_equal(vectors[0], pool(vectors, [3], function, unit_length=unit_length))


def test_a_users_own_function_pools() -> None:
    """It is given float32 vectors and int64 counts, and its answer becomes float32."""
    seen = []

    def last(vectors: Any, counts: Any) -> list[float]:
        seen.append((vectors.dtype, vectors.shape, counts.dtype, counts.tolist()))
        return [float(value) for value in vectors[-1]]

    vectors = random_vectors(2, 3)
    pooled = pool(vectors, (4, 5), resolve_pooling(last), unit_length=False)
    np.testing.assert_array_equal(vectors[1], pooled)
    assert np.float32 == pooled.dtype
    assert [(np.float32, (2, 3), np.int64, [4, 5])] == seen


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda vectors, counts: vectors, (2, 3)),
        (lambda vectors, counts: vectors.mean(axis=1), (2,)),
        (lambda vectors, counts: vectors.mean(), ()),
        (lambda vectors, counts: vectors[:1], (1, 3)),
    ],
)
def test_a_function_of_the_wrong_shape_is_refused(
    function: Callable[..., Any], shape: tuple[int, ...]
) -> None:
    """The error gives both shapes and the one that is needed."""
    told = f"gave shape {shape} for chunk vectors of shape (2, 3). It must give (3,)."
    with pytest.raises(ConfigError, match=re.escape(told)):
        pool(random_vectors(2, 3), (1, 1), function, unit_length=False)


@pytest.mark.parametrize("spec", ["average", "", None, 3])
def test_an_unknown_pooling_is_refused(spec: Any) -> None:
    """The error lists the names there are."""
    told = f"pooling={spec!r} is not known. Use one of 'mean', 'token_weighted', 'max', or a func"
    with pytest.raises(ConfigError, match=re.escape(told)):
        resolve_pooling(spec)


@pytest.mark.parametrize("count", [1, 5])
def test_finishing_is_upstreams(count: int) -> None:
    """Truncated and normalised vectors are those of sentence-transformers."""
    import torch
    from sentence_transformers.util import normalize_embeddings, truncate_embeddings

    vectors = random_vectors(count, 12)
    vectors[0] = 0
    for dim in (None, 1, 8, 12, 99):
        cut = truncate_embeddings(torch.from_numpy(vectors), dim)
        np.testing.assert_array_equal(
            cut.numpy(), truncate_and_normalize(vectors, dim, unit_length=False)
        )
        np.testing.assert_allclose(
            normalize_embeddings(cut).numpy(),
            truncate_and_normalize(vectors, dim, unit_length=True),
            atol=1e-6,
        )


def test_large_numbers_are_normalised_too() -> None:
    """Squares that float32 cannot hold do not matter, nor do zeros beside them."""
    vectors = np.array([[2e19, 2e19], [0, 3e38], [0, 0], [3, 4]], dtype=np.float32)
    expected = [[0.5**0.5, 0.5**0.5], [0, 1], [0, 0], [0.6, 0.8]]
    np.testing.assert_allclose(normalize(vectors), expected, rtol=1e-6)
    np.testing.assert_allclose(pad_to_dim(vectors[0], 3), [*expected[0], 0], rtol=1e-6)


@given(npst.arrays(np.float32, (3, 4), elements=st.floats(-1e6, 1e6, width=32)))
def test_normalised_vectors_have_length_one(vectors: Any) -> None:
    """Lengths are 1, or 0 where the vector is zero (to upstream: shorter than 1e-12)."""
    scaled = normalize(vectors)
    assert np.float32 == scaled.dtype
    for before, length in zip(vectors, np.linalg.norm(scaled, axis=-1), strict=True):
        if np.linalg.norm(before) > 1e-12:
            assert 1 == pytest.approx(length, abs=1e-5)
        if not before.any():
            assert 0 == length


@pytest.mark.parametrize("precision", ["float32", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("with_ranges", [False, True])
# Version 5 packs no dimension that is no multiple of 8.
@pytest.mark.parametrize("shape", [(2, 8), (200, 32), (7, 12 if UPSTREAM >= 6 else 16)])
def test_quantising_is_upstreams(precision: Any, with_ranges: bool, shape: tuple[int, int]) -> None:
    """Fewer bits as ``quantize_embeddings`` gives them; version 5 rounds int8 towards zero."""
    from sentence_transformers import quantize_embeddings

    vectors = random_vectors(*shape, seed=3)
    ranges = None
    if with_ranges:
        wider = random_vectors(500, shape[1], seed=4) * 3
        ranges = np.stack([wider.min(axis=0), wider.max(axis=0)])
    expected = quantize_embeddings(vectors, precision, ranges=ranges)
    actual = quantize(vectors, precision, ranges)
    assert (expected.dtype, expected.shape) == (actual.dtype, actual.shape)
    far = np.abs(expected.astype(np.float64) - actual.astype(np.float64)).max()
    assert far <= (1 if UPSTREAM < 6 and precision == "int8" else 0)


def test_quantising_clips_to_the_ranges() -> None:
    """What lies outside given ranges takes their ends, and does not wrap around."""
    vectors = np.array([[-9, 9, 0.5]], dtype=np.float32)
    ranges = np.array([[-1, -1, 0.5], [1, 1, 0.5]], dtype=np.float32)
    np.testing.assert_array_equal([[0, 255, 0]], quantize(vectors, "uint8", ranges))
    np.testing.assert_array_equal([[-128, 127, -128]], quantize(vectors, "int8", ranges))


def test_a_dimension_without_a_range_is_no_error() -> None:
    """Equal values quantise without a warning and without a number out of range."""
    vectors = np.array([[1, 0], [1, 255]], dtype=np.float32)
    np.testing.assert_array_equal([[0, 0], [0, 255]], quantize(vectors, "uint8"))


def test_precisions_are_checked_by_name() -> None:
    """An unknown precision is refused with those there are; None means float32."""
    with pytest.raises(
        ConfigError, match=r"precision='int4' is not supported. Use one of 'float32'"
    ):
        check_precision("int4")
    vectors = random_vectors(2, 3)
    for precision in (None, "float32"):
        check_precision(precision)
        assert vectors is quantize(vectors, precision)


@given(st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_pad_to_dim_is_the_incidents_worker(dim: int, wanted: int, single: bool) -> None:
    """Truncate, normalise, pad with zeros: the first values are scaled alike, the rest is 0."""
    vectors = random_vectors(3, dim)[0 if single else slice(None)]
    padded = pad_to_dim(vectors, wanted)
    assert ((*vectors.shape[:-1], wanted), np.float32) == (padded.shape, padded.dtype)
    np.testing.assert_allclose(1, np.linalg.norm(padded, axis=-1), atol=1e-6)
    kept = vectors[..., :wanted]
    expected = kept / np.linalg.norm(kept, axis=-1, keepdims=True)
    np.testing.assert_allclose(expected, padded[..., : kept.shape[-1]], atol=1e-6)
    assert not padded[..., kept.shape[-1] :].any()


def test_pad_to_dim_takes_other_kinds_of_numbers() -> None:
    """Zero vectors stay zero; float16 and lists become float32; a dimension is positive."""
    np.testing.assert_array_equal(np.zeros(4, np.float32), pad_to_dim(np.zeros(2, np.float32), 4))
    for vectors in (np.array([3, 4], np.float16), [3, 4]):
        padded = pad_to_dim(vectors, 3)
        assert np.float32 == padded.dtype
        np.testing.assert_allclose([0.6, 0.8, 0], padded, atol=1e-6)
    for dim in (0, -1):
        with pytest.raises(
            ConfigError, match=f"dim={dim} is not a valid dimension. Use a positive integer."
        ):
            pad_to_dim(np.ones(2, np.float32), dim)


def test_pooling_knows_no_other_precision() -> None:
    """The names of poolings in the type and in the table are the same."""
    assert list(POOLINGS) == list(get_args(Pooling))
    for name in get_args(Pooling):
        assert callable(resolve_pooling(name))
