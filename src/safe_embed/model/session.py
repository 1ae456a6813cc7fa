"""The one thread on which an encoder's tokenizer and model work, whoever calls.

OpenMP and the allocator keep state for every thread that calls in: 60 calling threads cost 265 MB
and 120 native threads with sentence-transformers alone (docs/ja/growth.md). Here they cost a queue.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

from safe_embed.errors import WorkerError
from safe_embed.model.inference import Inference, Settings
from safe_embed.model.loader import ModelSource, ends_in_normalize

P = ParamSpec("P")
T = TypeVar("T")

_CLOSED = "This SafeEncoder is closed. Make a new one, or close it later."


class Session:
    """Holds the loaded model and runs work on it, one piece at a time, in order of arrival.

    Args:
        source: Where the model comes from.
        settings: What the encoder does with every text.
    """

    def __init__(self, source: ModelSource, settings: Settings) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="safe_embed")
        self._inference: Inference | None = None
        try:
            self._inference = self._executor.submit(_load, source, settings).result()
        except BaseException:
            self.close()
            raise

    def run(
        self, work: Callable[Concatenate[Inference, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run *work* on the session's thread and wait for its result.

        Args:
            work: Takes the loaded model's inference, then the other arguments.
            *args: Further arguments.
            **kwargs: Further arguments.

        Returns:
            What *work* gives.

        Raises:
            WorkerError: If the session is closed.
        """
        inference = self.inference
        try:
            future = self._executor.submit(work, inference, *args, **kwargs)
        except RuntimeError as err:  # closed by another thread just now
            raise WorkerError(_CLOSED) from err
        return future.result()

    @property
    def inference(self) -> Inference:
        """The loaded model, for reading settings; work belongs into :meth:`run`."""
        if self._inference is None:
            raise WorkerError(_CLOSED)
        return self._inference

    def close(self) -> None:
        """End the thread and drop the model; may be called again."""
        self._executor.shutdown(wait=True)
        self._inference = None


def _load(source: ModelSource, settings: Settings) -> Inference:
    model = source.load()
    return Inference(model, source.tokenizer_of(model), settings, ends_in_normalize(model))
