"""Foreign servers for the tests: started, waited for, and asked over HTTP."""

from __future__ import annotations

import email
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """Status, content type and body of a response, whatever the status."""

    status: int
    kind: str
    body: bytes

    def json(self) -> Any:
        assert self.status == 200, f"{self.status}: {self.body[:500]!r}"
        return json.loads(self.body)

    def parts(self) -> dict[str, bytes]:
        """The parts of a multipart body by their names."""
        assert self.status == 200, f"{self.status}: {self.body[:500]!r}"
        message = email.message_from_bytes(b"Content-Type: " + self.kind.encode() + b"\r\n\r\n" + self.body)
        return {
            str(part.get_param("name", header="Content-Disposition")): part.get_payload(decode=True)
            for part in message.get_payload()
        }


def ask(
    url: str,
    data: bytes | None = None,
    method: str | None = None,
    kind: str = "",
    accept: str = "*/*",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    headers = {"Accept": accept, **({"Content-Type": kind} if kind else {}), **(headers or {})}
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return Answer(answer.status, answer.headers.get("Content-Type", ""), answer.read())
    except urllib.error.HTTPError as error:
        return Answer(error.code, error.headers.get("Content-Type", ""), error.read())


def ask_json(url: str, body: Any) -> Answer:
    return ask(url, json.dumps(body).encode(), kind="application/json")


def ask_form(
    url: str, fields: dict[str, str], files: dict[str, Path | tuple[str, bytes]], method: str = "POST"
) -> Answer:
    """Send fields and files, or what is said to be a file of a name, as multipart/form-data."""
    limit, body = uuid.uuid4().hex, b""
    for name, value in fields.items():
        body += f'--{limit}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    for name, file in files.items():
        file_name, content = (file.name, file.read_bytes()) if isinstance(file, Path) else file
        head = f'--{limit}\r\nContent-Disposition: form-data; name="{name}"; filename="{file_name}"\r\n\r\n'
        body += head.encode() + content + b"\r\n"
    return ask(url, body + f"--{limit}--\r\n".encode(), method, f"multipart/form-data; boundary={limit}")


@contextmanager
def running(command: list[str], url: str, log: Path, **options: Any) -> Iterator[None]:
    """Start a server, wait until ``url`` answers, and end it with the processes that it has started."""
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, **options)
    try:
        deadline = time.monotonic() + 600
        while True:
            try:
                ask(url)
                break
            except OSError:
                assert server.poll() is None, log.read_text()[-5000:]
                assert time.monotonic() < deadline, log.read_text()[-5000:]
                time.sleep(0.1)
        yield
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()
