"""What simpler methods make of the same films with as many values: mean image, PCA, block PCA, bicubic, DCT."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Tensor

from monai_cxr_vae.metrics import peak_signal_to_noise_ratio

BLOCK_SIDES = (4, 8, 16, 32)
_MOST_BLOCKS = 200_000  # a block has at most 1024 pixels, so more of them change nothing


def mean_image(films: Tensor, train_films: Tensor) -> Tensor:
    """The mean training film for every film, ``(N, 1, S, S)``: what a model knows that knows nothing of the film."""
    return train_films.mean(0, keepdim=True).expand_as(films)


def pca(films: Tensor, train_films: Tensor, components: int, seed: int = 0) -> tuple[Tensor, int]:
    """Reconstructions from the leading principal components of the training films: the best linear code.

    Args:
        films: ``(N, 1, S, S)`` in [0, 1].
        train_films: ``(M, 1, S, S)`` in [0, 1].
        components: values per film; fewer are used when there are not so many training films or pixels.
        seed: of the randomised solver.

    Returns:
        The reconstructions ``(N, 1, S, S)`` and the number of components used.
    """
    rows = train_films.flatten(1)
    components = min(components, len(rows) - 1, rows.shape[1])
    return _project(rows, films.flatten(1), components, seed).view_as(films), components


def block_pca(
    films: Tensor, train_films: Tensor, values: int, mask: Tensor | None = None, seed: int = 0
) -> tuple[Tensor, dict[str, int]] | None:
    """Reconstructions from principal components of square blocks, on the grid that suits these films best.

    The strongest linear code when a film has more values than there are training films. The grid is chosen by the PSNR
    on ``films`` themselves, in the baseline's favour.

    Args:
        films: ``(N, 1, S, S)`` in [0, 1].
        train_films: ``(M, 1, S, S)`` in [0, 1].
        values: values per film, over all its blocks.
        mask: ``(N, 1, S, S)`` bool, true where the film is.
        seed: of the choice of blocks and of the solver.

    Returns:
        The reconstructions and ``{"grid", "components", "values"}`` (blocks per side, components per block, values per
        film), or None when no grid has at least one component per block.
    """
    size, best = films.shape[-1], None
    for side in BLOCK_SIDES:
        grid, components = size // side, values * side**2 // size**2
        if size % side or not 1 <= components <= side**2:
            continue
        train = _blocks(train_films, side, _MOST_BLOCKS, seed)
        if len(train) <= components:
            continue
        blocks = _project(train, _blocks(films, side), components, seed)
        made = F.fold(blocks.view(len(films), -1, side**2).transpose(1, 2), (size, size), side, stride=side)
        psnr = float(peak_signal_to_noise_ratio(made, films, mask).mean())
        if best is None or psnr > best[0]:
            best = psnr, made, {"grid": grid, "components": components, "values": components * grid**2}
    return best and best[1:]


def bicubic(films: Tensor, values: int) -> tuple[Tensor, int]:
    """Films shrunk to at most ``values`` pixels (bicubic with anti-aliasing) and enlarged again (bicubic).

    Returns:
        The reconstructions ``(N, 1, S, S)`` and the number of values per film.
    """
    side = min(math.isqrt(values), films.shape[-1])
    small = F.interpolate(films, (side, side), mode="bicubic", antialias=True)
    return F.interpolate(small, films.shape[2:], mode="bicubic"), side**2


def low_pass_dct(films: Tensor, values: int) -> tuple[Tensor, int]:
    """Films from the lowest frequencies of their cosine transform, a square of at most ``values`` of them.

    Returns:
        The reconstructions ``(N, 1, S, S)`` and the number of values per film.
    """
    side = min(math.isqrt(values), films.shape[-1])
    slow = _cosines(films.shape[-1])[:side]
    project = slow.T @ slow
    return project @ films @ project, side**2


def best_dct(films: Tensor, values: int) -> tuple[Tensor, int]:
    """Films from the ``values`` largest coefficients of each one's own cosine transform.

    Not a code of that many values, since which coefficients they are is not counted: a bound for transform codes.

    Returns:
        The reconstructions ``(N, 1, S, S)`` and the number of coefficients per film.
    """
    cosines = _cosines(films.shape[-1])
    spectrum = (cosines @ films @ cosines.T).flatten(1)
    values = min(values, spectrum.shape[1])
    largest = spectrum.abs().topk(values, dim=1).indices
    kept = torch.zeros_like(spectrum).scatter_(1, largest, spectrum.gather(1, largest)).view_as(films)
    return cosines.T @ kept @ cosines, values


def _cosines(size: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II) as a matrix, slow rows first."""
    k, n = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)[None] + 0.5
    matrix = (2 / size) ** 0.5 * torch.cos(math.pi / size * k * n)
    matrix[0] /= 2**0.5
    return matrix.float()


def _blocks(films: Tensor, side: int, most: int | None = None, seed: int = 0) -> Tensor:
    """Films cut into blocks, ``(blocks, side * side)``, ``most`` of them at random."""
    if most is not None:
        # Films, then blocks: cutting all films at once would hold the training set a second time.
        per_film = (films.shape[-1] // side) ** 2
        order = torch.randperm(len(films), generator=torch.Generator().manual_seed(seed))
        films = films[order[: -(-most // per_film)]]
    return F.unfold(films, side, stride=side).transpose(1, 2).reshape(-1, side**2)[:most]


def _project(train: Tensor, rows: Tensor, components: int, seed: int) -> Tensor:
    """``rows`` on the leading principal components of ``train``."""
    # Blocks have few pixels, and the solver that is exact is fast; whole films need the randomised one.
    solver = "covariance_eigh" if train.shape[1] <= max(BLOCK_SIDES) ** 2 <= len(train) else "auto"
    fitted = PCA(components, svd_solver=solver, iterated_power=7, random_state=seed).fit(train.numpy())
    return torch.from_numpy(fitted.inverse_transform(fitted.transform(rows.numpy()))).float()
