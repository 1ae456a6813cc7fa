"""What to load, and how: the only room that knows sentence-transformers."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import called, listed, suggested
from safe_embed.upstream.arguments import unknown_names
from safe_embed.upstream.attributes import sentence_transformer, stated_limit
from safe_embed.upstream.bfloat16 import try_bfloat16
from safe_embed.upstream.files import Fingerprint, Identity, files_changed, mark_of, marks_below
from safe_embed.upstream.kinds import (
    check_module,
    refuse_other_files,
    refuse_other_kinds,
    refuse_what_is_no_model,
    refuse_what_needs_arguments,
)
from safe_embed.upstream.patches import is_commit, kept, snapshot_of, uncycle
from safe_embed.upstream.progress_bars import disable_unwritable_bars
from safe_embed.upstream.shared_mecab import share_mecab, shared_mecab

if TYPE_CHECKING:
    from sentence_transformers import (
        SentenceTransformer as SentenceTransformer,  # noqa: PLC0414 other rooms annotate with it
    )

_LOADING_POLL_SECONDS = 0.001
# One load at a time. transformers 4 changes torch while it loads: of two loads at once, and in all
# later ones, weights stay empty (29 of 40 at once failed on 4.57). By process, so that a fork
# inherits no lock that is held. A user's own loader is not locked: it may make an encoder itself.
_LOADS: dict[int, threading.Lock] = {}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from; can be asked for it again and again.

    Args:
        spec: A hub name, a folder, a function without arguments that gives a SentenceTransformer,
            or a SentenceTransformer that is already loaded.
        options: Arguments for ``SentenceTransformer``, where it is loaded here by name.
        dtype: ``"auto"`` turns the model to bfloat16 where that is faster and gives the same
            vectors; ``None`` leaves it as it is loaded.
        files: What the model's files must look like whenever it is loaded; ``None`` before the
            first time, see :meth:`held`.

    Raises:
        ConfigError: If *spec* is nothing that gives a model, or options cannot be used.
    """

    spec: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    dtype: Literal["auto"] | None = None
    files: Fingerprint | None = None

    def __post_init__(self) -> None:
        refuse_other_kinds(self.spec)
        if not (self.is_loaded or callable(self.spec) or isinstance(self.spec, str | os.PathLike)):
            msg = both(
                f"model is {type(self.spec).__name__}. Use a model name, a folder, 'offline', a "
                "function that gives a SentenceTransformer, or a SentenceTransformer.",
                f"model に {type(self.spec).__name__} が渡されました。モデル名、フォルダー、"
                "'offline'、SentenceTransformer を返す関数、SentenceTransformer の"
                "どれかを渡してください。",
            )
            raise ConfigError(msg)
        self._check_source()
        if self.options and (self.is_loaded or callable(self.spec)):
            msg = both(
                f"{listed(self.options)} cannot be used: the model is not loaded "
                "here. Pass such arguments where you make the SentenceTransformer.",
                f"モデルをここで読み込まないので、{listed(self.options)} は使えません。"
                "SentenceTransformer を作るところで渡してください。",
            )
            raise ConfigError(msg)
        if self.dtype is not None and self.is_loaded:
            raise ConfigError(
                both(
                    "dtype='auto' cannot be used: the model was loaded elsewhere, and others may "
                    "use it. Pass a name, a folder or a loader, or call model.to(torch.bfloat16) "
                    "yourself.",
                    "すでに読み込まれたモデルでは dtype='auto' を使えません。モデル名、フォルダー、"
                    "ローダーのどれかを渡すか、自分で model.to(torch.bfloat16) を呼んでください。",
                )
            )
        is_new = self.files is None and isinstance(self.spec, str | os.PathLike)
        if is_new and Path(self.spec).is_dir():
            # A reload must find the folder again, wherever the process is by then.
            object.__setattr__(self, "spec", str(Path(self.spec).absolute()))

    def _check_source(self) -> None:
        """Refuse a loader that needs arguments, and files of another kind of model."""
        if isinstance(self.spec, str | os.PathLike):
            refuse_other_files(os.fspath(self.spec), self.options)
        elif not self.is_loaded:
            refuse_what_needs_arguments(self.spec)

    @property
    def is_loaded(self) -> bool:
        """Whether the user loaded the model: it may be shared, and cannot be loaded again."""
        is_model = hasattr(self.spec, "named_modules") and hasattr(self.spec, "encode")
        return is_model and not isinstance(self.spec, type)

    def load(self, tokenizer: Any = None) -> SentenceTransformer:
        """Load the model.

        Args:
            tokenizer: The tokenizer of an earlier load, to be kept: building one of 250,000 pieces
                holds all Python threads for half a second and more.

        Returns:
            A SentenceTransformer in evaluation mode.

        Raises:
            ConfigError: If an option is unknown, or what was loaded cannot be used here.
            ReloadError: If its files are not those that it is held to, or change meanwhile.
        """
        while True:
            before = self._snapshot()
            try:
                model = self._fresh(tokenizer)
                if self.dtype == "auto" and not try_bfloat16(model):
                    model = self._fresh(model.tokenizer)
            finally:  # half a file is no model, whatever error that gives
                self.check_held()
            if before in {None, self._snapshot()}:
                return model
            del model  # of two revisions, perhaps: another one was published meanwhile

    def _fresh(self, tokenizer: Any) -> SentenceTransformer:
        disable_unwritable_bars()
        with kept(tokenizer), shared_mecab():
            is_loader = callable(self.spec) and not self.is_loaded
            model = called("The loader", self.spec) if is_loader else self._load()
        refuse_other_kinds(model, loader=not self.is_loaded)  # in version 5 a SparseEncoder is one
        if not isinstance(model, sentence_transformer()):
            refuse_what_is_no_model(model, loader=not self.is_loaded)
        check_module(model[0])
        if not self.is_loaded:
            uncycle(model)
        share_mecab(getattr(model[0], "tokenizer", None))
        return model.eval()

    def _load(self) -> Any:
        if self.is_loaded:
            return self.spec
        kind = sentence_transformer()
        self._check_options(kind)
        path = os.fspath(self.spec)
        with _LOADS.setdefault(os.getpid(), threading.Lock()):
            return kind(path, **self.options)

    def tokenizer_of(self, model: SentenceTransformer) -> Any:
        """Give the tokenizer to read texts with.

        A shared model's tokenizer may be in use elsewhere with other truncation settings
        ("Already borrowed", transformers #47085): then it is a copy.

        Args:
            model: What :meth:`load` gave.

        Returns:
            The tokenizer of the model's first module, or a copy of it.
        """
        return deepcopy(model.tokenizer) if self.is_loaded else model.tokenizer

    def pinned(self, model: SentenceTransformer) -> ModelSource:
        """Hold on to what was loaded: the snapshot of a hub, whatever is published later.

        Args:
            model: What :meth:`load` gave.

        Returns:
            A source of the same revision, if the model came from a hub. It asks no more which
            dtype will do: that goes over to a new model as all :func:`user_settings` do.
        """
        source, snapshot = replace(self, dtype=None), self._snapshot(model)
        if snapshot is None:
            return source
        source = replace(source, options={**self.options, "revision": snapshot.name})
        return replace(source, files=self.files or source.fingerprint())

    def on_device(self, device: str) -> ModelSource:
        """Load onto another device.

        Args:
            device: Such as ``"cuda:1"``.

        Returns:
            A source that does; a user's own loader chooses for itself.
        """
        if self.is_loaded or callable(self.spec):
            return self
        return replace(self, options={**self.options, "device": device})

    def fingerprint(self) -> Fingerprint:
        """Note what the model's files look like, to see whether another model lies there later.

        Returns:
            Name, size and time of each file of a folder, or of a hub's snapshot; nothing for a name
            that is not :meth:`pinned`, or for a loader.
        """
        is_movable = self._is_hub and not is_commit(self.options.get("revision"))
        folder = None if is_movable else self.folder
        return () if folder is None else marks_below(folder)

    @property
    def folder(self) -> Path | None:
        """Where the model's files are; ``None`` for a loader, or if they are not here yet."""
        if self.is_loaded or callable(self.spec):
            return None
        return self._snapshot() if self._is_hub else Path(os.fspath(self.spec))

    @property
    def stated_limit(self) -> int | None:
        """Tokens that the model reads at most, by its files; ``None`` where they do not say."""
        is_changed = any(name.endswith("_kwargs") for name in self.options)
        return None if self.folder is None or is_changed else stated_limit(self.folder)

    def held(self) -> ModelSource:
        """Take note of the model's files, before it is loaded for the first time.

        Returns:
            A source that loads this model and no other, whatever lies there later.
        """
        return self if self.files is not None else replace(self, files=self.fingerprint())

    @property
    def identity(self) -> Identity:
        """What later loads, in other processes, are held to."""
        return Identity(self.options.get("revision"), self.files or ())

    def held_to(self, identity: Identity) -> ModelSource:
        """Load what another process has loaded, or nothing.

        Args:
            identity: Of the model there.

        Returns:
            A source that does.
        """
        revision = {} if identity.revision is None else {"revision": identity.revision}
        return replace(self, options={**self.options, **revision}, files=identity.files)

    def check_held(self) -> None:
        """Refuse to load a model whose files are not what it is held to, if it is to any."""
        if self.files is not None:
            self.check_unchanged(self.files)

    def check_unchanged(self, before: Fingerprint) -> None:
        """Refuse to load a model whose files are not what they were.

        Args:
            before: What :meth:`fingerprint` gave when the model was first loaded.

        Raises:
            ReloadError: If files are gone or changed. New ones may lie beside them; should they
                change the model, its vectors tell. A hub has what is gone.
        """
        if self._is_hub and Path(self.spec).is_dir():  # sentence-transformers would load that
            raise files_changed([str(Path(self.spec).absolute())])
        missing = {None} if self._is_hub else set()
        changed = [mark[0] for mark in before if mark_of(Path(mark[0])) not in {mark} | missing]
        if changed:
            raise files_changed(changed)

    @property
    def _is_hub(self) -> bool:
        """Whether it is a name on a hub: folders are absolute."""
        if self.is_loaded or callable(self.spec):
            return False
        return not Path(self.spec).is_absolute()

    def _snapshot(self, model: Any = None) -> Path | None:
        """Find what a name on a hub means now, here."""
        if not self._is_hub:
            return None
        revision, cache = self.options.get("revision"), self.options.get("cache_folder")
        return snapshot_of(os.fspath(self.spec), revision, cache, model)

    def _check_options(self, kind: type) -> None:
        known = inspect.signature(kind).parameters
        # tokenizer_kwargs is in the signature of 5.x alone, but 6.x takes it by that name too.
        names = [*list(known)[1:], "tokenizer_kwargs"]
        unknown = [name for name in self.options if name not in names]
        if unknown:
            raise ConfigError(unknown_names(unknown, suggested(unknown[0], names), names))


class Loading:
    """A load on a thread of its own, beside the work of the old model.

    Args:
        source: What to load.
        tokenizer: The tokenizer to keep, if any.
    """

    def __init__(self, source: ModelSource, tokenizer: Any = None) -> None:
        self._found: list[Any] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._load, args=(source, tokenizer), name="safe_embed-load", daemon=True
        )
        self._thread.start()

    def _load(self, source: ModelSource, tokenizer: Any) -> None:
        try:
            self._found.append(source.load(tokenizer))
        except BaseException as raised:  # noqa: BLE001 it is raised where the result is taken
            self._error = raised

    def is_done(self) -> bool:
        """Wait a moment; tell whether the load has ended.

        Returns:
            Whether :meth:`result` may be asked for.
        """
        self._thread.join(_LOADING_POLL_SECONDS)
        return not self._thread.is_alive()

    def result(self) -> Any:
        """Give the model, or raise what kept it from loading.

        Returns:
            What :meth:`ModelSource.load` gives.
        """
        if self._error is not None:
            raise self._error
        return self._found.pop()
