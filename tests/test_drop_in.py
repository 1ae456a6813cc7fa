"""SafeEncoder in the place of a SentenceTransformer: names, arguments, copies, pools, the class itself."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import models
import process_models
from safe_embed import Event, EveryCalls, SafeEmbedError, SafeEncoder
from safe_embed.errors import ConfigError, InvalidTextError, UnsupportedError, WorkerError
from safe_embed.upstream.absent import ABSENT

pytestmark = pytest.mark.usefixtures("forked_workers")

TEXTS = ["今日は雨です。", "", "東京都の人口は1,400万人です。", models.long_text()]
APART = pytest.mark.skipif(sys.platform == "win32", reason="worker processes need POSIX")
DIFFERENCES = Path(__file__).parents[1] / "docs" / "reference" / "differences.md"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model as a folder."""
    path = tmp_path_factory.mktemp("saved")
    models.small(prompts={"query": "検索クエリ: "}).save(str(path))
    return str(path)


@pytest.fixture(scope="module")
def expected(saved: str) -> Any:
    """The vectors of TEXTS."""
    with SafeEncoder(saved) as encoder:
        return encoder.encode(TEXTS)


@pytest.fixture
def encoder(saved: str) -> Iterator[SafeEncoder]:
    """An encoder of that model, which a test may change."""
    with SafeEncoder(saved, device="cpu") as found:
        yield found


def sentence_transformer() -> Any:
    """Upstream's class."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer


def same(expected: Any, actual: Any, tolerance: float = 1e-6) -> None:
    """Compare vectors."""
    np.testing.assert_allclose(actual, expected, atol=tolerance)


# Names


# transformers attaches it to every module of torch, once it has loaded a model.
NOT_UPSTREAMS = {"smart_apply"}


def public(kind: type) -> set[str]:
    """The public names of a class."""
    return {name for name in dir(kind) if not name.startswith("_")} - NOT_UPSTREAMS


def test_every_name_of_upstream_is_there_or_names_the_way(saved: str) -> None:
    """What SafeEncoder lacks of the installed SentenceTransformer is in the table, and no more."""
    missing = public(sentence_transformer()) - public(SafeEncoder)
    assert set() == missing - ABSENT.keys()
    assert set() == ABSENT.keys() & public(SafeEncoder)
    if models.UPSTREAM >= 6:
        assert ABSENT.keys() == missing


@pytest.mark.parametrize("name", ["save", "fit", "parameters", "state_dict", "compile", "children"])
def test_a_missing_name_is_missing_for_python(encoder: SafeEncoder, name: str) -> None:
    """Hasattr and a default of getattr work; the error is an AttributeError of ours."""
    assert not hasattr(encoder, name)
    assert 3 == getattr(encoder, name, 3)
    with pytest.raises(UnsupportedError, match=re.escape(f".{name}: ")) as caught:
        getattr(encoder, name)
    assert isinstance(caught.value, SafeEmbedError)
    assert isinstance(caught.value, AttributeError)


def test_each_message_is_one_sentence_that_names_the_way_in_two_languages(saved: str) -> None:
    """One English line and one Japanese line for each name."""
    with SafeEncoder(saved) as encoder:
        for name in ABSENT:
            with pytest.raises(UnsupportedError) as caught:
                getattr(encoder, name)
            english, japanese = str(caught.value).splitlines()
            assert re.fullmatch(r"SafeEncoder does not support [^:]+: .*[^.]\.", english)
            assert re.search(r"[ぁ-ん].*。$", japanese)
            assert re.search("SentenceTransformer|SafeEncoder|encode|to\\(|tokenizer", english[35:])


def test_an_unknown_name_is_a_plain_error(encoder: SafeEncoder) -> None:
    """Neither upstream's name nor ours: Python's own words."""
    with pytest.raises(AttributeError, match="'SafeEncoder' object has no attribute 'colour'"):
        _ = encoder.colour  # type: ignore[attr-defined]
    assert not hasattr(encoder, "__array__")
    assert not callable(encoder)


def test_modules_cannot_be_indexed(encoder: SafeEncoder) -> None:
    """[0], a slice and a loop: a TypeError, as of what cannot be indexed; it is true all the same."""
    for use in (
        lambda: encoder[0],
        lambda: encoder[-1],
        lambda: encoder[1:],
        lambda: list(encoder),  # type: ignore[call-overload]
        lambda: dict(zip(encoder, range(2), strict=False)),  # type: ignore[call-overload]
    ):
        with pytest.raises(TypeError, match="SentenceTransformer"):
            use()
    assert bool(encoder)
    assert (1,) == np.array([encoder], dtype=object).shape


def test_the_tokenizer_cannot_be_replaced(encoder: SafeEncoder) -> None:
    """A fresh model would not have it."""
    with pytest.raises(UnsupportedError, match="function"):
        encoder.tokenizer = encoder.tokenizer


def listed_names(text: str) -> dict[str, list[str]]:
    """Heading -> names of the tables below ``## Every public name``."""
    found: dict[str, list[str]] = {}
    [section] = re.findall(r"^## Every public name.*?(?=^## )", text, re.MULTILINE | re.DOTALL)
    for part in section.split("\n### ")[1:]:
        rows = re.findall(r"^\| (`.*?) \|", part, re.MULTILINE)
        found[part.splitlines()[0]] = [name for row in rows for name in re.findall(r"`(\w+)", row)]
    return found


