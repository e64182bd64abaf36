"""Other programs that read DICOM, to compare with."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image

_UNKNOWN_TO_DCIODVFY = (
    "Error - </(0008,001c)> - Attribute with an even group number is not a recognized standard attribute"
)


def dcm2pnm(program: str, path: Path, *options: str) -> np.ndarray:
    """What dcmtk shows: float64 (rows, columns) in [0, 1], at 16 bits."""
    output = path.with_suffix(".pgm")
    output.unlink(missing_ok=True)
    subprocess.run([program, "-q", "+opn", "16", *options, str(path), str(output)], check=True, capture_output=True)
    return np.asarray(Image.open(output)).astype(np.float64) / 65535


def dciodvfy(program: str, path: Path, iod: str = "", synthetic: bool = False) -> list[str]:
    """The errors that dicom3tools finds; its exit code says nothing.

    Args:
        iod: what it must take the object for, in its words.
        synthetic: the object must have the element Synthetic Data, which the standard has had since 2023 and the
            program as distributions have it does not know; the one line that it has for it is left out.
    """
    command = [program, "-new", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    told = done.stdout + done.stderr
    assert iod in told
    errors = re.findall(r"^Error.*", told, re.M)
    if synthetic:
        assert pydicom.dcmread(path, specific_tags=[0x0008001C])[0x0008001C].value == "YES"
        errors = [line for line in errors if line != _UNKNOWN_TO_DCIODVFY]
    return errors
