"""The façade by itself, over a fake backend: what callers pass reaches it as frozen values."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import models
from fakes import DIMENSION, FakeBackend, vector_of
from safe_embed import SafeEncoder
from safe_embed.encoding import encode_steps
from safe_embed.errors import ConfigError
from safe_embed.inference.request import Embed, EmbedChunks, EmbedRaw, Pool
from safe_embed.options import EncodeOptions, encode, for_task, request_of

METHODS = ("encode", "encode_query", "encode_document")
TEXTS = ["春", "夏"]


@pytest.fixture
def backend() -> FakeBackend:
    """A backend that keeps its calls."""
    return FakeBackend()


@pytest.fixture
def encoder(backend: FakeBackend) -> SafeEncoder:
    """An encoder over the fake backend: no model is loaded."""
    made = SafeEncoder.__new__(SafeEncoder)
    made.backend = backend
    return made


@pytest.mark.parametrize("name", METHODS)
def test_the_signature_is_that_of_upstream(name: str) -> None:
    """Parameter by parameter: names, order, defaults, and the way they may be passed."""
    from sentence_transformers import SentenceTransformer

    ours = inspect.signature(getattr(SafeEncoder, name)).parameters
    theirs = inspect.signature(getattr(SentenceTransformer, name)).parameters
    renamed = {"sentences": "inputs"}  # sentence-transformers 5
    expected = {renamed.get(key, key): value for key, value in theirs.items()}
    for key, parameter in expected.items():
        assert key in ours
        assert (key, parameter.kind) == (key, ours[key].kind)
        assert (key, parameter.default) == (key, ours[key].default)
    assert list(expected) == [key for key in ours if key in expected]
    assert getattr(SafeEncoder, name).__doc__


def test_the_docstring_of_encode_has_every_argument() -> None:
    """It stands once, at the declaration."""
    for name in inspect.signature(encode).parameters:
        assert f"{name}: " in (SafeEncoder.encode.__doc__ or "")


@pytest.mark.parametrize("name", METHODS)
def test_arguments_by_position_and_by_keyword(
    encoder: SafeEncoder, backend: FakeBackend, name: str
) -> None:
    """Both reach the backend alike, and so does the older name of the first."""
    call = getattr(encoder, name)
    values = {"prompt_name": None, "prompt": "前: ", "batch_size": 7, "show_progress_bar": True}
    call(TEXTS, *values.values())
    call(inputs=TEXTS, **values)
    call(sentences=TEXTS, **values)
    first, *others = backend.calls
    assert [first, first] == others
    assert isinstance(first, Embed)
    request = first.request
    assert (TEXTS, "前: ", 7, True) == (
        request.texts,
        request.prompt,
        request.batch_size,
        request.show_progress_bar,
    )


@pytest.mark.parametrize(
    ("name", "prompt", "task"),
    [
        ("encode", "", None),
        ("encode_query", "検索: ", "query"),
        ("encode_document", "文書: ", "document"),
    ],
)
def test_what_a_task_brings_along(
    encoder: SafeEncoder, backend: FakeBackend, name: str, prompt: str, task: str | None
) -> None:
    """A prompt that the model has, unless the caller chose another; and the name of the task."""
    getattr(encoder, name)(TEXTS)
    getattr(encoder, name)(TEXTS, prompt="自分の: ", extra=1)
    plain, own = (call.request for call in backend.calls if isinstance(call, Embed))
    expected = {} if task is None else {"task": task}
    assert (prompt, expected) == (plain.prompt, plain.model_kwargs)
    assert ("自分の: ", {**expected, "extra": 1}) == (own.prompt, own.model_kwargs)


def test_what_is_asked_for_is_done_after_the_backend(encoder: SafeEncoder) -> None:
    """Dimension, length, precision and form, in upstream's order."""
    vectors = np.stack([vector_of(text) for text in TEXTS])
    np.testing.assert_array_equal(vectors, encoder.encode(TEXTS))
    np.testing.assert_array_equal(vectors[0], encoder.encode("春"))
    short = encoder.encode(TEXTS, truncate_dim=3, normalize_embeddings=True)
    np.testing.assert_allclose(np.ones(2), np.linalg.norm(short, axis=1), rtol=1e-6)
    assert (2, 3) == short.shape
    assert np.int8 == encoder.encode(TEXTS, precision="binary").dtype
    assert "Tensor" == type(encoder.encode(TEXTS, convert_to_tensor=True)).__name__
    assert isinstance(encoder.encode(TEXTS, convert_to_numpy=False), list)
    encoder.truncate_dim = 2
    assert (2, 2) == encoder.encode(TEXTS).shape
    assert 2 == encoder.get_embedding_dimension()


