"""Derived objects belong to the film's patient and study, and one UID never stands for two contents."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pydicom
import pytest
from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR

from monai_cxr_vae.dicom.objects import Provenance, malformed_identity
from monai_cxr_vae.dicom.secondary_capture import overlay, secondary_capture
from monai_cxr_vae.errors import BadUID, MalformedIdentity
from tests.dicom.sources import VARIANTS, film, header

PROVENANCE = Provenance("a" * 64, "b" * 64, "1.2.3")
IMAGE = np.linspace(-0.1, 1.1, 64 * 48, dtype=np.float32).reshape(64, 48)
PICTURE = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)

IDENTITY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyID")


def read(obj):
    return pydicom.dcmread(io.BytesIO(obj.data))


@pytest.mark.parametrize("variant", VARIANTS)
def test_object_belongs_to_the_patient_and_study(variant):
    source, derived = header(variant), read(secondary_capture(header(variant), IMAGE, PROVENANCE))
    for keyword in IDENTITY:
        assert keyword in derived
        assert str(derived.get(keyword) or "") == str(source.get(keyword) or "")
    assert derived.SeriesInstanceUID not in (source.SeriesInstanceUID, source.StudyInstanceUID)
    assert derived.SOPInstanceUID != source.SOPInstanceUID
    reference = derived.SourceImageSequence[0]
    assert (reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID) == (source.SOPClassUID, "1.2.3.4.5")
    assert derived.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.4"


@pytest.mark.parametrize("variant", ["japanese", "cr_mono1"])
def test_text_keeps_its_very_bytes(variant):
    source = header(variant)
    raw = source.get_item("PatientName").value
    assert raw.rstrip(b" ") in secondary_capture(source, IMAGE, PROVENANCE).data
    derived = read(secondary_capture(header(variant), IMAGE, PROVENANCE))
    assert str(derived.PatientName) == str(film(variant).PatientName)


def test_decoding_the_header_first_changes_nothing():
    untouched, decoded = header("japanese"), header("japanese")
    str(decoded)
    assert secondary_capture(untouched, IMAGE, PROVENANCE) == secondary_capture(decoded, IMAGE, PROVENANCE)


@pytest.mark.filterwarnings("ignore")
def test_what_describes_the_source_image_stays_behind():
    source = header("dx_mono2_12")
    source.add_new(0x00090010, "LO", "VENDOR")
    source.add_new(0x00091001, "LO", "secret")
    source.add_new(0x60003000, "OW", b"\1\1")
    source.Exposure, source.ImagerPixelSpacing, source.PixelPaddingValue = 3, [0.1, 0.1], 0
    source.PatientAge = "64"  # malformed and optional
    ds = read(secondary_capture(source, IMAGE, PROVENANCE))
    kept_out = ("Exposure", "ImagerPixelSpacing", "PixelPaddingValue", "PatientAge", 0x00090010, 0x00091001, 0x60003000)
    assert not [element for element in kept_out if element in ds]


def test_a_copied_sequence_leaves_its_private_elements_behind():
    source = header("dx_mono2_12")
    item = Dataset()
    item.PatientID, item.IssuerOfPatientID = "other", "elsewhere"
    item.add_new(0x00090010, "LO", "VENDOR")
    item.add_new(0x00091001, "LO", "secret")
    source.OtherPatientIDsSequence = [item]
    (copied,) = read(secondary_capture(source, IMAGE, PROVENANCE)).OtherPatientIDsSequence
    assert (copied.PatientID, copied.IssuerOfPatientID, len(copied)) == ("other", "elsewhere", 2)
    assert len(source.OtherPatientIDsSequence[0]) == 4


@pytest.mark.parametrize(
    ("keyword", "value", "written"),
    [("InstanceNumber", "20240101123456", 1), ("InstanceNumber", "-7", -7), ("PatientOrientation", ["Ä", "F"], None)],
)
def test_what_only_helps_to_read_is_left_out_when_malformed(keyword: str, value: object, written: object):
    source = header("dx_mono2_12")
    source[keyword] = DataElement(keyword, dictionary_VR(keyword), value, validation_mode=config.IGNORE)
    assert (read(secondary_capture(source, IMAGE, PROVENANCE))[keyword].value or None) == written


def test_same_arguments_same_bytes_and_any_change_another_uid():
    base = secondary_capture(header("dx_mono2_12"), IMAGE, PROVENANCE)
    assert secondary_capture(header("dx_mono2_12"), IMAGE, PROVENANCE) == base
    one_pixel, renamed, other_film = IMAGE.copy(), header("dx_mono2_12"), header("dx_mono2_12")
    one_pixel[30, 20] += 0.01
    renamed.PatientName = "Meier^Anna"
    other_film.SOPInstanceUID = "1.2.3.4.6"
    variants = [
        secondary_capture(header("dx_mono2_12"), one_pixel, PROVENANCE),
        secondary_capture(renamed, IMAGE, PROVENANCE),
        secondary_capture(other_film, IMAGE, PROVENANCE),
        secondary_capture(header("dx_mono2_12"), IMAGE, dataclasses.replace(PROVENANCE, model_sha256="c" * 64)),
        secondary_capture(header("dx_mono2_12"), IMAGE, dataclasses.replace(PROVENANCE, config_sha256="c" * 64)),
        secondary_capture(header("dx_mono2_12"), IMAGE.reshape(48, 64), PROVENANCE),
        secondary_capture(header("dx_mono2_12"), IMAGE, PROVENANCE, bits_stored=16),
        overlay(header("dx_mono2_12"), PICTURE, "heat map", PROVENANCE),
        overlay(header("dx_mono2_12"), PICTURE, "residual", PROVENANCE),
    ]
    assert len({base.sop_uid, *(v.sop_uid for v in variants)}) == len(variants) + 1


def test_films_of_one_series_share_a_derived_series():
    second = header("dx_mono2_12")
    second.SOPInstanceUID = "1.2.3.4.6"
    a, b = (secondary_capture(s, IMAGE, PROVENANCE) for s in (header("dx_mono2_12"), second))
    assert a.series_uid == b.series_uid != overlay(second, PICTURE, "residual", PROVENANCE).series_uid


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
@pytest.mark.parametrize("value", [None, "1.2.3/../../evil"])
@pytest.mark.filterwarnings("ignore")
def test_film_without_a_sound_uid_is_refused(keyword, value):
    source = header("dx_mono2_12")
    setattr(source, keyword, value)
    with pytest.raises(BadUID):
        secondary_capture(source, IMAGE, PROVENANCE)


@pytest.mark.parametrize(
    ("keyword", "value", "written"),
    [
        ("PatientBirthDate", "1960.01.02", "19600102"),
        ("StudyDate", "2024-01-02", "20240102"),
        ("StudyTime", "10:11:12.5", "101112.5"),
        ("StudyTime", "101112.", "101112"),
        ("StudyTime", "101112.1234567", "101112.123456"),
        ("StudyTime", "10:11", "1011"),
    ],
)
def test_an_older_form_of_a_date_or_time_is_converted(keyword: str, value: str, written: str):
    source = header("dx_mono2_12")
    source[keyword] = DataElement(keyword, dictionary_VR(keyword), value, validation_mode=config.IGNORE)
    assert malformed_identity(source) == ()
    assert read(secondary_capture(source, IMAGE, PROVENANCE))[keyword].value == written


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientBirthDate", "1960"),
        ("PatientBirthDate", "1960.13.02"),
        ("PatientBirthDate", "02.01.1960"),
        ("StudyID", "1.2.840.113619.2.1"),
        ("PatientBirthDate", "d" * 56),
        ("StudyTime", "half past ten"),
        ("AccessionNumber", "7" * 17),
    ],
)
def test_a_film_whose_identity_is_malformed_is_refused_without_quoting_it(keyword: str, value: str):
    source = header("dx_mono2_12")
    source[keyword] = DataElement(keyword, dictionary_VR(keyword), value, validation_mode=config.IGNORE)
    assert malformed_identity(source) == (f"malformed_{keyword}",)
    with pytest.raises(MalformedIdentity, match=keyword) as error:
        secondary_capture(source, IMAGE, PROVENANCE)
    assert value not in str(error.value)
    assert error.value.codes == (f"malformed_{keyword}",)
