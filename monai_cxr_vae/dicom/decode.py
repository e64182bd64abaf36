"""From a DICOM dataset to its stored pixels: every claim of the header is checked before anything is decoded."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from monai_cxr_vae.dicom.attributes import GREY, integer, photometric
from monai_cxr_vae.dicom.encode import encode_elements, encode_file
from monai_cxr_vae.dicom.entropy import is_whole
from monai_cxr_vae.dicom.files import DEFLATED, encoding
from monai_cxr_vae.errors import (
    ColourImage,
    CorruptFile,
    DicomDirectory,
    FilmError,
    MultiFrame,
    NoPixels,
    TooLarge,
    TruncatedFile,
    UnsupportedSyntax,
)
from monai_cxr_vae.kinds import SECONDARY_CAPTURE

MAX_PIXELS = 64 * 10**6
# A lossy codec may swing beyond the range of the samples by this part of it; what goes further was never in it.
OVERSHOOT = 1 / 8

_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", DEFLATED)
LOSSY = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 53, 55, 81, 91, 203))
# JPEG and JPEG-LS, JPEG 2000 bare and in its file format
_START_OF_STREAM = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0c")
_FAMILY = {
    "1.2.840.10008.1.2.5": "rle",
    "1.2.840.10008.1.2.4.50": "jpeg",
    "1.2.840.10008.1.2.4.51": "jpeg",
    "1.2.840.10008.1.2.4.53": "jpeg",
    "1.2.840.10008.1.2.4.55": "jpeg",
    "1.2.840.10008.1.2.4.57": "jpeg",
    "1.2.840.10008.1.2.4.70": "jpeg",
    "1.2.840.10008.1.2.4.80": "jpegls",
    "1.2.840.10008.1.2.4.81": "jpegls",
    "1.2.840.10008.1.2.4.90": "jpeg2000",
    "1.2.840.10008.1.2.4.91": "jpeg2000",
    "1.2.840.10008.1.2.4.201": "htj2k",
    "1.2.840.10008.1.2.4.202": "htj2k",
    "1.2.840.10008.1.2.4.203": "htj2k",
}


@dataclass(frozen=True)
class PixelFormat:
    """What the Image Pixel module (PS3.3 C.7.6.3) says about the pixels, checked for sense."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    photometric: str
    transfer_syntax: str | None
    samples: int = 1


def check_pixels(dataset: Dataset) -> None:
    """Is there pixel data at all, of the integer kind?

    Raises:
        DicomDirectory, NoPixels, UnsupportedSyntax: no, but an index of files, nothing, or floating point numbers.
    """
    if "DirectoryRecordSequence" in dataset:
        raise DicomDirectory("the file is a DICOMDIR, an index of other files")
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise UnsupportedSyntax("pixels stored as floating point numbers are not read")
    if not dataset.get("PixelData"):
        raise NoPixels("the file holds no pixel data")


def pixel_format(dataset: Dataset) -> PixelFormat:
    """Read and check the pixel description of a single-frame image of 8 or 16 bits, grey or perhaps grey in colours.

    Raises:
        ColourImage, MultiFrame, TooLarge, UnsupportedSyntax: the image is of a kind that is not read.
        CorruptFile: an attribute is missing or contradicts another.
    """
    if integer(dataset, "NumberOfFrames", 1) > 1:
        raise MultiFrame("the file holds several frames")
    kind, samples = photometric(dataset), integer(dataset, "SamplesPerPixel", 1)
    if samples != (1 if kind in ("", *GREY, "PALETTE COLOR") else 3) or kind in ("XYB", "HSV", "ARGB", "CMYK"):
        raise ColourImage("the image is in colour")
    if not kind:
        raise CorruptFile("the header does not say whether low values are black or white")
    allocated = integer(dataset, "BitsAllocated")
    if allocated not in (8, 16):
        if kind not in GREY:
            raise ColourImage("the image is in colour, of other than 8 or 16 bits")
        raise UnsupportedSyntax("only pixels of 8 or 16 bits are read")
    stored = integer(dataset, "BitsStored")
    high = integer(dataset, "HighBit", stored - 1)
    if not 1 <= stored <= high + 1 <= allocated:
        raise CorruptFile("bits allocated, bits stored and high bit do not fit together")
    rows, columns = integer(dataset, "Rows"), integer(dataset, "Columns")
    if rows < 1 or columns < 1:
        raise CorruptFile("the image has no rows or no columns")
    if rows * columns > MAX_PIXELS:
        raise TooLarge(f"the image claims more than {MAX_PIXELS // 10**6} million pixels")
    signed = integer(dataset, "PixelRepresentation", 0)
    if signed not in (0, 1):
        raise CorruptFile("the pixel representation is neither signed nor unsigned")
    syntax = str(getattr(dataset, "file_meta", {}).get("TransferSyntaxUID") or "") or None
    return PixelFormat(rows, columns, allocated, stored, high, bool(signed), kind, syntax, samples)


