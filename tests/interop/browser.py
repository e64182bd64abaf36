"""A headless Chromium, driven over its debugging pipe."""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
from pathlib import Path
from typing import Any


class Browser:
    """One page; a context manager. ``requests`` and ``complaints`` are what it asked the network and the console for.

    Args:
        program: path of Chromium.
        profile: an empty folder.
        webgl: let pages draw in three dimensions, by software.
    """

    def __init__(self, program: str, profile: Path, webgl: bool = False) -> None:
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self._numbers = itertools.count(1)
        self._session: str | None = None
        (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
        # The pipe's ends must be descriptors 3 and 4 of the browser.
        command = 'exec 3<&"$1" 4>&"$2"; shift 2; exec "$@"'
        options = ["--headless=new", "--no-sandbox", "--no-first-run", "--no-proxy-server", "--window-size=1400,1000"]
        software = [
            "--use-gl=angle",
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
            "--ignore-gpu-blocklist",
        ]
        options += software if webgl else ["--disable-gpu"]
        options += ["--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            ["bash", "-c", command, "-", str(theirs_in), str(theirs_out), program, *options],
            pass_fds=(theirs_in, theirs_out),
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in), os.close(theirs_out)
        self._write, self._read = os.fdopen(ours_out, "wb", buffering=0), os.fdopen(ours_in, "rb")

    def __enter__(self) -> Browser:
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self._ask(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._write.close(), self._read.close()

    def open(self, page: Path | str) -> None:
        """Load a file, or an address, and wait until its scripts have run."""
        self._ask("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        self._wait("Page.loadEventFired")

    def __call__(self, script: str) -> Any:
        """The value of an expression on the page."""
        answer = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self) -> bytes:
        """What the page looks like, as a PNG file."""
        return base64.b64decode(self._ask("Page.captureScreenshot")["data"])

    def _ask(self, method: str, **parameters: Any) -> Any:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _wait(self, event: str) -> None:
        while self._receive().get("method") != event:
            pass

    def _receive(self) -> dict[str, Any]:
        parts = []
        while (byte := self._read.read(1)) != b"\0":
            assert byte, "the browser is gone"
            parts.append(byte)
        message: dict[str, Any] = json.loads(b"".join(parts))
        parameters = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"][:200])
        told = message.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert")
        if told or message.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
            self.complaints.append(json.dumps(parameters)[:500])
        return message
