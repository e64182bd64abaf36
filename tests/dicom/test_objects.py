"""Derived objects belong to the film's patient and study, and one UID never stands for two contents."""

from __future__ import annotations

import dataclasses
import datetime
import io

import numpy as np
import pydicom
import pytest
from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from monai_cxr_vae.dicom.objects import IMPLEMENTATION_CLASS_UID, Provenance, is_own_output, malformed_identity
from monai_cxr_vae.dicom.secondary_capture import coloured_capture, secondary_capture
from monai_cxr_vae.dicom.structured_report import structured_report
from monai_cxr_vae.dicom.synthetic import SYNTHETIC_DATA
from monai_cxr_vae.errors import BadUID, MalformedIdentity
from monai_cxr_vae.kinds import KINDS, OBJECTS
from tests.dicom.sources import VARIANTS, film, header, to_bytes
from tests.scored import scores_of_a_film

PROVENANCE = Provenance("a" * 64, "b" * 64, "1.2.3")
CREATED = datetime.datetime(2026, 1, 31, 23, 30, 5, tzinfo=datetime.timezone(datetime.timedelta(hours=-2)))
IMAGE = np.linspace(-0.1, 1.1, 64 * 48, dtype=np.float32).reshape(64, 48)
PICTURE = np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8)
IDENTITY = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyID")


def read(obj):
    return pydicom.dcmread(io.BytesIO(obj.data))


@pytest.mark.parametrize("variant", VARIANTS)
def test_object_belongs_to_the_patient_and_study(variant):
    source, derived = header(variant), read(secondary_capture(header(variant), IMAGE, PROVENANCE, CREATED))
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
    assert raw.rstrip(b" ") in secondary_capture(source, IMAGE, PROVENANCE, CREATED).data
    derived = read(secondary_capture(header(variant), IMAGE, PROVENANCE, CREATED))
    assert str(derived.PatientName) == str(film(variant).PatientName)


def test_text_that_its_character_set_cannot_decode_keeps_its_bytes():
    source = header("cr_mono1")
    source.SpecificCharacterSet = "ISO_IR 192"
    raw = source.get_item("PatientName").value
    assert b"\xfc" in raw
    assert raw in secondary_capture(source, IMAGE, PROVENANCE, CREATED).data


def test_what_is_empty_or_padded_in_the_film_is_neither_malformed_nor_anything_else():
    ds = film("dx_mono2_12")
    ds.StudyID, ds.PatientName = "", ""
    ds["StudyTime"] = DataElement("StudyTime", "TM", "1011\0\0", validation_mode=config.IGNORE)
    source = pydicom.dcmread(io.BytesIO(to_bytes(ds)), stop_before_pixels=True)
    assert malformed_identity(source) == ()
    derived = read(secondary_capture(source, IMAGE, PROVENANCE, CREATED))
    assert (derived.StudyID, derived.PatientName) == ("", "")
    assert derived.StudyTime.strip("\0") == "1011"


def test_decoding_the_header_first_changes_nothing():
    untouched, decoded = header("japanese"), header("japanese")
    str(decoded)
    assert secondary_capture(untouched, IMAGE, PROVENANCE, CREATED) == secondary_capture(
        decoded, IMAGE, PROVENANCE, CREATED
    )


@pytest.mark.filterwarnings("ignore")
def test_what_describes_the_source_image_stays_behind():
    source = header("dx_mono2_12")
    source.add_new(0x00090010, "LO", "VENDOR")
    source.add_new(0x00091001, "LO", "secret")
    source.add_new(0x60003000, "OW", b"\1\1")
    source.Exposure, source.ImagerPixelSpacing, source.PixelPaddingValue = 3, [0.1, 0.1], 0
    source.PatientAge = "64"  # malformed and optional
    source.add_new(SYNTHETIC_DATA, "CS", "YES")  # of a phantom
    ds = read(secondary_capture(source, IMAGE, PROVENANCE, CREATED))
    kept_out = ("Exposure", "ImagerPixelSpacing", "PixelPaddingValue", "PatientAge", 0x00090010, 0x00091001, 0x60003000)
    assert not [element for element in (*kept_out, SYNTHETIC_DATA) if element in ds]


