"""Where things lie: the bundle and the user's cache folder."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def bundle_root() -> str:
    """Folder of the bundle.

    On the command line of ``monai.bundle`` it is the bundle that ``--config_file`` lies in, so that a copied bundle
    uses its own weights; else it is inside the package (installed from a wheel) or beside it (in a checkout).
    """
    if runs_as_bundle():
        for name in option("config_file"):
            folder = Path(name).resolve().parent.parent
            if (folder / "configs").is_dir() and (folder / "models").is_dir():
                return str(folder)
    here = Path(__file__).parent
    inside = here / "bundle"
    return str(inside if (inside / "configs").is_dir() else here.parent / "bundle")


def cache_folder() -> Path:
    """The user's own folder for what can be made again; readable by nobody else, since it may hold films."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "monai_cxr_vae"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def runs_as_bundle() -> bool:
    """Whether this process is ``python -m monai.bundle``."""
    return Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")


def option(name: str) -> list[str]:
    """Values of a command-line option, ``--name value`` or ``--name=value``; ``"['a','b']"`` gives two."""
    values = []
    for i, word in enumerate(sys.argv):
        if word in (f"--{name}", f"--{name.replace('_', '-')}") and i + 1 < len(sys.argv):
            values.append(sys.argv[i + 1])
        elif word.startswith((f"--{name}=", f"--{name.replace('_', '-')}=")):
            values.append(word.split("=", 1)[1])
    return [part.strip("'\" ") for value in values for part in value.strip("[]").split(",")]
