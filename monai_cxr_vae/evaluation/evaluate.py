"""The evaluation of a model on films: metrics with intervals, baselines beside them, pictures."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.evaluation import baselines
from monai_cxr_vae.evaluation.figures import draw_curves, draw_reconstructions, read_log
from monai_cxr_vae.evaluation.levels import evaluate_levels
from monai_cxr_vae.evaluation.metrics import (
    Bootstrap,
    bits_per_dimension,
    kl_per_unit,
    multiscale_structural_similarity,
)
from monai_cxr_vae.files import write_whole
from monai_cxr_vae.metrics import active_units, peak_signal_to_noise_ratio, structural_similarity
from monai_cxr_vae.networks import HierarchicalVAE
from monai_cxr_vae.progress import progress

_logger = logging.getLogger(__name__)


class Model(Protocol):
    """What is asked of a model; :class:`monai_cxr_vae.model.RadiographVAE` has it."""

    latent_size: int
    sigma: Tensor

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def decode(self, z: Tensor) -> Tensor: ...


def evaluate(
    model: Model,
    films: Tensor,
    train_films: Tensor | None,
    output_dir: str | os.PathLike,
    masks: Tensor | None = None,
    metrics_csv: str | os.PathLike | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a model and simpler methods of the same size, and write ``evaluation.json`` and two pictures.

    Args:
        model: in evaluation mode; its device is taken from ``sigma``.
        films: test films ``(N, 1, S, S)`` float32 in [0, 1].
        train_films: films that the baselines are fitted on, same size; they should be those of the training. None fits
            them on ``films`` themselves, which flatters them; ``baselines_fitted_on`` says which it was.
        output_dir: made when missing; gets ``evaluation.json``, ``reconstructions.png`` (best, median and worst film)
            and ``curves.png``.
        masks: ``(N, 1, S, S)`` bool, true where the film is and false on padding, which no metric counts.
        metrics_csv: the training run's log, drawn into ``curves.png``.
        batch_size: films at a time; it does not change the numbers beyond rounding.
        seed: of the sampled latents, the resamples and the baselines.

    Returns:
        What ``evaluation.json`` holds; for a hierarchical network that of
        :func:`monai_cxr_vae.evaluation.levels.evaluate_levels`. A metric is ``{"mean", "ci95", "n"}``, over films:
        ``psnr`` in dB, ``ssim``, ``ms_ssim`` (absent below 176 pixels), ``kl`` in nats, ``bits_per_dimension`` (absent
        as long as the model has no sigma). ``active_units`` has ``value`` and ``of`` in place of the mean,
        ``kl_per_unit`` lists. ``baselines`` holds ``mean_image``, ``pca`` (absent when there are not more films to fit
        it on than latents), ``block_pca`` (absent when no grid fits), ``bicubic``, ``low_pass_dct`` and ``best_dct``:
        numbers.

    Raises:
        InputError: fewer than two films, of which no spread can be told, or ``metrics_csv`` is no log of a training.
    """
    network = getattr(model, "network", None)
    if isinstance(network, HierarchicalVAE):
        return evaluate_levels(network, films, output_dir, seed=seed)
    if len(films) < 2:
        raise InputError("an evaluation needs at least two films")
    if metrics_csv is not None:
        read_log(metrics_csv)
    output_dir = Path(output_dir)
    if masks is not None and bool(masks.all()):
        masks = None
    mu, logvar, reconstructions, sampled = _run(model, films, batch_size, seed)
    bootstrap = Bootstrap(len(films), seed=seed)

    unit_kl = kl_per_unit(mu, logvar)
    psnr = peak_signal_to_noise_ratio(reconstructions, films, masks)
    per_film = {
        "psnr": psnr,
        "ssim": _in_parts(structural_similarity, reconstructions, films, masks),
        "kl": unit_kl.sum(1),
    }
    ms_ssim = _in_parts(multiscale_structural_similarity, reconstructions, films, masks)
    if not ms_ssim.isnan().all():
        per_film["ms_ssim"] = ms_ssim
    sigma = float(model.sigma)
    if sigma > 0:
        per_film["bits_per_dimension"] = bits_per_dimension(sampled, films, unit_kl.sum(1), sigma, masks)
    else:
        _logger.warning("these weights carry no sigma yet: no evidence lower bound")

    result: dict[str, Any] = {"n": len(films), "image_size": films.shape[-1], "latent_size": model.latent_size}
    result |= {name: bootstrap.summary(values) for name, values in per_film.items()}
    if sigma > 0:
        result["bits_per_dimension"]["sigma"] = sigma
    result["active_units"] = _active_units(mu, bootstrap)
    lower, upper = bootstrap.interval(bootstrap.means(unit_kl)).tolist()
    result["kl_per_unit"] = {"mean": unit_kl.double().mean(0).tolist(), "ci95": [lower, upper], "n": len(films)}
    if train_films is None:
        _logger.warning("no training films given: the baselines are fitted on the evaluated films, which flatters them")
    result["baselines_fitted_on"] = "evaluated films" if train_films is None else "training films"
    fitted_on = films if train_films is None else train_films
    result["baselines"] = _baselines(films, fitted_on, model.latent_size, masks, bootstrap, seed)

    text = re.sub(r"\[[^][{}]*\]", lambda numbers: " ".join(numbers[0].split()), json.dumps(result, indent=1))
    draw_reconstructions(output_dir / "reconstructions.png", films, reconstructions, psnr, masks)
    draw_curves(output_dir / "curves.png", result, psnr, metrics_csv)
    write_whole(output_dir / "evaluation.json", f"{text}\n".encode())  # a list of numbers is one line
    return result


