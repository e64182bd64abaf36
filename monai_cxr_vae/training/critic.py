"""Training a critic: batches of proper, faulty and diseased films, all made from normal ones."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from ignite.engine import Events
from monai.engines import Workflow
from monai.handlers import IgniteMetricHandler
from monai.inferers import Inferer
from monai.metrics.rocauc import compute_roc_auc
from torch import Tensor, nn

from monai_cxr_vae.data.cache import FilmDataset
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.model import RadiographVAE, load_model
from monai_cxr_vae.scoring import Scorer
from monai_cxr_vae.scoring.faults import FAULTS, add_fault
from monai_cxr_vae.scoring.features import exposure, texture
from monai_cxr_vae.scoring.findings import FINDINGS, add_findings
from monai_cxr_vae.scoring.scorer import DETAIL
from monai_cxr_vae.training.batches import Augmentation
from monai_cxr_vae.training.validation import film_values

NORMAL, FAULTY, DISEASED = 0, 1, 2
_LETTERS = ("L", "R", "L", "R", "AP", "PA", "PORTABLE", "ERECT", "SUPINE")


def model_with_critic(weights: str | os.PathLike, network: nn.Module | None = None) -> RadiographVAE:
    """A trained model with a critic, its own or a new one, the only part of it that can still learn.

    Args:
        weights: file or shipped file's name.
        network: see :func:`monai_cxr_vae.model.load_model`.

    Raises:
        InputError: the weights have no vector of latents.
    """
    model = load_model(weights, network)
    if not model.fits_latents:
        raise InputError("scores need a model with a vector of latents")
    if model.scorer is None or model.scorer.critic is None:
        model.scorer = Scorer(model.image_size, model.latent_size, critic=True, films=0)
    model.scorer.critic.requires_grad_(True)  # type: ignore[union-attr]
    return model


class WhitenFeatures:
    """Tells a new critic, before its first step, what exposure and texture normal films have."""

    def __init__(self, network: RadiographVAE, dataset: FilmDataset) -> None:
        self.network, self.dataset = network, dataset

    def attach(self, engine: Workflow) -> None:
        """Act when ``engine`` starts."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        critic: Any = self.network.scorer.critic  # type: ignore[union-attr]
        if not critic.feature_mean.any():  # one that learns on keeps the directions that it has learnt in
            critic.whiten(_features(self.dataset.images(1000)))


