"""Every reason and warning code with its sentence, and the errors that a person reads: one class per refusal."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Self


class _Code(StrEnum):
    """A word of the manifest; ``sentence`` says what it means."""

    sentence: str
    __repr__ = str.__repr__

    def __new__(cls, word: str, sentence: str) -> Self:
        member = str.__new__(cls, word)
        member._value_ = word
        member.sentence = sentence
        return member


class Reason(_Code):
    """Why a file has no result: the manifest's column ``reason``."""

    NOT_A_FILE = "not_a_file", "A pipe, a device, a socket or a link to nowhere."
    EMPTY = "empty", "The file has no bytes."
    NOT_DICOM = "not_dicom", "Neither DICOM nor a PNG, JPEG or NIfTI image."
    DICOMDIR = "dicomdir", "A DICOMDIR, the index of a medium."
    MODALITY = "modality", "Modality is not CR or DX (nor DR in a CR or DX class)."
    SOP_CLASS = "sop_class", "The SOP class is none that films come in."
    FOR_PROCESSING = "for_processing", "Raw detector data, by its class or its Presentation Intent Type."
    SPECIES = "species", "The species, breed or anatomical orientation is that of an animal."
    BODY_PART = "body_part", "Body Part Examined or Anatomic Region Sequence names another part than the chest."
    LATERAL = "lateral", "View Position, view codes or orientation say that the film is not frontal."
    VIEW_UNKNOWN = "view_unknown", "Nothing says that the view is frontal, which strict_view demands."
    MULTIFRAME = "multiframe", "More than one frame, page or slice."
    COLOUR = "colour", "The picture has colours or transparency, not equal channels alone."
    NO_PIXELS = "no_pixels", "The object holds no pixel data."
    OWN_OUTPUT = "own_output", "An object or picture that this program made itself."
    DUPLICATE = "duplicate", "The same film as another file, whose row stands for it (`duplicate_of`)."
    CORRUPT = "corrupt", "The file is damaged, or its pixel data contradicts its header."
    TRUNCATED = "truncated", "The file or its pixel data breaks off."
    UNSUPPORTED_SYNTAX = "unsupported_syntax", "A transfer syntax or kind of pixel that is not read."
    TOO_LARGE = "too_large", "The file or its image is beyond the limits of size."
    BAD_GEOMETRY = "bad_geometry", "The image has fewer than two axes."
    BAD_UID = "bad_uid", "The study, series or instance UID is missing or malformed."
    CHANGED = "changed", "The file was replaced or written to while the run was at work; tried again at the next start."
    CONFLICT = "conflict", "Files of one SOP Instance UID show different pictures, patients, studies or series."
    READ_ERROR = "read_error", "The operating system cannot read the file."
    OUT_OF_MEMORY = "out_of_memory", "The film needs more memory than a worker process may take."
    TIMEOUT = "timeout", "The film took longer than the time limit."
    CRASHED = "crashed", "The film ended the worker process that read it."
    INTERNAL = "internal", "A fault of this program; the warning says which exception and where."


class WarningCode(_Code):
    """What had to be assumed or worked around: the manifest's column ``warnings``."""

    VOI_MISSING = "voi_missing", "No window and no VOI LUT; see `voi` for what was shown."
    VOI_INVALID = "voi_invalid", "No window makes sense; the full range is shown."
    VOI_LUT_INVALID = "voi_lut_invalid", "No VOI LUT can be used; the window or the full range is taken."
    VOI_FUNCTION_UNKNOWN = "voi_function_unknown", "The VOI LUT Function is not defined; LINEAR was taken."
    VOI_BLANK = "voi_blank", "Almost all of the film has one grey value as it is displayed."
    DEPTH_ASSUMED = "depth_assumed", "Nothing tells the depth; the smallest that holds the largest value was taken."
    LUT_DEPTH_ASSUMED = (
        "lut_depth_assumed",
        "A table holds fewer or more bits than announced; its largest entry is white.",
    )
    LUT_LENGTH_ASSUMED = (
        "lut_length_assumed",
        "A table has another length than announced; it was used as long as it is.",
    )
    MODALITY_LUT_INVALID = "modality_lut_invalid", "No Modality LUT can be used; the rescale values were taken."
    RESCALE_INVALID = "rescale_invalid", "Rescale Slope and Intercept make no sense and were ignored."
    POLARITY_CONFLICT = (
        "polarity_conflict",
        "Presentation LUT Shape contradicts Photometric Interpretation, which was followed.",
    )
    PADDING_INVALID = "padding_invalid", "The Pixel Padding Value cannot be read and was ignored."
    SHUTTER_INVALID = "shutter_invalid", "A display shutter makes no sense and was ignored."
    SPACING_INVALID = "spacing_invalid", "A pixel spacing or aspect ratio makes no sense and was ignored."
    VIEW_CONFLICT = "view_conflict", "The header's statements of the view contradict each other."
    VIEW_UNKNOWN = "view_unknown", "Nothing says that the view is frontal."
    COLOUR_AS_GREY = "colour_as_grey", "A colour picture whose channels are equal was taken as grey."
    EXIF_ORIENTATION = "exif_orientation", "The picture was turned as its EXIF orientation says."
    PERCENTILE_SCALING = "percentile_scaling", "NIfTI values were scaled from their 0.5 to their 99.5 percentile."
    AFFINE_MISSING = (
        "affine_missing",
        "The NIfTI header does not say where the image lies; its axes were taken as x and y.",
    )
    INPUT_GONE = "input_gone", "The file is no longer there."
    MALFORMED = (
        "malformed_",
        "Followed by an attribute: its value has no valid form that keeps who the patient is and which study this is, "
        "so no DICOM object was made. The film itself is sound.",
    )


