"""The encoder of a run, and the results of a portion of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from safe_embed.encoder import SafeEncoder
from safe_embed.errors import WorkerError
from safe_embed.jobs.job import Job
from safe_embed.jobs.parquet import Layout
from safe_embed.jobs.rows import Row
from safe_embed.options import EncodeOptions, for_task
from safe_embed.search.calibration import Calibration


def make_encoder(job: Job) -> SafeEncoder:
    """Make the encoder that a job asks for.

    Args:
        job: What is asked for.

    Returns:
        The encoder; its model is loaded.
    """
    given: dict[str, Any] = {} if job.device is None else {"device": job.device}
    if not job.chunks:
        given["max_chunk_tokens"] = job.max_chunk_tokens
    return SafeEncoder(
        job.model,
        splitter=job.splitter,
        pooling=job.pooling,
        dtype=job.dtype,
        isolation=job.isolation,
        **given,
    )


@dataclass(frozen=True, slots=True)
class Embedder:
    """Embeds portions of rows.

    Attributes:
        encoder: Of the run.
        layout: Of the output.
        prompt_name: Of the prompt that the texts get; ``None`` for the model's default.
        options: Arguments of ``encode`` or ``encode_chunks``.
    """

    encoder: SafeEncoder
    layout: Layout
    prompt_name: str | None
    options: dict[str, Any]

    @classmethod
    def of(cls, job: Job, encoder: SafeEncoder, calibration: Calibration | None) -> Embedder:
        """Make the embedder of a job.

        Args:
            job: What is asked for.
            encoder: Of the run.
            calibration: To pack vectors; ``None`` for floats.

        Returns:
            The embedder.

        Raises:
            ConfigError: If the calibration is that of another model or dimension.
        """
        settings = encoder.backend.model.settings
        chosen = EncodeOptions(inputs=())
        if job.task != "none":
            chosen = for_task(chosen, settings, job.task)
        options: dict[str, Any] = {"normalize_embeddings": job.normalize, **chosen.model_kwargs}
        if job.chunks:
            options["max_chunk_tokens"] = job.max_chunk_tokens
        dimension = encoder.get_embedding_dimension() or len(encoder.fingerprint)
        if calibration is not None:
            calibration.check_model(encoder.fingerprint)
            calibration.check_shape((dimension,))
            options |= {"calibration": calibration, "bits": job.bits}
        width = (dimension + 7) // 8 if job.bits == 1 else dimension
        return cls(encoder, Layout(job.chunks, width, job.bits), chosen.prompt_name, options)

    def results(self, rows: Sequence[Row]) -> Sequence[Any]:
        """Embed rows.

        Args:
            rows: Rows that are not rejected.

        Returns:
            A vector, ChunkedText or PackedText for each; ``None`` for a text that has ended every
            worker process that read it.
        """
        call: Any = self.encoder.encode_chunks if self.layout.chunks else self.encoder.encode
        texts = [row.text for row in rows]
        options = {"prompt_name": self.prompt_name, "show_progress_bar": False, **self.options}
        try:
            results: Sequence[Any] = call(texts, **options)
        except WorkerError as error:
            if not error.indices or len(error.results) != len(texts):
                raise
            return error.results
        return results
