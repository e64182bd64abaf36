"""The report of a film's scores: what a reader gets out of it, and that it is the same report every time."""

from __future__ import annotations

import dataclasses
import io
import itertools
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from monai_cxr_vae.dicom.objects import MANUFACTURER, MODEL_NAME, Provenance, is_own_output
from monai_cxr_vae.dicom.secondary_capture import coloured_capture, secondary_capture
from monai_cxr_vae.dicom.structured_report import SCHEME, Place, structured_report, written_number
from monai_cxr_vae.errors import BadUID, CorruptFile
from monai_cxr_vae.scores import ASPECTS, SCORES
from tests.dicom.sources import VARIANTS, film, header
from tests.dicom.test_objects import CREATED, IDENTITY, IMAGE, PICTURE
from tests.scored import groups_of, scores_of_a_film

CONFORMANCE = Path(__file__).parents[2] / "docs" / "reference" / "dicom.md"
PROVENANCE = Provenance("a" * 64, "b" * 64, "1.2.3")
FOUND = scores_of_a_film(
    quality=1.25,
    quality_p=0.004,
    quality_part="sharpness",
    anomaly=-3.12345678901234567,
    anomaly_p=1.0,
    anomaly_part="a part with quite a long name",
)


def read(derived):
    return pydicom.dcmread(io.BytesIO(derived.data))


PLACES = [
    Place(np.array([[10, 20], [31.5, 20], [31.5, 40], [10, 40.25]]), 0.91, "right"),
    Place(np.array([[1, 2], [3, 2], [3, 4]]), 0.6, None),
]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("places", [PLACES, []])
def test_scores_come_back(variant: str, places: list):
    groups = groups_of(read(structured_report(header(variant), FOUND, PROVENANCE, CREATED, places)))
    for name, score in SCORES.items():
        assert len(groups[name]) == (max(len(places), 1) if score.of_places else 1)
    for question, group in ((name, group) for name in groups for group in groups[name]):
        found = {}
        for measurement in group.get_measurements():
            found[measurement.name.value] = measurement.value
        for evaluation in group.get_qualitative_evaluations():
            if evaluation.name.scheme_designator == SCHEME:  # not the family of the algorithm
                found[evaluation.name.value] = evaluation.value.value
        found.pop("anomaly_peak", None)
        assert found.pop("121415") == pytest.approx(100 * (1 - FOUND[f"{question}_p"]))
        # To the last bit: beside the digits that people read stands the number itself.
        assert found == {key: value for key, value in FOUND.items() if key.startswith(question)}
        (image,) = group.roi.ContentSequence
        assert image.referenced_sop_instance_uid == "1.2.3.4.5"
        assert image.referenced_sop_class_uid == film(variant).SOPClassUID


def test_places_are_closed_outlines_on_the_film_with_their_side():
    groups = groups_of(read(structured_report(header("dx_mono2_12"), FOUND, PROVENANCE, CREATED, PLACES)))
    for group, place in zip(groups["anomaly"], PLACES, strict=True):
        assert group.roi.graphic_type.value == "POLYLINE"
        np.testing.assert_allclose(group.roi.value, [*place.outline, place.outline[0]], rtol=1e-6)
        assert [site.laterality.meaning for site in group.finding_sites] == (["Right"] if place.side else [])
        assert (f"patient's {place.side}" in group.finding_type.meaning) == bool(place.side)
        assert group.get_measurements()[-1].value == place.peak
        # what is the place's own, and what the film's
        names = [measurement.name.meaning for measurement in group.get_measurements()]
        assert [name.endswith("of the film") for name in names] == [True, True, False, False]
        (comment,) = [
            item.value for item in group[0].ContentSequence if item.ValueType == "TEXT" and item.name.value == "121106"
        ]
        assert "a place has none of its own" in comment


def test_without_places_the_numbers_stand_within_the_film():
    groups = groups_of(read(structured_report(header("dx_mono2_12"), FOUND, PROVENANCE, CREATED)))
    for group in itertools.chain(*groups.values()):
        assert (group.roi.value > 0).all()
        assert (group.roi.value < [50, 60]).all()
        assert np.ptp(group.roi.value, axis=0).min() > 30


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4.65578222274780, "4.66"),
        (0.03187250996016, "0.0319"),
        (-3.123, "-3.12"),
        (0.0, "0"),
        (1.0, "1"),
        (100.0, "100"),
        (12345.6, "12346"),
        (0.05, "0.05"),
        (0.000041, "0.000041"),
        (1.26e-12, "0.000000000001"),
        (-0.5, "-0.5"),
    ],
)
def test_numbers_are_as_people_write_them(value: float, text: str):
    assert written_number(value) == text


def test_what_an_aspect_is_called_can_be_read():
    assert max(map(len, ASPECTS.values())) <= 64
    scores = scores_of_a_film(anomaly_part="finding")
    (group,) = groups_of(read(structured_report(header("dx_mono2_12"), scores, PROVENANCE, CREATED)))["anomaly"]
    meanings = [evaluation.value.meaning for evaluation in group.get_qualitative_evaluations()]
    assert meanings == ["Artificial Intelligence", "the critic saw a finding"]


