"""What simpler methods make of the same films with as many values: mean image, PCA, block PCA, bicubic, DCT."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_cxr_vae.metrics import peak_signal_to_noise_ratio
from monai_cxr_vae.networks.components import MOST_FILMS, Films, parts, principal_components

BLOCK_SIDES = (4, 8, 16, 32)
_MOST_BLOCKS = 200_000  # a block has at most 1024 pixels, so more of them change nothing
_PART = 64  # films at a time


class Code(NamedTuple):
    """A method that is ready for films, and what it needs for each of them.

    ``reconstruct``: films ``(N, 1, S, S)`` in [0, 1] to what is left of them. ``size``: ``values`` per film, ...
    """

    reconstruct: Callable[[Tensor], Tensor]
    size: dict[str, int]


def mean_image(train_films: Films) -> Code:
    """The mean training film for every film: what a model knows that knows nothing of the film.

    Args:
        train_films: ``(M, 1, S, S)`` in [0, 1]; at most 5,000 are taken, as for all that is fitted here.
    """
    n = min(len(train_films), MOST_FILMS)
    total = sum((part.double().sum(0, keepdim=True) for part in parts(train_films, _PART)), torch.zeros(()))
    mean = (total / n).float()
    return Code(lambda films: mean.expand_as(films), {"values": 0})


def pca(train_films: Films, components: int) -> Code:
    """Leading principal components of the training films: the best linear code.

    Args:
        train_films: ``(M, 1, S, S)`` in [0, 1].
        components: values per film; fewer are used when there are not so many training films or pixels.
    """
    found = principal_components(train_films, components)
    mean, directions = found.mean.float(), found.directions.float()

    def reconstruct(films: Tensor) -> Tensor:
        return (mean + ((films.flatten(1) - mean) @ directions) @ directions.T).view_as(films)

    return Code(reconstruct, {"components": len(found.variance), "values": len(found.variance)})


def block_pca(train_films: Films, values: int, films: Films, masks: Films | None = None, seed: int = 0) -> Code | None:
    """Principal components of square blocks, on the grid that suits these films best.

    The strongest linear code when a film has more values than there are training films. The grid is chosen by the PSNR
    on ``films`` themselves, in the baseline's favour.

    Args:
        train_films: ``(M, 1, S, S)`` in [0, 1].
        values: values per film, over all its blocks.
        films: ``(N, 1, S, S)`` in [0, 1].
        masks: ``(N, 1, S, S)`` bool, true where the film is.
        seed: of the choice of blocks.

    Returns:
        The code, whose size has ``grid`` (blocks per side) and ``components`` (per block), or None when no grid has at
        least one component per block.
    """
    size, best = films[:1].shape[-1], None
    for side in BLOCK_SIDES:
        grid, components = size // side, values * side**2 // size**2
        if size % side or not 1 <= components <= side**2:
            continue
        fitted = _block_components(train_films, side, components, seed)
        if fitted is None:
            continue
        found = {"grid": grid, "components": components, "values": components * grid**2}
        code = Code(_BlockProjection(side, *fitted), found)
        psnr = _mean_psnr(code, films, masks)
        if best is None or psnr > best[0]:
            best = psnr, code
    return best and best[1]


def bicubic(size: int, values: int) -> Code:
    """Films of side ``size`` shrunk to at most ``values`` pixels (with anti-aliasing) and enlarged again, bicubic."""
    side = min(math.isqrt(values), size)

    def reconstruct(films: Tensor) -> Tensor:
        small = F.interpolate(films, (side, side), mode="bicubic", antialias=True)
        return F.interpolate(small, films.shape[2:], mode="bicubic")

    return Code(reconstruct, {"values": side**2})


def low_pass_dct(size: int, values: int) -> Code:
    """Films of side ``size`` from the lowest frequencies of their cosine transform, a square of at most ``values``."""
    side = min(math.isqrt(values), size)
    slow = _cosines(size)[:side]
    project = slow.T @ slow
    return Code(lambda films: project @ films @ project, {"values": side**2})


def best_dct(size: int, values: int) -> Code:
    """Films of side ``size`` from the ``values`` largest coefficients of each one's own cosine transform.

    Not a code of that many values, since which coefficients they are is not counted: a bound for transform codes.
    """
    cosines, values = _cosines(size), min(values, size**2)

    def reconstruct(films: Tensor) -> Tensor:
        spectrum = (cosines @ films @ cosines.T).flatten(1)
        largest = spectrum.abs().topk(values, dim=1).indices
        kept = torch.zeros_like(spectrum).scatter_(1, largest, spectrum.gather(1, largest)).view_as(films)
        return cosines.T @ kept @ cosines

    return Code(reconstruct, {"values": values})


def _cosines(size: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II) as a matrix, slow rows first."""
    k, n = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)[None] + 0.5
    matrix = (2 / size) ** 0.5 * torch.cos(math.pi / size * k * n)
    matrix[0] /= 2**0.5
    return matrix.float()


class _BlockProjection:
    """Films ``(N, 1, S, S)`` from what components keep of their blocks."""

    def __init__(self, side: int, mean: Tensor, directions: Tensor) -> None:
        self.side, self.mean, self.directions = side, mean, directions

    def __call__(self, films: Tensor) -> Tensor:
        rows = _blocks(films, self.side) - self.mean
        blocks = (self.mean + (rows @ self.directions) @ self.directions.T).view(len(films), -1, self.side**2)
        return F.fold(blocks.transpose(1, 2), films.shape[2:], self.side, stride=self.side)


def _blocks(films: Tensor, side: int) -> Tensor:
    """Films cut into blocks, ``(blocks, side * side)``."""
    return F.unfold(films, side, stride=side).transpose(1, 2).reshape(-1, side**2)


def _block_components(films: Films, side: int, components: int, seed: int) -> tuple[Tensor, Tensor] | None:
    """Mean and leading directions of the blocks of films that are drawn at random; None if they are too few."""
    per_film = (films[:1].shape[-1] // side) ** 2
    order = torch.randperm(len(films), generator=torch.Generator().manual_seed(seed))
    chosen = order[: -(-_MOST_BLOCKS // per_film)].numpy()
    n = per_film * len(chosen)
    if n <= components:
        return None
    total, products = torch.zeros(side**2, dtype=torch.float64), torch.zeros(side**2, side**2, dtype=torch.float64)
    for start in range(0, len(chosen), _PART):
        rows = _blocks(films[chosen[start : start + _PART]], side).double()
        total += rows.sum(0)
        products += rows.T @ rows
    mean = total / n
    directions = torch.linalg.eigh(products / n - torch.outer(mean, mean))[1].flip(1)[:, :components]
    return mean.float(), directions.float()


def _mean_psnr(code: Code, films: Films, masks: Films | None) -> float:
    of_films = parts(films, _PART, "choosing blocks")
    of_masks = itertools.repeat(None) if masks is None else parts(masks, _PART)
    found = [peak_signal_to_noise_ratio(code.reconstruct(x), x, m) for x, m in zip(of_films, of_masks, strict=False)]
    return float(torch.cat(found).mean())
