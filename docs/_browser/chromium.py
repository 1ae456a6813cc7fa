"""A headless Chromium, driven over its debugging pipe: no package and no open port is needed."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = """No browser was found that could look at the documentation. Install one:
  Debian: apt-get install --no-install-recommends chromium fonts-ipafont-gothic
  macOS:  brew install --cask chromium
or name it: make docs-check CHROMIUM=/path/to/chromium"""
_SECONDS = 30.0

Message = dict[str, Any]


def find_browser() -> str | None:
    """Look for a Chromium.

    Returns:
        What ``CHROMIUM`` names, or the first one on the path, or ``None``.
    """
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, NAMES)), None)


class Chromium:
    """One page of a browser.

    Args:
        program: The browser.
    """

    def __init__(self, program: str) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        options = [
            "--headless=new",
            "--remote-debugging-pipe",
            f"--user-data-dir={self._profile.name}",
            "--no-first-run",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--hide-scrollbars",
            "--lang=ja",
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            options.append("--no-sandbox")  # as root, in a container, there is none to be had
        # It reads from 3 and writes to 4.
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", shell, "sh", program, *options, "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._number = 0
        self._session: str | None = None
        self._rest = b""
        self.seen: list[Message] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def __enter__(self) -> Self:
        """Give the browser itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    def ask(self, method: str, **params: Any) -> Message:
        """Ask the browser, and wait for the answer; what it tells meanwhile is kept in ``seen``.

        Args:
            method: Of the DevTools protocol.
            **params: Its parameters.

        Returns:
            The result.

        Raises:
            RuntimeError: If the browser refuses.
        """
        self._number += 1
        message: Message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                break
            self.seen.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: Message = answer["result"]
        return result

    def open(self, url: str, width: int, height: int) -> None:
        """Open a page, and wait until it has loaded.

        Args:
            url: Where it is.
            width: Of the window, in CSS pixels.
            height: Of the window.

        Raises:
            RuntimeError: If it cannot be opened.
        """
        self.resize(width, height)
        self.seen.clear()
        if "errorText" in (done := self.ask("Page.navigate", url=url)):
            raise RuntimeError(f"{url}: {done['errorText']}")
        while not any(one.get("method") == "Page.loadEventFired" for one in self.seen):
            self.seen.append(self._read())

    def resize(self, width: int, height: int) -> None:
        """Give the window a size.

        Args:
            width: In CSS pixels.
            height: Likewise.
        """
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def run(self, script: str) -> Any:
        """Run a script in the page.

        Args:
            script: An expression.

        Returns:
            Its value.

        Raises:
            RuntimeError: If it throws.
        """
        done = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in done:
            raise RuntimeError(str(done["exceptionDetails"]))
        return done["result"].get("value")

    def screenshot(self, path: Path, most_height: int = 6000) -> None:
        """Take a picture of the whole page.

        Args:
            path: Where to.
            most_height: What is below is left out.
        """
        size = self.ask("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "scale": 1}
        clip["height"] = min(size["height"], most_height)
        done = self.ask("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(done["data"]))

    def _read(self) -> Message:
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], _SECONDS)[0]:
                raise TimeoutError(f"The browser has said nothing for {_SECONDS:.0f} s.")
            if not (more := os.read(self._in, 1 << 20)):
                raise RuntimeError("The browser has ended. Does it start from a shell?")
            self._rest += more
        first, _, self._rest = self._rest.partition(b"\0")
        message: Message = json.loads(first)
        return message