def check_syntax(form: PixelFormat) -> None:
    """Is the transfer syntax one that is read?

    Raises:
        UnsupportedSyntax: it is not.
    """
    if form.transfer_syntax is not None and form.transfer_syntax not in (*_NATIVE, *_FAMILY):
        raise UnsupportedSyntax("the transfer syntax of the file is not known")


def decode(dataset: Dataset, form: PixelFormat) -> tuple[np.ndarray, str]:
    """Decode the pixel data.

    Args:
        dataset: a dataset from :func:`~monai_cxr_vae.dicom.files.open_dataset`.
        form: its :func:`pixel_format`.

    Returns:
        The words as they are stored, unsigned integers of BitsAllocated bits and shape (rows, columns), with a last
        axis of 3 in colour, with whatever lies in the unused bits (:func:`stored_values` makes numbers of them), and
        the name of the decoder.

    Raises:
        UnsupportedSyntax: the transfer syntax is not read.
        TruncatedFile, CorruptFile: the data is incomplete, damaged, or contradicts the header in size or samples.
    """
    encapsulated = bool(dataset["PixelData"].is_undefined_length)
    syntax = form.transfer_syntax
    if syntax in _NATIVE or (syntax is None and not encapsulated):
        if encapsulated:
            raise CorruptFile("the pixel data is compressed although the file says it is not")
        return _native(dataset, form), "numpy"
    check_syntax(form)
    family = _FAMILY.get(syntax or "")
    if family is None:
        raise UnsupportedSyntax("nothing says how the pixel data is compressed")
    if not encapsulated:
        raise CorruptFile("the pixel data is not compressed although the file says it is")
    return _decode_frame(family, _single_frame(dataset.PixelData), form, other_bits=_uses_other_bits(dataset))


def stored_values(words: np.ndarray, bits_stored: int, high_bit: int, signed: bool) -> np.ndarray:
    """Pixel sample values (PS3.5 8.1.1) from stored words: bits outside the sample dropped, two's complement undone.

    Args:
        words: unsigned integers of any shape.

    Returns:
        int32 of the same shape.
    """
    values = (words.astype(np.int32) >> (high_bit + 1 - bits_stored)) & ((1 << bits_stored) - 1)
    if signed:
        sign = 1 << (bits_stored - 1)
        values = (values ^ sign) - sign
    return values


def _uses_other_bits(dataset: Dataset) -> bool:
    """Does an overlay (PS3.3 C.9.2, retired form) lie in the bits outside the samples?"""
    groups = {group for group in range(0x6000, 0x6020, 2) if (group, 0x0102) in dataset}
    return any((group, 0x3000) not in dataset for group in groups)


# Uncompressed


