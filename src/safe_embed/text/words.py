"""Check the words that a user adds to ours."""

from __future__ import annotations

from safe_embed.errors import ConfigError, both
from safe_embed.foreign import shown
from safe_embed.text.marks import BLANK


def checked_words(name: str, words: object) -> tuple[str, ...]:
    """Return an argument that holds words as a tuple.

    Args:
        name: The name of the argument.
        words: Its value.

    Returns:
        The words.

    Raises:
        ConfigError: If *words* is not a tuple or list of strings that are not blank.
    """
    if not isinstance(words, (tuple, list)):
        msg = both(
            f"{name}={shown(words)} is not a tuple of strings. Use for example {name}=('…',).",
            f"{name}={shown(words)} は文字列のタプルではありません。{name}=('…',) のように"
            "指定してください。",
        )
        raise ConfigError(msg)
    for word in words:
        if not isinstance(word, str) or not word.strip(BLANK + "\n\r"):
            msg = both(
                f"{name} has the item {shown(word)}, which is not a string that shows something. "
                "Leave it out.",
                f"{name} の要素 {shown(word)} は、目に見える文字列ではありません。除いてください。",
            )
            raise ConfigError(msg)
    return tuple(words)
