"""What a derived image shows and says."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom import DataElement, config
from pydicom.sr.codedict import codes
from pydicom.uid import UID

from monai_cxr_vae.dicom.objects import is_own_output
from monai_cxr_vae.dicom.secondary_capture import coloured_capture, secondary_capture
from tests.dicom.sources import header
from tests.dicom.test_objects import CREATED, IMAGE, PICTURE, PROVENANCE, read


def test_object_says_what_it_is():
    ds = read(secondary_capture(header("cr_mono1"), IMAGE, PROVENANCE, CREATED))
    assert ds.SOPClassUID == ds.file_meta.MediaStorageSOPClassUID == UID("1.2.840.10008.5.1.4.1.1.7")
    assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert ds.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
    assert list(ds.ImageType) == ["DERIVED", "SECONDARY", "OTHER"]
    assert ds.SeriesDescription.startswith("Research AI: reconstruction")
    assert "not for diagnosis" in ds.DerivationDescription
    assert "model" in ds.DerivationDescription
    assert ds.Modality == "OT"
    equipment = ds.ContributingEquipmentSequence[0]
    (purpose,) = equipment.PurposeOfReferenceCodeSequence
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("Newcode1", "99IHE")  # IHE AI Results 6.5.3.1
    assert purpose.CodeMeaning == "Processing Algorithm"
    assert list(equipment.SoftwareVersions) == ["1.2.3", "a" * 64, "b" * 32]
    assert is_own_output(ds)
    assert not is_own_output(header("cr_mono1"))


@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize(("options", "bits"), [({}, 12), ({"bits_stored": 12}, 12), ({"bits_stored": 16}, 16)])
def test_pixels_are_the_image(options, bits, kind):
    """MONOCHROME2 whatever the source was; the window shows black as 0 and the top value as white."""
    image = IMAGE.astype(kind)
    ds = read(secondary_capture(header("cr_mono1"), image, PROVENANCE, CREATED, **options))
    top = 2**bits - 1
    assert ds.PhotometricInterpretation == "MONOCHROME2"
    assert ds.PresentationLUTShape == "IDENTITY"
    assert (ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation) == (16, bits, bits - 1, 0)
    assert ds["PixelData"].VR == "OW"  # PS3.5 A.2
    assert ds.pixel_array.max() == top
    assert ds.pixel_array.min() == 0
    np.testing.assert_allclose(ds.pixel_array / top, np.clip(image.astype(float), 0, 1), atol=0.51 / top)
    low = ds.WindowCenter - 0.5 - (ds.WindowWidth - 1) / 2  # PS3.3 C.11.2.1.2.1
    assert (low, low + ds.WindowWidth - 1) == (0, top)


@pytest.mark.parametrize("shown", ["heat map", "residual"])
def test_overlay_is_the_picture_and_says_what_its_colours_mean(shown):
    ds = read(coloured_capture(header("cr_mono1"), PICTURE, shown, PROVENANCE, CREATED))
    assert (ds.PhotometricInterpretation, ds.SamplesPerPixel, ds.PlanarConfiguration) == ("RGB", 3, 0)
    assert ds["PixelData"].VR == "OB"
    np.testing.assert_array_equal(ds.pixel_array, PICTURE)
    assert shown in ds.SeriesDescription
    assert {"heat map": "unusual", "residual": "difference"}[shown] in ds.DerivationDescription
    assert len(ds.DerivationDescription) <= 1024


def test_lossy_past_and_burned_in_text_travel_along():
    lossy = read(secondary_capture(header("lossy"), IMAGE, PROVENANCE, CREATED))
    assert (lossy.LossyImageCompression, lossy.LossyImageCompressionRatio) == ("01", 12.5)
    unsaid = header("lossy")
    del unsaid.LossyImageCompression, unsaid.LossyImageCompressionMethod
    lossy = read(secondary_capture(unsaid, IMAGE, PROVENANCE, CREATED))
    assert (lossy.LossyImageCompression, lossy.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    unsaid = header("lossy")
    del unsaid.LossyImageCompression
    unsaid.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    assert (
        read(secondary_capture(unsaid, IMAGE, PROVENANCE, CREATED)).LossyImageCompression == "01"
    )  # a method or ratio says so
    assert read(secondary_capture(header("cr_mono1"), IMAGE, PROVENANCE, CREATED)).LossyImageCompression == "00"
    assert read(secondary_capture(header("burned_in"), IMAGE, PROVENANCE, CREATED)).BurnedInAnnotation == "YES"
    assert read(secondary_capture(header("cr_mono1"), IMAGE, PROVENANCE, CREATED)).BurnedInAnnotation == "NO"


@pytest.mark.parametrize(
    ("said", "in_sc", "in_overlay"),
    [(None, None, "YES"), ("", None, "YES"), ("YES", "YES", "YES"), ("yes", "YES", "YES"), ("NO", "NO", "NO")],
)
def test_burned_in_text_that_nobody_denies_is_not_denied(said: str | None, in_sc: str | None, in_overlay: str):
    source = header("cr_mono1")
    del source.BurnedInAnnotation
    if said is not None:
        source["BurnedInAnnotation"] = DataElement("BurnedInAnnotation", "CS", said, validation_mode=config.IGNORE)
    assert read(secondary_capture(source, IMAGE, PROVENANCE, CREATED)).get("BurnedInAnnotation") == in_sc
    assert (
        read(coloured_capture(source, PICTURE, "residual", PROVENANCE, CREATED)).get("BurnedInAnnotation") == in_overlay
    )


@pytest.mark.parametrize(("said", "written"), [(None, None), ("", None), ("00", "00"), ("0", "00"), ("1", "01")])
def test_a_lossless_past_that_nobody_tells_is_not_told(said: str | None, written: str | None):
    source = header("cr_mono1")
    del source.LossyImageCompression
    if said is not None:
        source.LossyImageCompression = said
    assert read(secondary_capture(source, IMAGE, PROVENANCE, CREATED)).get("LossyImageCompression") == written


@pytest.mark.parametrize("image", [np.full((4, 4), np.nan), np.zeros((1, 4, 4)), np.array(1.0)])
def test_what_is_no_finite_image_is_refused(image):
    with pytest.raises(ValueError, match="image"):
        secondary_capture(header("dx_mono2_12"), image, PROVENANCE, CREATED)


def test_object_names_the_film_and_what_it_is_for():
    source = header("dx_mono2_12")
    ds = read(secondary_capture(source, IMAGE, PROVENANCE, CREATED))
    assert list(ds.PatientOrientation) == list(source.PatientOrientation)
    assert (ds.BodyPartExamined, ds.ConversionType, ds.RecognizableVisualFeatures) == ("CHEST", "WSD", "NO")
    assert (ds.Rows, ds.Columns) == IMAGE.shape
    assert "not for diagnosis" in ds.ImageComments
    assert all(part in ds.DerivationDescription for part in ("monai_cxr_vae 1.2.3", "a" * 64, "Reconstruction of"))
    (reference,), (series,) = ds.SourceImageSequence, ds.ReferencedSeriesSequence
    (purpose,) = reference.PurposeOfReferenceCodeSequence
    expected = codes.DCM.SourceImageForImageProcessingOperation
    assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == (expected.value, expected.scheme_designator)
    assert purpose.CodeMeaning.lower() == expected.meaning.lower()
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    for item in (reference, *series.ReferencedInstanceSequence):
        assert item.ReferencedSOPClassUID == source.SOPClassUID
        assert item.ReferencedSOPInstanceUID == source.SOPInstanceUID


AT_PATIENT, AT_DETECTOR = "PixelSpacing", "ImagerPixelSpacing"


@pytest.mark.parametrize(
    ("told", "columns", "keyword", "spacing"),
    [
        ({AT_PATIENT: [0.2, 0.4], AT_DETECTOR: [0.3, 0.6]}, 50, AT_PATIENT, 0.4),
        ({AT_PATIENT: [0.2, 0.4], AT_DETECTOR: [0.3, 0.6]}, 100, AT_PATIENT, 0.2),
        ({AT_DETECTOR: [0.3, 0.6]}, 20, AT_DETECTOR, 1.5),
        ({AT_PATIENT: ["wide", "high"], AT_DETECTOR: [0.3, 0.6]}, 50, AT_DETECTOR, 0.6),
        ({AT_PATIENT: [0.2], AT_DETECTOR: [0.3, 0.6]}, 50, AT_DETECTOR, 0.6),
        ({AT_PATIENT: [0, 0], AT_DETECTOR: [0.3, 0.6]}, 50, AT_DETECTOR, 0.6),
        ({AT_PATIENT: [-1, -1], AT_DETECTOR: [0.3, 0.6]}, 50, AT_DETECTOR, 0.6),
        ({AT_PATIENT: ["nan", "nan"], AT_DETECTOR: [0.3, 0.6]}, 50, AT_DETECTOR, 0.6),
        ({AT_PATIENT: [10000, 10000]}, 50, None, None),
        ({AT_PATIENT: [9999, 9999]}, 50, AT_PATIENT, 9999),
        ({AT_PATIENT: [0.2, 0.123456789]}, 50, AT_PATIENT, 0.12345679),
        ({}, 50, None, None),
    ],
)
def test_pixels_of_an_overlay_have_their_size_at_its_scale(
    told: dict[str, list], columns: int, keyword: str | None, spacing: float | None
):
    """The film has 50 columns; the picture's are the same, more or less finely."""
    source = header("dx_mono2_12")
    for name, value in told.items():
        source[name] = DataElement(name, "LO", [str(part) for part in value])
    ds = read(coloured_capture(source, np.zeros((7, columns, 3), np.uint8), "residual", PROVENANCE, CREATED))
    assert [name for name in (AT_PATIENT, AT_DETECTOR) if name in ds] == ([keyword] if keyword else [])
    if keyword:
        assert list(ds[keyword].value) == [spacing] * 2


