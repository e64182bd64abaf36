"""A hierarchical VAE, level by level: what each level reconstructs, and the bits that it spends on a film."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import torch
from torch import Tensor

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.evaluation.bootstrap import Bootstrap
from monai_cxr_vae.files import write_whole
from monai_cxr_vae.losses import flow_bound_weight, flow_loss
from monai_cxr_vae.metrics import multiscale_structural_similarity, peak_signal_to_noise_ratio, structural_similarity
from monai_cxr_vae.networks import HierarchicalVAE
from monai_cxr_vae.networks.components import Films
from monai_cxr_vae.networks.flow import interpolate, linear_velocity
from monai_cxr_vae.networks.hierarchical import Level
from monai_cxr_vae.progress import Progress

GREY_LEVELS = 255
LEVELS = ("codes", "film", "details")
_METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "psnr": peak_signal_to_noise_ratio,
    "ssim": structural_similarity,
    "ms_ssim": multiscale_structural_similarity,
}
_LOGIT = 4.0  # times from 0.018 to 0.982; outside of them the flow counts as linear
_CODECS = {
    "png": lambda film: imagecodecs.png_encode(film, level=9),
    "jpeg_ls": imagecodecs.jpegls_encode,
    "jpeg_xl": lambda film: imagecodecs.jpegxl_encode(film, lossless=True, effort=7),
}


@torch.no_grad()
def evaluate_levels(
    network: HierarchicalVAE, films: Films, output_dir: str | os.PathLike, batch_size: int = 16, seed: int = 0
) -> dict[str, Any]:
    """Measure a hierarchical network on films, and write ``evaluation.json``.

    Args:
        network: in evaluation mode.
        films: test films ``(N, 1, S, S)`` float32 in [0, 1], read ``batch_size`` at a time.
        output_dir: made when missing.
        batch_size: films at a time.
        seed: of the noise and the resamples.

    Returns:
        What ``evaluation.json`` holds. A metric is ``{"mean", "ci95", "n"}`` over films. ``levels``: values of each
        level, and ``psnr``, ``ssim`` and ``ms_ssim`` of what is reconstructed from it and those above.
        ``bits_per_pixel``: of :func:`bits_per_level`, for films in 8 bits. ``codecs``: bits per pixel of lossless
        codecs for the same films.

    Raises:
        InputError: fewer than two films, of which no spread can be told.
    """
    if len(films) < 2:
        raise InputError("an evaluation needs at least two films")
    n, device = len(films), network.lapping.device
    bootstrap, noise = Bootstrap(n, seed=seed), torch.Generator().manual_seed(seed)
    with Progress("evaluating films", n) as bar:
        for start in range(0, n, batch_size):
            x = films[start : start + batch_size]
            measured: dict[str, Tensor] = {}
            for k, name in enumerate(LEVELS, 1):
                made = network.reconstruct_from(x.to(device), k).cpu()
                measured |= {f"{name} {metric}": function(made, x) for metric, function in _METRICS.items()}
            grey = (x * GREY_LEVELS).round()  # what codecs are given: 8 bits
            bits = bits_per_level(network, grey / GREY_LEVELS, noise)
            measured |= bits
            pixels = [film.numpy() for film in grey[:, 0].byte()]
            for name, encode in _CODECS.items():
                measured[name] = torch.tensor([8 * len(encode(film)) / film.size for film in pixels])
            bootstrap.add(measured)
            bar.update(len(x))

    sizes = [part[0].numel() for part in network.split(torch.zeros(1, network.latent_size))]
    levels: dict[str, Any] = {}
    for name, values in zip(LEVELS, sizes, strict=True):
        found = {metric: f"{name} {metric}" for metric in _METRICS if f"{name} {metric}" in bootstrap}
        levels[name] = {"values": values} | {metric: bootstrap.summary(of) for metric, of in found.items()}
    result: dict[str, Any] = {
        "n": n,
        "image_size": films[:1].shape[-1],
        "levels": levels,
        "bits_per_pixel": {name: bootstrap.summary(name) for name in bits},
        "codecs": {name: bootstrap.summary(name) for name in _CODECS},
    }
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_whole(output_dir / "evaluation.json", f"{json.dumps(result, indent=1)}\n".encode())
    return result


@torch.no_grad()
def bits_per_level(
    network: HierarchicalVAE, films: Tensor, generator: torch.Generator, evaluations: int = 8
) -> dict[str, Tensor]:
    """Negative evidence lower bound of 8-bit films in bits per pixel, and how it divides over the levels.

    The rounding of the films is undone by uniform noise, after which the density of the noisy film bounds the
    probability of the film (Theis, van den Oord and Bethge 2016), comparable with the size of a lossless code. The
    transform is orthogonal, so the density is that of its coefficients: each level's prior given the levels above.
    Codes are drawn from their posterior and cost their KL divergence from the prior.

    Args:
        network: in evaluation mode.
        films: ``(N, 1, S, S)``, 8-bit grey levels divided by 255.
        generator: of all noise.
        evaluations: of a flow for each film, spread evenly over the logarithm of its signal-to-noise ratio. The
            estimate has no bias; more make it vary less.

    Returns:
        ``codes``, ``film``, ``details`` and their sum ``bits``, each ``(N,)``; ``film_normal``, ``details_normal`` and
        ``bits_normal`` with the levels' conditional normals in place of the flows.
    """
    device, pixels = network.lapping.device, network.image_size**2
    noisy = films + (torch.rand(films.shape, generator=generator) - 0.5) / GREY_LEVELS
    mu, logvar = (part[:, : network.code_size] for part in network.encode(films.to(device)))
    _, film, details = network.split(network.encode(noisy.to(device))[0])
    epsilon = torch.randn(mu.shape, generator=generator).to(device)
    codes = mu + (0.5 * logvar).exp() * epsilon
    entropy = 0.5 * (math.log(2 * math.pi) + logvar + epsilon.square()).sum(1)  # -log q of this draw

    scale = torch.linalg.diagonal(network.code_flow.root).log().sum()
    nats = {
        "codes": _flow_nats(network.code_flow, network.code_flow.standardize(codes), evaluations, generator)
        + scale
        - entropy
    }
    for name, level, latents, above in (
        ("film", network.film, film, network.outline(codes)),
        ("details", network.details, details, film),
    ):
        mean, spread = level.normal(above)
        normal = 0.5 * (math.log(2 * math.pi) + spread + (latents - mean).square() / spread.exp())
        condition = level.condition(above)
        velocity = partial(_velocity_given, level, condition)
        gained = _flow_gain(velocity, level.standardize(latents, above), evaluations, generator)
        nats[name] = -level.log_density(latents, above).flatten(1).sum(1) - gained
        nats[f"{name}_normal"] = normal.flatten(1).sum(1)
    # A density of intensities in [0, 1] is one of grey levels times their number; codes have no pixels.
    levels = math.log(GREY_LEVELS)
    shares = {"film": film[0].numel() * levels, "details": details[0].numel() * levels}
    shares |= {f"{name}_normal": value for name, value in shares.items()}
    bits = {name: (value + shares.get(name, 0.0)) / (pixels * math.log(2)) for name, value in nats.items()}
    bits["bits"] = bits["codes"] + bits["film"] + bits["details"]
    bits["bits_normal"] = bits["codes"] + bits["film_normal"] + bits["details_normal"]
    return {name: value.cpu() for name, value in bits.items()}


def _velocity_given(level: Level, condition: Tensor, x: Tensor, time: Tensor) -> Tensor:
    return level.flow(x, condition, time)


def _flow_nats(
    velocity: Callable[[Tensor, Tensor], Tensor], latents: Tensor, evaluations: int, generator: torch.Generator
) -> Tensor:
    """Bound of ``-log p`` of standardised latents ``(N, ...)``, ``(N,)``."""
    normal = 0.5 * (math.log(2 * math.pi) + latents.square()).flatten(1).sum(1)
    return normal - _flow_gain(velocity, latents, evaluations, generator)


def _flow_gain(
    velocity: Callable[[Tensor, Tensor], Tensor], latents: Tensor, evaluations: int, generator: torch.Generator
) -> Tensor:
    """By how many nats a flow's bound is below the standard normal's, ``(N,)``; see `flow_bound_weight`."""
    gain = torch.zeros(len(latents), device=latents.device)
    width = 2 * _LOGIT / evaluations
    for k in range(evaluations):
        place = torch.rand(len(latents), generator=generator)
        time = torch.sigmoid(-_LOGIT + width * (k + place)).to(latents.device)
        noise = torch.randn(latents.shape, generator=generator).to(latents.device)
        x, target = interpolate(latents, noise, time), latents - noise
        less = flow_loss(linear_velocity(x, time), target) - flow_loss(velocity(x, time), target)
        # d time = time * (1 - time) * d logit
        gain += width * flow_bound_weight(time) * time * (1 - time) * less * latents[0].numel()
    return gain
