"""Load every page of the built documentation in a browser, wide and narrow, and see what is wrong.

What counts: errors in the console, missing images, images without an alternative text, links that
lead nowhere in the site, a page that scrolls sideways, a wrong ``lang``, and Japanese lines that
begin with a closing mark, and a text that begins too far down.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from chromium import MISSING, Chromium, find_browser

SITE = Path(__file__).parents[1] / "_build" / "html"
WIDE, NARROW = (1280, 900), (390, 844)
_MOST_TOP = 200  # where the text of a page begins

# What a page tells of itself.
LOOK = r"""(() => {
  const first = /[。、．，」』）】〉》！？ーっゃゅょ]/;
  const lonely = [];
  const walker = document.createTreeWalker(
    document.querySelector("article") || document.body, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  for (let node; (node = walker.nextNode());) {
    const text = node.data;
    for (let i = 1; i < text.length; i++) {
      if (!first.test(text[i]) || /\s/.test(text[i - 1])) continue;
      range.setStart(node, i); range.setEnd(node, i + 1);
      const mark = range.getBoundingClientRect();
      range.setStart(node, i - 1); range.setEnd(node, i);
      const before = range.getBoundingClientRect();
      if (mark.width && mark.top > before.top + before.height / 2) {
        lonely.push(text.slice(Math.max(0, i - 8), i + 1));
      }
    }
  }
  const wide = [];
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) {
    for (const one of document.querySelectorAll("article *")) {
      const right = one.getBoundingClientRect().right;
      if (right > width + 1) wide.push(one.tagName + "." + one.className);
    }
  }
  return {
    lang: document.documentElement.lang,
    top: Math.round((document.querySelector("article") || document.body)
      .getBoundingClientRect().top + scrollY),
    scroll: document.documentElement.scrollWidth - width,
    wide: wide.slice(0, 5),
    lonely: lonely.slice(0, 5),
    missing: [...document.images].filter((i) => !i.complete || !i.naturalWidth).map((i) => i.src),
    nameless: [...document.images].filter((i) => !i.alt.trim()).map((i) => i.src),
    links: [...document.querySelectorAll("a[href]")].map((a) => a.href),
    ids: [...document.querySelectorAll("[id]")].map((e) => e.id),
  };
})()"""

Look = dict[str, Any]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine alone.

    Args:
        folder: What to serve.

    Yields:
        The address, with a slash at its end.
    """
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def complaints(page: str, look: Look, size: str) -> list[str]:
    """Say what is wrong with one page by itself.

    Args:
        page: Its path in the site.
        look: What it told.
        size: At which size.

    Returns:
        One line for each.
    """
    found = [f"{name}: {one}" for name in ("missing", "nameless", "lonely") for one in look[name]]
    if look["scroll"] > 0:
        found.append(f"scrolls sideways by {look['scroll']} px: {', '.join(look['wide'])}")
    if look["top"] > _MOST_TOP:
        found.append(f"begins only after {look['top']} px")
    if look["lang"] != ("ja" if page.startswith("ja/") else "en"):
        found.append(f"lang is {look['lang']!r}")
    return [f"{page} ({size}): {one}" for one in found]


def broken_links(looks: dict[str, Look], base: str, folder: Path) -> list[str]:
    """Find links into the site that lead nowhere.

    Args:
        looks: What each page told.
        base: Where the site was served.
        folder: The site.

    Returns:
        One line for each.
    """
    found = []
    for page, look in looks.items():
        for link in sorted(set(look["links"])):
            if not link.startswith(base):
                continue
            parts = urlsplit(link)
            path = unquote(parts.path).lstrip("/") or "index.html"
            anchor = unquote(parts.fragment)
            if not (folder / path).is_file():
                found.append(f"{page}: no file {path}")
            elif anchor and path in looks and anchor not in looks[path]["ids"]:
                found.append(f"{page}: no anchor {path}#{anchor}")
    return found


def console_errors(page: str, messages: list[Look]) -> list[str]:
    """Find errors among what the browser said.

    Args:
        page: Which page it was.
        messages: What the browser said.

    Returns:
        One line for each.
    """
    found = []
    for message in messages:
        params = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            found.append(params["exceptionDetails"].get("text", "exception"))
        entry = params.get("entry", {})
        if message.get("method") == "Log.entryAdded" and entry.get("level") == "error":
            found.append(f"{entry['text']} {entry.get('url', '')}")
        if message.get("method") == "Runtime.consoleAPICalled" and params["type"] == "error":
            found.append("console.error")
    return [f"{page}: {one}" for one in found]


def check(program: str, folder: Path, pictures: Path | None, only: str) -> tuple[int, list[str]]:
    """Look at each page.

    Args:
        program: The browser.
        folder: The built site.
        pictures: Where screenshots go, if they are wanted.
        only: A part of the paths of the pages to look at.

    Returns:
        How many pages were looked at, and all that is wrong.
    """
    paths = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))
    wrong: list[str] = []
    looks: dict[str, Look] = {}
    with served(folder) as base, Chromium(program) as browser:
        for page in (path for path in paths if only in path):
            browser.open(base + page, *WIDE)
            for size, name in ((WIDE, "wide"), (NARROW, "narrow")):
                browser.resize(*size)
                looks[page] = browser.run(LOOK)
                wrong += complaints(page, looks[page], name)
                if pictures:
                    browser.screenshot((pictures / name / page).with_suffix(".png"))
            wrong += console_errors(page, browser.seen)
        return len(looks), wrong + broken_links(looks, base, folder)


def main() -> int:
    """Check the site, and print what is wrong.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--screenshots", type=Path, help="a folder for pictures of all pages")
    parser.add_argument("--only", default="", help="a part of the paths to look at")
    options = parser.parse_args()
    program = find_browser()
    if program is None:
        print(MISSING, file=sys.stderr)
        return 2
    if not (SITE / "index.html").is_file():
        print("There is no documentation yet. Run `make docs`.", file=sys.stderr)
        return 2
    started = time.monotonic()
    pages, wrong = check(program, SITE, options.screenshots, options.only)
    print(*wrong, sep="\n")
    seconds = time.monotonic() - started
    print(f"{pages} pages, wide and narrow, in {seconds:.0f} s: {len(wrong)} things are wrong.")
    return 1 if wrong or not pages else 0


if __name__ == "__main__":
    sys.exit(main())
