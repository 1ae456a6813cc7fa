"""Check the words that a user adds to ours."""

from __future__ import annotations

from safe_embed.errors import ConfigError
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
        msg = f"{name}={shown(words)} is not a tuple of strings. Use for example {name}=('…',)."
        raise ConfigError(msg)
    for word in words:
        if not isinstance(word, str) or not word.strip(BLANK + "\n\r"):
            msg = f"{name} has the item {shown(word)}, which is not a string that shows something."
            raise ConfigError(msg)
    return tuple(words)