def test_a_copied_sequence_leaves_its_private_elements_behind():
    source = header("dx_mono2_12")
    item = Dataset()
    item.PatientID, item.IssuerOfPatientID = "other", "elsewhere"
    item.add_new(0x00090010, "LO", "VENDOR")
    item.add_new(0x00091001, "LO", "secret")
    source.OtherPatientIDsSequence = [item]
    (copied,) = read(secondary_capture(source, IMAGE, PROVENANCE, CREATED)).OtherPatientIDsSequence
    assert (copied.PatientID, copied.IssuerOfPatientID, len(copied)) == ("other", "elsewhere", 2)
    assert len(source.OtherPatientIDsSequence[0]) == 4


@pytest.mark.parametrize("variant", ["japanese", "cr_mono1"])
def test_a_copied_sequence_keeps_its_characters(variant):
    source = header(variant)
    item = Dataset()
    item.PatientID = str(source.PatientName).split("=")[-1][:10]
    assert not item.PatientID.isascii()
    source.OtherPatientIDsSequence = [item]
    (copied,) = read(secondary_capture(source, IMAGE, PROVENANCE, CREATED)).OtherPatientIDsSequence
    assert copied.PatientID == item.PatientID


@pytest.mark.parametrize(
    ("keyword", "value", "written"),
    [("InstanceNumber", "20240101123456", 1), ("PatientOrientation", ["Ä", "F"], None)],
)
def test_what_only_helps_to_read_is_left_out_when_malformed(keyword: str, value: object, written: object):
    source = header("dx_mono2_12")
    source[keyword] = DataElement(keyword, dictionary_VR(keyword), value, validation_mode=config.IGNORE)
    assert (read(secondary_capture(source, IMAGE, PROVENANCE, CREATED))[keyword].value or None) == written


def test_same_arguments_same_bytes_and_any_change_another_uid():
    base = secondary_capture(header("dx_mono2_12"), IMAGE, PROVENANCE, CREATED)
    assert secondary_capture(header("dx_mono2_12"), IMAGE, PROVENANCE, CREATED) == base
    one_pixel, renamed, other_film = IMAGE.copy(), header("dx_mono2_12"), header("dx_mono2_12")
    one_pixel[30, 20] += 0.01
    renamed.PatientName = "Meier^Anna"
    other_film.SOPInstanceUID = "1.2.3.4.6"
    variants = [
        secondary_capture(header("dx_mono2_12"), one_pixel, PROVENANCE, CREATED),
        secondary_capture(renamed, IMAGE, PROVENANCE, CREATED),
        secondary_capture(other_film, IMAGE, PROVENANCE, CREATED),
        secondary_capture(
            header("dx_mono2_12"), IMAGE, dataclasses.replace(PROVENANCE, model_sha256="c" * 64), CREATED
        ),
        secondary_capture(
            header("dx_mono2_12"), IMAGE, dataclasses.replace(PROVENANCE, config_sha256="c" * 64), CREATED
        ),
        secondary_capture(header("dx_mono2_12"), IMAGE, PROVENANCE, CREATED + datetime.timedelta(seconds=1)),
        secondary_capture(header("dx_mono2_12"), IMAGE.reshape(48, 64), PROVENANCE, CREATED),
        secondary_capture(header("dx_mono2_12"), IMAGE, PROVENANCE, CREATED, bits_stored=16),
        coloured_capture(header("dx_mono2_12"), PICTURE, "heat map", PROVENANCE, CREATED),
        coloured_capture(header("dx_mono2_12"), PICTURE, "residual", PROVENANCE, CREATED),
    ]
    assert len({base.sop_uid, *(v.sop_uid for v in variants)}) == len(variants) + 1


