"""Vectors in 1 and 8 bits, and the chunks that answer a query: against numpy and upstream."""

from __future__ import annotations

import pickle
import stat
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sentence_transformers import quantize_embeddings, util

import models
from safe_embed import ChunkedText, SafeEncoder
from safe_embed.errors import ConfigError
from safe_embed.search import Calibration, ChunkIndex, Hit, PackedText, rank
from safe_embed.search.blocks import BLOCK_COLUMNS
from safe_embed.types import Span

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Vectors = NDArray[np.float32]
TEXTS = ["今日は雨です。", models.long_text(12), "", models.long_text(30, start=40)]


def unit(vectors: Any) -> Vectors:
    """Scale to length 1."""
    found: Vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return found


def in_a_cone(seed: int, count: int, dimension: int) -> Vectors:
    """Vectors that share a mean, as those of most models."""
    source = np.random.default_rng(seed)
    center = source.standard_normal(dimension) * 3
    return (center + source.standard_normal((count, dimension))).astype(np.float32)


def document(vectors: Vectors) -> ChunkedText:
    """A document of chunks of a character each."""
    spans = tuple(Span(at, at + 1) for at in range(len(vectors)))
    return ChunkedText(spans, (3,) * len(vectors), vectors, True, vectors.sum(axis=0))


def documents(vectors: Vectors, seed: int = 0) -> list[ChunkedText]:
    """The same vectors in documents of one to nine chunks."""
    ends = np.cumsum(np.random.default_rng(seed).integers(1, 10, len(vectors)))
    return [document(part) for part in np.split(vectors, ends[ends < len(vectors)]) if len(part)]


@pytest.fixture(scope="module")
def small() -> SentenceTransformer:
    """A model of few tokens."""
    return models.small()


def other_weights() -> SentenceTransformer:
    """Another model of the same shape."""
    model = models.small()
    model[0].auto_model.embeddings.word_embeddings.weight.data.normal_()
    return model


# Codes

shapes = st.tuples(st.integers(0, 99), st.integers(2, 40), st.integers(1, 70))


@given(shapes)
def test_bits_are_those_of_upstream_about_the_mean(shape: tuple[int, int, int]) -> None:
    """What upstream's ubinary gives for vectors of length 1, less their mean."""
    # Version 5 packs no dimension that is no multiple of 8.
    vectors = in_a_cone(*shape[:2], shape[2] if models.UPSTREAM >= 6 else 8 * shape[2])
    calibration = Calibration.fit(vectors)
    expected = quantize_embeddings(unit(vectors) - calibration.center, "ubinary")
    np.testing.assert_array_equal(expected, calibration.codes(vectors, 1))
    np.testing.assert_array_equal(expected[0], calibration.codes(vectors[0], 1))


@given(shapes)
def test_bytes_stand_for_the_vector(shape: tuple[int, int, int]) -> None:
    """Within half a step, where the vector is within four standard deviations of the mean."""
    vectors = in_a_cone(*shape)
    calibration = Calibration.fit(vectors)
    codes = calibration.codes(vectors, 8)
    assert (np.int8, vectors.shape) == (codes.dtype, codes.shape)
    missed = np.abs(calibration.decode(codes, 8) - unit(vectors))
    reached = np.abs(unit(vectors) - calibration.center) <= 4 * calibration.spread
    assert (missed <= 2.01 / 127 * calibration.spread + 1e-6)[reached].all()


