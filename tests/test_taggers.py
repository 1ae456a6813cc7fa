"""One tagger of MeCab for a process and dictionary: fugashi never frees what it has mapped."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fugashi
import numpy as np
import pytest
import unidic_lite
from hypothesis import given
from hypothesis import strategies as st

import models
from safe_embed import MorphemeSplitter, SafeEncoder
from safe_embed.text.taggers import shared, tagger_of

TEXT = "今日は雨です。東京都の人口について"
UNIDIC = f'-d "{unidic_lite.DICDIR}" -r "{unidic_lite.DICDIR}/mecabrc" '
MAPS = Path("/proc/self/maps")

mapped = pytest.mark.skipif(not MAPS.exists(), reason="needs Linux's /proc")


def mappings() -> int:
    """Count the mappings of dictionary files in this process."""
    return sum(".dic" in line or "/dicdir/" in line for line in MAPS.read_text().splitlines())


@pytest.fixture(scope="module")
def folder() -> str:
    """The folder of a model with a BertJapaneseTokenizer."""
    models.bert_japanese()
    return str(models.folder("bert_japanese"))


@pytest.fixture(scope="module")
def plain() -> Any:
    """A tagger of fugashi's own, as transformers makes it."""
    return fugashi.GenericTagger(UNIDIC)


def surfaces(tagger: Any, text: str) -> list[str]:
    """Return the morphemes of a text, as transformers reads them."""
    return [word.surface for word in tagger(text)]


@mapped
@pytest.mark.parametrize("keeps", [False, True])
def test_reloads_map_no_dictionary_again(folder: str, keeps: bool) -> None:
    """With a new tokenizer and with the old one; the control is a tokenizer of upstream's."""
    with SafeEncoder(folder, device="cpu") as encoder:
        expected = encoder.encode(TEXT)
        before = mappings()
        for _ in range(4):
            encoder.reload(keep_tokenizer=keeps)
        assert before == mappings()
        np.testing.assert_array_equal(expected, encoder.encode(TEXT))
        assert 4 == encoder.stats.reloads
    fugashi.GenericTagger(UNIDIC)
    assert mappings() > before


@mapped
def test_a_model_and_splitters_have_one_dictionary(folder: str) -> None:
    """After a model was loaded, splitters map nothing more, however many, on any thread."""
    with SafeEncoder(folder, device="cpu") as encoder:
        encoder.encode(TEXT)
        before = mappings()

        def split(depth: int) -> Any:
            splitter = MorphemeSplitter("morpheme", depth=depth)
            return [splitter.split(TEXT * 100), encoder.encode(TEXT).tolist()]

        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(split, range(32)))
    assert all(result == results[0] for result in results)
    assert before == mappings()


@mapped
@pytest.mark.parametrize(
    "again",
    [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))],  # noqa: S301
)
def test_copies_of_a_tokenizer_share(folder: str, again: Callable[[Any], Any]) -> None:
    """A copied and an unpickled tokenizer read as the original, and map nothing."""
    with SafeEncoder(folder, device="cpu") as encoder:
        tokenizer = encoder.tokenizer
        before = mappings()
        twin = again(tokenizer)
        assert type(tokenizer) is type(twin)
        assert tokenizer is not twin
        assert tokenizer(TEXT)["input_ids"] == twin(TEXT)["input_ids"]
        assert tokenizer.word_tokenizer.mecab is twin.word_tokenizer.mecab
        assert before == mappings()


@mapped
def test_a_model_of_the_users_own_is_read_with_the_shared_tagger(folder: str) -> None:
    """The model keeps the tagger that it has; what reads beside it shares."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")
    own: Any = model.tokenizer
    mecab = own.word_tokenizer.mecab
    MorphemeSplitter().split(TEXT)
    before = mappings()
    for _ in range(3):
        with SafeEncoder(model) as encoder:
            encoder.encode(TEXT)
    assert before == mappings()
    assert mecab is own.word_tokenizer.mecab


@mapped
def test_other_options_have_a_tagger_of_their_own_once(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that asks for ipadic gets the folder of that package, mapped once."""
    package = types.ModuleType("ipadic")
    package.DICDIR = str(tmp_path / "dicdir")  # type: ignore[attr-defined]
    Path(package.DICDIR).symlink_to(unidic_lite.DICDIR)
    monkeypatch.setitem(sys.modules, "ipadic", package)
    before = mappings()
    options = {"mecab_kwargs": {"mecab_dic": "ipadic", "mecab_option": "-b 100000"}}
    with SafeEncoder(folder, device="cpu", tokenizer_kwargs=options) as encoder:
        tagger = encoder.tokenizer.word_tokenizer.mecab
        after = mappings()
        assert before < after
        encoder.reload()
        assert tagger is encoder.tokenizer.word_tokenizer.mecab
        assert after == mappings()


def test_the_order_of_options_does_not_matter() -> None:
    """A tokenizer and MorphemeSplitter name dictionary and settings in different orders."""
    folder = unidic_lite.DICDIR
    tagger = tagger_of(UNIDIC)
    assert tagger is tagger_of(f"-r {folder}/mecabrc -d '{folder}'")
    assert tagger is not tagger_of(f"{UNIDIC} -b 200000")


PIECES = [
    *"今日は雨東京都、。「」ABc１ﾊﾟ😀\t\n\r\v\x1c\x85\u2028\u3000\u200b\u200d\u202e\u0301 ",
    *("\0", "\x01", "👨\u200d👩\u200d👧", "𠮷野家", "https://a.jp/", "図書館で", "  "),
]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_tokens_are_those_of_fugashi(plain: Any, text: str) -> None:
    """Tabs, line breaks, control characters, and NUL, at which fugashi stops."""
    assert surfaces(plain, text) == surfaces(tagger_of(UNIDIC), text)


def test_only_the_thread_that_loads_is_given_the_shared_tagger() -> None:
    """Another thread's taggers are fugashi's own meanwhile, and so are all afterwards."""
    kind = fugashi.GenericTagger
    made: list[Any] = []
    with shared("test_taggers"):
        assert tagger_of(UNIDIC) is fugashi.GenericTagger(UNIDIC)
        thread = threading.Thread(target=lambda: made.append(fugashi.GenericTagger(UNIDIC)))
        with shared("test_taggers"):
            thread.start()
            thread.join()
        assert tagger_of(UNIDIC) is fugashi.GenericTagger(UNIDIC)
    assert kind is type(made[0]) is fugashi.GenericTagger


def test_code_of_the_users_own_gets_what_fugashi_makes() -> None:
    """A loader may make a tagger for purposes of its own, and read parts of speech."""
    with shared("transformers"):
        tagger = fugashi.GenericTagger(UNIDIC)
    assert "名詞" == tagger("東京")[0].feature[0]


def test_a_dictionary_that_is_missing_is_the_error_of_fugashi() -> None:
    """A tokenizer's own dictionary is not found: the error is the one that its maker raises."""
    with pytest.raises(RuntimeError) as expected:
        fugashi.GenericTagger("-d /nonexistent")
    with shared("test_taggers"), pytest.raises(type(expected.value)):
        fugashi.GenericTagger("-d /nonexistent")
