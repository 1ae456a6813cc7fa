"""The same worker on sentence-transformers alone: a vector a section, cut at the model's limit."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import worker
from sentence_transformers import SentenceTransformer

from safe_embed.offline import model_path


class OneVector(NamedTuple):
    """A section as a single chunk."""

    spans: tuple[tuple[int, int], ...]
    vectors: Any


class Raw:
    """Embeds as the worker of the incident did.

    Args:
        model: Name or folder of a model.
    """

    def __init__(self, model: str) -> None:
        path = str(model_path()) if model == "offline" else model
        self._model = SentenceTransformer(path, device="cpu")

    def encode_chunks(self, inputs: list[str], prompt_name: str) -> list[OneVector]:
        """Embed each text whole; what is too long is cut."""
        vectors = self._model.encode(inputs, prompt_name=prompt_name, show_progress_bar=False)
        return [
            OneVector(((0, len(text)),), row[None])
            for text, row in zip(inputs, vectors, strict=True)
        ]

    def encode_query(self, inputs: str) -> Any:
        """Embed a query."""
        return self._model.encode_query(inputs, show_progress_bar=False)


def main() -> None:
    """Serve standard input and output."""

    def make(model: str) -> AbstractContextManager[Raw]:
        return nullcontext(Raw(model))

    worker.main(make)


if __name__ == "__main__":
    main()
