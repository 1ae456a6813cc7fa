"""Long texts are cut in stretches: as whole texts are, and in memory that does not grow with them."""

from __future__ import annotations

import random
import re
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import models
from fakes import FakeReader
from safe_embed import SafeEncoder
from safe_embed.errors import ConfigError, TextTooLongError
from safe_embed.text import chunking
from safe_embed.text.chunking import Chunker
from safe_embed.text.graphemes import cluster_spans
from safe_embed.text.punctuation import PunctuationSplitter
from safe_embed.text.splitters import ladder
from safe_embed.text.stretches import Stretch, stretched_spans, window_at
from safe_embed.types import Splitter

ATOMS = [
    *(
        "今日は雨です。",
        "明日は？",
        "えっ！？",
        "図書館で、本を読んだ。",
        "そう……。",
        "Dr. Smith came. ",
    ),
    *(
        "「行く。帰る。」と言った。",
        "（注。長い）",
        "『君の名は。』を観た。",
        '"はい。"と',
        "`a。b`を",
    ),
    *(
        "3.14",
        "1,000円",
        "https://a.jp/b?c=d!e ",
        "a. りんご",
        "2. 準備",
        "一．目的",
        "モー娘。が歌う。",
    ),
    *(
        "\n",
        "\n\n",
        "\r\n",
        "\u3000",
        "  ",
        "、",
        "。",
        "！",
        "…",
        "・",
        "見出し\n",
        "- 項目\n",
        "| 甲 | 乙。 |\n",
    ),
    *(
        "か\u3099",
        "👨\u200d👩\u200d👧",
        "🇯🇵",
        "葛\U000e0100",
        "すごい‼\ufe0f次",
        "(笑)",
        "楽しい！♪",
        "[2]",
    ),
    *("東京都", "ﾊﾝｶｸ｡", "abc def", "終わる。（拍手）次", "雨だ。</p>", "雨だ。<br>次", "`"),
]


def written(seed: int, chars: int) -> str:
    """A text of Japanese sentences, items, quotations and marks, in random order."""
    return "".join(random.Random(seed).choices(ATOMS, k=chars))[:chars]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [500, 2_000])
@pytest.mark.parametrize(
    "splitter",
    [
        PunctuationSplitter(),
        PunctuationSplitter("clause", line_breaks=True),
        PunctuationSplitter(names=("今日は雨です。",), end_marks=("♪",)),
    ],
)
def test_spans_are_those_of_the_whole_text(splitter: Splitter, size: int, seed: int) -> None:
    """Rules that look at their neighbours see them: stretched == whole, however short stretches."""
    text = written(seed, 9_000)
    whole = splitter.split(text)
    assert whole == list(stretched_spans(splitter, text, size))
    assert len(whole) > 3 * len(text) / size


def test_rules_look_back_over_the_end_of_a_stretch() -> None:
    """A letter with a full stop is a label only where a line or the text starts: は。a．|り."""
    text = "今日は雨です。a．りんごです。" * 400
    splitter = PunctuationSplitter()
    whole = splitter.split(text)
    assert "a．" in {text[start:end] for start, end in whole}
    assert whole == list(stretched_spans(splitter, text, 600))


@pytest.mark.parametrize("seed", range(4))
def test_spans_longer_than_a_stretch_are_only_divided(seed: int) -> None:
    """Paragraphs of more characters than a stretch: every cut of the whole text is there."""
    text = written(seed, 9_000)
    splitter = PunctuationSplitter("paragraph")
    whole = {end for _, end in splitter.split(text)}
    assert whole <= {end for _, end in stretched_spans(splitter, text, 400)}


