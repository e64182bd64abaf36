"""MONAI Label's web application without its leave for every web page in the browser to read films and labels.

Its own setting for that, MONAI_LABEL_CORS_ORIGINS, ends version 0.8.5 with an error.
"""

from __future__ import annotations

from monailabel.app import app

__all__ = ["app"]

app.user_middleware.clear()
