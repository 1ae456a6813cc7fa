"""The model's tokenizer, called as sentence-transformers calls it, but never truncating.

Three kinds come along: fast tokenizers of transformers (Rust), slow ones (Python; the Japanese
BERTs with MeCab inside), and the bare ``tokenizers.Tokenizer`` of a StaticEmbedding. None of them
is used by two threads at once, and none is handed a whole long text.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from safe_embed.errors import ConfigError
from safe_embed.types import Encoding

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

# How much of a long text is read to keep its first tokens: Latin text has 5 characters a token.
_HEAD_CHARS_PER_TOKEN = 8
# The tokenizer's own records take some 100 bytes a token: so much text is read at a time.
_PORTION_CHARS = 200_000


@dataclass(frozen=True, slots=True)
class ModelReader:
    """Reads chunks for one model with one prompt; the ``Reader`` of chunking.

    Args:
        module: The first module of the model.
        tokenizer: Its tokenizer, or a private copy where others use the model too.
        prompt: What goes in front of every chunk.
    """

    module: Any
    tokenizer: Any
    prompt: str = ""

    @property
    def overhead_tokens(self) -> int:
        """Tokens of the prompt and the special tokens."""
        return len(self.encode([""])[0])

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt and the special token before it, which INSTRUCTOR models skip."""
        ids = self.encode([""])[0].ids
        special = getattr(self.tokenizer, "all_special_ids", ())
        return len(ids) - (len(ids) > 0 and int(ids[-1]) in special)

    def count(self, pieces: Sequence[str]) -> list[int]:
        """Count the tokens of each piece by itself, without special tokens and prompt.

        Args:
            pieces: Any strings.

        Returns:
            Their numbers of tokens.
        """
        counts: list[int] = []
        for part in self._portions(pieces):
            found = self._tokenize(part, special=False)
            counts += map(len, found)
        return counts

    def encode(self, pieces: Sequence[str]) -> list[Encoding]:
        """Encode the prompt and each piece exactly as the model reads them.

        Args:
            pieces: Any strings.

        Returns:
            Their encodings, never truncated.
        """
        found: list[Encoding] = []
        for part in self._portions([self.prompt + piece for piece in pieces]):
            found += self._encodings(self._tokenize(part, special=True))
        return found

    def truncate(self, text: str, limit: int) -> tuple[Encoding, bool]:
        """Encode a text as upstream does when it truncates, but read no more than needed.

        Args:
            text: Any string.
            limit: Tokens to keep, special tokens and prompt included.

        Returns:
            The encoding, and whether anything was cut.
        """
        head = text[: _HEAD_CHARS_PER_TOKEN * limit]
        while len(whole := self.encode([head])[0]) <= limit and len(head) < len(text):
            head = text[: 2 * len(head)]
        if len(whole) <= limit:
            return whole, False
        found = self._tokenize([self._prepared(self.prompt + head)], special=True, limit=limit)
        return self._encodings(found)[0], True

    def kept_chars(self, text: str, limit: int) -> int:
        """Find how much of a text fits.

        Args:
            text: A text that does not fit.
            limit: Tokens that fit, special tokens and prompt included.

        Returns:
            Length of the longest beginning that fits, in code points.
        """

        def size(chars: int) -> int:
            return len(self.encode([text[:chars]])[0])

        high = _HEAD_CHARS_PER_TOKEN * limit
        while high < len(text) and size(high) <= limit:
            high *= 2
        lengths = range(min(high, len(text)) + 1)
        return max(0, bisect_right(lengths, limit, key=size) - 1)

    def features(
        self, encodings: Sequence[Encoding], rows: int = 0, columns: int = 0
    ) -> dict[str, Any]:
        """Make the model's input of the encodings of a batch.

        Args:
            encodings: One or more.
            rows: How many rows there must be at least; the last encoding fills them up.
            columns: How many tokens a row must have at least, with padding.

        Returns:
            The tensors that upstream's own preprocessing gives for the same chunks.
        """
        import torch

        encodings = [*encodings, *[encodings[-1]] * (rows - len(encodings))]
        lengths = np.array([len(encoding) for encoding in encodings])
        if self._is_static:
            flat = np.concatenate([encoding.ids for encoding in encodings]).astype(np.int64)
            offsets = np.concatenate(([0], np.cumsum(lengths)[:-1]))
            return {"input_ids": torch.from_numpy(flat), "offsets": torch.from_numpy(offsets)}
        places = np.arange(max(columns, int(lengths.max())))
        if self.tokenizer.padding_side == "left":
            places = places[::-1]
        mask = places < lengths[:, None]
        features: dict[str, Any] = {
            "input_ids": _padded([e.ids for e in encodings], mask, self.tokenizer.pad_token_id),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        }
        kinds = [encoding.type_ids for encoding in encodings if encoding.type_ids is not None]
        if kinds:
            features["token_type_ids"] = _padded(kinds, mask, self.tokenizer.pad_token_type_id)
        if hasattr(self.module, "modality_config"):  # from sentence-transformers 6 on
            features["modality"] = "text"
        if self.prompt:
            features["prompt_length"] = self.prompt_tokens
        return features

    @property
    def _is_static(self) -> bool:
        """Whether the tokenizer is that of a StaticEmbedding: no special tokens, no padding."""
        return not hasattr(self.tokenizer, "model_input_names")

    def _portions(self, texts: Sequence[str]) -> Iterator[Sequence[str]]:
        """Prepare texts, and part them: the tokenizer's records of one portion are held."""
        if self._is_prepared_here:
            texts = [self._prepared(text) for text in texts]
        return portions(texts, _PORTION_CHARS)

    def _tokenize(
        self, texts: Sequence[str], *, special: bool, limit: int | None = None
    ) -> list[Any]:
        """Give what the tokenizer says of each text, whichever kind it is; its length is known."""
        if self._backend is None:
            return self._slow(texts, special=special, limit=limit)
        _set_truncation(self._backend, limit)
        special = special and not self._is_static
        found: list[Any] = self._backend.encode_batch_fast(texts, add_special_tokens=special)
        return found

    def _encodings(self, found: Sequence[Any]) -> list[Encoding]:
        """Put the ids of one portion into one array, that each encoding is a part of."""
        ends = list(accumulate(map(len, found), initial=0))
        ids = _flat((one.ids for one in found), ends[-1])
        kinds = _flat((one.type_ids for one in found), ends[-1]) if self._is_typed else None
        return [
            Encoding(ids[start:end], None if kinds is None else kinds[start:end])
            for start, end in pairwise(ends)
        ]

    @property
    def _backend(self) -> Any:
        """The Rust tokenizer inside, or ``None`` in a slow tokenizer."""
        return self.tokenizer if self._is_static else getattr(self.tokenizer, "_tokenizer", None)

    @property
    def _is_typed(self) -> bool:
        return "token_type_ids" in getattr(self.tokenizer, "model_input_names", ())

    def _slow(self, texts: Sequence[str], *, special: bool, limit: int | None) -> list[_Slow]:
        found = self.tokenizer(
            texts,
            add_special_tokens=special,
            padding=False,
            truncation=limit is not None,
            max_length=limit,
            verbose=False,
        )
        return list(map(_Slow, found["input_ids"], found.get("token_type_ids", found["input_ids"])))

    @property
    def _is_prepared_here(self) -> bool:
        """Whether sentence-transformers does something to texts before it tokenizes: 5 does."""
        return not (self._is_static or hasattr(self.module, "preprocess"))

    def _prepared(self, text: str) -> str:
        if not self._is_prepared_here:
            return text
        text = text.strip()
        return text.lower() if getattr(self.module, "do_lower_case", False) else text


