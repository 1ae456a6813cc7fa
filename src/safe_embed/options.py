"""The arguments of an encoder and of its calls, as frozen values; upstream's signature, once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, get_args

from safe_embed.errors import ConfigError
from safe_embed.inference.request import OnLong, Settings
from safe_embed.inputs import check_choice, check_device, check_positive, check_processes
from safe_embed.memory.joints import printed
from safe_embed.memory.policies import default_policy, names_model, resolve_policy
from safe_embed.model.loader import ModelSource
from safe_embed.pooling import Pooling, PoolingFunction, Precision, resolve_pooling
from safe_embed.text.chunking import Chunker, Mode
from safe_embed.text.splitters import SplitterLike, ladder, resolve_splitter
from safe_embed.types import Hook, ReloadPolicy

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeOptions:
    """The arguments of one call of :meth:`SafeEncoder.encode`; see :func:`encode`."""

    inputs: Iterable[str] | str
    prompt_name: str | None = None
    prompt: str | None = None
    batch_size: int = 32
    show_progress_bar: bool | None = None
    output_value: str | None = "sentence_embedding"
    precision: Precision = "float32"
    convert_to_numpy: bool = True
    convert_to_tensor: bool = False
    device: str | list[str | torch.device] | None = None
    normalize_embeddings: bool = False
    truncate_dim: int | None = None
    pool: dict[str, Any] | None = None
    chunk_size: int | None = None
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_elsewhere(self) -> bool:
        """Whether other processes than the encoder's own are to embed the chunks."""
        return self.pool is not None or (isinstance(self.device, list) and len(self.device) > 0)


def encode(
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
) -> EncodeOptions:
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
    arguments = locals()  # the names above, and no others: EncodeOptions has the same
    return EncodeOptions(model_kwargs=arguments.pop("kwargs"), **arguments)


def takes(
    declaration: Callable[P, EncodeOptions], *, documented: bool = False
) -> Callable[[Callable[[Any, EncodeOptions], T]], Callable[Concatenate[Any, P], T]]:
    """Let a method of one options value be called with the arguments of a declaration.

    The first argument may be given as ``sentences=`` too, as to sentence-transformers 5.

    Args:
        declaration: Makes the options value.
        documented: Whether the method has the docstring of the declaration.

    Returns:
        A decorator; the method has the signature of the declaration.
    """
    signature = inspect.signature(declaration)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)

    def decorate(method: Callable[[Any, EncodeOptions], T]) -> Callable[Concatenate[Any, P], T]:
        @functools.wraps(method)
        def wrapper(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
            if "sentences" in kwargs and "inputs" not in kwargs and not args:
                kwargs["inputs"] = kwargs.pop("sentences")
            return method(self, declaration(*args, **kwargs))

        wrapper.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[own, *signature.parameters.values()], return_annotation=Any
        )
        if documented:
            wrapper.__doc__ = declaration.__doc__
        return wrapper

    return decorate


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
        return cls(**{known.name: arguments[known.name] for known in fields(cls)})

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
        return ModelSource(self.model, self.sentence_transformer_options, self.dtype)

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
