"""Memory and time per film over a big folder, and the second start of a finished run.

Usage: folder_scale.py SCRATCH [WEIGHTS] [FILMS] [WORKERS]. The films are small, so that the run's own share shows. Each
has UIDs and pixels of its own. Printed for every tenth of the folder: wall and CPU time per film of this process and
its workers, and the memory of all of them together (PSS).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import pydicom
from ignite.engine import Engine, Events
from monai.inferers import SimpleInferer
from monai.transforms import Compose, LoadImaged

from monai_cxr_vae import load_model
from monai_cxr_vae.data.phantom import write_phantoms
from monai_cxr_vae.data.writers import SaveRadiographd, provenance_of
from monai_cxr_vae.inference import FilmEvaluator, FilmFolder
from monai_cxr_vae.model import weights_file
from monai_cxr_vae.transforms import FitToSquared

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


class Deciles:
    """Print what a tenth of the films cost."""

    def __init__(self, count: int) -> None:
        self.every = max(1, count // 10)

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``."""
        engine.add_event_handler(Events.STARTED, self.mark)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.every), self.tell)

    def mark(self, _: Engine) -> None:
        """Remember where the tenth began."""
        self.wall, (self.cpu, _memory) = time.perf_counter(), usage()

    def tell(self, engine: Engine) -> None:
        """Print the tenth that ends here."""
        cpu, memory = usage()
        wall = time.perf_counter()
        per_film = [f"{(now - then) / self.every * 1e3:6.2f} ms" for now, then in ((wall, self.wall), (cpu, self.cpu))]
        print(
            f"{engine.state.iteration:6d} films:{per_film[0]}, CPU{per_film[1]} per film, {memory:5.0f} MiB", flush=True
        )
        self.mark(engine)


def main() -> None:
    """See the module."""
    scratch, arguments = Path(sys.argv[1]), sys.argv[2:]
    weights = weights_file(arguments[0] if arguments else None)
    count, workers = (int(arguments[i]) if len(arguments) > i else default for i, default in ((1, 10000), (2, 2)))
    make_films(scratch, count)
    network = load_model(weights)
    provenance = provenance_of(weights, {})
    reader = LoadImaged("image", reader="monai_cxr_vae.data.RadiographReader", ensure_channel_first=True)
    preprocessing = Compose([reader, FitToSquared("image", network.image_size, network.fit)])
    saver = Compose([SaveRadiographd("pred", scratch / "out", provenance)])
    for attempt in ("first", "second"):
        folder = FilmFolder(scratch / "in", preprocessing)
        handlers = [Deciles(count)]
        engine = FilmEvaluator(
            "cpu", folder, network, SimpleInferer(), saver, scratch / "out", provenance, handlers, num_workers=workers
        )
        start = time.perf_counter()
        engine.run()
        print(f"{attempt} run: {time.perf_counter() - start:.1f} s, exit code {engine.exit_code}", flush=True)


if __name__ == "__main__":
    main()