class SpoilFilms:
    """Hands an engine (films, what was done to them): a share as they are, others with faults or findings.

    Args:
        augmentation: of all films first, so that resampling tells nothing; with one, half of the films are also
            sampled less finely along an axis, as films of another shape are, and some get burned-in letters or a frame.
        faults: share of the films that get a fault.
        findings: share that get findings.
        left_out: families of faults and findings that are not used, to learn how a critic does on what it never saw.
        seed: a number makes what is done to a film depend on the film alone; None draws anew from torch's generator.

    Raises:
        InputError: a family that does not exist, or none left.
    """

    def __init__(
        self,
        augmentation: Augmentation | None = None,
        faults: float = 0.3,
        findings: float = 0.35,
        left_out: Sequence[str] = (),
        seed: int | None = None,
    ) -> None:
        self.augmentation, self.shares, self.seed = augmentation, (faults, findings), seed
        self.faults = [name for name in FAULTS if name not in left_out]
        self.findings = [name for name in FINDINGS if name not in left_out]
        if unknown := set(left_out) - {*FAULTS, *FINDINGS}:
            raise InputError(f"no family {', '.join(sorted(unknown))}; there are {', '.join([*FAULTS, *FINDINGS])}")
        if not self.faults or not self.findings:
            raise InputError("a critic needs at least one family of faults and one of findings")

    def __call__(
        self, batch: dict[str, Tensor], device: Any = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images = batch["image"] if self.augmentation is None else self.augmentation(batch["image"])
        films, kinds, where = [], [], []
        for i, film in enumerate(images[:, 0].numpy()):
            rng = np.random.default_rng(self._seed(film))
            share, changed, kind = rng.random(), np.zeros(film.shape, bool), NORMAL
            if self.augmentation is not None:
                film = _marked(_resampled(film, rng), rng)
            if share < self.shares[0]:
                film, kind = add_fault(film, rng, self.faults), FAULTY
            elif share < sum(self.shares):
                # A piece of another film depends on more than the film.
                other = images[i - 1, 0].numpy() if self.seed is None else None
                film, changed = add_findings(film, rng, self.findings, other)
                kind = DISEASED
            films.append(torch.from_numpy(film))
            kinds.append(kind)
            where.append(torch.from_numpy(changed))
        # A quarter of the film's size, as the critic's map.
        places = F.avg_pool2d(torch.stack(where)[:, None].float(), 4)
        targets = {"kind": torch.tensor(kinds), "places": places}
        moved = {name: value.to(device, non_blocking=non_blocking) for name, value in targets.items()}
        return torch.stack(films)[:, None].to(device=device, non_blocking=non_blocking, **kwargs), moved

    def _seed(self, film: np.ndarray) -> list[int]:
        if self.seed is None:
            return [int(torch.randint(2**62, (1,)))]
        return [self.seed, zlib.crc32(np.ascontiguousarray(film).tobytes())]


class CriticInferer(Inferer):
    """Runs a model's critic over films at the size of details, ``(N, 1, 2 S, 2 S)``."""

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """``(logits, places)`` of the critic, see :class:`monai_cxr_vae.scoring.Critic`."""
        with torch.no_grad():
            reconstruction = network.reconstruct(F.avg_pool2d(inputs, DETAIL))
            features = _features(inputs)
        return network.scorer.critic(inputs, reconstruction, features)


class CriticLoss(nn.Module):
    """Sum of three cross entropies: a fault, a finding, and (twice) a finding at each place.

    A faulty film says nothing of findings. ``terms`` holds the parts of the last call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.terms: dict[str, Tensor] = {}

    def forward(self, output: tuple[Tensor, Tensor], target: dict[str, Tensor]) -> Tensor:
        logits, places = output
        kind = target["kind"]
        proper = kind != FAULTY
        fault = F.binary_cross_entropy_with_logits(logits[:, 0], (kind == FAULTY).float())
        finding = F.binary_cross_entropy_with_logits(logits[:, 1], (kind == DISEASED).float(), proper.float())
        place = F.binary_cross_entropy_with_logits(places, target["places"], proper.float().view(-1, 1, 1, 1))
        loss = fault + finding + 2 * place
        self.terms = {"loss": loss.detach(), "fault": fault.detach(), "finding": finding.detach()}
        return loss


def auroc(kind: int) -> IgniteMetricHandler:
    """Area under the ROC curve of the critic's logit for faulty or diseased films against normal ones."""

    def values(output: dict[str, Any]) -> Tensor:
        return torch.cat([output["pred"][0].float(), output["label"]["kind"][:, None].float()], 1)

    def area(values: Tensor) -> Tensor:
        shown = values[(values[:, 2] == kind) | (values[:, 2] == NORMAL)]
        return torch.as_tensor(compute_roc_auc(shown[:, kind - 1], (shown[:, 2] == kind).float()))

    return film_values(values, area)


def _resampled(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every other film as if its pixels had been up to a quarter larger along one axis."""
    if rng.random() < 0.5:
        return film
    sides = [len(film), len(film)]
    sides[rng.integers(2)] = round(len(film) * rng.uniform(0.8, 1))
    return cv2.resize(cv2.resize(film, sides, interpolation=cv2.INTER_AREA), film.shape, interpolation=cv2.INTER_LINEAR)


def _marked(film: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Every third film with letters burned in near its upper or lower border, every sixth with a narrow frame.

    Each site has its own, and none of them is a finding.
    """
    size, draws = len(film), rng.random(2)
    film = film.copy()
    if draws[0] < 1 / 3:
        word = _LETTERS[rng.integers(len(_LETTERS))]
        x = rng.uniform(0.02, 0.25) if rng.random() < 0.5 else rng.uniform(0.65, 0.9)
        y = rng.uniform(0.04, 0.2) if rng.random() < 0.8 else rng.uniform(0.85, 0.98)
        canvas = np.zeros((4 * size, 4 * size), np.uint8)  # drawn large and reduced, as a film is
        scale = size / 32 * rng.uniform(0.35, 0.9) / len(word) ** 0.5
        place, thickness = (round(4 * size * x), round(4 * size * y)), max(1, round(size / 32 * rng.uniform(0.5, 1.5)))
        cv2.putText(canvas, word, place, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thickness, cv2.LINE_AA)
        cover = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
        film += cover / 255 * (rng.uniform(0.7, 1.0) - film)
    if draws[1] < 1 / 6:
        widths = np.rint(size * rng.uniform(0.0, 0.03, 4) * (rng.random(4) < 0.7)).astype(int)
        top, bottom, left, right = widths
        frame = np.ones_like(film, dtype=bool)
        frame[top : size - bottom, left : size - right] = False
        film[frame] = rng.choice([0.0, 1.0])
    return film


def _features(films: Tensor) -> Tensor:
    """Exposure and texture of films without padding, ``(N, 1, 2 S, 2 S)`` to ``(N, 15)``."""
    image, inside = F.avg_pool2d(films, DETAIL), torch.ones_like(films, dtype=torch.bool)
    return torch.cat([exposure(image, inside[..., ::DETAIL, ::DETAIL]), texture(films, inside)], 1)
