"""Where texts may be cut: the splitters, and what a splitter of your own takes and gives."""

from __future__ import annotations

from safe_embed.text.morphemes import MorphemeSplitter
from safe_embed.text.punctuation import PunctuationSplitter
from safe_embed.text.user_splitters import FunctionSplitter, RegexSplitter
from safe_embed.types import Span, Splitter

__all__ = [
    "FunctionSplitter",
    "MorphemeSplitter",
    "PunctuationSplitter",
    "RegexSplitter",
    "Span",
    "Splitter",
]