def test_what_is_said_of_an_object_is_what_its_file_says():
    for derived in (
        secondary_capture(header("dx_mono2_12"), IMAGE, PROVENANCE, CREATED),
        coloured_capture(header("dx_mono2_12"), PICTURE, "residual", PROVENANCE, CREATED),
        structured_report(header("dx_mono2_12"), scores_of_a_film(), PROVENANCE, CREATED),
    ):
        ds = read(derived)
        assert (derived.study_uid, derived.series_uid) == (ds.StudyInstanceUID, ds.SeriesInstanceUID)
        assert (derived.sop_uid, derived.item()) == (
            ds.SOPInstanceUID,
            {"ReferencedSOPClassUID": ds.SOPClassUID, "ReferencedSOPInstanceUID": ds.SOPInstanceUID},
        )
        assert derived.kind == {"OT": "sc" if ds.get("SamplesPerPixel") == 1 else "overlay", "SR": "sr"}[ds.Modality]
        assert ds.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
        assert IMPLEMENTATION_CLASS_UID.startswith("2.25.")


def test_a_series_is_of_one_film_kind_run_and_origin():
    def series(made=secondary_capture, picture=IMAGE, created=CREATED, origin=PROVENANCE, **changes):
        source = header("dx_mono2_12")
        for keyword, value in changes.items():
            setattr(source, keyword, value)
        return made(source, picture, origin, created).series_uid

    def overlay(source, picture, *rest):
        return coloured_capture(source, picture, "heat map", *rest)

    other = [dataclasses.replace(PROVENANCE, **{field: "d" * 64}) for field in ("model_sha256", "config_sha256")]
    other.append(dataclasses.replace(PROVENANCE, version="1.2.4"))
    uids = [
        series(),
        series(overlay, PICTURE),
        series(StudyInstanceUID="1.2.4"),
        series(SeriesInstanceUID="1.2.3.5"),
        series(SOPInstanceUID="1.2.3.4.6"),
        series(created=CREATED + datetime.timedelta(seconds=1)),
        *(series(origin=origin) for origin in other),
    ]
    assert len(set(uids)) == len(uids)
    assert series(picture=1 - IMAGE, PatientName="Meier^Anna") == uids[0]


def test_a_retrained_model_is_another_device():
    def device(**changes):
        origin = dataclasses.replace(PROVENANCE, **changes)
        ds = read(secondary_capture(header("dx_mono2_12"), IMAGE, origin, CREATED))
        assert ds.ContributingEquipmentSequence[0].DeviceUID == ds.DeviceUID
        return ds.DeviceUID

    assert device() == device(config_sha256="c" * 64) == device(version="1.2.4") != device(model_sha256="c" * 64)


def test_every_name_of_an_object_has_a_kind_and_a_meaning():
    assert {kind.name for kind in KINDS.values()} == set(OBJECTS)


def test_own_is_what_is_derived_and_names_this_program():
    ours = Dataset()
    ours.Manufacturer = "monai_cxr_vae"
    for image_type, modality, equipment, own in (
        (["DERIVED", "SECONDARY"], "DX", [ours], True),
        (["DERIVED", "SECONDARY"], "DX", [Dataset(), ours], True),
        (["DERIVED", "SECONDARY"], "DX", [Dataset()], False),
        (["DERIVED", "SECONDARY"], "DX", None, False),
        (["ORIGINAL", "PRIMARY"], "DX", [ours], False),
        (None, "DX", [ours], False),
        (None, "SR", [ours], True),
        (None, "SR", None, False),
    ):
        ds = Dataset()
        ds.ImageType, ds.Modality, ds.ContributingEquipmentSequence = image_type, modality, equipment
        assert is_own_output(ds) == own
    damaged, tag = header("dx_mono2_12"), Tag("ContributingEquipmentSequence")
    damaged.ImageType = ["DERIVED", "SECONDARY"]
    damaged[tag] = RawDataElement(tag, "SQ", 1, b"\7", 0, False, True)
    assert not is_own_output(damaged)