HOSTILE = {
    "no marks": "今日は良い天気なので図書館で本を読んでいると友達が来たから一緒に帰った",
    "full stops": "。",
    "open brackets": "「",
    "right to left": "\u202e",
    "families": "👨\u200d👩\u200d👧",
    "flags": "🇯🇵",
    "blanks": "\u3000",
    "one word": "abcdefghij",
    "digits": "0123456789",
    "one cluster": "\u0301",
    "combining": "か\u3099\u0301\u0302",
    "sentences": "今日は良い天気です。図書館で本を読んだ。\n",
    "lines": "\n",
    "blanks within": "今日は雨です。" + " " * 3_000,
    "one quotation": "今日は雨です。明日は「晴れるといい」な。",
}
READER = FakeReader(costs={"👨": 2})
LADDER = ladder(PunctuationSplitter())


def stretches(text: str, budget: int, size: int) -> tuple[list[tuple[int, int, Stretch]], int]:
    """Cut a text in stretches: where each window and stretch begins, and how long windows are."""
    chunker = Chunker(LADDER)
    found: list[tuple[int, int, Stretch]] = []
    resume = start = longest = 0
    while start < len(text):
        window = window_at(text, resume, start, size)
        longest = max(longest, len(window.text))
        stretch = chunker.chunk_stretch(window, READER, budget)
        found.append((resume, start, stretch))
        start, resume = resume + stretch.end, resume + stretch.resume
    return found, longest


@pytest.mark.parametrize("kind", HOSTILE)
def test_chunks_tile_and_fit(kind: str) -> None:
    """Of every kind of text: no character is lost, no chunk blank, no cut in a cluster unsaid."""
    size, budget = 2_000, 22
    text = (HOSTILE[kind] * 9_000)[:9_000]
    if kind == "one quotation":
        text = f"「{text[1:-1]}」"
    found, longest = stretches(text, budget, size)
    assert longest <= 8_200  # a window: what lies before, the stretch, what lies behind
    assert all(stretch.end > start - resume for resume, start, stretch in found)
    cuts: set[int] = set()
    end = 0
    for resume, start, stretch in found:
        assert start == end
        for chunk in stretch.chunks:
            assert resume + chunk.span.start == end
            end = resume + chunk.span.end
            assert len(chunk.encoding) <= budget
            assert text[slice(resume + chunk.span.start, end)].strip()
        assert stretch.chunks or not text[start : resume + stretch.end].strip()
        end = resume + stretch.end
        cuts |= {resume + cut for cut in stretch.cut_clusters}
    assert end == len(text)
    inside = {end for _, end in cluster_spans(text)}
    ends = {resume + chunk.span.end for resume, _, one in found for chunk in one.chunks}
    assert ends - inside == cuts


def test_a_stretch_ends_at_a_paragraph_where_there_is_one() -> None:
    """The last paragraph of its second half, not the last sentence; never behind a heading."""
    paragraph = "今日は雨が降りました。" * 12 + "\n\n成り立ち\n"
    text = paragraph * 100
    found, _ = stretches(text, 22, 1_000)
    ends = [resume + stretch.end for resume, _, stretch in found[:-1]]
    assert len(ends) > 10
    assert all(text[:end].endswith("。\n\n") for end in ends)


@pytest.fixture(scope="module")
def encoder() -> Iterator[SafeEncoder]:
    """A small model beside a thread; it reads 64 tokens."""
    with SafeEncoder(models.small(), reload=None) as made:
        yield made


