"""Derived images: the reconstruction of a film in grey, and the film under a map in colour."""

from __future__ import annotations

import datetime
import re
from functools import lru_cache
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset

from monai_cxr_vae.dicom.attributes import integer, terms
from monai_cxr_vae.dicom.encode import Value, encode_element, encode_elements
from monai_cxr_vae.dicom.objects import (
    MANUFACTURER,
    DerivedObject,
    Provenance,
    code,
    derived_object,
    film_reference,
)
from monai_cxr_vae.errors import CorruptFile
from monai_cxr_vae.kinds import KINDS

_CODE = re.compile("[A-Z0-9_ ]{0,16}")
Shown = Literal["reconstruction", "heat map", "residual"]
# Shorter than 1024 characters with what is added to it (ST, PS3.5 section 6.2).
_WHAT = {
    "reconstruction": "Reconstruction of the source image by a variational autoencoder",
    "heat map": "Source image overlaid with a map of how unusual each place is, beside films called normal. "
    "One scale for all films: no colour below half of the limit, amber up to the limit, red beyond it; the line is the "
    "limit, which one normal film in ten exceeds somewhere",
    "residual": "Source image overlaid with its difference from a variational autoencoder's reconstruction. "
    "One scale for all films: no colour below 1/16 of the grey range, amber up to 1/8, red beyond it; the line is 1/8",
}
PIXEL_MODULE: dict[str, dict] = {
    "sc": {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "PresentationLUTShape": "IDENTITY",
        "BitsAllocated": 16,
        "PixelRepresentation": 0,
    },
    "overlay": {
        "SamplesPerPixel": 3,
        "PhotometricInterpretation": "RGB",
        "PlanarConfiguration": 0,
        "BitsAllocated": 8,
        "BitsStored": 8,
        "HighBit": 7,
        "PixelRepresentation": 0,
    },
}


# PS3.3 C.7.6.1.1.5.1, by transfer syntax.
_LOSSY_METHODS = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.53": "ISO_10918_1",
    "1.2.840.10008.1.2.4.55": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
}


def secondary_capture(
    source: Dataset,
    image: np.ndarray,
    provenance: Provenance,
    created: datetime.datetime,
    *,
    bits_stored: Literal[12, 16] = 12,
) -> DerivedObject:
    """Make a single-frame grayscale Secondary Capture image (PS3.3 A.8.1) from a film and what the model made of it.

    Args:
        source: header of the film, pixels not needed.
        image: ``(H, W)`` float, display polarity (bone bright), in the source's orientation; clipped to [0, 1].
        provenance: goes into the object and its UIDs.
        created: when it is made, see :func:`monai_cxr_vae.dicom.objects.moment`.
        bits_stored: 12 or 16 of 16 bits.

    Returns:
        The object: MONOCHROME2, Explicit VR Little Endian. The same arguments give the same bytes, and a
        different byte anywhere gives a different SOP Instance UID.

    Raises:
        BadUID: the source's study, series or SOP instance UID is missing or unfit.
        MalformedIdentity: see :func:`monai_cxr_vae.dicom.objects.malformed_identity`.
        ValueError: ``image`` is not a finite matrix.
    """
    return _image(source, "reconstruction", provenance, created, *grey_pixels(image, bits_stored))


def grey_pixels(image: np.ndarray, bits_stored: int) -> tuple[np.ndarray, dict[str, Value]]:
    """Stored values of an image ``(H, W)``, clipped to [0, 1], and the attributes beside those of `PIXEL_MODULE`.

    Raises:
        ValueError: it is not a finite matrix.
    """
    image = np.asarray(image, dtype=np.float32)
    if image.ndim != 2 or not np.isfinite(image).all():
        raise ValueError("a finite (H, W) image is needed")
    top = 2**bits_stored - 1
    # The window is the whole range by the LINEAR function of PS3.3 C.11.2.1.2.1: 0 is black, the top value white.
    return np.rint(np.clip(image, 0, 1) * top).astype("<u2"), {
        "BitsStored": bits_stored,
        "HighBit": bits_stored - 1,
        "WindowCenter": 2 ** (bits_stored - 1),
        "WindowWidth": 2**bits_stored,
    }


