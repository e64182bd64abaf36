"""Derived DICOM objects: what the model makes of a film, in the same patient and study; the images among them."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue

from monai_cxr_vae.dicom.attributes import source_value, terms
from monai_cxr_vae.dicom.encode import Value, encode_element, encode_elements, encode_file
from monai_cxr_vae.dicom.uids import is_safe_uid, uid_from
from monai_cxr_vae.errors import BadUID, MalformedIdentity, WarningCode

MANUFACTURER, MODEL_NAME = "monai_cxr_vae", "Chest radiograph VAE"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
IMPLEMENTATION_CLASS_UID = uid_from(MANUFACTURER, "implementation class")

ObjectKind = Literal["sc", "overlay", "sr"]
Shown = Literal["reconstruction", "heat map", "residual"]
_IMAGE_SERIES = {
    "reconstruction": (9001, "VAE reconstruction - AI, not for diagnosis"),
    "heat map": (9002, "VAE heat map - AI, not for diagnosis"),
    "residual": (9002, "VAE residual overlay - AI, not for diagnosis"),
}
# Shorter than 1024 characters with what is added to it (ST, PS3.5 section 6.2).
_WHAT = {
    "reconstruction": "Reconstruction of the source image by a variational autoencoder",
    "heat map": "Source image overlaid with a map of how unusual each place is, beside films called normal. "
    "One scale for all films: no colour below half of the limit, amber up to the limit, red beyond it; the line is the "
    "limit, which one normal film in ten exceeds somewhere",
    "residual": "Source image overlaid with its difference from a variational autoencoder's reconstruction. "
    "One scale for all films: no colour below 1/16 of the grey range, amber up to 1/8, red beyond it; the line is 1/8",
}
_PIXEL_MODULE: dict[str, dict] = {
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

# Type 2 attributes of the Patient, General Study and Secondary Capture series level: empty where the source has none.
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)
# Who and which study: copied when the source has them. Acquisition, dose, overlays, icons, signatures and private
# elements stay behind: they describe the source image, not this one.
_OPTIONAL = (
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "TypeOfPatientID",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "PatientBirthTime",
    "EthnicGroup",
    "PatientComments",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "AdmittingDiagnosesDescription",
    "AdditionalPatientHistory",
    "Occupation",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "ContentDate",
    "ContentTime",
)
# The form of a value (PS3.5 section 6.2). An optional element of another form is left out. What tells who the patient
# is and which study this is must stay as the source has it, since only that lets an archive match the two: malformed,
# it could neither be kept in a valid object nor be changed, and no object is made.
FORM = {
    "SH": re.compile(rb"[ -\[\]-~]{1,16}|.*[^ -~].*", re.DOTALL),  # 16 characters; how many bytes is open beyond ASCII
    "AS": re.compile(rb"\d{3}[DWMY]"),
    "DA": re.compile(rb"\d{8}"),
    "TM": re.compile(rb"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?"),
}
# Older forms that say the same (ACR-NEMA 2.0; ISO 8601), a time with more digits than the standard has or none.
_OLD_DATE = re.compile(rb"(\d{4})([./-])(\d{2})\2(\d{2})")
_OLD_TIME = re.compile(rb"(\d{2})(?::?(\d{2})(?::?(\d{2})(?:\.(\d*))?)?)?")
_CODE = re.compile("[A-Z0-9_ ]{0,16}")
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


@dataclass(frozen=True)
class Provenance:
    """What made an object: SHA-256 of the weights file, SHA-256 of the settings that change bytes, package version."""

    model_sha256: str
    config_sha256: str
    version: str


@dataclass(frozen=True)
class DerivedObject:
    """A DICOM object ready to be stored: its UIDs and the bytes of its file."""

    kind: ObjectKind
    study_uid: str
    series_uid: str
    sop_uid: str
    data: bytes


def secondary_capture(
    source: Dataset, image: np.ndarray, provenance: Provenance, *, bits_stored: Literal[12, 16] = 12
) -> DerivedObject:
    """Make a single-frame grayscale Secondary Capture image (PS3.3 A.8.1) from a film and what the model made of it.

    Args:
        source: header of the film, pixels not needed.
        image: ``(H, W)`` float, display polarity (bone bright), in the source's orientation; clipped to [0, 1].
        provenance: goes into the object and its UIDs.
        bits_stored: 12 or 16 of 16 bits.

    Returns:
        The object: MONOCHROME2, Explicit VR Little Endian, no clock in it. The same arguments give the same bytes, and
        a different byte anywhere gives a different SOP Instance UID.

    Raises:
        BadUID: the source's study, series or SOP instance UID is missing or unfit.
        MalformedIdentity: see :func:`malformed_identity`.
        ValueError: ``image`` is not a finite matrix.
    """
    image = np.asarray(image, dtype=np.float32)
    if image.ndim != 2 or not np.isfinite(image).all():
        raise ValueError("a finite (H, W) image is needed")
    top = 2**bits_stored - 1
    pixels = np.rint(np.clip(image, 0, 1) * top).astype("<u2")
    # The window is the whole range by the LINEAR function of PS3.3 C.11.2.1.2.1: 0 is black, the top value white.
    module = {
        "BitsStored": bits_stored,
        "HighBit": bits_stored - 1,
        "WindowCenter": (top + 1) // 2,
        "WindowWidth": top + 1,
    }
    return _image(source, "sc", "reconstruction", provenance, pixels, module)


def overlay(
    source: Dataset, picture: np.ndarray, shown: Literal["heat map", "residual"], provenance: Provenance
) -> DerivedObject:
    """Make a colour Secondary Capture image of a film with a map laid over it.

    ``picture`` is ``(H, W, 3)`` uint8, red, green, blue, of :func:`monai_cxr_vae.data.pictures.overlay`; ``shown`` says
    in the object what the colours mean. Otherwise as :func:`secondary_capture`.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError("an 8-bit (H, W, 3) picture is needed")
    return _image(source, "overlay", shown, provenance, picture, {})