@pytest.mark.parametrize(("p", "percentile"), [(0.03187, 96.8), (1.0, 0)])
def test_a_percentile_among_normal_films_stands_beside_p(p: float, percentile: float):
    scores = scores_of_a_film(**{f"{name}_p": p for name in SCORES})
    ds = read(structured_report(header("dx_mono2_12"), scores, PROVENANCE, CREATED))
    found = [item for item in walk(ds) if item.ConceptNameCodeSequence[0].CodeValue == "121415"]
    values = [item.MeasuredValueSequence[0] for item in found]
    assert [float(value.NumericValue) for value in values] == [percentile] * len(SCORES)
    assert {value.MeasurementUnitsCodeSequence[0].CodeValue for value in values} == {"%"}


def test_evidence_is_the_film_and_what_else_was_made_of_it():
    source = header("dx_mono2_12")
    others = [
        secondary_capture(source, IMAGE, PROVENANCE, CREATED),
        coloured_capture(source, PICTURE, "heat map", PROVENANCE, CREATED),
    ]
    ds = read(structured_report(source, FOUND, PROVENANCE, CREATED, PLACES, others))
    (evidence,) = ds.CurrentRequestedProcedureEvidenceSequence
    told = {
        (series.SeriesInstanceUID, item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID)
        for series in evidence.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    there = [source, *map(read, others)]
    assert told == {(one.SeriesInstanceUID, one.SOPClassUID, one.SOPInstanceUID) for one in there}


def walk(item):
    """All content items of a report."""
    yield item
    for child in item.get("ContentSequence", ()):
        yield from walk(child)


def test_report_names_the_algorithm():
    report = highdicom.sr.ComprehensiveSR.from_dataset(
        read(structured_report(header("japanese"), FOUND, PROVENANCE, CREATED))
    )
    for group in report.content.get_planar_roi_measurement_groups():
        said = {item.name.meaning: item.value for item in group[0].ContentSequence if item.ValueType == "TEXT"}
        assert (said["Algorithm Name"], said["Algorithm Version"]) == (
            f"{MODEL_NAME}: research use, not for diagnosis",
            "1.2.3",
        )
        texts = [item.value for item in group[0].ContentSequence if item.ValueType == "TEXT"]
        assert f"weights SHA-256 {'a' * 64}" in texts
        assert f"settings SHA-256 {'b' * 64}" in texts


def said(item, code):
    """What the children of a content item with this concept say, as text or as (code, scheme, meaning)."""
    found = [child for child in item.ContentSequence if child.ConceptNameCodeSequence[0].CodeValue == code]
    return [of(child.ConceptCodeSequence[0]) if "ConceptCodeSequence" in child else text_of(child) for child in found]


def of(concept):
    return concept.get("CodeValue") or concept.LongCodeValue, concept.CodingSchemeDesignator, concept.CodeMeaning


def text_of(item):
    value = item.get("TextValue") or item.get("UID")
    return value if isinstance(value, str) else "".join(value)


def test_report_says_who_observed_what_and_in_whose_words():
    """PS3.16 TID 1004 and 1500; PS3.3 C.17.2 (the coding scheme) and C.18.8 (the continuity)."""
    ds = read(structured_report(header("dx_mono2_12"), FOUND, PROVENANCE, CREATED, PLACES))
    assert said(ds, "121005") == [("121007", "DCM", "Device")]
    assert said(ds, "121012") == [ds.DeviceUID]
    assert [said(ds, code) for code in ("121013", "121014", "121015")] == [[MANUFACTURER]] * 2 + [[MODEL_NAME]]
    assert said(ds, "121058") == [("399208008", "SCT", "Plain X-ray of chest")]
    assert ds.PreliminaryFlag == "PRELIMINARY"
    (scheme,) = ds.CodingSchemeIdentificationSequence
    assert scheme.CodingSchemeDesignator == SCHEME
    assert f"{SCHEME} (Coding Scheme UID {scheme.CodingSchemeUID})" in CONFORMANCE.read_text()  # the same for ever
    assert MANUFACTURER in scheme.CodingSchemeName
    assert "RelationshipType" not in ds
    containers = [item for item in walk(ds) if item.ValueType == "CONTAINER"]
    assert len(containers) > 4
    assert {item.ContinuityOfContent for item in containers} == {"SEPARATE"}


@pytest.mark.parametrize(
    ("places", "titles"),
    [
        ([], ["No unusual place"]),
        (PLACES, ["Unusual place 1, patient's right", "Unusual place 2"]),
        ([dataclasses.replace(PLACES[1], side="left")], ["Unusual place 1, patient's left"]),
    ],
)
def test_each_group_says_what_it_is_of(places: list, titles: list):
    """PS3.16 TID 1410, 1419 and 4019."""
    found = groups_of(read(structured_report(header("dx_mono2_12"), FOUND, PROVENANCE, CREATED, places)))
    groups = [("quality", "Whole film", *found["quality"])]
    groups += [("anomaly", title, group) for title, group in zip(titles, found["anomaly"], strict=True)]
    uids = set()
    for question, title, group in groups:
        (item,) = group
        suffix = "place" if question == "anomaly" and places else "film"
        assert said(item, "121071") == [(f"{question}_{suffix}", SCHEME, title)]
        assert said(item, "112039") == [f"{title} ({question})"]
        uids |= set(said(item, "112040"))
        assert said(item, f"{question}_part") == [(part := FOUND[f"{question}_part"], SCHEME, ASPECTS.get(part, part))]
        assert said(item, "122405") == [MANUFACTURER]
        (family,) = said(item, "111000")
        assert family[:2] == (codes.cid7162.ArtificialIntelligence.value, "DCM")
        (comment,) = said(item, "121106")
        assert comment.startswith(f"{question.capitalize()}: how {SCORES[question].measures}. p is the share ")
        assert ("a place has none of its own" in comment) == (suffix == "place")
        assert comment.endswith(" Research use, not for diagnosis.")
        site, side = codes.SCT.Chest, title.partition("patient's ")[2].capitalize()
        sites = [(of(s.ConceptCodeSequence[0]), said_side(s)) for s in group.finding_sites]
        assert sites == ([((site.value, "SCT", site.meaning), side)] if side else [])
        units = {(m.name.value, *of(m.unit)) for m in group.get_measurements()}
        own = {(f"{question}_peak", "{map}", "UCUM", "map")} if suffix == "place" else set()
        assert units == own | {
            (question, "{score}", "UCUM", "score"),
            (f"{question}_p", "{p}", "UCUM", "p"),
            (codes.DCM.PercentileRankingOfMeasurement.value, "%", "UCUM", "%"),
        }
        assert "films called normal that the scores were calibrated with" in {
            text_of(child) for child in walk(item) if child.ValueType == "TEXT"
        }
    assert len(uids) == 1 + len(titles)


def said_side(site):
    return site.laterality.meaning


def test_the_outlines_of_the_film_begin_where_a_viewer_has_room_for_the_numbers():
    """OHIF writes them to the right of the first two points and below what is midway between them."""
    groups = groups_of(read(structured_report(header("dx_mono2_12"), FOUND, PROVENANCE, CREATED)))
    (whole,), (middle,) = groups["quality"], groups["anomaly"]
    clockwise = [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    for group, margin, first in ((whole, 0.01, clockwise.index((0, 2))), (middle, 0.15, 0)):
        share = np.array([margin, 0.5, 1 - margin])
        order = [clockwise[(first + step) % 8] for step in range(9)]
        np.testing.assert_allclose(group.roi.value, share[np.array(order)] * [50, 60], rtol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_report_belongs_to_the_patient_and_study(variant):
    source, ds = film(variant), read(structured_report(header(variant), FOUND, PROVENANCE, CREATED))
    for keyword in IDENTITY:
        assert str(ds.get(keyword) or "") == str(source.get(keyword) or "")
    (evidence,) = ds.CurrentRequestedProcedureEvidenceSequence
    (series,) = evidence.ReferencedSeriesSequence
    assert (evidence.StudyInstanceUID, series.SeriesInstanceUID) == (source.StudyInstanceUID, source.SeriesInstanceUID)
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert (ds.Modality, ds.VerificationFlag, ds.CompletionFlag) == ("SR", "UNVERIFIED", "COMPLETE")
    assert ds.SeriesDescription.startswith("Research AI: scores")
    assert is_own_output(ds)
    assert (
        ds.SeriesInstanceUID != read(secondary_capture(header(variant), IMAGE, PROVENANCE, CREATED)).SeriesInstanceUID
    )


def test_same_arguments_same_bytes_and_any_change_another_uid():
    base = structured_report(header("japanese"), FOUND, PROVENANCE, CREATED)
    decoded = header("japanese")
    str(decoded)
    assert structured_report(decoded, FOUND, PROVENANCE, CREATED) == base
    renamed = header("japanese")
    renamed.PatientID = "P-2"
    others = [
        *(structured_report(header("japanese"), {**FOUND, key: 0.5}, PROVENANCE, CREATED) for key in FOUND),
        structured_report(renamed, FOUND, PROVENANCE, CREATED),
        structured_report(header("japanese"), FOUND, dataclasses.replace(PROVENANCE, model_sha256="c" * 64), CREATED),
    ]
    assert len({base.sop_uid, *(other.sop_uid for other in others)}) == len(others) + 1


@pytest.mark.parametrize(
    "bad", [{"quality": float("nan")}, {"anomaly": float("inf")}, {"quality_p": 0.0}, {"anomaly_p": 1.5}]
)
def test_what_is_no_score_is_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        structured_report(header("dx_mono2_12"), {**FOUND, **bad}, PROVENANCE, CREATED)


@pytest.mark.filterwarnings("ignore")
def test_film_without_sound_identity_is_refused():
    source = header("dx_mono2_12")
    source.StudyInstanceUID = "1.2/../3"
    with pytest.raises(BadUID):
        structured_report(source, FOUND, PROVENANCE, CREATED)
    source = header("dx_mono2_12")
    source.AccessionNumber = "7" * 17
    with pytest.raises(CorruptFile):
        structured_report(source, FOUND, PROVENANCE, CREATED)
