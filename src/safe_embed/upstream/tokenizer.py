"""Tokenize texts exactly as sentence-transformers does, but without truncation.

Three kinds of tokenizers are supported: fast tokenizers of transformers (Rust), slow ones (Python,
such as those of Japanese BERTs with MeCab), and the bare ``tokenizers.Tokenizer`` of a
StaticEmbedding. A tokenizer is never used by two threads at once.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from safe_embed.types import Encoding, Span

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

# Characters of a long text that are tokenized for each token to keep: Latin text has about 5.
_HEAD_CHARS_PER_TOKEN = 8
# Characters that are tokenized at a time: the tokenizer's results take some 100 bytes for a token,
# and for each piece as much again as for these characters.
_PORTION_CHARS = 100_000
_CHARS_PER_PIECE = 16


@dataclass(frozen=True, slots=True)
class ModelReader:
    """Tokenizes chunks for one model and one prompt; implements the protocol ``Reader``.

    Args:
        module: The first module of the model.
        tokenizer: The tokenizer of the model, or a copy if other threads use the model.
        prompt: The text in front of every chunk.
    """

    module: Any
    tokenizer: Any
    prompt: str = ""

    @classmethod
    def of(cls, model: Any, tokenizer: Any, prompt: str = "") -> Self:
        """Read texts for a model; arguments as above, and the model instead of its first module."""
        return cls(model[0], tokenizer, prompt)

    @property
    def overhead_tokens(self) -> int:
        """Number of tokens of an empty chunk: those of the prompt and the special tokens."""
        return len(self.encode([""])[0])

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens of the prompt and the special token before it; INSTRUCTOR skips them."""
        ids = self.encode([""])[0].ids
        special = getattr(self.tokenizer, "all_special_ids", ())
        return len(ids) - (len(ids) > 0 and int(ids[-1]) in special)

    def count(self, pieces: Sequence[str]) -> list[int]:
        """Count the tokens of each piece, without special tokens and prompt.

        Args:
            pieces: Any strings.

        Returns:
            The number of tokens of each piece.
        """
        counts: list[int] = []
        for portion in self._portions(pieces):
            counts += map(len, self._tokenize(portion, special=False))
        return counts

    def encode(self, pieces: Sequence[str]) -> list[Encoding]:
        """Encode the prompt and each piece exactly as the model reads them.

        Args:
            pieces: Any strings.

        Returns:
            The encoding of each piece, with special tokens and prompt; never truncated.
        """
        encodings: list[Encoding] = []
        for portion in self._portions([self.prompt + piece for piece in pieces]):
            encodings += self._encodings(self._tokenize(portion, special=True))
        return encodings

    @property
    def keeps_end(self) -> bool:
        """Whether truncation keeps the end of a text, not its beginning."""
        return getattr(self.tokenizer, "truncation_side", "right") == "left"

    def truncate(self, text: str, limit: int) -> tuple[Encoding, bool]:
        """Encode and truncate a text as upstream does, but tokenize only as much as needed.

        Args:
            text: Any string.
            limit: Number of tokens to keep, special tokens and prompt included.

        Returns:
            The encoding of at most *limit* tokens, and whether the text was truncated.
        """
        whole = self.prompt + text
        most = _HEAD_CHARS_PER_TOKEN * limit
        chars = min(len(self.prompt), most) + most
        while True:
            part = whole[-chars:] if self.keeps_end else whole[:chars]
            [encoding] = self._encodings(self._tokenize([self._prepared(part)], special=True))
            if len(encoding) > limit:
                break
            if len(part) == len(whole):
                return encoding, False
            chars *= 2
        truncated = self._tokenize([self._prepared(part)], special=True, limit=limit)
        return self._encodings(truncated)[0], True

    def kept_span(self, text: str, limit: int) -> Span:
        """Find the longest part of a text that truncation to a number of tokens keeps.

        Args:
            text: A text with more than *limit* tokens.
            limit: Largest number of tokens, special tokens and prompt included.

        Returns:
            Its beginning, or its end if truncation keeps that; the prompt is dropped first then.
        """
        reader = replace(self, prompt="") if self.keeps_end else self

        def size(chars: int) -> int:
            part = text[len(text) - chars :] if self.keeps_end else text[:chars]
            return len(reader.encode([part])[0])

        high = _HEAD_CHARS_PER_TOKEN * limit
        while high < len(text) and size(high) <= limit:
            high *= 2
        lengths = range(min(high, len(text)) + 1)
        kept = max(0, bisect_right(lengths, limit, key=size) - 1)
        return Span(len(text) - kept, len(text)) if self.keeps_end else Span(0, kept)

    def features(
        self, encodings: Sequence[Encoding], rows: int = 0, columns: int = 0
    ) -> dict[str, Any]:
        """Make the input tensors of the model for a batch.

        Args:
            encodings: One or more encodings.
            rows: Smallest number of rows; missing rows repeat the last encoding.
            columns: Smallest number of columns, padding included.

        Returns:
            The same tensors, by name, as upstream's preprocessing returns for the same chunks:
            int64, shape (rows, columns); for a StaticEmbedding flat ``input_ids`` and ``offsets``.
        """
        import torch

        encodings = [*encodings, *[encodings[-1]] * (rows - len(encodings))]
        lengths = np.array([len(encoding) for encoding in encodings])
        if self._is_static:
            flat = np.concatenate([encoding.ids for encoding in encodings]).astype(np.int64)
            offsets = np.concatenate(([0], np.cumsum(lengths)[:-1]))
            return {"input_ids": torch.from_numpy(flat), "offsets": torch.from_numpy(offsets)}
        positions = np.arange(max(columns, int(lengths.max())))
        if self.tokenizer.padding_side == "left":
            positions = positions[::-1]
        mask = positions < lengths[:, None]
        ids = [encoding.ids for encoding in encodings]
        features: dict[str, Any] = {
            "input_ids": _padded(ids, mask, self.tokenizer.pad_token_id),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        }
        type_ids = [encoding.type_ids for encoding in encodings if encoding.type_ids is not None]
        if type_ids:
            features["token_type_ids"] = _padded(type_ids, mask, self.tokenizer.pad_token_type_id)
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
        """Preprocess texts and split them into portions of bounded size, to bound memory use."""
        if self._is_prepared_here:
            texts = [self._prepared(text) for text in texts]
        return portions(texts, _PORTION_CHARS, _CHARS_PER_PIECE)

    def _tokenize(
        self, texts: Sequence[str], *, special: bool, limit: int | None = None
    ) -> list[Any]:
        """Return for each text a record with ``ids`` and ``type_ids``, cut to *limit* tokens."""
        if self._backend is None:
            return self._tokenize_slowly(texts, special=special, limit=limit)
        _set_truncation(self._backend, limit, "left" if self.keeps_end else "right")
        special = special and not self._is_static
        records: list[Any] = self._backend.encode_batch_fast(texts, add_special_tokens=special)
        return records

    def _encodings(self, records: Sequence[Any]) -> list[Encoding]:
        """Convert the records of one portion; the encodings are views of one shared array."""
        ends = list(accumulate(map(len, records), initial=0))
        ids = _flat((record.ids for record in records), ends[-1])
        types = _flat((record.type_ids for record in records), ends[-1]) if self._is_typed else None
        return [
            Encoding(ids[start:end], None if types is None else types[start:end])
            for start, end in pairwise(ends)
        ]

    @property
    def _backend(self) -> Any:
        """The Rust tokenizer; ``None`` for a slow tokenizer."""
        return self.tokenizer if self._is_static else getattr(self.tokenizer, "_tokenizer", None)

    @property
    def _is_typed(self) -> bool:
        """Whether the model reads segment ids."""
        return "token_type_ids" in getattr(self.tokenizer, "model_input_names", ())

    def _tokenize_slowly(
        self, texts: Sequence[str], *, special: bool, limit: int | None
    ) -> list[_SlowRecord]:
        """Do what ``_tokenize`` does with a slow tokenizer."""
        batch = self.tokenizer(
            texts,
            add_special_tokens=special,
            padding=False,
            truncation=limit is not None,
            max_length=limit,
            verbose=False,
        )
        ids = batch["input_ids"]
        return list(map(_SlowRecord, ids, batch.get("token_type_ids", ids)))

    @property
    def _is_prepared_here(self) -> bool:
        """Whether texts must be preprocessed here: as sentence-transformers 5 does, but not 6."""
        return not (self._is_static or hasattr(self.module, "preprocess"))

    def _prepared(self, text: str) -> str:
        """Strip a text, and convert it to lower case if the model does, where it is needed."""
        if not self._is_prepared_here:
            return text
        text = text.strip()
        return text.lower() if getattr(self.module, "do_lower_case", False) else text


