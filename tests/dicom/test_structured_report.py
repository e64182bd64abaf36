"""The report of a film's scores: what a reader gets out of it, and that it is the same report every time."""

from __future__ import annotations

import dataclasses
import io

import highdicom
import pydicom
import pytest
from pydicom.sr.codedict import codes

from monai_cxr_vae.dicom.objects import MODEL_NAME, Provenance, is_own_output
from monai_cxr_vae.dicom.secondary_capture import secondary_capture
from monai_cxr_vae.dicom.structured_report import SCHEME, structured_report
from monai_cxr_vae.errors import BadUID, CorruptFile
from tests.dicom.sources import VARIANTS, film, header
from tests.dicom.test_objects import CREATED, IDENTITY, IMAGE

PROVENANCE = Provenance("a" * 64, "b" * 64, "1.2.3")
SCORES = {
    "quality": 1.25,
    "quality_p": 0.004,
    "quality_part": "sharpness",
    "anomaly": -3.12345678901234567,
    "anomaly_p": 1.0,
    "anomaly_part": "a part with quite a long name",
}


def read(derived):
    return pydicom.dcmread(io.BytesIO(derived.data))


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_come_back(variant):
    ds = read(structured_report(header(variant), SCORES, PROVENANCE, CREATED))
    report = highdicom.sr.ComprehensiveSR.from_dataset(ds)
    groups = report.content.get_image_measurement_groups()
    found = {}
    for group in groups:
        for measurement in group.get_measurements():
            assert measurement.unit == codes.UCUM.NoUnits
            assert measurement.name.CodingSchemeDesignator == SCHEME
            found[measurement.name.value] = measurement.value
        for evaluation in group.get_qualitative_evaluations():
            found[evaluation.name.value] = evaluation.value.meaning
        (image,) = group.source_images
        assert image.referenced_sop_instance_uid == "1.2.3.4.5"
        assert image.referenced_sop_class_uid == film(variant).SOPClassUID
    assert found == SCORES  # to the last bit: beside the 16 characters of a decimal string stands the number itself


def test_report_names_the_algorithm():
    report = highdicom.sr.ComprehensiveSR.from_dataset(
        read(structured_report(header("japanese"), SCORES, PROVENANCE, CREATED))
    )
    for group in report.content.get_image_measurement_groups():
        said = {item.name.meaning: item.value for item in group[0].ContentSequence if item.ValueType == "TEXT"}
        assert (said["Algorithm Name"], said["Algorithm Version"]) == (
            f"{MODEL_NAME}: research use, not for diagnosis",
            "1.2.3",
        )
        texts = [item.value for item in group[0].ContentSequence if item.ValueType == "TEXT"]
        assert f"weights SHA-256 {'a' * 64}" in texts
        assert f"settings SHA-256 {'b' * 64}" in texts


@pytest.mark.parametrize("variant", VARIANTS)
def test_report_belongs_to_the_patient_and_study(variant):
    source, ds = film(variant), read(structured_report(header(variant), SCORES, PROVENANCE, CREATED))
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
    base = structured_report(header("japanese"), SCORES, PROVENANCE, CREATED)
    decoded = header("japanese")
    str(decoded)
    assert structured_report(decoded, SCORES, PROVENANCE, CREATED) == base
    renamed = header("japanese")
    renamed.PatientID = "P-2"
    others = [
        *(structured_report(header("japanese"), {**SCORES, key: 0.5}, PROVENANCE, CREATED) for key in SCORES),
        structured_report(renamed, SCORES, PROVENANCE, CREATED),
        structured_report(header("japanese"), SCORES, dataclasses.replace(PROVENANCE, model_sha256="c" * 64), CREATED),
    ]
    assert len({base.sop_uid, *(other.sop_uid for other in others)}) == len(others) + 1


@pytest.mark.parametrize(
    "bad", [{"quality": float("nan")}, {"anomaly": float("inf")}, {"quality_p": 0.0}, {"anomaly_p": 1.5}]
)
def test_what_is_no_score_is_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        structured_report(header("dx_mono2_12"), {**SCORES, **bad}, PROVENANCE, CREATED)


@pytest.mark.filterwarnings("ignore")
def test_film_without_sound_identity_is_refused():
    source = header("dx_mono2_12")
    source.StudyInstanceUID = "1.2/../3"
    with pytest.raises(BadUID):
        structured_report(source, SCORES, PROVENANCE, CREATED)
    source = header("dx_mono2_12")
    source.AccessionNumber = "7" * 17
    with pytest.raises(CorruptFile):
        structured_report(source, SCORES, PROVENANCE, CREATED)
