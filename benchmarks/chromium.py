"""A headless Chromium that is told what to do over its DevTools protocol: for tests and measurements of pages."""

from __future__ import annotations

import asyncio
import base64
import itertools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil

NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_S = 180.0


def installed() -> str:
    """Path of the browser; "" where none is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), "")


class Page:
    """One page of the browser; `requests` are the addresses that it asked for, `errors` what it complained of."""

    def __init__(self, loop: asyncio.AbstractEventLoop, socket: Any, process: subprocess.Popen[str]) -> None:
        self._loop, self._socket, self._process = loop, socket, process
        self._numbers = itertools.count(1)
        self.requests: list[str] = []
        self.errors: list[str] = []

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """What the browser answers to a command of its protocol."""
        return self._loop.run_until_complete(asyncio.wait_for(self._send(method, parameters), TIMEOUT_S))

    def evaluate(self, script: str) -> Any:
        """The value of JavaScript; a promise is waited for.

        Raises:
            RuntimeError: it threw.
        """
        answer = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"].get("exception", answer["exceptionDetails"])))
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Waits until JavaScript is true of the page."""
        waiting = f"""new Promise((done, fail) => {{
            const end = Date.now() + {TIMEOUT_S * 900};
            (function look() {{
                if ({condition}) done(); else if (Date.now() > end) fail({condition!r}); else setTimeout(look, 20);
            }})();
        }})"""
        self.evaluate(waiting)

    def open(self, address: str) -> None:
        """Loads a page anew."""
        self.send("Page.navigate", url="about:blank")
        self.requests.clear()
        self.errors.clear()
        self.send("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete'")

    def look(self, width: int = 1280, height: int = 800, *, dark: bool = False, mobile: bool = False) -> None:
        """Sets the size of the window, in CSS pixels, and what the user prefers."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[feature])

    def press(self, key: str) -> None:
        """A key of the keyboard, by its name or sign."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        code = {"Enter": 13, "Escape": 27}.get(key, 0)
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path) -> None:
        """What is seen, as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def memory_bytes(self) -> int:
        """Of the largest process of the browser, which is that of the page, what it shares with none."""
        sizes = [0]
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.Error):  # one that is just ending
                if "--type=renderer" in process.cmdline():
                    sizes.append(process.memory_full_info().uss)
        return max(sizes)

    async def _send(self, method: str, parameters: dict[str, Any]) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = await self._socket.receive_json()
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.errors.append(str(message["params"]))
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]


@contextmanager
def browsing() -> Iterator[Page]:
    """Starts the browser with one empty page."""
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
        process = subprocess.Popen(
            [installed(), *options, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr
            address = next(found[0] for line in process.stderr if (found := re.findall(r"ws://\S+", line)))
            yield loop.run_until_complete(_attached(loop, address, process))
        finally:
            process.terminate()
            process.wait()
            loop.run_until_complete(_close(loop))
            loop.close()


_SESSIONS: dict[int, aiohttp.ClientSession] = {}


async def _attached(loop: asyncio.AbstractEventLoop, address: str, process: subprocess.Popen[str]) -> Page:
    session = _SESSIONS[id(loop)] = aiohttp.ClientSession()
    async with session.get(address.replace("ws://", "http://").partition("/devtools")[0] + "/json/list") as answer:
        target = next(one for one in await answer.json() if one["type"] == "page")
    socket = await session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0)
    page = Page(loop, socket, process)
    for domain in ("Page", "Runtime", "Network", "Log"):
        await page._send(f"{domain}.enable", {})
    return page


async def _close(loop: asyncio.AbstractEventLoop) -> None:
    await _SESSIONS.pop(id(loop)).close()