class _SlowRecord:
    """The result of a slow tokenizer for one text, in the form of a fast tokenizer's record."""

    __slots__ = ("ids", "type_ids")

    def __init__(self, ids: list[int], type_ids: list[int]) -> None:
        self.ids, self.type_ids = ids, type_ids

    def __len__(self) -> int:
        return len(self.ids)


def _set_truncation(backend: Any, limit: int | None, side: str) -> None:
    """Set the padding and truncation of a fast tokenizer, which upstream's calls leave changed."""
    if backend.padding is not None:
        backend.no_padding()
    if limit is not None:
        backend.enable_truncation(limit, direction=side)
    elif backend.truncation is not None:
        backend.no_truncation()


def portions(texts: Sequence[str], most_chars: int, each_chars: int = 0) -> Iterator[Sequence[str]]:
    """Split a sequence of texts into portions of bounded total length; no text is cut.

    Args:
        texts: Any strings.
        most_chars: A portion ends after the text with which its length exceeds this.
        each_chars: What each text counts for besides its own length.

    Yields:
        The portions, in order; none is empty.
    """
    start = size = 0
    for index, text in enumerate(texts):
        if size > most_chars:
            yield texts[start:index]
            start, size = index, 0
        size += len(text) + each_chars
    if start < len(texts):
        yield texts[start:]


def _flat(rows: Iterable[Sequence[int]], size: int) -> NDArray[np.int32]:
    """Concatenate rows into one array of *size* numbers."""
    return np.fromiter(chain.from_iterable(rows), np.int32, size)


def _padded(rows: Sequence[NDArray[np.int32]], mask: NDArray[np.bool_], fill: int) -> torch.Tensor:
    """Write the rows into the ``True`` positions of *mask*, and *fill* elsewhere; int64."""
    import torch

    table = np.full(mask.shape, fill, dtype=np.int64)
    table[mask] = np.concatenate(rows)
    return torch.from_numpy(table)