def _native(dataset: Dataset, form: PixelFormat) -> np.ndarray:
    data, count = dataset.PixelData, form.rows * form.columns * form.samples
    size = form.bits_allocated // 8
    if form.photometric in ("YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420"):
        raise ColourImage("uncompressed colours at half resolution are not read")
    if len(data) < count * size:
        raise TruncatedFile("the pixel data is shorter than rows and columns ask for")
    if len(data) >= 2 * max(count * size, 2):
        raise CorruptFile("the pixel data holds more frames than the header says")
    _, little = encoding(dataset)
    if size == 1 and not little and dataset["PixelData"].VR == "OW":
        # PS3.5 8.2: bytes travel in 16-bit words, which big endian swaps
        data = np.frombuffer(data, ">u2", len(data) // 2).astype("<u2").tobytes()
    words = np.frombuffer(data, ("<" if little else ">") + f"u{size}", count)
    words = words.astype(f"=u{size}", copy=False)
    if form.samples == 1:
        return words.reshape(form.rows, form.columns)
    if integer(dataset, "PlanarConfiguration", 0):
        return np.moveaxis(words.reshape(form.samples, form.rows, form.columns), 0, -1)
    return words.reshape(form.rows, form.columns, form.samples)


# Compressed


def _single_frame(items: bytes) -> bytes:
    """The codestream of the only frame: all fragments after the Basic Offset Table (PS3.5 A.4)."""
    fragments: list[memoryview] = []
    position = 0
    view = memoryview(items)
    while position + 8 <= len(items):
        (length,) = struct.unpack_from("<L", items, position + 4)
        fragments.append(view[position + 8 : position + 8 + length])
        position += 8 + length
    offsets, fragments = fragments[:1], fragments[1:]
    starts = sum(bytes(part[:4]).startswith(_START_OF_STREAM) for part in fragments)
    if starts > 1 or any(len(table) > 4 for table in offsets):
        raise CorruptFile("the pixel data holds more frames than the header says")
    frame = b"".join(fragments)
    if not frame:
        raise TruncatedFile("the compressed pixel data is empty")
    return frame


def _decode_frame(family: str, frame: bytes, form: PixelFormat, other_bits: bool) -> tuple[np.ndarray, str]:
    frame, precision = _check_codestream(family, frame, form)
    for name, decoder in DECODERS[family].items():
        if form.samples > 1 and name != "imagecodecs":
            continue
        try:
            pixels = np.asarray(decoder(frame, form))
        except ImportError:
            continue
        except (MemoryError, FilmError):
            raise
        except Exception as error:
            # What one decoder calls damaged is not shown to the next: some make up pixels, and one ends the process.
            raise CorruptFile("the compressed pixel data is damaged") from error
        shape = (form.rows, form.columns) if form.samples == 1 else (form.rows, form.columns, form.samples)
        if pixels.shape != shape or pixels.dtype.kind not in "iu":
            raise CorruptFile("the compressed pixel data has another size than the header says")
        if family == "jpeg" and not is_whole(frame, pixels):
            raise CorruptFile("the compressed pixel data is damaged")
        if precision and form.high_bit == form.bits_stored - 1 and not other_bits:
            pixels = _within_samples(pixels, form)
        word = f"{pixels.dtype.kind}{form.bits_allocated // 8}"
        return pixels.astype(word, copy=False).view(f"u{form.bits_allocated // 8}"), name
    raise UnsupportedSyntax("no decoder for this compression is installed")


def _within_samples(pixels: np.ndarray, form: PixelFormat) -> np.ndarray:
    """Refuse samples that BitsStored or PixelRepresentation would turn into others.

    What a lossy codec lets swing beyond the range is kept from wrapping round to its other end.
    """
    low = -(1 << (form.bits_stored - 1)) if form.signed else 0
    high = low + (1 << form.bits_stored) - 1
    smallest, largest = int(pixels.min()), int(pixels.max())
    if form.signed and smallest >= 0 and (pixels.dtype.kind == "u" or largest > high):
        # Streams without a sign hold two's complement, cut to the sample's bits or drawn out to the word's.
        if largest < 1 << form.bits_stored:
            return pixels
        pixels = pixels.astype(f"u{form.bits_allocated // 8}").view(f"i{form.bits_allocated // 8}")
        smallest, largest = int(pixels.min()), int(pixels.max())
    if low <= smallest and largest <= high:
        return pixels
    beyond = (high - low) * (OVERSHOOT if form.transfer_syntax in LOSSY else 0)
    if smallest < low - beyond or largest > high + beyond:
        raise CorruptFile("the compressed pixel data holds values that bits stored and sign of the header exclude")
    return np.clip(pixels, low, high)


def _check_codestream(family: str, frame: bytes, form: PixelFormat) -> tuple[bytes, int]:
    """Compare the codestream's own claims with the header, so that no decoder allocates what the header does not ask.

    Also demands the end marker: libjpeg decodes a stream cut in half without a word.

    Returns:
        The stream without what fills it up, and its precision; 0 for run lengths, which are words without one.
    """
    if family == "rle":
        if len(frame) < 64 or struct.unpack_from("<L", frame)[0] != form.samples * form.bits_allocated // 8:
            raise CorruptFile("the run-length header does not fit the image")
        return frame, 0
    try:
        size = _jpeg2000_size(frame) if family in ("jpeg2000", "htj2k") else _jpeg_size(frame)
    except (struct.error, IndexError, ValueError) as error:
        raise CorruptFile("the compressed pixel data has no readable header") from error
    rows, columns, components, precision, discrete_cosine = size
    if components != form.samples:
        kinds = ("colours", "a grey image") if form.samples == 1 else ("a grey image", "colours")
        raise CorruptFile(f"the compressed pixel data holds {kinds[0]}, the header {kinds[1]}")
    if (rows, columns) != (form.rows, form.columns):
        raise CorruptFile("the compressed pixel data has another size than the header says")
    if precision > form.bits_allocated:
        raise CorruptFile("the compressed pixel data has more bits than the header allows")
    # Bytes made of deeper samples are another picture than the one that the header's window was chosen for. A lossless
    # stream of few bits, but more than a byte, may be one whose encoder has looked for the largest value.
    if precision < form.bits_stored and (discrete_cosine or precision <= 8):
        raise CorruptFile("the compressed pixel data has fewer bits than the header says")
    # The two bytes cannot occur inside entropy-coded data. Writers fill up what comes after them.
    end = frame.rstrip(b"\0\xff").rfind(b"\xff\xd9", -64)
    if end < 0:
        raise TruncatedFile("the compressed pixel data breaks off")
    return frame[: end + 2], precision


def _jpeg_size(frame: bytes) -> tuple[int, int, int, int, bool]:
    """Rows, columns, components, precision of a JPEG or JPEG-LS stream, from its SOF segment (ITU-T T.81 B.2.2).

    The last value tells whether it is made of discrete cosines.
    """
    if frame[:2] != b"\xff\xd8":
        raise ValueError("no start of image")
    position = 2
    while True:
        if frame[position] != 0xFF:
            raise ValueError("no marker")
        marker = frame[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        (length,) = struct.unpack_from(">H", frame, position + 2)
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, position + 4)
            return rows, columns, components, precision, marker not in (0xF7, 0xC3, 0xC7, 0xCB, 0xCF)
        if length < 2 or marker == 0xDA:
            raise ValueError("no frame header")
        position += 2 + length


def _jpeg2000_size(frame: bytes) -> tuple[int, int, int, int, bool]:
    """As :func:`_jpeg_size`, of a JPEG 2000 codestream, bare or in a JP2 file (ITU-T T.800 A.5.1)."""
    start = frame.find(b"\xff\x4f\xff\x51") + 4
    if start < 4:
        raise ValueError("no image size segment")
    right, bottom, left, top = struct.unpack_from(">4L", frame, start + 4)
    components, depth = struct.unpack_from(">HB", frame, start + 36)
    return bottom - top, right - left, components, (depth & 0x7F) + 1, False


def _imagecodecs_jpeg(frame: bytes, form: PixelFormat) -> np.ndarray:
    import imagecodecs

    # Only colours that a JPEG stores as such are left alone; a file's own markers tell about the others.
    space = "RGB" if form.photometric == "RGB" else None
    try:
        return imagecodecs.jpeg8_decode(frame, colorspace=space, outcolorspace=space)
    except imagecodecs.Jpeg8Error as error:
        if str(error).startswith("Unsupported JPEG process"):
            raise UnsupportedSyntax("the JPEG process of the pixel data is not read") from error
        raise


def _imagecodecs_jpegls(frame: bytes, form: PixelFormat) -> np.ndarray:
    import imagecodecs

    return imagecodecs.jpegls_decode(frame)


def _imagecodecs_jpeg2000(frame: bytes, form: PixelFormat) -> np.ndarray:
    import imagecodecs

    return imagecodecs.jpeg2k_decode(frame)


def _imagecodecs_htj2k(frame: bytes, form: PixelFormat) -> np.ndarray:
    import imagecodecs

    pixels = imagecodecs.htj2k_decode(frame)
    # What the library meets in the data itself, it does not raise: the rows from there on stay as they were.
    if (imagecodecs.htj2k_decode(frame, out=~pixels)[-1] != pixels[-1]).any():
        raise ValueError("not all rows were decoded")
    return pixels


def _imagecodecs_rle(frame: bytes, form: PixelFormat) -> np.ndarray:
    import imagecodecs

    word = np.dtype(f"<u{form.bits_allocated // 8}")
    pixels = np.frombuffer(imagecodecs.dicomrle_decode(frame, word), word)
    if pixels.size != form.samples * form.rows * form.columns:
        return pixels
    planes = pixels.reshape(form.samples, form.rows, form.columns)
    return planes[0] if form.samples == 1 else np.moveaxis(planes, 0, -1)


def _pylibjpeg_rle(frame: bytes, form: PixelFormat) -> np.ndarray:
    from rle import decode_pixel_data

    data = decode_pixel_data(frame, version=2, rows=form.rows, columns=form.columns, bits_allocated=form.bits_allocated)
    return np.frombuffer(data, f"<u{form.bits_allocated // 8}").reshape(form.rows, form.columns)


def _pylibjpeg_openjpeg(frame: bytes, form: PixelFormat) -> np.ndarray:
    import openjpeg

    return openjpeg.decode(frame[frame.find(b"\xff\x4f\xff\x51") :])


def _gdcm(frame: bytes, form: PixelFormat) -> np.ndarray:
    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        reader = gdcm.ImageReader()
        reader.SetFileName(str(_write_minimal(Path(folder), frame, form)))
        if not reader.Read():
            raise ValueError("gdcm cannot read the frame")
        buffer = reader.GetImage().GetBuffer()
        if buffer is None:
            raise ValueError("gdcm cannot decode the frame")
        # gdcm hands bytes over as a str; this is its own documented way back
        data = buffer.encode("utf-8", errors="surrogateescape")
    word = f"<u{form.bits_allocated // 8}"
    return np.frombuffer(data, word).reshape(form.rows, form.columns)


def _itk(frame: bytes, form: PixelFormat) -> np.ndarray:
    import itk

    with tempfile.TemporaryDirectory() as folder:
        image = itk.imread(str(_write_minimal(Path(folder), frame, form)))
        return itk.array_from_image(image).reshape(form.rows, form.columns).copy()


def _write_minimal(folder: Path, frame: bytes, form: PixelFormat) -> Path:
    """A DICOM file around one codestream for libraries that read only files; nothing of the source but its pixels."""
    bits = form.bits_allocated
    elements = encode_elements(
        {
            "SOPClassUID": SECONDARY_CAPTURE,
            "SOPInstanceUID": "2.25.1",
            "Modality": "OT",
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "Rows": form.rows,
            "Columns": form.columns,
            # All bits count as stored: ITK cuts off the others.
            "BitsAllocated": bits,
            "BitsStored": bits,
            "HighBit": bits - 1,
            "PixelRepresentation": int(form.signed),
        }
    )
    # Of undefined length, so that a delimiter ends it (PS3.5 A.4).
    head, end = struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF), struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    elements[0x7FE00010] = head + encapsulate([frame], has_bot=False) + end
    path = folder / "frame.dcm"
    path.write_bytes(
        encode_file(
            elements,
            sop_class_uid=SECONDARY_CAPTURE,
            sop_instance_uid="2.25.1",
            implementation="2.25.1",
            transfer_syntax=form.transfer_syntax or "",
        )
    )
    return path


DECODERS: dict[str, dict[str, Callable[[bytes, PixelFormat], np.ndarray]]] = {
    # not GDCM (nor ITK, which uses it): it fills up a run-length segment that breaks off
    "rle": {"imagecodecs": _imagecodecs_rle, "pylibjpeg": _pylibjpeg_rle},
    "jpeg": {"imagecodecs": _imagecodecs_jpeg, "gdcm": _gdcm, "itk": _itk},
    "jpegls": {"imagecodecs": _imagecodecs_jpegls, "gdcm": _gdcm, "itk": _itk},
    "jpeg2000": {
        "imagecodecs": _imagecodecs_jpeg2000,
        "pylibjpeg": _pylibjpeg_openjpeg,
        "gdcm": _gdcm,
        "itk": _itk,
    },
    "htj2k": {"imagecodecs": _imagecodecs_htj2k, "pylibjpeg": _pylibjpeg_openjpeg},
}