class InputError(Exception):
    """Something the user gave cannot be used; the message is one line for a person and holds no patient data."""


class FilmError(InputError):
    """A file that cannot become a film. ``reason`` is its value in the manifest's ``reason`` column.

    ``eligible`` tells whether the file looked like a chest film at all: an eligible film that fails counts as
    ``failed``, any other file as ``skipped``.

    Args:
        message: one line for a person.
        *codes: what the manifest says under ``warnings``, words without patient data.
    """

    reason: Reason = Reason.INTERNAL
    eligible = True

    def __init__(self, message: str = "", *codes: str) -> None:
        super().__init__(message)
        self.codes = codes


class Skipped(FilmError):
    """The file is not a film for this program; nothing is wrong with it."""

    eligible = False


class NotAFile(Skipped):
    reason = Reason.NOT_A_FILE


class EmptyFile(Skipped):
    reason = Reason.EMPTY


class NotDicom(Skipped):
    """Neither DICOM nor a picture format that is read."""

    reason = Reason.NOT_DICOM


class DicomDirectory(Skipped):
    reason = Reason.DICOMDIR


class WrongModality(Skipped):
    reason = Reason.MODALITY


class WrongSOPClass(Skipped):
    reason = Reason.SOP_CLASS


class WrongBodyPart(Skipped):
    reason = Reason.BODY_PART


class WrongSpecies(Skipped):
    reason = Reason.SPECIES


class ForProcessing(Skipped):
    """Raw detector data, which needs the vendor's processing first."""

    reason = Reason.FOR_PROCESSING


class LateralView(Skipped):
    reason = Reason.LATERAL


class UnknownView(Skipped):
    reason = Reason.VIEW_UNKNOWN


class MultiFrame(Skipped):
    reason = Reason.MULTIFRAME


class ColourImage(Skipped):
    reason = Reason.COLOUR


class NoPixels(Skipped):
    reason = Reason.NO_PIXELS


class OwnOutput(Skipped):
    """An object that this program has derived itself."""

    reason = Reason.OWN_OUTPUT


class CorruptFile(FilmError):
    reason = Reason.CORRUPT


class TruncatedFile(FilmError):
    reason = Reason.TRUNCATED


class UnsupportedSyntax(FilmError):
    reason = Reason.UNSUPPORTED_SYNTAX


class TooLarge(FilmError):
    reason = Reason.TOO_LARGE


class BadGeometry(FilmError):
    reason = Reason.BAD_GEOMETRY


class BadUID(FilmError):
    reason = Reason.BAD_UID


class MalformedIdentity(CorruptFile):
    """No valid object can keep who the patient is and which study this is; ``codes`` names the attributes."""


class ReadFailed(FilmError):
    reason = Reason.READ_ERROR


class OutOfMemory(FilmError):
    reason = Reason.OUT_OF_MEMORY


class Changed(FilmError):
    """The file holds other bytes than it did at an earlier step of the same run; it is tried again at the next."""

    reason = Reason.CHANGED


class WorkerError(InputError):
    """The processes that read films cannot be started; no fault of any film."""


class OutputError(InputError):
    """What the program makes cannot be stored (disk full, read-only, no permission): no fault of any film."""


@contextlib.contextmanager
def parsing(message: str) -> Iterator[None]:
    """The body is a parser's work, and whatever it raises is the file's fault.

    Raises:
        CorruptFile: in place of any other exception than :class:`FilmError` and :class:`MemoryError`.
    """
    try:
        yield
    except (FilmError, MemoryError):
        raise
    except Exception as error:
        raise CorruptFile(message) from error


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it was raised from, or while handling, from the outermost on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def explain(error: BaseException) -> tuple[bool, str, tuple[str, ...]]:
    """What a manifest says of a film that an exception has ended.

    Returns:
        Whether the film is eligible, the reason and the warning codes; ``internal`` with the type of the exception and
        the place where it was raised, never its message, for what neither a film nor the machine is to blame for.
    """
    for cause in causes(error):
        if isinstance(cause, FilmError):
            return cause.eligible, cause.reason, cause.codes
        if _is_out_of_memory(cause):
            return True, OutOfMemory.reason, ()
        if isinstance(cause, OSError):
            return True, ReadFailed.reason, ()
    last = list(causes(error))[-1]
    where = "".join(f"@{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(last.__traceback__)[-1:])
    return True, FilmError.reason, (f"{type(last).__name__}{where}",)


def _is_out_of_memory(error: BaseException) -> bool:
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # of PyTorch's CUDA
        or (
            type(error).__name__ in ("RuntimeError", "error")  # PyTorch's CPU allocator; OpenCV
            and any(words in str(error) for words in ("can't allocate memory", "Insufficient memory"))
        )
    )
