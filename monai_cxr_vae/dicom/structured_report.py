"""The scores of a film as a DICOM Structured Report: numbers for archives, and places that viewers show on the film."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydicom.dataset import Dataset

from monai_cxr_vae.dicom.attributes import integer
from monai_cxr_vae.dicom.encode import Value, encode_again, encode_element, encode_elements
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
from monai_cxr_vae.scores import ASPECTS, SCORES

if TYPE_CHECKING:
    from highdicom.sr import (
        AlgorithmIdentification,
        CodedConcept,
        Measurement,
        MeasurementProperties,
        MeasurementReport,
        PlanarROIMeasurementsAndQualitativeEvaluations,
    )
    from pydicom.sr.coding import Code

SCHEME = "99CXRVAE"  # a private scheme's designator begins with 99 (PS3.16 section 8)
_P = (
    "p is the share of the normal films of the calibration whose score is at least as high: of normal films, about 5 "
    "in 100 have p of 0.05 or less by chance alone. Below 1 / (calibration films + 1), p tells an order and no share. "
)
_PLACE = (
    "Score and p are those of the whole film, a place has none of its own; the peak of the heat map is this place's. "
    "Beyond the limit of 0.5 it is higher than anywhere on 9 in 10 of those normal films. "
)
_USE = "Research use, not for diagnosis."
_ALGORITHM_ROWS = (("122405", "DCM", "Algorithm Manufacturer"), ("111000", "DCM", "Algorithm Family"))
_NORMAL_FILMS = "films called normal that the scores were calibrated with"


@dataclass(frozen=True)
class Place:
    """A place on a film that is unusual.

    Attributes:
        outline: ``(n, 2)`` columns and rows in the film's own pixels; 0, 0 is the corner of the first one (PS3.3
            C.18.6), so its centre is 0.5, 0.5. Viewers write the numbers beside where it begins.
        peak: the heat map's largest value there, in [0, 1], 0.5 being the limit.
        side: the patient's side, if it is known and not the middle.
    """

    outline: np.ndarray
    peak: float
    side: Literal["left", "right"] | None


def structured_report(
    source: Dataset,
    scores: Mapping[str, float | str],
    provenance: Provenance,
    created: datetime.datetime,
    places: Sequence[Place] = (),
    others: Sequence[DerivedObject] = (),
) -> DerivedObject:
    """Make a Comprehensive SR (PS3.3 A.35.3) of the template Measurement Report (PS3.16 TID 1500).

    Its measurement groups are regions of the film (TID 1410), without which viewers show nothing: the whole film for
    ``quality``, and each unusual place, else the middle of the film, for ``anomaly``. Each has the film's score, its
    p-value and its percentile among normal films as numbers, a place also the heat map's peak; the part of the score
    that contributed most as a coded evaluation; and what p means. Names are coded in the private scheme ``99CXRVAE``.

    Args:
        source: header of the film, pixels not needed.
        scores: ``quality`` and ``anomaly`` (finite, greater is more unusual), ``quality_p`` and ``anomaly_p``
            (conformal p-values in (0, 1]), ``quality_part`` and ``anomaly_part`` (words of
            :data:`monai_cxr_vae.scores.ASPECTS`).
        provenance: goes into the object and its UIDs.
        created: when it is made, see :func:`monai_cxr_vae.dicom.objects.moment`.
        places: what is unusual.
        others: objects made of the same film in the same run, which the report names as evidence.

    Returns:
        The object; unverified, since nobody has. The same arguments give the same bytes.

    Raises:
        BadUID: the source's study, series or SOP instance UID is missing or unfit.
        CorruptFile: what tells the patient or the study is malformed in the source, or its size is missing.
        ValueError: a score is not finite or a p-value not in (0, 1].
    """
    film = film_reference(source)
    (report,) = _report(source, film, scores, provenance, places)
    for container in _containers(report):
        # In the flow of a continuous text, readers print values without their names (PS3.3 C.18.8).
        container.ContinuityOfContent = "SEPARATE"
    elements = encode_elements(
        {
            "ReferencedPerformedProcedureStepSequence": [],
            "PerformedProcedureCodeSequence": [],
            "CurrentRequestedProcedureEvidenceSequence": [
                {"StudyInstanceUID": film.study_uid, "ReferencedSeriesSequence": _evidence(film, others)}
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
        else:
            elements[element.tag] = encode_element(element.tag, element.VR, str(element.value))
    return derived_object(source, "scores", provenance, created, elements)


def _evidence(film: FilmReference, others: Sequence[DerivedObject]) -> list[dict[str, Value]]:
    """The film and what else was made of it, each alone in its series."""
    references = [(film.series_uid, film.item())] + [(other.series_uid, other.item()) for other in others]
    return [{"SeriesInstanceUID": series, "ReferencedSOPSequence": [item]} for series, item in references]


def _report(
    source: Dataset,
    film: FilmReference,
    scores: Mapping[str, float | str],
    provenance: Provenance,
    places: Sequence[Place],
) -> MeasurementReport:
    # Half a second to import, and needed by those alone who want this object.
    from highdicom import sr
    from pydicom.sr.codedict import codes

    observer = sr.DeviceObserverIdentifyingAttributes(
        uid=device_uid(provenance), name=MANUFACTURER, manufacturer_name=MANUFACTURER, model_name=MODEL_NAME
    )
    columns, rows = integer(source, "Columns"), integer(source, "Rows")
    groups: list[tuple[str, str, np.ndarray, Place | None]]
    groups = []
    for name, score in SCORES.items():
        if not score.of_places:
            groups.append((name, "Whole film", _box(columns, rows, 0.01, first=6), None))
            continue
        for number, place in enumerate(places, 1):
            side = f", patient's {place.side}" if place.side else ""
            groups.append((name, f"Unusual place {number}{side}", place.outline, place))
        if not places:
            groups.append((name, "No unusual place", _box(columns, rows, 0.15, first=0), None))
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(codes.DCM.Device, observer)
        ),
        procedure_reported=sr.CodedConcept("399208008", "SCT", "Plain X-ray of chest"),
        imaging_measurements=[_group(*group, film, scores, provenance) for group in groups],
    )


def _group(
    question: str,
    title: str,
    outline: np.ndarray,
    place: Place | None,
    film: FilmReference,
    scores: Mapping[str, float | str],
    provenance: Provenance,
) -> PlanarROIMeasurementsAndQualitativeEvaluations:
    """A region of the film with the numbers of one question."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    score, p, part = float(scores[question]), float(scores[f"{question}_p"]), str(scores[f"{question}_part"])
    if not math.isfinite(score) or not 0 < p <= 1:
        raise ValueError(f"the score must be finite and its p-value in (0, 1], not {score} and {p}")

    def concept(suffix: str, meaning: str) -> sr.CodedConcept:
        return sr.CodedConcept(f"{question}{suffix}", SCHEME, meaning)

    # Viewers may round p to two digits; a percentile survives that.
    population = sr.MeasurementStatisticalProperties([], _NORMAL_FILMS)
    measurements = [
        _measurement(concept("", f"{question.capitalize()} score of the film"), score, "{score}"),
        _measurement(concept("_p", f"{question.capitalize()} p-value of the film"), p, "{p}"),
        _measurement(
            codes.DCM.PercentileRankingOfMeasurement,
            100 * (1 - p),
            "%",
            sr.MeasurementProperties(measurement_statistical_properties=population),
        ),
    ]
    if place is not None:
        measurements.append(_measurement(concept("_peak", "Peak of the heat map, limit 0.5"), place.peak, "{map}"))
    kind = concept("_film" if place is None else "_place", title)
    identity = ("tracking", film.sop_uid, question, title, provenance.model_sha256, provenance.config_sha256)
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=uid_from(*identity), identifier=f"{title} ({question})"),
        referenced_region=sr.ImageRegion(
            sr.GraphicTypeValues.POLYLINE,
            np.concatenate([outline, outline[:1]]),
            sr.SourceImageForRegion(film.sop_class_uid, film.sop_uid),
        ),
        finding_type=kind,
        finding_sites=_sites(place),
        algorithm_id=_algorithm(provenance),
        measurements=measurements,
        qualitative_evaluations=[
            sr.QualitativeEvaluation(
                concept("_part", f"What contributed most to the {question} score"),
                sr.CodedConcept(part, SCHEME, ASPECTS.get(part, part)),
            )
        ],
    )
    about = f"{question.capitalize()}: how {SCORES[question].measures}. {_P}{_PLACE if place else ''}{_USE}"
    group[0].ContentSequence.append(sr.TextContentItem(codes.DCM.Comment, about, sr.RelationshipTypeValues.CONTAINS))
    return group


