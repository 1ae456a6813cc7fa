"""One call: admitted, checked, done by a backend, and given in the form that was asked for."""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from safe_embed.backends.admission import Place
from safe_embed.backends.interface import Backend
from safe_embed.errors import WorkerError
from safe_embed.inference.request import (
    Embed,
    EmbedChunks,
    EmbedRaw,
    FetchFingerprint,
    PlanTexts,
    Request,
)
from safe_embed.options import EncodeOptions, request_of, resolve_prompt
from safe_embed.search.calibration import Calibration, check_packing
from safe_embed.types import ChunkedText, FloatArray, TextPlan
from safe_embed.upstream.settings import ModelState
from safe_embed.validation import check_choice, check_limit
from safe_embed.vectors import (
    check_precision,
    count_constant_signs,
    finish_others,
    in_form,
    map_vectors,
    quantize,
)
from safe_embed.waiting import admission, enter, read_texts

logger = logging.getLogger("safe_embed")

# So many texts, or characters, are checked in less than 2 ms.
_QUICK_TEXTS = 500
_QUICK_CHARS = 200_000
# With fewer vectors their signs tell little of those of others.
_FEWEST_FOR_SIGNS = 100


def is_quick(options: EncodeOptions) -> bool:
    """Tell whether the caller's own part of a call takes no time that an event loop would notice.

    Args:
        options: Of the call.

    Returns:
        Whether the inputs are a text or a short list, and torch need not be imported to give the
        vectors in their form. What else gives texts is code of the caller's own, such as a
        generator that waits.
    """
    inputs: Any = options.inputs
    needs_torch = options.convert_to_tensor or not options.convert_to_numpy
    if needs_torch and "torch" not in sys.modules:
        return False
    if isinstance(inputs, str):
        return len(inputs) <= _QUICK_CHARS
    if type(inputs) not in (list, tuple) or len(inputs) > _QUICK_TEXTS:
        return False
    return sum(len(text) for text in inputs if isinstance(text, str)) <= _QUICK_CHARS


def encode_steps(backend: Backend, options: EncodeOptions) -> Generator[Future[Any], Any, Any]:
    """Do one call of ``encode``; let the caller wait for the backend, in its own way.

    Args:
        backend: Does the work.
        options: Of the call.

    Returns:
        A generator: it yields futures, is sent their results, and returns what upstream's
        ``encode`` gives.

    Raises:
        InvalidTextError: If an input is no text.
        ConfigError: If an option cannot work.
        TextTooLongError: If texts do not fit where they must.
        QueueFullError: If there is no room, and callers are not to wait.
        WorkerError: If no worker process survives some texts.
    """
    with enter(backend, options.inputs, options.priority) as place:
        yield from admission(place)
        return (yield from _encode_steps(backend, options, place))


def _encode_steps(
    backend: Backend, options: EncodeOptions, place: Place
) -> Generator[Future[Any], Any, Any]:
    texts, single = read_texts(place, options.inputs)
    is_raw = options.output_value != "sentence_embedding"
    check_precision(options.precision, None if is_raw else len(texts))
    model = backend.model
    request = request_of(options, texts, model)
    if is_raw:
        outputs = yield from _raw_steps(backend, options, request, place)
        return outputs[0] if single else outputs
    truncate = options.truncation(model.settings.truncate_dim)
    form = partial(
        in_form,
        dtype=model.dtype,
        device=request.device or model.device,
        tensor=options.convert_to_tensor,
        array=options.convert_to_numpy,
    )
    if not texts:
        return form(None)

    def finish(vectors: FloatArray) -> Any:
        kept = truncate(vectors)
        report_constant_signs(model, kept, options.precision)
        return form(quantize(kept, options.precision))

    with _lent(backend, request) as (lent, passed):
        try:
            vectors = yield lent.submit(Embed(passed), place)
        except WorkerError as error:
            error.results = finish_others(error.results, finish)
            raise
    result = finish(vectors)
    return result[0] if single else result


def report_constant_signs(model: ModelState, vectors: FloatArray, precision: str | None) -> None:
    """Log once that most bits of a model's vectors are the same if they are cut at 0.

    Args:
        model: Whose vectors they are.
        vectors: Shape (n, dimension).
        precision: What they are quantised to.
    """
    if precision not in ("binary", "ubinary") or model.is_sign_reported:
        return
    if len(vectors) < _FEWEST_FOR_SIGNS:
        return
    constant, dimension = count_constant_signs(vectors), vectors.shape[-1]
    if 2 * constant < dimension:
        return
    model.is_sign_reported = True
    logger.warning(
        "precision=%r keeps whether a number is above 0, as sentence-transformers does. In %d of "
        "%d dimensions that is the same for nearly all of these vectors: with such bits R@1 was "
        "0.83, with bits about the mean 0.96 (JaQuAD, multilingual-e5-small; docs/ranking.md). For "
        "search use encode_chunks(…, calibration=…, bits=1).\n"
        "precision=%r は値が 0 より大きいかどうかを残しますが、%d 次元（全 %d 次元）で、ほぼすべて"
        "のベクトルが同じ符号です。R@1 は 0 を境にすると 0.83、平均を境にすると 0.96 でした"
        "（JaQuAD、multilingual-e5-small）。検索には encode_chunks(…, calibration=…, bits=1) を"
        "使ってください。",
        *(precision, constant, dimension, precision, constant, dimension),
    )


