"""Nothing of a user's text in messages and logs, whichever argument it was passed as."""

from __future__ import annotations

import enum
import itertools
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import models
from safe_embed import (
    EveryCalls,
    MemoryAbove,
    MemoryGrowth,
    MorphemeSplitter,
    PunctuationSplitter,
    SafeEncoder,
    pad_to_dim,
)
from safe_embed.errors import ConfigError
from safe_embed.foreign import is_word, shown
from safe_embed.memory.combinators import AllOf, AnyOf
from safe_embed.memory.types import Rung
from safe_embed.policies import EverySeconds
from safe_embed.pooling import pool
from safe_embed.splitters import FunctionSplitter, RegexSplitter
from safe_embed.text.user_splitters import check_tiling

SECRET = "合言葉は「山と川」、と祖母は言った"  # noqa: S105
# What may not be seen again: pieces of a text from this length on.
PIECE_CHARS = 8
ENGLISH = "the spare key lies under the blue pot"


class Talkative:
    """An object whose repr is a text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    __str__ = __repr__


FORMS: dict[str, Callable[[str], Any]] = {
    "text": str,
    "list": lambda text: [text],
    "dict": lambda text: {text: text},
    "object": Talkative,
    "partial": lambda text: partial(len, text),
    "array": lambda text: np.array([text, text]),
}

# Each is called with an encoder and a text, in one of the forms, in an argument that it is not for.
ARGUMENTS: dict[str, Callable[[SafeEncoder, Any], Any]] = {
    "prompt_name, second": lambda one, text: one.encode("雨", text),
    "prompt_name of queries": lambda one, text: one.encode_query("雨", text),
    "prompt_name of documents": lambda one, text: one.encode_document("雨", text),
    "prompt_name of chunks": lambda one, text: one.encode_chunks("雨", text),
    "prompt_name of a stream": lambda one, text: list(one.encode_stream(["雨"], text)),
    "prompt_name of a plan": lambda one, text: one.plan("雨", text),
    "output_value": lambda one, text: one.encode("雨", output_value=text),
    "precision": lambda one, text: one.encode("雨", precision=text),
    "precision of a stream": lambda one, text: list(one.encode_stream(["雨"], precision=text)),
    "ranges": lambda one, text: list(one.encode_stream(["雨"], precision="int8", ranges=text)),
    "ranges of texts": lambda one, text: list(
        one.encode_stream(["雨"], precision="int8", ranges=[[text] * 32] * 2)
    ),
    "batch_size": lambda one, text: one.encode("雨", batch_size=text),
    "batch_size of chunks": lambda one, text: one.encode_chunks("雨", batch_size=text),
    "truncate_dim": lambda one, text: one.encode("雨", truncate_dim=text),
    "pool": lambda one, text: one.encode("雨", pool=text),
    "name": lambda one, text: one.encode("雨", **{str(text): 1}),
    "name of chunks": lambda one, text: one.encode_chunks("雨", **{str(text): 1}),
    "name of a stream": lambda one, text: list(one.encode_stream(["雨"], **{str(text): 1})),
    "max_seq_length": lambda one, text: setattr(one, "max_seq_length", text),
    "default_prompt_name": lambda one, text: setattr(one, "default_prompt_name", text),
    "similarity_fn_name": lambda one, text: setattr(one, "similarity_fn_name", text),
    "device": lambda one, text: one.encode("雨", device=text),
    "device of chunks": lambda one, text: one.encode_chunks("雨", device=text),
    "devices": lambda one, text: one.encode("雨", device=[text, text]),
    "target_devices": lambda one, text: one.start_multi_process_pool([text]),
}


class NoCopy:
    """A splitter that cannot be pickled, and whose repr is a text."""

    def __repr__(self) -> str:
        return SECRET

    def __reduce__(self) -> str:
        return "nowhere"

    def split(self, text: str) -> list[tuple[int, int]]:
        """Give no piece."""
        return []


def made(**options: Any) -> None:
    """Make an encoder of a model that is never to be loaded."""
    SafeEncoder(Path(__file__).parent, **options)


# The same for what is made.
MADE: dict[str, Callable[[Any], Any]] = {
    "splitter": lambda text: made(splitter=text, reload=3),
    "max_chunk_tokens": lambda text: made(max_chunk_tokens=text),
    "pooling": lambda text: made(pooling=text, reload=3),
    "on_long": lambda text: made(on_long=text),
    "max_batch_tokens": lambda text: made(max_batch_tokens=text),
    "chunks": lambda text: made(chunks=text),
    "reload": lambda text: made(reload=text),
    "isolation": lambda text: made(isolation=text),
    "workers": lambda text: made(workers=text),
    "devices of workers": lambda text: made(isolation="process", devices=text),
    "one of those devices": lambda text: made(isolation="process", devices=[text]),
    "timeout_seconds": lambda text: made(isolation="process", timeout_seconds=text),
    "dtype": lambda text: made(dtype=text),
    "an option's name": lambda text: made(**{str(text): 1}),
    "device of a model": lambda text: made(device=text),
    "model": lambda text: SafeEncoder([text]),
    "a name beside a loader": lambda text: SafeEncoder(lambda: None, **{str(text): 1}),
    "calls": EveryCalls,
    "jitter": lambda text: EveryCalls(3, jitter=text),
    "seconds": EverySeconds,
    "growth": MemoryGrowth,
    "at_most": lambda text: MemoryGrowth("1 MiB", at_most=text),
    "ceiling": MemoryAbove,
    "two ceilings": lambda text: MemoryAbove(text, share=text),
    "share": lambda text: MemoryAbove(share=text),
    "cool_down_seconds": lambda text: MemoryAbove(share=0.5, cool_down_seconds=text),
    "any of": lambda text: AnyOf((EveryCalls(1), text)),
    "all of": lambda text: AllOf((text,)),
    "level": PunctuationSplitter,
    "depth": lambda text: PunctuationSplitter(depth=text),
    "unit": MorphemeSplitter,
    "depth of morphemes": lambda text: MorphemeSplitter(depth=text),
    "expression": lambda text: RegexSplitter(text).split(3),
    "broken expression": lambda text: RegexSplitter(f"({text}"),
    "name in an expression": lambda text: RegexSplitter(f"(?P<{text}>.)"),
    "group of an expression": lambda text: RegexSplitter(f"(?P={text})"),
    "dimension": lambda text: pad_to_dim(np.ones((1, 2), np.float32), text),
    "vectors": lambda text: pad_to_dim(text, 2),
    "rows of vectors": lambda text: pad_to_dim([[text, text]], 2),  # type: ignore[arg-type, list-item]
    "what a pooling function gives": lambda text: pool(
        np.ones((2, 3), np.float32), (1, 1), lambda *_: text, unit_length=False
    ),
    "what is in it": lambda text: pool(
        np.ones((2, 3), np.float32), (1, 1), lambda *_: [text] * 3, unit_length=False
    ),
    "a splitter that holds it": lambda text: FunctionSplitter(
        partial(lambda _, one: [one * 2], text)
    ).split("雨"),
    "pieces": lambda text: FunctionSplitter(lambda _: [text]).split("雨"),
    "pairs": lambda text: FunctionSplitter(lambda _: [(text, text)]).split("雨"),
    "spans": lambda text: check_tiling("雨", text, None),
    "spans of pieces": lambda text: check_tiling("雨", [text], None),
    "spans of pairs": lambda text: check_tiling("雨", [(text, text)], None),
}


@pytest.fixture(scope="module")
def encoder() -> Iterator[SafeEncoder]:
    """A small model, reloaded never."""
    with SafeEncoder(models.small(prompts={"query": "検索クエリ: "}), reload=None) as found:
        yield found


def words_of(error: BaseException | None) -> str:
    """All that an error says, and those that it was raised from."""
    told = ""
    while error is not None:
        told += f"{error}\n{error!r}\n" + "\n".join(getattr(error, "__notes__", ()))
        error = error.__cause__ or error.__context__
    return told


def told_by(call: Callable[[], Any], caplog: pytest.LogCaptureFixture) -> str:
    """All that a call's error and its log say; a call that likes its argument says nothing."""
    caplog.clear()
    told = ""
    with caplog.at_level(logging.DEBUG):
        try:
            call()
        except (ValueError, TypeError, RuntimeError, LookupError) as error:
            told = words_of(error)
    return told + "".join(map(logging.Formatter().format, caplog.records))


