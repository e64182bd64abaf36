"""Which DICOM objects are films to run on, decided from the header alone, and why the others are not."""

from __future__ import annotations

import re

from pydicom.dataset import Dataset

from monai_cxr_vae.dicom.derive import is_own_output
from monai_cxr_vae.dicom.uids import is_safe_uid
from monai_cxr_vae.dicom.view import radiograph_view
from monai_cxr_vae.errors import (
    BadUID,
    ColourImage,
    CorruptFile,
    DicomDirectory,
    ForProcessing,
    LateralView,
    MultiFrame,
    OwnOutput,
    UnknownView,
    WrongBodyPart,
    WrongModality,
    WrongSOPClass,
)

MODALITIES = ("CR", "DX")
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1": "Computed Radiography Image Storage",
    "1.2.840.10008.5.1.4.1.1.1.1": "Digital X-Ray Image Storage - For Presentation",
    # Films that were converted or exported; Modality must say CR or DX.
    "1.2.840.10008.5.1.4.1.1.7": "Secondary Capture Image Storage",
}
_MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"

# Body Part Examined (PS3.16 annex L) that is certainly no chest. The attribute is often wrong or free text, so what is
# not in this list passes.
_OTHER_BODY_PARTS = re.compile(
    "ABDOMEN|ANKLE|ARM|BREAST|BUTTOCK|CALCANEUS|CALF|CLAVICLE|COCCYX|[CLST]SPINE|LSSPINE|ELBOW|EXTREMITY|FEMUR|FINGER|"
    "FOOT|FOREARM|HAND|HEAD|HIP|HUMERUS|JAW|KIDNEY|KNEE|LEG|MAXILLA|NECK|ORBIT|PELVIS|PATELLA|SCAPULA|SHOULDER|SINUS|"
    "SKULL|THIGH|THUMB|TIBIA|TIBIAFIBULA|TOE|WRIST"
)


def check_film(ds: Dataset, *, strict_view: bool = False) -> tuple[str, tuple[str, ...]]:
    """Decide from a header whether the object is a frontal chest film.

    Args:
        ds: the header.
        strict_view: refuse a film of which nothing says that it is frontal.

    Returns:
        The view (see :func:`monai_cxr_vae.dicom.view.radiograph_view`) and warning codes.

    Raises:
        FilmError: the subclass names the reason; most are :class:`monai_cxr_vae.errors.Skipped`.
    """
    sop_class = _text(ds, "SOPClassUID")
    media_class = str(getattr(ds, "file_meta", Dataset()).get("MediaStorageSOPClassUID", ""))
    if _MEDIA_STORAGE_DIRECTORY in (sop_class, media_class):
        raise DicomDirectory("a DICOMDIR, not an image")
    if is_own_output(ds):
        raise OwnOutput("an object that this program derived itself")
    modality = _text(ds, "Modality")
    if modality and modality not in MODALITIES:
        raise WrongModality("not a CR or DX object")
    if sop_class == DX_FOR_PROCESSING:
        raise ForProcessing("raw detector data, which needs the vendor's processing first")
    if sop_class not in SOP_CLASSES or (not modality and sop_class.endswith(".1.7")):
        raise WrongSOPClass("not an object class that films come in")
    if _OTHER_BODY_PARTS.fullmatch(re.sub("[ _-]", "", _text(ds, "BodyPartExamined").upper())):
        raise WrongBodyPart("another body part than the chest")
    view, warnings = radiograph_view(ds)
    if view == "lateral":
        raise LateralView("not a frontal view")
    if view == "unknown" and strict_view:
        raise UnknownView("nothing says that the view is frontal")
    _check_frames_and_colour(ds)
    if not all(is_safe_uid(_text(ds, k)) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")):
        raise BadUID("the study, series or instance UID is missing or malformed")
    return view, (*warnings, "view_unknown") if view == "unknown" else warnings


def _check_frames_and_colour(ds: Dataset) -> None:
    frames = _text(ds, "NumberOfFrames") or "1"
    if not frames.isdecimal():
        raise CorruptFile("the number of frames is no number")
    if int(frames) > 1:
        raise MultiFrame("more than one frame")
    photometric = _text(ds, "PhotometricInterpretation")
    if _text(ds, "SamplesPerPixel") not in ("", "1") or photometric not in ("", "MONOCHROME1", "MONOCHROME2"):
        raise ColourImage("a colour image")


def _text(ds: Dataset, keyword: str) -> str:
    try:
        value = ds.get(keyword)
    except Exception as error:  # the parsers of pydicom raise what they please
        raise CorruptFile("an attribute of the header cannot be decoded") from error
    return "" if value is None else str(value).strip()
