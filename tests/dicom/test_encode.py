"""Encoded elements against pydicom's own writer."""

from __future__ import annotations

import io

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from monai_cxr_vae.dicom.encode import Value, encode_element, encode_elements, encode_file


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("SOPInstanceUID", "1.2.3"),  # of odd length: padded by a null byte, unlike text (PS3.5 section 6.2)
        ("SOPInstanceUID", "1.2.33"),
        ("StudyID", "odd"),
        ("ImageType", ["DERIVED", "SECONDARY", "OTHER"]),
        ("DerivationDescription", "long text, " * 91),
        ("SeriesNumber", 9),
        ("Rows", 259),
        ("SimpleFrameList", 70000),
        ("StudyDate", None),
        ("EncapsulatedDocument", b"odd"),
        ("TextValue", "odd"),
        ("ReferencedSeriesSequence", []),
        ("ReferencedSeriesSequence", [{"SeriesInstanceUID": "1.2.3", "ReferencedSOPSequence": []}] * 2),
    ],
)
def test_an_element_is_what_pydicom_writes(keyword: str, value: Value):
    dataset = Dataset()
    if keyword.endswith("Sequence"):
        item = Dataset()
        item.SeriesInstanceUID, item.ReferencedSOPSequence = "1.2.3", []
        setattr(dataset, keyword, [item] * len(value))
    else:
        setattr(dataset, keyword, value)
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    write_dataset(file, dataset)
    assert b"".join(encode_elements({keyword: value}).values()) == file.getvalue()


def test_an_element_that_nothing_is_known_of_is_padded_by_a_null_byte():
    dataset = Dataset()
    dataset.add_new(0x00091001, "UN", b"odd\0")
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    write_dataset(file, dataset)
    assert encode_element(0x00091001, "UN", b"odd") == file.getvalue()


def test_what_is_no_keyword_or_no_ascii_is_refused():
    with pytest.raises(ValueError, match="PatientNames is no DICOM keyword"):
        encode_elements({"PatientNames": "a"})
    with pytest.raises(UnicodeEncodeError):
        encode_elements({"StudyID": "\N{DEGREE SIGN}"})


@pytest.mark.parametrize("syntax", [None, "1.2.840.10008.1.2.4.80"])
def test_a_file_is_what_pydicom_writes(syntax: str | None):
    dataset, meta = Dataset(), FileMetaDataset()
    meta.FileMetaInformationGroupLength, meta.FileMetaInformationVersion = 0, b"\0\1"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "2.25.11"
    meta.TransferSyntaxUID, meta.ImplementationClassUID = syntax or "1.2.840.10008.1.2.1", "2.25.3"
    dataset.file_meta, dataset.preamble, dataset.StudyID, dataset.Rows = meta, bytes(128), "S", 7
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=False)
    elements = encode_elements({"Rows": 7, "StudyID": "S"})  # in the order of their tags whatever that of the keywords
    words = {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7", "sop_instance_uid": "2.25.11", "implementation": "2.25.3"}
    assert encode_file(elements, **words, **({"transfer_syntax": syntax} if syntax else {})) == file.getvalue()
