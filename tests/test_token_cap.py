"""No chunk of any real document is longer than the limit, by any kind of tokenizer.

SAFE_EMBED_FULL=1 reads every document of the data folder; otherwise a fixed sample of each file.
"""

from __future__ import annotations

import collections
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from safe_embed.text.chunking import Chunker
from safe_embed.text.graphemes import cluster_spans
from safe_embed.text.morphemes import MorphemeSplitter
from safe_embed.text.punctuation import PunctuationSplitter
from safe_embed.text.splitters import ladder
from safe_embed.upstream.tokenizer import ModelReader

FULL = os.environ.get("SAFE_EMBED_FULL") == "1"
LIMITS = (16, 128, 512)
# Without a blank at its end, it joins the first characters of a chunk: the tokens of prompt and
# chunk do not add up.
PROMPT = "文書"
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
VOCABULARY = 3_000
# Characters of the sample: limits above 16 and slow tokenizers cost a few seconds each.
SAMPLE_CHARS = {"unigram": 200_000, "bpe": 200_000, "wordpiece": 200_000, "japanese": 60_000}

FILES = (
    *("aozora_works", "debian_ja_sections", "debian_ja_longdocs", "rust_book_ja_markdown"),
    *("jaquad_dev_longdocs", "jaquad_dev_paragraphs", "jaquad_dev_questions"),
    *("jsquad_valid_longdocs", "jsquad_valid_paragraphs", "jsquad_valid_questions"),
    *("kyoto_wiki_longdocs", "kyoto_lead2body_queries", "jsts_valid", "jsick_train_sample"),
    *("kyoto_wiki_sentences", "ud_gsd_dev_sentences", "ud_gsd_test_sentences", "bunkai_sbd_cases"),
)
FIELDS = ("text", "question", "sentence1", "sentence2")


@functools.cache
def documents(data_dir: Path, name: str) -> list[str]:
    """Every text of a file."""
    found: list[str] = []
    with (data_dir / f"{name}.jsonl").open(encoding="utf-8") as lines:
        for record in map(json.loads, lines):
            found += [record[field] for field in FIELDS if field in record]
            found += ["".join(record["sentences"])] if "sentences" in record else []
    return found


def sample(data_dir: Path, chars: int) -> list[str]:
    """Documents of every file, each with its share of *chars*, the same each time."""
    share = chars // len(FILES)
    picked: list[str] = []
    for name in FILES:
        texts = documents(data_dir, name)
        if FULL:
            picked += texts
            continue
        size = 0
        # A prime stride visits all of a file in an order that does not follow its own.
        for at in range(len(texts)):
            text = texts[at * 7919 % len(texts)][: 2 * share]
            picked.append(text)
            size += len(text)
            if size >= share:
                break
    return picked


def train(tokenizer: Any, trainer: Any, texts: Iterable[str]) -> Any:
    """Train a tokenizer, and wrap it as transformers does."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def byte_level_bpe(texts: list[str]) -> Any:
    """Make a tokenizer like that of RoBERTa or ModernBERT."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return train(tokenizer, trainer, texts)


def wordpiece(texts: list[str]) -> Any:
    """Make a tokenizer like that of BERT."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(handle_chinese_chars=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL.values()), show_progress=False
    )
    return train(tokenizer, trainer, texts)


def bert_japanese(texts: list[str], folder: Path) -> Any:
    """Make a slow tokenizer with MeCab inside, like that of the BERTs of Tohoku University."""
    from transformers import BertJapaneseTokenizer

    words = collections.Counter(
        text[start:end]
        for text in texts
        for start, end in MorphemeSplitter("morpheme", depth=None).split(text[:20_000])
    )
    known = [word for word, _ in words.most_common(VOCABULARY) if not any(map(str.isspace, word))]
    characters = sorted({character for word in known for character in word})
    vocabulary = [*SPECIAL.values(), "[MASK]", *known, *(f"##{one}" for one in characters)]
    vocabulary += [one for one in characters if one not in words]
    path = folder / "vocab.txt"
    path.write_text("\n".join(dict.fromkeys(vocabulary)), encoding="utf-8")
    return BertJapaneseTokenizer(
        str(path),
        word_tokenizer_type="mecab",
        subword_tokenizer_type="wordpiece",
        mecab_kwargs={"mecab_dic": "unidic_lite"},
    )


@pytest.fixture(scope="module")
def tokenizers(
    data_dir: Path, offline_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Any]]:
    """Give a tokenizer by its kind; each is made once."""
    texts = [text[:5_000] for text in documents(data_dir, "kyoto_wiki_longdocs")[:60]]

    @functools.cache
    def make(kind: str) -> Any:
        if kind == "unigram":
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(offline_model_path)
        if kind == "japanese":
            return bert_japanese(texts, tmp_path_factory.mktemp("japanese"))
        return {"bpe": byte_level_bpe, "wordpiece": wordpiece}[kind](texts)

    yield make
    make.cache_clear()
    documents.cache_clear()


@pytest.mark.model
@pytest.mark.timeout(7_200 if FULL else 1_200)
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("kind", SAMPLE_CHARS)
def test_no_chunk_exceeds_the_limit(
    kind: str,
    limit: int,
    data_dir: Path,
    tokenizers: Callable[[str], Any],
    record_property: Callable[[str, object], None],
) -> None:
    """Chunks tile their document, and the tokenizer itself reads no more than *limit* in any."""
    tokenizer = tokenizers(kind)
    # sentence-transformers 6 hands texts to the tokenizer as they are: its modules preprocess.
    reader = ModelReader(SimpleNamespace(preprocess=None), tokenizer, PROMPT)
    chunker = Chunker(ladder(PunctuationSplitter()))
    texts = sample(data_dir, SAMPLE_CHARS[kind])
    n_chunks = most = 0
    for start in range(0, len(texts), 500):
        part = texts[start : start + 500]
        for text, found in zip(part, chunker.chunk(part, reader, limit), strict=True):
            pieces = [text[slice(*one.span)] for one in found.chunks]
            assert text == "".join(pieces)
            counts = [len(one.encoding) for one in found.chunks]
            assert max(counts) <= limit
            for at in found.cut_clusters:  # a family of emoji is 25 bytes, and as many tokens
                (cluster,) = [text[s:e] for s, e in cluster_spans(text) if s < at < e]
                assert len(reader.encode([cluster])[0]) > limit
            assert found.is_long or 1 == len(pieces)
            n_chunks += len(pieces)
            most = max(most, *counts)
            # By the tokenizer's own call, without ours in between: some chunks, and what is short.
            for at in range(0, len(pieces), 25):
                read = PROMPT + (pieces[at].strip() if found.is_long else text)
                ids = tokenizer(read, verbose=False)["input_ids"]
                assert ids == found.chunks[at].encoding.ids.tolist()
            if found.is_long and len(text) <= 3 * limit:
                ids = tokenizer(PROMPT + text, verbose=False)["input_ids"]
                # WordPiece makes one [UNK] of a word of more than 100 characters, which is read in
                # parts here, that say more.
                assert len(ids) > limit or tokenizer.unk_token_id in ids
    record_property(f"chunks_{kind}_{limit}", n_chunks)
    assert most > 0.9 * limit  # chunks are filled: one that is too long would be seen
