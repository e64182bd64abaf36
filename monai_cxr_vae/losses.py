"""KL divergence, mean squared error, and the weight that joins them."""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Half a grey level of an 8-bit film: below it lambda would follow rounding, not the films.
MINIMUM_MSE = (0.5 / 255) ** 2


def kl_divergence(
    mu: Tensor, logvar: Tensor, prior_mu: Tensor | None = None, prior_logvar: Tensor | None = None
) -> Tensor:
    """KL divergence of N(mu, exp(logvar)) from a prior in nats, summed over the latents.

    From N(0, I) it is ``L_kl = -0.5 * sum(1 + log sigma^2 - mu^2 - sigma^2)`` (Kingma and Welling 2014, appendix B),
    from another diagonal normal the same of what that one standardises. Computed in float32 also under autocast, where
    the exponential of a half-precision number overflows.

    Args:
        mu: means, ``(N, ...)``.
        logvar: logarithms of the variances, same shape.
        prior_mu, prior_logvar: of the prior, same shape; None for N(0, I).

    Returns:
        ``(N,)`` float32, nats per image, never negative up to rounding.
    """
    mu, logvar = mu.float(), logvar.float()
    if prior_mu is not None and prior_logvar is not None:
        mu = (mu - prior_mu.float()) * torch.exp(-0.5 * prior_logvar.float())
        logvar = logvar - prior_logvar.float()
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).flatten(1).sum(1)


def flow_loss(velocity: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of a rectified flow's velocity per film (Liu, Gong and Liu 2023).

    Args:
        velocity: what a network tells, ``(N, ...)``.
        target: latents minus noise, same shape.

    Returns:
        ``(N,)`` float32, squared units of the latents.
    """
    return (velocity.float() - target.float()).square().flatten(1).mean(1)


def flow_bound_weight(time: Tensor) -> Tensor:
    """Weight of the squared error of a velocity at a time, in the bound of a flow's density, ``t / (1 - t)``.

    A rectified flow is a diffusion whose latents have a signal-to-noise ratio of ``(t / (1 - t)) ** 2``, and the bound
    of a diffusion is half the integral of the squared error of the latents over that ratio (Kingma et al. 2021,
    "Variational diffusion models"). For latents that are standard normal the integral is exact, so the bound of a flow
    is the density of the standard normal, less what its velocity errs less than `linear_velocity` does:
    ``-log p(u) <= -log N(u; 0, I) - integral of t / (1 - t) * (|v - v_linear|^2 - |v - v_flow|^2) dt``.

    Args:
        time: in [0, 1), 0 for noise.

    Returns:
        At least 0, in the shape of ``time``.
    """
    return time / (1 - time)


def mean_squared_error(reconstruction: Tensor, image: Tensor) -> Tensor:
    """Mean squared error per image: ``1 / (W * H) * sum((R - P)^2)``.

    Args:
        reconstruction: ``(N, C, H, W)``, unbounded.
        image: ``(N, C, H, W)``, intensities in [0, 1].

    Returns:
        ``(N,)`` float32, squared intensity.
    """
    return (reconstruction.float() - image.float()).square().flatten(1).mean(1)


class VAELoss(nn.Module):
    """``MSE + beta * lambda * L_kl``, handed to the optimiser in nats.

    With ``kl_weight="auto"`` ``lambda = 2 * MSE / (W * H * C)`` with the batch's own, detached MSE: the weight of the
    VAE whose Gaussian decoder has the variance that the films ask for (Rybkin et al., "Simple and effective VAE
    training with calibrated decoders", ICML 2021), right for every image size and every stage of a training.
    A number is taken as it is.

    ``forward`` returns the loss divided by lambda, ``MSE / lambda + beta * L_kl``: the same direction, in nats, so that
    a gradient norm means the same at every size. ``terms`` holds the last batch's parts as they are reported.

    Args:
        kl_weight: ``"auto"`` or a positive number.
        beta: factor of the KL term; 1 is the evidence lower bound. Raised from a small value during a warm-up.

    Raises:
        ValueError: ``kl_weight`` is neither ``"auto"`` nor positive.
    """

    def __init__(self, kl_weight: float | Literal["auto"] = "auto", beta: float = 1.0) -> None:
        super().__init__()
        if kl_weight != "auto" and not (isinstance(kl_weight, int | float) and 0 < kl_weight < float("inf")):
            raise ValueError(f'kl_weight must be "auto" or a positive number, not {kl_weight!r}')
        self.kl_weight = kl_weight
        self.beta = beta
        self.terms: dict[str, Tensor] = {}

    def set_beta(self, beta: float) -> None:
        """Set the factor of the KL term (the warm-up's target)."""
        self.beta = beta

    def last_terms(self, _: object = None) -> dict[str, float]:
        """The parts of the last batch's loss as numbers, for handlers that take a function of the engine's output."""
        return {name: float(value) for name, value in self.terms.items()}

    def forward(self, prediction: tuple[Tensor, ...], image: Tensor) -> Tensor:
        """Loss in nats, a scalar.

        Args:
            prediction: ``(reconstruction, mu, logvar)``, the network's output in training mode; a network with a
                learned prior adds ``prior_mu`` and ``prior_logvar``.
            image: ``(N, C, H, W)`` in [0, 1].

        Returns:
            A scalar, mean over the films.
        """
        reconstruction, *latents = prediction
        mse = mean_squared_error(reconstruction, image).mean()
        kl = kl_divergence(*latents).mean()
        if self.kl_weight == "auto":
            weight = 2 * _mean_over_ranks(mse.detach()).clamp(min=MINIMUM_MSE) / image[0].numel()
        else:
            weight = torch.as_tensor(float(self.kl_weight), device=mse.device)
        # Tensors, not numbers: reading a number from an accelerator waits for it.
        self.terms = {
            "loss": mse.detach() + self.beta * weight * kl.detach(),
            "mse": mse.detach(),
            "kl": kl.detach(),
            "lambda": weight,
            "sigma": (weight * image[0].numel() / 2).sqrt(),
            "beta": torch.tensor(float(self.beta)),
        }
        return mse / weight + self.beta * kl


def collapse_limit(images: Tensor) -> float:
    """Largest KL weight at which a VAE can still use its latents on these films.

    A VAE with decoder variance ``w * N / 2`` (N values per image) keeps only the directions whose variance is larger;
    above the largest eigenvalue of the data's covariance every latent is ignored (arXiv:2510.01621).

    Args:
        images: ``(n, C, H, W)`` in [0, 1]; a thousand films are plenty.

    Returns:
        ``2 * largest eigenvalue / N``.
    """
    rows = images.flatten(1).double()
    rows = rows - rows.mean(0)
    gram = rows @ rows.T / max(len(rows) - 1, 1)  # n x n: the same nonzero eigenvalues as the covariance
    return 2 * torch.linalg.eigvalsh(gram)[-1].item() / rows.shape[1]


def _mean_over_ranks(value: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        value = value.clone()
        dist.all_reduce(value)
        value /= dist.get_world_size()
    return value
