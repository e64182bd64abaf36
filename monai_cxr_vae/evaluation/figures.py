"""Pictures of an evaluation: films beside their reconstructions, training curves and distributions."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.files import write_whole
from monai_cxr_vae.metrics import crop_to_mask
from monai_cxr_vae.networks.components import Films

DIFFERENCE = 0.2  # end of the colour scale of a difference: fixed, so that pictures of two models can be compared
_NAMES = {
    "mean_image": "mean image",
    "pca": "PCA",
    "block_pca": "block PCA",
    "bicubic": "bicubic",
    "low_pass_dct": "low-pass DCT",
    "best_dct": "best DCT",
}
_SMALL = 9  # font size of axis labels


def draw_reconstructions(
    path: str | os.PathLike,
    films: Films,
    reconstruct: Callable[[Tensor], Tensor],
    psnr: Tensor,
    masks: Films | None = None,
) -> None:
    """Write the best, the median and the worst film by PSNR: film, reconstruction and their difference.

    Args:
        path: PNG to write.
        films: ``(N, 1, S, S)``, intensities in [0, 1].
        reconstruct: from films to their reconstructions.
        psnr: ``(N,)`` dB.
        masks: ``(N, 1, S, S)`` bool; padding is cut off.
    """
    order = psnr.argsort(descending=True).tolist()
    chosen = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    figure = Figure(figsize=(8.2, 7.2), dpi=150, layout="constrained")
    axes = figure.subplots(3, 3)
    for row, (name, i) in zip(axes, chosen.items(), strict=True):
        whole = films[i : i + 1]
        mask = torch.ones_like(whole, dtype=torch.bool) if masks is None else masks[i : i + 1]
        film, made = (crop_to_mask(x, mask)[0, 0].numpy() for x in (whole, reconstruct(whole).clamp(0, 1)))
        for axis, picture in zip(row, (film, made), strict=False):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        difference = row[2].imshow(made - film, cmap="RdBu_r", vmin=-DIFFERENCE, vmax=DIFFERENCE)
        row[0].set_ylabel(f"{name}: {float(psnr[i]):.1f} dB", fontsize=11)
        for axis in row:
            axis.set(xticks=[], yticks=[])
    for axis, title in zip(axes[0], ("film", "reconstruction", "reconstruction minus film"), strict=True):
        axis.set_title(title, fontsize=11)
    bar = figure.colorbar(difference, ax=axes[:, 2], shrink=0.6, extend="both")
    bar.set_label("difference (1 = full intensity range)", fontsize=_SMALL)
    bar.ax.tick_params(labelsize=8)
    write_whole(Path(path), lambda file: figure.savefig(file, format="png"))


def draw_curves(
    path: str | os.PathLike, result: dict[str, Any], psnr: Tensor, metrics_csv: str | os.PathLike | None = None
) -> None:
    """Write the PSNR of all films beside the baselines, the KL of each latent, and training curves.

    Args:
        path: PNG to write.
        result: as :func:`monai_cxr_vae.evaluation.evaluate` returns it.
        psnr: ``(N,)`` dB.
        metrics_csv: log of a training run with a column ``epoch``; drawn are those of ``train/mse``, ``train/kl``,
            ``val/kl`` and ``val/psnr`` that it has.
    """
    log = read_log(metrics_csv) if metrics_csv is not None else {}
    rows = 2 if log else 1
    figure = Figure(figsize=(10, 3.6 * rows), dpi=150, layout="constrained")
    grid = figure.add_gridspec(rows, 6)
    if log:
        _draw_log(figure.add_subplot(grid[0, 0:2]), log, ("train/mse",), "MSE (intensity²)", logarithmic=True)
        _draw_log(figure.add_subplot(grid[0, 2:4]), log, ("train/kl", "val/kl"), "KL (nats per film)")
        _draw_log(figure.add_subplot(grid[0, 4:6]), log, ("val/psnr",), "PSNR (dB)")
    _draw_psnr(figure.add_subplot(grid[-1, 0:3]), result, psnr)
    _draw_units(figure.add_subplot(grid[-1, 3:6]), result)
    write_whole(Path(path), lambda file: figure.savefig(file, format="png"))


def read_log(path: str | os.PathLike) -> dict[str, list[tuple[float, float]]]:
    """(epoch, value) of each column of a training's ``metrics.csv``; rows that lack it are left out.

    Raises:
        InputError: no such file, or no log of a training.
    """
    log: dict[str, list[tuple[float, float]]] = {}
    try:
        with open(path, newline="") as lines:  # noqa: PTH123
            for row in csv.DictReader(lines):
                for name, value in row.items():
                    if value and name != "epoch":
                        log.setdefault(name, []).append((float(row["epoch"]), float(value)))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is not the metrics.csv of a training") from error
    if "train/mse" not in log:
        raise InputError(f"{path} is not the metrics.csv of a training")
    return log


def _draw_log(
    axis: Axes, log: dict[str, list[tuple[float, float]]], names: Sequence[str], label: str, logarithmic: bool = False
) -> None:
    for name in names:
        if name in log:
            epochs, values = zip(*log[name], strict=True)
            axis.plot(
                epochs,
                values,
                marker="." if len(epochs) < 30 else None,
                label={"train": "training", "val": "validation"}[name.split("/")[0]],
            )
    axis.set_xlabel("epoch", fontsize=_SMALL)
    axis.set_ylabel(label, fontsize=_SMALL)
    if logarithmic:
        axis.set_yscale("log")
    _tidy(axis)


def _draw_psnr(axis: Axes, result: dict[str, Any], psnr: Tensor) -> None:
    axis.hist(psnr.numpy(), bins=30, color="0.75")
    lines = {"model": result["psnr"]["mean"]}
    lines |= {_NAMES[name]: baseline["psnr"] for name, baseline in result["baselines"].items()}
    for i, (name, value) in enumerate(lines.items()):
        style = {"linewidth": 2.2} if name == "model" else {"linewidth": 1.4, "linestyle": "--"}
        axis.axvline(value, color=f"C{i}", label=f"{name}: {value:.1f} dB", **style)
    axis.set_xlabel(f"PSNR (dB) of {result['n']} films; lines: means", fontsize=_SMALL)
    axis.set_ylabel("films", fontsize=_SMALL)
    _tidy(axis)


def _draw_units(axis: Axes, result: dict[str, Any]) -> None:
    units = result["kl_per_unit"]
    order = sorted(range(len(units["mean"])), key=lambda j: -units["mean"][j])
    mean, low, high = ([column[j] for j in order] for column in (units["mean"], *units["ci95"]))
    rank = range(1, len(order) + 1)
    axis.fill_between(rank, low, high, alpha=0.3, label="95% interval")
    active = result["active_units"]
    axis.plot(rank, mean, label=f"{active['value']} of {active['of']} units active")
    axis.set_xlabel("latent, by rank", fontsize=_SMALL)
    axis.set_ylabel("KL (nats)", fontsize=_SMALL)
    axis.set_ylim(bottom=0)
    _tidy(axis)


def _tidy(axis: Axes) -> None:
    axis.tick_params(which="both", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, edgecolor="none", framealpha=0.9)
