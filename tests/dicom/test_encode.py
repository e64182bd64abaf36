"""Encoded elements against pydicom's own writer."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from monai_cxr_vae.dicom.encode import Value, encode_elements


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
        ("StudyDate", None),
        ("ReferencedSeriesSequence", [{"SeriesInstanceUID": "1.2.3", "ReferencedSOPSequence": []}]),
    ],
)
def test_an_element_is_what_pydicom_writes(keyword: str, value: Value):
    dataset = Dataset()
    if keyword.endswith("Sequence"):
        item = Dataset()
        item.SeriesInstanceUID, item.ReferencedSOPSequence = "1.2.3", []
        setattr(dataset, keyword, [item])
    else:
        setattr(dataset, keyword, value)
    file = DicomBytesIO()
    file.is_little_endian, file.is_implicit_VR = True, False
    write_dataset(file, dataset)
    assert b"".join(encode_elements({keyword: value}).values()) == file.getvalue()
