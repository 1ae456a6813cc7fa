"""The façade by itself, over a fake backend: what callers pass reaches it as frozen values."""

from __future__ import annotations

import asyncio
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
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
from safe_embed.upstream.arguments import ARGUMENTS

METHODS = ("encode", "encode_query", "encode_document")
TEXTS = ["春", "夏"]


def is_japanese(error: BaseException) -> bool:
    """Whether a message has a Japanese line after the English one."""
    return re.search("\n.*[ぁ-ん]", str(error)) is not None


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


# Each is refused whatever way the call takes.
wrong_values: dict[str, list[Any]] = {
    "prompt": [3, b"query: ", ["query: "], {"query": "q"}, np.str_, "\ud800"],
    "prompt_name": [3, b"query", ["query"], ("query",), object()],
    "batch_size": [None, 0, -1, 2.0, "32", True, [32]],
    "truncate_dim": [0, -1, 2.0, "256", True, [2]],
}


@pytest.mark.parametrize("name", wrong_values)
@pytest.mark.parametrize(
    "method",
    ["encode", "encode_query", "encode_document", "encode_chunks", "encode_stream", "aencode"],
)
def test_wrong_types_never_reach_the_backend(
    encoder: SafeEncoder, backend: FakeBackend, method: str, name: str
) -> None:
    """The message names the argument, in both languages; nothing was computed."""
    for value in wrong_values[name]:
        with pytest.raises(ConfigError, match=f"^{name}[ =].*\n{name}[ =]") as caught:
            asyncio.run(getattr(encoder, method)(TEXTS, **{name: value}))
        assert is_japanese(caught.value)
    assert [] == backend.calls


@pytest.mark.parametrize("value", [3, "query: ", ["query: "], {3: "q"}, {"query": 3}, {"q": b"q"}])
def test_prompts_are_a_dictionary_of_texts(
    encoder: SafeEncoder, value: Any, tmp_path: Path
) -> None:
    """Where they are set, where an encoder is made, and where they were changed in place."""
    with pytest.raises(ConfigError, match=r"^prompts"):
        encoder.prompts = value
    with pytest.raises(ConfigError, match=r"^prompts"):
        SafeEncoder(tmp_path, prompts=value)


def test_a_prompt_that_was_changed_in_place_is_checked_too(
    encoder: SafeEncoder, backend: FakeBackend
) -> None:
    """The dictionary is the user's own."""
    encoder.prompts["odd"] = 3
    with pytest.raises(ConfigError, match=r"^prompts\['odd'\] is 3"):
        encoder.encode(TEXTS, prompt_name="odd")
    encoder.prompts["none"] = None
    assert (2, DIMENSION) == encoder.encode(TEXTS, prompt_name="none").shape
    assert 1 == len(backend.calls)


@pytest.mark.parametrize("value", [0, -3, 2.5, "256", True])
def test_a_dimension_is_a_positive_integer(
    encoder: SafeEncoder, value: Any, tmp_path: Path
) -> None:
    """Where it is set, in a block, and where an encoder is made."""
    with pytest.raises(ConfigError, match=r"^truncate_dim must"):
        encoder.truncate_dim = value
    with (
        pytest.raises(ConfigError, match=r"^truncate_dim must"),
        encoder.truncate_embeddings(value),
    ):
        pass
    with pytest.raises(ConfigError, match=r"^truncate_dim must"):
        SafeEncoder(tmp_path, truncate_dim=value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("normalise_embeddings", "Did you mean 'normalize_embeddings'?"),
        ("normalize", "Did you mean 'normalize_embeddings'?"),
        ("promptName", "Did you mean 'prompt_name'?"),
        ("batchsize", "Did you mean 'batch_size'?"),
        ("truncate_dims", "Did you mean 'truncate_dim'?"),
        ("on_long", "Pass it to SafeEncoder(…)."),
        ("pooling", "Pass it to SafeEncoder(…)."),
        ("max_chunk_token", "Did you mean 'max_chunk_tokens'?"),
        ("late_chunking", "docs/habits.md says what it did to search"),
        ("chunk_overlap", "docs/ja/habits.md"),
    ],
)
@pytest.mark.parametrize(
    "method",
    ["encode", "encode_query", "encode_document", "encode_chunks", "encode_stream", "aencode"],
)
def test_a_wrong_name_is_told_by_the_method_that_was_called(
    encoder: SafeEncoder, backend: FakeBackend, method: str, given: str, meant: str
) -> None:
    """It says what was probably meant."""
    with pytest.raises(ConfigError, match=f"^{method} has no argument '{given}'") as caught:
        asyncio.run(getattr(encoder, method)(TEXTS, **{given: 1}))
    assert meant in str(caught.value)
    assert f"\n{method} に '{given}' という引数はなく" in str(caught.value)
    assert [] == backend.calls


