"""What all adapters share: an encoder that was passed in, or that is opened here by its settings.

It knows no library. Encoders of equal settings can be shared within a process, for libraries that
make their embedding functions anew for every table or collection.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from safe_embed.encoder import SafeEncoder
from safe_embed.errors import ConfigError, InvalidTextError, both
from safe_embed.foreign import listed, shown, suggested
from safe_embed.options import encode as encode_arguments
from safe_embed.options import for_task
from safe_embed.types import Span

# Arguments of `encode` that leave its result an array of floats, and the same for queries and
# documents. Prompts belong to the encoder: encoder_options={"prompts": {…}}.
_ENCODE_OPTIONS = (
    *("batch_size", "normalize_embeddings", "truncate_dim", "show_progress_bar", "priority"),
)

Vectors = NDArray[Any]
Task = Literal["query", "document"]


class HeldEncoder:
    """An encoder that was passed in, or one that is opened at the first call.

    Args:
        model: A SafeEncoder, or what SafeEncoder takes as its model: a name, a folder, …
        encoder_options: Further arguments of SafeEncoder, if it is to be opened here.
        encode_options: Arguments of every call of ``encode``: ``batch_size``,
            ``normalize_embeddings``, ``truncate_dim``, ``show_progress_bar``, ``priority``.

    Raises:
        ConfigError: If there is no model, or an argument is not one of these.
    """

    def __init__(
        self,
        model: Any,
        encoder_options: Mapping[str, Any] | None = None,
        encode_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = os.fspath(model) if isinstance(model, os.PathLike) else model
        self.encoder_options = dict(encoder_options or {})
        self.encode_options = dict(encode_options or {})
        self._check()
        self._opened: SafeEncoder | None = None
        self._lock = threading.Lock()

    def _check(self) -> None:
        if self.model is None:
            raise ConfigError(
                both(
                    "There is no model. Pass the name of a model, a folder, or a SafeEncoder. The "
                    "settings of an adapter that was given a ready SafeEncoder name none.",
                    "モデルの指定がありません。モデル名、フォルダー、SafeEncoder のどれかを渡して"
                    "ください。作成済みの SafeEncoder を渡したアダプターの設定には、モデル名が"
                    "残りません。",
                )
            )
        if self.is_given and self.encoder_options:
            given = listed(self.encoder_options)
            raise ConfigError(
                both(
                    f"encoder_options has {given}, but the SafeEncoder is already made. Pass them "
                    "to SafeEncoder, or pass the name of the model.",
                    f"encoder_options に {given} がありますが、SafeEncoder は作成済みです。"
                    "SafeEncoder に渡すか、モデル名を渡してください。",
                )
            )
        for name in self.encode_options:
            if name not in _ENCODE_OPTIONS:
                raise _unknown(name)

    @property
    def is_given(self) -> bool:
        """Whether the encoder was passed in: it is never closed here."""
        return isinstance(self.model, SafeEncoder)

    @property
    def encoder(self) -> SafeEncoder:
        """The encoder; opened if need be."""
        if isinstance(self.model, SafeEncoder):
            return self.model
        with self._lock:
            if self._opened is None:
                self._opened = SafeEncoder(self.model, **self.encoder_options)
            return self._opened

    def settings(self) -> dict[str, Any]:
        """Give the arguments that make this again.

        Returns:
            Name -> value; the model is ``None`` if it is not known by a name.
        """
        name = self.model if isinstance(self.model, str) else None
        return {
            "model": name,
            "encoder_options": dict(self.encoder_options),
            "encode_options": dict(self.encode_options),
        }

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        known = self.encoder.backend.model.dimension_of(self.encode_options.get("truncate_dim"))
        return len(self.query("")) if known is None else known

    def documents(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed documents.

        Args:
            texts: A list of texts.

        Returns:
            One vector a text.
        """
        found: list[list[float]] = self.vectors(texts, "document").tolist()
        return found

    def query(self, text: str) -> list[float]:
        """Embed a query.

        Args:
            text: The query.

        Returns:
            Its vector.
        """
        found: list[list[float]] = self.vectors([text], "query").tolist()
        return found[0]

    async def adocuments(self, texts: Sequence[str]) -> list[list[float]]:
        """Embed documents without blocking the event loop.

        Args:
            texts: A list of texts.

        Returns:
            One vector a text.
        """
        found: list[list[float]] = (await self.avectors(texts, "document")).tolist()
        return found

    async def aquery(self, text: str) -> list[float]:
        """Embed a query without blocking the event loop.

        Args:
            text: The query.

        Returns:
            Its vector.
        """
        found: list[list[float]] = (await self.avectors([text], "query")).tolist()
        return found[0]

    def vectors(self, texts: Sequence[str], task: Task | None, **arguments: Any) -> Vectors:
        """Embed texts.

        Args:
            texts: A list of texts.
            task: What the texts are; ``None`` for neither, as ``encode``.
            **arguments: Further ones of this call.

        Returns:
            Shape (n_texts, dimension).

        Raises:
            InvalidTextError: If *texts* is no list of texts.
        """
        _refuse_single(texts)
        encoder = self.encoder
        encode = {"query": encoder.encode_query, "document": encoder.encode_document}.get(
            task or "", encoder.encode
        )
        return np.asarray(encode(texts, **self._arguments(), **arguments))

    async def avectors(self, texts: Sequence[str], task: Task) -> Vectors:
        """Embed texts as :meth:`vectors` does, without blocking the event loop.

        Args:
            texts: A list of texts.
            task: What the texts are.

        Returns:
            Shape (n_texts, dimension).

        Raises:
            InvalidTextError: If *texts* is no list of texts.
        """
        _refuse_single(texts)
        encoder = await asyncio.to_thread(lambda: self.encoder)
        options = for_task(
            encode_arguments((), **self._arguments()), encoder.backend.model.settings, task
        )
        vectors = await encoder.aencode(
            texts, prompt_name=options.prompt_name, task=task, **self._arguments()
        )
        return np.asarray(vectors)

    def spans(self, texts: Sequence[str]) -> list[tuple[Span, ...]]:
        """Cut texts where ``encode_document`` cuts them, without running the model.

        Args:
            texts: A list of texts.

        Returns:
            The spans of each text; they cover it without gaps or overlaps.

        Raises:
            ConfigError: If the encoder is set to leave out the end of a long text.
        """
        _refuse_single(texts)
        encoder = self.encoder
        options = for_task(encode_arguments(()), encoder.backend.model.settings, "document")
        plans = encoder.plan(texts, prompt_name=options.prompt_name)
        for text, plan in zip(texts, plans, strict=True):
            if sum(end - start for start, end in plan.spans) != len(text):
                raise ConfigError(
                    both(
                        "on_long='truncate' leaves out the end of a long text, so a text cannot be "
                        "split without loss. Use on_long='chunk'.",
                        "on_long='truncate' では長い文章の残りが捨てられるため、欠落なしに分割でき"
                        "ません。on_long='chunk' を使ってください。",
                    )
                )
        return [plan.spans if text else () for text, plan in zip(texts, plans, strict=True)]

    def close(self) -> None:
        """Close the encoder if it was opened here; the next call opens it again."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()

    def _arguments(self) -> dict[str, Any]:
        return {"show_progress_bar": False, **self.encode_options}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the settings, or the encoder that was passed in."""
        return type(self), (self.model, self.encoder_options, self.encode_options)

    def __deepcopy__(self, memo: dict[int, Any]) -> HeldEncoder:
        """Copy the settings; an encoder that was passed in is shared."""
        return HeldEncoder(self.model, self.encoder_options, self.encode_options)


