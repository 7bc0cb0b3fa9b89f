"""A real Chromium without a screen, driven by its DevTools protocol: one page of a file."""

import itertools
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.backends.stack import PATIENCE_S, MissingError, die_with_us, until
from tests.programs import start

#: Nothing of it asks anybody on the network, and nothing is kept.
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-port=0", "about:blank"),
)


@contextmanager
def opened(directory: Path) -> Iterator["Browser"]:
    """Start a browser with one tab; *directory* is new, for its user."""
    program = shutil.which("chromium")
    if program is None:
        raise MissingError("no chromium: run tests/backends/install")
    command = [*die_with_us("KILL"), program, f"--user-data-dir={directory}", *_OPTIONS]
    with (directory.parent / "browser.log").open("wb") as log:
        process = start(*command, stdout=log, stderr=log)
    try:
        told = directory / "DevToolsActivePort"
        port, path = until(lambda: told.exists() and told.read_text().split(), _are_two)
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None) as socket:
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _are_two(words: Any) -> bool:
    return words and len(words) == 2


class Browser:
    """One tab of it."""

    def __init__(self, socket: ClientConnection) -> None:
        self._ids = itertools.count(1)
        self._socket = socket
        self._session = ""
        #: Addresses that were asked for.
        self.asked: list[str] = []
        tab = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Accessibility", "Runtime"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> Any:
        """Return the answer to one command; what happens meanwhile is noted."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while True:
            got = json.loads(self._socket.recv(PATIENCE_S))
            if got.get("method") == "Network.requestWillBeSent":
                self.asked.append(got["params"]["request"]["url"])
            if got.get("id") == number:
                assert "error" not in got, got
                return got["result"]

    def open(self, file: Path, *, width: int, scheme: str = "light") -> None:
        """Show *file* in a window so wide, to somebody who wants it light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=features)
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.ask("Page.navigate", url=file.as_uri())
        until(lambda: self.value("document.readyState") == "complete")

    def value(self, expression: str) -> Any:
        """Return what a JavaScript expression is."""
        got = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in got, got
        return got["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key and let it go."""
        code = {"Tab": 9, "Enter": 13}[key]
        event = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        text = {"text": "\r"} if key == "Enter" else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **event, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **event)

    def tree(self) -> list[tuple[str, str]]:
        """Return role and name of all that a screen reader finds, in its order."""
        nodes = self.ask("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"]
        ]
