"""A headless Chromium over the DevTools protocol: as much of it as the page's tests need.

Knows the protocol; refuses to know the page. What the console said, exceptions and violations of policies
are collected in `Tab.complaints`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

__all__ = ["Browser", "Tab", "find_browser"]

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-default-apps",
    "--disable-features=Translate,MediaRouter",
    "--no-proxy-server",
    "--mute-audio",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)


def find_browser() -> str | None:
    found = (shutil.which(n) for n in ("chromium", "chromium-browser", "google-chrome", "chrome"))
    return next((path for path in found if path), None)


class Browser:
    """Started at once, in a profile of its own under `folder`."""

    def __init__(self, folder: Path) -> None:
        program = find_browser()
        assert program is not None
        self._process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        address = folder / "DevToolsActivePort"
        deadline = time.monotonic() + 30
        while not (address.exists() and address.read_text().count("\n")):
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.close()
                raise TimeoutError("the browser did not start")
            time.sleep(0.05)
        self.port = int(address.read_text().split("\n")[0])

    def tab(
        self, width: int = 1280, height: int = 900, *, phone: bool = False, dark: bool = False
    ) -> Tab:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/json/new", method="PUT")
        with urllib.request.urlopen(request) as answer:
            about = json.load(answer)
        tab = Tab(about["webSocketDebuggerUrl"])
        tab.look(width, height, phone=phone, dark=dark)
        return tab

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Tab:
    def __init__(self, url: str) -> None:
        self._stack = contextlib.ExitStack()
        self._connection = self._stack.enter_context(
            connect(url, max_size=1 << 26, compression=None, ping_interval=None)
        )
        self._serial = 0
        self.complaints: list[str] = []
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        self._serial += 1
        self._connection.send(json.dumps({"id": self._serial, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv(timeout=30))
            if message.get("id") == self._serial:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return dict(message["result"])
            self._heard(message.get("method", ""), message.get("params", {}))

    def _heard(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(str(details.get("exception", {}).get("description", details)))
        elif method == "Runtime.consoleAPICalled" and params["type"] in (
            "error",
            "warning",
            "assert",
        ):
            self.complaints.append(" ".join(str(a.get("value", a)) for a in params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            entry = params["entry"]
            self.complaints.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}")

    # -- what a person does --------------------------------------------------------------------------

    def look(self, width: int, height: int, *, phone: bool = False, dark: bool = False) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        self.send("Emulation.setTouchEmulationEnabled", enabled=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def go(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def click(self, selector: str) -> None:
        """Where it is on the screen, as a pointer does."""
        x, y = self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'nearest'}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        self.pointer("mouseMoved", x, y)
        self.pointer("mousePressed", x, y, button="left", clickCount=1)
        self.pointer("mouseReleased", x, y, button="left", clickCount=1)

    def pointer(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def press(self, key: str) -> None:
        more = {"text": "\r", "windowsVirtualKeyCode": 13} if key == "Enter" else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, **more)
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    # -- what a person sees --------------------------------------------------------------------------

    def value(self, expression: str) -> Any:
        """Of a JavaScript expression, as JSON can hold it; promises are awaited."""
        done = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in done:
            raise AssertionError(str(done["exceptionDetails"]))
        return done["result"].get("value")

    def text(self, selector: str) -> str:
        return str(self.value(f"document.querySelector({json.dumps(selector)})?.textContent ?? ''"))

    def wait(self, condition: str, seconds: float = 10) -> Any:
        """The first true value of the expression."""
        deadline = time.monotonic() + seconds
        while not (found := self.value(condition)):
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {condition}; {self.complaints[-3:]}")
            time.sleep(0.03)
        return found

    def picture(self, file: Path, whole: bool = False) -> None:
        done = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(done["data"]))

    def close(self) -> None:
        self.send("Page.close")
        self._stack.close()