def _measurement(
    name: CodedConcept | Code, value: float, unit: str, properties: MeasurementProperties | None = None
) -> Measurement:
    """A number as people write it beside the number itself; ``unit`` is a code of UCUM."""
    from highdicom import sr

    measurement = sr.Measurement(name, value, sr.CodedConcept(unit, "UCUM", unit.strip("{}")), properties=properties)
    # The first of what a template holds is its number; highdicom writes 16 characters of it.
    measurement[0].MeasuredValueSequence[0].NumericValue = written_number(value)
    return measurement


def written_number(value: float) -> str:
    """Three digits of a number, never with an exponent: ``4.66``, ``0.0319``, ``0.00004``."""
    size = math.floor(math.log10(abs(value))) if value else 0
    text = f"{value:.{min(max(2 - size, 0), 12)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _sites(place: Place | None) -> list | None:
    """Where in the body a place is, as far as that is known."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    if place is None or place.side is None:
        return None
    side = codes.SCT.Left if place.side == "left" else codes.SCT.Right
    return [sr.FindingSite(sr.CodedConcept("816094009", "SCT", "Chest"), laterality=side)]


def _algorithm(provenance: Provenance) -> AlgorithmIdentification:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    algorithm = sr.AlgorithmIdentification(
        name=f"{MODEL_NAME}: research use, not for diagnosis",
        version=provenance.version,
        parameters=[f"weights SHA-256 {provenance.model_sha256}", f"settings SHA-256 {provenance.config_sha256}"],
    )
    # Rows of the template that earlier versions of highdicom have no arguments for.
    modifier = sr.RelationshipTypeValues.HAS_CONCEPT_MOD
    maker, family = (sr.CodedConcept(*row) for row in _ALGORITHM_ROWS)
    algorithm.append(sr.TextContentItem(maker, MANUFACTURER, modifier))
    algorithm.append(sr.CodeContentItem(family, codes.cid7162.ArtificialIntelligence, modifier))
    return algorithm


def _box(columns: int, rows: int, margin: float, first: int) -> np.ndarray:
    """Corners of a film without a share of its sides, and the middles between them, clockwise from the top left.

    OHIF writes the numbers to the right of the first two points and below what is midway between them: on the film and
    on the screen if these are the left half of the upper side (``first`` is 0) or the lower half of the left one (6).
    """
    at = np.array([margin, 0.5, 1 - margin])
    around = [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    return np.array([(at[x] * columns, at[y] * rows) for x, y in around[first:] + around[:first]])


def _containers(item: Dataset) -> Iterator[Dataset]:
    """The containers of a tree of content."""
    if item.ValueType == "CONTAINER":
        yield item
    for child in item.get("ContentSequence", ()):
        yield from _containers(child)
