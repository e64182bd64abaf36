"""What a derived object says, and that one UID never stands for two contents."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pydicom
import pytest
from pydicom import DataElement, Dataset, config
from pydicom.datadict import dictionary_VR
from pydicom.uid import UID

from monai_cxr_vae.dicom.derive import Provenance, is_own_output, malformed_identity, overlay, secondary_capture
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


def test_object_says_what_it_is():
    ds = read(secondary_capture(header("cr_mono1"), IMAGE, PROVENANCE))
    assert ds.SOPClassUID == ds.file_meta.MediaStorageSOPClassUID == UID("1.2.840.10008.5.1.4.1.1.7")
    assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert ds.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY", "OTHER"]
    assert "not for diagnosis" in ds.SeriesDescription
    assert "model" in ds.DerivationDescription
    assert ds.Modality == "OT"
    assert ds.SeriesNumber == 9001
    equipment = ds.ContributingEquipmentSequence[0]
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert list(equipment.SoftwareVersions) == ["1.2.3", "a" * 64, "b" * 32]
    assert is_own_output(ds)
    assert not is_own_output(header("cr_mono1"))


@pytest.mark.parametrize("bits", [12, 16])
def test_pixels_are_the_image(bits):
    """MONOCHROME2 whatever the source was; the window shows black as 0 and the top value as white."""
    ds = read(secondary_capture(header("cr_mono1"), IMAGE, PROVENANCE, bits_stored=bits))
    top = 2**bits - 1
    assert ds.PhotometricInterpretation == "MONOCHROME2"
    assert ds.PresentationLUTShape == "IDENTITY"
    assert (ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation) == (16, bits, bits - 1, 0)
    assert ds.pixel_array.max() == top
    assert ds.pixel_array.min() == 0
    np.testing.assert_allclose(ds.pixel_array / top, np.clip(IMAGE, 0, 1), atol=0.51 / top)
    low = ds.WindowCenter - 0.5 - (ds.WindowWidth - 1) / 2  # PS3.3 C.11.2.1.2.1
    assert (low, low + ds.WindowWidth - 1) == (0, top)


@pytest.mark.parametrize("shown", ["heat map", "residual"])
def test_overlay_is_the_picture_and_says_what_its_colours_mean(shown):
    ds = read(overlay(header("cr_mono1"), PICTURE, shown, PROVENANCE))
    assert (ds.PhotometricInterpretation, ds.SamplesPerPixel, ds.PlanarConfiguration) == ("RGB", 3, 0)
    np.testing.assert_array_equal(ds.pixel_array, PICTURE)
    assert ds.SeriesNumber == 9002
    assert shown in ds.SeriesDescription
    assert {"heat map": "unusual", "residual": "difference"}[shown] in ds.DerivationDescription
    assert len(ds.DerivationDescription) <= 1024


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


def test_lossy_past_and_burned_in_text_travel_along():
    lossy = read(secondary_capture(header("lossy"), IMAGE, PROVENANCE))
    assert (lossy.LossyImageCompression, lossy.LossyImageCompressionRatio) == ("01", 12.5)
    unsaid = header("lossy")
    del unsaid.LossyImageCompression, unsaid.LossyImageCompressionMethod
    lossy = read(secondary_capture(unsaid, IMAGE, PROVENANCE))
    assert (lossy.LossyImageCompression, lossy.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    unsaid = header("lossy")
    del unsaid.LossyImageCompression
    unsaid.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    assert read(secondary_capture(unsaid, IMAGE, PROVENANCE)).LossyImageCompression == "01"  # a method or ratio says so
    assert read(secondary_capture(header("cr_mono1"), IMAGE, PROVENANCE)).LossyImageCompression == "00"
    assert read(secondary_capture(header("burned_in"), IMAGE, PROVENANCE)).BurnedInAnnotation == "YES"
    assert read(secondary_capture(header("cr_mono1"), IMAGE, PROVENANCE)).BurnedInAnnotation == "NO"


@pytest.mark.parametrize(
    ("said", "in_sc", "in_overlay"),
    [(None, None, "YES"), ("", None, "YES"), ("YES", "YES", "YES"), ("yes", "YES", "YES"), ("NO", "NO", "NO")],
)
def test_burned_in_text_that_nobody_denies_is_not_denied(said: str | None, in_sc: str | None, in_overlay: str):
    source = header("cr_mono1")
    del source.BurnedInAnnotation
    if said is not None:
        source["BurnedInAnnotation"] = DataElement("BurnedInAnnotation", "CS", said, validation_mode=config.IGNORE)
    assert read(secondary_capture(source, IMAGE, PROVENANCE)).get("BurnedInAnnotation") == in_sc
    assert read(overlay(source, PICTURE, "residual", PROVENANCE)).get("BurnedInAnnotation") == in_overlay


@pytest.mark.parametrize(("said", "written"), [(None, None), ("", None), ("00", "00"), ("0", "00"), ("1", "01")])
def test_a_lossless_past_that_nobody_tells_is_not_told(said: str | None, written: str | None):
    source = header("cr_mono1")
    del source.LossyImageCompression
    if said is not None:
        source.LossyImageCompression = said
    assert read(secondary_capture(source, IMAGE, PROVENANCE)).get("LossyImageCompression") == written


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


@pytest.mark.parametrize("image", [np.full((4, 4), np.nan), np.zeros((1, 4, 4)), np.array(1.0)])
def test_what_is_no_finite_image_is_refused(image):
    with pytest.raises(ValueError, match="image"):
        secondary_capture(header("dx_mono2_12"), image, PROVENANCE)


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
