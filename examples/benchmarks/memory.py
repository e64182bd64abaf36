"""Peak memory of a training's start, its statistics at the end and an evaluation, against the number of films.

Each runs in a process of its own on few films and on four times as many, at 64 pixels. Counted is what the process
holds itself (anonymous memory) at its peak, beyond what it held before; decoded films are mapped from their store, and
what the system keeps of that in memory it gives back when asked. The start looks at 5,000 films at most.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import Row, row

from monai_cxr_vae.data import FilmDataset
from monai_cxr_vae.evaluation import evaluate
from monai_cxr_vae.model import RadiographVAE
from monai_cxr_vae.training.statistics import fit_statistics

SIZE = 64


def made(folder: Path, count: int) -> FilmDataset:
    """A data set of so many films that were never files: a store of smooth noise."""
    file, random = folder / "films.u16", np.random.default_rng(0)
    waves = np.stack([np.cos(np.pi / SIZE * k * (np.arange(SIZE) + 0.5)) for k in range(8)])
    with file.open("wb") as store:
        for _ in range(count):
            film = 0.5 + 0.02 * waves.T @ random.standard_normal((8, 8)) @ waves
            film += 0.01 * random.standard_normal((SIZE, SIZE))
            store.write((film.clip(0, 1) * 65535).astype("<u2").tobytes())
    dataset = FilmDataset.__new__(FilmDataset)
    dataset.data, dataset.digests = [{"image": str(i)} for i in range(count)], [str(i) for i in range(count)]
    dataset.labelled = False
    dataset.records = np.zeros(count, dtype=[("record", np.int64), ("box", np.int64, 4)])
    dataset.records["record"], dataset.records["box"] = np.arange(count), (0, 4, SIZE, SIZE - 8)
    dataset.films = np.memmap(file, dtype="<u2", mode="r", shape=(count, SIZE, SIZE))
    return dataset


def start(model: RadiographVAE, films: FilmDataset, _: Path) -> None:
    """Principal components."""
    model.network.initialize_linear(films.view("image"))


def end(model: RadiographVAE, films: FilmDataset, _: Path) -> None:
    """Sigma, and the density of the latents."""
    fit_statistics(model, films, films)


def evaluation(model: RadiographVAE, films: FilmDataset, folder: Path) -> None:
    """Metrics, baselines, pictures."""
    model.sigma.fill_(0.05)
    evaluate(model, films.view("image"), films.view("image"), folder / "out", films.view("mask"))


STEPS: dict[str, Callable[[RadiographVAE, FilmDataset, Path], None]] = {
    "start": start,
    "statistics at the end": end,
    "evaluate": evaluation,
}


def peak(step: str, count: int) -> float:
    """MiB at the peak of a step beyond what there was before it."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        films = made(Path(name), count)
        model = RadiographVAE("compact").eval().requires_grad_(False)
        model.network.initialize_linear(films.images(100).clone())
        held, over = [anonymous()], threading.Event()

        def watch() -> None:
            while not over.wait(0.005):
                held.append(anonymous())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            STEPS[step](model, films, Path(name))
        finally:
            over.set()
            watcher.join()
    return max(held) - held[0]


def anonymous() -> float:
    """MiB that this process holds itself."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


def measure(counts: tuple[int, int] = (5000, 20000)) -> list[Row]:
    """Memory with few films over that with many: 1 is flat."""
    rows, processes = [], multiprocessing.get_context("spawn")
    for step in STEPS:
        found: list[Any] = []
        for count in counts:
            with processes.Pool(1) as pool:
                found.append(pool.apply(peak, (step, count)))
        few, many = found
        rows.append(row(f"{step}, {counts[0]} films beside {counts[1]}", few / many, 0.7, counts[1], many, few, "MiB"))
    return rows