def test_an_argument_of_encode_alone_is_told(encoder: SafeEncoder) -> None:
    """What encode has, and the method that was called does not."""
    with pytest.raises(
        ConfigError, match=r"^encode_chunks has no argument 'precision'.*Only encode"
    ):
        encoder.encode_chunks(TEXTS, precision="int8")


def test_titles_are_those_of_chunks(encoder: SafeEncoder, backend: FakeBackend) -> None:
    """The other methods have none, and say where they are."""
    with pytest.raises(ConfigError, match=r"has no argument 'titles'.*Only encode_chunks"):
        encoder.encode(TEXTS, titles=[""] * len(TEXTS))
    assert [] == backend.calls


@pytest.mark.parametrize("name", METHODS)
def test_a_missing_argument_is_told_by_the_method_that_was_called(
    encoder: SafeEncoder, name: str
) -> None:
    """As any function would; and so are too many."""
    with pytest.raises(TypeError, match=rf"^{name}\(\) missing a required argument: 'inputs'"):
        getattr(encoder, name)()
    with pytest.raises(TypeError, match=rf"^{name}\(\) too many positional arguments"):
        getattr(encoder, name)(TEXTS, *[None] * 20)


WRONG_NAMES = """
import sys
from safe_embed import SafeEncoder
try:
    SafeEncoder("nobody/nothing", **{sys.argv[1]: 1})
except ValueError as error:
    print(error, not {"torch", "sentence_transformers", "transformers"} & set(sys.modules))
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("max_chunk_token", "Did you mean 'max_chunk_tokens'?"),
        ("spliter", "Did you mean 'splitter'?"),
        ("trust_remote_codes", "Did you mean 'trust_remote_code'?"),
        ("onLong", "Did you mean 'on_long'?"),
        ("normalize_embeddings", "is an argument of encode"),
        ("zzz", "has no argument 'zzz'"),
    ],
)
def test_a_wrong_name_is_refused_before_torch_is_imported(given: str, expected: str) -> None:
    """It takes seconds; the arguments of SafeEncoder are listed before those of upstream."""
    told = subprocess.run(
        [sys.executable, "-c", WRONG_NAMES, given], capture_output=True, text=True, check=True
    ).stdout
    assert expected in told
    assert "引数" in told
    assert told.endswith("True\n")
    if "encode" not in expected:
        assert told.index("max_chunk_tokens, ") < told.index("cache_folder")


def test_the_names_that_are_passed_on_are_those_of_upstream() -> None:
    """Every argument of the installed SentenceTransformer, and no invented one."""
    from sentence_transformers import SentenceTransformer

    theirs = set(inspect.signature(SentenceTransformer).parameters)
    older_or_newer = {"tokenizer_kwargs", "processor_kwargs"}
    own = {"model_name_or_path", "modules"}
    assert theirs - own == set(ARGUMENTS) - (older_or_newer - theirs)


def test_arguments_of_the_encoder_are_known_to_its_methods() -> None:
    """A call that is given one says where it belongs."""
    own = [*inspect.signature(SafeEncoder).parameters]
    for name in [known for known in own if known not in {"model", "sentence_transformer_options"}]:
        made = SafeEncoder.__new__(SafeEncoder)
        made.backend = FakeBackend()
        with pytest.raises(ConfigError, match="Pass it to SafeEncoder"):
            made.encode(TEXTS, **{name: None})


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
