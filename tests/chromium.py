"""A headless Chromium for tests of pages, driven through chromedriver's HTTP interface (the W3C WebDriver protocol)."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,900")


def is_installed() -> bool:
    return bool(shutil.which("chromedriver") and shutil.which("chromium"))


@dataclass(frozen=True)
class Browser:
    """An open window."""

    session: str
    """URL of the session."""

    def open(self, page: Path) -> None:
        _call(f"{self.session}/url", {"url": page.absolute().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """What the body of a JavaScript function returns."""
        return _call(f"{self.session}/execute/sync", {"script": script, "args": list(arguments)})

    def press(self, keys: str) -> None:
        """Types keys into what has the focus."""
        down = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        _call(f"{self.session}/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": down}]})

    def resize(self, width: int, height: int) -> None:
        _call(f"{self.session}/window/rect", {"width": width, "height": height})

    def emulate(self, width: int, height: int, dark: bool = False) -> None:
        """Shows the page as a screen of this size does, narrower than a window can be, and perhaps as a dark one."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._devtools("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", {"media": "", "features": [scheme]})

    def paper(self) -> bytes:
        """The page as it is printed: a PDF."""
        return base64.b64decode(_call(f"{self.session}/print", {}))

    def picture(self) -> bytes:
        """What the window shows: a PNG."""
        with urllib.request.urlopen(f"{self.session}/screenshot", timeout=60) as answer:
            return base64.b64decode(json.loads(answer.read())["value"])

    def _devtools(self, command: str, parameters: dict[str, Any]) -> None:
        _call(f"{self.session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def complaints(self) -> list[str]:
        """Errors and warnings on the console since it was last asked."""
        return [entry["message"] for entry in _call(f"{self.session}/se/log", {"type": "browser"})]


@contextmanager
def window() -> Iterator[Browser]:
    """A window of a fresh browser, closed afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(["chromedriver", f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(f"http://127.0.0.1:{port}/status")
        options = {"binary": shutil.which("chromium"), "args": list(FLAGS)}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = _call(f"http://127.0.0.1:{port}/session", {"capabilities": {"alwaysMatch": wanted}})
        session = f"http://127.0.0.1:{port}/session/{made['sessionId']}"
        try:
            yield Browser(session)
        finally:
            _call(session, None, "DELETE")
    finally:
        driver.terminate()
        driver.wait(timeout=20)


def _call(url: str, body: Any, method: str = "POST") -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())["value"]
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(error.read().decode()[:600]) from None


def _wait(url: str, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"chromedriver does not answer at {url}")