@pytest.fixture
def _short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of more than 3,000 characters are cut in stretches of 2,000."""
    monkeypatch.setattr(chunking, "STRETCH_CHARS", 2_000)


short_stretches = pytest.mark.usefixtures("_short_stretches")
LONG = written(1, 7_000)


@pytest.mark.parametrize(("kind", "chars"), [("no marks", 150_000), ("right to left", 90_000)])
def test_a_long_text_takes_little_memory(encoder: SafeEncoder, kind: str, chars: int) -> None:
    """At most 16 MiB for any length, where a text cut whole takes some 200 bytes a character."""
    text = (HOSTILE[kind] * chars)[:chars]
    encoder.plan(LONG[:1_000])
    tracemalloc.start()
    try:
        encoder.plan(text)
        _, highest = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert highest < 16 * 2**20


@short_stretches
def test_a_long_text_among_others(encoder: SafeEncoder) -> None:
    """Results are in order; plan, encode_chunks and encode agree; each chunk is its own vector."""
    texts = ["今日は雨です。", LONG, "図書館で、本を読んだ。"]
    plans = encoder.plan(texts)
    chunked = encoder.encode_chunks(texts)
    vectors = encoder.encode(texts)
    for text, plan, found, vector in zip(texts, plans, chunked, vectors, strict=True):
        assert (text is LONG) == plan.is_long
        assert text == "".join(text[slice(*span)] for span in plan.spans)
        assert (plan.spans, plan.token_counts) == (found.spans, found.token_counts)
        assert max(plan.token_counts) <= models.LIMIT
        np.testing.assert_allclose(found.pooled(), vector, atol=1e-5)
    some = chunked[1].spans[::20]
    alone = encoder.encode([LONG[slice(*span)].strip() for span in some])
    np.testing.assert_allclose(chunked[1].vectors[::20], alone, atol=1e-5)
    assert all(a.end == b.start for a, b in pairwise(plans[1].spans))


@short_stretches
def test_chunks_are_filled_as_in_shorter_texts(encoder: SafeEncoder) -> None:
    """A stretch costs one chunk more at most than the whole does."""
    assert (
        len(encoder.plan(LONG)[0].spans) <= 3 + len(encoder.plan(LONG[:2_900])[0].spans) * 7 / 2.9
    )


@short_stretches
def test_blanks_have_no_chunk_of_their_own(encoder: SafeEncoder) -> None:
    """Of 7,000 blanks before, within and behind a text none is a chunk, unless all are blank."""
    blanks = "\u3000" * 7_000
    text = f"{blanks}今日は雨です。{blanks}図書館で、本を読んだ。{blanks}"
    [found] = encoder.encode_chunks(text)
    pieces = [text[slice(*span)] for span in found.spans]
    assert text == "".join(pieces)
    assert all(piece.strip() for piece in pieces)
    assert len(pieces) == len(found.vectors) <= 2
    [blank] = encoder.encode_chunks(blanks)
    assert blank.spans == ((0, 7_000),)
    np.testing.assert_allclose(blank.pooled(), encoder.encode(""), atol=1e-5)


@short_stretches
def test_a_long_text_is_refused_before_it_is_cut() -> None:
    """With on_long="error"; a plan has its chunks all the same."""
    with SafeEncoder(models.small(), reload=None, on_long="error") as strict:
        with pytest.raises(TextTooLongError) as caught:
            strict.encode(["雨", LONG])
        assert caught.value.indices == (1,)
        assert 0 == strict.stats.tokens
        assert strict.plan(["雨", LONG])[1].spans[-1].end == len(LONG)


@short_stretches
def test_a_splitter_of_the_users_own_gets_the_text_whole() -> None:
    """It may look at all of the text."""
    lengths: list[int] = []

    def split(text: str) -> list[str]:
        lengths.append(len(text))
        return re.findall("[^。]*。|[^。]+", text)

    with SafeEncoder(models.small(), reload=None, splitter=split) as own:
        own.plan(LONG)
    assert len(LONG) == max(lengths)


def test_a_prompt_that_cannot_fit_is_not_tokenized(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its characters tell; a prompt that is a little too long is still counted in tokens."""
    model = models.bert_japanese()
    read: list[int] = []
    with SafeEncoder(model, reload=None) as encoder:
        kind = type(encoder.tokenizer.word_tokenizer)
        tokenize = kind.tokenize

        def counting(self: Any, text: str, *args: Any, **kwargs: Any) -> Any:
            read.append(len(text))
            return tokenize(self, text, *args, **kwargs)

        monkeypatch.setattr(kind, "tokenize", counting)
        with pytest.raises(ConfigError, match=r"prompt has 1000000 characters"):
            encoder.encode("雨", prompt="検索" * 500_000)
        assert not read
        with pytest.raises(ConfigError, match=r"take \d+ of the 64 tokens"):
            encoder.encode("雨", prompt="検索" * 64)
        assert read
