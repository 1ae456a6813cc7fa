"""Batches without padding: the vectors of padded ones, with nothing computed for padding."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import models
from safe_embed import SafeEncoder
from safe_embed.batching import STEP
from safe_embed.upstream import unpadded

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

pytestmark = pytest.mark.skipif(
    not models.HAS_ONE_ATTENTION, reason="transformers 4 has no attention that can be exchanged"
)

ARCHITECTURES = ["bert", "roberta", "xlm-roberta", "camembert", "modernbert"]
TEXTS = ["猫。", "", *(models.long_text(n, start=n) for n in range(1, 5)), "<pad>の話と<pad>。"]


needs_modernbert = pytest.mark.skipif(
    not models.HAS_MODERNBERT, reason="ModernBERT came with transformers 4.48"
)


class _Sizes(TorchDispatchMode):
    """Keeps the number of elements of the largest tensor that any operation gives."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation."""
        given = func(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves(given) if isinstance(one, torch.Tensor)]
        self.largest = max([self.largest, *(tensor.numel() for tensor in tensors)])
        return given


def features(ids: list[list[int]], padding: int) -> dict[str, Any]:
    """Make the padded input of rows of ids."""
    width = max(map(len, ids))
    rows = [row + [padding] * (width - len(row)) for row in ids]
    mask = [[1] * len(row) + [0] * (width - len(row)) for row in ids]
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_each_architecture_has_the_vectors_of_upstream(name: str) -> None:
    """Texts of all lengths, with a token of padding in one, get upstream's vectors, unpadded."""
    model = models.architecture(name)
    with SafeEncoder(model, max_batch_tokens=4 * models.LIMIT) as encoder:
        expected = model.encode([text[:30] for text in TEXTS])
        found = encoder.encode([text[:30] for text in TEXTS])
        assert 0 < encoder.stats.padding_tokens < STEP * 4
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        assert model[0].auto_model.config._attn_implementation == "sdpa"  # noqa: SLF001 transformers has no public name


@pytest.mark.parametrize("name", ARCHITECTURES)
@settings(max_examples=8)
@given(
    lengths=st.lists(st.integers(1, models.LIMIT), min_size=1, max_size=8), seed=st.integers(0, 9)
)
def test_rows_do_not_see_each_other(name: str, lengths: list[int], seed: int) -> None:
    """Whatever else is in the batch, each row of ids has the vector that it has alone."""
    model = models.architecture(name)
    random = np.random.default_rng(seed)
    ids = [random.integers(0, 60, length).tolist() for length in lengths]
    with torch.inference_mode():
        together = unpadded.forward(model, features(ids, padding=3))["sentence_embedding"]
        alone = [model(features([row], padding=3))["sentence_embedding"][0] for row in ids]
    np.testing.assert_allclose(together, torch.stack(alone), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["encode", "encode_query", "encode_document"])
def test_a_task_that_the_model_does_not_take_pads_nothing(method: str) -> None:
    """Queries and documents go through the model as other texts do, unless it takes a task."""
    model = models.small()
    texts = ["雨。", models.long_text(2)]
    with SafeEncoder(model) as encoder:
        found = getattr(encoder, method)(texts)
        np.testing.assert_allclose(found, getattr(model, method)(texts), rtol=1e-5, atol=1e-5)
        assert encoder.stats.padding_tokens < STEP


@needs_modernbert
@pytest.mark.parametrize("length", [513, 1024, 1100, 2001])
def test_windows_are_computed_in_blocks(length: int) -> None:
    """A long text gets upstream's vector from blocks, at every place of a block's end."""
    model = models.ruri()
    ids = np.random.default_rng(length).integers(10, 300, length).tolist()
    given = features([ids], padding=3)
    with torch.inference_mode():
        expected = model(dict(given))["token_embeddings"]
        found = unpadded.forward(model, dict(given))["token_embeddings"]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@needs_modernbert
def test_a_long_text_needs_no_mask_of_its_length_squared() -> None:
    """No tensor of a forward grows with the square of the length."""
    model = models.ruri()
    largest = []
    for length in (1024, 4096):
        given = features([[20] * length], padding=3)
        sizes = _Sizes()
        with torch.inference_mode(), sizes:
            unpadded.forward(model, given)
        largest.append(sizes.largest)
    assert largest[1] <= 4 * largest[0]


