"""How this process was started: whether by ``python -m monai.bundle``, with what options, to load which weights."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path


def runs_as_bundle() -> bool:
    """Whether this process is ``python -m monai.bundle``."""
    return Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")


def file_to_load() -> str | None:
    """The weights file that ``monai.bundle.load`` is about to copy into the network of a config; None outside of it.

    It tells the config nothing of the file and copies what has a place in the network, so that the network has to be
    that of the file from the start.
    """
    from monai.bundle import load

    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is load.__code__:
            return os.fspath(frame.f_locals["full_path"])
        frame = frame.f_back
    return None


def option(name: str) -> list[str]:
    """Values of an option of ``monai.bundle``, from the command line or else from its ``--args_file``.

    ``--name value`` or ``--name=value``; ``"['a','b']"`` gives two.
    """
    given = _on_command_line(name)
    if not given:
        from monai.bundle import ConfigParser

        for file in _on_command_line("args_file"):
            value = ConfigParser.load_config_file(file).get(name, [])
            given = [value] if isinstance(value, str) else list(value)
    return given


def _on_command_line(name: str) -> list[str]:
    values = []
    for i, word in enumerate(sys.argv):
        if word in (f"--{name}", f"--{name.replace('_', '-')}") and i + 1 < len(sys.argv):
            values.append(sys.argv[i + 1])
        elif word.startswith((f"--{name}=", f"--{name.replace('_', '-')}=")):
            values.append(word.split("=", 1)[1])
    return [part.strip("'\" ") for value in values for part in value.strip("[]").split(",")]
