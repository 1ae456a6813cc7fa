"""The adapters of `safe_embed.integrations` with the real libraries: SafeEncoder's own vectors.

Each is given a ready encoder, and the folder of a model; one text is longer than the model reads,
so that another model, or one that cuts, would show.
"""

from __future__ import annotations

import asyncio
import pickle
import re
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

import models
import pages
from conftest import check_same, check_tells_apart
from safe_embed import SafeEncoder
from safe_embed.errors import ConfigError
from safe_embed.integrations import chroma, haystack, keybert, langchain, llama_index, mteb
from safe_embed.integrations.bertopic import SafeBackend
from safe_embed.integrations.chonkie import SafeEmbeddings as ChonkieEmbeddings
from safe_embed.integrations.lancedb import SafeEmbeddings as LanceEmbeddings

CPU = {"encoder_options": {"device": "cpu"}}


@pytest.fixture
def documents(encoder: SafeEncoder, folder: str, texts: list[str]) -> Any:
    """SafeEncoder's vectors of documents, which are neither upstream's nor those of queries."""
    vectors = encoder.encode_document(texts)
    check_tells_apart(folder, vectors, texts)
    assert np.abs(vectors - encoder.encode_query(texts)).max() > 1e-2
    return vectors


@pytest.fixture
def query(encoder: SafeEncoder, texts: list[str]) -> Any:
    """SafeEncoder's vector of a query."""
    return encoder.encode_query(texts[0])


@pytest.fixture(params=["encoder", "folder"])
def model(request: pytest.FixtureRequest, encoder: SafeEncoder, folder: str) -> Any:
    """What an adapter is made of."""
    return encoder if request.param == "encoder" else folder


# LangChain


@pytest.fixture(autouse=True, scope="session")
def small_model(folder: str) -> Iterator[None]:
    """The model of the standard suites, which take no fixture."""
    _Langchain.folder = folder
    yield
    del _Langchain.folder


class _Langchain:
    folder: str

    @property
    def embeddings_class(self) -> type[langchain.SafeEmbeddings]:
        """What is tested."""
        return langchain.SafeEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        """How it is made."""
        return {"model": self.folder, **CPU}


class TestLangchainUnit(_Langchain, EmbeddingsUnitTests):  # type: ignore[misc]
    """The standard unit suite."""


@pytest.mark.anyio
class TestLangchainIntegration(_Langchain, EmbeddingsIntegrationTests):  # type: ignore[misc]
    """The standard integration suite."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Only asyncio: `aencode` is for asyncio."""
        return "asyncio"


def test_langchain(model: Any, texts: list[str], documents: Any, query: Any) -> None:
    """Queries and documents, with asyncio too; a store of LangChain's finds by them."""
    from langchain_core.vectorstores import InMemoryVectorStore

    with langchain.SafeEmbeddings(model) as embeddings:
        check_same(documents, embeddings.embed_documents(texts))
        check_same(query, embeddings.embed_query(texts[0]))
        check_same(documents, asyncio.run(embeddings.aembed_documents(texts)))
        check_same(query, asyncio.run(embeddings.aembed_query(texts[0])))
        assert [] == embeddings.embed_documents([])
        store = InMemoryVectorStore.from_texts(texts, embeddings)
        assert 2 == len(store.similarity_search(texts[0], k=2))


def test_langchain_is_made_again(folder: str, texts: list[str], encoder: SafeEncoder) -> None:
    """From its settings and by pickle; without a name for the model that is an error."""
    options = {"truncate_dim": 8, "normalize_embeddings": True}
    made = langchain.SafeEmbeddings(folder, **CPU, encode_options=options)
    expected = encoder.encode_document(texts, **options)
    for embeddings in (
        made,
        langchain.SafeEmbeddings(**made.model_dump()),
        langchain.SafeEmbeddings.model_validate(made.model_dump()),
        pickle.loads(pickle.dumps(made)),  # noqa: S301 our own
        made.model_copy(deep=True),
    ):
        with embeddings:
            check_same(expected, embeddings.embed_documents(texts))
    ready = langchain.SafeEmbeddings(encoder)
    with pytest.raises(ConfigError, match="There is no model"):
        langchain.SafeEmbeddings(**ready.model_dump())


