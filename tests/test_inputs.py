"""What is a text, and what is refused before anything is computed."""

from __future__ import annotations

import array
import decimal
import enum
import io
import re
from collections import UserDict, deque
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from safe_embed.errors import InvalidTextError
from safe_embed.options import EncodeOptions, encode, takes
from safe_embed.validation import check_text, check_texts

SECRET = "秘密"  # noqa: S105
TEXTS = ["雨", "", " \n", "👨‍👩‍👧", "𠮷\0"]


class Plain(str):
    """A text of another library."""

    __slots__ = ()

    def __str__(self) -> str:
        return "not the text"


class Kind(str, enum.Enum):  # noqa: UP042  # the older way, whose str() is the member's name
    """Texts that have names."""

    RAIN = "雨"


class Image:
    """Has what an image of PIL has: a size and pixels, and no items."""

    size = (2, 2)
    filename = SECRET

    def tobytes(self) -> bytes:
        """Give the pixels."""
        return b""


@pytest.mark.parametrize(
    "inputs",
    [
        TEXTS,
        tuple(TEXTS),
        deque(TEXTS),
        dict.fromkeys(TEXTS).keys(),
        np.array(TEXTS[:4]),
        np.array(TEXTS, dtype=object),
        pd.Series(TEXTS),
        pd.Series(TEXTS, index=range(5, 0, -1)),
        pd.Series(TEXTS, dtype="category"),
        pd.Index(TEXTS),
        iter(TEXTS),
        (text for text in TEXTS),
        map(str, TEXTS),
    ],
    ids=lambda inputs: type(inputs).__name__,
)
def test_whatever_gives_texts_is_taken(inputs: Any) -> None:
    """Lists, arrays, Series, generators: their texts come in order, unchanged, as plain str."""
    texts, single = check_texts(inputs)
    assert not single
    assert TEXTS[: len(texts)] == texts
    assert len(texts) >= 4
    assert {str} == {type(text) for text in texts}


def test_lines_of_a_file_are_texts() -> None:
    """A file gives its lines."""
    assert (["一\n", "二"], False) == check_texts(io.StringIO("一\n二"))


@pytest.mark.parametrize("inputs", ["雨", "", np.str_("雨"), Plain("雨"), Kind.RAIN])
def test_a_single_text_is_told_apart(inputs: str) -> None:
    """A str is one text; a subclass of str counts by its characters, as a plain str."""
    (text,), single = check_texts(inputs)
    assert single
    assert inputs.encode() == text.encode()
    assert str is type(text)


@pytest.mark.parametrize("inputs", [[], (), iter([]), np.array([]), pd.Series([], dtype=object)])
def test_nothing_is_a_list_of_nothing(inputs: Any) -> None:
    """No texts are no error."""
    assert ([], False) == check_texts(inputs)


@given(st.lists(st.text()))
def test_all_text_of_unicode_is_taken(texts: list[str]) -> None:
    """Any characters but surrogates are text: controls, NUL, private use, unassigned."""
    assert (texts, False) == check_texts(texts)


MISFITS: list[tuple[Any, str]] = [
    (None, "None"),
    (float("nan"), "NaN (a missing value of pandas?)"),
    (np.float32("nan"), "NaN (a missing value of pandas?)"),
    (np.nan, "NaN (a missing value of pandas?)"),
    (1.5, "float"),
    (3, "int"),
    (10**400, "int"),
    (True, "bool"),
    (decimal.Decimal("NaN"), "decimal.Decimal"),
    (SECRET.encode(), "bytes"),
    (bytearray(SECRET.encode()), "bytearray"),
    ({"text": SECRET}, "dict"),
    (UserDict(text=SECRET), "collections.UserDict"),
    (Image(), f"{__name__}.Image"),
    (pd.NaT, "NaTType"),
    (pd.NA, "NAType"),
    (np.array(SECRET), "numpy.ndarray"),
    (np.array([[SECRET]]), "numpy.ndarray"),
    (object, "type"),
]


@pytest.mark.parametrize(("misfit", "kind"), MISFITS, ids=lambda value: type(value).__name__)
def test_what_is_no_text_is_refused(misfit: Any, kind: str) -> None:
    """The error names the number of the input and its kind, and what to do."""
    for inputs in (["雨", misfit], ("雨", misfit), iter(["雨", misfit])):
        with pytest.raises(
            InvalidTextError, match=rf"inputs\[1\] is .*{re.escape(kind)}"
        ) as caught:
            check_texts(inputs)
        assert (1, None) == (caught.value.index, caught.value.position)
        assert "Every input must be a str. Convert or drop it first." in str(caught.value)
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(("misfit", "kind"), MISFITS, ids=lambda value: type(value).__name__)
def test_what_gives_no_texts_is_refused(misfit: Any, kind: str) -> None:
    """As the whole argument it is refused, too, and has no number."""
    with pytest.raises(InvalidTextError, match=rf"inputs is .*{re.escape(kind)}") as caught:
        check_texts(misfit)
    assert (None, None) == (caught.value.index, caught.value.position)
    assert "Pass a str, or a list of str." in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("pair", [(SECRET, SECRET), [SECRET, SECRET], [{"role": SECRET}]])
