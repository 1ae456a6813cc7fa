"""What stands before chunks, checked: prompts and titles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import shown
from safe_embed.validation import lone_surrogate


def check_prompt(name: str, value: Any) -> None:
    """Check that a prompt is a text or ``None``.

    Args:
        name: What it is called in the message.
        value: The prompt.

    Raises:
        ConfigError: If *value* is anything else, or has a lone surrogate.
    """
    if value is None or (found := _fault_of_text(value)) is None:
        return
    fault, fault_ja = found
    raise ConfigError(
        both(
            f"{name} {fault}. Use a str such as 'query: ', or None.",
            f"{name} が {fault_ja}。'query: ' のような str か None を渡してください。",
        )
    )


def check_titles(titles: Any, count: int, *, is_single: bool) -> Sequence[str]:
    """Check the titles of texts.

    Args:
        titles: A title for each text, in order; a text for a single text; ``None`` for none.
        count: The number of texts.
        is_single: Whether the caller gave a single text.

    Returns:
        The titles; empty for none.

    Raises:
        ConfigError: If they are no texts, or not as many as the texts.
    """
    if titles is None:
        return ()
    if is_single and isinstance(titles, str):
        titles = [titles]
    if isinstance(titles, str | bytes | Mapping) or not isinstance(titles, Iterable):
        raise ConfigError(
            both(
                f"titles is {shown(titles)}. Pass a list with the title of each text; '' for none.",
                f"titles が {shown(titles)} です。文章ごとのタイトルをリストで渡してください"
                "（ないものは ''）。",
            )
        )
    checked = list(titles)
    if len(checked) != count:
        raise ConfigError(
            both(
                f"There are {len(checked)} titles and {count} texts. Pass a title for each text, "
                "in order; '' for none.",
                f"titles が {len(checked)} 件、文章が {count} 件です。文章と同じ順に、同じ数だけ"
                "渡してください（ないものは ''）。",
            )
        )
    for place, title in enumerate(checked):
        if (found := _fault_of_text(title)) is not None:
            fault, fault_ja = found
            raise ConfigError(
                both(
                    f"titles[{place}] {fault}. Use a str; '' for none.",
                    f"titles[{place}] が {fault_ja}。str を渡してください（ないものは ''）。",
                )
            )
    return checked


def _fault_of_text(value: Any) -> tuple[str, str] | None:
    """Say in both languages why a value cannot be tokenized; ``None`` if it can."""
    if not isinstance(value, str):
        return f"is {shown(value)}", f"{shown(value)} です"
    if lone_surrogate(value) is not None:
        return "has a lone surrogate", "単独のサロゲートを含みます"
    return None


def check_prompts(name: str, value: Any) -> None:
    """Check that prompts are a dictionary of texts.

    Args:
        name: Name of the argument, for the message.
        value: Name -> prompt; a prompt may be ``None``.

    Raises:
        ConfigError: If *value* is anything else.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(
            both(
                f"{name}={shown(value)} is not valid. Use a dict such as {{'query': 'query: '}}.",
                f"{name}={shown(value)} は使えません。{{'query': 'query: '}} のような dict を"
                "渡してください。",
            )
        )
    for key, prompt in value.items():
        check_prompt(f"{name}[{shown(key)}]", prompt)
