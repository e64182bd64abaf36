"""Draws the pictures of the README and of docs/ from the shipped weights: `python examples/pictures/make.py`."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import data_store  # pydicom-data
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes

from monai_cxr_vae import load_model, read_radiograph
from monai_cxr_vae.data.phantom import render
from monai_cxr_vae.data.pictures import draw_heat
from monai_cxr_vae.metrics import peak_signal_to_noise_ratio
from monai_cxr_vae.model import RadiographVAE
from monai_cxr_vae.scoring import score
from monai_cxr_vae.scoring.scorer import DETAIL
from monai_cxr_vae.transforms import fit_to_square

HERE = Path(__file__).parent
DPI = 110


def show(axes: Axes, image: np.ndarray, title: str = "", **how: object) -> None:
    axes.imshow(image, cmap="gray", **({"vmin": 0, "vmax": 1} | how))
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])


def reconstructions() -> None:
    """Five phantom films and RG1, their reconstructions by two presets, the differences on a fixed scale."""
    (rg1,) = Path(data_store.__file__).parent.rglob("RG1_UNCR.dcm")
    radiographs = [*(render(seed, 512).image for seed in range(5)), read_radiograph(rg1).pixels]
    figure, axes = plt.subplots(5, len(radiographs), figsize=(1.7 * len(radiographs), 8.8), layout="constrained")
    rows = iter(axes)
    for name in ("spatial", "model"):
        model = load_model(name)
        square = [fit_to_square(pixels, model.image_size, model.fit)[0] for pixels in radiographs]
        films = torch.from_numpy(np.stack(square))[:, None]
        with torch.no_grad():
            made = model.reconstruct(films)
        psnr = peak_signal_to_noise_ratio(made, films)
        values = model.encode(films[:1])[0].numel()
        if name == "spatial":
            for i, (axis, film) in enumerate(zip(next(rows), films[:, 0].numpy(), strict=True)):
                show(axis, film, "RG1 (real)" if i == len(films) - 1 else f"phantom {i}")
            axes[0, 0].set_ylabel("film", fontsize=9)
        shown, lost = next(rows), next(rows)
        for i, (film, reconstruction) in enumerate(
            zip(films[:, 0].numpy(), made[:, 0].clamp(0, 1).numpy(), strict=True)
        ):
            show(shown[i], reconstruction, f"{psnr[i]:.1f} dB")
            show(lost[i], reconstruction - film, vmin=-0.3, vmax=0.3)
        shown[0].set_ylabel(f"{model.image_size} px, {values:,} values", fontsize=9)
        lost[0].set_ylabel("difference (+-0.3)", fontsize=9)
    figure.savefig(HERE / "reconstructions.png", dpi=DPI)


def heat_maps(model: RadiographVAE) -> None:
    """Phantom films with drawn findings and RG1 under their heat maps, with the anomaly's p-value."""
    (rg1,) = Path(data_store.__file__).parent.rglob("RG1_UNCR.dcm")
    findings = ("nodule", "opacity", "effusion", None)
    pixels = [*(render((7, i), 512, finding).image for i, finding in enumerate(findings)), read_radiograph(rg1).pixels]
    names = [*(finding or "no finding" for finding in findings), "RG1 (real)"]
    figure, axes = plt.subplots(2, len(pixels), figsize=(2.0 * len(pixels), 4.4), layout="constrained")
    for i, (film, name) in enumerate(zip(pixels, names, strict=True)):
        image, detail = (
            torch.from_numpy(fit_to_square(film, size, model.fit)[0])[None, None]
            for size in (model.image_size, DETAIL * model.image_size)
        )
        [told], heat = score(model, image, detail)
        show(axes[0, i], detail[0, 0].numpy(), name)
        spread = cv2.resize(heat[0, 0].numpy(), detail.shape[2:], interpolation=cv2.INTER_LINEAR)
        show(axes[1, i], draw_heat(detail[0, 0].numpy(), spread), f"p = {told.anomaly_p:.3f} ({told.anomaly_part})")
    figure.savefig(HERE / "heat_maps.png", dpi=DPI)


def samples() -> None:
    """The first 24 films that preset hierarchical draws, as they come."""
    films = load_model("hierarchical").sample(24, seed=0, progress=True)
    halves = F.avg_pool2d(films, 2)[:, 0]
    rows = [torch.cat(tuple(row), 1) for row in halves.split(8)]
    cv2.imwrite(str(HERE / "samples.png"), (torch.cat(rows) * 255).round().byte().numpy())


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
    reconstructions()
    heat_maps(shipped)
    samples()
    curve()
