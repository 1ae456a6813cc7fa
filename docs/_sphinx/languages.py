"""Two languages in one site: English pages at docs/, Japanese ones of the same name at docs/ja/.

Each page links to its translation, or to the page that its front matter names (``translation:``),
or to the start page of the other language. The sidebar holds the pages of one language only, and
``lang`` and the words of the theme are those of the page.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_JAPANESE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_SECTION = re.compile(r'(?=<p class="caption")')

# What the theme says, in Japanese; Sphinx translates a whole site only.
_WORDS = {
    "Skip to content": "本文へ",
    "Back to top": "先頭へ戻る",
    "Next": "次",
    "Previous": "前",
    "Home": "入口",
    "On this page": "このページの内容",
    "Search": "検索",
    "Index": "索引",
    "Made with ": "組版 ",
}


def is_japanese(page: str) -> bool:
    """Tell the language of a page by its folder.

    Args:
        page: Its name, such as ``"ja/start"``.

    Returns:
        Whether it is Japanese.
    """
    return page.startswith("ja/")


def other_language(page: str, named: str | None, pages: set[str]) -> str:
    """Find where a reader of the other language is sent.

    Args:
        page: The page that is read.
        named: What its front matter names as its translation.
        pages: All pages.

    Returns:
        The named page, else the one of the same name, else the start page of the other language.
    """
    home = "index" if is_japanese(page) else "ja/index"
    twin = page.removeprefix("ja/") if is_japanese(page) else f"ja/{page}"
    return next((one for one in (named, twin) if one in pages), home)


def one_language(navigation: str, *, japanese: bool) -> str:
    """Keep the parts of the sidebar that are captioned in the language of the page.

    Args:
        navigation: The tree of the theme: captions, each with its list.
        japanese: Whether the Japanese ones are to be kept.

    Returns:
        The sidebar with these parts alone.
    """
    parts = _SECTION.split(navigation)
    kept = [part for part in parts[1:] if japanese == bool(_JAPANESE.search(_caption(part)))]
    return parts[0] + "".join(kept)


def _caption(part: str) -> str:
    return part.partition("</p>")[0]


def _translated(message: str) -> str:
    return _WORDS.get(message.strip(), _WORDS.get(message, message))


def _add_language(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    del templatename, doctree
    japanese = is_japanese(pagename)
    context["language"] = "ja" if japanese else "en"
    context["furo_navigation_tree"] = one_language(
        context["furo_navigation_tree"], japanese=japanese
    )
    named = app.env.metadata.get(pagename, {}).get("translation")
    context["other_language"] = other_language(pagename, named, app.env.found_docs)
    context["home"] = "ja/index" if japanese else "index"
    for side in ("prev", "next"):
        link = (context.get(side) or {}).get("link", "")
        if japanese != is_japanese(_target(pagename, link)):
            context[side] = None
    if japanese:
        context["_"] = context["gettext"] = _translated


def _target(page: str, link: str) -> str:
    """Resolve a relative link of a page."""
    folders = page.split("/")[:-1]
    for step in link.split("/"):
        folders = folders[:-1] if step == ".." else [*folders, step]
    return "/".join(folders)


def setup(app: Sphinx) -> dict[str, Any]:
    """Take part in the build.

    Args:
        app: Sphinx.

    Returns:
        What Sphinx wants to know of an extension.
    """
    app.connect("html-page-context", _add_language, priority=900)  # the theme comes at 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
