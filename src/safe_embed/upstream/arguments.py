"""The names of what ``SentenceTransformer`` takes, known without importing it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import listed, suggested

# What SafeEncoder passes on, of all supported versions. Source: the signatures of
# SentenceTransformer in 5.1 and 6.2, and the older names that 6.2 still takes.
ARGUMENTS = (
    "device",
    "prompts",
    "default_prompt_name",
    "similarity_fn_name",
    "truncate_dim",
    "cache_folder",
    "trust_remote_code",
    "revision",
    "local_files_only",
    "token",
    "use_auth_token",
    "model_kwargs",
    "processor_kwargs",
    "tokenizer_kwargs",
    "config_kwargs",
    "model_card_data",
    "backend",
)
# A later version may take more: then it is asked itself, which means to import torch.
_LATEST_KNOWN = (6, 2)


def refuse_unknown_names(
    names: Iterable[str], own: Iterable[str], elsewhere: Iterable[str]
) -> None:
    """Refuse arguments of SafeEncoder that neither it nor SentenceTransformer has.

    Args:
        names: The names that were given.
        own: Names of SafeEncoder's own arguments.
        elsewhere: Names of the arguments of ``encode``.

    Raises:
        ConfigError: If a name is unknown, or an argument of ``encode``. An unknown name that
            resembles none passes if a later sentence-transformers may have it.
    """
    unknown = [name for name in names if name not in ARGUMENTS]
    if not unknown:
        return
    own = tuple(own)
    if unknown[0] in elsewhere:
        raise ConfigError(
            both(
                f"{unknown[0]!r} is an argument of encode, not of SafeEncoder. Pass it to encode.",
                f"{unknown[0]!r} は SafeEncoder ではなく encode の引数です。"
                "encode に渡してください。",
            )
        )
    meant = suggested(unknown[0], (*own, *ARGUMENTS))
    if meant or not _is_later():
        raise ConfigError(unknown_names(unknown, meant, (*own, *ARGUMENTS)))


def unknown_names(unknown: Iterable[str], meant: str | None, known: Iterable[str]) -> str:
    """Write the message about arguments that SafeEncoder does not have.

    Args:
        unknown: Their names.
        meant: The name that was probably meant.
        known: Names of all arguments, SafeEncoder's own first.

    Returns:
        The message.
    """
    given, all_names = listed(unknown), ", ".join(known)
    hint = f" Did you mean {meant!r}?" if meant else ""
    hint_ja = f"{meant!r} のことですか。" if meant else ""
    return both(
        f"SafeEncoder has no argument {given}, and neither has SentenceTransformer.{hint} The "
        f"arguments are: {all_names}.",
        f"SafeEncoder に {given} という引数はありません。{hint_ja}使える引数: {all_names}",
    )


def _is_later() -> bool:
    """Tell whether the installed sentence-transformers is later than those known here."""
    try:
        major, minor = version("sentence-transformers").split(".")[:2]
        return (int(major), int(minor)) > _LATEST_KNOWN
    except (PackageNotFoundError, ValueError):  # a development version has another form
        return True
