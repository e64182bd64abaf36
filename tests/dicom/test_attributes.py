"""What is asked of an attribute comes back in one form, whatever form the header has it in."""

from __future__ import annotations

import pytest
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from monai_cxr_vae.dicom.attributes import integer, is_colour, items, photometric, terms, text
from monai_cxr_vae.errors import CorruptFile


def header(**attributes: object) -> Dataset:
    ds = Dataset()
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


def damaged(keyword: str, vr: str) -> Dataset:
    """A header with an element of one byte, too short for a number and no item of a sequence."""
    ds, tag = Dataset(), Tag(keyword)
    ds[tag] = RawDataElement(tag, vr, 1, b"\7", 0, False, True)
    return ds


@pytest.mark.parametrize(
    ("value", "told"),
    [("", ""), (None, ""), ("P-1", "P-1"), (" P 1 ", "P 1"), ("P-1\0", "P-1"), ("\t\r\nXP\n", "XP")],
)
def test_text_has_no_padding(value: str | None, told: str) -> None:
    assert text(header(PatientID=value), "PatientID") == told
    assert text(Dataset(), "PatientID") == ""


def test_text_that_cannot_be_decoded_is_refused() -> None:
    with pytest.raises(CorruptFile, match="cannot be decoded"):
        text(damaged("Rows", "US"), "Rows")


@pytest.mark.parametrize(("value", "number"), [("3", 3), ("+3", 3), ("3.0", 3), ("65535", 65535)])
def test_whole_numbers_are_read_in_any_form(value: str, number: int) -> None:
    ds = Dataset()
    ds["NumberOfFrames"] = DataElement("NumberOfFrames", "LO", value)
    assert integer(ds, "NumberOfFrames") == integer(ds, "NumberOfFrames", 9) == number
    assert integer(header(Rows=number), "Rows") == number


@pytest.mark.parametrize("ds", [Dataset(), header(NumberOfFrames=None), header(NumberOfFrames="")])
def test_a_number_that_is_absent_is_the_default(ds: Dataset) -> None:
    assert integer(ds, "NumberOfFrames", 9) == 9
    with pytest.raises(CorruptFile, match="NumberOfFrames is missing"):
        integer(ds, "NumberOfFrames")


@pytest.mark.parametrize("value", ["3.5", "three", "inf", "nan"])
def test_what_is_no_whole_number_is_refused(value: str) -> None:
    ds = Dataset()
    ds["NumberOfFrames"] = DataElement("NumberOfFrames", "LO", value)
    with pytest.raises(CorruptFile, match="NumberOfFrames is missing or not a whole number"):
        integer(ds, "NumberOfFrames", 1)
    with pytest.raises(CorruptFile, match="Rows"):
        integer(damaged("Rows", "US"), "Rows", 1)


@pytest.mark.parametrize(
    ("value", "told"),
    [(None, ""), ("MONOCHROME1", "MONOCHROME1"), (" monochrome2", "MONOCHROME2"), ("palette  color", "PALETTE COLOR")],
)
def test_photometric_interpretation_is_a_term_of_the_standard(value: str | None, told: str) -> None:
    ds = Dataset()
    ds["PhotometricInterpretation"] = DataElement("PhotometricInterpretation", "LO", value)
    assert photometric(ds) == told
    with pytest.raises(CorruptFile, match="whether low values are black or white"):
        photometric(header(PhotometricInterpretation="MONOCHROME"))


@pytest.mark.parametrize(
    ("attributes", "colours"),
    [
        ({}, False),
        ({"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME1"}, False),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "MONOCHROME2"}, True),
        ({"SamplesPerPixel": 3}, True),
        ({"SamplesPerPixel": 1, "PhotometricInterpretation": "PALETTE COLOR"}, True),
        ({"PhotometricInterpretation": "YBR_FULL_422"}, True),
    ],
)
def test_either_of_samples_and_photometric_interpretation_says_that_there_are_colours(
    attributes: dict, colours: bool
) -> None:
    assert is_colour(header(**attributes)) == colours


def test_items_are_those_of_the_sequence() -> None:
    first, second = header(CodeValue="1"), header(CodeValue="2")
    assert items(header(ViewCodeSequence=[first, second]), "ViewCodeSequence") == [first, second]
    assert items(header(ViewCodeSequence=None), "ViewCodeSequence") == []
    assert items(Dataset(), "ViewCodeSequence") == []
    assert items(damaged("ViewCodeSequence", "SQ"), "ViewCodeSequence") == []


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, []),
        ("", []),
        ("chest", ["CHEST"]),
        (" Xray X ", ["XRAY X"]),
        ("CHEST\0", ["CHEST"]),
        (["hand", " Arm"], ["HAND", "ARM"]),
        (["hand", ""], ["HAND", ""]),
    ],
)
def test_terms_are_upper_case_without_padding(value: object, told: list[str]) -> None:
    assert terms(header(StudyDescription=value), "StudyDescription") == told


def test_terms_of_numbers_and_of_what_is_absent_or_damaged() -> None:
    assert terms(header(Rows=5), "Rows") == ["5"]
    assert terms(Dataset(), "StudyDescription") == []
    assert terms(damaged("Rows", "US"), "Rows") == []
