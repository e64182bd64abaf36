"""Phantom films: the procedural thorax rendered like a radiograph, written as PNG or DX, and a cached folder."""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from monai_cxr_vae.data.thorax import SIDE_MM, Canvas, Thorax
from monai_cxr_vae.dicom.synthetic import SYNTHETIC_DATA
from monai_cxr_vae.files import cache_folder, write_whole
from monai_cxr_vae.progress import progress

FINDINGS = ("nodule", "opacity", "effusion")
FORMATS = ("dicom", "png", "both")
_DX_FOR_PRESENTATION = UID("1.2.840.10008.5.1.4.1.1.1.1")
_NAMESPACE = uuid.UUID("6b1f2d0c-53a1-5c1e-9d0e-7f6c0b6d9a11")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phantom:
    """A film and what was put into it."""

    image: np.ndarray
    """float32 (H, W) in [0, 1], display polarity (bone bright); the patient's left is on the right."""
    mask: np.ndarray
    """bool (H, W): where the finding lies; empty without one."""
    view: str
    """'PA' or 'AP'."""


def render(seed: int | Sequence[int], size: int | tuple[int, int] = 512, finding: str | None = None) -> Phantom:
    """Draw one film.

    Args:
        seed: seeds the anatomy, the exposure and the noise; a sequence such as (seed, index) is one seed too.
        size: side in pixels, or (rows, columns). The same seed is the same patient at every size.
        finding: one of ``FINDINGS``, put into the otherwise identical film, or None.

    Returns:
        The film, with the finding's outline in ``mask``. The same arguments give the same bytes.

    Raises:
        ValueError: an unknown finding.
    """
    if finding is not None and finding not in FINDINGS:
        raise ValueError(f"unknown finding {finding!r}; known are {', '.join(FINDINGS)}")
    shape = (size, size) if isinstance(size, int) else tuple(size)
    key = [seed] if isinstance(seed, int) else list(seed)
    coarse = max(1, -(-256 // max(shape)))  # small films are drawn larger and averaged down, or ribs turn to beads
    rng, lesion, noise = (np.random.default_rng([*key, purpose]) for purpose in range(3))
    zoom, shift, tilt = rng.uniform(0.97, 1.1), tuple(rng.normal(0, 5, 2)), rng.normal(0, 0.02)
    canvas = Canvas((shape[0] * coarse, shape[1] * coarse), zoom, shift, tilt)
    exposure, latitude, scatter = rng.normal(-0.1, 0.2), rng.uniform(0.6, 0.85), rng.uniform(0.02, 0.06)
    gain, dose = rng.uniform(0.15, 0.6), rng.uniform(0.001, 0.006)
    thorax = Thorax(rng)
    density, air = thorax.attenuation(canvas)
    light = np.exp(-density)
    light += scatter * canvas.haze(light, 30) + np.float32(0.003)
    light += dose * np.sqrt(light) * noise.standard_normal(canvas.shape, dtype=np.float32)
    density = -np.log(np.maximum(light, 1e-4))
    density += gain * (density - canvas.haze(density, 14))  # digital systems lift fine contrast this way
    rows, columns = (slice(n // 5, n - n // 5, 4) for n in canvas.shape)
    density -= np.median(density[rows, columns]) + np.float32(exposure)
    # The finding comes last, so that scatter and exposure control leave the film around it as it was.
    added = np.zeros(canvas.shape, np.float32) if finding is None else thorax.shadow(canvas, finding, air, lesion)
    image = 1 / (1 + np.exp(-(density + added + _lead(canvas, rng)) / np.float32(latitude)))
    image = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)
    mask = cv2.resize((added > 0.03).astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA) > 0.5
    return Phantom(np.clip(image, 0, 1), mask, "AP" if thorax.ap else "PA")


def _lead(canvas: Canvas, rng: np.random.Generator) -> np.ndarray:
    """Density of the side marker (a lead letter) and, on some films, of unexposed edges."""
    side, size = rng.choice((-1, 1)), rng.uniform(10, 15)
    left = [[(0, 0), (0, 2), (1.2, 2)]]
    right = [[(0, 2), (0, 0), (0.8, 0), (1.2, 0.5), (0.8, 1), (0, 1)], [(0.5, 1), (1.2, 2)]]
    corner = canvas.film(side * rng.uniform(0.6, 0.82), rng.uniform(-0.93, -0.83)) - (0.4 * size, 0)
    drawn = canvas.empty()
    for stroke in left if side > 0 else right:
        canvas.lines([corner + 0.7 * size * np.array(stroke)], 0.18 * size, 1, drawn)
    if rng.random() < 0.25:
        top, bottom, left, right = np.rint(rng.uniform(0, 10, 4) * canvas.scale).astype(int)
        drawn[:top], drawn[canvas.shape[0] - bottom :] = 200, 200
        drawn[:, :left], drawn[:, canvas.shape[1] - right :] = 200, 200
    return canvas.blur(drawn, 0.5) * np.float32(6 / 255)


def write_phantoms(
    folder: str | Path,
    count: int,
    seed: int = 0,
    format: str = "dicom",  # noqa: A002 - the command line's own word
    size: int = 512,
    finding: str | None = None,
) -> list[Path]:
    """Write films of ``count`` invented patients as ``phantom_NNNN.dcm`` and/or ``.png`` (8 bits).

    Args:
        folder: made when missing; files of the same name are replaced.
        count: number of films, portrait (6:5) and landscape (5:6) in turn.
        seed: film i depends on (seed, i) alone, so a longer folder begins with the shorter one.
        format: ``dicom`` (DX For Presentation, 12 bits, every third one MONOCHROME1), ``png`` or ``both``.
        size: the longer side in pixels.
        finding: see ``render``.

    Returns:
        The files written, in order.

    Raises:
        ValueError: an unknown format or finding.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; known are {', '.join(FORMATS)}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for index in progress(range(count), "drawing films", count):
        short = round(size * 5 / 6)
        phantom = render((seed, index), (size, short) if index % 2 == 0 else (short, size), finding)
        path = folder / f"phantom_{index:04d}.dcm"
        if format != "png":
            write_whole(path, _dataset(phantom, seed, index).save_as)
            written.append(path)
        if format != "dicom":
            path = path.with_suffix(".png")
            write_whole(path, cv2.imencode(".png", np.rint(phantom.image * 255).astype(np.uint8))[1].tobytes())
            written.append(path)
    return written


def _uid(*parts: object) -> UID:
    """A UID under the 2.25 root that is a function of its parts (PS3.5 B.2)."""
    return UID(f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, parts))).int}")


def _dataset(phantom: Phantom, seed: int, index: int) -> FileDataset:
    """The film as DX Image Storage - For Presentation (PS3.3 A.26), uncompressed, 12 bits stored."""
    rng = np.random.default_rng((seed, index, 3))
    inverse, width = index % 3 == 2, int(rng.choice((2800, 3400, 4096)))
    center = int(rng.integers(width // 2, 4096 - width // 2 + 1))
    shown = 1 - phantom.image if inverse else phantom.image
    stored = np.rint((shown - 0.5) * (width - 1) + center - 0.5).astype("<u2")  # LINEAR of PS3.3 C.11.2.1.2.1, inverted
    pixels = stored.tobytes()

    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength, meta.FileMetaInformationVersion = 0, b"\x00\x01"
    meta.MediaStorageSOPClassUID = _DX_FOR_PRESENTATION
    meta.MediaStorageSOPInstanceUID = _uid("image", seed, index, hashlib.sha256(pixels).hexdigest())
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _uid("implementation")
    ds = FileDataset("", {}, file_meta=meta, preamble=bytes(128), is_implicit_VR=False)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.add_new(SYNTHETIC_DATA, "CS", "YES")
    ds.SOPClassUID, ds.SOPInstanceUID = _DX_FOR_PRESENTATION, meta.MediaStorageSOPInstanceUID
    ds.PatientName, ds.PatientID = f"Phantom^{index:04d}", f"PHANTOM-{seed}-{index:04d}"
    ds.PatientBirthDate, ds.PatientSex = "", "O"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = _uid("study", seed, index), _uid("series", seed, index)
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.AcquisitionDate = "20200101"
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.AcquisitionTime = "120000"
    ds.AccessionNumber, ds.ReferringPhysicianName, ds.StudyID = f"P{index:04d}", "", f"{index}"
    ds.SeriesNumber = ds.InstanceNumber = 1
    ds.StudyDescription = ds.SeriesDescription = "Computed phantom, no patient"
    ds.Modality, ds.PresentationIntentType = "DX", "FOR PRESENTATION"
    ds.Manufacturer, ds.ManufacturerModelName = "monai_cxr_vae", "phantom"
    ds.BodyPartExamined, ds.ViewPosition, ds.ImageLaterality = "CHEST", phantom.view, "U"
    ds.AnatomicRegionSequence = [_code("816094009", "Chest")]
    view = {"PA": ("272479007", "postero-anterior"), "AP": ("399348003", "antero-posterior")}[phantom.view]
    ds.ViewCodeSequence = [_code(*view)]
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = []
    ds.PatientOrientation, ds.ImageType, ds.AcquisitionContextSequence = ["L", "F"], ["ORIGINAL", "PRIMARY", ""], []
    ds.DetectorType, ds.PositionerType, ds.BurnedInAnnotation = "DIRECT", "", "NO"
    spacing = SIDE_MM / np.sqrt(phantom.image.size)
    ds.ImagerPixelSpacing = [f"{spacing:.6f}"] * 2
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", 1 if inverse else -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.WindowCenter, ds.WindowWidth = str(center), str(width)  # by the default function, LINEAR
    ds.PhotometricInterpretation = "MONOCHROME1" if inverse else "MONOCHROME2"
    ds.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    ds.LossyImageCompression, ds.SamplesPerPixel, ds.PixelRepresentation = "00", 1, 0
    ds.Rows, ds.Columns = phantom.image.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelData = pixels
    return ds


def _code(value: str, meaning: str) -> Dataset:
    """A code of SNOMED CT."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def phantom_folder(count: int = 400, size: int = 128, seed: int = 0) -> Path:
    """A folder of built-in PNG films in the user's cache, made on first use.

    It lies under ``XDG_CACHE_HOME`` (else ``~/.cache``) and is named after the code that draws it, so another version
    never meets old films. It appears whole or not at all, also when two processes make it at once.

    Args:
        count: number of films.
        size: longer side in pixels.
        seed: of what is drawn.

    Returns:
        The folder, with ``count`` films of ``size`` pixels on the longer side (see ``write_phantoms``).
    """
    drawing = b"".join(Path(__file__).with_name(name).read_bytes() for name in ("phantom.py", "thorax.py"))
    folder = cache_folder() / f"phantom-{hashlib.sha256(drawing).hexdigest()[:8]}-{count}x{size}-seed{seed}"
    if folder.is_dir():
        return folder
    _logger.info("making %d built-in phantom films (computed, no patients) in %s", count, folder)
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder.parent))
    try:
        write_phantoms(unfinished, count, seed, "png", size)
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster, with the same films
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder
