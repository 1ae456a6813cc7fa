"""How fast is text cut? MB of UTF-8 per second, on real Japanese text, one thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture
from sentence_transformers import SentenceTransformer

from conftest import Records
from safe_embed import MorphemeSplitter, PunctuationSplitter
from safe_embed.model.tokenization import ModelReader
from safe_embed.text.chunking import Chunker
from safe_embed.text.splitters import ladder


@pytest.fixture(scope="module")
def texts(records: Records) -> list[str]:
    """About 2.6 MB of encyclopedia articles."""
    return [row["text"] for row in records("kyoto_wiki_longdocs")]


def measure(
    benchmark: BenchmarkFixture, work: Callable[[Sequence[str]], Any], texts: Sequence[str]
) -> None:
    """Time *work* on all texts, and note MB/s."""
    benchmark.pedantic(work, (texts,), rounds=5, warmup_rounds=1)
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    benchmark.extra_info |= {"megabytes": round(megabytes, 2)}
    if benchmark.stats:
        benchmark.extra_info["mb_per_second"] = round(megabytes / benchmark.stats["median"], 2)
    print(f"\n{benchmark.name}: {benchmark.extra_info}")


@pytest.mark.parametrize(
    "splitter",
    [
        PunctuationSplitter(),
        PunctuationSplitter("clause"),
        MorphemeSplitter("bunsetsu"),
        MorphemeSplitter("morpheme"),
    ],
    ids=["sentence", "clause", "bunsetsu", "morpheme"],
)
def test_split(benchmark: BenchmarkFixture, splitter: Any, texts: list[str]) -> None:
    """A splitter alone."""
    measure(benchmark, lambda found: [splitter.split(text) for text in found], texts)


def test_tokenize(
    benchmark: BenchmarkFixture, model: SentenceTransformer, texts: list[str]
) -> None:
    """The control: one bare pass of the tokenizer over the same texts."""
    backend = model.tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    measure(benchmark, backend.encode_batch, texts)


@pytest.mark.parametrize("tokens", [128, 512])
def test_chunk(
    benchmark: BenchmarkFixture, model: SentenceTransformer, texts: list[str], tokens: int
) -> None:
    """Chunks with their encodings, ready for the model."""
    reader = ModelReader(model[0], model.tokenizer)
    chunker = Chunker(ladder(PunctuationSplitter()))
    measure(benchmark, lambda found: chunker.chunk(found, reader, tokens), texts)
