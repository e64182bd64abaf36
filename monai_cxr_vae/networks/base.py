"""What all VAE networks share: the two forms of the forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from monai_cxr_vae.networks.components import Films


class AnyVAE(nn.Module):
    """A VAE for square grey films, whatever the shape of its latents.

    Films are ``(N, 1, image_size, image_size)`` float tensors in [0, 1]; the output is linear, so a reconstruction may
    leave that range slightly: clamp it for display and metrics only. Latents are ``(N, *latent_shape)``,
    ``latent_size`` values per film; their prior is the standard normal unless the network learns one.

    In ``train()`` mode `forward` returns ``(reconstruction, mu, logvar)`` of a sampled latent, drawn from torch's
    global generator, and a network that learns a prior adds ``prior_mu`` and ``prior_logvar``. In ``eval()`` mode it
    returns the reconstruction from the posterior mean alone, which is deterministic; ``torch.jit.script`` keeps that
    form together with `encode`, `decode` and `reconstruct`.
    """

    learns_prior = False

    if TYPE_CHECKING:  # TorchScript would read these annotations, and cannot
        image_size: int
        latent_size: int
        latent_shape: tuple[int, ...]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Films ``(N, 1, S, S)`` to the posterior's ``(mu, logvar)``, each ``(N, *latent_shape)``."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """Latents ``(N, *latent_shape)`` to films ``(N, 1, S, S)``, about [0, 1], not clamped."""
        raise NotImplementedError

    @torch.jit.unused
    def initialize_linear(self, images: Films) -> None:
        """Start from principal components of ``images``, ``(N, 1, S, S)`` in [0, 1]."""
        raise NotImplementedError

    @torch.jit.unused
    def prior(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the prior of latents ``z``, each of its shape: of a level, given those above it."""
        return torch.zeros_like(z), torch.zeros_like(z)

    @torch.jit.unused
    def sample_latents(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw latents ``(n, *latent_shape)`` from the prior; ``generator`` is of the CPU."""
        device = next(self.parameters()).device
        return torch.randn(n, *self.latent_shape, generator=generator).to(device)

    @torch.jit.export
    def reconstruct(self, x: Tensor) -> Tensor:
        """Films to their reconstructions from the posterior mean, ``(N, 1, S, S)``, not clamped."""
        return self.decode(self.encode(x)[0])

    def forward(self, x: Tensor):
        """``(reconstruction, mu, logvar)`` with a sampled latent when training, else the reconstruction alone."""
        if torch.jit.is_scripting() or not self.training:
            return self.reconstruct(x)
        mu, logvar = self.encode(x)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return self.decode(z), mu, logvar


def check_films(x: Tensor, size: int) -> None:
    """Refuse what is not ``(N, 1, size, size)``."""
    if x.dim() != 4 or x.size(1) != 1 or x.size(2) != size or x.size(3) != size:
        raise ValueError(f"expected films of shape (N, 1, {size}, {size}), got {x.shape}")
