"""Real libraries with SafeEncoder: its vectors, or an error, or, shown here, another model.

A library is given an encoder as it is where it takes a model, and finds SafeEncoder in the place
of SentenceTransformer where it makes its own. One text is longer than the model reads, so that
vectors of upstream's would show.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np
import pytest

import models
from conftest import check_same, check_tells_apart

HAYSTACK = "haystack_integrations.components.embedders.sentence_transformers"


def without(monkeypatch: pytest.MonkeyPatch, *prefixes: str) -> None:
    """Forget modules that took the class SentenceTransformer when they were imported."""
    for name in list(sys.modules):
        if name.startswith(prefixes):
            monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def expected(encoder: Any, folder: str, texts: list[str]) -> Any:
    """SafeEncoder's vectors."""
    vectors = encoder.encode(texts)
    check_tells_apart(folder, vectors, texts)
    return vectors


# Libraries that make their own SentenceTransformer


@pytest.mark.usefixtures("swapped")
@pytest.mark.parametrize("options", [{}, {"isolation": "process"}], ids=str)
@pytest.mark.parametrize("multi_process", [False, True])
def test_langchain(
    folder: str, texts: list[str], expected: Any, options: dict[str, Any], multi_process: bool
) -> None:
    """HuggingFaceEmbeddings, also with its pool of processes."""
    from langchain_huggingface import HuggingFaceEmbeddings

    embeddings = HuggingFaceEmbeddings(
        model_name=folder, model_kwargs={"device": "cpu", **options}, multi_process=multi_process
    )
    check_same(expected, embeddings.embed_documents(texts))
    if not multi_process:
        check_same(expected[0], embeddings.embed_query(texts[0]))


@pytest.mark.usefixtures("swapped")
def test_langchain_chroma(folder: str, texts: list[str], expected: Any) -> None:
    """A store of LangChain's holds SafeEncoder's vectors."""
    from langchain_chroma import Chroma
    from langchain_huggingface import HuggingFaceEmbeddings

    store = Chroma("texts", HuggingFaceEmbeddings(model_name=folder))
    store.add_texts(texts, ids=[str(at) for at in range(len(texts))])
    check_same(expected, store.get(include=["embeddings"])["embeddings"])


@pytest.mark.usefixtures("swapped")
def test_chroma(folder: str, texts: list[str], expected: Any) -> None:
    """Its SentenceTransformerEmbeddingFunction, and a collection."""
    import chromadb
    from chromadb.utils.embedding_functions import SentenceTransformerEmbeddingFunction

    function: Any = SentenceTransformerEmbeddingFunction(model_name=folder)
    check_same(expected, function(texts))
    collection = chromadb.EphemeralClient().create_collection("own", embedding_function=function)
    collection.add(ids=[str(at) for at in range(len(texts))], documents=texts)
    check_same(expected, collection.get(include=["embeddings"])["embeddings"])


def test_chroma_takes_no_bare_encoder(encoder: Any, texts: list[str]) -> None:
    """An embedding function is called; an encoder is not: an error."""
    import chromadb

    with pytest.raises((ValueError, TypeError, AttributeError)):
        chromadb.EphemeralClient().create_collection(
            "bare",
            embedding_function=encoder,
        ).add(ids=["0"], documents=texts[:1])


