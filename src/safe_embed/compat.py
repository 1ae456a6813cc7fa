"""What callers of SentenceTransformer expect besides ``encode``: attributes and small methods."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any, Self

from safe_embed.backends.calls import wait_for
from safe_embed.backends.interface import Backend
from safe_embed.errors import ConfigError, both
from safe_embed.foreign import is_word, shown
from safe_embed.inference.request import FetchTokenizer
from safe_embed.memory.types import Stats
from safe_embed.options import check_prompt_name
from safe_embed.upstream.attributes import similarity_function, stop_pool
from safe_embed.upstream.settings import ModelSettings
from safe_embed.validation import check_device, check_positive, check_prompts

if TYPE_CHECKING:
    import torch


class DropIn:
    """The surface of SentenceTransformer, name by name, around a backend.

    Attributes:
        backend: Does the calls; holds what is known of the model, and its settings.
    """

    backend: Backend
    encode: Any  # SafeEncoder's own

    @property
    def _settings(self) -> ModelSettings:
        return self.backend.model.settings

    @property
    def max_seq_length(self) -> int | None:
        """Tokens that the model reads of one chunk, special tokens included; ``None`` for any.

        Can be set, as upstream. A chunk has at most this many tokens, and at most
        ``max_chunk_tokens``. It is never more than the model has positions for: 512 of the 514 of a
        RoBERTa, where upstream says 514 if nothing is stated.
        """
        limit = self.backend.model.limit_tokens
        return None if limit is None or math.isinf(limit) else int(limit)

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        check_positive("max_seq_length", value, or_none=False)
        self.backend.configure(max_seq_length=value)

    @property
    def tokenizer(self) -> Any:
        """A copy of the model's tokenizer; the encoder's own is never shared between threads."""
        return wait_for(self.backend.submit(FetchTokenizer()))

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        import torch

        return torch.device(self.backend.model.device)

    @property
    def dtype(self) -> torch.dtype | None:
        """The type of the model's weights."""
        import torch

        name = self.backend.model.dtype.removeprefix("torch.")
        dtype: torch.dtype | None = getattr(torch, name, None)
        return dtype

    @property
    def prompts(self) -> dict[str, Any]:
        """The model's prompts by name; may be changed or set."""
        return self._settings.prompts

    @prompts.setter
    def prompts(self, value: dict[str, Any]) -> None:
        check_prompts("prompts", value)
        self.backend.configure(prompts=value)

    @property
    def default_prompt_name(self) -> str | None:
        """The prompt that :meth:`encode` uses when none is named; may be set."""
        return self._settings.default_prompt_name

    @default_prompt_name.setter
    def default_prompt_name(self, value: str | None) -> None:
        check_prompt_name(self._settings, value)
        self.backend.configure(default_prompt_name=value)

    @property
    def truncate_dim(self) -> int | None:
        """How many dimensions of a vector are kept; ``None`` for all; may be set."""
        return self._settings.truncate_dim

    @truncate_dim.setter
    def truncate_dim(self, value: int | None) -> None:
        check_positive("truncate_dim", value)
        self.backend.configure(truncate_dim=value)

    @property
    def similarity_fn_name(self) -> str:
        """Which function :meth:`similarity` computes; may be set."""
        return self._settings.similarity_fn_name

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: Any) -> None:
        # Upstream's own error would show a text that is no name, or the repr of an object.
        if not (value is None or isinstance(value, Enum) or is_word(value)):
            names = "'cosine', 'dot', 'euclidean', 'manhattan'"
            msg = both(
                f"similarity_fn_name={shown(value)} is not known. Use one of {names}.",
                f"similarity_fn_name={shown(value)} は使えません。{names} のどれかにしてください。",
            )
            raise ConfigError(msg)
        name = "cosine" if value is None else str(getattr(value, "value", value))
        similarity_function(name, pairwise=False)  # raises if there is none
        self.backend.configure(similarity_fn_name=name)

    def get_embedding_dimension(self) -> int | None:
        """Tell the dimension of the vectors that :meth:`encode` gives.

        Returns:
            The dimension, or ``None`` if the model does not know it.
        """
        return self.backend.model.dimension

    def get_sentence_embedding_dimension(self) -> int | None:
        """Tell the dimension by upstream's older name.

        Returns:
            As :meth:`get_embedding_dimension`.
        """
        return self.get_embedding_dimension()

    def get_max_seq_length(self) -> int | None:
        """Tell :attr:`max_seq_length` by upstream's older name.

        Returns:
            As :attr:`max_seq_length`.
        """
        return self.max_seq_length

    @contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Keep fewer dimensions inside a ``with`` block.

        Args:
            truncate_dim: How many; ``None`` for all.

        Yields:
            Nothing.
        """
        before = self.truncate_dim
        self.truncate_dim = truncate_dim
        try:
            yield
        finally:
            self.truncate_dim = before

    truncate_sentence_embeddings = truncate_embeddings

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Compare all vectors with all, by the model's similarity function; upstream's own.

        Args:
            embeddings1: Shape (n, dimension).
            embeddings2: Shape (m, dimension).

        Returns:
            A tensor, shape (n, m).
        """
        compare = similarity_function(self.similarity_fn_name, pairwise=False)
        scores: torch.Tensor = compare(embeddings1, embeddings2)
        return scores

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Compare vectors in pairs; upstream's own.

        Args:
            embeddings1: Shape (n, dimension).
            embeddings2: Shape (n, dimension).

        Returns:
            A tensor, shape (n,).
        """
        compare = similarity_function(self.similarity_fn_name, pairwise=True)
        scores: torch.Tensor = compare(embeddings1, embeddings2)
        return scores

    def encode_multi_process(
        self, sentences: list[str], pool: dict[str, Any], **kwargs: Any
    ) -> Any:
        """Embed texts in upstream's processes; upstream's older name for ``encode(pool=…)``.

        Args:
            sentences: Texts.
            pool: What :meth:`start_multi_process_pool` gave.
            **kwargs: As for ``encode``.

        Returns:
            As ``encode``.
        """
        return self.encode(sentences, pool=pool, **kwargs)

    def start_multi_process_pool(self, target_devices: list[str] | None = None) -> dict[str, Any]:
        """Start further processes, to be passed to :meth:`encode` as ``pool``.

        They are upstream's, or with ``isolation="process"`` workers as the encoder's own.

        Args:
            target_devices: One device a process; ``None`` for all GPUs or some processes.

        Returns:
            A record of the processes.
        """
        check_device("target_devices", target_devices)
        return self.backend.start_pool(target_devices)

    @staticmethod
    def stop_multi_process_pool(pool: dict[str, Any]) -> None:
        """Stop what :meth:`start_multi_process_pool` started.

        Args:
            pool: Its record.
        """
        if "worker_pool" in pool:
            pool["worker_pool"].close()
        else:
            stop_pool(pool)

    def reload(self, reason: str = "asked for", *, keep_tokenizer: bool = False) -> None:
        """Load model and tokenizer anew, now; calls of other threads go on meanwhile.

        What was set on the model (``max_seq_length``, prompts, device …) goes over to the new one.
        Building a tokenizer holds all Python threads, one of 250,000 pieces for a second; with
        *keep_tokenizer*, or with ``isolation="process"``, nobody waits while there is room for two.

        Args:
            reason: Why, for log and ``stats``.
            keep_tokenizer: Whether the tokenizer stays, and is only made to forget.

        Raises:
            ReloadError: If it failed: files changed, or a fresh model that gives other vectors. The
                old model serves on.
        """
        self.backend.reload(reason, keep_tokenizer=keep_tokenizer)

    @property
    def stats(self) -> Stats:
        """Counts, the newest measurement, and what was given back so far."""
        return self.backend.stats

    def close(self) -> None:
        """End the encoder's thread and drop the model; may be called again."""
        self.backend.close()

    def __enter__(self) -> Self:
        """Give the encoder itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the encoder."""
        self.close()
