"""The pages of OHIF and the DICOMweb of an Orthanc under one origin, for the tests: `serve.py PAGES ORTHANC PORT`."""

from __future__ import annotations

import http.server
import mimetypes
import sys
import urllib.error
import urllib.request
from pathlib import Path

PAGES, ORTHANC, PORT = Path(sys.argv[1]).resolve(), sys.argv[2], int(sys.argv[3])
CONFIG = Path(__file__).with_name("app-config.js")
TYPES = {".wasm": "application/wasm", ".js": "text/javascript"}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/dicom-web/"):
            self._pass_on()
            return
        file = CONFIG if path == "/app-config.js" else PAGES / path.lstrip("/")
        if not file.is_file():  # a page of the application itself
            file = PAGES / "index.html"
        kind = TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        self._answer(200, kind, file.read_bytes())

    def do_POST(self) -> None:
        self._pass_on(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _pass_on(self, body: bytes | None = None) -> None:
        # Under the name that the browser used, of which Orthanc makes the addresses in its answers.
        names = ("Host", "Accept", "Content-Type")
        headers = {name: self.headers[name] for name in names if self.headers[name]}
        try:
            with urllib.request.urlopen(urllib.request.Request(ORTHANC + self.path, body, headers)) as answer:
                self._answer(answer.status, answer.headers.get("Content-Type", ""), answer.read())
        except urllib.error.HTTPError as error:
            self._answer(error.code, error.headers.get("Content-Type", ""), error.read())

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        # The viewer's workers share memory, which browsers allow to pages that are alone.
        headers = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
