"""The hierarchical variational autoencoder: codes, a small film, its details, and a learned prior for each level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_cxr_vae.networks.base import AnyVAE, check_films
from monai_cxr_vae.networks.components import Films, Formed
from monai_cxr_vae.networks.flow import GridFlow, VectorFlow, carry
from monai_cxr_vae.networks.spatial import lapped_transform
from monai_cxr_vae.networks.vae import VAE

__all__ = ["HierarchicalVAE", "Level"]

_STRIDE = 4  # side of a cell in pixels, and how much smaller the small film is
# Spread of the rounding to 8 bits: what is finer than that films do not tell.
POSTERIOR_DEVIATION = 1 / 255 / 12**0.5
# Johnson's S_U distribution, the normal of `_BEND * asinh(u / _TAIL)`, fits what the conditional normals leave: of the
# details a quarter of its energy lies beyond five deviations, along edges and letters, where a flow cannot follow.
_TAIL, _BEND = 1.2, 1.5


class HierarchicalVAE(AnyVAE):
    """VAE of three levels, for drawing new films at full size.

    The posterior of the first level, ``codes`` values, is that of a :class:`VAE` of the film at a quarter of its size.
    The others are the coefficients of an orthogonal transform, lapped blocks of 4 x 4 pixels (Malvar and Staelin 1989)
    and their DCT: the first coefficient of each block, together a film at a quarter of the size, and the other fifteen,
    its details. Their posterior's spread is the rounding of 8-bit films, and the decoder is the transpose.

    The priors are learned. That of the small film is given by the codes, that of the details by the small film, each as
    a :class:`Level`. In training mode `forward` gives the conditional normals of these priors,
    ``(reconstruction, mu, logvar, prior_mu, prior_logvar)``, and the prior of the codes is the standard normal; the
    flows are trained afterwards.

    Latents are ``(N, latent_size)``: codes, small film, details one after the other, see `split`.

    Args:
        image_size: side of the square film in pixels, a multiple of 32.
        codes: values of the first level.
        channels: of the codes' network, see :class:`VAE`.
        width: of the codes' network.
        normal_width: channels of the networks that give the conditional normals.
        film_channels: of the flow of the small film, see :class:`GridFlow`.
        detail_channels: of the flow of the details.

    Raises:
        ValueError: an argument out of range, or an input that is not ``(N, 1, image_size, image_size)``.
    """

    learns_prior = True

    if TYPE_CHECKING:  # TorchScript would read these annotations, and cannot
        lapping: Tensor
        cosines: Tensor

    def __init__(
        self,
        image_size: int,
        codes: int = 16,
        channels: Sequence[int] = (16, 32),
        width: int = 320,
        normal_width: int = 48,
        film_channels: Sequence[int] = (64, 128, 192),
        detail_channels: Sequence[int] = (64, 96, 128),
    ) -> None:
        super().__init__()
        if image_size < 32 or image_size % 32:
            raise ValueError(f"image_size {image_size} is not a multiple of 32")
        if min(codes, normal_width, *film_channels, *detail_channels) < 1:
            raise ValueError("codes, normal_width and all channels must be positive")
        self.image_size = int(image_size)
        self.grid = self.image_size // _STRIDE
        self.code_size = int(codes)
        self.latent_size = self.code_size + self.image_size**2
        self.latent_shape = (self.latent_size,)
        self.deviation = POSTERIOR_DEVIATION

        self.register_buffer("lapping", lapped_transform(image_size, _STRIDE), persistent=False)
        self.register_buffer("cosines", _cosines(_STRIDE), persistent=False)
        self.codes = VAE(self.grid, codes, channels, width)
        self.code_flow = VectorFlow(codes)
        self.film = Level(1, self.grid, 2, 0.1, normal_width, film_channels, 12, 0.9, attention=True, dropout=0.1)
        self.details = Level(15, self.grid, 1, 0.02, normal_width, detail_channels, 8)

    @torch.jit.export
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Films ``(N, 1, S, S)`` to the posterior's ``(mu, logvar)``, each ``(N, latent_size)``."""
        check_films(x, self.image_size)
        codes, logvar = self.codes.encode(F.avg_pool2d(x, 4))
        lapped = self.lapping @ x @ self.lapping.t()
        coefficients = F.conv2d(F.pixel_unshuffle(lapped, 4), self.cosines).flatten(1)
        spread = torch.full_like(coefficients, 2 * math.log(self.deviation))
        return torch.cat([codes, coefficients], 1), torch.cat([logvar, spread], 1)

    @torch.jit.export
    def decode(self, z: Tensor) -> Tensor:
        """Latents ``(N, latent_size)`` to films ``(N, 1, S, S)``, about [0, 1], not clamped."""
        coefficients = z[:, self.code_size :].reshape(-1, 16, self.grid, self.grid)
        lapped = F.pixel_shuffle(F.conv_transpose2d(coefficients, self.cosines), 4)
        return self.lapping.t() @ lapped @ self.lapping

    @torch.jit.unused
    def split(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Latents ``(N, latent_size)`` to codes ``(N, codes)``, small film ``(N, 1, g, g)``, details ``(N, 15, g, g)``.

        ``g`` is ``S / 4``. All but the codes are in the unit of the orthogonal transform: 4 times the intensity.
        """
        codes, rest = z[:, : self.code_size], z[:, self.code_size :]
        grid = rest.reshape(len(z), 16, self.grid, self.grid)
        return codes, grid[:, :1], grid[:, 1:]

    @torch.jit.unused
    def prior(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-variances, each ``(N, latent_size)``, of the normals of levels given those above in ``z``."""
        codes, film, _ = self.split(z)
        parts = self.film.normal(self.outline(codes)), self.details.normal(film)
        mu, logvar = (torch.cat([part.flatten(1) for part in both], 1) for both in zip(*parts, strict=True))
        return torch.cat([torch.zeros_like(codes), mu], 1), torch.cat([torch.zeros_like(codes), logvar], 1)

    @torch.jit.unused
    def outline(self, codes: Tensor) -> Tensor:
        """The small film that codes ``(N, codes)`` alone tell of, ``(N, 1, g, g)``, in the latents' unit."""
        return _STRIDE * self.codes.decode(codes)

    @torch.jit.unused
    def sample_latents(self, n: int, generator: torch.Generator, like: Tensor | None = None, keep: int = 1) -> Tensor:
        """Draw latents ``(n, latent_size)`` from the learned priors.

        Args:
            n: number of films, all at once; one film's noise after the other's, so two calls continue each other.
            generator: of the noise, on the CPU.
            like: latents of one film, ``(1, latent_size)``; the first ``keep`` levels of it are taken, not drawn.
            keep: 1 for the codes, 2 for the small film too.
        """
        noise = torch.stack([torch.randn(self.latent_size, generator=generator) for _ in range(n)])
        codes, film, details = self.split(noise.to(self.lapping.device))
        given = None if like is None else self.split(like.expand(n, -1))
        codes = self.code_flow.draw(codes) if given is None else given[0]
        film = self.film.draw(self.outline(codes), film) if given is None or keep < 2 else given[1]
        details = self.details.draw(film, details)
        return torch.cat([codes, film.flatten(1), details.flatten(1)], 1)

    @torch.jit.unused
    def reconstruct_from(self, x: Tensor, levels: int) -> Tensor:
        """Reconstruction of films from their first levels, the rest at the means that the priors give.

        Args:
            x: ``(N, 1, S, S)``.
            levels: 1 for the codes, 2 for codes and small film, 3 for all.

        Returns:
            ``(N, 1, S, S)``, not clamped.
        """
        mu = self.encode(x)[0]
        codes, film, details = self.split(mu)
        if levels < 2:
            film = self.film.normal(self.outline(codes))[0]
        if levels < 3:
            details = self.details.normal(film)[0]
        return self.decode(torch.cat([codes, film.flatten(1), details.flatten(1)], 1))

    @torch.jit.unused
    def initialize_linear(self, images: Films) -> None:
        """Start the codes from principal components of ``images``, ``(N, 1, S, S)`` in [0, 1]."""
        self.codes.initialize_linear(Formed(images, partial(F.avg_pool2d, kernel_size=_STRIDE)))


class Level(nn.Module):
    """A level's prior given a small film: a normal of mean and spread for each place, and a flow on what that leaves.

    The normal alone would draw each value by itself; the flow tells how they hang together. Between the two the tails,
    which are heavy, are bent in (Johnson 1949).

    Args:
        channels: of the latents.
        grid: side of the latents' grid, which is that of the film.
        fold: the networks work on a grid so many times coarser, with more channels.
        scale: about the standard deviation of the latents around the film's, which training starts from.
        width: channels of the network that gives the normal.
        flow_channels, attention, dropout: see :class:`GridFlow`.
        steps, until: of the flow's draws, see :func:`~monai_cxr_vae.networks.flow.carry`.
    """

    if TYPE_CHECKING:
        places: Tensor

    def __init__(
        self,
        channels: int,
        grid: int,
        fold: int,
        scale: float,
        width: int,
        flow_channels: Sequence[int],
        steps: int,
        until: float = 1.0,
        attention: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.fold, self.scale, self.residual = fold, scale, channels == 1
        self.steps, self.until = steps, until
        centre = (torch.arange(grid // fold) + 0.5) * 2 * fold / grid - 1
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        self.register_buffer("places", torch.stack([x, y])[None], persistent=False)
        known, values = fold**2 + 2, channels * fold**2
        self.means = _Convolutions(known, 2 * values, width)
        self.flow = GridFlow(values, known, flow_channels, attention, dropout)

    def condition(self, film: Tensor) -> Tensor:
        """What the networks see of a film ``(N, 1, g, g)`` in the latents' unit: itself, centred, and the places."""
        return torch.cat([F.pixel_unshuffle(film - 2, self.fold), self.places.expand(len(film), -1, -1, -1)], 1)

    def normal(self, film: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents, ``(N, C, g, g)``, given a film ``(N, 1, g, g)``."""
        mean, logvar = self.means(self.condition(film)).float().chunk(2, 1)
        mean, logvar = F.pixel_shuffle(self.scale * mean, self.fold), F.pixel_shuffle(logvar, self.fold)
        # Never narrower than the posterior, as no prior of a film that was rounded can be.
        floor = torch.full_like(logvar, 2 * math.log(POSTERIOR_DEVIATION))
        return mean + film if self.residual else mean, torch.logaddexp(logvar + 2 * math.log(self.scale), floor)

    def standardize(self, latents: Tensor, film: Tensor) -> Tensor:
        """Latents ``(N, C, g, g)`` as the flow sees them, folded: about standard normal, each by itself."""
        mean, logvar = self.normal(film)
        bent = _BEND * torch.asinh((latents - mean) * torch.exp(-0.5 * logvar) / _TAIL)
        return F.pixel_unshuffle(bent, self.fold)

    def log_density(self, latents: Tensor, film: Tensor) -> Tensor:
        """Of each latent ``(N, C, g, g)``, by itself, when what the flow sees is standard normal; nats."""
        mean, logvar = self.normal(film)
        scaled = (latents - mean) * torch.exp(-0.5 * logvar) / _TAIL
        slope = math.log(_BEND / _TAIL) - 0.5 * torch.log1p(scaled.square()) - 0.5 * logvar
        return slope - 0.5 * (math.log(2 * math.pi) + (_BEND * torch.asinh(scaled)).square())

    def draw(self, film: Tensor, noise: Tensor) -> Tensor:
        """Latents ``(N, C, g, g)`` given a film ``(N, 1, g, g)``, from standard normal noise of the latents' shape."""
        condition, (mean, logvar) = self.condition(film), self.normal(film)
        folded = F.pixel_unshuffle(noise, self.fold)
        carried = carry(lambda x, t: self.flow(x, condition, t), folded, self.steps, self.until)
        bent = F.pixel_shuffle(carried, self.fold)
        return mean + torch.exp(0.5 * logvar) * _TAIL * torch.sinh(bent / _BEND)


class _Convolutions(nn.Module):
    """A few residual convolutions of a small film; starts at zero."""

    def __init__(self, channels_in: int, channels_out: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, width, 5, padding=2)
        self.middle = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.last = nn.Conv2d(width, channels_out, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    @torch.jit.unused
    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.first(x.contiguous(memory_format=torch.channels_last)))
        for layer in self.middle:
            x = x + F.silu(layer(x))
        return self.last(x)


def _cosines(size: int) -> Tensor:
    """The orthonormal DCT-II of square blocks, ``(size ** 2, size ** 2, 1, 1)``, as a convolution's kernel."""
    k, n = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)[None] + 0.5
    cosine = (2 / size) ** 0.5 * torch.cos(math.pi / size * k * n)
    cosine[0] /= 2**0.5
    return torch.kron(cosine, cosine)[:, :, None, None].float()