@given(shapes, st.sampled_from([1, 7, 8, 20]), st.sampled_from([1, 8]))
def test_scores_are_those_of_the_vectors_that_codes_stand_for(
    shape: tuple[int, int, int], queries: int, bits: Any
) -> None:
    """For few queries and for many, with any number of dimensions."""
    vectors = in_a_cone(*shape)
    asked = unit(in_a_cone(1, queries, shape[2]))
    calibration = Calibration.fit(vectors)
    packed = calibration.pack([document(vectors)], bits)
    center, unpacked = calibration.center, packed[0].unpacked()
    expected = asked @ unpacked.T
    if bits == 1:  # without center · deviation, of which bits tell nothing
        expected -= center @ (unpacked - center).T
    found = ChunkIndex(packed).scores(asked).values
    np.testing.assert_allclose(expected, found, rtol=0, atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_vectors_that_are_not_finite_have_no_codes(value: float) -> None:
    """A bit would hide them."""
    vectors = in_a_cone(0, 100, 8)
    calibration = Calibration.fit(vectors)
    vectors[3, 2] = value
    for refused in (
        lambda: calibration.codes(vectors, 1),
        lambda: calibration.pack(document(vectors), 8),
        lambda: ChunkIndex([document(vectors)]),
    ):
        with pytest.raises(ConfigError, match="NaN or infinity"):
            refused()


# Calibration


def test_a_calibration_is_mean_and_spread_of_unit_vectors() -> None:
    """From an array, from chunks, from parts of any kind, from a generator."""
    vectors = in_a_cone(0, 500, 24)
    units = unit(vectors.astype(np.float64))
    some = documents(vectors)
    samples: list[Any] = [
        vectors,
        vectors.tolist(),
        [list(row) for row in vectors],
        some,
        (one for one in some),
        iter(vectors),
        [some[0], *(one.vectors for one in some[1:])],
        [some[:5], some[5:]],
    ]
    for sample in samples:
        found = Calibration.fit(sample)
        assert (500, 24) == (found.n_vectors, len(found.spread))
        np.testing.assert_allclose(units.mean(axis=0), found.center, rtol=0, atol=1e-6)
        np.testing.assert_allclose(units.std(axis=0), found.spread, rtol=0, atol=1e-6)
    assert "Calibration(24 dimensions, 500 vectors)" == repr(found)


def test_a_small_sample_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """It works, and may cost accuracy."""
    Calibration.fit(in_a_cone(0, 99, 4))
    [record] = caplog.records
    assert "99 vectors" in record.getMessage()
    Calibration.fit(in_a_cone(0, 100, 4))
    assert 1 == len(caplog.records)


@pytest.mark.parametrize(
    ("sample", "match"),
    [
        ([], "two vectors or more"),
        (np.ones((1, 4)), "there are 1"),
        ([np.ones((3, 4)), np.ones((3, 5))], r"shape \(n, 4\)"),
        (np.full((3, 4), np.nan), "NaN"),
        (np.ones((3, 4, 2)), r"shape \(3, 4, 2\)"),
        ("吾輩は猫", "not an array of numbers"),
        (7, r"shape \(1, 1\)|two vectors"),
    ],
)
def test_a_sample_that_cannot_work(sample: Any, match: str) -> None:
    """It is said what is wrong, in both languages, without a text."""
    with pytest.raises(ConfigError, match=match) as caught:
        Calibration.fit(sample)
    assert "吾輩" not in str(caught.value)


def test_a_calibration_is_not_fitted_on_what_is_packed() -> None:
    """Their codes tell less than the vectors."""
    some = documents(in_a_cone(0, 50, 8))
    calibration = Calibration.fit(some)
    with pytest.raises(ConfigError, match="without bits"):
        Calibration.fit(calibration.pack(some, 8))
    with pytest.raises(ConfigError, match="PackedText"):
        calibration.pack(calibration.pack(some, 8), 8)  # type: ignore[arg-type] # tried
    for other in (None, 3, "文", [None]):
        with pytest.raises(ConfigError, match="chunked holds a"):
            calibration.pack(other, 8)  # type: ignore[call-overload] # tried


@pytest.mark.parametrize("bits", [0, 2, 32, True, "1", None])
def test_other_bits_are_refused(bits: Any) -> None:
    """There are 1 and 8."""
    calibration = Calibration.fit(in_a_cone(0, 100, 8))
    with pytest.raises(ConfigError, match="Use 1 or 8"):
        calibration.pack(document(in_a_cone(1, 3, 8)), bits)


def test_files(tmp_path: Path, small: SentenceTransformer) -> None:
    """What is read again packs in the same way, and knows its model."""
    with SafeEncoder(small, reload=None) as encoder:
        chunked = encoder.encode_chunks(TEXTS)
    fitted = Calibration.fit(chunked)
    path = tmp_path / "ruri"
    for _ in range(2):  # a file that is there is replaced
        fitted.save(path)
        assert [path] == list(tmp_path.iterdir())
    (tmp_path / "usual").touch()
    modes = [stat.S_IMODE(one.stat().st_mode) for one in (path, tmp_path / "usual")]
    assert modes[0] == modes[1]  # others may read it, if they may read other files
    found = Calibration.load(str(path))
    for one, other in zip(fitted.pack(chunked, 1), found.pack(chunked, 1), strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)
    assert found.n_vectors == fitted.n_vectors
    np.testing.assert_array_equal(fitted.fingerprint, found.fingerprint)
    unknown = Calibration.fit(in_a_cone(0, 100, 8))
    unknown.save(path)
    assert Calibration.load(path).fingerprint is None
    with pytest.raises(FileNotFoundError):
        Calibration.load(tmp_path / "missing")


@pytest.mark.parametrize("content", [b"", b"no archive", pickle.dumps({"format": 1})])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    """Nothing is unpickled; the message names the file."""
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="other holds no calibration"):
        Calibration.load(path)


