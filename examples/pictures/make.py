"""Draws the pictures of the README from the shipped weights: `python examples/pictures/make.py`."""

from __future__ import annotations

import csv
from pathlib import Path

import data_store  # pydicom-data
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes

from monai_cxr_vae import load_model, read_radiograph
from monai_cxr_vae.data.phantom import render
from monai_cxr_vae.metrics import peak_signal_to_noise_ratio
from monai_cxr_vae.model import RadiographVAE
from monai_cxr_vae.transforms import fit_to_square

HERE = Path(__file__).parent
DPI = 110


def show(axes: Axes, image: np.ndarray, title: str = "", **how: object) -> None:
    axes.imshow(image, cmap="gray", **({"vmin": 0, "vmax": 1} | how))
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def reconstructions(model: RadiographVAE) -> None:
    """Five phantom films and RG1, their reconstructions, the difference on a fixed scale."""
    square = [fit_to_square(render(seed, 512).image, model.image_size, model.fit)[0] for seed in range(5)]
    films = torch.from_numpy(np.stack(square))[:, None]
    (rg1,) = Path(data_store.__file__).parent.rglob("RG1_UNCR.dcm")
    films = torch.cat([films, model.preprocess(read_radiograph(rg1))])
    with torch.no_grad():
        made = model.reconstruct(films)
    psnr = peak_signal_to_noise_ratio(made, films)
    figure, axes = plt.subplots(3, len(films), figsize=(1.7 * len(films), 5.4), layout="constrained")
    for i, (film, reconstruction) in enumerate(zip(films[:, 0].numpy(), made[:, 0].clamp(0, 1).numpy(), strict=True)):
        show(axes[0, i], film, "RG1 (real)" if i == len(films) - 1 else f"phantom {i}")
        show(axes[1, i], reconstruction, f"{psnr[i]:.1f} dB")
        show(axes[2, i], reconstruction - film, vmin=-0.3, vmax=0.3)
    for row, name in enumerate(("film", "reconstruction", "difference (+-0.3)")):
        axes[row, 0].set_ylabel(name, fontsize=9)
    figure.savefig(HERE / "reconstructions.png", dpi=DPI)


def samples(model: RadiographVAE) -> None:
    """Films drawn from the fitted distribution and from the prior."""
    figure, axes = plt.subplots(2, 8, figsize=(11, 3.0), layout="constrained")
    for row, distribution in enumerate(("fitted", "prior")):
        for i, film in enumerate(model.sample(8, seed=1, distribution=distribution)[:, 0].numpy()):
            show(axes[row, i], film)
        axes[row, 0].set_ylabel("fitted Gaussian" if distribution == "fitted" else "N(0, I)", fontsize=9)
    figure.savefig(HERE / "samples.png", dpi=DPI)


def curve() -> None:
    """The shipped weights' training: metrics.csv beside this file."""
    with (HERE / "metrics.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    column = lambda name, keep: np.array([float(row[name]) for row in keep])  # noqa: E731
    validated = [row for row in rows if row["val/psnr"]]
    left.plot(column("epoch", rows), -10 * np.log10(column("train/mse", rows)), label="training (sampled, augmented)")
    left.plot(column("epoch", validated), column("val/psnr", validated), label="validation (mean, averaged weights)")
    left.set(xlabel="epoch", ylabel="PSNR, dB")
    left.legend(fontsize=8)
    right.plot(column("epoch", rows), column("train/kl", rows), label="training")
    right.plot(column("epoch", validated), column("val/kl", validated), label="validation")
    right.set(xlabel="epoch", ylabel="KL, nats per film")
    right.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(HERE / "curve.png", dpi=DPI)


if __name__ == "__main__":
    shipped = load_model()
    reconstructions(shipped)
    samples(shipped)
    curve()
