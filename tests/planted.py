"""One phantom film with an opacity in the forms that films come in, as films of one study, and where the opacity is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from monai_cxr_vae.data.phantom import render, write_phantoms

SEED, INDEX = 5, 1  # one of those whose opacity the shipped weights see
FORMS = ("upright", "inverse on its side", "half as many columns", "on its side, half as many columns")


@dataclass(frozen=True)
class Planted:
    """A film and ``opacity``, bool (H, W), where it lies in the film's own pixels."""

    film: pydicom.Dataset
    opacity: np.ndarray


def write_planted(folder: Path, forms: int = len(FORMS)) -> list[Planted]:
    """Write the first ``forms`` of `FORMS`, a series each."""
    *_, drawn = write_phantoms(folder, INDEX + 1, SEED, finding="opacity")
    found = []
    for number, form in enumerate(FORMS[:forms], 1):
        film = pydicom.dcmread(drawn)
        pixels, opacity = film.pixel_array, render((SEED, INDEX), (film.Rows, film.Columns), "opacity").mask
        rows_apart, columns_apart = film.ImagerPixelSpacing
        if "half as many columns" in form:
            pixels, opacity, columns_apart = pixels[:, ::2], opacity[:, ::2], 2 * columns_apart
        if "on its side" in form:  # turned by 90 degrees to the left
            pixels, opacity = np.rot90(pixels), np.rot90(opacity)
            film.PatientOrientation = ["F", "R"]
            rows_apart, columns_apart = columns_apart, rows_apart
        if "inverse" in form:
            pixels = 4095 - pixels
            film.PhotometricInterpretation, film.PresentationLUTShape = "MONOCHROME1", "INVERSE"
            film.PixelIntensityRelationshipSign, film.WindowCenter = 1, 4096 - film.WindowCenter
        film.ImagerPixelSpacing = [rows_apart, columns_apart]
        (film.Rows, film.Columns), film.PixelData = pixels.shape, np.ascontiguousarray(pixels).tobytes()
        film.SeriesNumber = number
        film.SeriesInstanceUID += f".{number}"
        film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = film.SOPInstanceUID + f".{number}"
        film.save_as(folder / f"form_{number}.dcm")
        found.append(Planted(film, opacity))
    for path in folder.glob("phantom_*.dcm"):
        path.unlink()
    return found
