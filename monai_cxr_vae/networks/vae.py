"""The variational autoencoder with one latent vector per film: principal components, bent."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from monai_cxr_vae.networks.base import AnyVAE, check_films
from monai_cxr_vae.networks.blocks import (
    ResidualBlock,
    ResidualMLP,
    Warp,
    bound_logvar,
    downsample,
    group_norm,
    unbound_logvar,
    upsample_bicubic,
    zero,
)
from monai_cxr_vae.networks.components import Films, Formed, principal_components

__all__ = ["VAE"]

_INITIAL_LOGVAR = -2.0


class VAE(AnyVAE):
    """VAE with a latent vector of ``latent_size`` values.

    The decoder makes a film from a linear map of the latents, bends it by a smooth displacement field, scales its
    local contrast, and adds a second linear map: chests differ most in where things lie, and a displaced rib costs a
    linear code many components but a bent one few (deforming autoencoders: Shu et al. 2018).
    The encoder makes a first guess (a linear map and a multilayer perceptron), decodes it, and corrects it by
    convolutions over the film and what the guess left over.

    `initialize_linear` sets the linear maps to the principal components of films and silences the rest, so training
    starts from PCA.

    Args:
        image_size: side of the square film in pixels, a multiple of 8 and of ``4 * 2 ** (len(channels) - 1)``.
        latent_size: number of latent values.
        channels: convolution channels per level, from the finest grid (``image_size / 4``) to the coarsest.
        width: units per layer of the perceptrons.

    Raises:
        ValueError: an argument out of range, or an input that is not ``(N, 1, image_size, image_size)``.
    """

    def __init__(
        self,
        image_size: int,
        latent_size: int,
        channels: Sequence[int] = (16, 32),
        width: int = 320,
    ) -> None:
        super().__init__()
        channels = tuple(channels)
        if not channels or min(channels) < 1 or latent_size < 1 or width < 1:
            raise ValueError("latent_size, width and all channels must be positive")
        stride = 4 * 2 ** max(len(channels) - 1, 1)
        if image_size < stride or image_size % stride:
            raise ValueError(f"image_size {image_size} is not a multiple of {stride}")
        self.image_size = int(image_size)
        self.latent_size = int(latent_size)
        self.latent_shape = (self.latent_size,)
        self.gain_grid = image_size // 8
        pixels = image_size**2

        self.linear_encoder = nn.Linear(pixels, latent_size)
        # The perceptron and the last linear correction need coarse films only, and large maps fill the weights file.
        factor = max(1, image_size // 64)
        self.coarse = nn.AvgPool2d(factor) if factor > 1 else nn.Identity()
        coarse_pixels = (image_size // factor) ** 2
        self.linear_features = nn.Linear(coarse_pixels, width)
        self.guess = nn.Sequential(nn.Linear(width, width), ResidualMLP(width), nn.LayerNorm(width))
        self.guess_head = nn.Linear(width, latent_size)
        levels: list[nn.Module] = [nn.PixelUnshuffle(4), nn.Conv2d(32, channels[0], 3, padding=1)]
        for i, size in enumerate(channels):
            if i:
                levels.append(downsample(channels[i - 1], size))
            levels.append(ResidualBlock(size))
        cells = channels[-1] * (image_size // (4 * 2 ** (len(channels) - 1))) ** 2
        self.look = nn.Sequential(*levels, group_norm(channels[-1]), nn.SiLU(), nn.Flatten(), nn.Linear(cells, width))
        self.correct = nn.Sequential(ResidualMLP(width), nn.LayerNorm(width))
        self.linear_correct = nn.Linear(coarse_pixels, latent_size, bias=False)
        self.mu_head = nn.Linear(width, latent_size)
        self.logvar_head = nn.Linear(width, latent_size)
        nn.init.zeros_(self.logvar_head.weight)
        self.logvar_head.bias.data.fill_(unbound_logvar(torch.tensor(_INITIAL_LOGVAR)))

        self.linear_decoder = nn.Linear(latent_size, pixels)
        self.linear_addition = nn.Linear(latent_size, pixels, bias=False)
        zero(self.linear_addition)
        self.express = nn.Sequential(nn.Linear(latent_size, width), ResidualMLP(width), nn.LayerNorm(width))
        self.warp = Warp(image_size, image_size // 4)
        self.field_head = nn.Linear(width, 2 * self.warp.grid**2)
        self.gain_head = nn.Linear(width, self.gain_grid**2)
        zero(self.field_head)
        zero(self.gain_head)

    @torch.jit.export
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Films ``(N, 1, S, S)`` to the posterior's ``(mu, logvar)``, each ``(N, latent_size)``."""
        check_films(x, self.image_size)
        flat = x.flatten(1)
        features = self.guess(self.linear_features(self.coarse(x).flatten(1)))
        mu = self.linear_encoder(flat) + self.guess_head(features)
        # What the guess leaves over is an observation; the gradient need not pass through it.
        left = (x - self.decode(mu.detach())).detach()
        features = self.correct(features + self.look(torch.cat([4 * x - 2, 20.0 * left], 1)))
        mu = mu + self.linear_correct(self.coarse(left).flatten(1)) + self.mu_head(features)
        return mu, bound_logvar(self.logvar_head(features))

    @torch.jit.export
    def decode(self, z: Tensor) -> Tensor:
        """Latents ``(N, latent_size)`` to films ``(N, 1, S, S)``, about [0, 1], not clamped."""
        size = self.image_size
        features = self.express(z)
        # The factors bring what the heads give to its usual size, so that one learning rate suits them all.
        film = self.linear_decoder(z).view(-1, 1, size, size)
        film = self.warp(film, 0.025 * self.field_head(features))
        gain = self.gain_head(features).view(-1, 1, self.gain_grid, self.gain_grid)
        film = film * (1 + 0.2 * upsample_bicubic(gain, size))
        return film + self.linear_addition(z).view(-1, 1, size, size)

    @torch.jit.unused
    @torch.no_grad()
    def initialize_linear(self, images: Films) -> None:
        """Start from PCA: the model reconstructs as the leading principal components of ``images`` do.

        Every latent has unit variance over ``images`` and the posterior variance is that of probabilistic PCA (Tipping
        and Bishop 1999). With fewer films than latents the latents that are left over start at zero.

        Args:
            images: ``(N, 1, S, S)`` in [0, 1], at least two films, read in parts; of more than 5,000 that many, evenly
                chosen.

        Raises:
            ValueError: fewer than two films.
        """
        if len(images) < 2:
            raise ValueError("principal components need at least two films")
        width, coarsened = self.linear_features.out_features, not isinstance(self.coarse, nn.Identity)
        found = principal_components(images, self.latent_size if coarsened else max(self.latent_size, width))
        mean, variance = found.mean, found.variance[: self.latent_size]
        components = found.directions[:, : self.latent_size]

        for layer in (self.guess_head, self.linear_correct, self.mu_head, self.logvar_head):
            zero(layer)
        for layer in (self.field_head, self.gain_head, self.linear_addition, self.linear_encoder, self.linear_decoder):
            zero(layer)
        k, deviation = len(variance), variance.sqrt()
        rest = (found.total - variance.sum()).clamp(min=0) / len(mean)
        _set(self.linear_encoder, components.T / deviation[:, None], -(mean @ components) / deviation)
        self.linear_decoder.weight[:, :k] = (components * deviation).to(self.linear_decoder.weight)
        self.linear_decoder.bias.copy_(mean)
        self.logvar_head.bias[:k] = unbound_logvar((rest / (variance + rest)).log()).to(self.logvar_head.bias)
        # The perceptron sees the components nearly whitened.
        if coarsened:
            found = principal_components(Formed(images, self.coarse), width)
        variance, components = found.variance[:width], found.directions[:, :width]
        deviation = (variance + variance[-1]).sqrt()
        _set(self.linear_features, components.T / deviation[:, None], -(found.mean @ components) / deviation)


def _set(layer: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """Set the first rows of a linear layer."""
    layer.weight[: len(weight)] = weight.to(layer.weight)
    layer.bias[: len(bias)] = bias.to(layer.bias)
