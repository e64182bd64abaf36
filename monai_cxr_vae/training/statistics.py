"""The statistics of a run: taken from the weights at its start, since they no longer hold, and fitted at its end."""

from __future__ import annotations

import copy
import logging
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from ignite.engine import Events
from monai.engines import Workflow
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter

from monai_cxr_vae.data.cache import FilmDataset
from monai_cxr_vae.data.pictures import draw_heat
from monai_cxr_vae.model import RadiographVAE, load_model, save_model
from monai_cxr_vae.networks import HierarchicalVAE
from monai_cxr_vae.scoring import FEWEST_FILMS, check_films, detail_films, fit_scorer, score
from monai_cxr_vae.scoring.scorer import DETAIL, Scorer
from monai_cxr_vae.training.priors import fit_vector_flow

logger = logging.getLogger(__name__)


class ForgetStatistics:
    """Takes from a network, when a run starts, what only holds for the weights that it went on from; a critic stays.

    A run that is killed then leaves weights that say so, and not the statistics of others. Scores stay where the films
    are too few to fit others: a stock of films that begins with five keeps its ranking. Attach it before
    :class:`Checkpoints`.

    Args:
        network: the trained network.
        averaged: running average of its weights.
        dataset: training films.
    """

    def __init__(self, network: RadiographVAE, averaged: AveragedModel, dataset: FilmDataset) -> None:
        self.models = network, cast(RadiographVAE, averaged.module)
        self.fits_scores = len(dataset) >= FEWEST_FILMS

    def attach(self, engine: Workflow) -> None:
        """Act when ``engine`` starts."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        for model in self.models:
            forget_statistics(model, self.fits_scores)


def forget_statistics(model: RadiographVAE, scores: bool = True) -> None:
    """Take from a model what only holds for the weights that it had before; a critic stays.

    Args:
        model: changed in place.
        scores: whether to take its scores too.
    """
    model.sigma.fill_(math.nan)
    if model.fits_latents:
        model.latent_mean.fill_(math.nan)
        model.latent_covariance.fill_(math.nan)
        model.latent_flow = None
    model.settings["training"] = {}
    if scores:
        critic = model.scorer.critic if model.scorer else None
        model.scorer = None
        if critic is not None:
            model.scorer = Scorer(model.image_size, model.latent_size, critic=True, films=0).to(model.sigma.device)
            model.scorer.critic = critic


class FitStatistics:
    """Writes into the best weights, when a run ends, what only a pass over the films can tell.

    ``sigma``: root mean square error of reconstructions from sampled latents of the validation films, the decoder's
    standard deviation in the evidence lower bound; padding does not count. ``latent_mean``, ``latent_covariance`` and
    ``latent_flow``: of the training films' posterior means, for a vector of latents; ``code_flow``: of draws from the
    posterior of the codes, for a hierarchical network. ``scorer``: fitted to the training films and told
    against the validation films (:func:`monai_cxr_vae.scoring.fit_scorer`), for a vector of latents and at least ten
    training films; a critic of the weights that the run went on from is kept; TensorBoard then shows heat maps of eight
    validation films. ``training``: a summary for the model card.

    Args:
        weights: the run's weights file.
        network: the trained network.
        dataset: training films.
        val_dataset: validation films.
        summary: settings of the run that the weights file shall tell.
        cache_dir: as of the data sets.
    """

    def __init__(
        self,
        weights: str,
        network: RadiographVAE,
        dataset: FilmDataset,
        val_dataset: FilmDataset,
        summary: dict[str, Any],
        cache_dir: str | None = None,
    ) -> None:
        self.network = network
        self.weights, self.dataset, self.val_dataset, self.summary = Path(weights), dataset, val_dataset, summary
        self.cache_dir = cache_dir

    def attach(self, engine: Workflow) -> None:
        """Act when ``engine`` has completed its run."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        if engine.state.rank == 0:
            model = load_model(self.weights, copy.deepcopy(self.network.own_network))
            fit_statistics(model, self.dataset, self.val_dataset)
            if model.fits_latents and len(self.dataset) < FEWEST_FILMS:
                what = "scores stay those of the earlier weights; calibrate them anew" if model.scorer else "no scores"
                logger.info("%s: they need %d training films, not %d", what, FEWEST_FILMS, len(self.dataset))
            elif model.fits_latents:
                films, others = (detail_films(model, d.data, self.cache_dir) for d in (self.dataset, self.val_dataset))
                fit_scorer(model, films, others, model.scorer.critic if model.scorer else None)
                self._draw_heat(model, others, engine.state.epoch)
            model.settings["training"] = dict(self.summary)
            save_model(model, self.weights)
            logger.info("best weights with their statistics: %s", self.weights)

    def _draw_heat(self, model: RadiographVAE, films: FilmDataset, epoch: int) -> None:
        batch = films.__getitems__(range(min(8, len(films))))
        image, mask = (F.avg_pool2d(batch[key].float(), DETAIL) for key in ("image", "mask"))
        heat = score(model, image, batch["image"], mask > 0.5)[1]
        pictures = [
            draw_heat(film.numpy(), values.numpy()) for film, values in zip(image[:, 0], heat[:, 0], strict=True)
        ]
        # A folder of its own: TensorBoard orders files of one second by a number's text, and what it reads before the
        # run's own start it drops.
        with SummaryWriter(str(self.weights.parent / "tensorboard" / "scores")) as writer:
            writer.add_image("heat maps", np.concatenate(pictures, axis=1), epoch, dataformats="HWC")


