"""What a client may ask for: names that are one name, and nothing on behalf of another site's web page."""

from __future__ import annotations

from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send


def is_name(text: object) -> bool:
    """Whether this is the name of one thing in a folder, rather than a way to somewhere else."""
    return isinstance(text, str) and text not in ("", ".", "..") and not set(text) & set("/\\\0")


class OneNameEach:
    """ASGI middleware that refuses ids, tags and sessions which are paths, archives to unpack, and foreign web pages.

    MONAI Label joins what it is given to its folders without a look, on every route. What comes in forms (names of
    files, parameters) is looked at where it is used, see main.py.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (self.app if refusal is None else refusal)(scope, receive, send)

    @staticmethod
    def _refusal(scope: Scope) -> JSONResponse | None:
        headers, query = Headers(scope=scope), parse_qsl(scope["query_string"].decode("latin-1"))
        # A browser tells which site's page asks; pages of this server have its own address.
        page = headers.get("origin")
        if page is not None and page.partition("://")[2] != headers.get("host"):
            return JSONResponse({"detail": "web pages of other sites are refused"}, 403)
        if any(part and not is_name(part) for part in (*scope["path"].split("/"), *(value for _, value in query))):
            return JSONResponse({"detail": "a name must not be a path"}, 422)
        if any(name == "uncompress" and value.lower() != "false" for name, value in query):
            return JSONResponse({"detail": "archives are not unpacked; send films one by one"}, 422)
        return None