def test_pairs_and_conversations_are_refused(pair: Any) -> None:
    """A list in the list is a pair or a conversation to upstream, and neither is supported."""
    told = r"inputs\[0\] is a (tuple|list) \(pairs and conversations are not supported\)"
    with pytest.raises(InvalidTextError, match=told) as caught:
        check_texts([pair])
    assert SECRET not in str(caught.value)


def test_missing_values_of_pandas_are_refused() -> None:
    """The number of a missing value is its place in the Series, not its label."""
    for missing in (None, float("nan")):
        with pytest.raises(InvalidTextError, match=r"inputs\[1\]") as caught:
            check_texts(pd.Series(["雨", missing], index=["a", "b"]))
        assert 1 == caught.value.index


@pytest.mark.parametrize(
    "inputs",
    [
        pd.DataFrame({SECRET: [SECRET]}),
        np.array([["雨", "雪"]]),
        np.zeros((0, 3)),
    ],
)
def test_tables_are_refused(inputs: Any) -> None:
    """A table has more than one column of texts."""
    with pytest.raises(InvalidTextError, match=r"inputs is .* Pass a str, or a list") as caught:
        check_texts(inputs)
    assert SECRET not in str(caught.value)


def test_arrays_of_numbers_are_refused() -> None:
    """Items that are numbers are refused at the first one."""
    for inputs in (
        np.arange(3),
        array.array("i", [1]),
        memoryview(b"ab"),
        range(3),
        {1: 2}.values(),
    ):
        with pytest.raises(InvalidTextError, match=r"inputs\[0\] is .*int") as caught:
            check_texts(inputs)
        assert 0 == caught.value.index


@pytest.mark.parametrize("number", [0xD800, 0xDBFF, 0xDC00, 0xDFFF])
def test_lone_surrogates_are_refused(number: int) -> None:
    """Half a character is refused with its number, its position and its code, and no text."""
    code, surrogate = f"U\\+{number:04X}", chr(number)
    bad = f"{SECRET}𠮷{surrogate}{SECRET}"
    with pytest.raises(InvalidTextError, match=rf"inputs\[2\] .*{code}.* position 3:") as caught:
        check_texts(["雨", "𠮷", bad, surrogate])
    assert (2, 3) == (caught.value.index, caught.value.position)
    assert SECRET not in str(caught.value)
    assert None is caught.value.__context__  # the codec's own error holds the text
    with pytest.raises(InvalidTextError, match=rf"^inputs .*{code}.* position 3:") as caught:
        check_texts(bad)
    assert (0, 3) == (caught.value.index, caught.value.position)
    str(caught.value).encode()  # the message itself can be printed


def test_two_lone_halves_are_no_character() -> None:
    """A pair of surrogates, as a wrong decoding leaves it, is refused at its first half."""
    with pytest.raises(InvalidTextError) as caught:
        check_texts(["あ\ud83d\ude00"])
    assert (0, 1) == (caught.value.index, caught.value.position)


@given(st.text(), st.characters(categories=["Cs"]), st.text(st.characters()))
def test_the_first_surrogate_is_named(before: str, surrogate: str, behind: str) -> None:
    """The position is that of the first surrogate, in code points."""
    with pytest.raises(InvalidTextError) as caught:
        check_text(before + surrogate + behind, 7)
    assert (7, len(before)) == (caught.value.index, caught.value.position)


def test_errors_of_a_generator_pass_through() -> None:
    """What fails inside the caller's generator is the caller's own."""

    def failing() -> Any:
        yield "雨"
        raise KeyError("theirs")

    with pytest.raises(KeyError, match="theirs"):
        check_texts(failing())


def test_sentences_is_an_older_name_of_inputs() -> None:
    """``sentences=`` stands for the first argument, and for nothing where that is given."""

    class Encoder:
        @takes(encode)
        def encode(self, options: EncodeOptions) -> EncodeOptions:
            """Give back what was passed."""
            return options

    encoder = Encoder()
    assert ["雨"] == encoder.encode(sentences=["雨"]).inputs
    assert ({"a": 1}, "p") == (
        encoder.encode(sentences=["雨"], a=1).model_kwargs,
        encoder.encode(["雨"], "p").prompt_name,
    )
    for options in (
        encoder.encode(["雪"], sentences=["雨"]),
        encoder.encode(inputs=["雪"], sentences=["雨"]),
    ):
        assert (["雪"], {"sentences": ["雨"]}) == (options.inputs, options.model_kwargs)
    with pytest.raises(TypeError, match="inputs"):
        encoder.encode()
    assert ("encode", "Give back what was passed.") == (
        encoder.encode.__name__,
        encoder.encode.__doc__,
    )


@pytest.mark.parametrize("unordered", [{"春", "夏"}, frozenset({"春"})])
def test_a_set_has_no_order(unordered: object) -> None:
    """A set is refused; the keys of a dict, which have an order, are not."""
    with pytest.raises(InvalidTextError, match="set"):
        check_texts(unordered)
    assert (["春", "夏"], False) == check_texts({"春": 1, "夏": 2}.keys())