def results(source):
    """One of each kind."""
    return [
        read(derived)
        for derived in (
            secondary_capture(source, IMAGE, PROVENANCE, CREATED),
            coloured_capture(source, PICTURE, "heat map", PROVENANCE, CREATED),
            structured_report(source, scores_of_a_film(), PROVENANCE, CREATED),
        )
    ]


@pytest.mark.parametrize("apart", [True, False])
def test_series_of_two_films_of_a_study_are_told_apart_and_stand_together(apart: bool):
    """Whether or not the films share a series; their numbers are the same, as those of two detectors may be."""
    first, second = header("dx_mono2_12"), header("dx_mono2_12")
    second.SOPInstanceUID, second.ViewPosition = "1.2.3.4.6", "AP"
    if apart:
        second.SeriesInstanceUID = "1.2.3.8"
    objects = [*results(first), *results(second)]
    for keyword in ("SeriesInstanceUID", "SeriesNumber", "SeriesDescription"):
        assert len({ds[keyword].value for ds in objects}) == 6
    of_first = {ds.SeriesNumber for ds in objects[:3]}
    order = [number in of_first for number in sorted(ds.SeriesNumber for ds in objects)]
    assert order in ([True] * 3 + [False] * 3, [False] * 3 + [True] * 3)
    for ds, view in zip(objects, ["PA"] * 3 + ["AP"] * 3, strict=True):
        assert ds.SeriesDescription.startswith("Research AI: ")
        assert f"series 1 image 7 {view}" in ds.SeriesDescription
        assert len(ds.SeriesDescription) <= 64
        assert max(first.SeriesNumber, 9000) < ds.SeriesNumber < 2**31
        assert f"film {ds.SeriesNumber // 10 % 100_000:05d}" in ds.SeriesDescription


def test_a_long_name_leaves_out_all_but_the_film():
    source = header("dx_mono2_12")
    source.SeriesNumber = source.InstanceNumber = 2**31 - 1
    names = [ds.SeriesDescription for ds in results(source)]
    assert max(map(len, names)) <= 64
    assert all("film" in name and "image" not in name for name in names)


