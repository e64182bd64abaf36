"""Films that a model has drawn, as DICOM of invented patients that says of itself that it shows nobody."""

from __future__ import annotations

import hashlib

import numpy as np

from monai_cxr_vae.dicom.encode import encode_element, encode_elements, encode_file
from monai_cxr_vae.dicom.objects import (
    CAUTION,
    IMPLEMENTATION_CLASS_UID,
    MANUFACTURER,
    TYPE_2,
    Provenance,
    equipment,
)
from monai_cxr_vae.dicom.secondary_capture import PIXEL_MODULE, grey_pixels
from monai_cxr_vae.dicom.uids import uid_from
from monai_cxr_vae.kinds import SECONDARY_CAPTURE

SYNTHETIC_DATA = 0x0008001C  # PS3.3 C.12.1; younger than the dictionary of pydicom 2.4


def synthetic_film(image: np.ndarray, provenance: Provenance) -> bytes:
    """Make a Secondary Capture image (PS3.3 A.8.1) of a film that a model has drawn.

    Patient, study and series are invented, a new one for each film, and are a function of its content: nothing of a
    real patient is asked for. The header says that the object is synthetic.

    Args:
        image: ``(H, W)`` float, bone bright, with its caption; clipped to [0, 1].
        provenance: of the weights and of how the film was drawn.

    Returns:
        The file's bytes, 12 bits stored, Explicit VR Little Endian. The same arguments give the same bytes.

    Raises:
        ValueError: ``image`` is not a finite matrix.
    """
    pixels, module = grey_pixels(image, 12)
    who = hashlib.sha256(pixels.tobytes() + provenance.model_sha256.encode()).hexdigest()
    elements = encode_elements(
        {
            **dict.fromkeys(TYPE_2),
            "SOPClassUID": SECONDARY_CAPTURE,
            "PatientName": f"Synthetic^{who[:8]}",
            "PatientID": f"SYNTHETIC-{who[:16]}",
            "PatientComments": "Drawn by a model. There is no such person.",
            "StudyInstanceUID": uid_from("synthetic study", who),
            "SeriesInstanceUID": uid_from("synthetic series", who),
            "Modality": "OT",
            "SeriesNumber": 1,
            "InstanceNumber": 1,
            "StudyDescription": "Synthetic film, no patient",
            "SeriesDescription": f"{CAUTION}: drawn film, no patient",
            "BodyPartExamined": "CHEST",
            "ConversionType": "SYN",
            "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
            "DerivationDescription": f"Drawn by a variational autoencoder from noise ({MANUFACTURER} "
            f"{provenance.version}, weights SHA-256 {provenance.model_sha256}). Research use, not for diagnosis.",
            "ImageComments": "Drawn by a model, no patient. Research use, not for diagnosis.",
            "BurnedInAnnotation": "NO",
            "RecognizableVisualFeatures": "NO",
            "PatientOrientation": ["L", "F"],
            **equipment(provenance),
            **PIXEL_MODULE["sc"],
            **module,
            "Rows": pixels.shape[0],
            "Columns": pixels.shape[1],
        }
    )
    elements[SYNTHETIC_DATA] = encode_element(SYNTHETIC_DATA, "CS", "YES")
    elements[0x7FE00010] = encode_element(0x7FE00010, "OW", pixels.tobytes())
    sop_uid = uid_from("synthetic instance", *(elements[tag] for tag in sorted(elements)))
    elements |= encode_elements({"SOPInstanceUID": sop_uid})
    return encode_file(
        elements,
        sop_class_uid=SECONDARY_CAPTURE,
        sop_instance_uid=sop_uid,
        implementation=IMPLEMENTATION_CLASS_UID,
    )
