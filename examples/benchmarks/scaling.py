"""Memory and time per film over a big folder, and the second start of a finished run.

The films are small, so that the run's own share shows. Each has UIDs and pixels of its own. The second tenth of the
folder is set beside the last: CPU time per film of this process and its workers, and the memory of all of them together
(PSS). The first tenth holds the start of the processes.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from ignite.engine import Engine, Events
from monai.inferers import SimpleInferer
from monai.transforms import Compose
from side_by_side import Row, row

from monai_cxr_vae import load_model
from monai_cxr_vae.data import film_transforms
from monai_cxr_vae.data.phantom import write_phantoms
from monai_cxr_vae.data.writers import SaveRadiographd, provenance_of
from monai_cxr_vae.inference import FilmEvaluator, FilmFolder
from monai_cxr_vae.model import weights_file

SIZE, FOLDER = 128, 500


def make_films(folder: Path, count: int) -> None:
    """Write films by patching one phantom's file in place."""
    write_phantoms(folder / "seed", 1, 0)
    ds = pydicom.dcmread(next(p for p in (folder / "seed").rglob("*") if p.is_file()))
    step = ds.Rows // SIZE
    picture = ds.pixel_array[: SIZE * step : step, : SIZE * step : step].copy()
    (ds.Rows, ds.Columns), ds.PixelData = picture.shape, picture.tobytes()
    for level in ("Study", "Series", "SOP"):
        setattr(ds, f"{level}InstanceUID", f"1.2.3.{len(level)}.10000000")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.save_as(folder / "template")
    template = (folder / "template").read_bytes()
    noise = np.random.default_rng(0)
    for i in range(count):
        path = folder / "in" / f"{i // FOLDER:03d}" / f"{i % FOLDER:03d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(picture + noise.integers(-8, 9, picture.shape), 0, 4095).astype("<u2")
        named = template.replace(b".10000000", b".1%07d" % i)
        path.write_bytes(named[: -pixels.nbytes] + pixels.tobytes())


def family() -> list[int]:
    """This process and all that it started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def usage() -> tuple[float, float]:
    """CPU seconds and MiB (PSS) of the family."""
    seconds = memory = 0.0
    for pid in family():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            memory += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
        except (OSError, StopIteration):
            continue
    return seconds, memory


class Tenths:
    """CPU milliseconds per film in each tenth of the films, and MiB at its end."""

    def __init__(self, count: int) -> None:
        self.every = max(1, count // 10)
        self.cpu: list[float] = []
        self.memory: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``."""
        engine.add_event_handler(Events.STARTED, self.mark)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self.tenth)

    def mark(self, _: Engine) -> None:
        """Remember where the tenth began."""
        self.before = usage()[0]

    def tenth(self, engine: Engine) -> None:
        """Note the tenth that ends here."""
        seconds, memory = usage()
        self.cpu.append(1000 * (seconds - self.before) / self.every)
        self.memory.append(memory)
        self.mark(engine)


def measure(count: int = 10000, workers: int = 2) -> list[Row]:
    """Time and memory of the second tenth over the last one's; the first run's time over that of the second start."""
    weights = weights_file()
    network = load_model(weights)
    provenance = provenance_of(weights, {})
    preprocessing = film_transforms(network.image_size, network.fit)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        make_films(scratch, count)
        saver = Compose([SaveRadiographd("pred", scratch / "out", provenance)])
        tenths, seconds = Tenths(count), []
        for handlers in ([tenths], []):
            folder = FilmFolder(scratch / "in", preprocessing)
            out, inferer = scratch / "out", SimpleInferer()
            engine = FilmEvaluator(
                "cpu", folder, network, inferer, saver, out, provenance, val_handlers=handlers, num_workers=workers
            )
            start = time.perf_counter()
            engine.run()
            seconds.append(time.perf_counter() - start)
    cpu, memory = tenths.cpu, tenths.memory
    return [
        row("last tenth's time, beside the second's", cpu[1] / cpu[-1], 0.9, count, cpu[-1], cpu[1], "CPU ms per film"),
        row(
            "last tenth's memory, beside the second's", memory[1] / memory[-1], 0.9, count, memory[-1], memory[1], "MiB"
        ),
        row("second start, beside the run", seconds[0] / seconds[1], None, count, seconds[1], seconds[0], "s"),
    ]
