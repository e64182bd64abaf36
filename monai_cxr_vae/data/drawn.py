"""Films that a model has drawn, written into a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from torch import Tensor

from monai_cxr_vae.data.pictures import captioned
from monai_cxr_vae.data.writers import MARKED_SIZE, provenance_of
from monai_cxr_vae.dicom.synthetic import synthetic_film
from monai_cxr_vae.files import write_whole
from monai_cxr_vae.transforms import resize

CAPTION = ("AI-GENERATED, NO PATIENT", "NOT FOR DIAGNOSIS")


def write_drawn(
    films: Tensor, output: str | os.PathLike, kind: Literal["png", "dicom"], weights: str | os.PathLike
) -> list[Path]:
    """Write films as ``sample_0000.png`` (16 bits) or ``sample_0000.dcm``, and so on.

    Args:
        films: ``(N, 1, S, S)`` in [0, 1].
        output: folder, made when missing.
        kind: of the files. For DICOM see :func:`monai_cxr_vae.dicom.synthetic.synthetic_film`; such films have a
            caption below them, and at least 256 pixels along a side, or it could not be read.
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
            side = max(MARKED_SIZE, *film.shape)
            data = synthetic_film(captioned(resize(film.clip(0, 1), side, side), *CAPTION), provenance)
        else:
            data = cv2.imencode(".png", (film * 65535 + 0.5).astype(np.uint16))[1].tobytes()
        write_whole(file, data)
        files.append(file)
    return files
