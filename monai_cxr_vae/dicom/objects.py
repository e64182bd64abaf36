"""What all derived DICOM objects have in common: patient and study of the film, a series of their own, origin."""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from monai_cxr_vae.dicom.attributes import terms, text
from monai_cxr_vae.dicom.encode import Value, encode_again, encode_element, encode_elements, encode_file
from monai_cxr_vae.dicom.uids import is_safe_uid, uid_from
from monai_cxr_vae.dicom.view import radiograph_view
from monai_cxr_vae.errors import BadUID, MalformedIdentity, WarningCode
from monai_cxr_vae.kinds import KINDS, Kind

MANUFACTURER, MODEL_NAME = "monai_cxr_vae", "Chest radiograph VAE"
IMPLEMENTATION_CLASS_UID = uid_from(MANUFACTURER, "implementation class")
# First in the name of a series, and short: lists in viewers show some twenty characters.
CAUTION = "Research AI"
_LONGEST_NAME = 64  # LO, PS3.5 section 6.2

# Type 2 attributes of the Patient, General Study and Secondary Capture series level: empty where the source has none.
TYPE_2 = (
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
_OFFSET = re.compile(r"([+-])(0\d|1[0-4])([0-5]\d)")
_OLD_TIME = re.compile(rb"(\d{2})(?::?(\d{2})(?::?(\d{2})(?:\.(\d*))?)?)?")


@dataclass(frozen=True)
class Provenance:
    """What made an object: SHA-256 of the weights file, SHA-256 of the settings that change bytes, package version."""

    model_sha256: str
    config_sha256: str
    version: str


@dataclass(frozen=True)
class DerivedObject:
    """A DICOM object ready to be stored: its UIDs and the bytes of its file."""

    kind: str
    study_uid: str
    series_uid: str
    sop_uid: str
    data: bytes

    def item(self) -> dict[str, Value]:
        """The reference macro to the instance (PS3.3 table 10-11)."""
        sop_class = next(kind.sop_class for kind in KINDS.values() if kind.name == self.kind)
        return {"ReferencedSOPClassUID": sop_class, "ReferencedSOPInstanceUID": self.sop_uid}


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
    uids = [text(source, name) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")]
    if not all(map(is_safe_uid, uids)):
        raise BadUID("the film's study, series or instance UID is missing or malformed")
    return FilmReference(*uids)


def derived_object(
    source: Dataset, shown: str, provenance: Provenance, created: datetime.datetime, elements: Mapping[int, bytes]
) -> DerivedObject:
    """Put an object together from what a film says of patient and study and from encoded elements of its own.

    It is alone in its series, whose name and number say which film it belongs to.

    Args:
        source: header of the film.
        shown: what the object shows, of :data:`monai_cxr_vae.kinds.KINDS`.
        provenance: goes into the object and its UIDs.
        created: when it is made, see :func:`moment`.
        elements: by their tags.

    Raises:
        BadUID: see :func:`film_reference`.
        MalformedIdentity: see :func:`malformed_identity`.
    """
    kind, film = KINDS[shown], film_reference(source)
    if malformed := malformed_identity(source):
        names = ", ".join(code.removeprefix(WarningCode.MALFORMED) for code in malformed)
        raise MalformedIdentity(
            f"{names} is malformed, so no valid object of the same patient and study can be made", *malformed
        )
    origin = (provenance.model_sha256, provenance.config_sha256, provenance.version)
    when = created.isoformat()
    series_uid = uid_from("series", film.study_uid, film.series_uid, film.sop_uid, kind.name, when, *origin)
    number, description = _series_name(source, kind, film)
    together = dict(_common_elements(provenance))
    for keyword in (*TYPE_2, *_OPTIONAL):
        together.update(_copied(source, keyword) or {})
    together.update(
        encode_elements(
            {
                "SOPClassUID": kind.sop_class,
                "StudyInstanceUID": film.study_uid,
                "SeriesInstanceUID": series_uid,
                "Modality": kind.modality,
                "SeriesNumber": number,
                "SeriesDescription": description,
                "InstanceNumber": 1,
                **moment(source, created),
            }
        )
    )
    together.update(elements)
    # The UID is a digest of all the rest: one UID never stands for two contents.
    sop_uid = uid_from("instance", *(together[tag] for tag in sorted(together)))
    together.update(encode_elements({"SOPInstanceUID": sop_uid}))
    data = encode_file(
        together, sop_class_uid=kind.sop_class, sop_instance_uid=sop_uid, implementation=IMPLEMENTATION_CLASS_UID
    )
    return DerivedObject(kind.name, film.study_uid, series_uid, sop_uid, data)


@lru_cache
def _common_elements(provenance: Provenance) -> dict[int, bytes]:
    """The elements that are the same in every object of one origin, and the empty ones that a film may fill."""
    return encode_elements({**dict.fromkeys(TYPE_2), **equipment(provenance)})


def equipment(provenance: Provenance) -> dict[str, Value]:
    """What made an object, as its own equipment and as one that has contributed to it."""
    own: dict[str, Value] = {
        "Manufacturer": MANUFACTURER,
        "ManufacturerModelName": MODEL_NAME,
        "SoftwareVersions": [provenance.version, provenance.model_sha256, provenance.config_sha256[:32]],
        "DeviceUID": device_uid(provenance),
    }
    # As IHE's AI Results profile (revision 1.1, 6.5.3.1) names the purpose: a code that waits for one of DICOM's own.
    purpose = code("Newcode1", "Processing Algorithm", "99IHE")
    return {**own, "ContributingEquipmentSequence": [{**own, "PurposeOfReferenceCodeSequence": [purpose]}]}


def device_uid(provenance: Provenance) -> str:
    """UID of the device that made an object: a retrained model is another device."""
    return uid_from("device", provenance.model_sha256)


def malformed_identity(source: Dataset) -> tuple[str, ...]:
    """Warning codes of what tells the patient or the study and has a form that no valid object can keep.

    A date or time in an older form that says the same is none of them: it is converted.
    """
    return tuple(WarningCode.MALFORMED + keyword for keyword in TYPE_2 if _copied(source, keyword) is None)


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
        return {tag: encode_again(source, tag)}
    value = (element.value or b"") if isinstance(element, RawDataElement) else encode_again(source, tag)[8:]
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


def code(value: str, meaning: str, scheme: str = "DCM") -> dict[str, Value]:
    """An item of a code sequence (PS3.3 table 8.8-1), unless told otherwise in DICOM's own scheme."""
    return {"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning}


def moment(source: Dataset, created: datetime.datetime) -> dict[str, Value]:
    """Dates and times of an object's making, of its content, its series and itself.

    A film that states its offset from UTC states it for the whole object; else the time is that of the clock on the
    wall where the object is made, as dates and times without an offset are.
    """
    offset = _OFFSET.fullmatch("".join(terms(source, "TimezoneOffsetFromUTC")))
    if offset and created.tzinfo:
        sign, hours, minutes = offset.groups()
        ahead = datetime.timedelta(hours=int(hours), minutes=int(minutes))
        created = created.astimezone(datetime.timezone(-ahead if sign == "-" else ahead))
    date, time = created.date().isoformat().replace("-", ""), created.strftime("%H%M%S")
    events = ("InstanceCreation", "Series", "Content")
    return {event + what: value for event in events for what, value in (("Date", date), ("Time", time))}


def _series_name(source: Dataset, kind: Kind, film: FilmReference) -> tuple[int, str]:
    """Number and description of a series: alike in the series of one film, different in those of two.

    Both hold a number of five digits that belongs to the film, since films of a study may well have the same series
    and instance number.
    """
    mark = int.from_bytes(hashlib.sha256(film.sop_uid.encode()).digest()[:4], "big") % 100_000
    series, image = (_number(source, f"{level}Number") for level in ("Series", "Instance"))
    details = [f"series {series}"] * (series is not None) + [f"image {image}"] * (image is not None)
    view = radiograph_view(source)[0]
    details += [view] * (view != "unknown")
    name = f"{CAUTION}: {kind.title}, film {mark:05d}"
    fuller = f"{CAUTION}: {kind.title}, {' '.join(details)}, film {mark:05d}"
    number = 900_000_000 + (series or 0) % 100 * 1_000_000 + mark * 10 + kind.place
    return number, fuller if details and len(fuller) <= _LONGEST_NAME else name


def _number(source: Dataset, keyword: str) -> int | None:
    """An integer string (IS, PS3.5 section 6.2) as a number; None if it is none."""
    try:
        number = int("".join(terms(source, keyword)))
    except ValueError:
        return None
    return number if -(2**31) <= number < 2**31 else None
