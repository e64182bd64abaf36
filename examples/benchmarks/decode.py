"""Reading a film to the network's square: this package, MONAI's own readers, and the bare library calls.

All run interleaved on the same 3000 x 2500 films of 12 bits; the least CPU time of each counts, so that a busy machine
harms none of them more than another.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import torch
from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Resize
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID
from side_by_side import Row, in_turns, row

from monai_cxr_vae.data import RadiographReader
from monai_cxr_vae.transforms import FitToSquare

ROWS, COLUMNS, SIZE = 3000, 2500, 256
DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
ENCODERS: dict[str, tuple[str, Callable[[np.ndarray], bytes] | None]] = {
    "native": ("1.2.840.10008.1.2.1", None),
    "JPEG Lossless": (
        "1.2.840.10008.1.2.4.70",
        lambda image: imagecodecs.jpeg8_encode(image, lossless=True, bitspersample=12),
    ),
    "JPEG-LS": ("1.2.840.10008.1.2.4.80", imagecodecs.jpegls_encode),
    "JPEG 2000": (
        "1.2.840.10008.1.2.4.90",
        lambda image: imagecodecs.jpeg2k_encode(image, level=0, codecformat="j2k", reversible=True),
    ),
}
DECODERS: dict[str, Callable[[bytes], np.ndarray]] = {
    "JPEG Lossless": imagecodecs.jpeg8_decode,
    "JPEG-LS": imagecodecs.jpegls_decode,
    "JPEG 2000": imagecodecs.jpeg2k_decode,
}


def film() -> np.ndarray:
    """A smooth body with fine noise, so that it compresses about like a radiograph (2.4 : 1)."""
    y, x = np.mgrid[-1 : 1 : ROWS * 1j, -1 : 1 : COLUMNS * 1j]
    body = np.exp(-(x**2) - 0.5 * y**2) - 0.5 * np.exp(-((np.abs(x) - 0.45) ** 2) / 0.05 - y**2 / 0.4)
    noise = np.random.default_rng(0).normal(0, 0.004, body.shape)
    return np.clip((0.2 + 0.7 * body + noise) * 4095, 0, 4095).astype(np.uint16)


def write(path: Path, image: np.ndarray, syntax: str, encoder: Callable[[np.ndarray], bytes] | None) -> bytes:
    """Write the film as DX For Presentation; returns the codestream (or the plain words)."""
    frame = image.tobytes() if encoder is None else encoder(image)
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UID(DX_FOR_PRESENTATION)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID("2.25.1")
    ds.Modality, ds.PatientOrientation, ds.ImagerPixelSpacing = "DX", ["L", "F"], [0.14, 0.14]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = image.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = 2048, 3500
    ds.PixelData = frame if encoder is None else encapsulate([frame])
    ds["PixelData"].VR = "OW" if encoder is None else "OB"
    ds["PixelData"].is_undefined_length = encoder is not None
    ds.save_as(path, enforce_file_format=True)
    return frame


def bare(name: str, frame: bytes, table: np.ndarray) -> Callable[[Path], Any]:
    """Nothing but the calls that do the work: read the file, decode, look up, shrink."""

    def run(path: Path) -> np.ndarray:
        data = path.read_bytes()
        if name in DECODERS:
            words = DECODERS[name](frame)
        else:
            words = np.frombuffer(data, "<u2", ROWS * COLUMNS, len(data) - len(frame)).reshape(ROWS, COLUMNS)
        return cv2.resize(cv2.LUT(words, table), (SIZE, SIZE), interpolation=cv2.INTER_AREA)

    return run


def monai_chain(reader: str) -> Callable[[Path], Any]:
    """MONAI's own reader and area resize. It leaves out window and polarity, and the picture is transposed."""
    load = LoadImage(reader=reader, ensure_channel_first=True, image_only=True)
    resize = {2: Resize((SIZE, SIZE), mode="area"), 3: Resize((SIZE, SIZE, 1), mode="area")}

    def run(path: Path) -> Any:
        image = load(str(path))
        return resize[image.ndim - 1](image)

    return run


def measure(rounds: int = 7, syntaxes: tuple[str, ...] = tuple(ENCODERS)) -> list[Row]:
    """CPU milliseconds per film, two rows for each syntax: beside the bare calls and beside the faster MONAI reader."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    image = film()
    table = np.clip((np.arange(65536) - 2047.5) / 3499 + 0.5, 0, 1).astype(np.float32)
    ours = Compose([LoadImage(reader=RadiographReader()), EnsureChannelFirst(), FitToSquare(SIZE)])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in syntaxes:
            path = Path(folder) / f"{name}.dcm"
            frame = write(path, image, *ENCODERS[name])
            chains = [
                lambda path: ours(str(path)),
                bare(name, frame, table),
                monai_chain("ITKReader"),
                monai_chain("PydicomReader"),
            ]
            np.testing.assert_allclose(np.asarray(chains[0](path))[0], chains[1](path), atol=1e-6)
            steps = [partial(chain, path) for chain in chains]
            least = [min(times) for times in in_turns(*steps, rounds=rounds, clock=time.process_time)]
            # Elsewhere both sides spend their time in the codec.
            over_monai = 4.0 if name in ("native", "JPEG Lossless") else None
            for rival, limit, figure in (("bare calls", 0.9, least[1]), ("MONAI", over_monai, min(least[2:]))):
                title = f"{name}, beside {rival}"
                rows.append(row(title, figure / least[0], limit, rounds, least[0], figure, "CPU ms per film"))
    return rows