# Some libraries make an embedding function again and again, and drop it: LanceDB at every `add`,
# Chroma at every `get_collection`. Those of equal settings share an encoder, and the one that was
# used last stays, so that the next function need not load the model again.
_SHARED: WeakValueDictionary[str, HeldEncoder] = WeakValueDictionary()
_LAST: deque[HeldEncoder] = deque(maxlen=1)
_SHARED_LOCK = threading.Lock()


def shared(
    model: Any, encoder_options: Mapping[str, Any] | None, encode_options: Mapping[str, Any] | None
) -> HeldEncoder:
    """Give the encoder of these settings that this process has, or a new one.

    Args:
        model: As for :class:`HeldEncoder`.
        encoder_options: As for :class:`HeldEncoder`; JSON must be able to hold them.
        encode_options: As for :class:`HeldEncoder`; JSON must be able to hold them.

    Returns:
        A held encoder; one of its own for a model that was passed in.

    Raises:
        ConfigError: If JSON cannot hold the settings.
    """
    held = HeldEncoder(model, encoder_options, encode_options)
    if not isinstance(held.model, str):
        return held
    try:
        key = json.dumps(held.settings(), sort_keys=True)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            both(
                "The settings are kept as JSON, which cannot hold a value of encoder_options or "
                "encode_options. Use strings, numbers, lists and dicts, or pass a SafeEncoder.",
                "設定は JSON で保存されますが、encoder_options か encode_options に JSON にできない"
                "値があります。文字列、数値、リスト、辞書を使うか、SafeEncoder を渡してください。",
            )
        ) from error
    with _SHARED_LOCK:
        held = _SHARED.setdefault(key, held)
        _LAST.append(held)
    return held


def _unknown(name: Any) -> ConfigError:
    """Write the error for an argument that adapters do not pass on."""
    meant = suggested(name, _ENCODE_OPTIONS)
    hint = f" Did you mean {meant!r}?" if meant else ""
    hint_ja = f"{meant!r} のことですか。" if meant else ""
    known = listed(_ENCODE_OPTIONS)
    return ConfigError(
        both(
            f"encode_options has {shown(name)}, which adapters do not pass on.{hint} They pass on "
            f"{known}. Prompts belong into encoder_options={{'prompts': …}}.",
            f"encode_options の {shown(name)} は使えません。{hint_ja}使えるのは {known} です。"
            "プロンプトは encoder_options={'prompts': …} で指定してください。",
        )
    )


def _refuse_single(texts: Any) -> None:
    """Refuse a text in the place of a list of texts, which would be read letter by letter."""
    if isinstance(texts, str):
        raise InvalidTextError(
            both(
                "A list of texts is needed, not a single text. Pass [text].",
                "文章のリストが必要です。一つの文章なら [text] のように渡してください。",
            )
        )
