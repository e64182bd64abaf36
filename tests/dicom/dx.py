"""Digital X-ray objects for the tests, written attribute by attribute so that each defect can be chosen."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
RLE = "1.2.840.10008.1.2.5"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_LS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR = "1.2.840.10008.1.2.4.81"
J2K_LOSSLESS = "1.2.840.10008.1.2.4.90"
J2K = "1.2.840.10008.1.2.4.91"
HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"
HTJ2K = "1.2.840.10008.1.2.4.203"


def gradient(rows: int = 60, columns: int = 50, bits: int = 12, low: int = 0) -> np.ndarray:
    """Stored values that visit the whole range of ``bits``, with no symmetry; int32 (rows, columns)."""
    y, x = np.mgrid[:rows, :columns]
    ramp = (y * columns + x) / (rows * columns - 1)
    wave = 0.5 + 0.5 * np.sin(7 * x / columns + 3 * (y / rows) ** 2)
    values = np.where(y < rows // 2, ramp * 2 % 1, wave)
    values.flat[0], values.flat[-1] = 0, 1
    return (low + np.rint(values * ((1 << bits) - 1))).astype(np.int32)


def dx(stored: np.ndarray | None = None, **attributes: Any) -> Dataset:
    """A valid uncompressed DX For Presentation image; ``attributes`` replace its own, or remove them where None.

    Args:
        stored: stored values; placed by BitsStored, HighBit and PixelRepresentation into words.
    """
    stored = gradient() if stored is None else stored
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(EXPLICIT)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID("2.25.1234")
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.12", "2.25.123"
    ds.PatientName, ds.PatientID = "ZZPHI^CANARY", "ZZPHI-4711"
    ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "DX", "CHEST", "PA"
    ds.PatientOrientation = ["L", "F"]
    ds.ImagerPixelSpacing = [0.2, 0.2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.PresentationLUTShape = "IDENTITY"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, 0, "US"
    ds.WindowCenter, ds.WindowWidth = 2048, 4096
    for keyword, value in attributes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    if "BitsStored" in attributes and "HighBit" not in attributes:
        ds.HighBit = ds.BitsStored - 1
    if ds.PhotometricInterpretation == "MONOCHROME1" and "PresentationLUTShape" not in attributes:
        ds.PresentationLUTShape = "INVERSE"
    set_pixels(ds, stored)
    return ds


def set_pixels(ds: Dataset, stored: np.ndarray, dirt: int = 0) -> None:
    """Place stored values into native words; ``dirt`` goes into the bits outside the sample."""
    shift = ds.HighBit + 1 - ds.BitsStored
    mask = (1 << ds.BitsStored) - 1
    words = ((stored & mask) << shift) | (dirt & ~(mask << shift) & ((1 << ds.BitsAllocated) - 1))
    data = words.astype(f"<u{ds.BitsAllocated // 8}").tobytes()
    ds.PixelData = data + b"\0" * (len(data) % 2)
    ds["PixelData"].VR = "OW"


def lut(data: Any, first: int = 0, bits: int = 12, packed: bool = False, **extra: Any) -> Sequence:
    """A LUT sequence of one item; ``packed`` writes bytes instead of 16-bit words."""
    item = Dataset()
    values = np.asarray(data)
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values) % 65536, first, bits])
    raw = values.astype("u1" if packed else "<u2").tobytes()
    item.add_new("LUTData", "OW", raw + b"\0" * (len(raw) % 2))
    for keyword, value in extra.items():
        setattr(item, keyword, value)
    return Sequence([item])


def compressed(ds: Dataset, syntax: str, frame: bytes, fragments: int = 1) -> Dataset:
    """Put one codestream into the dataset as encapsulated pixel data."""
    frame += b"\0" * (len(frame) % 2)
    step = -(-len(frame) // fragments // 2) * 2
    parts = [b""] + [frame[start : start + step] for start in range(0, len(frame), step)]
    ds.PixelData = b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(part)) + part for part in parts)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    return ds


def save(ds: Dataset, path: Path, syntax: str | None = None) -> Path:
    """Write with the dataset's transfer syntax, or natively with another one."""
    if syntax is not None:
        ds.file_meta.TransferSyntaxUID = UID(syntax)
    uid = ds.file_meta.TransferSyntaxUID
    if uid == BIG_ENDIAN:
        words = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        ds.PixelData, ds["PixelData"].VR = words, "OW"
        for keyword in ("VOILUTSequence", "ModalityLUTSequence"):
            for item in ds.get(keyword) or ():
                item.LUTData = np.frombuffer(item.LUTData, "<u2").astype(">u2").tobytes()
    try:
        ds.save_as(path, enforce_file_format=True)
    except TypeError:  # pydicom 2
        ds.is_little_endian, ds.is_implicit_VR = uid != BIG_ENDIAN, uid == IMPLICIT
        ds.save_as(path, write_like_original=False)
    return path