def test_a_file_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    """One that lacks a part, is cut off, or is of a later version."""
    path = tmp_path / "file.npz"
    np.savez(path, format=2)
    with pytest.raises(ConfigError, match="this version"):
        Calibration.load(path)
    np.savez(path, format=1, center=np.ones(3))
    with pytest.raises(ConfigError, match="KeyError"):
        Calibration.load(path)
    Calibration.fit(in_a_cone(0, 100, 8)).save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ConfigError, match="BadZipFile"):
        Calibration.load(path)


# Encoder


@pytest.mark.parametrize("isolation", ["none", "process"])
def test_chunks_are_packed_by_the_encoder(saved: Path, isolation: Any) -> None:
    """As by the calibration afterwards; the vectors of texts are what they were."""
    with SafeEncoder(saved, reload=None, device="cpu", isolation=isolation) as encoder:
        chunked = encoder.encode_chunks(TEXTS)
        calibration = Calibration.fit(chunked)
        for bits, dtype in ((1, np.uint8), (8, np.int8)):
            packed = encoder.encode_chunks(TEXTS, calibration=calibration, bits=bits)  # type: ignore[call-overload] # of a loop
            for whole, found in zip(chunked, packed, strict=True):
                assert isinstance(found, PackedText)
                assert whole.spans == found.spans
                assert whole.token_counts == found.token_counts
                assert (whole.is_long, dtype) == (found.is_long, found.codes.dtype)
                np.testing.assert_array_equal(calibration.pack(whole, bits).codes, found.codes)
        assert [] == encoder.encode_chunks([], calibration=calibration, bits=1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"bits": 1}, "needs calibration"),
        ({"bits": 16}, "needs calibration"),
        ({"calibration": "fitted"}, "bits=32 is not supported"),
        ({"calibration": "fitted", "bits": 4}, "bits=4 is not supported"),
        ({"calibration": "fitted", "bits": 1, "truncate_dim": 16}, "32 dimensions"),
        ({"calibration": "other model", "bits": 1}, "different models"),
        ({"calibration": "other dimension", "bits": 1}, "8 dimensions"),
        ({"calibration": 0.5, "bits": 1}, "is no Calibration"),
    ],
)
def test_what_cannot_be_packed_is_refused(
    small: SentenceTransformer, options: dict[str, Any], match: str
) -> None:
    """Before a text is embedded."""
    with (
        SafeEncoder(small, reload=None) as encoder,
        SafeEncoder(other_weights(), reload=None) as other,
    ):
        known = {
            "fitted": Calibration.fit(encoder.encode_chunks(TEXTS)),
            "other model": Calibration.fit(other.encode_chunks(TEXTS)),
            "other dimension": Calibration.fit(in_a_cone(0, 100, 8)),
        }
        options["calibration"] = known.get(
            options.get("calibration", ""), options.get("calibration")
        )
        tokens = encoder.stats.tokens
        with pytest.raises(ConfigError, match=match):
            encoder.encode_chunks(TEXTS, **options)
        assert tokens == encoder.stats.tokens