def test_a_ready_encoder_stays_open(encoder: SafeEncoder, texts: list[str]) -> None:
    """An adapter closes what it has opened, and nothing else."""
    with langchain.SafeEmbeddings(encoder) as embeddings:
        embeddings.embed_query(texts[0])
    assert (32,) == encoder.encode(texts[0]).shape


def test_langchain_splitter(encoder: SafeEncoder) -> None:
    """Pieces join to the text, begin where they say, and are read whole by the encoder."""
    from langchain_core.documents import Document

    splitter = langchain.SafeTextSplitter(encoder)
    text = " \n" + models.long_text() * 3 + "\n\n"
    assert text == "".join(splitter.split_text(text))
    given = [Document(page_content=text, metadata={"source": "a"}), Document(page_content="")]
    made = splitter.split_documents(given)
    assert len(made) > 3
    for document in made:
        start = document.metadata["start_index"]
        assert document.page_content == text[start : start + len(document.page_content)]
        assert "a" == document.metadata["source"]
        [plan] = encoder.plan(document.page_content, prompt_name="document")
        assert not plan.is_long
    assert sorted({doc.metadata["start_index"] for doc in made}) == [
        doc.metadata["start_index"] for doc in made
    ]
    with (
        SafeEncoder(models.small(), on_long="truncate") as cutting,
        pytest.raises(ConfigError, match="on_long='truncate'"),
    ):
        langchain.SafeTextSplitter(cutting).split_text(text)


# LlamaIndex


def test_llama_index(model: Any, texts: list[str], documents: Any, query: Any) -> None:
    """Queries and texts, one and many, with asyncio too."""
    with llama_index.SafeEmbedding(model) as embedding:
        check_same(documents, embedding.get_text_embedding_batch(texts))
        check_same(documents[-1], embedding.get_text_embedding(texts[-1]))
        check_same(query, embedding.get_query_embedding(texts[0]))
        check_same(documents, asyncio.run(embedding.aget_text_embedding_batch(texts)))
        check_same(documents[-1], asyncio.run(embedding.aget_text_embedding(texts[-1])))
        check_same(query, asyncio.run(embedding.aget_query_embedding(texts[0])))


def test_llama_index_is_made_again(folder: str, texts: list[str], documents: Any) -> None:
    """From its settings, and by pickle."""
    made = llama_index.SafeEmbedding(folder, **CPU, embed_batch_size=2)
    for embedding in (
        llama_index.SafeEmbedding.from_dict(made.to_dict()),
        llama_index.SafeEmbedding.from_json(made.to_json()),
        pickle.loads(pickle.dumps(made)),  # noqa: S301 our own
    ):
        with embedding:
            assert 2 == embedding.embed_batch_size
            check_same(documents, embedding.get_text_embedding_batch(texts))
    made.close()


