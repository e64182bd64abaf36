"""The scorer: how far each aspect of a film is from normal films, by statistics that are stored with the weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_cxr_vae.networks.critic import Critic
from monai_cxr_vae.networks.features import EXPOSURES, TEXTURES, exposure, texture

# What is measured; the last two need a trained critic.
ASPECTS = ("residual", "local", "latent", "exposure", "texture", "fault", "finding")
# The aspects that each score joins, and what they weigh; chosen on synthetic faults and findings in validation films,
# of families that the critic had seen and of others.
QUALITY = {"residual": 1.0, "latent": 1.0, "exposure": 1.0, "texture": 1.0, "fault": 1.5}
ANOMALY = {"local": 0.1, "latent": 0.1, "finding": 1.0}
DETAIL = 2  # the film is looked at with this many times the network's pixels along a side
FEATURES = {"exposure": EXPOSURES, "texture": TEXTURES}
_WINDOW = 5  # network pixels: what is called local
# A deviation must not blow up where normal films hardly differ at all: share of the mean variance.
_FLOOR = 0.25


class Aspects(NamedTuple):
    """Raw measurements of films: squared differences, feature vectors and what the critic says.

    Attributes:
        squares: ``(N, 1, S, S)`` squared difference of film and reconstruction, 0 outside of the film.
        mask: ``(N, 1, S, S)`` bool, where the film is.
        latent: ``(N, latent_size)`` posterior means.
        exposure, texture: ``(N, 7)`` and ``(N, 8)``, see :mod:`monai_cxr_vae.networks.features`.
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
        quality_calibration: Tensor
        anomaly_calibration: Tensor
        heat_limits: Tensor

    def __init__(self, image_size: int, latent_size: int, critic: bool, films: int) -> None:
        super().__init__()
        self.critic = Critic() if critic else None
        self.aspects = ASPECTS if critic else ASPECTS[:-2]
        self.register_buffer("variance", torch.ones(image_size, image_size))
        for name, size in {"latent": latent_size, **FEATURES}.items():
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_precision", torch.eye(size))
        self.register_buffer("centre", torch.zeros(len(self.aspects)))
        self.register_buffer("spread", torch.ones(len(self.aspects)))
        self.register_buffer("quality_calibration", torch.zeros(films))
        self.register_buffer("anomaly_calibration", torch.zeros(films))
        self.register_buffer("heat_limits", torch.ones(2))

    @classmethod
    def shaped_like(cls, state: Mapping[str, Tensor]) -> Scorer:
        """A scorer that can load ``state``, a state dict of one."""
        size, latents = len(state["variance"]), len(state["latent_mean"])
        critic = any(name.startswith("critic.") for name in state)
        return cls(size, latents, critic, len(state["quality_calibration"]))

    @torch.no_grad()
    def look(self, image: Tensor, detail: Tensor, mask: Tensor, latent: Tensor, reconstruction: Tensor) -> Aspects:
        """Take the measurements that need no statistics.

        Args:
            image: ``(N, 1, S, S)`` in [0, 1].
            detail: the same films, ``(N, 1, 2 S, 2 S)``.
            mask: ``(N, 1, S, S)`` bool, a rectangle for each film: where it is, true, and padding, false.
            latent: ``(N, latent_size)`` posterior means.
            reconstruction: ``(N, 1, S, S)``.
        """
        squares = (image - reconstruction).square() * mask
        light = exposure(image, mask)
        grain = texture(detail, mask.repeat_interleave(DETAIL, 2).repeat_interleave(DETAIL, 3))
        if self.critic is None:
            logits, places = image.new_zeros(len(image), 0), image.new_zeros(0, 1, 1, 1)
        else:
            logits, places = self.critic(detail, reconstruction, torch.cat([light, grain], 1))
        return Aspects(squares, mask, latent, light, grain, logits, places)

    def measure(self, look: Aspects) -> Tensor:
        """``(N, len(self.aspects))``: one number per aspect, in no common unit; larger is less usual."""
        deviation = self.deviation(look)
        values = [_mean(deviation, look.mask).log(), _worst(deviation, look.mask).log()]
        for name in ("latent", *FEATURES):
            values.append(
                distance(getattr(look, name), getattr(self, f"{name}_mean"), getattr(self, f"{name}_precision"))
            )
        return torch.stack([*values, *look.critic.unbind(1)], 1)

    def standardised(self, look: Aspects) -> Tensor:
        """``(N, len(self.aspects))``: the measurements in standard deviations of normal films."""
        return (self.measure(look) - self.centre) / self.spread

    def scores(self, standardised: Tensor) -> tuple[Tensor, Tensor]:
        """Quality and anomaly, ``(N,)`` each: larger is less usual.

        Quality is a soft maximum, since one fault is enough to spoil a film; anomaly is a weighted mean, since a
        disease shows a little in many ways.
        """
        quality, anomaly = self.contributions(standardised, QUALITY), self.contributions(standardised, ANOMALY)
        return torch.logsumexp(quality, 1), anomaly.mean(1)

    def contributions(self, standardised: Tensor, weights: Mapping[str, float]) -> Tensor:
        """The aspects of one score times their weights, ``(N, n)``; those that need a missing critic are left out."""
        names = [name for name in weights if name in self.aspects]
        columns = standardised[:, [self.aspects.index(name) for name in names]]
        return columns * columns.new_tensor([weights[name] for name in names])

    def heat(self, look: Aspects) -> Tensor:
        """``(N, 1, S, S)`` in [0, 1]: 0.5 where a deviation is as large as the largest of one normal film in ten."""
        return (0.5 * self.raw_heat(look) / self.heat_limits.view(1, -1, 1, 1)).amax(1, keepdim=True).clamp(0, 1)

    def raw_heat(self, look: Aspects) -> Tensor:
        """``(N, 2, S, S)``: local deviation and the critic's probability of a finding, 0 without a critic."""
        local = _local(self.deviation(look), look.mask)
        if self.critic is None:
            return torch.cat([local, torch.zeros_like(local)], 1)
        places = F.interpolate(look.places.sigmoid(), size=local.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat([local, places * look.mask], 1)

    def deviation(self, look: Aspects) -> Tensor:
        """``(N, 1, S, S)``: squared difference in units of what is usual at the place."""
        return look.squares / (self.variance + _FLOOR * self.variance.mean())


def distance(features: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    """Logarithm of the squared Mahalanobis distance, ``(N, D)`` to ``(N,)``."""
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
