"""What a model does to texts before its tokenizer: compared with ours, and done as it does it.

A first module, or a subclass of SentenceTransformer, may override ``preprocess`` or ``tokenize``,
to normalise text (NFKC, line breaks), as Japanese fine-tunings do. Texts are read through such a
model itself. When any model is loaded, the input that it makes of some texts is compared with what
the reader makes of them; where no reader gives the same, the model is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import listed
from safe_embed.types import Encoding
from safe_embed.upstream.attributes import sentence_transformer
from safe_embed.upstream.tokenizer import ModelReader

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger("safe_embed")

# Half-width kana, capitals, decomposed characters, blanks, line breaks, special tokens, and more.
_PROBES = (
    "今日は雨です。",
    "ｶﾞｷﾞｸﾞ ﾊﾝｶｸ｡ ABC Abc ａｂｃ１２３ ①㍿㌔",
    "は\u3099ば バ パ Å ﬁ",
    "  空白　と\tタブ  \u00a0と\u200b零幅  ",
    "改行\nと\r\n空行\n\nの後。 ",
    "[CLS] <s> 文 </s> [SEP] <pad> [MASK]",
    "〜～ーー――…… !?！？",
    "https://example.jp/ 😊 #タグ @名前",
)
_PROMPT = "検索クエリ: "
# More tokens than any text has: a model reads a text to its end.
_ANY_TOKENS = 10**9
# Input of a model that we make too, or that changes no vector.
_KNOWN = frozenset(
    {
        *("input_ids", "attention_mask", "token_type_ids", "offsets", "modality", "prompt_length"),
        *("text_keys", "special_tokens_mask", "length", "overflow_to_sample_mapping"),
    }
)
# Texts that the model's own preprocessing reads at once: it pads them to the longest.
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class OwnReader(ModelReader):
    """Tokenizes chunks through the model's own preprocessing, without truncation.

    Args:
        model: The model, with ``preprocess``; before sentence-transformers 6, ``tokenize``.
    """

    model: Any = None

    @classmethod
    def of(cls, model: Any, tokenizer: Any, prompt: str = "") -> Self:
        """Read texts for a model; arguments as above."""
        return cls(model[0], tokenizer, prompt, model)

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens of the prompt and the special token before it, as the model says."""
        length = _preprocessed(self.model, [""], self.prompt).get("prompt_length")
        return super(OwnReader, self).prompt_tokens if length is None else int(length)

    def count(self, pieces: Sequence[str]) -> list[int]:
        """Count the tokens of each piece, without special tokens and prompt.

        Args:
            pieces: Any strings.

        Returns:
            The number of tokens of each piece.
        """
        special = len(self._read([""], "")[0])
        return [max(0, len(encoding) - special) for encoding in self._read(pieces, "")]

    def encode(self, pieces: Sequence[str]) -> list[Encoding]:
        """Encode the prompt and each piece as the model's own preprocessing does.

        Args:
            pieces: Any strings.

        Returns:
            The encoding of each piece, with special tokens and prompt; never truncated.
        """
        return self._read(pieces, self.prompt)

    def truncate(self, text: str, limit: int) -> tuple[Encoding, bool]:
        """Encode and truncate a text as the model's own preprocessing does.

        Args:
            text: Any string.
            limit: Number of tokens to keep, special tokens and prompt included.

        Returns:
            The encoding of at most *limit* tokens, and whether the text was truncated.
        """
        [whole] = self._read([text], self.prompt)
        if len(whole) <= limit:
            return whole, False
        return self._read([text], self.prompt, limit)[0], True

    def _read(self, texts: Sequence[str], prompt: str, limit: int = _ANY_TOKENS) -> list[Encoding]:
        encodings: list[Encoding] = []
        with _limited(self.model[0], limit):
            for start in range(0, len(texts), _AT_ONCE):
                features = _preprocessed(self.model, texts[start : start + _AT_ONCE], prompt)
                encodings += _rows(features)
        return encodings


def reader_kind(model: SentenceTransformer, tokenizer: Any) -> type[ModelReader]:
    """Choose what reads texts for a model just as the model does.

    Args:
        model: The model.
        tokenizer: Its tokenizer, or a copy.

    Returns:
        :class:`ModelReader`, or :class:`OwnReader` if the model does more than call its tokenizer.

    Raises:
        ConfigError: If neither gives the model the input that it gives itself.
    """
    is_own = _is_overridden(model)
    if tokenizer is not model.tokenizer and not is_own and not _has_settings(model):
        return ModelReader  # others may use the model's own tokenizer at this moment
    kinds = (OwnReader, ModelReader) if is_own else (ModelReader, OwnReader)
    differences: set[str] = set()
    for kind in kinds:
        differences = _differences(model, kind.of(model, tokenizer, _PROMPT))
        if not differences:
            if kind is OwnReader:
                logger.info("Texts are read through %s, as the model does.", _name(model))
            return kind
    msg = both(
        f"{_name(model)} gives the model another input than its tokenizer does: "
        f"{listed(sorted(differences))}. safe_embed cannot make it. Use a model whose preprocess "
        "gives input_ids and attention_mask, or change texts before you pass them to encode.",
        f"{_name(model)} の前処理が作る入力 {listed(sorted(differences))} を、safe_embed は"
        "作れません。input_ids と attention_mask を作る前処理のモデルを使うか、encode に渡す前に"
        "文章を処理してください。",
    )
    raise ConfigError(msg)