def test_a_fingerprint_tells_models_apart(saved: Path, small: SentenceTransformer) -> None:
    """The same from any encoder of a model, in a worker too; it is asked for once, uncounted."""
    with SafeEncoder(saved, reload=None, device="cpu") as encoder:
        found = encoder.fingerprint
        assert found is encoder.fingerprint
        assert (0, 0) == (encoder.stats.calls, encoder.stats.tokens)
        assert found is encoder.encode_chunks("雨")[0].fingerprint
        calibration = Calibration.fit(encoder.encode(TEXTS), encoder)
    np.testing.assert_allclose(1, np.linalg.norm(found), rtol=1e-6)
    with SafeEncoder(saved, reload=None, device="cpu", isolation="process") as apart:
        np.testing.assert_allclose(found, apart.fingerprint, rtol=0, atol=1e-6)
        calibration.pack(apart.encode_chunks(TEXTS), 1)
    with (
        SafeEncoder(other_weights(), reload=None) as other,
        pytest.raises(ConfigError, match="models"),
    ):
        Calibration.fit([other.encode_chunks("雨")[0], calibration_text(found)])


def calibration_text(fingerprint: Vectors) -> ChunkedText:
    """A text of the model with this fingerprint."""
    vectors = np.ones((1, len(fingerprint)), np.float32)
    return ChunkedText((Span(0, 1),), (3,), vectors, False, vectors[0], (), fingerprint)


@pytest.mark.parametrize("stream", [False, True])
def test_bits_that_tell_nothing_are_reported_once(
    caplog: pytest.LogCaptureFixture, *, stream: bool
) -> None:
    """For a model whose vectors share a mean, and from 100 texts on; they are what they were."""
    texts = [f"{number}番の雨。" for number in range(100)]

    def warnings() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        return [message for message in messages if "about the mean" in message]

    for is_shifted in (False, True):
        model = models.small()
        bias = model[0].auto_model.encoder.layer[-1].output.LayerNorm.bias.data
        bias += 9 if is_shifted else -model.encode(texts, convert_to_tensor=True).mean(dim=0)
        expected = quantize_embeddings(model.encode(texts), "ubinary")
        with SafeEncoder(model, reload=None) as encoder:
            for some in (texts[:99], texts, texts):
                found: Any = encoder.encode(some, precision="ubinary")
                if stream:
                    found = np.stack(list(encoder.encode_stream(some, precision="ubinary")))
                assert (found != expected[: len(some)]).mean() < 1e-3
            encoder.encode(texts)
        assert is_shifted == len(warnings())
    assert "32 of 32 dimensions" in warnings()[0]
    assert "雨" not in warnings()[0]


# Ranking


def by_hand(asked: Vectors, some: Sequence[ChunkedText], top_k: int) -> list[list[tuple[int, int]]]:
    """Document and chunk of each hit, by a loop."""
    found = []
    for query in unit(asked):
        scores = [unit(one.vectors) @ query for one in some]
        order = sorted(range(len(some)), key=lambda at: -scores[at].max())
        found.append([(at, int(scores[at].argmax())) for at in order[:top_k]])
    return found


def places(hits: list[list[Hit]]) -> list[list[tuple[int, int]]]:
    """Document and chunk of each hit."""
    return [[(hit.document, hit.chunk) for hit in some] for some in hits]