@torch.no_grad()
def _run(model: Model, films: Tensor, batch_size: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Posterior means and log variances, reconstructions from the mean and from a sampled latent, all on the CPU."""
    noise = torch.randn(len(films), model.latent_size, generator=torch.Generator().manual_seed(seed))
    parts = []
    batches = list(zip(films.split(batch_size), noise.split(batch_size), strict=True))
    for x, epsilon in progress(batches, f"parts of {batch_size} films", len(batches)):
        mu, logvar = model.encode(x.to(model.sigma.device))
        z = mu + (0.5 * logvar).exp() * epsilon.to(mu).view_as(mu)
        parts.append((mu.flatten(1), logvar.flatten(1), model.decode(mu), model.decode(z)))
    mu, logvar, reconstructions, sampled = (torch.cat(part).float().cpu() for part in zip(*parts, strict=True))
    return mu, logvar, reconstructions, sampled


def _in_parts(
    metric: Callable[..., Tensor], reconstructions: Tensor, films: Tensor, masks: Tensor | None, size: int = 16
) -> Tensor:
    """A metric of all films, a few at a time: its intermediate images are many times as large as the films."""
    starts = range(0, len(films), size)
    parts = ((x if x is None else x[i : i + size] for x in (reconstructions, films, masks)) for i in starts)
    return torch.cat([metric(*part) for part in parts])


def _active_units(mu: Tensor, bootstrap: Bootstrap) -> dict[str, Any]:
    n = len(mu)
    centred = mu.double() - mu.double().mean(0)
    variance = (bootstrap.means(centred.square()) - bootstrap.means(centred).square()) * n / (n - 1)
    interval = bootstrap.interval((variance > 0.01).sum(1)).tolist()
    return {"value": int(active_units(mu)), "of": mu.shape[1], "ci95": interval, "n": n}


def _baselines(
    films: Tensor, train_films: Tensor, values: int, masks: Tensor | None, bootstrap: Bootstrap, seed: int
) -> dict[str, dict[str, Any]]:
    made: dict[str, tuple[Tensor, dict[str, Any]]] = {
        "mean_image": (baselines.mean_image(films, train_films), {"values": 0})
    }
    if values < len(train_films) - 1:  # with more components than that PCA has them all, and answers what it knows
        reconstructions, components = baselines.pca(films, train_films, values, seed)
        made["pca"] = reconstructions, {"components": components, "values": components}
    blocks = baselines.block_pca(films, train_films, values, masks, seed)
    if blocks is not None:
        made["block_pca"] = blocks
    for name, method in (
        ("bicubic", baselines.bicubic),
        ("low_pass_dct", baselines.low_pass_dct),
        ("best_dct", baselines.best_dct),
    ):
        reconstructions, used = method(films, values)
        made[name] = reconstructions, {"values": used}
    report = {}
    for name, (reconstructions, how) in made.items():
        psnr = bootstrap.summary(peak_signal_to_noise_ratio(reconstructions, films, masks))
        ssim = _in_parts(structural_similarity, reconstructions, films, masks)
        report[name] = {**how, "psnr": psnr["mean"], "psnr_ci95": psnr["ci95"], "ssim": float(ssim.mean())}
        ms_ssim = _in_parts(multiscale_structural_similarity, reconstructions, films, masks)
        if not ms_ssim.isnan().all():
            report[name]["ms_ssim"] = float(ms_ssim.mean())
    return report