def test_llama_index_node_parser(encoder: SafeEncoder) -> None:
    """Nodes join to the text and know their exact places, in a text with repetitions as well."""
    from llama_index.core import Document, VectorStoreIndex
    from llama_index.core.schema import MetadataMode

    text = models.long_text(4) * 6
    parser = llama_index.SafeNodeParser(encoder)
    document = Document(text=text, metadata={"source": "a"})
    nodes: list[Any] = parser.get_nodes_from_documents([document, Document(text="雨。")])
    ours, other = nodes[:-1], nodes[-1]
    assert len(ours) > 3
    assert text == "".join(node.text for node in ours)
    assert all(node.text == text[node.start_char_idx : node.end_char_idx] for node in ours)
    assert (0, "a") == (ours[0].start_char_idx, ours[-1].metadata["source"])
    assert ours[1].node_id == ours[0].next_node.node_id
    assert ("雨。", 0, 2) == (other.text, other.start_char_idx, other.end_char_idx)
    index = VectorStoreIndex(nodes, embed_model=llama_index.SafeEmbedding(encoder))
    [hit] = index.as_retriever(similarity_top_k=1).retrieve("雨。")
    read = [node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
    similar = encoder.similarity(encoder.encode_query("雨。"), encoder.encode_document(read))[0]
    assert nodes[int(similar.argmax())].node_id == hit.node.node_id
    assert float(similar.max()) == pytest.approx(hit.score, abs=1e-5)


# Vector stores


def test_lancedb(folder: str, texts: list[str], documents: Any, query: Any, tmp_path: Path) -> None:
    """A table embeds what is added and searched; opened again, too, and with one loaded model."""
    import lancedb
    from lancedb.embeddings import get_registry
    from lancedb.pydantic import LanceModel, Vector

    function = get_registry().get("safe-embed").create(model=folder, **CPU)
    assert isinstance(function, LanceEmbeddings)

    class Row(LanceModel):  # type: ignore[misc]
        text: str | None = function.SourceField()
        vector: Vector(function.ndims()) | None = function.VectorField()  # type: ignore[valid-type]

    table = lancedb.connect(tmp_path).create_table("texts", schema=Row)
    table.add([{"text": text} for text in texts[:3]])
    again = lancedb.connect(tmp_path).open_table("texts")
    again.add([{"text": text} for text in [*texts[3:], None]], on_bad_vectors="null")
    rows = again.to_arrow().to_pylist()
    check_same(documents, [row["vector"] for row in rows[:-1]])
    assert rows[-1]["vector"] is None
    check_same([query], function.compute_query_embeddings(texts[0]))
    distances = np.square(documents - query).sum(axis=1)
    [nearest] = again.search(texts[0]).limit(1).to_list()
    assert texts[int(distances.argmin())] == nearest["text"]
    assert distances.min() == pytest.approx(nearest["_distance"], abs=1e-4)
    assert function == again.embedding_functions["vector"].function
    function.close()


def test_lancedb_takes_a_name(encoder: SafeEncoder, folder: str) -> None:
    """It keeps the settings in the table: what they cannot name is refused at once."""
    with pytest.raises(ConfigError, match="is no name"):
        LanceEmbeddings(model=encoder)
    with pytest.raises(ConfigError, match="JSON"):
        LanceEmbeddings(model=folder, encoder_options={"hooks": [print]})


def test_chroma(model: Any, texts: list[str], documents: Any, query: Any, tmp_path: Path) -> None:
    """A collection embeds what is added and asked, also when it is opened again."""
    import chromadb

    function: Any = chroma.SafeEmbeddingFunction(model)
    client = chromadb.PersistentClient(tmp_path)
    collection = client.create_collection("own", embedding_function=function)
    collection.add(ids=[str(at) for at in range(len(texts))], documents=texts)
    check_same(documents, collection.get(include=["embeddings"])["embeddings"])
    given = {} if isinstance(model, str) else {"embedding_function": function}
    again = chromadb.PersistentClient(tmp_path).get_collection("own", **given)
    unit = documents / np.linalg.norm(documents, axis=1, keepdims=True)
    expected = 1 - unit @ (query / np.linalg.norm(query))
    found: Any = again.query(query_texts=[texts[0]], n_results=len(texts))
    check_same(np.sort(expected), found["distances"][0])
    assert str(expected.argmin()) == found["ids"][0][0]
    function.close()


def test_chroma_embeds_with_no_other_model(
    encoder: SafeEncoder, folder: str, texts: list[str], tmp_path: Path
) -> None:
    """A collection of a ready encoder, opened without it: an error, where Chroma has a model."""
    import chromadb

    function: Any = chroma.SafeEmbeddingFunction(encoder)
    chromadb.PersistentClient(tmp_path).create_collection("own", embedding_function=function)
    again = chromadb.PersistentClient(tmp_path).get_collection("own")
    with pytest.raises(ConfigError, match="get_collection"):
        again.add(ids=["0"], documents=texts[:1])
    with pytest.raises(ConfigError, match="get_collection"):
        again.query(query_texts=texts[:1])
    named = chroma.SafeEmbeddingFunction(folder)
    with pytest.raises(ConfigError, match="vectors of another model"):
        named.validate_config_update({"model": "another"}, named.get_config())


def test_haystack(model: Any, texts: list[str], documents: Any, query: Any) -> None:
    """Both components, with asyncio too."""
    from haystack import Document

    with (
        closing(haystack.SafeDocumentEmbedder(model)) as many,
        closing(haystack.SafeTextEmbedder(model)) as one,
    ):
        many.warm_up()
        given = [Document(content=text, meta={"title": "題"}) for text in texts]
        for found in (many.run(given), asyncio.run(many.run_async(given))):
            check_same(documents, [document.embedding for document in found["documents"]])
        assert given[0].embedding is None
        check_same(query, one.run(texts[0])["embedding"])
        check_same(query, asyncio.run(one.run_async(texts[0]))["embedding"])


def test_haystack_is_made_again(folder: str, encoder: SafeEncoder, texts: list[str]) -> None:
    """As a pipeline that was written down; with metadata in front of the content."""
    from haystack import Document, Pipeline

    embedder = haystack.SafeDocumentEmbedder(folder, **CPU, meta_fields_to_embed=["title"])
    pipeline = Pipeline()
    pipeline.add_component("embedder", embedder)
    read = Pipeline.loads(pipeline.dumps(), allowed_modules=["safe_embed.integrations.haystack"])
    given = [Document(content=texts[0], meta={"title": "題"}), Document(content=texts[1])]
    found = read.run({"embedder": {"documents": given}})["embedder"]["documents"]
    expected = encoder.encode_document([f"題\n{texts[0]}", texts[1]])
    check_same(expected, [document.embedding for document in found])
    read.get_component("embedder").close()


# Evaluation, topics, chunkers


def local_task(rows: dict[str, list[Any]], folder: Path) -> Any:
    """A task of mteb's whose data is a file."""
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    file = folder / "pairs.parquet"
    Dataset.from_dict(rows).to_parquet(str(file))

    class Local(AbsTaskSTS):  # type: ignore[misc]
        metadata = TaskMetadata(
            name="LocalSTS",
            dataset={"path": "local", "revision": "1"},
            description="Pairs of local texts.",
            type="STS",
            category="t2t",
            eval_splits=["test"],
            eval_langs=["jpn-Jpan"],
            main_score="cosine_spearman",
        )
        min_score, max_score = 0, 5

        def load_data(self, *_: Any, **__: Any) -> None:
            """Read the file."""
            self.dataset = {"test": Dataset.from_parquet(str(file), cache_dir=str(folder))}
            self.data_loaded = True

    return Local()


def test_mteb(model: Any, encoder: SafeEncoder, texts: list[str], tmp_path: Path) -> None:
    """mteb.evaluate takes it; a task of local data has the score of SafeEncoder's vectors."""
    from mteb import evaluate
    from scipy.stats import spearmanr

    scores = [4.0, 1.0, 3.0, 0.0, 2.0]
    rows = {"sentence1": texts, "sentence2": texts[1:] + texts[:1], "score": scores}
    made = mteb.SafeMtebEncoder(model)
    result = evaluate(made, local_task(rows, tmp_path), cache=None)
    [score] = result.task_results[0].scores["test"]
    one, other = (encoder.encode(rows[name]) for name in ("sentence1", "sentence2"))
    similar = encoder.similarity_pairwise(one, other)
    expected = spearmanr(similar, scores).statistic
    assert expected == pytest.approx(score["cosine_spearman"], abs=1e-6)
    made.close()


def test_mteb_asks_with_the_prompts(
    encoder: SafeEncoder, texts: list[str], documents: Any, query: Any
) -> None:
    """Queries and documents of a task of search are embedded as such."""
    import mteb as library
    from mteb.types import PromptType
    from torch.utils.data import DataLoader

    made = mteb.SafeMtebEncoder(encoder)
    loader = DataLoader(Dataset.from_dict({"text": texts}), batch_size=2)
    given = {"task_metadata": library.get_task("JaqketRetrieval").metadata}
    given |= {"hf_split": "test", "hf_subset": "default"}
    check_same(documents, made.encode(loader, **given, prompt_type=PromptType.document))
    check_same(query, made.encode(loader, **given, prompt_type=PromptType.query)[0])


def topic_parts() -> dict[str, Any]:
    """Parts of a topic model that are quick, and the same each time."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    return {"umap_model": PCA(5, random_state=0), "hdbscan_model": KMeans(3, random_state=0)}


def test_bertopic(model: Any, encoder: SafeEncoder) -> None:
    """Topics of SafeEncoder's vectors."""
    from bertopic import BERTopic

    documents = [models.long_text(1, start=at) for at in range(40)]
    with closing(SafeBackend(model, prompt_name="document")) as backend:
        topics = BERTopic(embedding_model=backend, **topic_parts())
        found, _ = topics.fit_transform(documents)
        assert len(documents) == len(found)
        assert backend is topics.embedding_model
        expected = encoder.encode(documents, prompt_name="document")
        check_same(expected, topics._extract_embeddings(documents))  # noqa: SLF001 what it clusters


def test_keybert(model: Any, encoder: SafeEncoder, texts: list[str]) -> None:
    """Keywords by SafeEncoder's vectors."""
    from keybert import KeyBERT

    with closing(keybert.SafeBackend(model)) as backend:
        extractor = KeyBERT(backend)
        found, _ = extractor.extract_embeddings(texts)
        check_same(encoder.encode(texts), found)
        assert extractor.extract_keywords("memory grows in a worker")


def test_chonkie(model: Any, texts: list[str], documents: Any) -> None:
    """Embeddings for its chunkers, which count by the model's tokenizer."""
    from chonkie import SemanticChunker
    from chonkie.embeddings import AutoEmbeddings

    with closing(ChonkieEmbeddings(model)) as embeddings:
        check_same(documents, embeddings.embed_batch(texts))
        check_same(documents[-1], embeddings.embed(texts[-1]))
        check_same(documents, asyncio.run(embeddings.aembed_batch(texts)))
        assert 32 == embeddings.dimension
        assert embeddings is AutoEmbeddings.get_embeddings(embeddings)
        text = "".join(texts)
        chunks = SemanticChunker(embeddings, chunk_size=40)(text)
        assert text == "".join(chunk.text for chunk in chunks)


# The page


PAGE = pages.DOCS / "frameworks.md"
PROGRAMS = {
    re.search(r"integrations\.(\w+)|import (pandas)|from (datasets)", code).group(): code  # type: ignore[union-attr]
    for code in pages.fences(PAGE, "python")
}


@pytest.fixture(scope="module")
def ruri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model with the prompts of the model that the page names."""
    path = tmp_path_factory.mktemp("ruri")
    models.small(prompts=models.RURI_PROMPTS).save(str(path))
    return str(path)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_programs_of_the_page(
    name: str, ruri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is a script that runs as it stands, but for the model, and has at most 30 lines."""
    code = PROGRAMS[name].replace("cl-nagoya/ruri-v3-30m", ruri)
    code = code.replace("max_chunk_tokens=512", "max_chunk_tokens=48")
    assert len(code.splitlines()) <= 30
    monkeypatch.chdir(tmp_path)
    documents = [models.long_text(1 if at else 8, start=at) for at in range(40)]
    given = {"documents": documents}
    if name == "integrations.mteb":
        import mteb as library

        rows = {"sentence1": documents, "sentence2": documents[::-1], "score": list(range(40))}
        monkeypatch.setenv("MTEB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(library, "get_task", lambda _: local_task(rows, tmp_path))
    if name == "integrations.bertopic":  # its own parts are compiled for minutes
        import bertopic

        monkeypatch.setattr(bertopic, "BERTopic", partial(bertopic.BERTopic, **topic_parts()))
    exec(compile(code, name, "exec", dont_inherit=True), given)  # noqa: S102 the page of this repository
    with SafeEncoder(ruri, device="cpu") as encoder:
        expected = encoder.encode_document(documents)
    if name == "import pandas":
        check_same(expected, np.stack(given["frame"]["vector"]))  # type: ignore[call-overload]
    if name == "from datasets":
        check_same(expected, given["dataset"]["vector"])  # type: ignore[call-overload]


def test_the_japanese_page_has_the_same_programs() -> None:
    """Only the words around them differ."""
    assert pages.fences(PAGE, "python") == pages.fences(pages.DOCS / "ja" / PAGE.name, "python")
