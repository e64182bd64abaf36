"""The variational autoencoder with a grid of latents: a lapped transform with bases per region, and corrections."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor, nn

from monai_cxr_vae.networks.base import AnyVAE, check_films
from monai_cxr_vae.networks.blocks import ResidualBlock, bound_logvar, group_norm, unbound_logvar, zero
from monai_cxr_vae.networks.components import MOST_FILMS, Films, parts

__all__ = ["SpatialVAE"]

_INITIAL_LOGVAR = -2.0
_CHUNK = 64  # films at a time in the passes of the linear start


class SpatialVAE(AnyVAE):
    """VAE with ``image_size / stride`` squared cells of latents, for reconstructions that look like the film.

    The encoder takes the film through a lapped orthogonal transform (Malvar and Staelin 1989) into overlapping blocks,
    one per cell, and these through principal components. Blocks at like places of the chest share their components
    (``groups`` sets of them), and each place keeps as many as it needs: a dark corner few, a shoulder many. The decoder
    is the transpose. Beside this linear code convolutions correct the film before the encoder and after the decoder.

    `initialize_linear` sets the linear code from films and silences the corrections, so training starts from principal
    components. What is common to all films of a place is learned, so a network is for films of its own ``image_size``.

    The latents of a cell are its leading components in order. A place that keeps more than ``C`` of them has the rest
    in the last channels of cells that keep fewer.

    Args:
        image_size: side of the square film in pixels, a multiple of ``stride`` and of 8.
        latent_size: number of latent values, a multiple of the number of cells: ``C`` for each of them.
        channels: of the convolutions that correct, one block for each.
        stride: side of a cell in pixels, even.
        groups: sets of components.

    Raises:
        ValueError: an argument out of range, or an input that is not ``(N, 1, image_size, image_size)``.
    """

    if TYPE_CHECKING:  # TorchScript would read these annotations, and cannot
        lapping: Tensor
        order: Tensor
        bounds: Tensor
        kept: Tensor
        deviation: Tensor

    def __init__(
        self,
        image_size: int,
        latent_size: int,
        channels: Sequence[int] = (32,),
        stride: int = 32,
        groups: int = 8,
    ) -> None:
        super().__init__()
        if not channels or min(*channels, latent_size, stride, groups) < 1:
            raise ValueError("latent_size, stride, groups and all channels must be positive")
        if stride % 2 or image_size < stride or image_size % math.lcm(stride, 8):
            raise ValueError(f"image_size {image_size} is not a multiple of 8 and of an even stride ({stride})")
        grid = image_size // stride
        if latent_size % grid**2 or latent_size > image_size**2:
            raise ValueError(
                f"latent_size {latent_size} is not a multiple of the {grid} x {grid} cells, or more than the pixels"
            )
        self.image_size, self.latent_size, self.stride = int(image_size), int(latent_size), int(stride)
        self.latent_shape = (latent_size // grid**2, grid, grid)
        self.cells, self.groups = grid**2, min(groups, grid**2)
        pixels = stride**2
        # The most that one place can keep; further ones would hardly be used and fill the weights file.
        self.components = min(pixels, max(512, self.latent_shape[0]), 4 * self.latent_shape[0])

        self.register_buffer("lapping", lapped_transform(image_size, stride), persistent=False)
        self.linear_mean = nn.Parameter(torch.full((1, image_size, image_size), 0.5))
        # Components times the stride: entries about 1, so that an optimiser's steps suit them.
        self.linear_components = nn.Parameter(torch.randn(self.groups, self.components, pixels))
        # Cells in order of their group, where each group begins, and what is kept of (cell in that order, component).
        self.register_buffer("order", torch.arange(self.cells))
        self.register_buffer("bounds", torch.arange(self.groups + 1) * self.cells // self.groups)
        cell, component = torch.meshgrid(torch.arange(self.cells), torch.arange(self.latent_shape[0]), indexing="ij")
        self.register_buffer("kept", (cell * self.components + component % self.components).T.flatten())
        self.register_buffer("deviation", torch.ones(latent_size))
        self.linear_gain_encoder = nn.Parameter(torch.ones(latent_size))
        self.linear_gain_decoder = nn.Parameter(torch.ones(latent_size))
        self.logvar = nn.Parameter(unbound_logvar(torch.full((latent_size,), _INITIAL_LOGVAR)))
        self.correct_film = _Correction(2, channels)
        self.correct_reconstruction = _Correction(1, channels)

    @torch.jit.export
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Films ``(N, 1, S, S)`` to the posterior's ``(mu, logvar)``, each ``(N, C, S / stride, S / stride)``."""
        check_films(x, self.image_size)
        # What the linear code leaves over is an observation; the gradient need not pass through it.
        left = (x - self._synthesis(self._analysis(x))).detach()
        mu = self._analysis(x + self.correct_film(torch.cat([4 * x - 2, 20.0 * left], 1)))
        shape = [x.size(0), self.latent_shape[0], self.latent_shape[1], self.latent_shape[2]]
        return mu.view(shape), bound_logvar(self.logvar).expand_as(mu).view(shape)

    @torch.jit.export
    def decode(self, z: Tensor) -> Tensor:
        """Latents ``(N, C, S / stride, S / stride)`` to films ``(N, 1, S, S)``, about [0, 1], not clamped."""
        film = self._synthesis(z.flatten(1))
        return film + self.correct_reconstruction(4 * film - 2)

    def _analysis(self, x: Tensor) -> Tensor:
        """Films to the latents of the linear code, ``(N, latent_size)``."""
        blocks = self._blocks(x)[self.order].split_with_sizes(self._sizes())
        components = (self.linear_components / self.stride).unbind()
        parts = [part @ component.t() for part, component in zip(blocks, components)]  # noqa: B905 (TorchScript)
        values = torch.cat(parts).permute(1, 0, 2).flatten(1)[:, self.kept]
        return values * (self.linear_gain_encoder / self.deviation)

    def _synthesis(self, z: Tensor) -> Tensor:
        """Latents ``(N, latent_size)`` to the films of the linear code."""
        values = torch.zeros(z.size(0), self.cells * self.components, dtype=z.dtype, device=z.device)
        values = values.index_copy(1, self.kept, z * (self.linear_gain_decoder * self.deviation))
        values = values.view(z.size(0), self.cells, self.components).permute(1, 0, 2)
        components = (self.linear_components / self.stride).unbind()
        groups = values.split_with_sizes(self._sizes())
        parts = [part @ component for part, component in zip(groups, components)]  # noqa: B905 (TorchScript)
        blocks = torch.cat(parts)[self.order.argsort()].permute(1, 2, 0)
        side = self.image_size // self.stride
        film = F.pixel_shuffle(blocks.reshape(z.size(0), -1, side, side), self.stride)
        return self.lapping.t() @ film @ self.lapping + self.linear_mean

    def _sizes(self) -> list[int]:
        """Number of cells in each group.

        What is split is put together in the backward pass; what is indexed costs a tensor of the whole size for every
        part there.
        """
        return [int(self.bounds[group + 1]) - int(self.bounds[group]) for group in range(self.groups)]

    def _blocks(self, x: Tensor) -> Tensor:
        """Films without their mean to lapped blocks, ``(cells, N, stride ** 2)``."""
        lapped = self.lapping @ (x - self.linear_mean) @ self.lapping.t()
        return F.pixel_unshuffle(lapped, self.stride).flatten(2).permute(2, 0, 1)

    @torch.jit.unused
    @torch.no_grad()
    def initialize_linear(self, images: Films) -> None:
        """Start from principal components of lapped blocks, and keep those of the largest variance.

        Every latent has unit variance over ``images`` and the posterior variance is that of probabilistic PCA (Tipping
        and Bishop 1999).

        Args:
            images: ``(N, 1, S, S)`` in [0, 1], at least two films, read in parts; of more than 5,000 that many, evenly
                chosen.

        Raises:
            ValueError: fewer than two films.
        """
        if len(images) < 2:
            raise ValueError("principal components need at least two films")
        check_films(images[:1], self.image_size)
        for gain in (self.linear_gain_encoder, self.linear_gain_decoder):
            nn.init.ones_(gain)
        for correction in (self.correct_film, self.correct_reconstruction):
            correction.silence()
        n = min(len(images), MOST_FILMS)
        total = sum((part.double().sum(0) for part in parts(images, _CHUNK)), torch.zeros(()))
        self.linear_mean.copy_(total / n)
        variances, vectors, covariances = self._block_statistics(images, n)

        group_of = self._like_places(covariances[:, -self.components :, -self.components :])
        self.order.copy_(group_of.argsort(stable=True))
        sizes = torch.bincount(group_of, minlength=self.groups)
        self.bounds.copy_(F.pad(sizes.cumsum(0), (1, 0)))
        unwhiten = vectors * variances.sqrt()
        kept_variance = torch.empty(self.cells, self.components, dtype=torch.float64)
        for group in range(self.groups):
            places = self.order[self.bounds[group] : self.bounds[group + 1]]
            if not len(places):  # places so alike that they make fewer groups
                continue
            common = unwhiten @ covariances[places].mean(0).double() @ unwhiten.T
            components = torch.linalg.eigh(common)[1].flip(1)[:, : self.components].T
            self.linear_components[group] = (components * self.stride).to(self.linear_components)
            seen = (components @ unwhiten).float()
            for place in places.tolist():
                kept_variance[place] = ((seen @ covariances[place]) * seen).sum(1)

        self.kept.copy_(self._slots(kept_variance))
        variance = kept_variance[self.order.cpu()].flatten()[self.kept.cpu()].clamp(min=1e-12)
        self.deviation.copy_(variance.sqrt())
        squares = sum(float(blocks.double().square().sum()) for blocks in self._centred_blocks(images))
        noise = max(squares / (n - 1) - float(variance.sum()), 1e-12) / self.image_size**2
        self.logvar.copy_(unbound_logvar((noise / (variance + noise)).log()))

    def _block_statistics(self, images: Films, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Principal variances and directions of all blocks, and each place's covariance in whitened coordinates."""
        all_places = (b.flatten(0, 1) for b in self._centred_blocks(images))
        covariance = sum((rows.T @ rows for rows in all_places), torch.zeros(())) / (self.cells * (n - 1))
        variances, vectors = torch.linalg.eigh(covariance.double())
        variances = variances.clamp(min=max(1e-12 * float(variances[-1]), 1e-18))
        # Whitened, single precision is enough: in pixels the small components would drown in the rounding of the large.
        whiten = (vectors / variances.sqrt()).float()
        whitened = (b @ whiten for b in self._centred_blocks(images))
        covariances = sum((b.mT @ b for b in whitened), torch.zeros(())) / (n - 1)
        return variances, vectors, covariances

    def _centred_blocks(self, images: Films) -> Iterator[Tensor]:
        shown = "principal components"
        return (self._blocks(part.to(self.linear_mean)) for part in parts(images, _CHUNK, shown))

    def _like_places(self, covariances: Tensor) -> Tensor:
        """Group of each cell, by how alike their covariances ``(cells, D, D)`` are."""
        if self.groups == self.cells:
            return torch.arange(self.cells)
        rows = F.normalize(covariances.flatten(1))
        values, vectors = torch.linalg.eigh((rows @ rows.T).double())  # rows of the same mutual distances, but short
        rows = (vectors * values.clamp(min=0).sqrt()).cpu()
        return torch.from_numpy(KMeans(self.groups, n_init=10, random_state=0).fit(rows.numpy()).labels_).long()

    def _slots(self, variance: Tensor) -> Tensor:
        """Which components to keep, ``(latent_size,)`` indices into (cell in group order, component).

        Args:
            variance: ``(cells, components)``, the largest win.
        """
        best = variance.flatten().topk(self.latent_size).indices
        chosen = torch.zeros(variance.numel(), dtype=torch.bool)
        chosen[best] = True
        rank_of_cell = self.order.argsort().tolist()
        slots = torch.full((self.latent_shape[0], self.cells), -1)
        surplus: list[int] = []
        for cell, components in enumerate(chosen.view_as(variance)):
            own = (components.nonzero()[:, 0] + rank_of_cell[cell] * self.components).tolist()
            slots[: len(own), cell] = torch.tensor(own[: len(slots)], dtype=torch.long)
            surplus += own[len(slots) :]
        slots[slots < 0] = torch.tensor(surplus, dtype=torch.long)
        return slots.flatten()


class _Correction(nn.Module):
    """What to add to a film: convolutions on an eighth of its grid; starts at nothing."""

    def __init__(self, films: int, channels: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(8)]
        for before, size in zip((64 * films, *channels), channels, strict=False):
            layers += [nn.Conv2d(before, size, 3, padding=1), ResidualBlock(size)]
        self.body = nn.Sequential(*layers, group_norm(channels[-1]), nn.SiLU())
        self.last = nn.Conv2d(channels[-1], 64, 3, padding=1)
        self.silence()

    def silence(self) -> None:
        """Add nothing."""
        zero(self.last)

    def forward(self, films: Tensor) -> Tensor:
        return 0.02 * F.pixel_shuffle(self.last(self.body(films)), 8)


def lapped_transform(size: int, stride: int) -> Tensor:
    """Orthogonal ``(size, size)`` matrix after which blocks of ``stride`` samples stand for overlapping pieces.

    The pre-filter form of the lapped orthogonal transform (Malvar and Staelin 1989; Tran, Liang and Tu 2003): across
    each border between blocks the even part of half a block on either side stays and the odd part is rotated by the
    DCT-II and DST-IV, which leaves slow changes alone.
    """
    half = stride // 2
    k, n = torch.arange(half, dtype=torch.float64)[:, None], torch.arange(half, dtype=torch.float64)[None] + 0.5
    cosine = (2 / half) ** 0.5 * torch.cos(math.pi / half * k * n)
    cosine[0] /= 2**0.5
    sine = (2 / half) ** 0.5 * torch.sin(math.pi / half * (k + 0.5) * n)
    one = torch.eye(half, dtype=torch.float64)
    butterfly = torch.cat([torch.cat([one, one.flip(0)], 1), torch.cat([one.flip(0), -one], 1)]) / 2**0.5
    across = butterfly @ torch.block_diag(one, cosine.T @ sine) @ butterfly
    matrix = torch.eye(size, dtype=torch.float64)
    for border in range(stride, size, stride):
        inside = slice(border - half, border + half)
        matrix[inside, inside] = across
    return matrix.float()
