"""Metrics of a validation pass, one value per film, gathered over ranks by MONAI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.handlers import IgniteMetricHandler
from monai.metrics import CumulativeIterationMetric
from torch import Tensor

from monai_cxr_vae.losses import kl_divergence
from monai_cxr_vae.metrics import active_units, peak_signal_to_noise_ratio, structural_similarity
from monai_cxr_vae.networks import AnyVAE

Output = dict[str, Tensor]


def _kl(output: Output) -> Tensor:
    return kl_divergence(output["mu"], output["logvar"], output["prior_mu"], output["prior_logvar"])


def psnr() -> IgniteMetricHandler:
    """Mean over films of the PSNR in dB, padding left out."""
    return film_values(lambda o: peak_signal_to_noise_ratio(o["pred"], o["image"], o["mask"]))


def ssim() -> IgniteMetricHandler:
    """Mean over films of the structural similarity, padding left out."""
    return film_values(lambda o: structural_similarity(o["pred"], o["image"], o["mask"]), Tensor.nanmean)


def kl() -> IgniteMetricHandler:
    """Mean over films of the KL divergence in nats."""
    return film_values(_kl)


def key_metric(network: AnyVAE) -> dict[str, IgniteMetricHandler]:
    """What tells which epoch's weights are the best, greater is better.

    PSNR; but the negative KL divergence where what the latents of the last level hold is given and all of the film: of
    such a network only the priors learn.
    """
    if network.learns_prior:
        return {"negative_kl": film_values(lambda o: -_kl(o))}
    return {"psnr": psnr()}


def active() -> IgniteMetricHandler:
    """Number of active units over all validation films, of which only sums are kept: a grid has many latents."""
    return film_values(lambda o: _sums(o["mu"]), _active_units)


def _sums(mu: Tensor) -> Tensor:
    """Number, sum and sum of squares of each latent in a batch ``(N, ...)``, ``(1, 3, latents)``."""
    rows = mu.double().flatten(1)
    return torch.stack([torch.full_like(rows[0], len(rows)), rows.sum(0), rows.square().sum(0)])[None]


def _active_units(sums: Tensor) -> Tensor:
    n, total, squares = sums.sum(0)
    return active_units(total / n, squares / n, n).float()


class _FilmValues(CumulativeIterationMetric):
    """Keeps what it is given, over all batches and ranks, and reduces it in the end."""

    def __init__(self, reduction: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.reduction = reduction

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        return y_pred

    def aggregate(self) -> Tensor:
        return self.reduction(self.get_buffer())


def film_values(
    per_film: Callable[[Output], Tensor], reduction: Callable[[Tensor], Tensor] = Tensor.mean
) -> IgniteMetricHandler:
    return IgniteMetricHandler(
        _FilmValues(reduction), output_transform=lambda o: (per_film(o), None), save_details=False
    )
