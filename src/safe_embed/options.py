"""The arguments of a call as a frozen value; upstream's signature, written once."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import is_word, listed, shown, suggested
from safe_embed.inference.request import Pool, Request
from safe_embed.prompts import check_prompt, check_titles
from safe_embed.types import FloatArray
from safe_embed.upstream.settings import ModelSettings, ModelState
from safe_embed.validation import (
    check_device,
    check_name,
    check_positive,
)
from safe_embed.vectors import Precision, truncate_and_normalize

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("safe_embed")

# Task -> names of prompts; the first that the model has is taken, as sentence-transformers does.
_TASK_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}

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
    priority: int = 0
    titles: Iterable[str] | str | None = None
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    method: str = "encode"  # that was called, for messages

    @property
    def is_elsewhere(self) -> bool:
        """Whether other processes than the encoder's own are to embed the chunks."""
        return self.pool is not None or (isinstance(self.device, list) and len(self.device) > 0)

    def truncation(self, default_dim: int | None) -> Callable[[FloatArray], FloatArray]:
        """Give the function that truncates and normalises vectors as this call asks for.

        Args:
            default_dim: How many dimensions to keep if the call does not say; ``None`` for all.

        Returns:
            A function of vectors, shape (n, dimension) or (dimension,).
        """
        dim = default_dim if self.truncate_dim is None else self.truncate_dim
        unit_length = self.normalize_embeddings
        return partial(truncate_and_normalize, truncate_dim=dim, unit_length=unit_length)


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
        **kwargs: ``priority``, 0 if it is not given: calls of a higher one are served first. And
            further arguments that the model takes, such as ``task``.

    Returns:
        What upstream gives, an array (n, dimension), or (dimension,) for a single text;
        tensors or lists as asked for.

    Raises:
        InvalidTextError: If an input is no text; nothing was computed.
        ConfigError: If an argument cannot work; nothing was computed.
        TextTooLongError: If texts do not fit where they must; nothing was computed.
        QueueFullError: If too many texts wait already and ``when_full="error"``.
        WorkerError: If no worker process survives some texts; it holds what the others gave.
    """
    arguments = locals()  # the names above, and no others: EncodeOptions has the same
    priority = kwargs.pop("priority", 0)  # upstream's signature has no name for it
    return EncodeOptions(priority=priority, model_kwargs=arguments.pop("kwargs"), **arguments)


ENCODE_ARGUMENTS = (*tuple(inspect.signature(encode).parameters)[:-1], "priority")


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
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise TypeError(f"{method.__name__}() {error}") from None
            options = replace(declaration(*args, **kwargs), method=method.__name__)
            return method(self, options)

        wrapper.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[own, *signature.parameters.values()], return_annotation=Any
        )
        if documented:
            wrapper.__doc__ = declaration.__doc__
        return wrapper

    return decorate


def for_task(
    options: EncodeOptions, settings: ModelSettings, task: Literal["query", "document"]
) -> EncodeOptions:
    """Add what a task brings along: its name, and a prompt unless the caller chose one.

    Args:
        options: Of the call.
        settings: Of the model.
        task: Its name.

    Returns:
        The options with both.
    """
    name = options.prompt_name
    if name is None and options.prompt is None:
        name = next((known for known in _TASK_PROMPTS[task] if known in settings.prompts), None)
    kwargs = {"task": task, **options.model_kwargs}
    return replace(options, prompt_name=name, model_kwargs=kwargs)


def request_of(options: EncodeOptions, texts: Sequence[str], model: ModelState) -> Request:
    """Check the options that all ways to embed share, and make the request of a call.

    Args:
        options: Of the call.
        texts: Its texts, checked.
        model: What is known of the model.

    Returns:
        The request.

    Raises:
        ConfigError: If an option cannot work.
    """
    check_positive("batch_size", options.batch_size, or_none=False)
    check_positive("truncate_dim", options.truncate_dim)
    check_positive("chunk_size", options.chunk_size)
    check_device("device", options.device)
    check_model_kwargs(model, options)
    show = options.show_progress_bar
    if show is None:
        show = logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
    elsewhere = options.is_elsewhere
    return Request(
        texts,
        resolve_prompt(model.settings, options.prompt_name, options.prompt),
        check_titles(options.titles, len(texts), is_single=isinstance(options.inputs, str)),
        options.batch_size,
        show,
        None if elsewhere else options.device or None,
        options.model_kwargs,
        Pool(options.pool, options.device, options.chunk_size) if elsewhere else None,
    )


def resolve_prompt(settings: ModelSettings, name: str | None, prompt: str | None) -> str:
    """Find the prompt as upstream does: the prompt itself, by name, or the default.

    Args:
        settings: Of the model.
        name: Of the prompt, if the caller gave one.
        prompt: The prompt, if the caller gave it; wins over *name*.

    Returns:
        The prompt; empty for none.

    Raises:
        ConfigError: If the model has no prompt of that name.
    """
    check_prompt("prompt", prompt)
    check_name("prompt_name", name)
    if prompt is not None:
        if name is not None:
            logger.warning("Both prompt and prompt_name were given; prompt_name is ignored.")
        return prompt
    name = settings.default_prompt_name if name is None else name
    check_prompt_name(settings, name)
    found = None if name is None else settings.prompts[name]
    check_prompt(f"prompts[{shown(name)}]", found)
    return found or ""


def check_prompt_name(settings: ModelSettings, name: Any) -> None:
    """Refuse the name of a prompt that the model does not have.

    Args:
        settings: Of the model.
        name: What the caller gave; ``None`` for no prompt.

    Raises:
        ConfigError: If there is no such prompt.
    """
    if name is None or (isinstance(name, str) and name in settings.prompts):
        return
    known = listed(settings.prompts) or "none"
    meant = suggested(name, settings.prompts)
    hint, hint_ja = (
        (f" Did you mean {shown(meant)}?", f"{shown(meant)} のことですか。") if meant else ("", "")
    )
    if not is_word(name):
        hint = " If it is a text, pass all texts as one list: encode([a, b])."
        hint_ja = "文章が複数あるときは、encode([a, b]) のように一つのリストで渡してください。"
    raise ConfigError(
        both(
            f"prompt_name={shown(name)} is not among the model's prompts.{hint} It has: {known}.",
            f"prompt_name={shown(name)} というプロンプトはモデルにありません。{hint_ja}"
            f"モデルのプロンプト: {known}",
        )
    )


# Arguments of SafeEncoder that a call is sometimes given.
_OF_THE_ENCODER = (
    *("splitter", "max_chunk_tokens", "pooling", "on_long", "max_batch_tokens", "few_shapes"),
    *("chunks", "reload", "hard_limit", "isolation", "workers", "devices", "timeout_seconds"),
    *("hooks", "dtype", "model_name_or_path", "modules", "model_card_data"),
    *("max_waiting_texts", "when_full"),
)

_OF_ENCODE_CHUNKS = ("title", "titles")
# What other libraries call the things that docs/habits.md measures.
_MEASURED = frozenset(
    ("heading", "headings", "late_chunking", "overlap", "overlap_tokens", "chunk_overlap")
)


def check_model_kwargs(model: ModelState, options: EncodeOptions) -> None:
    """Refuse arguments that neither a method nor the forward of the model takes.

    Args:
        model: What is known of the model.
        options: Of the call.

    Raises:
        ConfigError: If one is unknown.
    """
    taken = sorted({*model.facts.model_kwargs, "task"})
    unknown = [name for name in options.model_kwargs if name not in taken]
    if not unknown:
        return
    method, given = options.method, listed(unknown)
    hint, hint_ja = _hints(unknown[0], taken)
    passed_on = listed(taken)
    raise ConfigError(
        both(
            f"{method} has no argument {given}, and the model's forward has none.{hint} Besides "
            f"its own arguments it takes what the model does: {passed_on}.",
            f"{method} に {given} という引数はなく、モデルの forward にもありません。{hint_ja}"
            f"{method} の引数のほかに、モデルの引数も渡せます: {passed_on}",
        )
    )


def _hints(name: str, taken: Sequence[str]) -> tuple[str, str]:
    """Say what was probably meant by an unknown argument, in both languages."""
    if name in _OF_THE_ENCODER:
        return " Pass it to SafeEncoder(…).", "SafeEncoder(…) に渡してください。"
    if name in _OF_ENCODE_CHUNKS:
        return " Only encode_chunks has titles.", "titles は encode_chunks だけの引数です。"
    if name in _MEASURED:
        return (
            " The page docs/habits.md says what it did to search, and how to try it.",
            "検索への効果と試し方は docs/ja/habits.md にあります。",
        )
    if name in ENCODE_ARGUMENTS:
        return " Only encode has it.", "これは encode だけの引数です。"
    meant = suggested(name, (*ENCODE_ARGUMENTS, *taken, *_OF_THE_ENCODER))
    return (f" Did you mean {meant!r}?", f"{meant!r} のことですか。") if meant else ("", "")