def is_own_output(ds: Dataset) -> bool:
    """Tell whether a header belongs to an object that this program derived (then it is no film to run on)."""
    try:
        derived = ds.get("Modality") == "SR" or "DERIVED" in (ds.get("ImageType") or [])
        return derived and any(
            item.get("Manufacturer") == MANUFACTURER for item in ds.get("ContributingEquipmentSequence") or []
        )
    except Exception:  # an unreadable sequence is none of ours
        return False


@dataclass(frozen=True)
class FilmReference:
    """Where a film is: its UIDs."""

    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_uid: str

    def item(self) -> dict[str, Value]:
        """The reference macro to the instance (PS3.3 table 10-11)."""
        return {"ReferencedSOPClassUID": self.sop_class_uid, "ReferencedSOPInstanceUID": self.sop_uid}


def film_reference(source: Dataset) -> FilmReference:
    """Return the UIDs of a film.

    Raises:
        BadUID: one is missing or unfit.
    """
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
    uids = [str(source_value(source, keyword) or "") for keyword in keywords]
    if not all(map(is_safe_uid, uids)):
        raise BadUID("the film's study, series or instance UID is missing or malformed")
    return FilmReference(*uids)


def derived_object(
    source: Dataset, kind: ObjectKind, sop_class: str, provenance: Provenance, elements: Mapping[int, bytes]
) -> DerivedObject:
    """Put an object together from what a film says of patient and study and from encoded elements of its own.

    Raises:
        BadUID: see :func:`film_reference`.
        MalformedIdentity: see :func:`malformed_identity`.
    """
    film = film_reference(source)
    if malformed := malformed_identity(source):
        names = ", ".join(code.removeprefix(WarningCode.MALFORMED) for code in malformed)
        raise MalformedIdentity(
            f"{names} is malformed, so no valid object of the same patient and study can be made", *malformed
        )
    origin = (provenance.model_sha256, provenance.config_sha256, provenance.version)
    series_uid = uid_from("series", film.study_uid, film.series_uid, kind, *origin)
    together = dict(_common_elements(provenance))
    for keyword in (*_TYPE_2, *_OPTIONAL):
        together.update(_copied(source, keyword) or {})
    together.update(
        encode_elements(
            {
                "SOPClassUID": sop_class,
                "StudyInstanceUID": film.study_uid,
                "SeriesInstanceUID": series_uid,
                "InstanceNumber": _integer(source_value(source, "InstanceNumber"), 1),
            }
        )
    )
    together.update(elements)
    # The UID is a digest of all the rest: one UID never stands for two contents.
    sop_uid = uid_from("instance", *(together[tag] for tag in sorted(together)))
    together.update(encode_elements({"SOPInstanceUID": sop_uid}))
    data = encode_file(
        together, sop_class_uid=sop_class, sop_instance_uid=sop_uid, implementation=IMPLEMENTATION_CLASS_UID
    )
    return DerivedObject(kind, film.study_uid, series_uid, sop_uid, data)


