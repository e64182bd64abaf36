"""Headers of films in the variants that a hospital sends, all conformant, for the tests of derived objects."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

DX, CR = "1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.1"
VARIANTS = (
    "cr_mono1",
    "dx_mono2_12",
    "dx_mono2_16",
    "japanese",
    "missing_type_2",
    "deidentified",
    "lossy",
    "burned_in",
)


def film(variant: str, shape: tuple[int, int] = (60, 50)) -> Dataset:
    """The header and black pixels of a film; every film belongs to the same patient and study."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID = CR if variant == "cr_mono1" else DX
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = "1.2.3.4.5", "1.2.3.4", "1.2.3"
    ds.Modality = "CR" if variant == "cr_mono1" else "DX"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "M\u00fcller^Anna", "P-1", "19600102", "F"
    ds.IssuerOfPatientID = "SITE"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20240102", "101112.345", "S1", "A1"
    ds.ContentDate, ds.ContentTime = "20240102", "101500"
    ds.ReferringPhysicianName, ds.StudyDescription, ds.PatientAge = "Dr^Who", "Thorax", "064Y"
    ds.SeriesNumber, ds.InstanceNumber = 1, 7
    ds.BodyPartExamined, ds.ViewPosition, ds.PatientOrientation = "CHEST", "PA", ["L", "F"]
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.Manufacturer = "ACME"
    ds.BurnedInAnnotation, ds.LossyImageCompression = "NO", "00"
    bits = {"dx_mono2_16": 16, "lossy": 8}.get(variant, 12)
    ds.Rows, ds.Columns = shape
    ds.SamplesPerPixel, ds.PixelRepresentation = 1, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits, bits - 1
    ds.WindowCenter, ds.WindowWidth = 2 ** (bits - 1), 2**bits
    ds.PhotometricInterpretation = "MONOCHROME1" if variant == "cr_mono1" else "MONOCHROME2"
    ds.PixelData = bytes(shape[0] * shape[1] * 2)
    if variant == "japanese":
        ds.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        ds.PatientName = "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046"
    if variant == "missing_type_2":
        del ds.PatientBirthDate, ds.PatientSex, ds.StudyTime, ds.AccessionNumber, ds.ReferringPhysicianName, ds.StudyID
    if variant == "deidentified":
        ds.PatientName, ds.PatientID, ds.PatientIdentityRemoved = "ANON", "X1", "YES"
        ds.DeidentificationMethod = "Basic profile"
        code = Dataset()
        code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
        code.CodeMeaning = "Basic Application Confidentiality Profile"
        ds.DeidentificationMethodCodeSequence = [code]
    if variant == "lossy":
        ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", "12.5"
        ds.LossyImageCompressionMethod = "ISO_10918_1"
    if variant == "burned_in":
        ds.BurnedInAnnotation = "YES"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if variant == "lossy" else ExplicitVRLittleEndian
    return ds


def to_bytes(ds: Dataset) -> bytes:
    """The file of a film (Explicit VR Little Endian)."""
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0
    meta.FileMetaInformationVersion = b"\0\1"
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, "1.2.3.9"
    out = pydicom.dataset.FileDataset(
        "", ds, preamble=bytes(128), file_meta=meta, is_implicit_VR=False, is_little_endian=True
    )
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, out)
    return buffer.getvalue()


def header(variant: str) -> Dataset:
    """The header as a reader sees it: undecoded, with the variant's transfer syntax."""
    ds = film(variant)
    syntax = ds.file_meta.TransferSyntaxUID
    read = pydicom.dcmread(io.BytesIO(to_bytes(ds)), stop_before_pixels=True)
    read.file_meta.TransferSyntaxUID = syntax
    return read


def write(variant: str, path: Path) -> Path:
    path.write_bytes(to_bytes(film(variant)))
    return path
