"""Films that a model has drawn, as DICOM of invented patients that says of itself that it shows nobody."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np

from monai_cxr_vae.dicom.encode import Value, encode_element, encode_elements, encode_file
from monai_cxr_vae.dicom.objects import (
    IMPLEMENTATION_CLASS_UID,
    MANUFACTURER,
    MODEL_NAME,
    SECONDARY_CAPTURE,
    Provenance,
    code,
    device_uid,
)
from monai_cxr_vae.dicom.uids import uid_from

CAPTION = "AI-GENERATED, NO PATIENT, NOT FOR DIAGNOSIS"
_SYNTHETIC_DATA = 0x0008001C  # PS3.3 C.12.1; younger than the dictionary of pydicom 2.4
_TOP = 4095


def synthetic_film(image: np.ndarray, provenance: Provenance) -> bytes:
    """Make a Secondary Capture image (PS3.3 A.8.1) of a film that a model has drawn.

    Patient, study and series are invented, a new one for each film, and are a function of its content: nothing of a
    real patient is asked for. The object says that it is synthetic, in its header and in a line below the film.

    Args:
        image: ``(H, W)`` float, bone bright; clipped to [0, 1].
        provenance: of the weights and of how the film was drawn.

    Returns:
        The file's bytes, 12 bits stored, Explicit VR Little Endian. The same arguments give the same bytes.

    Raises:
        ValueError: ``image`` is not a finite matrix.
    """
    if image.ndim != 2 or not np.isfinite(image).all():
        raise ValueError("a finite (H, W) image is needed")
    pixels = np.rint(with_caption(np.clip(image, 0, 1).astype(np.float32)) * _TOP).astype("<u2")
    who = hashlib.sha256(pixels.tobytes() + provenance.model_sha256.encode()).hexdigest()
    equipment: dict[str, Value] = {
        "Manufacturer": MANUFACTURER,
        "ManufacturerModelName": MODEL_NAME,
        "SoftwareVersions": [provenance.version, provenance.model_sha256, provenance.config_sha256[:32]],
        "DeviceUID": device_uid(provenance),
    }
    purpose = code("109102", "Processing Equipment")
    elements = encode_elements(
        {
            "SOPClassUID": SECONDARY_CAPTURE,
            "PatientName": f"Synthetic^{who[:8]}",
            "PatientID": f"SYNTHETIC-{who[:16]}",
            "PatientBirthDate": None,
            "PatientSex": None,
            "PatientComments": "Drawn by a model. There is no such person.",
            "StudyInstanceUID": uid_from("synthetic study", who),
            "SeriesInstanceUID": uid_from("synthetic series", who),
            "StudyDate": None,
            "StudyTime": None,
            "ReferringPhysicianName": None,
            "StudyID": None,
            "AccessionNumber": None,
            "Modality": "OT",
            "SeriesNumber": 1,
            "InstanceNumber": 1,
            "StudyDescription": "Synthetic film, no patient",
            "SeriesDescription": "Synthetic - AI, not for diagnosis",
            "BodyPartExamined": "CHEST",
            "ConversionType": "SYN",
            "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
            "DerivationDescription": f"Drawn by a variational autoencoder from noise ({MANUFACTURER} "
            f"{provenance.version}, weights SHA-256 {provenance.model_sha256}). Research use, not for diagnosis.",
            "ImageComments": "Drawn by a model, no patient. Research use, not for diagnosis.",
            "BurnedInAnnotation": "NO",
            "RecognizableVisualFeatures": "NO",
            "PatientOrientation": ["L", "F"],
            **equipment,
            "ContributingEquipmentSequence": [{**equipment, "PurposeOfReferenceCodeSequence": [purpose]}],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "PresentationLUTShape": "IDENTITY",
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
            "BitsAllocated": 16,
            "BitsStored": 12,
            "HighBit": 11,
            "PixelRepresentation": 0,
            "WindowCenter": (_TOP + 1) // 2,
            "WindowWidth": _TOP + 1,
        }
    )
    elements[_SYNTHETIC_DATA] = encode_element(_SYNTHETIC_DATA, "CS", "YES")
    elements[0x7FE00010] = encode_element(0x7FE00010, "OW", pixels.tobytes())
    sop_uid = uid_from("synthetic instance", *(elements[tag] for tag in sorted(elements)))
    elements |= encode_elements({"SOPInstanceUID": sop_uid})
    return encode_file(
        elements,
        sop_class_uid=SECONDARY_CAPTURE,
        sop_instance_uid=sop_uid,
        implementation=IMPLEMENTATION_CLASS_UID,
    )


def with_caption(film: np.ndarray) -> np.ndarray:
    """The film ``(H, W)`` in [0, 1] with `CAPTION` in a black band below it, as wide as the film allows."""
    font, width = cv2.FONT_HERSHEY_SIMPLEX, film.shape[1]
    (natural, _), _ = cv2.getTextSize(CAPTION, font, 1.0, 1)
    scale = 0.94 * width / natural
    (length, height), below = cv2.getTextSize(CAPTION, font, scale, 1)
    band = np.zeros((height + below + max(4, height // 2), width), np.uint8)
    cv2.putText(band, CAPTION, ((width - length) // 2, height + 2), font, scale, 255, 1, cv2.LINE_AA)
    return np.concatenate([film, band.astype(np.float32) / 255])
