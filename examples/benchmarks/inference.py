"""CPU time of a folder run per film, beside a bare loop that reads, hashes, decodes, resizes and runs the network.

Both work on the same films of 12 bits, in turns, in one process with one thread; CPU time, so that other work on the
machine matters little. The folder run's share is its header scan, its chain and its journal, everything but the start
of its processes and the transport between them.
"""

from __future__ import annotations

import hashlib
import io
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pydicom
import torch
from monai.inferers import SimpleInferer
from monai.transforms import Compose
from side_by_side import Row, in_turns, row

from monai_cxr_vae import load_model
from monai_cxr_vae.data import film_transforms
from monai_cxr_vae.data.phantom import write_phantoms
from monai_cxr_vae.data.writers import SaveRadiographd, provenance_of
from monai_cxr_vae.inference import FilmChain, FilmFolder, FolderOptions, FolderRun
from monai_cxr_vae.inference.plan import key_of
from monai_cxr_vae.inference.worker import FilmTask, HeaderTask, Work
from monai_cxr_vae.model import weights_file


def make_films(folder: Path, count: int, shape: tuple[int, int]) -> list[Path]:
    """Films of the size of a detector, from one small phantom; each with its own UIDs and pixels."""
    write_phantoms(folder / "seed", 1, 0)
    ds = pydicom.dcmread(next(p for p in (folder / "seed").rglob("*") if p.is_file()))
    picture = cv2.resize(ds.pixel_array, shape[::-1], interpolation=cv2.INTER_CUBIC)
    ds.Rows, ds.Columns = shape
    (folder / "in").mkdir(parents=True, exist_ok=True)
    paths = [folder / "in" / f"{i}.dcm" for i in range(count)]
    for i, path in enumerate(paths):
        ds.PixelData = np.roll(picture, i, axis=1).tobytes()
        for level in ("Study", "Series", "SOP"):
            setattr(ds, f"{level}InstanceUID", f"1.2.3.{len(level)}.{i + 1}")
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.save_as(path)
    return paths


def bare(path: Path, network: torch.nn.Module, size: int, shown: np.ndarray) -> torch.Tensor:
    """What has to be done for a film at the least, without a copy that could be spared."""
    data = path.read_bytes()
    hashlib.sha256(data).hexdigest()
    ds = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    pixels = np.frombuffer(data, "<u2", offset=len(data) - 2 * ds.Rows * ds.Columns).reshape(ds.Rows, ds.Columns)
    table = np.clip(np.arange(65536, dtype=np.float32) / (2**ds.BitsStored - 1), 0, 1)
    square = cv2.resize(cv2.LUT(pixels, table, shown), (size, size), interpolation=cv2.INTER_AREA)
    with torch.inference_mode():
        return network(torch.from_numpy(square)[None, None])


def measure(count: int = 20, rounds: int = 5, shape: tuple[int, int] = (3000, 2500)) -> list[Row]:
    """CPU milliseconds per film of ``count`` films of ``shape`` pixels."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    weights = weights_file()
    network = load_model(weights)
    provenance = provenance_of(weights, {"objects": ["sc"], "bits_stored": 12})
    preprocessing = film_transforms(network.image_size, network.fit)
    shown = np.empty(shape, np.float32)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        paths = make_films(scratch, count, shape)
        saver = SaveRadiographd("pred", scratch / "out", provenance)
        chain = FilmChain(preprocessing, network, SimpleInferer(), Compose([saver]))
        work = Work(chain)
        job = FolderRun(FilmFolder(scratch / "in"), scratch / "out", chain, provenance, FolderOptions(num_workers=1))

        def folder_run() -> None:
            for index, path in zip(indices, paths, strict=True):
                header = work(HeaderTask(str(path), strict_view=False))
                result = work(FilmTask(str(path), strict_view=False, key=key_of(header)))
                assert result["status"] == "done", result
                job.record({"index": index, **result})

        def bare_loop() -> None:
            for path in paths:
                bare(path, network, network.image_size, shown)

        with job:
            numbers = {entry["path"]: index for index, entry in job.inputs.items()}
            indices = [numbers[str(path.resolve())] for path in paths]
            ours, theirs = in_turns(folder_run, bare_loop, rounds=rounds, clock=time.process_time)
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    figures = min(ours) / count, min(theirs) / count
    return [row("folder run, beside a bare loop", ratio, 0.85, rounds, *figures, "CPU ms per film")]