@pytest.mark.parametrize(
    ("series", "leading"),
    [
        *((1, 901), (23, 923), (None, 900), (0, 900), (100, 900), (101, 901), (-1, 999)),
        *((2**31 - 1, 947), (2**31, 900), (-(2**31), 952), (-(2**31) - 1, 900)),  # beyond an IS, there is none
    ],
)
def test_the_number_of_a_series_begins_with_that_of_the_films_and_ends_with_its_kind(series: int | None, leading: int):
    """The last two digits of the film's: series are sorted by their numbers."""
    source = header("dx_mono2_12")
    source["SeriesNumber"] = DataElement("SeriesNumber", "LO", None if series is None else str(series))
    numbers = [ds.SeriesNumber for ds in results(source)]
    assert [number // 1_000_000 for number in numbers] == [leading] * 3
    assert [number % 10 for number in numbers] == [1, 2, 3]


@pytest.mark.parametrize(("series", "told"), [(12345, ", series 12345 image 7 PA"), (123456, "")])
def test_a_name_has_at_most_64_characters(series: int, told: str):
    source = header("dx_mono2_12")
    source.SeriesNumber = series
    ds = results(source)[0]
    assert ds.SeriesDescription == f"Research AI: reconstruction{told}, film {ds.SeriesNumber // 10 % 100_000:05d}"
    assert len(ds.SeriesDescription) == (64 if told else 39)


def test_a_view_that_nothing_tells_is_not_in_the_name():
    source = header("dx_mono2_12")
    del source.ViewPosition, source.PatientOrientation
    for ds in results(source):
        assert "series 1 image 7, film" in ds.SeriesDescription


@pytest.mark.parametrize(
    ("offset", "date", "time"),
    [
        (None, "20260131", "233005"),
        ("+0130", "20260201", "030005"),
        ("-0500", "20260131", "203005"),
        ("noon", "20260131", "233005"),
    ],
)
def test_times_are_those_of_the_result(offset: str | None, date: str, time: str):
    """Never the film's; in the zone of the film, which the object states for all its times."""
    source = header("dx_mono2_12")
    if offset:
        source.TimezoneOffsetFromUTC = offset
    for ds in results(source):
        for event in ("Content", "Series", "InstanceCreation"):
            assert (ds[f"{event}Date"].value, ds[f"{event}Time"].value) == (date, time)
        assert (ds.StudyDate, ds.StudyTime) == (source.StudyDate, source.StudyTime)
        assert ds.get("TimezoneOffsetFromUTC") == offset


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
@pytest.mark.parametrize("value", [None, "1.2.3/../../evil"])
@pytest.mark.filterwarnings("ignore")
def test_film_without_a_sound_uid_is_refused(keyword, value):
    source = header("dx_mono2_12")
    setattr(source, keyword, value)
    with pytest.raises(BadUID, match="UID is missing or malformed"):
        secondary_capture(source, IMAGE, PROVENANCE, CREATED)


@pytest.mark.parametrize(
    ("keyword", "value", "written"),
    [
        ("PatientBirthDate", "1960.01.02", "19600102"),
        ("StudyDate", "2024-01-02", "20240102"),
        ("StudyTime", "10:11:12.5", "101112.5"),
        ("StudyTime", "101112.", "101112"),
        ("StudyTime", "101112.1234567", "101112.123456"),
        ("StudyTime", "10:11", "1011"),
        ("StudyDate", "2023.12.31", "20231231"),
        ("StudyDate", "2024/01/01", "20240101"),
    ],
)
def test_an_older_form_of_a_date_or_time_is_converted(keyword: str, value: str, written: str):
    source = header("dx_mono2_12")
    source[keyword] = DataElement(keyword, dictionary_VR(keyword), value, validation_mode=config.IGNORE)
    assert malformed_identity(source) == ()
    assert read(secondary_capture(source, IMAGE, PROVENANCE, CREATED))[keyword].value == written


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientBirthDate", "1960"),
        ("PatientBirthDate", "1960.13.02"),
        ("PatientBirthDate", "1960.00.02"),
        ("PatientBirthDate", "1960.01.32"),
        ("PatientBirthDate", "1960.01.00"),
        ("PatientBirthDate", "0000.01.02"),
        ("PatientBirthDate", "02.01.1960"),
        ("StudyID", "1.2.840.113619.2.1"),
        ("PatientBirthDate", "d" * 56),
        ("StudyTime", "half past ten"),
        ("AccessionNumber", "7" * 17),
        ("AccessionNumber", "X" * 17),
    ],
)
def test_a_film_whose_identity_is_malformed_is_refused_without_quoting_it(keyword: str, value: str):
    source = header("dx_mono2_12")
    source[keyword] = DataElement(keyword, dictionary_VR(keyword), value, validation_mode=config.IGNORE)
    assert malformed_identity(source) == (f"malformed_{keyword}",)
    with pytest.raises(MalformedIdentity, match=keyword) as error:
        secondary_capture(source, IMAGE, PROVENANCE, CREATED)
    assert value not in str(error.value)
    assert error.value.codes == (f"malformed_{keyword}",)


def test_all_that_is_malformed_is_named():
    source = header("dx_mono2_12")
    for keyword, value in (("StudyID", "1.2.840.113619.2.1"), ("PatientBirthDate", "1960")):
        source[keyword] = DataElement(keyword, dictionary_VR(keyword), value, validation_mode=config.IGNORE)
    with pytest.raises(MalformedIdentity, match=r"^PatientBirthDate, StudyID is malformed") as error:
        secondary_capture(source, IMAGE, PROVENANCE, CREATED)
    assert error.value.codes == ("malformed_PatientBirthDate", "malformed_StudyID")
