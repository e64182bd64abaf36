"""The scorer: how far each aspect of a film is from normal films, by statistics that are stored with the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_cxr_vae.scores import ASPECTS, SCORES
from monai_cxr_vae.scoring.critic import Critic
from monai_cxr_vae.scoring.features import EXPOSURES, TEXTURES, exposure, texture

DETAIL = 2  # the film is looked at with this many times the network's pixels along a side
FEATURES = {"exposure": EXPOSURES, "texture": TEXTURES}
CRITICISMS = ("fault", "finding")  # in the order of a critic's logits
TECHNIQUE = ("latent", *(f"{name}_{i}" for name, count in FEATURES.items() for i in range(count)))
_WINDOW = 5  # network pixels: what is called local
# A deviation must not blow up where normal films hardly differ at all: share of the mean variance.
_FLOOR = 0.25


class Aspects(NamedTuple):
    """Raw measurements of films: squared differences, feature vectors and what the critic says.

    Attributes:
        squares: ``(N, 1, S, S)`` squared difference of film and reconstruction, 0 outside of the film.
        mask: ``(N, 1, S, S)`` bool, where the film is.
        latent: ``(N, latent_size)`` posterior means.
        exposure, texture: ``(N, 7)`` and ``(N, 8)``, see :mod:`monai_cxr_vae.scoring.features`.
        critic: ``(N, 2)`` logits of a fault and a finding; no columns without a critic.
        places: ``(N, 1, S / 2, S / 2)`` logits of a finding at each place; no rows without a critic.
    """

    squares: Tensor
    mask: Tensor
    latent: Tensor
    exposure: Tensor
    texture: Tensor
    critic: Tensor
    places: Tensor


class Scorer(nn.Module):
    """Scores of films against normal films; see :mod:`monai_cxr_vae.scoring` for how it is fitted and used.

    Args:
        image_size: side of the network's square, S.
        latent_size: number of latent values.
        critic: whether there is a critic.
        films: number of normal films that p-values are told against.
    """

    if TYPE_CHECKING:  # TorchScript would read these annotations
        variance: Tensor
        centre: Tensor
        spread: Tensor
        technique_calibration: Tensor
        heat_limit: Tensor

    def __init__(self, image_size: int, latent_size: int, critic: bool, films: int) -> None:
        super().__init__()
        self.critic = Critic() if critic else None
        self.joined = {name: score.weights(critic) for name, score in SCORES.items()}
        self.aspects = tuple(name for name in ASPECTS if any(name in weights for weights in self.joined.values()))
        if "residual" in self.aspects:
            self.register_buffer("variance", torch.ones(image_size, image_size))
        self.distances = {n: size for n, size in {"latent": latent_size, **FEATURES}.items() if n in self.aspects}
        for name, size in self.distances.items():
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_precision", torch.eye(size))
        self.register_buffer("centre", torch.zeros(len(self.aspects)))
        self.register_buffer("spread", torch.ones(len(self.aspects)))
        for name in SCORES:
            self.register_buffer(f"{name}_calibration", torch.zeros(films))
        self.register_buffer("technique_calibration", torch.zeros(films, len(TECHNIQUE)))
        self.register_buffer("heat_limit", torch.ones(()))

    @classmethod
    def shaped_like(cls, state: Mapping[str, Tensor]) -> Scorer:
        """A new scorer that can load a state dict.

        Args:
            state: state dict of a scorer, names without a prefix.

        Raises:
            KeyError, TypeError: it is none of a scorer.
        """
        size, latents = len(state.get("variance", ())), len(state["latent_mean"])
        critic = any(name.startswith("critic.") for name in state)
        return cls(size, latents, critic, len(state[f"{next(iter(SCORES))}_calibration"]))

    @property
    def films(self) -> int:
        """Number of normal films that p-values are told against; none in a scorer that is not calibrated."""
        return len(self.technique_calibration)

    def calibration(self, score: str) -> Tensor:
        """A score of the films of the calibration.

        Args:
            score: of :data:`monai_cxr_vae.scores.SCORES`.

        Returns:
            ``(films,)``, ascending.
        """
        return cast(Tensor, getattr(self, f"{score}_calibration"))

    @property
    def knows_normal_films(self) -> bool:
        """Whether there are statistics of normal films: those of a new scorer are all 1."""
        return bool((self.spread != 1).any())

    @torch.no_grad()
    def measurements(
        self, image: Tensor, detail: Tensor, mask: Tensor, latent: Tensor, reconstruction: Tensor
    ) -> Aspects:
        """Take the measurements that need no statistics.

        Args:
            image: ``(N, 1, S, S)`` in [0, 1].
            detail: the same films, ``(N, 1, 2 S, 2 S)``.
            mask: ``(N, 1, S, S)`` bool, a rectangle for each film: where it is, true, and padding, false.
            latent: ``(N, latent_size)`` posterior means.
            reconstruction: ``(N, 1, S, S)``.

        Returns:
            What all else here is computed from.
        """
        squares = (image - reconstruction).square() * mask
        light = exposure(image, mask)
        grain = texture(detail, mask.repeat_interleave(DETAIL, 2).repeat_interleave(DETAIL, 3))
        if self.critic is None:
            logits, places = image.new_zeros(len(image), 0), image.new_zeros(0, 1, 1, 1)
        else:
            logits, places = self.critic(detail, reconstruction, torch.cat([light, grain], 1))
        return Aspects(squares, mask, latent, light, grain, logits, places)

    def measure(self, measurements: Aspects) -> Tensor:
        """One number per aspect of each film.

        Args:
            measurements: of :meth:`measurements`.

        Returns:
            ``(N, len(self.aspects))``, in no common unit; larger is less usual.
        """
        return torch.stack([self._measure(name, measurements) for name in self.aspects], 1)

    def _measure(self, aspect: str, measurements: Aspects) -> Tensor:
        if aspect in CRITICISMS:
            return measurements.critic[:, CRITICISMS.index(aspect)]
        if aspect in self.distances:
            features, mean = getattr(measurements, aspect), getattr(self, f"{aspect}_mean")
            return distance(features, mean, getattr(self, f"{aspect}_precision"))
        of = {"residual": _mean, "local": _worst}[aspect]
        return of(self.deviation(measurements), measurements.mask).log()

    def standardised(self, measurements: Aspects) -> Tensor:
        """The numbers of :meth:`measure` as z-scores.

        Args:
            measurements: of :meth:`measurements`.

        Returns:
            ``(N, len(self.aspects))``, standard deviations from the mean of normal films.
        """
        return (self.measure(measurements) - self.centre) / self.spread

    def scores(self, standardised: Tensor) -> dict[str, Tensor]:
        """The scores of films.

        Args:
            standardised: ``(N, len(self.aspects))``, of :meth:`standardised`.

        Returns:
            Each of :data:`monai_cxr_vae.scores.SCORES`, ``(N,)``, without a unit; larger is less usual.
        """
        joined = {}
        for name, score in SCORES.items():
            parts = self.contributions(standardised, name)
            joined[name] = torch.logsumexp(parts, 1) if score.soft_maximum else parts.mean(1)
        return joined

    def contributions(self, standardised: Tensor, score: str) -> Tensor:
        """What each aspect contributes to a score.

        Args:
            standardised: ``(N, len(self.aspects))``, of :meth:`standardised`.
            score: of :data:`monai_cxr_vae.scores.SCORES`.

        Returns:
            ``(N, n)``, the n aspects that the score joins times their weights.
        """
        weights = self.joined[score]
        columns = standardised[:, [self.aspects.index(name) for name in weights]]
        return columns * columns.new_tensor(list(weights.values()))

    def technique(self, measurements: Aspects) -> Tensor:
        """How films were made rather than what they show.

        Args:
            measurements: of :meth:`measurements`.

        Returns:
            ``(N, 16)`` in the order of :data:`TECHNIQUE`: the latents' distance in standard deviations of normal films,
            exposure and texture as measured.
        """
        column = self.aspects.index("latent")
        return torch.cat(
            [self.standardised(measurements)[:, column, None], measurements.exposure, measurements.texture], 1
        )

    def heat(self, measurements: Aspects) -> Tensor:
        """Heat maps on one scale for all films.

        Args:
            measurements: of :meth:`measurements`.

        Returns:
            ``(N, 1, S, S)`` in [0, 1]; one normal film in ten exceeds 0.5 somewhere.
        """
        return (0.5 * self.raw_heat(measurements) / self.heat_limit).clamp(0, 1)

    def raw_heat(self, measurements: Aspects) -> Tensor:
        """Heat maps before they are scaled.

        Args:
            measurements: of :meth:`measurements`.

        Returns:
            ``(N, 1, S, S)``: the critic's probability of a finding at each place, in [0, 1]; without a critic the local
            :meth:`deviation`.
        """
        if self.critic is None:
            return _local(self.deviation(measurements), measurements.mask)
        places = F.interpolate(
            measurements.places.sigmoid(), size=measurements.mask.shape[2:], mode="bilinear", align_corners=False
        )
        return places * measurements.mask

    def deviation(self, measurements: Aspects) -> Tensor:
        """Squared difference of film and reconstruction by what is usual at the place.

        Args:
            measurements: of :meth:`measurements`.

        Returns:
            ``(N, 1, S, S)``, 0 or more, without a unit.
        """
        return measurements.squares / (self.variance + _FLOOR * self.variance.mean())


def distance(features: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    """Logarithm of the squared Mahalanobis distance.

    Args:
        features: ``(N, D)``.
        mean: ``(D,)``.
        precision: ``(D, D)``, inverse of the covariance.

    Returns:
        ``(N,)`` float32.
    """
    centred = (features - mean).double()
    return (centred @ precision.double() * centred).sum(1).clamp(min=1e-12).log().float()


def _local(deviation: Tensor, mask: Tensor) -> Tensor:
    """Mean over a window, over what of it lies on the film."""
    pad = _WINDOW // 2
    total = F.avg_pool2d(deviation, _WINDOW, 1, pad)
    return total / F.avg_pool2d(mask.to(deviation.dtype), _WINDOW, 1, pad).clamp(min=1e-6) * mask


def _mean(deviation: Tensor, mask: Tensor) -> Tensor:
    return (deviation.sum((1, 2, 3)) / mask.sum((1, 2, 3))).clamp(min=1e-9)


def _worst(deviation: Tensor, mask: Tensor) -> Tensor:
    """The local deviation that half a percent of the film exceeds."""
    local = _local(deviation, mask)
    return torch.stack([torch.quantile(v[m], 0.995) for v, m in zip(local, mask, strict=True)]).clamp(min=1e-9)