def _image(
    source: Dataset,
    kind: ObjectKind,
    shown: Shown,
    provenance: Provenance,
    pixels: np.ndarray,
    module: dict[str, Value],
) -> DerivedObject:
    """A Secondary Capture image (PS3.3 A.8.1)."""
    film = film_reference(source)
    purpose = code("121322", "Source image for image processing operation")
    elements = _image_elements(kind, shown, provenance) | encode_elements(
        {
            "PatientOrientation": _codes(source_value(source, "PatientOrientation")),
            "SourceImageSequence": [{**film.item(), "PurposeOfReferenceCodeSequence": [purpose]}],
            "ReferencedSeriesSequence": [
                {"SeriesInstanceUID": film.series_uid, "ReferencedInstanceSequence": [film.item()]}
            ],
            **_burned_in(source, kind),
            **_lossy_history(source),
            **module,
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
        }
    )
    elements[0x7FE00010] = encode_element(0x7FE00010, "OW" if pixels.dtype.itemsize == 2 else "OB", pixels.tobytes())
    return derived_object(source, kind, SECONDARY_CAPTURE, provenance, elements)


@lru_cache
def _common_elements(provenance: Provenance) -> dict[int, bytes]:
    """The elements that are the same in every object of one origin, and the empty ones that a film may fill."""
    equipment: dict[str, Value] = {
        "Manufacturer": MANUFACTURER,
        "ManufacturerModelName": MODEL_NAME,
        "SoftwareVersions": [provenance.version, provenance.model_sha256, provenance.config_sha256[:32]],
        "DeviceUID": device_uid(provenance),
    }
    purpose = code("109102", "Processing Equipment")
    return encode_elements(
        {
            **dict.fromkeys(_TYPE_2),
            **equipment,
            "ContributingEquipmentSequence": [{**equipment, "PurposeOfReferenceCodeSequence": [purpose]}],
        }
    )


@lru_cache
def _image_elements(kind: ObjectKind, shown: Shown, provenance: Provenance) -> dict[int, bytes]:
    """The elements that are the same in every image of one kind and origin."""
    number, description = _IMAGE_SERIES[shown]
    return encode_elements(
        {
            "Modality": "OT",
            "SeriesNumber": number,
            "SeriesDescription": description,
            "BodyPartExamined": "CHEST",
            "ConversionType": "WSD",
            "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
            "DerivationDescription": f"{_WHAT[shown]}. Generated by a model ({MANUFACTURER} {provenance.version}, "
            f"weights SHA-256 {provenance.model_sha256}). Research use, not for diagnosis.",
            "ImageComments": "Generated by a model. Research use, not for diagnosis.",
            "RecognizableVisualFeatures": "NO",
            **_PIXEL_MODULE[kind],
        }
    )


def device_uid(provenance: Provenance) -> str:
    """UID of the device that made an object: a retrained model is another device."""
    return uid_from("device", provenance.model_sha256)


def malformed_identity(source: Dataset) -> tuple[str, ...]:
    """Warning codes of what tells the patient or the study and has a form that no valid object can keep.

    A date or time in an older form that says the same is none of them: it is converted.
    """
    return tuple(WarningCode.MALFORMED + keyword for keyword in _TYPE_2 if _copied(source, keyword) is None)


