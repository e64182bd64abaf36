"""Which DICOM objects are films to run on, decided from the header alone, and why the others are not."""

from __future__ import annotations

import re

from pydicom.dataset import Dataset

from monai_cxr_vae.dicom.attributes import integer, is_colour, items, terms, text
from monai_cxr_vae.dicom.objects import is_own_output
from monai_cxr_vae.dicom.uids import is_safe_uid
from monai_cxr_vae.dicom.view import radiograph_view
from monai_cxr_vae.errors import (
    BadUID,
    ColourImage,
    DicomDirectory,
    ForProcessing,
    LateralView,
    MultiFrame,
    OwnOutput,
    UnknownView,
    WarningCode,
    WrongBodyPart,
    WrongModality,
    WrongSOPClass,
    WrongSpecies,
)
from monai_cxr_vae.kinds import SECONDARY_CAPTURE

MODALITIES = ("CR", "DX")
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
SOP_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.1": "Computed Radiography Image Storage",
    "1.2.840.10008.5.1.4.1.1.1.1": "Digital X-Ray Image Storage - For Presentation",
    # Films that were converted or exported; Modality must say CR or DX.
    SECONDARY_CAPTURE: "Secondary Capture Image Storage",
}
_MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"

# Body Part Examined (PS3.16 annex L) that is certainly no chest. The attribute is often wrong or free text, so what is
# not in this list passes.
_OTHER_BODY_PARTS = re.compile(
    "((LEFT|RIGHT|BILATERAL|L|R)(?!LEG$|EG$))?"
    "(ABDOMEN|ABDOMENPELVIS|ANKLE|ARM|BREAST|BUTTOCK|CALCANEUS|CALF|CLAVICLE|COCCYX|[CLST][TLS]?SPINE|"
    "(CERVICAL|THORACIC|LUMBAR|LUMBOSACRAL)?SPINE|ELBOW|EXTREMITY|FEMUR|FINGER|FOOT|FOREARM|HAND|HEAD|HEADNECK|HIP|"
    "HUMERUS|JAW|KIDNEY|KNEE|LEG|LOWERLEG|(UPPER|LOWER)(LIMB|EXTREMITY)|UPPERARM|MANDIBLE|MAXILLA|NECK|ORBIT|PELVIS|"
    "PATELLA|SACRUM|SCAPULA|SHOULDER|SINUS|SKULL|THIGH|THUMB|TIBIA|TIBIAFIBULA|TOE|WRIST)S?(JOINT)?"
)
# The same parts in Anatomic Region Sequence (context groups 4, 4009 and 4031), SNOMED CT and the older SNOMED-RT codes.
_OTHER_REGION_CODES = """
344001 661005 774007 2095001 4596009 7569003 7844006 8205005 12611008 12738006 12921003 13881006 14742008 14975008
16953009 16982005 21974007 22356005 24136001 27949001 29707007 29836001 30021000 30315005 30608006 32361000 39723000
40983000 41695006 42575006 45048000 45206002 46862004 49076000 51299004 52612000 53120007 53620006 54735007 56459004
58742003 59066005 61685007 64033007 64234005 64688005 66019005 68367000 69536005 69695003 70258002 70925003 71341001
71854001 72001000 72696002 74386004 74670003 76505004 76752008 79601000 80144004 81745001 85050009 85562004 85856004
87342007 89545001 89546000 89837001 91397008 91609006 102292000 110517009 110536004 113345001 122494005 122495006
122496007 123851003 127949000 361078006 363654007 371195002 416949008 421060004 706342009 816092008 816989007
818981001 818982008 818987002 1217253001 1217254007 1217256009 1217257000 1231522001 R-FAB57 R-FE0C7 T-04000 T-11011
T-11100 T-11133 T-11149 T-11166 T-11170 T-11180 T-11196 T-11501 T-11502 T-11503 T-11AD0 T-11BF0 T-12280 T-12310
T-12340 T-12410 T-12700 T-12701 T-12710 T-12730 T-12740 T-12750 T-12770 T-12980 T-13600 T-14668 T-15290 T-15420
T-15430 T-15460 T-15610 T-15680 T-15710 T-15720 T-15750 T-15770 T-21000 T-22000 T-24100 T-53000 T-57000 T-58000
T-59000 T-59300 T-71000 T-74000 T-A0100 T-AA000 T-AB959 T-D0300 T-D04FF T-D0662 T-D0821 T-D1000 T-D1100 T-D1160
T-D1200 T-D1213 T-D1460 T-D14AE T-D1600 T-D2220 T-D2300 T-D2500 T-D2600 T-D4000 T-D6000 T-D8000 T-D8200 T-D8300
T-D8500 T-D8600 T-D8700 T-D8800 T-D8810 T-D9000 T-D9100 T-D9200 T-D9310 T-D9400 T-D9500 T-D9700 T-D9800
"""