def use(encoder: SafeEncoder, argument: str, form: str, text: str) -> None:
    """Pass a text as an argument."""
    given = FORMS[form](text)
    if argument in ARGUMENTS:
        ARGUMENTS[argument](encoder, given)
    else:
        MADE[argument](given)


def pieces_in(text: str, told: str) -> list[str]:
    """Pieces of a text that were told."""
    every = (text[at : at + PIECE_CHARS] for at in range(len(text) - PIECE_CHARS + 1))
    return [piece for piece in every if piece in told]


@pytest.mark.parametrize("argument", [*ARGUMENTS, *MADE])
def test_no_argument_shows_a_text(
    encoder: SafeEncoder, caplog: pytest.LogCaptureFixture, argument: str
) -> None:
    """A text where it does not belong, or in what does: neither message nor log holds it."""
    for form, text in itertools.product(FORMS, (SECRET, ENGLISH, "0" * PIECE_CHARS)):
        told = told_by(lambda form=form, text=text: use(encoder, argument, form, text), caplog)
        assert (form, []) == (form, pieces_in(text, told))


@given(
    text=st.one_of(st.text(min_size=PIECE_CHARS, max_size=60), models.japanese(min_size=9)),
    form=st.sampled_from([*FORMS]),
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_argument_shows_any_text(
    encoder: SafeEncoder, caplog: pytest.LogCaptureFixture, text: str, form: str
) -> None:
    """Whatever the text is, but for a single Latin word, which looks like a name."""
    assume(not is_word(text))
    for argument in (*ARGUMENTS, *MADE):
        told = told_by(lambda one=argument: use(encoder, one, form, text), caplog)
        assert (argument, []) == (argument, pieces_in(text, told))


def test_a_text_in_the_place_of_a_prompt_is_explained(encoder: SafeEncoder) -> None:
    """Two texts as two arguments are a common mistake: the message says what to type instead."""
    with pytest.raises(ConfigError, match="encode") as caught:
        encoder.encode(ENGLISH, SECRET)
    assert f"<str of {len(SECRET)} characters>" in str(caught.value)
    assert "リスト" in str(caught.value)


class Rain(enum.StrEnum):
    """Members whose value is a text."""

    HEAVY = SECRET


class Endless(list[int]):
    """A container that breaks when it is measured."""

    def __len__(self) -> int:
        raise OverflowError(SECRET)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("query", "'query'"),
        ("sentence_embeddings", "'sentence_embeddings'"),
        ("cuda:0", "'cuda:0'"),
        ("s2p-query.v2", "'s2p-query.v2'"),
        (np.str_("query"), "'query'"),
        ("", "''"),
        ("[", "'['"),
        ("a" * 25, "<str of 25 characters>"),
        ("two words", "<str of 9 characters>"),
        ("雨", "<str of 1 character>"),
        ("ｑｕｅｒｙ", "<str of 5 characters>"),
        ("query\n", "<str of 6 characters>"),
        ("09012345678", "<str of 11 characters>"),
        (Talkative("query"), "<Talkative>"),
        (None, "None"),
        (True, "True"),
        (3, "3"),
        (-0.5, "-0.5"),
        (float("nan"), "nan"),
        (np.int64(7), "7"),
        (np.float32(0.5), "0.5"),
        (10**5000, "<int>"),
        (1j, "<complex>"),
        (Rung.TRIM, "Rung.TRIM"),
        (Rain.HEAVY, "Rain.HEAVY"),
        (EveryCalls, "<class EveryCalls>"),
        (EveryCalls(3), "<EveryCalls>"),
        (["a", "b"], "<list of 2 items>"),
        ((), "<tuple of 0 items>"),
        ({"a": 1}, "<dict of 1 item>"),
        (b"query", "<bytes of 5 items>"),
        (np.zeros((3, 2)), "<ndarray of 3 items>"),
        (Endless(), "<Endless>"),
        (partial(len, "query"), "<partial>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_as_messages_show_them(value: object, expected: str) -> None:
    """Short names, numbers and members are shown; type and length of all else."""
    assert expected == shown(value)


@given(st.text(max_size=60))
def test_a_value_is_shown_whole_or_not_at_all(text: str) -> None:
    """What is shown of a text is short ASCII without blanks; nothing is shown in part."""
    told = shown(text)
    if told == repr(text):
        assert len(text) <= 24
        assert text.isascii()
        assert not any(map(str.isspace, text))
        assert not text[:1].isdigit()
    else:
        assert f"<str of {len(text)} character{'s' * (len(text) != 1)}>" == told


def test_what_cannot_be_pickled_is_not_shown() -> None:
    """The words of pickle hold the repr of what it cannot pickle; the message names its type."""
    with pytest.raises(ConfigError, match=r"splitter.*PicklingError") as caught:
        made(splitter=NoCopy(), isolation="process")
    assert SECRET not in str(caught.value)
