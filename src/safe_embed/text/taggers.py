"""MeCab: one tagger for each dictionary in a process, shared by all threads and never dropped.

fugashi never frees a tagger: its dictionary stays mapped, 250 MB of address space in four mappings.
Source: 20 taggers created and deleted, VmSize +5.0 GB, RssAnon +1 MB (fugashi 1.5.2). So there is
one, which whoever needs that dictionary uses: MorphemeSplitter and the tokenizers of models. Only
this module imports fugashi.
"""

from __future__ import annotations

import os
import shlex
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, chain, pairwise
from operator import itemgetter
from typing import Any, NamedTuple

# Part of speech, preceding blanks and surface of each morpheme, each followed by a tab.
_NODE = r"%F,[0,1,2]\t%pS\t%m\t"
_FIELDS = 3

# By the options of MeCab. A tagger that was loaded stays for ever.
_TAGGERS: dict[str, Tagger] = {}
# By process, so that a fork inherits no lock that is held. MeCab computes with the interpreter
# locked, so that waiting for this lock costs no time besides.
_LOCKS: dict[int, threading.Lock] = {}
# Threads on which whoever makes a tagger of fugashi's is given the shared one.
_SHARING: Counter[int] = Counter()

# A morpheme: its start in the text, and its part of speech, such as 名詞,普通名詞,一般.
Node = tuple[int, str]


class Word(NamedTuple):
    """A morpheme, as far as tokenizers read fugashi's.

    Attributes:
        surface: Its characters.
    """

    surface: str


# Makes a Word without running Python code, as for spans.
_new_word: Callable[[tuple[str]], Word] = partial(tuple.__new__, Word)


class Tagger:
    """MeCab with a dictionary. Any thread may use it, and it keeps nothing of a text.

    fugashi's own ``tagger(text)`` keeps every surface for ever, and ``tagger.parse(text)`` no more
    than the space that the longest text took.

    Args:
        options: Of MeCab, without those of its output.

    Raises:
        RuntimeError: If MeCab cannot load the dictionary.
    """

    def __init__(self, options: str) -> None:
        from fugashi.fugashi import GenericTagger  # what `shared` does not replace

        output = f"-O '' -F '{_NODE}' -U '{_NODE}' -E ."
        self._mecab = GenericTagger(f"{options} {output}")

    def __call__(self, text: str) -> list[Word]:
        """Return the morphemes that a tagger of fugashi returns.

        Args:
            text: Any string without lone surrogates.

        Returns:
            The morphemes in order, without the blanks between them.
        """
        read = text.partition("\0")[0]  # fugashi reads no further
        # For MeCab a tab is a blank like others.
        surfaces = self._parsed(read.replace("\t", " "))[2::_FIELDS]
        return list(map(_new_word, zip(surfaces, strict=True)))

    def nodes(self, text: str, first: int = 0) -> list[Node]:
        """Return where the morphemes of a text start, and their parts of speech.

        Args:
            text: Any string without lone surrogates, tabs and NUL.
            first: The position of its first character.

        Returns:
            The morphemes in order.
        """
        fields = self._parsed(text)
        tags = fields[:-1:_FIELDS]
        del fields[::_FIELDS]  # leaves blanks and surfaces in turn; they tile the text
        return list(zip(list(accumulate(map(len, fields), initial=first))[1::2], tags, strict=True))

    def _parsed(self, text: str) -> list[str]:
        """Return the fields of MeCab's output; the last field belongs to no morpheme."""
        with _lock():
            parsed: str = self._mecab.parse(text)
        return parsed.split("\t")


def tagger_of(options: str) -> Tagger:
    """Return the tagger of this process for a dictionary.

    Args:
        options: Of MeCab, without those of its output: the dictionary.

    Returns:
        The tagger, loaded if it is the first with these options.

    Raises:
        RuntimeError: If MeCab cannot load the dictionary.
    """
    ordered = _ordered(options)
    if ordered not in _TAGGERS:
        with _lock():
            if ordered not in _TAGGERS:
                _TAGGERS[ordered] = Tagger(ordered)
    return _TAGGERS[ordered]


@contextmanager
def shared() -> Iterator[None]:
    """Give the shared tagger to whoever makes a ``fugashi.GenericTagger`` on this thread.

    The tokenizers of transformers make one each and cannot be given one.

    Yields:
        Nothing.
    """
    thread = threading.get_ident()
    with _lock():
        _SHARING[thread] += 1
        _substitute()
    try:
        yield
    finally:
        with _lock():
            _SHARING.subtract((thread,))
            if not _SHARING[thread]:
                del _SHARING[thread]
            _substitute()


def _substitute() -> None:
    """Replace ``fugashi.GenericTagger`` while a thread shares, or restore it."""
    import fugashi
    from fugashi.fugashi import GenericTagger

    def generic_tagger(options: str = "", *args: Any, **kwargs: Any) -> Any:
        if not _SHARING[threading.get_ident()] or args or kwargs:
            return GenericTagger(options, *args, **kwargs)
        return tagger_of(options)

    fugashi.GenericTagger = generic_tagger if _SHARING else GenericTagger


def _ordered(options: str) -> str:
    """Order options by name, so that the same ones are the same string."""
    words = shlex.split(options)
    starts = [place for place, word in enumerate(words) if word.startswith("-")]
    groups = [words[start:end] for start, end in pairwise((*starts, len(words)))]
    groups.sort(key=itemgetter(0))
    return shlex.join(chain.from_iterable(groups))


def _lock() -> threading.Lock:
    return _LOCKS.setdefault(os.getpid(), threading.Lock())
