"""Films, chains and functions that stand in for the real ones; importable by the worker processes."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from monai.inferers import SimpleInferer
from monai.transforms import Compose

from monai_cxr_vae.data import LoadRadiographd
from monai_cxr_vae.data.writers import SaveRadiographd, provenance_of
from monai_cxr_vae.errors import OutputError
from monai_cxr_vae.inference import FilmEvaluator, FilmFolder
from monai_cxr_vae.transforms import FitToSquared
from tests.dicom.sources import film, to_bytes

SIZE = 32
CREATED = "2026-01-31T09:30:00+01:00"  # of runs that are compared
CRASH, HANG, BOMB, BUG, LATE = b"SEGFAULT", b"ENDLESS", b"ALLOCATE", b"BUG", b"LATE"
CANARIES = ("ZZNAME^CANARY", "ZZID77", "ZZPATH")


class Smooth(torch.nn.Module):
    """A "reconstruction" that keeps the picture recognisable."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(x, 3, 1, 1)


class Convolutions(torch.nn.Module):
    """A network whose last bits depend on the shape of its batch, as those of real ones do; made anew, the same."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        layers: list[torch.nn.Module] = []
        for channels_in, channels_out in ((1, 16), (16, 32), (32, 1)):
            layer = torch.nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
            layer.weight.data = torch.randn(layer.weight.shape, generator=generator) / channels_in**0.5 / 3
            layers += [layer, torch.nn.GroupNorm(1, channels_out)]
        self.body = torch.nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.1 * self.body(x)


class Refusing(Smooth):
    """Cannot run on a bright film, nor on a batch with one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if (x.flatten(1).amax(1) > 0.99).any():
            raise ValueError("too bright")
        return super().forward(x)


class Trap:
    """A decoder with every vice: what follows the pixels in a file decides what it does.

    ``late`` ones stand behind the network and spring where the tail begins with LATE.
    """

    def __init__(self, late: bool = False) -> None:
        self.late = late

    def __call__(self, data: dict) -> dict:
        path = data["image"].meta["filename_or_obj"] if self.late else data["image"]
        tail = Path(path).read_bytes()[-16:]
        if (LATE in tail) != self.late:
            return data
        if CRASH in tail:
            os.kill(os.getpid(), signal.SIGSEGV)
        if HANG in tail:
            time.sleep(3600)
        if BOMB in tail:
            bytearray(64 * 2**30)
        if BUG in tail:
            raise KeyError(CANARIES[0])
        return data


def work(task: object) -> object:
    """A function for the pool."""
    if isinstance(task, np.ndarray):
        return task
    if task == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if task == "hang":
        time.sleep(3600)
    if task == "bomb":
        bytearray(64 * 2**30)
    if task == "full":
        raise OutputError("disk full")
    if task == "noise":
        print("secret", flush=True)
        os.write(2, b"secret")
    if task == "threads":
        return torch.get_num_threads()
    if task == "slow":
        time.sleep(0.3)
    return task


class Unloadable:
    def __reduce__(self) -> tuple:
        return (sys.exit, ("no",))


class DiesAtFirst:
    """A function for the pool whose process dies while it starts, the first ``deaths`` times."""

    def __init__(self, folder: Path, deaths: int) -> None:
        self.folder, self.deaths = folder, deaths

    def __call__(self, task: object) -> object:
        return task

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        count = len(list(self.folder.iterdir()))
        if count < self.deaths:
            (self.folder / str(count)).touch()
            os.kill(os.getpid(), signal.SIGKILL)


def picture(number: int, shape: tuple[int, int] = (60, 50)) -> np.ndarray:
    """A film as 12 bits: different for every number, and different from its mirror images."""
    y, x = np.mgrid[: shape[0], : shape[1]] / np.array(shape).reshape(2, 1, 1)
    values = 0.2 + 0.5 * y * (1 - x) + 0.3 * np.exp(-((x - 0.3) ** 2 + (y - 0.2) ** 2) * (20 + number % 7))
    return np.clip(values * 4000 + number % 50, 0, 4095).astype(np.uint16)