@given(shapes, st.integers(1, 6), st.integers(1, 50))
def test_rank_gives_the_best_chunk_of_the_best_documents(
    shape: tuple[int, int, int], queries: int, top_k: int
) -> None:
    """As a loop over documents does; score and span are those of the chunk."""
    some, asked = documents(in_a_cone(*shape)), in_a_cone(1, queries, shape[2])
    hits = rank(asked, some, top_k)
    assert [min(top_k, len(some))] * queries == list(map(len, hits))
    for query, own, wanted in zip(unit(asked), hits, by_hand(asked, some, top_k), strict=True):
        best = [float((unit(some[at].vectors) @ query)[chunk]) for at, chunk in wanted]
        np.testing.assert_allclose(best, [hit.score for hit in own], rtol=0, atol=1e-5)
        assert [some[hit.document].spans[hit.chunk] for hit in own] == [hit.span for hit in own]
    [alone] = rank(asked[0], some, top_k)
    np.testing.assert_allclose(
        [hit.score for hit in hits[0]], [hit.score for hit in alone], rtol=0, atol=1e-5
    )


def test_rank_is_semantic_search_where_a_document_is_a_chunk() -> None:
    """Of sentence-transformers, on the same vectors."""
    vectors, asked = in_a_cone(0, 300, 24), in_a_cone(1, 12, 24)
    expected = util.semantic_search(asked, vectors, top_k=20)
    for one, best in ((documents(vectors), False), ([document(v[None]) for v in vectors], True)):
        found = rank(asked, one, 20, best_per_document=best)
        starts = np.cumsum([0, *(len(text.spans) for text in one)])
        for wanted, hits in zip(expected, found, strict=True):
            rows = [int(starts[hit.document]) + hit.chunk for hit in hits]
            assert [hit["corpus_id"] for hit in wanted] == rows
            scores = [hit["score"] for hit in wanted]
            np.testing.assert_allclose(scores, [hit.score for hit in hits], rtol=0, atol=1e-5)


@pytest.mark.skipif(not hasattr(util, "maxsim"), reason="sentence-transformers 6 has it")
def test_rank_is_maxsim_of_a_query_of_one_vector() -> None:
    """Of sentence-transformers, on the same vectors."""
    some, asked = documents(in_a_cone(0, 200, 24)), in_a_cone(1, 5, 24)
    scores = util.maxsim(list(unit(asked)[:, None]), [unit(one.vectors) for one in some]).numpy()
    for row, hits in zip(scores, rank(asked, some, len(some)), strict=True):
        np.testing.assert_allclose(
            row[[hit.document for hit in hits]], [hit.score for hit in hits], rtol=0, atol=1e-5
        )


def pickled(index: ChunkIndex) -> ChunkIndex:
    """Give what another process would read."""
    copy: ChunkIndex = pickle.loads(pickle.dumps(index))  # noqa: S301 our own
    return copy


@pytest.mark.parametrize("bits", [1, 8, 32])
@pytest.mark.parametrize("queries", [1, 9])
def test_an_index_may_grow(bits: Any, queries: int) -> None:
    """In any portions, over the ends of blocks, to what a single index of all is."""
    vectors = in_a_cone(0, 2 * BLOCK_COLUMNS + 100, 8)
    some, asked = documents(vectors), in_a_cone(1, queries, 8)
    calibration = Calibration.fit(vectors)
    kept: Any = some if bits == 32 else calibration.pack(some, bits)
    index, at = ChunkIndex(), 0
    assert [[]] * queries == rank(asked, index) == rank(asked, pickled(index))
    for size in (1, 2000, 1, 1, len(kept)):
        index.add(kept[at : at + size])
        at += size
    width = {1: 1, 8: 8, 32: 32}[bits]
    assert (len(some), len(vectors)) == (len(index), index.n_chunks)
    assert (width + 8) * len(vectors) + 8 * len(some) == index.nbytes
    hits = rank(asked, index, 3)
    if bits > 1:
        whole = np.concatenate([one.unpacked() if bits < 32 else unit(one.vectors) for one in kept])
        expected = (unit(asked) @ whole.T).max(axis=1)
        np.testing.assert_allclose(expected, [own[0].score for own in hits], rtol=0, atol=1e-4)
    assert hits == rank(asked, kept, 3)
    copy = pickled(index)
    assert (hits, index.nbytes) == (rank(asked, copy, 3), copy.nbytes)
    copy.add(kept[:1])
    assert (len(copy), repr(index)) == (len(index) + 1, repr(pickled(index)))
    assert all(kept[hit.document].spans[hit.chunk] == hit.span for own in hits for hit in own)


