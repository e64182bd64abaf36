"""Handlers of the training loop that MONAI and ignite lack: seeding, PCA start, guards, running average."""

from __future__ import annotations

import logging
from typing import Any

import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.engines import Workflow
from monai.engines.utils import IterationEvents
from torch import nn
from torch.optim.swa_utils import AveragedModel

from monai_cxr_vae.data.cache import FilmDataset
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.losses import VAELoss, collapse_limit
from monai_cxr_vae.model import RadiographVAE

logger = logging.getLogger(__name__)


class TrainingDiverged(InputError):
    """The loss or its gradient is not finite."""


class EpochSeed:
    """Seeds torch at the start of each epoch, so that every draw is a function of (seed, epoch, rank).

    A resumed run then repeats the uninterrupted one without a saved generator state.

    Args:
        seed: any integer.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Workflow) -> None:
        """Act at the start of each epoch of ``engine``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        state = torch.Generator().manual_seed(self.seed).initial_seed()
        torch.manual_seed((state * 1_000_003 + engine.state.epoch * 1009 + engine.state.rank) % 2**63)


class LinearStart:
    """Starts a fresh run from the principal components of the training films, of several ranks all from the first's.

    A network that has no such start (``initialize_linear``) keeps the one that it was made with.

    Args:
        network: the model to be trained.
        dataset: training films.
    """

    def __init__(self, network: RadiographVAE, dataset: FilmDataset) -> None:
        self.network, self.dataset = network, dataset

    def attach(self, engine: Workflow) -> None:
        """Act when ``engine`` starts."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        start = getattr(self.network.network, "initialize_linear", None)
        if start is not None and engine.state.iteration == 0:
            start(self.dataset.view("image"))
            if dist.is_available() and dist.is_initialized():
                # Another machine may find a component's mirror image.
                for tensor in (*self.network.parameters(), *self.network.buffers()):
                    dist.broadcast(tensor.data, 0)


class CollapseNotice:
    """Says before the first step when a fixed KL weight is so large that every latent must be ignored.

    Args:
        loss_function: of the run.
        dataset: training films.
    """

    def __init__(self, loss_function: VAELoss, dataset: FilmDataset) -> None:
        self.loss_function, self.dataset = loss_function, dataset

    def attach(self, engine: Workflow) -> None:
        """Act when ``engine`` starts."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        weight = self.loss_function.kl_weight
        if weight == "auto":
            return
        limit = collapse_limit(self.dataset.images(1000))
        if weight >= limit:
            logger.warning(
                "kl_weight %g must collapse: on these films the latents are used only below %.3g; "
                "every reconstruction will be the mean film",
                weight,
                limit,
            )


class GradientGuard:
    """Clips the gradient's norm and ends the run before anything that is not finite can touch the weights.

    The loss is looked at before its gradient is asked for: PyTorch's ``grid_sample`` reads outside of its input when it
    is differentiated at a coordinate that is not a number.

    Args:
        network: whose parameters are trained.
        max_norm: largest gradient norm; the loss is in nats, so it means the same at every image size.
    """

    def __init__(self, network: nn.Module, max_norm: float) -> None:
        self.network, self.max_norm = network, max_norm

    def attach(self, engine: Workflow) -> None:
        """Act on each loss of ``engine``, and on each gradient before the step."""
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self.check_loss)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self.clip)

    def check_loss(self, engine: Workflow) -> None:
        self._check("loss", engine.state.output["loss"], engine)

    def clip(self, engine: Workflow) -> None:
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        self._check("gradient", norm, engine)
        if norm > self.max_norm:  # PyTorch's own clipping also writes the gradients that it leaves as they are
            for gradient in gradients:
                gradient.mul_(self.max_norm / norm)

    @staticmethod
    def _check(what: str, value: torch.Tensor, engine: Workflow) -> None:
        if not torch.isfinite(value):
            raise TrainingDiverged(
                f"the {what} is not finite in epoch {engine.state.epoch}, iteration {engine.state.iteration}; "
                "the last checkpoint is intact"
            )


class UpdateAverage:
    """Updates the running average of the weights, not after every step: each update reads all weights.

    Args:
        averaged: the average.
        network: whose weights are averaged.
        interval: steps from one update to the next.
    """

    def __init__(self, averaged: AveragedModel, network: nn.Module, interval: int) -> None:
        self.averaged, self.network, self.interval = averaged, network, interval

    def attach(self, engine: Workflow) -> None:
        """Act after every ``interval`` steps of ``engine``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self)

    def __call__(self, engine: Workflow) -> None:
        self.averaged.update_parameters(self.network)


class Posterior:
    """Adds posterior, prior (of the latents' means) and the film's ``mask`` to a validation step's output.

    Args:
        network: the model that is validated.
    """

    def __init__(self, network: RadiographVAE) -> None:
        self.network = network

    def attach(self, engine: Workflow) -> None:
        """Act on each forward pass of ``engine``, an evaluator."""
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self)

    def __call__(self, engine: Workflow) -> None:
        output: Any = engine.state.output
        batch: Any = engine.state.batch
        output["mu"], output["logvar"] = self.network.encode(output["image"])
        output["prior_mu"], output["prior_logvar"] = self.network.prior(output["mu"])
        output["mask"] = batch["mask"].to(output["image"].device)
