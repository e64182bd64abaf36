"""The scores of a film as a DICOM Structured Report, which archives and worklists can read as numbers."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset

from monai_cxr_vae.dicom.encode import encode_again, encode_element, encode_elements
from monai_cxr_vae.dicom.objects import (
    MANUFACTURER,
    MODEL_NAME,
    DerivedObject,
    FilmReference,
    Provenance,
    derived_object,
    device_uid,
    film_reference,
)
from monai_cxr_vae.dicom.uids import uid_from

if TYPE_CHECKING:
    from highdicom.sr import MeasurementReport, MeasurementsAndQualitativeEvaluations

SCHEME = "99CXRVAE"  # a private scheme's designator begins with 99 (PS3.16 section 8)
QUESTIONS = {
    "quality": "Film quality: unlike proper frontal chest films",
    "anomaly": "Anomaly: unlike normal chest films",
}


def structured_report(
    source: Dataset, scores: Mapping[str, float | str], provenance: Provenance, created: datetime.datetime
) -> DerivedObject:
    """Make a Comprehensive SR (PS3.3 A.35.3) of the template Measurement Report (PS3.16 TID 1500).

    One measurement group per question, ``quality`` and ``anomaly``, each with the score and its p-value as numbers
    without unit (UCUM ``1``), the part of the score that is most unusual as a coded evaluation, the algorithm with
    the digests of its weights and settings, and the film as source image. Names are coded in the private scheme
    ``99CXRVAE``.

    Args:
        source: header of the film, pixels not needed.
        scores: ``quality`` and ``anomaly`` (finite, greater is more unusual), ``quality_p`` and ``anomaly_p``
            (conformal p-values in (0, 1]), ``quality_part`` and ``anomaly_part`` (a word).
        provenance: goes into the object and its UIDs.
        created: when it is made, see :func:`monai_cxr_vae.dicom.objects.moment`.

    Returns:
        The object; unverified, since nobody has. The same arguments give the same bytes.

    Raises:
        BadUID: the source's study, series or SOP instance UID is missing or unfit.
        CorruptFile: what tells the patient or the study is malformed in the source.
        ValueError: a score is not finite or a p-value not in (0, 1].
    """
    film = film_reference(source)
    (report,) = _report(film, scores, provenance)
    elements = encode_elements(
        {
            "ReferencedPerformedProcedureStepSequence": [],
            "PerformedProcedureCodeSequence": [],
            "CurrentRequestedProcedureEvidenceSequence": [
                {
                    "StudyInstanceUID": film.study_uid,
                    "ReferencedSeriesSequence": [
                        {"SeriesInstanceUID": film.series_uid, "ReferencedSOPSequence": [film.item()]}
                    ],
                }
            ],
            "CompletionFlag": "COMPLETE",
            "VerificationFlag": "UNVERIFIED",
            "PreliminaryFlag": "PRELIMINARY",
            "CodingSchemeIdentificationSequence": [
                {
                    "CodingSchemeDesignator": SCHEME,
                    "CodingSchemeUID": uid_from(MANUFACTURER, "coding scheme"),
                    "CodingSchemeName": f"Codes of {MANUFACTURER}",
                }
            ],
        }
    )
    for element in report:
        if element.VR == "SQ":
            elements[element.tag] = encode_again(report, element.tag)
        elif element.keyword != "RelationshipType":
            elements[element.tag] = encode_element(element.tag, element.VR, str(element.value))
    return derived_object(source, "scores", provenance, created, elements)


def _report(film: FilmReference, scores: Mapping[str, float | str], provenance: Provenance) -> MeasurementReport:
    # Half a second to import, and needed by those alone who want this object.
    from highdicom import sr
    from pydicom.sr.codedict import codes

    observer = sr.DeviceObserverIdentifyingAttributes(
        uid=device_uid(provenance), name=MANUFACTURER, manufacturer_name=MANUFACTURER, model_name=MODEL_NAME
    )
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(codes.DCM.Device, observer)
        ),
        procedure_reported=sr.CodedConcept("399208008", "SCT", "Plain X-ray of chest"),
        imaging_measurements=[_group(question, film, scores, provenance) for question in QUESTIONS],
    )


def _group(
    question: str, film: FilmReference, scores: Mapping[str, float | str], provenance: Provenance
) -> MeasurementsAndQualitativeEvaluations:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    score, p, part = float(scores[question]), float(scores[f"{question}_p"]), str(scores[f"{question}_part"])
    if not math.isfinite(score) or not 0 < p <= 1:
        raise ValueError(f"the score must be finite and its p-value in (0, 1], not {score} and {p}")

    def concept(suffix: str, meaning: str) -> sr.CodedConcept:
        return sr.CodedConcept(f"{question}{suffix}", SCHEME, meaning)

    name = question.capitalize()
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=uid_from("tracking", film.sop_uid, question, provenance.model_sha256, provenance.config_sha256),
            identifier=QUESTIONS[question],
        ),
        algorithm_id=sr.AlgorithmIdentification(
            name=f"{MODEL_NAME}: research use, not for diagnosis",
            version=provenance.version,
            parameters=[
                f"weights SHA-256 {provenance.model_sha256}",
                f"settings SHA-256 {provenance.config_sha256}",
                "a p-value below 1 / (calibration films + 1) tells an order, not a rate",
            ],
        ),
        measurements=[
            sr.Measurement(concept("", f"{name} score, greater is more unusual"), score, codes.UCUM.NoUnits),
            sr.Measurement(concept("_p", f"Conformal p-value of the {question} score"), p, codes.UCUM.NoUnits),
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                concept("_part", f"Most unusual part of the {question} score"),
                sr.CodedConcept(part, SCHEME, part),
            )
        ],
        source_images=[sr.SourceImageForMeasurementGroup(film.sop_class_uid, film.sop_uid)],
    )