def test_a_model_that_computes_attention_otherwise_is_padded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where a layer does not ask for this attention, batches are padded, and the log says so."""
    model = models.small()
    model[0].auto_model.config.num_hidden_layers += 1
    with SafeEncoder(model) as encoder:
        for _ in range(2):
            found = encoder.encode(TEXTS[:2])
            np.testing.assert_allclose(found, model.encode(TEXTS[:2]), atol=1e-6)
    assert caplog.text.count("batches are padded") == 1


def test_what_cannot_be_unpadded_is_padded() -> None:
    """Attention that was asked for, padding on the left and few shapes are left as they are."""
    texts = ["猫。", models.long_text(2)]
    for change in ("eager", "left", "few shapes"):
        model = models.small()
        if change == "eager":
            model[0].auto_model.set_attn_implementation("eager")
        if change == "left":
            model.tokenizer.padding_side = "left"
        with SafeEncoder(model, few_shapes=change == "few shapes" or None) as encoder:
            np.testing.assert_allclose(encoder.encode(texts), model.encode(texts), atol=1e-5)
            assert encoder.stats.padding_tokens >= STEP, change


class Reader(torch.nn.Module):
    """A module of a user's own that takes what it needs of the features, and gives it on."""

    def __init__(self, take: Callable[[dict[str, Any]], Any], name: str) -> None:
        super().__init__()
        self._take, self._name = take, name

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """Put what was taken under the name."""
        return {**features, self._name: self._take(features)}


def chain(*modules: Any) -> SentenceTransformer:
    """A model of these modules."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(modules=list(modules), device="cpu")


def transformer(kind: type | None = None, **options: Any) -> Any:
    """The Transformer of the small model, with options of sentence-transformers 6, or a subclass."""
    found = (kind or models.upstream_modules().Transformer)(str(models.small_folder()), **options)
    found.max_seq_length = models.LIMIT
    return found


def pooling() -> Any:
    """The small model's Pooling."""
    return models.upstream_modules().Pooling(32)


def of_the_pooler() -> SentenceTransformer:
    """The Transformer itself gives one vector a text: that of transformers' pooler."""
    config = {"text": {"method": "forward", "method_output_name": "pooler_output"}}
    return chain(transformer(modality_config=config, module_output_name="sentence_embedding"))


def of_the_pooler_by_another_name() -> SentenceTransformer:
    """The pooler's vector is what the Transformer calls token_embeddings."""
    config = {"text": {"method": "forward", "method_output_name": "pooler_output"}}
    first = transformer(modality_config=config, module_output_name="token_embeddings")
    return chain(first, Reader(lambda features: features["token_embeddings"], "sentence_embedding"))


def of_scores() -> SentenceTransformer:
    """Another task of the Transformer, which reads the first token of each row."""
    torch.manual_seed(5)
    first = transformer(transformer_task="sequence-classification")
    return chain(first, Reader(lambda features: features["scores"], "sentence_embedding"))


def of_a_layer() -> SentenceTransformer:
    """The token embeddings of the layer before the last."""
    config = {"text": {"method": "forward", "method_output_name": ["hidden_states", -2]}}
    first = transformer(modality_config=config, module_output_name="token_embeddings")
    return chain(first, pooling())


def of_all_layers() -> SentenceTransformer:
    """WeightedLayerPooling reads all_layer_embeddings."""
    first = transformer()
    first.auto_model.config.output_hidden_states = True
    weighted = models.upstream_modules().WeightedLayerPooling(
        32, num_hidden_layers=2, layer_start=1
    )
    return chain(first, weighted, pooling())


def of_word_weights() -> SentenceTransformer:
    """WordWeights reads input_ids and attention_mask, and gives token_weights_sum."""
    first = transformer()
    words = sorted(first.tokenizer.get_vocab(), key=first.tokenizer.get_vocab().get)
    weights = {word: 1 + at % 7 for at, word in enumerate(words)}
    return chain(first, models.upstream_modules().WordWeights(words, weights), pooling())


def of_an_own_transformer() -> SentenceTransformer:
    """A Transformer of a user's own reads attention_mask, and gives more than token_embeddings."""

    class Own(models.upstream_modules().Transformer):
        def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
            mask = features["attention_mask"][..., None]
            found = super().forward(features, **kwargs)
            found["first"] = found["token_embeddings"][:, 0] * mask[:, 0]
            return found

    return chain(transformer(Own), Reader(lambda features: features["first"], "sentence_embedding"))


def of_an_own_module() -> SentenceTransformer:
    """A module of a user's own counts what upstream's input has, and adds up what is before."""

    def take(features: dict[str, Any]) -> Any:
        assert "text" == features["modality"]
        weights = features["attention_mask"].cumsum(dim=1)[..., None]
        return features["token_embeddings"].cumsum(dim=1) / weights.clamp(min=1)

    return chain(transformer(), Reader(take, "token_embeddings"), pooling())


def of_a_hook() -> SentenceTransformer:
    """A hook of a user's own changes what the Transformer gives, by what it was given."""
    model = models.small()

    def hook(_: Any, args: tuple[Any, ...], found: dict[str, Any]) -> dict[str, Any]:
        size = args[0]["attention_mask"].sum(dim=1)[:, None, None]
        return {**found, "token_embeddings": found["token_embeddings"] * size}

    model[0].register_forward_hook(hook)
    return model


WHATEVER = [
    *(of_the_pooler, of_the_pooler_by_another_name, of_scores, of_a_layer, of_all_layers),
    *(of_word_weights, of_an_own_transformer, of_an_own_module, of_a_hook),
]


