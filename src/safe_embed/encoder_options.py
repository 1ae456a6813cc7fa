"""The arguments of an encoder, checked, and the backend that they ask for."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from safe_embed.backends.interface import Backend
from safe_embed.backends.process.worker_pool import WorkerPool
from safe_embed.backends.thread import ThreadBackend
from safe_embed.errors import ConfigError
from safe_embed.foreign import shown
from safe_embed.inference.request import OnLong, Settings
from safe_embed.memory.combinators import printed
from safe_embed.memory.policies import default_policy, names_model, resolve_policy
from safe_embed.memory.types import Hook, ReloadPolicy
from safe_embed.offline.cache import OFFLINE, model_path
from safe_embed.pooling import Pooling, PoolingFunction, resolve_pooling
from safe_embed.supervision.conditions import Conditions
from safe_embed.text.chunking import Chunker, Mode
from safe_embed.text.splitters import SplitterLike, ladder, resolve_splitter
from safe_embed.upstream.attributes import assemble
from safe_embed.upstream.source import ModelSource
from safe_embed.validation import check_choice, check_device, check_positive, check_processes

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
    reload: ReloadPolicy | Literal["default"] | None
    isolation: Literal["none", "process"]
    workers: int
    devices: Sequence[str] | None
    timeout_seconds: float | None
    hooks: Iterable[Hook]
    dtype: Literal["auto"] | None
    sentence_transformer_options: Mapping[str, Any]

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> EncoderOptions:
        """Take the local variables of a function that has these as its parameters.

        Args:
            arguments: Name -> value; others are left out.

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
        check_choice("on_long", self.on_long, get_args(OnLong))
        check_choice("chunks", self.chunks, get_args(Mode))
        check_choice("dtype", self.dtype, ("auto", None))
        check_choice("isolation", self.isolation, ("none", "process"))
        check_positive("workers", self.workers)
        check_processes(self.isolation, self.workers, self.devices, self.timeout_seconds)
        check_device("device", self.sentence_transformer_options.get("device"))
        check_positive("max_chunk_tokens", self.max_chunk_tokens)
        check_positive("max_batch_tokens", self.max_batch_tokens)
        if self.on_long == "truncate" and self.chunks == "spans":
            msg = (
                "on_long='truncate' keeps one chunk of a text, chunks='spans' makes many. Use one."
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
        )

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
            When memory must be given back.

        Raises:
            ConfigError: If it asks for a new model, and the model cannot be loaded anew.
        """
        policy = default_policy() if self.reload == "default" else resolve_policy(self.reload)
        if source.is_loaded and names_model(policy):
            raise ConfigError(
                f"reload={printed(policy)} asks for a new model, but the model was loaded "
                "elsewhere and cannot be loaded anew here. Pass a name, a folder or a loader, or "
                "another policy."
            )
        return policy

    def check_limit(self, limit_tokens: float | None) -> None:
        """Refuse chunks that are larger than what the model reads.

        Args:
            limit_tokens: What it reads; ``None`` if that is unknown, or has no limit.

        Raises:
            ConfigError: If ``max_chunk_tokens`` is larger.
        """
        wanted = self.max_chunk_tokens
        if wanted is not None and limit_tokens is not None and wanted > limit_tokens:
            msg = (
                f"max_chunk_tokens={shown(wanted)} is more than the {limit_tokens:.0f} tokens that "
                f"the model reads. Use {limit_tokens:.0f} or less, or None."
            )
            raise ConfigError(msg)


def _the_model(arguments: Mapping[str, Any]) -> Any:
    """Choose from the three arguments that may say what the model is; exactly one must."""
    given = [name for name in _MODEL_ARGUMENTS if arguments[name] is not None]
    if len(given) != 1:
        msg = (
            f"{' and '.join(given) or 'No model'} given. Pass exactly one of "
            f"{', '.join(_MODEL_ARGUMENTS)}: the name of a model, a folder, 'offline', a function "
            "that gives a SentenceTransformer, a SentenceTransformer, or its modules.\n"
            f"{'、'.join(_MODEL_ARGUMENTS)} のどれか一つだけを渡してください。"
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
    settings, source = options.settings, options.source
    policy, hooks = options.policy(source), tuple(options.hooks)
    options.check_limit(source.stated_limit)
    backend: Backend
    if options.isolation == "none":
        backend = ThreadBackend(source, settings, policy, hooks, conditions)
    else:
        backend = WorkerPool(
            source,
            settings,
            policy,
            hooks,
            conditions,
            workers=options.workers,
            devices=options.devices,
            timeout_seconds=options.timeout_seconds,
        )
    try:
        options.check_limit(backend.model.limit_tokens)
    except ConfigError:
        backend.close()
        raise
    return backend
