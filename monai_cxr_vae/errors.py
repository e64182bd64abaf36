"""Errors that a person reads: one class per kind of refusal, each naming its manifest reason."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path


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


class Changed(FilmError):
    """The file holds other bytes than it did at an earlier step of the same run; it is tried again at the next."""

    reason = "changed"


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