def write_film(path: Path, number: int = 0, variant: str = "dx_mono2_12", tail: bytes = b"", **changes: object) -> Path:
    """Write a DICOM film of its own study; ``tail`` goes behind the pixels, into an element that nobody reads."""
    pixels = picture(number)
    ds = film(variant, pixels.shape)
    ds.PixelData = pixels.tobytes()
    for name in ("Study", "Series", "SOP"):
        setattr(ds, f"{name}InstanceUID", f"1.2.3.{len(name)}.{number + 1}")
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    if tail:
        ds.add_new(0x7FE10010, "LO", "X")
        ds.add_new(0x7FE11001, "OB", tail.ljust(16))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_bytes(ds))
    return path


def write_folder(folder: Path, count: int = 6) -> Path:
    """Films, PNG pictures and files that are no films."""
    from PIL import Image

    for i in range(count):
        write_film(folder / f"{i:02d}" / "film", i)
    Image.fromarray((picture(1) >> 4).astype(np.uint8)).save(folder / "a.png")
    (folder / "notes.txt").write_text("hello")
    (folder / ".hidden").write_bytes(b"")
    return folder


def evaluator(folder: Path, output: Path, network: torch.nn.Module | None = None, **options: object) -> FilmEvaluator:
    """The engine of the bundle's inference config around a small network."""
    output.parent.mkdir(parents=True, exist_ok=True)
    weights = output.parent / "weights.pt"
    weights.write_bytes(b"weights")
    objects = options.pop("objects", ["sc"])
    provenance = provenance_of(weights, {"objects": objects})
    report = bool(options.get("report"))
    created = options.pop("created", CREATED)
    save = SaveRadiographd("pred", output, provenance, objects=objects, report=report, created=created, mark=False)
    preprocessing = Compose(
        [
            Trap(),
            LoadRadiographd("image"),
            FitToSquared("image", SIZE, "letterbox"),
        ]
    )
    return FilmEvaluator(
        options.pop("device", "cpu"),
        FilmFolder(folder, preprocessing),
        network or Smooth(),
        SimpleInferer(),
        Compose([Trap(late=True), save]),
        output,
        provenance,
        **{"num_workers": 1, "timeout": 60, "progress": False, **options},
    )


def run(folder: Path, output: Path, **options: object) -> dict[str, dict]:
    """Run a folder and return the current rows by input path relative to the folder."""
    engine = evaluator(folder, output, **options)
    engine.run()
    return rows(folder, output) | {"exit code": engine.exit_code}


def rows(folder: Path, output: Path) -> dict[str, dict]:
    from monai_cxr_vae.inference.manifest import Journal

    inputs, manifest = Journal(output / ".run" / "inputs.jsonl"), Journal(output / "manifest.jsonl")
    inputs.close(), manifest.close()
    return {
        str(Path(row["path"]).relative_to(folder)): manifest.current[index] for index, row in inputs.current.items()
    }


def add_lines(path: Path, process: int, count: int) -> None:
    """One of several processes that add to a journal, and open it while others do."""
    from monai_cxr_vae.inference.manifest import Journal

    for start in range(0, count, 50):
        journal = Journal(path)
        for i in range(start, start + 50):
            journal.add({"index": process * count + i, "text": "x" * i})
        journal.close()


def tree(folder: Path) -> dict[str, str]:
    """Digest of every file that may be passed on, but the journal, whose order is that of the work."""
    files = (p for p in folder.rglob("*") if p.is_file() and ".run" not in p.parts and p.name != "manifest.jsonl")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def main() -> None:
    """A program of its own: run folder IN into OUT and exit with the folder's code; a third word is the batch size."""
    batch_size = int(sys.argv[3]) if len(sys.argv) > 3 else None
    engine = evaluator(Path(sys.argv[1]), Path(sys.argv[2]), Convolutions(), num_workers=2, batch_size=batch_size)
    engine.run()
    engine.finish()