# PS3.3 C.7.1.4: Homo sapiens in SNOMED CT, SNOMED-RT and the NCBI taxonomy.
_HUMAN_CODES = ("337915000", "L-85003", "9606")
_HUMAN = re.compile("HUMANS?( BEINGS?)?|HOMO( SAPIENS)?( SAPIENS)?|H ?SAPIENS|MAN|PERSON|PEOPLE")
_UNSAID = ("", "N/A", "NA", "NONE", "UNKNOWN", "UNSPECIFIED", "NOT APPLICABLE")


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
    sop_class = text(ds, "SOPClassUID")
    media_class = text(getattr(ds, "file_meta", Dataset()), "MediaStorageSOPClassUID")
    if _MEDIA_STORAGE_DIRECTORY in (sop_class, media_class):
        raise DicomDirectory("a DICOMDIR, not an image")
    if is_own_output(ds):
        raise OwnOutput("an object that this program derived itself")
    modality = text(ds, "Modality").upper()
    if modality == "DR" and sop_class != SECONDARY_CAPTURE and sop_class in (*SOP_CLASSES, DX_FOR_PROCESSING):
        modality = "DX"  # not a term of the standard's any more, and that of many detectors
    if modality and modality not in MODALITIES:
        raise WrongModality("not a CR or DX object")
    if sop_class == DX_FOR_PROCESSING or "FOR PROCESSING" in terms(ds, "PresentationIntentType"):
        raise ForProcessing("raw detector data, which needs the vendor's processing first")
    if sop_class not in SOP_CLASSES or (not modality and sop_class == SECONDARY_CAPTURE):
        raise WrongSOPClass("not an object class that films come in")
    if not _is_human(ds):
        raise WrongSpecies("an animal")
    if _is_other_part(ds):
        raise WrongBodyPart("another body part than the chest")
    view, warnings = radiograph_view(ds)
    if view == "lateral":
        raise LateralView("not a frontal view")
    if view == "unknown" and strict_view:
        raise UnknownView("nothing says that the view is frontal")
    if integer(ds, "NumberOfFrames", 1) > 1:
        raise MultiFrame("more than one frame")
    if is_colour(ds) and sop_class != SECONDARY_CAPTURE:  # whose channels may be equal, as only the pixels tell
        raise ColourImage("a colour image")
    if not all(is_safe_uid(text(ds, k)) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")):
        raise BadUID("the study, series or instance UID is missing or malformed")
    return view, (*warnings, WarningCode.VIEW_UNKNOWN) if view == "unknown" else warnings


def _is_human(ds: Dataset) -> bool:
    """Nothing of the patient's species, breed and anatomical orientation (PS3.3 C.7.1.1) speaks of an animal."""
    for item in items(ds, "PatientSpeciesCodeSequence"):
        code, meaning = text(item, "CodeValue"), text(item, "CodeMeaning")
        if (code or meaning) and code not in _HUMAN_CODES and not (meaning and _is_said_human(item, "CodeMeaning")):
            return False
    breeds = [*terms(ds, "PatientBreedDescription"), *terms(ds, "StrainDescription")]
    breeds += [text(i, "CodeMeaning").upper() for i in items(ds, "PatientBreedCodeSequence")]
    quadruped = "QUADRUPED" in terms(ds, "AnatomicalOrientationType")
    return _is_said_human(ds, "PatientSpeciesDescription") and set(breeds) <= {*_UNSAID} and not quadruped


def _is_said_human(ds: Dataset, keyword: str) -> bool:
    return all(v in _UNSAID or _HUMAN.fullmatch(" ".join(re.findall("[A-Z]+", v))) for v in terms(ds, keyword))


def _is_other_part(ds: Dataset) -> bool:
    """Body Part Examined or each of the anatomic regions is certainly no chest."""
    regions = items(ds, "AnatomicRegionSequence")
    return _is_other_name(terms(ds, "BodyPartExamined")) or (
        bool(regions)
        and all(
            "".join(terms(region, "CodeValue")) in _OTHER_REGION_CODES.split()
            or _is_other_name(terms(region, "CodeMeaning"))
            for region in regions
        )
    )


def _is_other_name(names: list[str]) -> bool:
    return bool(names) and all(_OTHER_BODY_PARTS.fullmatch("".join(re.findall("[A-Z]+", name))) for name in names)
