"""A real browser for the page: Chromium, driven by its own debugging protocol and nothing else."""

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SWITCHES = (
    "--headless",
    "--remote-debugging-port=0",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)
START_SECONDS = 60


class NoBrowserError(Exception):
    """There is no browser to test in; the message says what would make one known."""


def find_browser() -> str:
    """Look at `CHROMIUM`, then for the usual names of Chromium and Chrome.

    Raises:
        NoBrowserError: there is none.
        ValueError: one was named that cannot be run.
    """
    if named := os.environ.get("CHROMIUM"):
        if shutil.which(named) is None:
            raise ValueError(f"CHROMIUM={named} cannot be run")
        return named
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise NoBrowserError("no Chromium here; set CHROMIUM to one to run them")
    return found


@dataclass(frozen=True)
class Said:
    """A line of the page's console, or an exception that nobody caught.

    Attributes:
        level: "log", "info", "warning", "error" and so on.
        url: the script or address that it is about.
    """

    level: str
    text: str
    url: str


class Browser:
    """One browser; use it in a `with` statement."""

    def __init__(self):
        self._command = find_browser()
        self._closing = ExitStack()

    def __enter__(self) -> "Browser":
        with ExitStack() as opened:
            folder = opened.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            command = [self._command, *SWITCHES, f"--user-data-dir={folder}", "about:blank"]
            if hasattr(os, "geteuid") and os.geteuid() == 0:
                command.append("--no-sandbox")  # root has none
            log = Path(folder) / "browser.log"
            with log.open("wb") as output:
                process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            opened.callback(_end, process)
            address = _address(process, log)
            self._socket = opened.enter_context(
                connect(address, proxy=None, max_size=None, max_queue=None, ping_interval=None)
            )
            self._closing = opened.pop_all()
        return self

    def __exit__(self, *raised):
        return self._closing.__exit__(*raised)

    def open(self, url: str, *, width: int = 1600, height: int = 1000, scale: float = 1) -> "Page":
        """Open a page in cookies and settings of its own; it closes with the browser."""
        page = Page(self._socket)
        context = page.call("Target.createBrowserContext")["browserContextId"]
        target = page.call("Target.createTarget", url="about:blank", browserContextId=context)
        page.attach(target["targetId"])
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        page.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )
        page.call("Page.navigate", url=url)
        return page


class Page:
    """A page of the browser.

    Attributes:
        console: all that it has said so far.
    """

    _calls = 0

    def __init__(self, socket):
        self._socket = socket
        self._session: dict[str, str] = {}
        self.console: list[Said] = []

    def attach(self, target: str) -> None:
        """Become the page of a target."""
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol.

        Raises:
            RuntimeError: the browser refused it.
        """
        Page._calls += 1
        call = {"id": Page._calls, "method": method, "params": params, **self._session}
        self._socket.send(json.dumps(call))
        while True:
            said = json.loads(self._socket.recv(timeout=120))
            if said.get("id") == call["id"]:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']['message']}")
                return said["result"]
            if said.get("sessionId") == self._session.get("sessionId"):
                self._hear(said.get("method"), said.get("params", {}))

    def evaluate(self, code: str, **values: Any) -> Any:
        """Give what an expression of JavaScript is, after its promise; `values` are names in it.

        Raises:
            AssertionError: it threw.
        """
        names = ", ".join(values)
        given = ", ".join(json.dumps(value) for value in values.values())
        answer = self.call(
            "Runtime.evaluate",
            expression=f"(async ({names}) => ({code}))({given})",
            awaitPromise=True,
            returnByValue=True,
        )
        if thrown := answer.get("exceptionDetails"):
            raise AssertionError(thrown["exception"].get("description", thrown["text"]))
        return answer["result"].get("value")

    def wait_for(self, code: str, *, timeout: float = 60, **values: Any) -> Any:
        """Wait until an expression is true; give its value.

        Raises:
            TimeoutError: it never was; with what the console said last.
        """
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            if found := self.evaluate(code, **values):
                return found
            time.sleep(0.1)
        raise TimeoutError(f"not within {timeout} s: {code}; console: {self.console[-8:]}")

    def click(self, x: float, y: float, *, times: int = 1) -> None:
        """Press and release the left button at a place of the viewport."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for count in range(1, times + 1):
            button = {"x": x, "y": y, "button": "left", "clickCount": count}
            self.call("Input.dispatchMouseEvent", type="mousePressed", **button)
            self.call("Input.dispatchMouseEvent", type="mouseReleased", **button)

    def screenshot(self, path: Path) -> None:
        """Write what is seen, as a PNG or a JPEG by the suffix."""
        kind = {".png": {"format": "png"}, ".jpg": {"format": "jpeg", "quality": 80}}[path.suffix]
        shot = self.call("Page.captureScreenshot", **kind)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _hear(self, event, params):
        if event == "Runtime.consoleAPICalled":
            words = (part.get("value", part.get("description", "")) for part in params["args"])
            frames = params.get("stackTrace", {}).get("callFrames") or [{"url": ""}]
            level = params["type"]
            self.console.append(Said(level, " ".join(map(str, words)), frames[0]["url"]))
        elif event == "Runtime.exceptionThrown":
            thrown = params["exceptionDetails"]
            text = thrown.get("exception", {}).get("description", thrown["text"])
            self.console.append(Said("error", text, thrown.get("url", "")))
        elif event == "Log.entryAdded":
            entry = params["entry"]
            self.console.append(Said(entry["level"], entry["text"], entry.get("url", "")))


def _address(process, log):
    """Wait until the browser says where it listens."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        printed = log.read_text(encoding="utf-8", errors="replace")
        if found := re.search(r"DevTools listening on (ws://\S+)", printed):
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"the browser did not start: {printed[-2000:]}")


def _end(process):
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
