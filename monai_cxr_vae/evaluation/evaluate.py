"""The evaluation of a model on films: metrics with intervals, baselines beside them, pictures."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.evaluation import baselines
from monai_cxr_vae.evaluation.bootstrap import Bootstrap
from monai_cxr_vae.evaluation.figures import draw_curves, draw_reconstructions, read_log
from monai_cxr_vae.evaluation.levels import evaluate_levels
from monai_cxr_vae.files import write_whole
from monai_cxr_vae.metrics import (
    active_units,
    bits_per_dimension,
    kl_per_unit,
    multiscale_structural_similarity,
    peak_signal_to_noise_ratio,
    structural_similarity,
)
from monai_cxr_vae.networks import HierarchicalVAE
from monai_cxr_vae.networks.components import MOST_FILMS, Films
from monai_cxr_vae.progress import Progress

_logger = logging.getLogger(__name__)

_AT_A_TIME = 16  # films of a metric whose intermediate images are many times as large as they


class Model(Protocol):
    """What is asked of a model; :class:`monai_cxr_vae.model.RadiographVAE` has it."""

    latent_size: int
    sigma: Tensor

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def decode(self, z: Tensor) -> Tensor: ...


def evaluate(
    model: Model,
    films: Films,
    train_films: Films | None,
    output_dir: str | os.PathLike,
    masks: Films | None = None,
    metrics_csv: str | os.PathLike | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a model and simpler methods of the same size, and write ``evaluation.json`` and two pictures.

    Films are read some at a time, so they may be more than fit into memory
    (:meth:`monai_cxr_vae.data.FilmDataset.view`).

    Args:
        model: in evaluation mode; its device is taken from ``sigma``.
        films: test films ``(N, 1, S, S)`` float32 in [0, 1].
        train_films: films that the baselines are fitted on, same size; they should be those of the training. None fits
            them on ``films`` themselves, which flatters them; ``baselines_fitted_on`` says which it was. Of more than
            5,000 films that many are taken, evenly chosen.
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
    network, n = getattr(model, "network", None), len(films)
    if isinstance(network, HierarchicalVAE):
        return evaluate_levels(network, films, output_dir, seed=seed)
    if n < 2:
        raise InputError("an evaluation needs at least two films")
    if metrics_csv is not None:
        read_log(metrics_csv)
    output_dir, sigma = Path(output_dir), float(model.sigma)
    if not sigma > 0:
        _logger.warning("these weights carry no sigma yet: no evidence lower bound")
    if train_films is None:
        _logger.warning("no training films given: the baselines are fitted on the evaluated films, which flatters them")
    fitted_on = films if train_films is None else train_films
    codes = _baselines(fitted_on, model.latent_size, films, masks, seed)

    bootstrap, psnr = Bootstrap(n, seed=seed), []
    noise = torch.Generator().manual_seed(seed)
    with Progress("evaluating films", n) as bar:
        for start in range(0, n, batch_size):
            part = slice(start, start + batch_size)
            x, mask = films[part], None if masks is None else masks[part]
            if mask is not None and bool(mask.all()):
                mask = None
            measured = _of_model(model, x, mask, noise) | _of_baselines(codes, x, mask)
            bootstrap.add(measured)
            psnr.append(measured["psnr"])
            bar.update(len(x))

    size = films[:1].shape[-1]
    result: dict[str, Any] = {"n": n, "image_size": size, "latent_size": model.latent_size}
    for name in ("psnr", "ssim", "kl", "ms_ssim", "bits_per_dimension"):
        if name in bootstrap:
            result[name] = bootstrap.summary(name)
    if sigma > 0:
        result["bits_per_dimension"]["sigma"] = sigma
    result["active_units"] = _active_units(bootstrap, n)
    lower, upper = bootstrap.interval(bootstrap.means("kl_per_unit")).tolist()
    result["kl_per_unit"] = {"mean": bootstrap.mean("kl_per_unit").tolist(), "ci95": [lower, upper], "n": n}
    result["baselines_fitted_on"] = "evaluated films" if train_films is None else "training films"
    result["baselines"] = {name: code.size | _summary(bootstrap, name) for name, code in codes.items()}

    text = re.sub(r"\[[^][{}]*\]", lambda numbers: " ".join(numbers[0].split()), json.dumps(result, indent=1))
    values = torch.cat(psnr)
    reconstruct = functools.partial(_reconstruct, model)
    draw_reconstructions(output_dir / "reconstructions.png", films, reconstruct, values, masks)
    draw_curves(output_dir / "curves.png", result, values, metrics_csv)
    write_whole(output_dir / "evaluation.json", f"{text}\n".encode())  # a list of numbers is one line
    return result


@torch.no_grad()
def _of_model(model: Model, x: Tensor, mask: Tensor | None, noise: torch.Generator) -> dict[str, Tensor]:
    """Metrics of a model on some films by name, each ``(N, ...)``, on the CPU."""
    mu, logvar = model.encode(x.to(model.sigma.device))
    # Film by film: what a film gets does not depend on how many are taken at a time.
    epsilon = torch.stack([torch.randn(model.latent_size, generator=noise) for _ in x]).to(mu).view_as(mu)
    sampled = model.decode(mu + (0.5 * logvar).exp() * epsilon).float().cpu()
    made = model.decode(mu).float().cpu()
    mu, logvar = mu.flatten(1).float().cpu(), logvar.flatten(1).float().cpu()
    unit_kl = kl_per_unit(mu, logvar)
    found = _fidelity(made, x, mask) | {
        "kl": unit_kl.sum(1),
        "kl_per_unit": unit_kl,
        "mu": mu,
        "mu_squared": mu.double().square(),
    }
    sigma = float(model.sigma)
    if sigma > 0:
        found["bits_per_dimension"] = bits_per_dimension(sampled, x, unit_kl.sum(1), sigma, mask)
    return found


@torch.no_grad()
def _reconstruct(model: Model, x: Tensor) -> Tensor:
    return model.decode(model.encode(x.to(model.sigma.device))[0]).float().cpu()


def _fidelity(made: Tensor, films: Tensor, masks: Tensor | None) -> dict[str, Tensor]:
    """PSNR, SSIM and MS-SSIM of reconstructions, each ``(N,)``; NaN where a film is too small for one."""
    similar = []
    for start in range(0, len(films), _AT_A_TIME):
        part = slice(start, start + _AT_A_TIME)
        of = made[part], films[part], None if masks is None else masks[part]
        similar.append(torch.stack([structural_similarity(*of), multiscale_structural_similarity(*of)]))
    ssim, ms_ssim = torch.cat(similar, 1)
    return {"psnr": peak_signal_to_noise_ratio(made, films, masks), "ssim": ssim, "ms_ssim": ms_ssim}


def _active_units(bootstrap: Bootstrap, n: int) -> dict[str, Any]:
    found = active_units(bootstrap.mean("mu"), bootstrap.mean("mu_squared"), n)
    interval = bootstrap.interval(active_units(bootstrap.means("mu"), bootstrap.means("mu_squared"), n)).tolist()
    return {"value": int(found), "of": len(bootstrap.mean("mu")), "ci95": interval, "n": n}


def _baselines(
    fitted_on: Films, values: int, films: Films, masks: Films | None, seed: int
) -> dict[str, baselines.Code]:
    size = films[:1].shape[-1]
    codes = {"mean_image": baselines.mean_image(fitted_on)}
    if values < min(len(fitted_on), MOST_FILMS) - 1:  # with more, PCA has all of them and answers what it knows
        codes["pca"] = baselines.pca(fitted_on, values)
    blocks = baselines.block_pca(fitted_on, values, films, masks, seed)
    if blocks is not None:
        codes["block_pca"] = blocks
    codes["bicubic"] = baselines.bicubic(size, values)
    codes["low_pass_dct"] = baselines.low_pass_dct(size, values)
    codes["best_dct"] = baselines.best_dct(size, values)
    return codes


def _of_baselines(codes: dict[str, baselines.Code], x: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    """Metrics of each baseline on some films, named as in ``pca psnr``."""
    return {
        f"{name} {metric}": values
        for name, code in codes.items()
        for metric, values in _fidelity(code.reconstruct(x), x, mask).items()
    }


def _summary(bootstrap: Bootstrap, name: str) -> dict[str, Any]:
    psnr = bootstrap.summary(f"{name} psnr")
    found = {"psnr": psnr["mean"], "psnr_ci95": psnr["ci95"], "ssim": float(bootstrap.mean(f"{name} ssim"))}
    if f"{name} ms_ssim" in bootstrap:
        found["ms_ssim"] = float(bootstrap.mean(f"{name} ms_ssim"))
    return found
