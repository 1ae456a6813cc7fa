"""What callers of SentenceTransformer expect besides ``encode``: attributes and small methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from safe_embed.backends.calls import wait_for
from safe_embed.errors import ConfigError, both
from safe_embed.foreign import is_word, shown
from safe_embed.inference.request import FetchFeatures, FetchTokenizer
from safe_embed.memory.types import Stats
from safe_embed.options import check_prompt_name
from safe_embed.placement import Placement
from safe_embed.prompts import check_prompts
from safe_embed.upstream.absent import ABSENT, CHANGE, INSIDE, unsupported
from safe_embed.upstream.attributes import similarity_function
from safe_embed.upstream.settings import ModelSettings
from safe_embed.validation import check_positive
from safe_embed.waiting import enter, read_texts

if TYPE_CHECKING:
    import torch


class DropIn(Placement):
    """The surface of SentenceTransformer, name by name, around a backend.

    Attributes:
        SUPPORTED_SIMILARITY_FN_NAMES: What :attr:`similarity_fn_name` may be.
    """

    SUPPORTED_SIMILARITY_FN_NAMES = ("cosine", "dot", "euclidean", "manhattan")

    _card: Any = None

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

    @tokenizer.setter
    def tokenizer(self, _: Any) -> None:
        raise unsupported("another .tokenizer", CHANGE)

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
        """Name of the function that :meth:`similarity` computes.

        Can be set to ``"cosine"``, ``"dot"``, ``"euclidean"`` or ``"manhattan"``; another name is a
        ConfigError or, as upstream, a ValueError.
        """
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

    def preprocess(
        self, inputs: Iterable[str], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Give the features that upstream's method of this name gives, cut as upstream cuts.

        Args:
            inputs: Texts.
            prompt: What goes in front of each.
            **kwargs: Further arguments of upstream's method, such as ``task``.

        Returns:
            Tensors by name, such as ``input_ids``, shape (n, tokens); on the CPU.

        Raises:
            InvalidTextError: If an input is no text.
        """
        with enter(self.backend, inputs, 0) as place:
            wait_for(place.admitted)
            texts, _ = read_texts(place, inputs)
            call = FetchFeatures(texts, prompt, kwargs)
            features: dict[str, Any] = wait_for(self.backend.submit(call, place))
        return features

    def tokenize(self, texts: Iterable[str], **kwargs: Any) -> dict[str, Any]:
        """Give features by upstream's older name for :meth:`preprocess`.

        Args:
            texts: Texts.
            **kwargs: As for :meth:`preprocess`.

        Returns:
            As :meth:`preprocess`.
        """
        return self.preprocess(texts, **kwargs)

    def get_model_kwargs(self) -> list[str]:
        """Tell which further arguments the model takes in :meth:`encode`.

        Returns:
            Their names.
        """
        return list(self.backend.model.facts.model_kwargs)

    def get_backend(self) -> str:
        """Tell what computes the model.

        Returns:
            ``"torch"``, ``"onnx"`` or ``"openvino"``.
        """
        return self.backend.model.facts.engine

    @property
    def modalities(self) -> list[str]:
        """Text alone, whatever else the model could read."""
        return ["text"]

    def supports(self, modality: Any) -> bool:
        """Tell whether inputs of a kind can be embedded.

        Args:
            modality: Such as ``"text"`` or ``"image"``.

        Returns:
            Whether it is ``"text"``.
        """
        return bool(modality == "text")

    @property
    def model_card_data(self) -> Any:
        """The data of a model card, which evaluators write their scores into; may be set."""
        if self._card is None:
            self._card = self.backend.model.model_card_data()
        return self._card

    @model_card_data.setter
    def model_card_data(self, value: Any) -> None:
        self._card = value

    def evaluate(self, evaluator: Callable[..., Any], output_path: str | None = None) -> Any:
        """Evaluate the model.

        Args:
            evaluator: An evaluator of sentence-transformers.
            output_path: A folder for its files, which is made; ``None`` for none.

        Returns:
            What the evaluator returns.
        """
        if output_path is not None:
            Path(output_path).mkdir(parents=True, exist_ok=True)
        return evaluator(self, output_path)

    if not TYPE_CHECKING:  # a type checker would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            """Name the way to what only a SentenceTransformer has; always an AttributeError."""
            if name in ABSENT:
                raise unsupported(f".{name}", ABSENT[name])
            msg = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(msg)

    def __getitem__(self, index: Any) -> NoReturn:
        """Name the way to the modules of the model; always a TypeError."""
        raise unsupported(f"[{shown(index)}]", INSIDE)

    def reload(self, reason: str = "asked for", *, keep_tokenizer: bool = False) -> None:
        """Reload model and tokenizer, now; calls of other threads go on meanwhile.

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
        """Counts of calls, texts and tokens since the encoder was made, and its memory.

        A value as of now; it does not change later.
        """
        return self.backend.stats

    def close(self) -> None:
        """End the encoder's thread or processes, and let the model go; a second call does nothing.

        Calls that are not done fail with a WorkerError, as do later ones.
        """
        self.backend.close()

    def __enter__(self) -> Self:
        """Give the encoder itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the encoder."""
        self.close()
