"""The arguments of an encoder, checked, and the backend that they ask for."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from safe_embed.backends.interface import Backend
from safe_embed.backends.process.worker_pool import WorkerPool
from safe_embed.backends.thread import ThreadBackend
from safe_embed.errors import ConfigError, SafeEmbedError, both
from safe_embed.foreign import shown
from safe_embed.inference.request import OnLong, Settings, WhenFull
from safe_embed.memory.combinators import printed
from safe_embed.memory.hard_limit import Enforced, resolve_hard_limit
from safe_embed.memory.policies import default_policy, names_model, resolve_policy
from safe_embed.memory.types import Hook, ReloadPolicy
from safe_embed.offline.cache import OFFLINE, model_path
from safe_embed.options import ENCODE_ARGUMENTS
from safe_embed.pooling import Pooling, PoolingFunction, resolve_pooling
from safe_embed.prompts import check_prompts
from safe_embed.supervision.conditions import Conditions
from safe_embed.text.chunking import Chunker, Mode
from safe_embed.text.splitters import SplitterLike, ladder, resolve_splitter
from safe_embed.upstream.arguments import refuse_unknown_names
from safe_embed.upstream.attributes import assemble
from safe_embed.upstream.missing import noted
from safe_embed.upstream.source import ModelSource
from safe_embed.validation import (
    check_choice,
    check_device,
    check_limit,
    check_name,
    check_positive,
    check_processes,
)

_PASSED_ON = "sentence_transformer_options"

_MODEL_ARGUMENTS = ("model", "model_name_or_path", "modules")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderOptions:
    """The arguments of :class:`SafeEncoder`, checked.

    Raises:
        ConfigError: If one of them cannot work.
    """

    model: Any
    splitter: SplitterLike
    max_chunk_tokens: int | None
    pooling: Pooling | PoolingFunction
    on_long: OnLong
    max_batch_tokens: int | None
    few_shapes: bool | None
    chunks: Mode
    reload: ReloadPolicy | str | None
    hard_limit: float | str | None
    isolation: Literal["none", "process"]
    workers: int
    devices: Sequence[str] | None
    timeout_seconds: float | None
    max_waiting_texts: int | None
    when_full: WhenFull
    hooks: Iterable[Hook]
    dtype: Literal["auto"] | None
    sentence_transformer_options: Mapping[str, Any]

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> EncoderOptions:
        """Make the options from the local variables of a function that has them as parameters.

        Args:
            arguments: Name -> value; names that are no options are ignored.

        Returns:
            The options.
        """
        given = {known.name: arguments[known.name] for known in fields(cls)}
        given["model"] = _the_model(arguments)
        given["hooks"] = tuple(given["hooks"])  # of a generator nothing would be left for a copy
        options = cls(**given)
        if arguments["modules"] is None:
            return options
        model = assemble(options.model, options.sentence_transformer_options)
        return replace(options, model=model, sentence_transformer_options={})

    def __post_init__(self) -> None:
        options = self.sentence_transformer_options
        own = (known.name for known in fields(self) if known.name != _PASSED_ON)
        refuse_unknown_names(options, own, ENCODE_ARGUMENTS)
        check_positive("truncate_dim", options.get("truncate_dim"))
        check_prompts("prompts", options.get("prompts") or {})
        check_name("default_prompt_name", options.get("default_prompt_name"))
        check_choice("on_long", self.on_long, get_args(OnLong))
        check_choice("chunks", self.chunks, get_args(Mode))
        check_choice("dtype", self.dtype, ("auto", None))
        check_choice("isolation", self.isolation, ("none", "process"))
        check_positive("workers", self.workers)
        check_processes(self.isolation, self.workers, self.devices, self.timeout_seconds)
        check_device("device", options.get("device"))
        check_limit(self.max_chunk_tokens, None)
        check_positive("max_batch_tokens", self.max_batch_tokens)
        check_positive("max_waiting_texts", self.max_waiting_texts)
        check_choice("when_full", self.when_full, get_args(WhenFull))
        if self.on_long == "truncate" and self.chunks == "spans":
            msg = both(
                "on_long='truncate' keeps one chunk of a text, chunks='spans' makes many. Use one.",
                "on_long='truncate' は文章の一つのチャンクだけを残し、chunks='spans' はたくさん"
                "作ります。どちらか一方にしてください。",
            )
            raise ConfigError(msg)

    @property
    def settings(self) -> Settings:
        """What the encoder does with every text."""
        return Settings(
            Chunker(ladder(resolve_splitter(self.splitter)), self.chunks),
            resolve_pooling(self.pooling),
            self.max_chunk_tokens,
            self.on_long,
            self.max_batch_tokens,
            self.few_shapes,
            self.max_waiting_texts,
            self.when_full,
        )

    @property
    def model_name(self) -> str:
        """The model as people know it: a name or a folder, or the type of what else was passed."""
        is_name = isinstance(self.model, str | os.PathLike)
        return repr(os.fspath(self.model)) if is_name else shown(self.model)

    @property
    def source(self) -> ModelSource:
        """Where the model comes from."""
        packaged = isinstance(self.model, str) and self.model == OFFLINE
        model = str(model_path()) if packaged else self.model
        return ModelSource(model, self.sentence_transformer_options, self.dtype)

    def policy(self, source: ModelSource) -> ReloadPolicy:
        """Give the policy, if it suits where the model comes from.

        Args:
            source: Where the model comes from.

        Returns:
            When memory must be given back, and when calls wait for it.

        Raises:
            ConfigError: If it asks for a new model, and the model cannot be reloaded; if the
                hard limit is not valid.
        """
        policy = default_policy() if self.reload == "default" else resolve_policy(self.reload)
        if source.is_loaded and names_model(policy):
            raise ConfigError(
                both(
                    f"reload={printed(policy)} asks for a new model, but the model was loaded "
                    "elsewhere and cannot be reloaded here. Pass a name, a folder or a loader, "
                    "or another policy.",
                    f"reload={printed(policy)} はモデルの読み込み直しを求めますが、読み込み済みの"
                    "モデルではできません。モデル名、フォルダー、ローダーのどれかか、ほかの"
                    "ポリシーを渡してください。",
                )
            )
        return Enforced(policy, resolve_hard_limit(self.hard_limit, policy))


def _the_model(arguments: Mapping[str, Any]) -> Any:
    """Choose from the three arguments that may say what the model is; exactly one must."""
    given = [name for name in _MODEL_ARGUMENTS if arguments[name] is not None]
    if len(given) != 1:
        msg = both(
            f"{len(given)} arguments say what the model is. Pass exactly one of "
            f"{', '.join(_MODEL_ARGUMENTS)}: the name of a model, a folder, 'offline', a function "
            "that gives a SentenceTransformer, a SentenceTransformer, or its modules.",
            f"モデルを指定する引数が {len(given)} 個あります。{', '.join(_MODEL_ARGUMENTS)} の"
            "どれか一つだけに、モデル名、フォルダー、'offline'、SentenceTransformer、または"
            "それを返す関数を渡してください。",
        )
        raise ConfigError(msg)
    model = arguments[given[0]]
    is_path = isinstance(model, str | os.PathLike) and model != OFFLINE
    # Copies must find a folder wherever their process is by then.
    return str(Path(model).absolute()) if is_path and Path(model).is_dir() else model


def start_backend(options: EncoderOptions, conditions: Conditions) -> Backend:
    """Load the model where the options say.

    Args:
        options: Of the encoder.
        conditions: Clock, waits, headroom and measurement.

    Returns:
        The backend; its model is loaded.

    Raises:
        ConfigError: If an option cannot work; nothing is loaded then, unless only the loaded model
            says how many tokens it reads.
    """
    source = options.source
    policy = options.policy(source)
    check_limit(options.max_chunk_tokens, source.stated_limit)
    with noted(source, OFFLINE):
        backend = _backend_of(options, source, policy, conditions)
    try:
        check_limit(options.max_chunk_tokens, backend.model.limit_tokens)
    except ConfigError:
        backend.close()
        raise
    return backend


def _backend_of(
    options: EncoderOptions, source: ModelSource, policy: ReloadPolicy, conditions: Conditions
) -> Backend:
    """Make the backend, which loads the model."""
    settings, hooks = options.settings, tuple(options.hooks)
    if options.isolation == "none":
        return ThreadBackend(source, settings, policy, hooks, conditions)
    return WorkerPool(
        source,
        settings,
        policy,
        hooks,
        conditions,
        workers=options.workers,
        devices=options.devices,
        timeout_seconds=options.timeout_seconds,
    )


def described(backend: Backend) -> str:
    """Say what is known of a model, for people.

    Args:
        backend: Holds the model.

    Returns:
        Dimension, largest input, device and type; ``"closed"`` if the backend is closed.
    """
    try:
        model = backend.model
    except SafeEmbedError:
        return "closed"
    limit = model.limit_tokens
    tokens = "any number of tokens" if limit in (None, math.inf) else f"{limit:,.0f} tokens"
    dtype = model.dtype.removeprefix("torch.")
    return f"{model.dimension} dimensions, {tokens}, {dtype} on {model.device}"
