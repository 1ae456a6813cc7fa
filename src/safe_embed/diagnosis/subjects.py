"""What an experiment calls again and again, made in its own process."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from itertools import count
from typing import Any

from safe_embed.diagnosis.experiments import Part, Subject
from safe_embed.errors import ConfigError, both
from safe_embed.offline.cache import OFFLINE, model_path

Call = Callable[[str], object]


class Called:
    """The function that an experiment calls, and how what it holds is loaded anew.

    Args:
        call: Is given a text.
        renew: Loads the model anew; ``None`` if the doctor does not own it.
    """

    def __init__(self, call: Call, renew: Callable[[], None] | None = None) -> None:
        self.call = call
        self.renew = renew


def make_called(subject: Subject, part: Part) -> Called:
    """Load what an experiment calls.

    Args:
        subject: What is examined.
        part: The part of it.

    Returns:
        The function to call.
    """
    if subject.target is not None:
        return Called(load_target(subject.target))
    if part == "splitter":
        return _splitters()
    if part == "whole" and subject.encoder == "safe-embed":
        from safe_embed.encoder import SafeEncoder

        encoder = SafeEncoder(subject.model, device=subject.device)
        return Called(encoder.encode, lambda: encoder.reload("doctor"))
    return _of_model(model_folder(subject.model), subject.device, part)


def model_folder(model: str) -> str:
    """Return what sentence-transformers loads a model from: for ``"offline"`` its folder."""
    return str(model_path()) if model == OFFLINE else model


def _splitters() -> Called:
    from safe_embed.text.morphemes import MorphemeSplitter
    from safe_embed.text.punctuation import PunctuationSplitter

    punctuation, morphemes = PunctuationSplitter(), MorphemeSplitter()
    return Called(lambda text: (punctuation.split(text), morphemes.split(text)))


def _of_model(path: str, device: str | None, part: Part) -> Called:
    """Upstream's own way: the control that SafeEncoder is compared with."""
    from safe_embed.upstream.attributes import sentence_transformer
    from safe_embed.upstream.stages import random_features

    models: list[Any] = []
    seeds = count()

    def load() -> None:
        models.clear()  # the old one goes first
        models.append(sentence_transformer()(path, device=device))

    def forward(text: str) -> None:
        import torch

        tokens = max(2, min(len(text), models[0].max_seq_length or len(text)))
        with torch.inference_mode():
            models[0].forward(random_features(models[0], tokens, seed=next(seeds)))

    load()
    calls: dict[Part, Call] = {
        "whole": lambda text: models[0].encode(text, show_progress_bar=False),
        "tokenizer": lambda text: models[0].tokenizer(text, verbose=False),
        "forward": forward,
    }
    return Called(calls[part], load)


def load_target(target: str) -> Call:
    """Import a function of the user's.

    Args:
        target: As ``"package.module:function"``.

    Returns:
        A function that takes a text. What takes no argument is called without the text.

    Raises:
        ConfigError: If there is no such function.
    """
    module, colon, name = target.partition(":")
    found: Any = None
    if colon and is_importable(module):
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part, None)
    if not callable(found):
        raise ConfigError(
            both(
                f"--target {target} names no function. Give 'package.module:function', of a module "
                "that can be imported from here.",
                f"--target {target} という関数がありません。インポートできるモジュールの関数を "
                "'package.module:function' の形で指定してください。",
            )
        )
    function: Callable[..., object] = found
    return function if _takes_text(function) else lambda _text: function()


def is_importable(module: str) -> bool:
    """Tell whether there is a module of that name, without running it.

    Args:
        module: Its full name.

    Returns:
        Whether there is; packages that it lies in are imported for that.
    """
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def _takes_text(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind("")
    except TypeError:
        return False
    except ValueError:  # of C: it tells no signature
        return True
    return True
