"""Opening DICOM files of unknown origin: bounded in size, exact about truncation, silent about their content."""

from __future__ import annotations

import contextlib
import io
import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset

from monai_cxr_vae.errors import (
    CorruptFile,
    FilmError,
    NotDicom,
    OutOfMemory,
    ReadFailed,
    TooLarge,
    TruncatedFile,
)
from monai_cxr_vae.files import MAX_FILE_BYTES, read_file

# A film deflates two- to threefold; only blank ones go far beyond that, and those are small.
MAX_INFLATE_RATIO = 50
MAX_INFLATED_FLOOR = 64 * 2**20

DEFLATED = "1.2.840.10008.1.2.1.99"
_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_UNDEFINED_LENGTH = 0xFFFFFFFF
_LONG_VRS = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")


_quiet_lock = threading.Lock()
_quiet_bodies = 0
_quiet_state = contextlib.ExitStack()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence pydicom while the body runs: its warnings and log lines quote values, which may be a patient's.

    Python's warnings and pydicom's logger and validation are switched for a whole process, not for a thread. So the
    first body of any thread to begin switches them and the last one to end switches them back; in between the other
    threads are silent too.
    """
    global _quiet_bodies
    with _quiet_lock:
        if not _quiet_bodies:
            _quiet_state.enter_context(_silenced())
        _quiet_bodies += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_bodies -= 1
            if not _quiet_bodies:
                _quiet_state.close()


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    logger = logging.getLogger("pydicom")
    disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), pydicom.config.disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled


def open_dataset(source: str | Path | bytes | BinaryIO, *, pixels: bool = True) -> Dataset:
    """Read a DICOM file (PS3.10), also one without preamble or file meta information.

    Args:
        source: the file's bytes, a stream that begins with them, or its path.
        pixels: with ``False`` reading stops before the pixel data; a header that breaks off is then returned as far
            as it goes, so that a scan can still tell what the file is, and ``ends_without_pixels`` is set on it.

    Returns:
        The dataset. With ``pixels`` its ``PixelData`` (if any) is known to be complete: the full element of a native
        image, or all items up to the sequence delimiter of an encapsulated one; a view of the file's bytes.

    Raises:
        FilmError: a subclass that names the reason; the message holds no value from the file.
    """
    if isinstance(source, str | Path):
        source = read_file(source)[0]
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    try:
        with quiet():
            return _read(_BoundedReader(stream, size, source if isinstance(source, bytes) else None), pixels)
    except OSError as error:
        raise ReadFailed("the file cannot be read") from error
    except MemoryError as error:
        raise OutOfMemory("there is not enough memory for this film") from error


def encoding(dataset: Dataset) -> tuple[bool, bool]:
    """How the dataset was stored: (implicit VR, little endian)."""
    implicit, little = getattr(dataset, "original_encoding", None) or (
        getattr(dataset, "is_implicit_VR", None),
        getattr(dataset, "is_little_endian", None),
    )
    return bool(implicit), little is not False


class _BoundedReader(io.RawIOBase):
    """A file that never allocates more than it holds and remembers whether a read met its end half-way.

    ``whole`` are its bytes where they are in memory, which :meth:`take` then need not copy.
    """

    def __init__(self, stream: BinaryIO, size: int, whole: bytes | None = None) -> None:
        self._stream, self._size, self._whole, self.cut = stream, size, whole, False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:  # type: ignore[override]
        left = max(0, self._size - self._stream.tell())
        if size is None or size < 0:
            size = left
        self.cut |= 0 < left < size
        return self._stream.read(min(size, left))

    def take(self, size: int = -1) -> memoryview:
        """As :meth:`read`; a film's pixels are most of its bytes."""
        if self._whole is None:
            return memoryview(self.read(size))
        start = self._stream.tell()
        taken = memoryview(self._whole)[start : None if size < 0 else start + size]
        self.cut |= 0 < len(taken) < size
        self._stream.seek(start + len(taken))
        return taken

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def _read(stream: _BoundedReader, pixels: bool) -> Dataset:
    head = stream.read(4096)
    stream.cut = False
    has_preamble = head[128:132] == b"DICM"
    if not looks_like_dicom(head):
        raise NotDicom("the file is neither DICOM nor a PNG, JPEG or NIfTI image")
    deflated = DEFLATED.encode() in head[: _end_of_file_meta(head)]
    if deflated:
        stream = _inflated(stream, head)
    stream.seek(0)
    try:
        dataset = pydicom.dcmread(stream, force=not has_preamble, stop_before_pixels=True)
    except (FilmError, MemoryError):
        raise
    except Exception as error:  # the parser raises what it pleases
        if isinstance(error, OSError) and error.errno:  # the disk's, not the parser's
            raise
        if stream.cut:
            raise TruncatedFile("the file ends in the middle of its header") from error
        raise CorruptFile("the DICOM header cannot be parsed") from error
    if deflated:
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(DEFLATED)
    for keyword in ("SOPClassUID", "SOPInstanceUID"):  # some writers say it in the file meta information alone
        uid = dataset.file_meta.get(f"MediaStorage{keyword}")
        if uid and not dataset.get(keyword):
            setattr(dataset, keyword, uid)
    if not has_preamble and "SOPClassUID" not in dataset:
        raise NotDicom("the file has no DICOM preamble and does not say what it is")
    if pixels:
        if stream.cut:
            raise TruncatedFile("the file ends in the middle of its header")
        _attach_pixel_data(dataset, stream)
    else:
        dataset.ends_without_pixels = not stream.cut and not stream.read(1)
    return dataset


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file begins as DICOM does: with a preamble (PS3.10 7.1), or else with a data set (PS3.5 7.1).

    Anything may stand in a preamble. Without one, the first element is of group 2 or 8.
    """
    if head[128:132] == b"DICM":
        return True
    if len(head) < 8:
        return False
    little, big = struct.unpack("<HH", head[:4]), struct.unpack(">HH", head[:4])
    return any(group in (0x0002, 0x0008) and element <= 0x0100 for group, element in (little, big))


def inflate(packed: bytes, wbits: int) -> bytes:
    """Decompress a zlib (``wbits`` as in :func:`zlib.decompressobj`) stream that may be damaged or a bomb.

    Raises:
        CorruptFile, TruncatedFile, TooLarge: damaged, incomplete, or growing beyond :data:`MAX_INFLATE_RATIO`.
    """
    limit = min(MAX_FILE_BYTES, max(MAX_INFLATED_FLOOR, MAX_INFLATE_RATIO * len(packed)))
    inflater = zlib.decompressobj(wbits)
    try:
        data = inflater.decompress(packed, limit)
    except zlib.error as error:
        raise CorruptFile("the deflated data is damaged") from error
    if inflater.unconsumed_tail:
        raise TooLarge("the deflated data grows beyond all measure")
    if not inflater.eof:
        raise TruncatedFile("the deflated data breaks off")
    return data


def _inflated(stream: _BoundedReader, head: bytes) -> _BoundedReader:
    """The file with its deflated transfer syntax (PS3.5 A.5) undone: explicit little endian in memory."""
    stream.seek(0)
    meta = stream.read(_end_of_file_meta(head))
    data = inflate(stream.read(), -zlib.MAX_WBITS)
    plain = meta.replace(DEFLATED.encode(), _EXPLICIT_LITTLE.encode().ljust(len(DEFLATED), b"\0"))
    whole = plain + data
    return _BoundedReader(io.BytesIO(whole), len(whole), whole)


def _end_of_file_meta(head: bytes) -> int:
    """Offset of the first element after the file meta information (PS3.10 7.1), which is explicit little endian."""
    position = 132 if head[128:132] == b"DICM" else 0
    while head[position : position + 2] == b"\x02\x00" and position + 12 <= len(head):
        if head[position + 4 : position + 6] in _LONG_VRS:
            position += 12 + struct.unpack_from("<L", head, position + 8)[0]
        else:
            position += 8 + struct.unpack_from("<H", head, position + 6)[0]
    return position


def _attach_pixel_data(dataset: Dataset, stream: _BoundedReader) -> None:
    """Read the Pixel Data element at the stream's position by its own lengths, not by searching for a delimiter.

    A search may stop inside a codestream, and it cannot tell a missing delimiter from a missing element.
    """
    order = "<" if encoding(dataset)[1] else ">"
    header = stream.read(8)
    if len(header) < 8:
        if header:
            raise TruncatedFile("the file ends in the middle of an element")
        return
    group, element = struct.unpack(order + "HH", header[:4])
    if (group, element) in ((0x7FE0, 0x0008), (0x7FE0, 0x0009)):
        dataset.add_new(group << 16 | element, "OF" if element == 8 else "OD", b"")
    if (group, element) != (0x7FE0, 0x0010):
        return
    # The element itself tells how it is written; the transfer syntax of some files claims the other encoding. As a
    # length in implicit encoding each of these letters would be odd, which no length is.
    if header[4:6] in (b"OB", b"OW", b"UN"):
        vr, length = header[4:6].decode(), _unpack_length(stream.read(4), order)
    else:
        vr, length = "OW", _unpack_length(header[4:], order)
        if length % 2 and length != _UNDEFINED_LENGTH and header[4:6].isalpha() and header[4:6].isupper():
            raise CorruptFile("the pixel data has a value representation that it cannot have")
    value = _items_of(stream.take(), order) if length == _UNDEFINED_LENGTH else stream.take(length)
    if length != _UNDEFINED_LENGTH and len(value) < length:
        raise TruncatedFile("the pixel data breaks off: the file is shorter than its header says")
    dataset.add_new(0x7FE00010, "OB" if vr == "UN" else vr, value)
    dataset["PixelData"].is_undefined_length = length == _UNDEFINED_LENGTH


def _items_of(data: memoryview, order: str) -> memoryview:
    """The items of an encapsulated Pixel Data element (PS3.5 A.4) as they stand, without the sequence delimiter."""
    position = 0
    while position + 8 <= len(data):
        group, element, length = struct.unpack_from(order + "HHL", data, position)
        if (group, element) == (0xFFFE, 0xE0DD):
            return data[:position]
        if (group, element) != (0xFFFE, 0xE000) or length == _UNDEFINED_LENGTH:
            raise CorruptFile("the compressed pixel data is not a sequence of items")
        position += 8 + length
    raise TruncatedFile("the compressed pixel data breaks off")


def _unpack_length(data: bytes, order: str) -> int:
    if len(data) < 4:
        raise TruncatedFile("the file ends in the middle of an element")
    return int(struct.unpack(order + "L", data)[0])
