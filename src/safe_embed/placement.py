"""Where the model of an encoder is and of what type its weights are; processes besides its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from safe_embed.backends.calls import wait_for
from safe_embed.backends.interface import Backend
from safe_embed.errors import ConfigError, both
from safe_embed.inference.request import Move
from safe_embed.upstream.absent import TRAIN, unsupported
from safe_embed.upstream.attributes import stop_pool
from safe_embed.upstream.settings import dtype_of
from safe_embed.validation import check_device
from safe_embed.vectors import Precision

if TYPE_CHECKING:
    import torch

# Weights of so many bits and fewer have lost what a cast to another type would not give back.
_NARROW_BITS = 16


class Placement:
    """Moves and casts the model, as torch does; what is loaded later follows.

    Attributes:
        backend: Does the calls; holds what is known of the model.
    """

    backend: Backend
    encode: Any  # SafeEncoder's own

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        import torch

        return torch.device(self.backend.model.device)

    @property
    def dtype(self) -> torch.dtype | None:
        """The type of the model's weights."""
        return dtype_of(self.backend.model.dtype)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the model, or cast its weights; models that are loaded later follow.

        Args:
            *args: A device, a type, a tensor that has both, or a device and a type.
            **kwargs: ``device``, ``dtype`` or ``tensor``; ``non_blocking`` changes nothing.

        Returns:
            The encoder.

        Raises:
            ConfigError: If an argument is no device; or if weights of 16 bits would be cast to
                another type, which a model that is reloaded would not equal.
        """
        device, dtype = _target(*args, **kwargs)
        self._check_cast(dtype)
        moved = None if device is None else str(device)
        cast = None if dtype is None else str(dtype)
        found_device, found_dtype = wait_for(self.backend.submit(Move(moved, cast)))
        changes = {} if device is None else {"device": found_device}
        changes |= {} if dtype is None else {"dtype": found_dtype}
        self.backend.configure(**changes)
        return self

    def cpu(self) -> Self:
        """Move the model to the CPU.

        Returns:
            The encoder.
        """
        return self.to("cpu")

    def cuda(self, device: int | torch.device | None = None) -> Self:
        """Move the model to a GPU.

        Args:
            device: Which; ``None`` for the current one.

        Returns:
            The encoder.
        """
        return self.to("cuda" if device is None else device)

    def half(self) -> Self:
        """Cast the weights to float16.

        Returns:
            The encoder.
        """
        return self._cast("float16")

    def bfloat16(self) -> Self:
        """Cast the weights to bfloat16.

        Returns:
            The encoder.
        """
        return self._cast("bfloat16")

    def float(self) -> Self:
        """Cast the weights to float32.

        Returns:
            The encoder.
        """
        return self._cast("float32")

    def double(self) -> Self:
        """Cast the weights to float64.

        Returns:
            The encoder.
        """
        return self._cast("float64")

    def eval(self) -> Self:
        """Change nothing: the model always is in evaluation mode.

        Returns:
            The encoder.
        """
        return self

    def train(self, mode: bool = True) -> Self:
        """Refuse training mode.

        Args:
            mode: ``False`` is what the model is in.

        Returns:
            The encoder.

        Raises:
            UnsupportedError: If *mode* is true.
        """
        if mode:
            raise unsupported(".train()", TRAIN)
        return self

    def start_multi_process_pool(self, target_devices: list[str] | None = None) -> dict[str, Any]:
        """Start further processes, to be passed to :meth:`encode` as ``pool``.

        They are upstream's, or with ``isolation="process"`` workers as the encoder's own.

        Args:
            target_devices: One device a process; ``None`` for all GPUs or some processes.

        Returns:
            A record of the processes.
        """
        check_device("target_devices", target_devices)
        return self.backend.start_pool(target_devices)

    @staticmethod
    def stop_multi_process_pool(pool: dict[str, Any]) -> None:
        """Stop what :meth:`start_multi_process_pool` started.

        Args:
            pool: Its record.
        """
        if "worker_pool" in pool:
            pool["worker_pool"].close()
        else:
            stop_pool(pool)

    def encode_multi_process(
        self,
        sentences: list[str],
        pool: dict[str, Any],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        chunk_size: int | None = None,
        show_progress_bar: bool | None = None,
        precision: Precision = "float32",
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
    ) -> Any:
        """Embed texts in further processes; upstream's older name for ``encode(pool=…)``.

        Args:
            sentences: Texts.
            pool: What :meth:`start_multi_process_pool` gave.
            prompt_name: As for :meth:`encode`.
            prompt: As for :meth:`encode`.
            batch_size: As for :meth:`encode`.
            chunk_size: As for :meth:`encode`.
            show_progress_bar: As for :meth:`encode`.
            precision: As for :meth:`encode`.
            normalize_embeddings: As for :meth:`encode`.
            truncate_dim: As for :meth:`encode`.

        Returns:
            As :meth:`encode`.
        """
        return self.encode(
            sentences,
            prompt_name=prompt_name,
            prompt=prompt,
            batch_size=batch_size,
            chunk_size=chunk_size,
            show_progress_bar=show_progress_bar,
            precision=precision,
            normalize_embeddings=normalize_embeddings,
            truncate_dim=truncate_dim,
            pool=pool,
        )

    def _cast(self, name: str) -> Self:
        return self.to(dtype_of(name))

    def _check_cast(self, dtype: torch.dtype | None) -> None:
        """Refuse a cast whose result a fresh model would not equal."""
        before = self.dtype
        if dtype is None or before is None or dtype == before or self.backend.model.is_shared:
            return
        if before.itemsize * 8 <= _NARROW_BITS:
            wanted = str(dtype).removeprefix("torch.")
            msg = both(
                f"The weights are {before}: a cast to {dtype} would not bring back the digits that "
                "they have lost. Make a new encoder: SafeEncoder(model, "
                f'model_kwargs={{"dtype": "{wanted}"}}).',
                f"重みは {before} で、失われた桁は {dtype} にしても戻りません。次のように作り直して"
                f'ください: SafeEncoder(model, model_kwargs={{"dtype": "{wanted}"}})',
            )
            raise ConfigError(msg)


def _target(
    *args: Any, device: Any = None, dtype: Any = None, tensor: Any = None, **_: Any
) -> tuple[torch.device | None, torch.dtype | None]:
    """Read the arguments of torch's ``to``: which device, and which type."""
    import torch

    for value in (*args, device, dtype, tensor):
        if isinstance(value, torch.dtype):
            dtype = value
        elif torch.is_tensor(value):
            device, dtype = value.device, value.dtype
        elif not (value is None or isinstance(value, bool)):  # non_blocking
            check_device("device", [value])
            device = torch.device(value)
    return device, dtype
