"""A real browser without a screen: shows a page as asked, says what it complains of and what its page looks like.

It is spoken to in the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/) through two pipes:
messages in JSON, each ended by a NUL.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Final, Self

PROGRAM: Final = shutil.which("chromium") or shutil.which("chromium-browser")
_LIMIT_S: Final = 60.0
_WORDS: Final = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--remote-debugging-pipe",
)  # fmt: skip
_PIPES: Final = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
"""The browser reads from descriptor 3 and writes to 4."""


class Browser:
    """A browser with one empty page. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._session = ""
        self._heard = b""
        self.complaints: list[str] = []
        """What the browser has to say of the page that is shown, as its console has it."""

    def __enter__(self) -> Self:
        theirs, self._to = os.pipe()
        self._from, back = os.pipe()
        self._process = subprocess.Popen(
            ["bash", "-c", _PIPES, "bash", str(theirs), str(back), str(PROGRAM), *_WORDS,
             f"--user-data-dir={self._folder}", "about:blank"],
            pass_fds=(theirs, back), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(back)
        try:
            target = self.does("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.does("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Log", "Runtime"):
                self.does(f"{domain}.enable")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(_LIMIT_S)
        os.close(self._to)
        os.close(self._from)

    def does(self, method: str, **words: object) -> dict[str, Any]:
        """Have the browser do something and return its answer."""
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": words}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + _LIMIT_S
        while (answer := self._hear(until)).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, answer["error"]
        result: dict[str, Any] = answer["result"]
        return result

    def _hear(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._heard:
            left = until - time.monotonic()
            assert left > 0, "no answer of the browser"
            if select.select([self._from], [], [], left)[0]:
                got = os.read(self._from, 1 << 16)
                assert got, "the browser has ended"
                self._heard += got
        text, _, self._heard = self._heard.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        match event.get("method"):
            case "Log.entryAdded":
                self.complaints.append(event["params"]["entry"]["text"])
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(event["params"]))

    def shows(self, page: Path, *, width: int, scheme: str) -> None:
        """Show a page, that wide, to a person who prefers `light` or `dark`."""
        self.complaints.clear()
        self.does(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1,
            mobile=width < 600,
        )  # fmt: skip
        self.does("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.does("Page.navigate", url=page.as_uri())
        until = time.monotonic() + _LIMIT_S
        while self.says("document.readyState") != "complete" or self.says("location.href") != page.as_uri():
            assert time.monotonic() < until, "the page does not come"
            time.sleep(0.02)

    def says(self, expression: str) -> Any:
        """Return what a JavaScript expression is in the page; the page's own policy does not bind it."""
        answer = self.does("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self) -> bytes:
        """Return what is to be seen, as PNG."""
        return base64.b64decode(self.does("Page.captureScreenshot", format="png")["data"])
