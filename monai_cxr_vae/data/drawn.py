"""Films that a model has drawn, written into a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from torch import Tensor

from monai_cxr_vae.data.writers import provenance_of
from monai_cxr_vae.dicom.synthetic import synthetic_film
from monai_cxr_vae.files import write_whole


def write_drawn(
    films: Tensor, output: str | os.PathLike, kind: Literal["png", "dicom"], weights: str | os.PathLike
) -> list[Path]:
    """Write films as ``sample_0000.png`` (16 bits) or ``sample_0000.dcm``, and so on.

    Args:
        films: ``(N, 1, S, S)`` in [0, 1].
        output: folder, made when missing.
        kind: of the files; for DICOM see :func:`monai_cxr_vae.dicom.synthetic.synthetic_film`.
        weights: the file that they were drawn with, which the DICOM objects name by its SHA-256.

    Returns:
        The files.

    Raises:
        OutputError: a file cannot be written.
    """
    output = Path(output)
    provenance = provenance_of(weights, {"what": "drawn films"})
    files = []
    for i, film in enumerate(films[:, 0].numpy()):
        file = output / f"sample_{i:04d}.{'dcm' if kind == 'dicom' else 'png'}"
        if kind == "dicom":
            data = synthetic_film(film, provenance)
        else:
            data = cv2.imencode(".png", (film * 65535 + 0.5).astype(np.uint16))[1].tobytes()
        write_whole(file, data)
        files.append(file)
    return files