def _raw_steps(
    backend: Backend, options: EncodeOptions, request: Request, place: Place
) -> Generator[Future[Any], Any, list[Any]]:
    """Let upstream's own ``encode`` give something else than vectors of texts."""
    check_choice("output_value", options.output_value, ("token_embeddings", None))
    dim = (
        backend.model.settings.truncate_dim
        if options.truncate_dim is None
        else options.truncate_dim
    )
    upstream = {
        "output_value": options.output_value,
        "precision": options.precision,
        "truncate_dim": dim,
    }
    if not request.texts:
        return []
    with _lent(backend, request) as (lent, passed):
        outputs: list[Any] = yield lent.submit(EmbedRaw(passed, upstream), place)
    return outputs


def fingerprint_steps(backend: Backend) -> Generator[Future[Any], Any, FloatArray]:
    """Have the fixed text embedded by which a model is known, once for an encoder.

    Args:
        backend: Does the work.

    Returns:
        A generator as that of :func:`encode_steps`; it returns a vector of length 1.
    """
    model = backend.model
    if model.fingerprint is None:
        model.fingerprint = yield backend.submit(FetchFingerprint())
    return model.fingerprint


def chunk_steps(
    backend: Backend,
    options: EncodeOptions,
    max_chunk_tokens: int | None,
    calibration: Calibration | None,
    bits: Any,
) -> Generator[Future[Any], Any, list[Any]]:
    """Do one call of ``encode_chunks``, as :func:`encode_steps` does one of ``encode``.

    Args:
        backend: Does the work.
        options: Of the call.
        max_chunk_tokens: Tokens of a chunk; ``None`` for chunks that search well.
        calibration: By which the vectors are packed; ``None`` leaves them whole.
        bits: Of a dimension: 1 or 8 with a calibration, 32 without.

    Returns:
        A generator as that of :func:`encode_steps`; it returns one value a text.

    Raises:
        InvalidTextError: If an input is no text.
        ConfigError: If an option cannot work.
        TextTooLongError: If texts do not fit where they must.
        QueueFullError: If there is no room, and callers are not to wait.
        WorkerError: If no worker process survives some texts.
    """
    with enter(backend, options.inputs, options.priority) as place:
        yield from admission(place)
        texts, _ = read_texts(place, options.inputs)
        model = backend.model
        request = request_of(options, texts, model)
        check_limit(max_chunk_tokens, model.limit_tokens)
        check_packing(calibration, bits, model.dimension_of(options.truncate_dim))
        if not texts:
            return []
        if calibration is not None:
            calibration.check_model((yield from fingerprint_steps(backend)))
        truncate = options.truncation(model.settings.truncate_dim)

        def finish(text: ChunkedText) -> Any:
            whole = replace(map_vectors(text, truncate), fingerprint=model.fingerprint)
            return whole if calibration is None else calibration.pack(whole, bits)

        try:
            chunked = yield backend.submit(EmbedChunks(request, max_chunk_tokens), place)
        except WorkerError as error:
            error.results = [text and finish(text) for text in error.results]
            raise
        yield from fingerprint_steps(backend)  # after texts that do not fit were refused
        return [finish(text) for text in chunked]


def plan_steps(
    backend: Backend, options: EncodeOptions
) -> Generator[Future[Any], Any, list[TextPlan]]:
    """Do one call of ``plan``, as :func:`encode_steps` does one of ``encode``.

    Args:
        backend: Does the work.
        options: Of the call: inputs, prompt and priority.

    Returns:
        A generator as that of :func:`encode_steps`; it returns one plan a text.

    Raises:
        InvalidTextError: If an input is no text.
        ConfigError: If the prompt does not exist or leaves no room.
        QueueFullError: If there is no room, and callers are not to wait.
    """
    with enter(backend, options.inputs, options.priority) as place:
        yield from admission(place)
        texts, _ = read_texts(place, options.inputs)
        settings = backend.model.settings
        request = Request(texts, resolve_prompt(settings, options.prompt_name, options.prompt))
        plans: list[TextPlan] = yield backend.submit(PlanTexts(request), place)
        return plans


@contextmanager
def _lent(backend: Backend, request: Request) -> Iterator[tuple[Backend, Request]]:
    """Give the backend that does a call, and the request for it."""
    with backend.lend(request.pool) as (lent, pool):
        yield lent, replace(request, pool=pool)