def coloured_capture(
    source: Dataset,
    picture: np.ndarray,
    shown: Literal["heat map", "residual"],
    provenance: Provenance,
    created: datetime.datetime,
) -> DerivedObject:
    """Make a colour Secondary Capture image of a film with a map laid over it.

    ``picture`` is ``(H, W, 3)`` uint8, red, green, blue, of :func:`monai_cxr_vae.data.pictures.draw_heat`; ``shown``
    says in the object what the colours mean. Columns are those of the film, more or less finely, and pixels are square,
    so the film's spacing stays true at the new scale. Otherwise as :func:`secondary_capture`.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError("an 8-bit (H, W, 3) picture is needed")
    return _image(source, shown, provenance, created, picture, _spacing(source, picture.shape[1]))


def _image(
    source: Dataset,
    shown: Shown,
    provenance: Provenance,
    created: datetime.datetime,
    pixels: np.ndarray,
    module: dict[str, Value],
) -> DerivedObject:
    """A Secondary Capture image (PS3.3 A.8.1)."""
    film = film_reference(source)
    purpose = code("121322", "Source image for image processing operation")
    elements = _image_elements(shown, provenance) | encode_elements(
        {
            "PatientOrientation": _codes(source, "PatientOrientation"),
            "SourceImageSequence": [{**film.item(), "PurposeOfReferenceCodeSequence": [purpose]}],
            "ReferencedSeriesSequence": [
                {"SeriesInstanceUID": film.series_uid, "ReferencedInstanceSequence": [film.item()]}
            ],
            **_burned_in(source, shown),
            **_lossy_history(source),
            **module,
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
        }
    )
    elements[0x7FE00010] = encode_element(0x7FE00010, "OW" if pixels.dtype.itemsize == 2 else "OB", pixels.tobytes())
    return derived_object(source, shown, provenance, created, elements)


@lru_cache
def _image_elements(shown: Shown, provenance: Provenance) -> dict[int, bytes]:
    """The elements that are the same in every image of one kind and origin."""
    return encode_elements(
        {
            "BodyPartExamined": "CHEST",
            "ConversionType": "WSD",
            "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
            "DerivationDescription": f"{_WHAT[shown]}. Generated by a model ({MANUFACTURER} {provenance.version}, "
            f"weights SHA-256 {provenance.model_sha256}). Research use, not for diagnosis.",
            "ImageComments": "Generated by a model. Research use, not for diagnosis.",
            "RecognizableVisualFeatures": "NO",
            **PIXEL_MODULE[KINDS[shown].name],
        }
    )


def _spacing(source: Dataset, columns: int) -> dict[str, Value]:
    """The film's spacing, at the patient if it is said, else at the detector, on a picture of so many columns."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            _, between_columns = map(float, terms(source, keyword))
            spacing = between_columns * integer(source, "Columns") / columns
        except (ValueError, CorruptFile):
            continue
        if 0 < spacing < 1e4:
            return {keyword: [f"{spacing:.8g}"] * 2}
    return {}


def _burned_in(source: Dataset, shown: Shown) -> dict[str, Value]:
    """Whether text is burned in, as the source says; text in a film can come back in a reconstruction.

    An overlay shows the film itself, so where the source does not deny text it must be expected.
    """
    declared = terms(source, "BurnedInAnnotation")
    if declared in (["YES"], ["NO"]):
        return {"BurnedInAnnotation": declared[0]}
    return {} if shown == "reconstruction" else {"BurnedInAnnotation": "YES"}


def _lossy_history(source: Dataset) -> dict[str, Value]:
    """Carry lossy compression on: a lossy past is for ever (PS3.3 C.7.6.1.1.5); one that is not told stays open."""
    syntax = getattr(source, "file_meta", Dataset()).get("TransferSyntaxUID")
    declared = terms(source, "LossyImageCompression")
    ratio = terms(source, "LossyImageCompressionRatio")
    method = terms(source, "LossyImageCompressionMethod")
    if syntax not in _LOSSY_METHODS and declared not in (["01"], ["1"]) and (declared or not (ratio or method)):
        return {"LossyImageCompression": "00"} if declared in (["00"], ["0"]) else {}
    history: dict[str, Value] = {"LossyImageCompression": "01"}
    if ratio:
        history["LossyImageCompressionRatio"] = ratio
    if found := method or _LOSSY_METHODS.get(syntax):
        history["LossyImageCompressionMethod"] = found
    return history


def _codes(source: Dataset, keyword: str) -> list[str]:
    """Code strings (CS, PS3.5 section 6.2); none if one of them is malformed."""
    values = terms(source, keyword)
    return values if all(_CODE.fullmatch(value) for value in values) else []
