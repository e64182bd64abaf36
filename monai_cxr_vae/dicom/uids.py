"""Unique identifiers: which ones from outside are fit to use, and how ours are made."""

from __future__ import annotations

import hashlib
import re
import uuid

_COMPONENTS = re.compile(r"[0-9]+(\.[0-9]+)+")
_SEPARATOR = "\x1f"


def is_safe_uid(value: object) -> bool:
    """Tell whether ``value`` may name a folder and be copied into a new object.

    Digits in dot-separated components, at most 64 characters (PS3.5 section 9.1). A component with a leading zero is
    let pass, although the standard forbids it: such studies exist, and a result must go to the study it belongs to.
    """
    text = str(value or "")
    return len(text) <= 64 and _COMPONENTS.fullmatch(text) is not None


def uid_from(*parts: str | bytes) -> str:
    """Return the UID that belongs to ``parts``: the same parts give the same UID, in any process and at any time.

    A UUID-derived UID (PS3.5 annex B.2: ``2.25.`` and the UUID as a decimal number, at most 44 characters) of the
    SHA-256 of the parts, each preceded by its length so that ``("ab", "c")`` and ``("a", "bc")`` differ.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(f"{len(data)}{_SEPARATOR}".encode())
        digest.update(data)
    return f"2.25.{uuid.UUID(bytes=digest.digest()[:16], version=5).int}"