def _copied(source: Dataset, keyword: str) -> dict[int, bytes] | None:
    """An element of the source, None if it is malformed; text keeps its very bytes, which no decoding can then damage.

    Sequences are encoded again, in the source's character set.
    """
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in source:
        return {}
    vr = dictionary_VR(tag)
    element = source.get_item(tag)
    if vr == "SQ":
        return {tag: written(source, tag)}
    value = (element.value or b"") if isinstance(element, RawDataElement) else written(source, tag)[8:]
    text = value.strip(b" \0")
    if text and vr in FORM and not FORM[vr].fullmatch(text):
        valid = _converted(vr, text)
        return None if valid is None else {tag: encode_element(tag, vr, valid)}
    return {tag: encode_element(tag, vr, value)}


def _converted(vr: str, text: bytes) -> bytes | None:
    """A date or time of an older form as the standard writes it; None for what says nothing certain."""
    if vr == "DA" and (date := _OLD_DATE.fullmatch(text)):
        year, _, month, day = date.groups()
        return year + month + day if int(year) and 1 <= int(month) <= 12 and 1 <= int(day) <= 31 else None
    if vr == "TM" and (time := _OLD_TIME.fullmatch(text)):
        *clock, fraction = time.groups(default=b"")
        return b"".join(clock) + (b"." + fraction[:6] if fraction else b"")
    return None


def written(source: Dataset, tag: int) -> bytes:
    """An element that has been decoded (all but raw text), encoded again in the source's character set."""
    holder = Dataset()
    holder[tag] = copy.deepcopy(source[tag])
    holder.remove_private_tags()  # from the items of a sequence
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, holder, convert_encodings(source.get("SpecificCharacterSet") or "ISO_IR 6"))
    return buffer.getvalue()


def _burned_in(source: Dataset, kind: ObjectKind) -> dict[str, Value]:
    """Whether text is burned in, as the source says; text in a film can come back in a reconstruction.

    An overlay shows the film itself, so where the source does not deny text it must be expected.
    """
    said = terms(source, "BurnedInAnnotation")
    if said in (["YES"], ["NO"]):
        return {"BurnedInAnnotation": said[0]}
    return {"BurnedInAnnotation": "YES"} if kind == "overlay" else {}


def _lossy_history(source: Dataset) -> dict[str, Value]:
    """Carry lossy compression on: a lossy past is for ever (PS3.3 C.7.6.1.1.5); one that is not told stays open."""
    syntax = str(getattr(source, "file_meta", Dataset()).get("TransferSyntaxUID", ""))
    said = terms(source, "LossyImageCompression")
    ratio = _strings(source_value(source, "LossyImageCompressionRatio"))
    method = _strings(source_value(source, "LossyImageCompressionMethod"))
    if syntax not in _LOSSY_METHODS and said not in (["01"], ["1"]) and (said or not (ratio or method)):
        return {"LossyImageCompression": "00"} if said in (["00"], ["0"]) else {}
    history: dict[str, Value] = {"LossyImageCompression": "01"}
    if ratio:
        history["LossyImageCompressionRatio"] = ratio
    if found := method or _LOSSY_METHODS.get(syntax):
        history["LossyImageCompressionMethod"] = found
    return history


def code(value: str, meaning: str) -> dict[str, Value]:
    """An item of a code sequence (PS3.3 table 8.8-1) in DICOM's own scheme."""
    return {"CodeValue": value, "CodingSchemeDesignator": "DCM", "CodeMeaning": meaning}


def _integer(value: object, default: int) -> int:
    """An integer string (IS, PS3.5 section 6.2) as a number; the default if it is none."""
    try:
        number = int(str(value))
    except ValueError:
        return default
    return number if -(2**31) <= number < 2**31 else default


def _codes(value: object) -> list[str]:
    """Code strings (CS, PS3.5 section 6.2); none if one of them is malformed."""
    values = _strings(value)
    return values if all(_CODE.fullmatch(v) for v in values) else []


def _strings(value: object) -> list[str]:
    """The values of a single or multiple string element."""
    if value is None or value == "":
        return []
    return [str(v) for v in (value if isinstance(value, MultiValue | list | tuple) else [value])]