def test_other_outputs_are_upstreams(encoder: SafeEncoder, backend: FakeBackend) -> None:
    """The call says which; a single text has a single output."""
    assert {"of": "春"} == encoder.encode("春", output_value=None)
    [call] = backend.calls
    assert isinstance(call, EmbedRaw)
    assert call.upstream["output_value"] is None
    assert [] == encoder.encode([], output_value=None)


def test_aencode_is_encode(encoder: SafeEncoder, backend: FakeBackend) -> None:
    """The same call, and the same vectors."""
    vectors = asyncio.run(encoder.aencode(TEXTS, prompt_name="query"))
    np.testing.assert_array_equal(encoder.encode(TEXTS, prompt_name="query"), vectors)
    assert backend.calls[0] == backend.calls[1]


def test_chunks_are_truncated_like_texts(encoder: SafeEncoder, backend: FakeBackend) -> None:
    """Each vector of a chunk, and that of the text."""
    [text] = encoder.encode_chunks("春", truncate_dim=4, normalize_embeddings=True)
    assert ((1, 4), (4,)) == (text.vectors.shape, text.pooled().shape)
    assert 1.0 == pytest.approx(float(np.linalg.norm(text.pooled())))
    assert isinstance(backend.calls[0], EmbedChunks)


def test_a_stream_is_numbered_through(encoder: SafeEncoder, backend: FakeBackend) -> None:
    """Portions of bounded size; each knows the number of its first text."""
    texts = [str(number) for number in range(2500)]
    vectors = list(encoder.encode_stream(iter(texts)))
    np.testing.assert_array_equal(np.stack([vector_of(text) for text in texts]), vectors)
    firsts = [call.request.first_index for call in backend.calls if isinstance(call, Embed)]
    assert [0, 1024, 2048] == firsts


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"pool": {"fake": 1}, "chunk_size": 9}, Pool({"fake": 1}, None, 9)),
        ({"device": ["cpu", "cpu"]}, Pool(None, ["cpu", "cpu"], None)),
        ({"device": "cpu"}, None),
    ],
)
def test_other_processes_are_named_to_the_backend(
    encoder: SafeEncoder, backend: FakeBackend, options: dict[str, Any], expected: Pool | None
) -> None:
    """A pool, or a list of devices; a single device is where the model goes."""
    encoder.encode(TEXTS, **options)
    [call] = backend.calls
    assert isinstance(call, Embed)
    assert ([expected], expected) == (backend.pools, call.request.pool)
    assert (None if expected else "cpu") == call.request.device


mistakes: list[Callable[[SafeEncoder], Any]] = [
    lambda encoder: encoder.encode(TEXTS, batch_size=0),
    lambda encoder: encoder.encode(TEXTS, prompt_name="nowhere"),
    lambda encoder: encoder.encode(TEXTS, unknown=1),
    lambda encoder: encoder.encode(TEXTS, precision="float8"),
    lambda encoder: encoder.encode(TEXTS, output_value="all"),
    lambda encoder: encoder.encode(TEXTS, device=object()),
    lambda encoder: encoder.encode_chunks(TEXTS, batch_size=0),
    lambda encoder: encoder.encode_stream(iter(TEXTS), precision="int8"),
    lambda encoder: encoder.plan(TEXTS, prompt_name="nowhere"),
]


@pytest.mark.parametrize("mistake", mistakes)
def test_mistakes_never_reach_the_backend(
    encoder: SafeEncoder, backend: FakeBackend, mistake: Callable[[SafeEncoder], Any]
) -> None:
    """They are refused at once."""
    with pytest.raises(ConfigError):
        mistake(encoder)
    assert [] == backend.calls


def test_options_are_frozen(backend: FakeBackend) -> None:
    """A value can be passed on without a copy; a changed one is another."""
    options = EncodeOptions(inputs=TEXTS)
    with pytest.raises(AttributeError):
        options.batch_size = 1  # type: ignore[misc] # that is what is tested
    query = for_task(options, backend.model.settings, "query")
    assert ("query", None) == (query.prompt_name, options.prompt_name)
    assert "検索: " == request_of(query, TEXTS, backend.model).prompt
    steps = encode_steps(backend, query)
    with pytest.raises(StopIteration) as done:
        steps.send(next(steps).result())
    assert (2, DIMENSION) == done.value.value.shape


def test_too_large_chunks_are_refused_before_the_load(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the folder says how much the model reads; else the loaded model does."""
    import sentence_transformers

    models.small().save(str(tmp_path))
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    loads: list[str] = []

    def load(path: str, **_: Any) -> Any:
        loads.append(path)
        raise ConnectionError

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", load)
    with pytest.raises(ConfigError, match="max_chunk_tokens=65 is more than the 64 tokens"):
        SafeEncoder(tmp_path, max_chunk_tokens=65)
    assert [] == loads
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="max_chunk_tokens=999 is more than the 64 tokens"):
        SafeEncoder(models.small(), max_chunk_tokens=999)