@pytest.mark.skipif(models.UPSTREAM < 6, reason="5 gives token_embeddings, whatever it is told")
@pytest.mark.parametrize("make", WHATEVER)
def test_whatever_stands_behind_a_transformer_has_what_it_needs(
    make: Callable[[], SentenceTransformer],
) -> None:
    """Texts of mixed lengths have upstream's vectors, whatever the modules give and read."""
    model = make()
    texts = [text[:60] for text in TEXTS]
    expected = np.stack([model.encode(text) for text in texts])
    with SafeEncoder(model) as encoder:
        np.testing.assert_allclose(encoder.encode(texts), expected, rtol=1e-5, atol=1e-5)


def read_all_layers(model: SentenceTransformer) -> None:
    """Have the Transformer give all layers, and a further module read them."""
    model[0].auto_model.config.output_hidden_states = True
    first = Reader(lambda features: features["all_layer_embeddings"][1][:, 0], "sentence_embedding")
    model.add_module(str(len(model)), first)


def hook_the_input(model: SentenceTransformer) -> None:
    """Have a hook read more of the input than there is without padding."""

    def hook(_: Any, args: tuple[Any, ...], found: dict[str, Any]) -> dict[str, Any]:
        size = args[0]["attention_mask"].sum(dim=1)[:, None, None]
        return {**found, "token_embeddings": found["token_embeddings"] * size}

    model[0].register_forward_hook(hook)


@pytest.mark.parametrize("change", [read_all_layers, hook_the_input])
def test_what_changes_on_a_loaded_model_is_seen(
    change: Callable[[SentenceTransformer], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A model that gives or reads more than at load is padded from then on, and the log says so."""
    model = models.small()
    texts = [text[:60] for text in TEXTS]
    with SafeEncoder(model) as encoder:
        np.testing.assert_allclose(encoder.encode(texts), model.encode(texts), atol=1e-5)
        change(model)
        expected = np.stack([model.encode(text) for text in texts])
        for _ in range(2):
            np.testing.assert_allclose(encoder.encode(texts), expected, rtol=1e-5, atol=1e-5)
    assert caplog.text.count("batches are padded") == 1


def test_an_error_of_the_model_itself_is_given_on() -> None:
    """What fails with padding too is raised as it is, and batches after it go without padding."""
    model = models.small()
    texts = [text[:60] for text in TEXTS]
    with SafeEncoder(model) as encoder:
        expected = encoder.encode(texts)

        def fail(*_: Any) -> None:
            raise ArithmeticError

        handle = model[1].register_forward_hook(fail)
        with pytest.raises(ArithmeticError):
            encoder.encode(texts)
        handle.remove()
        before = encoder.stats.padding_tokens
        np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-6)
        assert encoder.stats.padding_tokens < before + STEP


def test_others_use_the_same_model_meanwhile() -> None:
    """A model that was handed over gives its owner the same vectors while it works here."""
    model = models.small()
    texts = [models.long_text(n) for n in range(1, 4)] * 3
    expected = model.encode(texts)
    stop = threading.Event()
    moved: list[float] = []

    def owner() -> None:
        while not stop.is_set():
            moved.append(float(np.abs(model.encode(texts) - expected).max()))

    with SafeEncoder(model) as encoder:
        thread = threading.Thread(target=owner)
        thread.start()
        try:
            for _ in range(30):
                np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)
        finally:
            stop.set()
            thread.join()
    assert len(moved) > 1
    assert max(moved) < 1e-5


def test_two_encoders_share_a_model(caplog: pytest.LogCaptureFixture) -> None:
    """Both work without padding at the same moment, and leave the model as it was."""
    model = models.small()
    texts = [models.long_text(n) for n in range(1, 4)] * 3
    expected = model.encode(texts)
    with SafeEncoder(model) as one, SafeEncoder(model) as other, ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda n: (one, other)[n % 2].encode(texts), range(40)):
            np.testing.assert_allclose(found, expected, atol=1e-5)
        for encoder in (one, other):
            assert encoder.stats.padding_tokens < 40 * STEP
    assert "padded" not in caplog.text
    assert model[0].auto_model.config._attn_implementation == "sdpa"  # noqa: SLF001 transformers has no public name


@pytest.mark.usefixtures("forked_workers")
def test_a_worker_counts_what_it_does() -> None:
    """The padding of a process is counted as that of a thread."""
    texts = ["猫。", *(models.long_text(n) for n in range(1, 4))]
    path = str(models.saved("small", models.small_folder()))
    counts = []
    for isolation in ("none", "process"):
        with SafeEncoder(path, isolation=isolation) as encoder:
            encoder.encode(texts)
            counts.append((encoder.stats.tokens, encoder.stats.padding_tokens))
    assert counts[0] == counts[1]
    assert counts[0][1] < STEP
