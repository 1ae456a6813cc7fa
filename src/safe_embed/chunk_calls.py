"""The calls that tell of chunks: ``encode_chunks`` and ``plan``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, overload

from safe_embed.backends.calls import drive
from safe_embed.backends.interface import Backend
from safe_embed.encoding import chunk_steps, fingerprint_steps, plan_steps
from safe_embed.options import EncodeOptions
from safe_embed.search.calibration import Bits, Calibration, PackedText
from safe_embed.types import ChunkedText, FloatArray, TextPlan


class ChunkCalls:
    """What an encoder says of the chunks of texts.

    Attributes:
        backend: Does the calls.
    """

    backend: Backend

    @property
    def fingerprint(self) -> FloatArray:
        """The vector of a fixed text, of length 1, shape (dimension,), by which a model is known.

        Two encoders of one model give nearly the same, whatever device and type they run in.
        """
        return drive(fingerprint_steps(self.backend))

    @overload
    def encode_chunks(
        self,
        inputs: Iterable[str] | str,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        device: str | None = ...,
        normalize_embeddings: bool = ...,
        truncate_dim: int | None = ...,
        *,
        max_chunk_tokens: int | None = ...,
        titles: Iterable[str] | str | None = ...,
        calibration: None = ...,
        bits: Literal[32] = ...,
        priority: int = ...,
        **kwargs: Any,
    ) -> list[ChunkedText]: ...

    @overload
    def encode_chunks(
        self,
        inputs: Iterable[str] | str,
        prompt_name: str | None = ...,
        prompt: str | None = ...,
        batch_size: int = ...,
        show_progress_bar: bool | None = ...,
        device: str | None = ...,
        normalize_embeddings: bool = ...,
        truncate_dim: int | None = ...,
        *,
        max_chunk_tokens: int | None = ...,
        titles: Iterable[str] | str | None = ...,
        calibration: Calibration,
        bits: Bits,
        priority: int = ...,
        **kwargs: Any,
    ) -> list[PackedText]: ...

    def encode_chunks(
        self,
        inputs: Iterable[str] | str,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        device: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        *,
        max_chunk_tokens: int | None = None,
        titles: Iterable[str] | str | None = None,
        calibration: Calibration | None = None,
        bits: Literal[1, 8, 32] = 32,
        priority: int = 0,
        **kwargs: Any,
    ) -> list[ChunkedText] | list[PackedText]:
        """Embed texts and keep the vector of every chunk, for search in long documents.

        The best chunk of a document finds it far more often than any single vector of it: R@1 0.96
        against 0.80 on long Japanese articles (docs/ja/truncation.md).

        Args:
            inputs: A text, or anything that gives texts.
            prompt_name: As for :meth:`encode`.
            prompt: As for :meth:`encode`.
            batch_size: As for :meth:`encode`.
            show_progress_bar: As for :meth:`encode`.
            device: As for :meth:`encode`.
            normalize_embeddings: Whether to scale all vectors to length 1.
            truncate_dim: As for :meth:`encode`.
            max_chunk_tokens: Tokens of a chunk, at most what the model reads; ``None`` for at most
                512, which finds best, and at most the encoder's own ``max_chunk_tokens``.
            titles: The title of each text, ``""`` for none; of a single text a str. It stands in a
                line before every chunk, counts to ``max_chunk_tokens``, and is no part of the
                spans. With chunks of 120 tokens the right paragraph is first more often, and the
                right document as often (docs/habits.md).
            calibration: Where the vectors of the model lie, to keep them in less room; ``None``
                keeps them whole.
            bits: Of a dimension: with a calibration 1, which takes a 32nd of the room, or 8.
            priority: Calls of a higher priority are served first.
            **kwargs: As for :meth:`encode`.

        Returns:
            One value a text, a single text too: spans, token counts and vectors of its chunks.
            ``.pooled()`` is their mean, or what else ``pooling`` says: what :meth:`encode` gives
            for chunks of the same ``max_chunk_tokens``. With a calibration a
            :class:`~safe_embed.search.PackedText`, which has ``codes`` in place of vectors.

        Raises:
            InvalidTextError: If an input is no text.
            ConfigError: If an argument cannot work.
            TextTooLongError: If texts do not fit and ``on_long="error"``.
        """
        options = EncodeOptions(
            inputs=inputs,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=show_progress_bar,
            device=device,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            priority=priority,
            titles=titles,
            model_kwargs=kwargs,
            method="encode_chunks",
        )
        return drive(chunk_steps(self.backend, options, max_chunk_tokens, calibration, bits))

    def plan(
        self,
        inputs: Iterable[str] | str,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *,
        priority: int = 0,
    ) -> list[TextPlan]:
        """Say what :meth:`encode` would do with texts, without running the model.

        Args:
            inputs: A text, or anything that gives texts.
            prompt_name: As for :meth:`encode`.
            prompt: As for :meth:`encode`.
            priority: Calls of a higher priority are served first.

        Returns:
            One plan a text, a single text too: its chunks, their tokens, and whether it is long.

        Raises:
            InvalidTextError: If an input is no text.
            ConfigError: If the prompt does not exist or leaves no room.
        """
        options = EncodeOptions(
            inputs=inputs, prompt_name=prompt_name, prompt=prompt, priority=priority, method="plan"
        )
        return drive(plan_steps(self.backend, options))