def test_bits_find_what_vectors_find_about_the_mean_and_not_about_zero() -> None:
    """The control: the same bits about zero are the same for nearly all vectors."""
    vectors = in_a_cone(0, 2000, 64)
    asked = vectors[::20] + np.random.default_rng(5).normal(0, 0.5, (100, 64)).astype(np.float32)
    some, answers = [document(row[None]) for row in vectors], list(range(0, 2000, 20))
    calibration = Calibration.fit(vectors)
    centred = rank(asked, calibration.pack(some, 1), 1)
    about_zero = Calibration(np.zeros(64, np.float32), calibration.spread, 2000)
    plain = rank(asked, about_zero.pack(some, 1), 1)
    found = [
        np.mean([own[0].document for own in hits] == np.array(answers)) for hits in (centred, plain)
    ]
    assert found[0] > 0.95
    assert found[1] < 0.8


def test_candidates_are_scored_again() -> None:
    """Hits, scores and order are those of whole vectors, as far as the candidates reach."""
    vectors = in_a_cone(0, 3000, 32)
    some, asked = documents(vectors), in_a_cone(1, 10, 32)
    packed = Calibration.fit(vectors).pack(some, 1)
    whole = rank(asked, some, 5)
    assert places(whole) != places(rank(asked, packed, 5))
    assert places(whole) == places(rank(asked, packed, 5, rescore=some, candidates=len(some)))
    found = rank(asked, packed, 5, rescore=some)
    for query, hits in zip(unit(asked), found, strict=True):
        scores = [float(unit(some[hit.document].vectors)[hit.chunk] @ query) for hit in hits]
        np.testing.assert_allclose(scores, [hit.score for hit in hits], rtol=0, atol=1e-5)
        assert sorted(scores, reverse=True) == pytest.approx(scores)


def test_only_candidates_are_read() -> None:
    """Whole vectors may lie in a file."""
    some = documents(in_a_cone(0, 3000, 32))
    packed = Calibration.fit(some).pack(some, 1)
    read: list[int] = []

    class File:
        """Gives documents by their number."""

        def __getitem__(self, number: int) -> ChunkedText:
            read.append(number)
            return some[number]

    rank(in_a_cone(1, 1, 32), packed, 2, rescore=File(), candidates=7)  # type: ignore[arg-type] # all that is needed
    assert 7 == len(read)


def test_of_equal_scores_the_first_document_wins() -> None:
    """However many are wanted."""
    row = in_a_cone(0, 1, 8)
    some = [document(row) for _ in range(50)]
    for top_k in (1, 3, 50, 99):
        assert list(range(min(top_k, 50))) == [hit.document for hit in rank(row, some, top_k)[0]]


