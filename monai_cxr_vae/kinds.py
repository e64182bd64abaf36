"""The table of DICOM objects that are derived from films: what users call each, and what it is stored as."""

from __future__ import annotations

from dataclasses import dataclass

SECONDARY_CAPTURE, COMPREHENSIVE_SR = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.33"

# What users ask for, and what they get.
OBJECTS = {
    "sc": "the reconstruction",
    "overlay": "the film under a heat map of what is unusual, or without scores of what the reconstruction lacks",
    "sr": "a DICOM Structured Report of the scores",
}


@dataclass(frozen=True)
class Kind:
    """A kind of object: its name in :data:`OBJECTS`, its SOP class, and what its series is called.

    ``place`` is the last digit of the series number, so that the series of a film stand beside each other.
    """

    name: str
    sop_class: str
    modality: str
    place: int
    title: str


# By what an object shows.
KINDS = {
    "reconstruction": Kind("sc", SECONDARY_CAPTURE, "OT", 1, "reconstruction"),
    "heat map": Kind("overlay", SECONDARY_CAPTURE, "OT", 2, "heat map"),
    "residual": Kind("overlay", SECONDARY_CAPTURE, "OT", 2, "residual map"),
    "scores": Kind("sr", COMPREHENSIVE_SR, "SR", 3, "scores"),
}
