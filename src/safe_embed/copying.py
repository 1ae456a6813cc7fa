"""Encoders that travel: pickle, deepcopy, and all that is built on them.

What travels is how an encoder was made and what was set on it since. Its model does not: it is
reloaded on arrival.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, ClassVar, Self

from safe_embed.backends.interface import Backend
from safe_embed.encoder_options import EncoderOptions, start_backend
from safe_embed.supervision.conditions import Conditions
from safe_embed.upstream.absent import Way, unsupported
from safe_embed.upstream.settings import ModelSettings

_LOAD_BY_NAME = Way(
    "its SentenceTransformer was handed over and cannot be reloaded, so make the encoder "
    "from a name, a folder or a function that loads the model",
    "読み込み済みの SentenceTransformer は作り直せません。モデル名、フォルダー、または"
    "モデルを返す関数から SafeEncoder を作ってください。",
)


class Copying:
    """Copies of an encoder, here or in another process: each has a model of its own.

    Attributes:
        backend: Does the calls.
        conditions: What its backend takes as given.
    """

    backend: Backend
    conditions: ClassVar[Conditions]
    _options: EncoderOptions

    def __getstate__(self) -> dict[str, Any]:
        """Return how this encoder was made; UnsupportedError if its model cannot be reloaded."""
        if self.backend.model.is_shared:
            raise unsupported("pickle and deepcopy here", _LOAD_BY_NAME)
        return self._state()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make the encoder, and load its model."""
        settings: dict[str, Any] = state.pop("settings")
        vars(self).update(state)
        self.backend = start_backend(self._options, self.conditions)
        self.backend.configure(**settings)

    def __copy__(self) -> Self:
        """Make another encoder of the same model; either may be closed without the other."""
        again = type(self).__new__(type(self))
        again.__setstate__(self._state())
        return again

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Make another encoder with a model of its own; UnsupportedError as for pickle."""
        again = type(self).__new__(type(self))
        again.__setstate__(self.__getstate__())
        return again

    def _state(self) -> dict[str, Any]:
        model = self.backend.model
        state = {name: value for name, value in vars(self).items() if name != "backend"}
        if (revision := model.facts.identity.revision) is not None:  # the same snapshot of a hub
            given = {**self._options.sentence_transformer_options, "revision": revision}
            state["_options"] = replace(self._options, sentence_transformer_options=given)
        state["settings"] = {} if model.is_shared else _values_of(model.settings)
        return state


def _values_of(settings: ModelSettings) -> dict[str, Any]:
    """Return the settings of a model by name, with prompts of their own."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    values["prompts"] = dict(settings.prompts)
    return values