@pytest.mark.parametrize(
    ("query", "options", "match"),
    [
        (np.ones(7), {}, r"shape \(n, 8\)"),
        (np.full(8, np.nan), {}, "NaN"),
        (np.ones((2, 2, 8)), {}, r"shape \(2, 2, 8\)"),
        ("吾輩は猫", {}, "not an array of numbers"),
        (np.ones(8), {"top_k": 0}, "top_k=0"),
        (np.ones(8), {"top_k": 1.5}, "top_k=1.5"),
        (np.ones(8), {"candidates": -1}, "candidates=-1"),
        (np.ones(8), {"rescore": documents(in_a_cone(0, 20, 8))[1:]}, "rescore has"),
        (np.ones(8), {"rescore": documents(in_a_cone(0, 20, 9))}, r"shape \(n, 9\)"),
    ],
)
def test_a_query_that_cannot_work(query: Any, options: dict[str, Any], match: str) -> None:
    """It is said what is wrong."""
    with pytest.raises(ConfigError, match=match):
        rank(query, documents(in_a_cone(0, 20, 8)), **options)


def test_documents_that_do_not_fit_together() -> None:
    """None of a portion is added where one does not fit; the index serves on."""
    some = documents(in_a_cone(0, 200, 8))
    calibration, again = Calibration.fit(some), Calibration.fit(some)
    other = Calibration.fit(some[:20])
    index = ChunkIndex(calibration.pack(some[:3], 1))
    before = rank(np.ones(8), index)
    wrong: list[Any] = [
        some[3],
        calibration.pack(some[3], 8),
        other.pack(some[3], 1),
        document(in_a_cone(0, 3, 8)[:0]),
        replace(document(in_a_cone(0, 3, 8)), spans=(Span(0, 1),)),
        replace(calibration.pack(some[3], 1), spans=(Span(0, 1),) * 99),
        document(np.full((2, 8), np.nan, np.float32)),
        "文",
        None,
    ]
    for one in wrong:
        with pytest.raises(ConfigError, match=r"^(The vectors of d|D)ocument 4"):
            index.add([calibration.pack(some[4], 1), one])
        assert before == rank(np.ones(8), index)
    index.add([again.pack(some[3], 1)])  # equal to the first
    assert 4 == len(index)


@pytest.mark.parametrize("chunked", [None, 3, "文", {}, document(in_a_cone(0, 3, 8))])
def test_what_holds_no_documents_is_refused(chunked: Any) -> None:
    """A single document, too: it must be in a list."""
    with pytest.raises(ConfigError, match="Pass a list of documents") as caught:
        rank(np.ones(8), chunked)
    assert "文" not in str(caught.value).splitlines()[0]


def test_an_index_is_searched_while_it_grows() -> None:
    """Hits are of documents that were there; nothing is torn."""
    vectors = in_a_cone(0, 20_000, 16)
    some, asked = documents(vectors), unit(in_a_cone(1, 1, 16))
    best = [float((asked @ unit(one.vectors).T).max()) for one in some]
    index, done, ranked = ChunkIndex(some[:1]), threading.Event(), threading.Semaphore(0)

    def add() -> None:
        for number, at in enumerate(range(1, len(some), 10)):
            if number < 20:  # so that there are searches between
                ranked.acquire()
            index.add(some[at : at + 10])
        done.set()

    adding = threading.Thread(target=add)
    adding.start()
    sizes = set()
    while not done.is_set():
        [hits] = rank(asked, index, 5)
        sizes.add(len(index))
        ranked.release()
        for hit in hits:
            assert best[hit.document] == pytest.approx(hit.score, abs=1e-5)
    adding.join()
    assert len(some) == len(index)
    assert len(sizes) > 1
    assert max(best) == pytest.approx(rank(asked, index, 1)[0][0].score, abs=1e-5)


def test_real_answers(small: SentenceTransformer) -> None:
    """A sentence of a document is found by itself, with its place in the text."""
    texts = [models.long_text(20), models.long_text(20, start=60)]
    with SafeEncoder(small, reload=None, chunks="spans") as encoder:
        chunked = encoder.encode_chunks(texts)
        for at, text in enumerate(chunked):
            start, end = text.spans[3]
            sentence = texts[at][start:end]
            [[hit]] = rank(encoder.encode(sentence), chunked, 1)
            assert sentence.strip() == texts[hit.document][slice(*hit.span)].strip()
            assert pytest.approx(1, abs=1e-5) == hit.score
