"""Headless Chromium, driven by chromedriver: W3C's WebDriver over HTTP."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WAIT_S = 60.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    "--window-size=1360,900",
)
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the standard's key of an element


def missing() -> str:
    """What this machine lacks; empty: nothing."""
    if not any(map(shutil.which, BROWSERS)):
        return "Chromium"
    return "" if shutil.which("chromedriver") else "chromedriver"


class Browser:
    """One window."""

    def __init__(self, driver: str, profile: Path) -> None:
        self._session = driver
        chrome = {
            "args": [*ARGUMENTS, f"--user-data-dir={profile}"],
            "binary": next(filter(None, map(shutil.which, BROWSERS))),
        }
        wanted = {"goog:chromeOptions": chrome, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session += f"/session/{made['sessionId']}"

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._session + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None

    def open(self, url: str) -> None:
        """Shows the page at an address."""
        self._call("POST", "/url", {"url": url})

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is in the page."""
        return self._call("POST", "/execute/sync", {"script": f"return {expression}", "args": []})

    def wait(self, expression: str) -> Any:
        """The same once it is true."""
        give_up_s = time.monotonic() + WAIT_S
        while not (value := self.value(expression)):
            assert time.monotonic() < give_up_s, (expression, self.value("document.body.innerText"))
            time.sleep(0.05)
        return value

    def _element(self, selector: str) -> str:
        found = self._call("POST", "/element", {"using": "css selector", "value": selector})
        return f"/element/{found[ELEMENT]}"

    def write(self, selector: str, text: str) -> None:
        """Keys into a field, instead of what is there."""
        element = self._element(selector)
        self._call("POST", f"{element}/clear", {})
        self._call("POST", f"{element}/value", {"text": text})

    def click(self, selector: str) -> None:
        """A click on an element."""
        self._call("POST", f"{self._element(selector)}/click", {})

    def errors(self) -> list[str]:
        """What the console has said since the last time, warnings and worse."""
        entries = self._call("POST", "/se/log", {"type": "browser"})
        return [each["message"] for each in entries if each["level"] in ("WARNING", "SEVERE")]

    def picture(self, path: Path) -> None:
        """A PNG of what is shown now."""
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def close(self) -> None:
        """Ends the browser."""
        self._call("DELETE", "")


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser, with its profile in a folder."""
    process = subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"started successfully on port (\d+)", line):
            break
    else:
        raise AssertionError("chromedriver has not started")
    reading = threading.Thread(target=process.stdout.read, daemon=True)
    reading.start()
    try:
        window = Browser(f"http://127.0.0.1:{found[1]}", folder / "profile")
        try:
            yield window
        finally:
            window.close()
    finally:
        process.terminate()
        process.wait(WAIT_S)
        reading.join(WAIT_S)
        process.stdout.close()