@pytest.mark.usefixtures("swapped")
def test_haystack(
    folder: str, texts: list[str], expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its embedders of texts and documents."""
    without(monkeypatch, HAYSTACK)
    home = importlib.import_module(HAYSTACK)
    from haystack import Document
    from haystack.utils import ComponentDevice

    device = ComponentDevice.from_str("cpu")
    one = home.SentenceTransformersTextEmbedder(model=folder, device=device, progress_bar=False)
    many = home.SentenceTransformersDocumentEmbedder(
        model=folder, device=device, progress_bar=False
    )
    one.warm_up()
    many.warm_up()
    check_same(expected[-1], one.run(texts[-1])["embedding"])
    found = many.run([Document(content=text) for text in texts])["documents"]
    check_same(expected, [document.embedding for document in found])


@pytest.mark.usefixtures("swapped")
@pytest.mark.parametrize("parallel", [False, True])
def test_llama_index(
    folder: str,
    texts: list[str],
    expected: Any,
    monkeypatch: pytest.MonkeyPatch,
    parallel: bool,
) -> None:
    """HuggingFaceEmbedding, which normalises, and puts an empty prompt in front."""
    without(monkeypatch, "llama_index.embeddings.huggingface")
    home = importlib.import_module("llama_index.embeddings.huggingface")
    options = {"isolation": "process"} if parallel else {}
    model = home.HuggingFaceEmbedding(
        folder,
        device="cpu",
        query_instruction="",
        text_instruction="",
        parallel_process=parallel,
        target_devices=["cpu"] if parallel else None,
        **options,
    )
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    check_same(unit, model.get_text_embedding_batch(texts))
    if not parallel:
        check_same(unit[0], model.get_query_embedding(texts[0]))


@pytest.mark.usefixtures("swapped")
def test_txtai(
    folder: str, encoder: Any, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its method "sentence-transformers", which has queries and documents; and a function."""
    without(monkeypatch, "txtai")
    txtai = importlib.import_module("txtai")
    documents = encoder.encode_document(texts)
    unit = documents / np.linalg.norm(documents, axis=1, keepdims=True)
    index = txtai.Embeddings(method="sentence-transformers", path=folder, gpu=False, content=True)
    check_same(unit, index.batchtransform(texts, "data"))
    plain = encoder.encode(texts)
    unit = plain / np.linalg.norm(plain, axis=1, keepdims=True)

    def embed(data: list[str]) -> Any:
        return encoder.encode(data)

    external = txtai.Embeddings(method="external", transform=embed)
    check_same(unit, external.batchtransform(texts))


def test_txtai_takes_no_bare_encoder(encoder: Any, texts: list[str]) -> None:
    """It calls whatever is no function: an error."""
    import txtai

    with pytest.raises(TypeError, match="not callable"):
        txtai.Embeddings(method="external", transform=encoder).batchtransform(texts)


# Libraries that take a model


@pytest.fixture
def own_models(folder: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that BERTopic and KeyBERT load by themselves; another stands in."""
    from sentence_transformers import SentenceTransformer

    asked: list[str] = []
    other = models.small(normalize=True)

    def load(name: str, *_: Any, **__: Any) -> Any:
        asked.append(name)
        return other

    for library in ("bertopic", "keybert"):
        backend = importlib.import_module(f"{library}.backend._sentencetransformers")
        monkeypatch.setattr(backend, "SentenceTransformer", _Either(load, SentenceTransformer))
    return asked


class _Either(type):
    """A class to isinstance, and a function that loads to those that call it."""

    def __new__(mcs, load: Any, kind: type) -> Any:
        return super().__new__(mcs, "SentenceTransformer", (), {"load": staticmethod(load)})

    def __init__(cls, _: Any, kind: type) -> None:
        cls.kind = kind

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.load(*args, **kwargs)  # type: ignore[attr-defined]

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, cls.kind)


@pytest.mark.parametrize("library", ["bertopic", "keybert"])
def test_another_model_without_a_word(
    library: str, encoder: Any, texts: list[str], expected: Any, own_models: list[str]
) -> None:
    """BERTopic and KeyBERT know models by the names of their modules, and else load their own."""
    utils = importlib.import_module(f"{library}.backend._utils")
    options = {"language": "japanese"} if library == "bertopic" else {}
    backend = utils.select_backend(encoder, **options)
    vectors = backend.embed(texts) if library == "keybert" else backend.embed_documents(texts)
    assert ["paraphrase-multilingual-MiniLM-L12-v2"] == [
        name.rpartition("/")[2] for name in own_models
    ]
    assert np.abs(np.asarray(vectors) - expected).max() > 1e-2


def test_bertopic(encoder: Any, own_models: list[str]) -> None:
    """With a backend of five lines it embeds by SafeEncoder; so it does by given vectors."""
    from bertopic import BERTopic
    from bertopic.backend import BaseEmbedder
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    class Backend(BaseEmbedder):  # type: ignore[misc]
        def embed(self, documents: Any, verbose: bool = False) -> Any:
            """Embed."""
            return self.embedding_model.encode(list(documents), show_progress_bar=verbose)

    documents = [models.long_text(1, start=at) for at in range(40)]
    for given in ({"embedding_model": Backend(encoder)}, {}):
        parts = {"umap_model": PCA(5, random_state=0), "hdbscan_model": KMeans(3, random_state=0)}
        topics = BERTopic(language="japanese", **parts, **given)
        vectors = None if given else encoder.encode(documents)
        found, _ = topics.fit_transform(documents, vectors)
        assert len(documents) == len(found)
        if given:
            check_same(encoder.encode(documents), topics.embedding_model.embed(documents))
    # Without a backend it makes one of its own, and does not use it.
    assert len(own_models) <= 1


def test_keybert(encoder: Any, texts: list[str], own_models: list[str]) -> None:
    """Likewise."""
    from keybert import KeyBERT
    from keybert.backend import BaseEmbedder

    class Backend(BaseEmbedder):  # type: ignore[misc]
        def embed(self, documents: Any, verbose: bool = False) -> Any:
            """Embed."""
            return self.embedding_model.encode(list(documents), show_progress_bar=verbose)

    model = KeyBERT(Backend(encoder))
    found, _ = model.extract_embeddings(texts)
    check_same(encoder.encode(texts), found)
    assert [] == own_models


def test_mteb(encoder: Any, texts: list[str]) -> None:
    """A bare encoder is an error; its own wrapper takes the encoder and gives its vectors."""
    import mteb
    from datasets import Dataset
    from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
    from torch.utils.data import DataLoader

    task = mteb.get_task("JSTS")
    with pytest.raises(NotImplementedError, match="No model implementation"):
        mteb.evaluate(encoder, task, cache=None)
    wrapper = SentenceTransformerEncoderWrapper(encoder)
    found = wrapper.encode(
        DataLoader(Dataset.from_dict({"text": texts}), batch_size=2),
        task_metadata=task.metadata,
        hf_split="test",
        hf_subset="default",
    )
    check_same(encoder.encode(texts), found)


def test_chonkie_takes_no_bare_encoder(encoder: Any) -> None:
    """It wants a SentenceTransformer, or embeddings of its own: an error."""
    from chonkie import SemanticChunker
    from chonkie.embeddings import AutoEmbeddings, SentenceTransformerEmbeddings

    with pytest.raises(ValueError, match="embedding"):
        SemanticChunker(encoder)
    with pytest.raises(ValueError, match="string or SentenceTransformer"):
        SentenceTransformerEmbeddings(encoder)
    with pytest.raises(ValueError, match="embeddings"):
        AutoEmbeddings.get_embeddings(encoder)


@pytest.mark.usefixtures("swapped")
def test_chonkie(folder: str, encoder: Any, texts: list[str], expected: Any) -> None:
    """With the class swapped it takes the encoder as it is, and makes one by a name."""
    from chonkie import SemanticChunker
    from chonkie.embeddings import SentenceTransformerEmbeddings

    for model in (encoder, folder):
        embeddings = SentenceTransformerEmbeddings(model)
        check_same(expected, embeddings.embed_batch(texts))
        assert 32 == embeddings.dimension
    assert SemanticChunker(SentenceTransformerEmbeddings(encoder), chunk_size=40)("".join(texts))


def test_setfit(encoder: Any, texts: list[str], expected: Any) -> None:
    """It classifies by SafeEncoder's vectors; training the model is an error."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments
    from sklearn.linear_model import LogisticRegression

    model = SetFitModel(model_body=encoder, model_head=LogisticRegression(), labels=["a", "b"])
    labels = [0, 1, 0, 1, 1]
    check_same(expected, model.encode(texts))
    model.model_head.fit(model.encode(texts), labels)
    head = LogisticRegression().fit(expected, labels)
    np.testing.assert_array_equal(head.predict_proba(expected), model.predict_proba(texts))
    rows = Dataset.from_dict({"text": texts, "label": labels})
    with pytest.raises((AttributeError, TypeError, ValueError)):
        Trainer(model, TrainingArguments(num_epochs=1, max_steps=1), train_dataset=rows).train()