def test_the_reference_lists_every_name_of_upstream() -> None:
    """The lists of docs/reference/differences.md are dir(SentenceTransformer), each name once."""
    there, not_there = listed_names(DIFFERENCES.read_text(encoding="utf-8")).values()
    names = [*there, *not_there]
    assert sorted(set(names)) == sorted(names)
    assert set(not_there) == ABSENT.keys()
    assert set(there) <= public(SafeEncoder)
    if models.UPSTREAM >= 6:
        assert public(sentence_transformer()) == set(names)
    else:
        assert public(sentence_transformer()) <= set(names)


# Arguments

# Checked against upstream elsewhere: the first argument has two names.
ENCODING = {"encode", "encode_query", "encode_document"}


def parameters(method: Any) -> list[tuple[str, Any, Any]]:
    """Name, kind and default of each parameter."""
    found = inspect.signature(method).parameters.values()
    return [(one.name, one.kind, one.default) for one in found]


METHODS = sorted(
    name
    for name in public(SafeEncoder) - ENCODING
    if callable(getattr(SafeEncoder, name))
    and callable(getattr(sentence_transformer(), name, None))  # some were properties in version 5
)


def test_methods_are_compared() -> None:
    """The next test is about these, and more."""
    assert {"to", "half", "evaluate", "encode_multi_process", "tokenize"} <= {*METHODS}
    assert len(METHODS) >= 15


@pytest.mark.parametrize("name", METHODS)
def test_arguments_by_position(name: str) -> None:
    """Names, order, kinds and defaults are those of the installed upstream."""
    assert parameters(getattr(sentence_transformer(), name)) == parameters(
        getattr(SafeEncoder, name)
    )


def test_the_model_by_upstreams_name(saved: str, expected: Any) -> None:
    """model_name_or_path is the model, as a str and as a path; by position too."""
    for encoder in (
        SafeEncoder(model_name_or_path=saved),
        SafeEncoder(model_name_or_path=Path(saved)),
        SafeEncoder(saved, device="cpu", prompts={"a": "b"}),
    ):
        with encoder:
            same(expected, encoder.encode(TEXTS))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"model": None},
        {"model": "a", "model_name_or_path": "a"},
        {"model": "a", "modules": []},
        {"model_name_or_path": "a", "modules": [1]},
    ],
    ids=str,
)
def test_exactly_one_model(arguments: dict[str, Any]) -> None:
    """None, or two: upstream would make an empty model, or ignore one of them."""
    with pytest.raises(ConfigError, match="exactly one"):
        SafeEncoder(**arguments)


