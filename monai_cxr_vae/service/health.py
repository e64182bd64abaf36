"""``GET /health`` on this computer: how the node fares, in JSON, without a word about patients."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from monai_cxr_vae.errors import InputError

_LOOPBACK = "127.0.0.1"
_SECONDS = 5


class Health:
    """Answers while its ``with`` block lasts.

    Args:
        port: on 127.0.0.1.
        status: what to answer; 503 goes with an ``error`` in it, else 200.

    Raises:
        InputError: on entering, if the port is taken.
    """

    def __init__(self, port: int, status: Callable[[], dict[str, Any]]) -> None:
        self._port, self._status = port, status

    def __enter__(self) -> Health:
        status = self._status

        class Handler(BaseHTTPRequestHandler):
            timeout = _SECONDS

            def do_GET(self) -> None:
                # A web page whose name points to this computer comes under that name.
                if self.headers.get("Host", "").rsplit(":", 1)[0] not in (_LOOPBACK, "localhost"):
                    self.send_error(403)
                elif self.path != "/health":
                    self.send_error(404)
                else:
                    state = status()
                    body = json.dumps(state).encode()
                    self.send_response(503 if state.get("error") else 200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        try:
            self._server = ThreadingHTTPServer((_LOOPBACK, self._port), Handler)
        except OSError as error:
            raise InputError(f"{_LOOPBACK}:{self._port} cannot be listened to: {error.strerror}") from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()
        return self

    @property
    def port(self) -> int:
        """The port that is listened to."""
        return self._server.server_port

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
