"""Other programs that read DICOM, to compare with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from PIL import Image


def dcm2pnm(program: str, path: Path, *options: str) -> np.ndarray:
    """What dcmtk shows: float64 (rows, columns) in [0, 1], at 16 bits."""
    output = path.with_suffix(".pgm")
    output.unlink(missing_ok=True)
    subprocess.run([program, "-q", "+opn", "16", *options, str(path), str(output)], check=True, capture_output=True)
    return np.asarray(Image.open(output)).astype(np.float64) / 65535