@pytest.mark.parametrize("make", [list, tuple, iter], ids=lambda make: make.__name__)
def test_modules(make: Callable[[Any], Any]) -> None:
    """Modules make a SentenceTransformer, with upstream's further arguments; it is the user's own."""
    upstream = models.small()
    options: dict[str, Any] = {"prompts": {"a": "前: "}, "truncate_dim": 8, "device": "cpu"}
    again = sentence_transformer()(modules=list(upstream), **options)
    with SafeEncoder(modules=make(list(upstream)), **options) as encoder:
        short = TEXTS[:3]
        same(again.encode(short, prompt_name="a"), encoder.encode(short, prompt_name="a"))
        assert (3, 8) == encoder.encode(short).shape
        with pytest.raises(SafeEmbedError, match="loaded"):
            encoder.reload()


@pytest.mark.parametrize(
    "options", [{"isolation": "process"}, {"dtype": "auto"}, {"reload": EveryCalls(3)}]
)
def test_modules_cannot_be_loaded_anew(options: dict[str, Any]) -> None:
    """What needs another load is refused, as for a SentenceTransformer that is loaded already."""
    with pytest.raises(ConfigError, match="name, a folder or a loader"):
        SafeEncoder(modules=list(models.small()), **options)


# What a model tells, and where it is


def test_features_are_upstreams(encoder: SafeEncoder, saved: str) -> None:
    """Preprocess and tokenize: the same tensors, cut where upstream cuts."""
    check_features(encoder, saved)
    with pytest.raises(InvalidTextError):
        encoder.preprocess([("質問", "答え")])  # type: ignore[list-item]


def check_features(encoder: SafeEncoder, saved: str) -> None:
    """Compare with upstream, without and with a prompt, by position and by name."""
    upstream = sentence_transformer()(saved, device="cpu")
    wanted = upstream.tokenize(TEXTS)
    prompted = upstream.tokenize(["前: " + text for text in TEXTS])
    for found, known in (
        (encoder.tokenize(TEXTS), wanted),
        (encoder.tokenize(texts=iter(TEXTS)), wanted),
        (encoder.preprocess(TEXTS), wanted),
        (encoder.preprocess(tuple(TEXTS), None), wanted),
        (encoder.preprocess(TEXTS, "前: "), prompted),
    ):
        assert known.keys() <= found.keys()
        for name in ("input_ids", "attention_mask"):
            np.testing.assert_array_equal(known[name], found[name])
    assert (4, models.LIMIT) == tuple(wanted["input_ids"].shape)


def test_what_the_model_is(encoder: SafeEncoder, saved: str) -> None:
    """Facts that libraries ask for before they embed."""
    upstream = sentence_transformer()(saved, device="cpu")
    assert upstream.get_backend() == encoder.get_backend()
    assert sorted(upstream.get_model_kwargs()) == sorted(encoder.get_model_kwargs())
    assert ["text"] == encoder.modalities
    assert encoder.supports("text")
    assert not encoder.supports("image")
    assert not encoder.supports(("text", "image"))
    assert encoder is encoder.eval() is encoder.train(False)
    with pytest.raises(UnsupportedError, match="train a SentenceTransformer"):
        encoder.train()
    if models.UPSTREAM >= 6:
        names = sentence_transformer().SUPPORTED_SIMILARITY_FN_NAMES
        assert tuple(names) == encoder.SUPPORTED_SIMILARITY_FN_NAMES


@pytest.mark.parametrize(
    ("move", "name"),
    [
        (lambda one: one.half(), "float16"),
        (lambda one: one.bfloat16(), "bfloat16"),
        (lambda one: one.double(), "float64"),
        (lambda one: one.to(dtype_named("float16")), "float16"),
        (lambda one: one.to("cpu", dtype_named("bfloat16")), "bfloat16"),
        (lambda one: one.to(dtype=dtype_named("float16"), non_blocking=True), "float16"),
        (lambda one: one.to(zeros("float16")), "float16"),
    ],
)
def test_a_cast_survives_a_reload(
    encoder: SafeEncoder, saved: str, move: Callable[[Any], Any], name: str
) -> None:
    """Vectors are those of upstream's model after the same call, also from a fresh model."""
    check_cast(encoder, saved, move, name)