class FitScores:
    """Fits the scorer of the best weights to the films of the run, when it ends.

    Args:
        weights: the run's weights file.
        network: the model whose critic is trained.
        dataset: normal films at the size of details.
        val_dataset: others, for the p-values.

    Raises:
        InputError: too few films, before the training that would be in vain.
    """

    def __init__(self, weights: str, network: RadiographVAE, dataset: FilmDataset, val_dataset: FilmDataset) -> None:
        check_films(dataset, val_dataset)
        self.weights, self.network, self.dataset, self.val_dataset = weights, network, dataset, val_dataset

    def attach(self, engine: Workflow) -> None:
        """Act when ``engine`` has completed its run."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        if engine.state.rank == 0:
            model = load_model(self.weights, copy.deepcopy(self.network.own_network))
            fit_scorer(model, self.dataset, self.val_dataset, model.scorer.critic)  # type: ignore[union-attr]
            save_model(model, self.weights)


@torch.no_grad()
def fit_statistics(model: RadiographVAE, dataset: FilmDataset, val_dataset: FilmDataset) -> None:
    """Set a model's ``sigma`` and the density of its latents from films (see :class:`FitStatistics`).

    Args:
        model: changed in place.
        dataset: training films, which tell the density.
        val_dataset: validation films, which tell ``sigma``.
    """
    if model.fits_latents:
        mu, val_mu = (
            torch.cat([model.encode(batch["image"])[0] for batch in films.batches("latents")])
            for films in (dataset, val_dataset)
        )
        model.latent_mean.copy_(mu.double().mean(0))
        model.latent_covariance.copy_(torch.cov(mu.double().T).reshape(model.latent_covariance.shape))
        model.latent_flow = fit_vector_flow(mu, val_mu).requires_grad_(False).to(model.sigma.device)
    elif isinstance(model.network, HierarchicalVAE):
        codes, val_codes = (_drawn_codes(model.network, films) for films in (dataset, val_dataset))
        model.network.code_flow = fit_vector_flow(codes, val_codes, epochs=200)
    noise, squares = torch.Generator().manual_seed(0), []
    for batch in val_dataset.batches("sigma"):
        images, masks = batch["image"], batch["mask"]
        mean, logvar = model.encode(images)
        z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=noise)
        squares.append(((model.decode(z) - images).square() * masks).flatten(1).sum(1) / masks.flatten(1).sum(1))
    model.sigma.copy_(torch.cat(squares).double().mean().sqrt())


def _drawn_codes(network: HierarchicalVAE, films: FilmDataset, draws: int = 4) -> torch.Tensor:
    """Codes drawn from the posterior of each film, ``(draws * N, codes)``."""
    noise = torch.Generator().manual_seed(0)
    posteriors = [network.codes.encode(F.avg_pool2d(batch["image"], 4)) for batch in films.batches("codes")]
    mu, logvar = (torch.cat(part).repeat(draws, 1) for part in zip(*posteriors, strict=True))
    return mu + (0.5 * logvar).exp() * torch.randn(mu.shape, generator=noise)