@pytest.mark.parametrize(
    "picture",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((1, 4, 4, 3), np.uint8)],
)
def test_what_is_no_coloured_picture_is_refused(picture: np.ndarray):
    with pytest.raises(ValueError, match="8-bit"):
        coloured_capture(header("dx_mono2_12"), picture, "residual", PROVENANCE, CREATED)


@pytest.mark.parametrize(
    ("said", "syntax", "written"),
    [
        ({"": "01", "Ratio": ["12.5", "3.5"]}, "1.2.840.10008.1.2.1", {"": "01", "Ratio": ["12.5", "3.5"]}),
        ({"": "01"}, "1.2.840.10008.1.2.1", {"": "01"}),
        ({"": "00"}, "1.2.840.10008.1.2.4.91", {"": "01", "Method": ["ISO_15444_1"]}),
        ({"": "01", "Method": ["ISO_10918_1"]}, "1.2.840.10008.1.2.4.81", {"": "01", "Method": ["ISO_10918_1"]}),
        ({"Ratio": ["9.5"]}, "1.2.840.10008.1.2.1", {"": "01", "Ratio": ["9.5"]}),
        ({"Method": ["ISO_15444_1"]}, "1.2.840.10008.1.2.1", {"": "01", "Method": ["ISO_15444_1"]}),
        ({"": "00", "Ratio": ["9.5"]}, "1.2.840.10008.1.2.1", {"": "00"}),
        ({"Ratio": ["9.5"]}, None, {"": "01", "Ratio": ["9.5"]}),
        ({}, None, {}),
    ],
)
def test_the_lossy_past_is_what_the_film_or_its_syntax_says(said: dict, syntax: str | None, written: dict):
    source = header("dx_mono2_12")
    del source.LossyImageCompression
    for name, value in said.items():
        setattr(source, f"LossyImageCompression{name}", value)
    if syntax:
        source.file_meta.TransferSyntaxUID = syntax
    else:
        del source.file_meta
    ds = read(secondary_capture(source, IMAGE, PROVENANCE, CREATED))
    told = {name: ds.get(f"LossyImageCompression{name}") for name in ("", "Ratio", "Method")}
    lists = {name: [str(part) for part in np.atleast_1d(value)] for name, value in told.items() if value}
    assert {name: value[0] if name == "" else value for name, value in lists.items()} == written