def check_cast(encoder: SafeEncoder, saved: str, move: Callable[[Any], Any], name: str) -> None:
    """Compare with upstream, before and after a reload."""
    upstream = move(sentence_transformer()(saved, device="cpu"))
    assert encoder is move(encoder)
    short = TEXTS[:3]
    for _ in range(2):
        assert dtype_named(name) == encoder.dtype
        tolerance = {"float16": 5e-3, "bfloat16": 5e-2}.get(name, 1e-5)
        same(upstream.encode(short), encoder.encode(short), tolerance)
        encoder.reload()


def dtype_named(name: str) -> Any:
    """One of torch's types."""
    import torch

    return getattr(torch, name)


def zeros(name: str) -> Any:
    """A tensor of a type, on the CPU."""
    import torch

    return torch.zeros(1, dtype=getattr(torch, name))


def test_a_move_survives_a_reload(encoder: SafeEncoder) -> None:
    """Meta stands for another device: one that every machine has."""
    encoder.to("cpu").cpu().to(device="cpu").to(encoder.device)
    encoder.reload()
    assert "cpu" == str(encoder.device)
    with pytest.raises((RuntimeError, AssertionError)):  # upstream's own, unwrapped
        encoder.to("cuda:99")
    assert "cpu" == str(encoder.device)
    with pytest.raises(ConfigError, match="device"):
        encoder.to("一つの文。")
    with pytest.raises(ConfigError, match="device"):
        encoder.to([])
    with pytest.raises(TypeError):
        encoder.to(dtype_named("int8"))
    assert (2, 32) == encoder.encode(["雨", "雪"]).shape


def test_lost_digits_do_not_come_back(encoder: SafeEncoder) -> None:
    """A cast from 16 bits is refused: a fresh model would give other vectors."""
    assert encoder is encoder.float()
    encoder.half()
    assert encoder is encoder.half()
    for cast in (encoder.float, encoder.double, encoder.bfloat16):
        with pytest.raises(ConfigError, match="model_kwargs"):
            cast()
    assert dtype_named("float16") == encoder.dtype


def test_the_users_own_model_is_cast_as_upstream_casts() -> None:
    """It is never reloaded."""
    upstream = models.small()
    with SafeEncoder(upstream) as encoder:
        assert dtype_named("float16") == encoder.half().dtype == upstream.dtype
        assert dtype_named("float32") == encoder.float().dtype == upstream.dtype


@APART
def test_in_a_worker_process(saved: str) -> None:
    """Features, a move and a cast, in a process and in the one that takes its place; a copy."""
    with SafeEncoder(saved, device="cpu", isolation="process") as encoder:
        check_features(encoder, saved)
        assert encoder is encoder.to("cpu").half()
        with pytest.raises((RuntimeError, AssertionError)):
            encoder.to("cuda:99")
        vectors = encoder.encode(TEXTS)
        assert np.float16 == vectors.dtype
        encoder.reload()
        same(vectors, encoder.encode(TEXTS), 1e-3)
        with pickled(encoder) as other:
            same(vectors, other.encode(TEXTS), 1e-3)
        same(vectors, encoder.encode(TEXTS), 1e-3)


# The model card, and evaluators


def test_the_model_card_takes_scores(encoder: SafeEncoder, saved: str) -> None:
    """An evaluator writes into it; it can be replaced, and comes from the constructor."""
    from sentence_transformers import SentenceTransformerModelCardData as Card

    home = "sentence_transformer.evaluation" if models.UPSTREAM >= 6 else "evaluation"
    evaluation = importlib.import_module(f"sentence_transformers.{home}")
    card = encoder.model_card_data
    assert isinstance(card, Card)
    assert card is encoder.model_card_data
    evaluator = evaluation.TripletEvaluator(
        TEXTS[:1] * 2, [TEXTS[0], TEXTS[2]], [TEXTS[2], TEXTS[0]]
    )
    scores = sentence_transformer()(saved, device="cpu").evaluate(evaluator)
    assert scores == encoder.evaluate(evaluator)
    assert {"cosine_accuracy": 0.5} == scores
    assert [evaluator] == list(card.eval_results_dict)
    encoder.model_card_data = other = Card()
    assert other is encoder.model_card_data


