"""MONAI Label's web application for this computer alone: for no web page of another site, no other host's name.

Its own setting for pages, MONAI_LABEL_CORS_ORIGINS, ends version 0.8.5 with an error.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from fastapi import FastAPI, HTTPException
from guard import OneNameEach
from monailabel.app import app
from monailabel.endpoints import infer
from starlette.middleware.trustedhost import TrustedHostMiddleware

__all__ = ["app"]

app.user_middleware.clear()
# A page whose name somebody lets point to this computer is of the same site for the browser, but not for this.
app.add_middleware(OneNameEach)
app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])

_lifespan = app.router.lifespan_context


@asynccontextmanager
async def _with_own_folder(application: FastAPI) -> AsyncIterator[None]:
    """What clients send lies among no other program's files until it is answered; main.py opens nothing else."""
    with tempfile.TemporaryDirectory(prefix="monailabel-", ignore_cleanup_errors=True) as tempfile.tempdir:
        async with _lifespan(application):
            yield


app.router.lifespan_context = _with_own_folder


def _refuse(*_: Any) -> NoReturn:
    raise HTTPException(415, "labels of bare bytes are refused, since their film would be decoded in this process")


infer.binary_to_image = _refuse