class _Slow:
    """What a slow tokenizer says of a text, in the form of a fast one's record."""

    __slots__ = ("ids", "type_ids")

    def __init__(self, ids: list[int], type_ids: list[int]) -> None:
        self.ids, self.type_ids = ids, type_ids

    def __len__(self) -> int:
        return len(self.ids)


def check_module(module: Any) -> None:
    """Refuse a model whose input cannot be counted here.

    Args:
        module: The first module of the model.

    Raises:
        ConfigError: If it is neither a text Transformer nor a StaticEmbedding, or its tokenizer
            cannot pad.
    """
    tokenizer = getattr(module, "tokenizer", None)
    countable = hasattr(tokenizer, "model_input_names") or hasattr(tokenizer, "encode_batch_fast")
    # A Router has a tokenizer for each of its routes, and shows only one of them.
    countable = countable and not hasattr(module, "sub_modules")
    if not countable or "message" in getattr(module, "modality_config", ()):
        msg = (
            f"The model begins with {type(module).__name__}, whose input safe_embed cannot count. "
            "Use a model that begins with a text Transformer or a StaticEmbedding."
        )
        raise ConfigError(msg)
    if hasattr(tokenizer, "model_input_names"):
        _check_padding(tokenizer)


def _check_padding(tokenizer: Any) -> None:
    """Refuse a tokenizer that upstream could not make a batch with either."""
    padding = getattr(tokenizer, "pad_token_id", None)
    if padding is not None and padding >= 0:
        return
    kinds = ("eos_token", "unk_token", "sep_token", "cls_token")
    other = next((one for one in kinds if getattr(tokenizer, one, None)), None)
    how = f"tokenizer.{other}" if other else "'a token of its vocabulary'"
    raise ConfigError(
        f"The tokenizer, {type(tokenizer).__name__}, has no padding token, without which texts of "
        "different lengths make no batch. Give it one where the model is loaded, in a loader:\n"
        "def load():\n"
        "    model = SentenceTransformer(...)\n"
        f"    model.tokenizer.pad_token = model.{how}\n"
        "    return model\n"
        "encoder = SafeEncoder(load)\n"
        "トークナイザーにパディングトークンがないので、長さの違う文章をまとめて処理できません。"
        "上のように、モデルを読み込む関数の中で pad_token を設定してください。"
    )


def _set_truncation(backend: Any, limit: int | None) -> None:
    """Set what a fast tokenizer keeps between calls; upstream's own calls leave it changed."""
    if backend.padding is not None:
        backend.no_padding()
    if limit is not None:
        backend.enable_truncation(limit)
    elif backend.truncation is not None:
        backend.no_truncation()


def portions(texts: Sequence[str], most_chars: int) -> Iterator[Sequence[str]]:
    """Part texts so that each portion but the longest texts is of bounded size.

    Args:
        texts: Any strings.
        most_chars: A portion ends where it exceeds this.

    Yields:
        The texts, in order; no portion is empty.
    """
    start = size = 0
    for index, text in enumerate(texts):
        if size > most_chars:
            yield texts[start:index]
            start, size = index, 0
        size += len(text)
    if start < len(texts):
        yield texts[start:]


def _flat(rows: Iterable[Sequence[int]], size: int) -> NDArray[np.int32]:
    return np.fromiter(chain.from_iterable(rows), np.int32, size)


def _padded(rows: Sequence[NDArray[np.int32]], mask: NDArray[np.bool_], fill: int) -> torch.Tensor:
    """Lay rows of different lengths into the places that *mask* names."""
    import torch

    table = np.full(mask.shape, fill, dtype=np.int64)
    table[mask] = np.concatenate(rows)
    return torch.from_numpy(table)