def test_the_card_of_the_users_own_model() -> None:
    """Scores are saved with the model later: they belong into its card."""
    from sentence_transformers import SentenceTransformerModelCardData as Card

    upstream, given = models.small(), Card(language="ja")
    with SafeEncoder(upstream) as encoder:
        assert upstream.model_card_data is encoder.model_card_data
    with SafeEncoder(models.small_folder().as_posix(), model_card_data=given) as encoder:
        assert given is encoder.model_card_data
        assert given is not pickle.loads(pickle.dumps(encoder)).model_card_data  # noqa: S301


def test_evaluate_makes_the_folder(encoder: SafeEncoder, tmp_path: Path) -> None:
    """As upstream does."""
    asked: list[Any] = []

    def evaluator(*given: Any) -> str:
        asked.append(given)
        return "the scores"

    target = tmp_path / "a" / "b"
    assert "the scores" == encoder.evaluate(evaluator, str(target))
    assert [(encoder, str(target))] == asked
    assert target.is_dir()


# Copies


def pickled(encoder: SafeEncoder) -> SafeEncoder:
    """Through pickle."""
    return pickle.loads(pickle.dumps(encoder))  # type: ignore[no-any-return]  # noqa: S301


WAYS = pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])


@WAYS
def test_a_copy_is_an_encoder_of_its_own(
    encoder: SafeEncoder, expected: Any, again: Callable[[SafeEncoder], SafeEncoder]
) -> None:
    """The same vectors; closing it, or letting it go, leaves the original open."""
    check_copy(encoder, expected, again)


def check_copy(
    encoder: SafeEncoder, expected: Any, again: Callable[[SafeEncoder], SafeEncoder]
) -> None:
    """Close a copy, then the original."""
    encoder.encode("雨")
    with again(encoder) as other:
        assert type(encoder) is type(other)
        same(expected, other.encode(TEXTS))
    with pytest.raises(WorkerError, match="closed"):
        other.encode("雨")
    same(expected, encoder.encode(TEXTS))
    del other
    last = again(encoder)
    encoder.close()
    same(expected, last.encode(TEXTS))
    last.close()


@WAYS
def test_what_was_set_goes_along(
    encoder: SafeEncoder, again: Callable[[SafeEncoder], SafeEncoder]
) -> None:
    """Settings, prompts that were changed in place, and the type of the weights."""
    encoder.max_seq_length = 20
    encoder.prompts["new"] = "新: "
    encoder.default_prompt_name = "new"
    encoder.truncate_dim = 8
    encoder.similarity_fn_name = "dot"
    encoder.half()
    with again(encoder) as other:
        assert (20, "new", 8, "dot") == (
            other.max_seq_length,
            other.default_prompt_name,
            other.truncate_dim,
            other.similarity_fn_name,
        )
        assert encoder.prompts == other.prompts
        assert encoder.dtype == other.dtype
        same(encoder.encode(TEXTS), other.encode(TEXTS), 1e-3)
        other.prompts["other"] = "他: "
        assert "other" not in encoder.prompts


