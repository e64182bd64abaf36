"""Errors that a person reads: one class per kind of refusal, each naming its manifest reason."""

from __future__ import annotations


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

    reason = "internal"
    eligible = True

    def __init__(self, message: str = "", *codes: str) -> None:
        super().__init__(message)
        self.codes = codes


class Skipped(FilmError):
    """The file is not a film for this program; nothing is wrong with it."""

    eligible = False


class NotAFile(Skipped):
    reason = "not_a_file"


class EmptyFile(Skipped):
    reason = "empty"


class NotDicom(Skipped):
    """Neither DICOM nor a picture format that is read."""

    reason = "not_dicom"


class DicomDirectory(Skipped):
    reason = "dicomdir"


class WrongModality(Skipped):
    reason = "modality"


class WrongSOPClass(Skipped):
    reason = "sop_class"


class WrongBodyPart(Skipped):
    reason = "body_part"


class ForProcessing(Skipped):
    """Raw detector data (DX For Processing), which needs the vendor's processing first."""

    reason = "for_processing"


class LateralView(Skipped):
    reason = "lateral"


class UnknownView(Skipped):
    reason = "view_unknown"


class MultiFrame(Skipped):
    reason = "multiframe"


class ColourImage(Skipped):
    reason = "colour"


class NoPixels(Skipped):
    reason = "no_pixels"


class OwnOutput(Skipped):
    """An object that this program has derived itself."""

    reason = "own_output"


class CorruptFile(FilmError):
    reason = "corrupt"


class TruncatedFile(FilmError):
    reason = "truncated"


class UnsupportedSyntax(FilmError):
    reason = "unsupported_syntax"


class TooLarge(FilmError):
    reason = "too_large"


class BadGeometry(FilmError):
    reason = "bad_geometry"


class BadUID(FilmError):
    reason = "bad_uid"


class ReadFailed(FilmError):
    reason = "read_error"


class OutOfMemory(FilmError):
    reason = "out_of_memory"


class OutputError(InputError):
    """What the program makes cannot be stored (disk full, read-only, no permission): no fault of any film."""
