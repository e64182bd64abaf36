"""The variational autoencoder with one latent vector per film."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .blocks import ResidualBlock, bound_logvar, downsample, group_norm, unbound_logvar, upsample

__all__ = ["VAE"]

_INITIAL_LOGVAR = -2.0


class VAE(nn.Module):
    """Convolutional VAE for square grey films, with a linear path beside the convolutions.

    Films are ``(N, 1, image_size, image_size)`` float tensors in [0, 1]; the output head is linear, so a reconstruction
    may leave that range slightly: clamp it for display and metrics only. The latent vector has ``latent_size`` values,
    its prior is the standard normal.

    The linear path is a linear map in the encoder and one in the decoder. `initialize_linear` sets them to the
    principal components of films, so that training starts from PCA and the convolutions learn what is left.

    In ``train()`` mode `forward` returns ``(reconstruction, mu, logvar)`` of a sampled latent, drawn from torch's
    global generator. In ``eval()`` mode it returns the reconstruction from the posterior mean alone, which is
    deterministic; ``torch.jit.script`` keeps that form together with `encode`, `decode` and `reconstruct`.

    Args:
        image_size: side of the square film in pixels, a multiple of ``patch_size * 2 ** (len(channels) - 1)``.
        latent_size: number of latent values.
        channels: convolution channels per level, from the finest grid (``image_size / patch_size``) to the coarsest.
        blocks: residual blocks per level in the encoder and again in the decoder.
        patch_size: side of the pixel blocks that become channels in front of the first convolution.
        linear: have the linear path.

    Raises:
        ValueError: an argument out of range, or an input that is not ``(N, 1, image_size, image_size)``.
    """

    def __init__(
        self,
        image_size: int,
        latent_size: int,
        channels: Sequence[int] = (64, 128, 256),
        blocks: int = 1,
        patch_size: int = 4,
        linear: bool = True,
    ) -> None:
        super().__init__()
        channels = tuple(int(c) for c in channels)
        if not channels or min(channels) < 1 or latent_size < 1 or blocks < 0 or patch_size < 1:
            raise ValueError("channels, latent_size and patch_size must be positive, blocks not negative")
        stride = patch_size * 2 ** (len(channels) - 1)
        if image_size < stride or image_size % stride:
            raise ValueError(f"image_size {image_size} is not a multiple of {stride} (patch size and channels)")
        self.image_size = int(image_size)
        self.latent_size = int(latent_size)
        grid = image_size // stride
        pixels = image_size**2

        levels: list[nn.Module] = [nn.PixelUnshuffle(patch_size), nn.Conv2d(patch_size**2, channels[0], 3, padding=1)]
        for i, width in enumerate(channels):
            if i:
                levels.append(downsample(channels[i - 1], width))
            levels += [ResidualBlock(width) for _ in range(blocks)]
        self.encoder = nn.Sequential(*levels, group_norm(channels[-1]), nn.SiLU(), nn.Flatten())
        self.mu_head = nn.Linear(channels[-1] * grid**2, latent_size)
        self.logvar_head = nn.Linear(channels[-1] * grid**2, latent_size)
        nn.init.zeros_(self.logvar_head.weight)
        nn.init.constant_(self.logvar_head.bias, float(unbound_logvar(torch.tensor(_INITIAL_LOGVAR))))

        levels = [nn.Linear(latent_size, channels[-1] * grid**2), nn.Unflatten(1, (channels[-1], grid, grid))]
        for i in reversed(range(len(channels))):
            levels += [ResidualBlock(channels[i]) for _ in range(blocks)]
            if i:
                levels.append(upsample(channels[i], channels[i - 1]))
        self.decoder = nn.Sequential(*levels, group_norm(channels[0]), nn.SiLU())
        self.image_head = nn.Conv2d(channels[0], patch_size**2, 3, padding=1)
        self.to_pixels = nn.PixelShuffle(patch_size)

        self.linear_encoder = nn.Linear(pixels, latent_size) if linear else None
        self.linear_decoder = nn.Linear(latent_size, pixels) if linear else None

    @torch.jit.export
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Films ``(N, 1, S, S)`` to the posterior's ``(mu, logvar)``, each ``(N, latent_size)``."""
        if x.dim() != 4 or x.size(1) != 1 or x.size(2) != self.image_size or x.size(3) != self.image_size:
            raise ValueError(f"expected films of shape (N, 1, {self.image_size}, {self.image_size}), got {x.shape}")
        features = self.encoder(4.0 * x - 2.0)
        mu = self.mu_head(features)
        if self.linear_encoder is not None:
            mu = mu + self.linear_encoder(x.flatten(1))
        return mu, bound_logvar(self.logvar_head(features))

    @torch.jit.export
    def decode(self, z: Tensor) -> Tensor:
        """Latents ``(N, latent_size)`` to films ``(N, 1, S, S)``, about [0, 1], not clamped."""
        image = self.to_pixels(self.image_head(self.decoder(z)))
        if self.linear_decoder is not None:
            image = image + self.linear_decoder(z).view_as(image)
        return image

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

    @torch.jit.unused
    @torch.no_grad()
    def initialize_linear(self, images: Tensor) -> None:
        """Start from PCA: the model reconstructs as the leading principal components of ``images`` do.

        Every latent has unit variance over ``images``, the posterior variance is that of probabilistic PCA (Tipping
        and Bishop 1999), and the heads of the convolutional paths are set to zero. With fewer films than latents the
        latents that are left over start at zero.

        Args:
            images: ``(N, 1, S, S)`` in [0, 1], at least two films; a few thousand are a good sample.

        Raises:
            ValueError: the network has no linear path, or there are fewer than two films.
        """
        if self.linear_encoder is None or self.linear_decoder is None:
            raise ValueError("the network was built without a linear path")
        if len(images) < 2:
            raise ValueError("principal components need at least two films")
        flat = images.flatten(1).double()
        mean = flat.mean(0)
        centred = flat - mean
        k = min(self.latent_size, len(flat) - 1, flat.shape[1])
        # The smaller of covariance and Gram matrix has the same leading eigenvalues.
        if len(flat) > flat.shape[1]:
            values, vectors = torch.linalg.eigh(centred.T @ centred)
            values, components = values.flip(0)[:k], vectors.flip(1)[:, :k]
        else:
            values, vectors = torch.linalg.eigh(centred @ centred.T)
            values, vectors = values.flip(0)[:k], vectors.flip(1)[:, :k]
            components = centred.T @ vectors / values.clamp(min=1e-12).sqrt()
        variance = (values / (len(flat) - 1)).clamp(min=1e-12)
        left = (centred.square().sum() / (len(flat) - 1) - variance.sum()).clamp(min=0) / flat.shape[1]
        deviation = variance.sqrt()

        for linear in (self.linear_encoder, self.linear_decoder):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        self.linear_encoder.weight[:k] = (components / deviation).T.to(self.linear_encoder.weight)
        self.linear_encoder.bias[:k] = (-(mean @ components) / deviation).to(self.linear_encoder.bias)
        self.linear_decoder.weight[:, :k] = (components * deviation).to(self.linear_decoder.weight)
        self.linear_decoder.bias.copy_(mean)
        for head in (self.mu_head, self.logvar_head, self.image_head):
            for parameter in head.parameters():
                nn.init.zeros_(parameter)
        self.logvar_head.bias[:k] = unbound_logvar((left / (variance + left)).log()).to(self.logvar_head.bias)