@WAYS
@pytest.mark.parametrize("kind", ["loader", "path", "options", "subclass"])
def test_what_can_be_copied(
    saved: str,
    again: Callable[[SafeEncoder], SafeEncoder],
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A loader, a relative folder from elsewhere, all arguments, a subclass with more of its own."""
    monkeypatch.chdir(Path(saved).parent)
    made = {
        "loader": lambda: SafeEncoder(partial(process_models.plain, saved)),
        "path": lambda: SafeEncoder(Path(Path(saved).name)),
        "options": lambda: SafeEncoder(
            saved, splitter=process_models.Ending(), hooks=iter([noted]), pooling="mean"
        ),
        "subclass": lambda: Named(saved, name="私の"),
    }[kind]()
    monkeypatch.chdir(tmp_path)
    with made as encoder, again(encoder) as other:
        same(encoder.encode(TEXTS), other.encode(TEXTS))
        if kind == "subclass":
            assert isinstance(other, Named)
            assert "私の" == other.name


def noted(_: Event) -> None:
    """A hook."""


class Named(SafeEncoder):
    """A user's subclass."""

    def __init__(self, model: Any, *, name: str) -> None:
        super().__init__(model)
        self.name = name


@pytest.mark.parametrize("make", [SafeEncoder, lambda model: SafeEncoder(modules=list(model))])
def test_what_cannot_be_loaded_anew(make: Callable[[Any], SafeEncoder]) -> None:
    """Pickle and deepcopy say so by a TypeError; copy.copy uses the same SentenceTransformer."""
    upstream = models.small()
    with make(upstream) as encoder:
        for way in (pickled, copy.deepcopy):
            with pytest.raises(TypeError, match="from a name, a folder or a function") as caught:
                way(encoder)
            assert isinstance(caught.value, SafeEmbedError)
        with copy.copy(encoder) as other:
            same(encoder.encode(TEXTS), other.encode(TEXTS))
            other.max_seq_length = 20
            assert 20 == encoder.max_seq_length
        assert (32,) == encoder.encode("雨").shape


def test_a_lambda_is_for_cloudpickle(saved: str) -> None:
    """Pickle takes functions by name; copies here need no pickle."""
    with SafeEncoder(lambda: process_models.plain(saved)) as encoder:
        with pytest.raises((pickle.PicklingError, AttributeError)):
            pickle.dumps(encoder)
        with copy.deepcopy(encoder) as other:
            same(encoder.encode(TEXTS), other.encode(TEXTS))


def test_a_pickle_holds_no_weights(encoder: SafeEncoder) -> None:
    """It is as small as the arguments."""
    assert len(pickle.dumps(encoder)) < 3000


# Pools and the class itself


@APART
def test_upstream_stops_a_pool_of_workers(saved: str, expected: Any) -> None:
    """Libraries stop pools by the method of the class that they know."""
    with SafeEncoder(saved, isolation="process") as encoder:
        pool = encoder.start_multi_process_pool(["cpu"])
        found = encoder.encode_multi_process(TEXTS, pool, None, None, 8, 4, False, "float32", True)
        same(expected / np.linalg.norm(expected, axis=1, keepdims=True), found)
        sentence_transformer().stop_multi_process_pool(pool)
        with pytest.raises(WorkerError, match="closed"):
            encoder.encode(TEXTS, pool=pool)
        same(expected, encoder.encode(TEXTS))
        SafeEncoder.stop_multi_process_pool(pool)


@pytest.mark.parametrize(
    ("stand_in", "isolation"),
    [
        (SafeEncoder, "none"),
        (Named, "none"),
        (partial(SafeEncoder, device="cpu"), "none"),
        pytest.param(SafeEncoder, "process", marks=APART),
    ],
)
def test_in_the_place_of_upstreams_class(
    saved: str, expected: Any, monkeypatch: pytest.MonkeyPatch, stand_in: Any, isolation: Any
) -> None:
    """A program puts SafeEncoder where libraries look for SentenceTransformer: no recursion."""
    import sentence_transformers

    upstream = models.small()
    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", stand_in)
    with SafeEncoder(saved, isolation=isolation) as encoder:
        same(expected, encoder.encode(TEXTS))
        if isolation == "none":
            encoder.reload()
            same(expected, encoder.encode(TEXTS))
            with copy.deepcopy(encoder) as other:
                same(expected, other.encode(TEXTS))
    with SafeEncoder(modules=list(upstream)) as encoder:
        assert (32,) == encoder.encode("雨").shape
    with SafeEncoder(upstream) as encoder:
        assert (32,) == encoder.encode("雨").shape


def test_a_subclass_in_the_place_of_upstreams_class_is_used(
    saved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is a model itself, as a program may have it for its own ends."""
    import sentence_transformers

    made: list[Any] = []

    class Counted(sentence_transformer()):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            made.append(args)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", Counted)
    with SafeEncoder(saved) as encoder:
        encoder.reload()
    assert [(saved,), (saved,)] == made


def test_swapped_in_a_loader_is_told_what_it_returns(
    saved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's loader that calls the swapped class gives an encoder, which is refused."""
    import sentence_transformers

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", SafeEncoder)
    with pytest.raises(ConfigError, match="encoder already"):
        SafeEncoder(lambda: sentence_transformers.SentenceTransformer(saved))