def _is_overridden(model: Any) -> bool:
    """Whether another class than those of sentence-transformers, or an instance, preprocesses."""
    methods = [
        getattr(part, name)
        for part in (model, model[0])
        for name in ("preprocess", "tokenize")
        if hasattr(part, name)
    ]
    return not all(
        getattr(method, "__module__", "").startswith("sentence_transformers.") for method in methods
    )


def _has_settings(model: Any) -> bool:
    """Whether the configuration of the first module says how its processor is called."""
    return bool(getattr(model[0], "processing_kwargs", None))


def _name(model: Any) -> str:
    """Name the class that preprocesses: the model's own subclass, or its first module's."""
    own = type(model)
    is_upstream = own.__module__.startswith("sentence_transformers.")
    return type(model[0]).__name__ if is_upstream else own.__name__


def _differences(model: Any, reader: ModelReader) -> set[str]:
    """Return the names of the inputs that differ on the probes, between the model's and ours."""
    import torch

    differences: set[str] = set()
    for one in (replace(reader, prompt=""), reader):
        for texts in (*((probe,) for probe in _PROBES), _PROBES):
            try:
                with _limited(model[0], _ANY_TOKENS):
                    expected = _preprocessed(model, texts, one.prompt)
            except Exception:  # noqa: BLE001, S112 what the model cannot read says nothing
                continue
            if "offsets" not in expected and "attention_mask" not in expected:
                return set()  # in one row for FlashAttention, which the model does with ours too
            encodings = one.encode(texts)
            differences |= _different_rows(_rows(expected), encodings)
            differences |= {
                name
                for name, value in expected.items()
                if torch.is_tensor(value) and name not in _KNOWN
            }
            if expected.get("prompt_length") not in (None, one.prompt_tokens):
                differences.add("prompt_length")
    return differences


def _different_rows(expected: Sequence[Encoding], actual: Sequence[Encoding]) -> set[str]:
    """Return which ids differ, whatever the padding; segments that we do not give count as 0."""
    differences: set[str] = set()
    for one, other in zip(expected, actual, strict=True):
        if not np.array_equal(one.ids, other.ids):
            differences.add("input_ids")
        elif one.type_ids is not None:
            types = np.zeros_like(one.ids) if other.type_ids is None else other.type_ids
            if not np.array_equal(one.type_ids, types):
                differences.add("token_type_ids")
    return differences


def _preprocessed(model: Any, texts: Sequence[str], prompt: str) -> dict[str, Any]:
    """Make a model's input as its own ``encode`` does."""
    if hasattr(sentence_transformer(), "preprocess"):  # from sentence-transformers 6 on
        features: dict[str, Any] = dict(model.preprocess(list(texts), prompt=prompt or None))
    else:
        features = dict(model.tokenize([prompt + text for text in texts]))
    return features


def _rows(features: dict[str, Any]) -> list[Encoding]:
    """Take the padding out of a model's input."""
    ids = features["input_ids"].numpy()
    if "offsets" in features:
        cuts = features["offsets"].numpy()[1:]
        return [Encoding(row.astype(np.int32)) for row in np.split(ids, cuts)]
    masks = features["attention_mask"].numpy() > 0
    types = features.get("token_type_ids")
    tables = [None] * len(ids) if types is None else types.numpy()
    return [
        Encoding(
            row[mask].astype(np.int32), None if kinds is None else kinds[mask].astype(np.int32)
        )
        for row, mask, kinds in zip(ids, masks, tables, strict=True)
    ]


@contextmanager
def _limited(module: Any, limit: int) -> Iterator[None]:
    """Let a first module read so many tokens, whatever else is set on it."""
    names = [name for name in ("max_seq_length", "processing_kwargs") if hasattr(module, name)]
    before = {name: getattr(module, name) for name in names}
    try:
        if "processing_kwargs" in before:
            kwargs = before["processing_kwargs"]
            text = {**kwargs.get("text", {}), "truncation": "longest_first", "max_length": limit}
            module.processing_kwargs = {**kwargs, "text": text}
        _set_limit(module, limit)
        yield
    finally:
        for name, value in before.items():
            if name == "max_seq_length":
                _set_limit(module, value)
            else:
                setattr(module, name, value)


def _set_limit(module: Any, limit: Any) -> None:
    try:
        module.max_seq_length = limit
    except AttributeError:  # a StaticEmbedding has none
        return
