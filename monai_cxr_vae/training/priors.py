"""Training the learned priors: the flows of a hierarchical VAE, and the density of a vector of latents."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from monai.handlers import IgniteMetricHandler
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.losses import flow_loss
from monai_cxr_vae.model import RadiographVAE, load_model
from monai_cxr_vae.networks import HierarchicalVAE
from monai_cxr_vae.networks.flow import VectorFlow, interpolate, linear_velocity, random_times
from monai_cxr_vae.training.inferer import PrecisionInferer
from monai_cxr_vae.training.validation import film_values

LEVELS = ("film", "details")


def model_with_priors(weights: str | os.PathLike, level: str) -> RadiographVAE:
    """A trained hierarchical model of which only the flow of one level can still learn.

    Args:
        weights: of a run with preset ``hierarchical``.
        level: ``"film"`` or ``"details"``.

    Raises:
        InputError: an unknown level, or weights of another preset.
    """
    if level not in LEVELS:
        raise InputError(f"unknown level {level!r}; there are {', '.join(LEVELS)}")
    model = load_model(weights)
    if not isinstance(model.network, HierarchicalVAE):
        raise InputError(f"{weights} has no learned priors; train preset hierarchical first")
    model.requires_grad_(False)
    getattr(model.network, level).flow.requires_grad_(True)
    return model


class FlowInferer(Inferer):
    """Asks a level's flow for its velocity at random times between noise and a film's latents.

    Args:
        level: ``"film"`` or ``"details"``.
        precision: how the flow is called; what it is asked about is computed in float32.
        disturb: standard deviation of noise that is added to the small film that details are told by, in the unit of
            the latents: one that is drawn is never quite like those of the training (Ho et al. 2022).
        seed: a number makes times and noise the same in every pass; None draws them from torch's generator.
    """

    def __init__(self, level: str, precision: PrecisionInferer, disturb: float = 0.0, seed: int | None = None) -> None:
        self.level, self.precision, self.disturb, self.seed = level, precision, disturb, seed

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
        """``(velocity, target, linear)``: the flow's, what it should be, and that of a standard normal, each folded."""
        with torch.random.fork_rng(enabled=self.seed is not None):
            if self.seed is not None:
                torch.manual_seed(self.seed)
            levels = network.network
            level = getattr(levels, self.level)
            with torch.no_grad():
                mu, logvar = levels.encode(inputs)
                codes, film, details = levels.split(mu + (0.5 * logvar).exp() * torch.randn_like(mu))
                above, latents = (levels.outline(codes), film) if self.level == "film" else (film, details)
                above = above + self.disturb * torch.randn_like(above)
                latents = level.standardize(latents, above)
                noise, time = torch.randn_like(latents), random_times(len(latents), latents.device)
                x, condition = interpolate(latents, noise, time), level.condition(above)
            velocity = self.precision(x, level.flow, condition, time)
        return velocity, latents - noise, linear_velocity(x, time)


class FlowLoss(nn.Module):
    """Mean squared error of the velocity. ``terms`` holds the last batch's, and how much less it is than linear."""

    def __init__(self) -> None:
        super().__init__()
        self.terms: dict[str, Tensor] = {}

    def forward(self, output: tuple[Tensor, Tensor, Tensor], _: Tensor) -> Tensor:
        velocity, target, linear = output
        loss = flow_loss(velocity, target).mean()
        self.terms = {"loss": loss.detach(), "gain": flow_loss(linear, target).mean() - loss.detach()}
        return loss


def gain() -> IgniteMetricHandler:
    """Mean over films of how much smaller the velocity's squared error is than that of a standard normal."""

    def per_film(output: dict[str, Any]) -> Tensor:
        velocity, target, linear = output["pred"]
        return flow_loss(linear, target) - flow_loss(velocity, target)

    return film_values(per_film)


def fit_vector_flow(latents: Tensor, val_latents: Tensor, epochs: int = 800, seed: int = 0) -> VectorFlow:
    """Fit a flow to vectors of latents; the state that tells most of other films' is kept.

    Args:
        latents: ``(N, size)``, of training films.
        val_latents: ``(M, size)``, of other films; of more than 1,000 that many are looked at, evenly chosen.
        epochs: passes over them, in batches of 256; over more than 5,000 as many steps as over 5,000.
        seed: of the start, the batches and the noise.

    Returns:
        The flow in evaluation mode; the standard normal where there are too few vectors for a full covariance.
    """
    with torch.enable_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        flow = VectorFlow(latents.shape[1])
        if len(latents) <= latents.shape[1]:
            return flow.eval()
        flow.whiten(latents)
        chosen = torch.linspace(0, len(val_latents) - 1, min(len(val_latents), 1000)).round().long()
        rows, others = flow.standardize(latents), flow.standardize(val_latents[chosen]).repeat(8, 1)
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(others.shape, generator=generator)
        time = torch.rand(len(others), generator=generator)
        optimizer = torch.optim.AdamW(flow.parameters(), 1e-3, weight_decay=0.01)
        steps = epochs * -(-min(len(rows), 5000) // 256)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        best, kept = math.inf, flow.state_dict()
        for step in range(steps + 1):
            if step % 100 == 0:
                flow.eval()
                with torch.no_grad():
                    loss = float(_flow_loss(flow, others, noise, time))
                if loss < best:
                    best, kept = loss, {name: value.clone() for name, value in flow.state_dict().items()}
                flow.train()
            batch = rows[torch.randint(len(rows), (min(256, len(rows)),))]
            loss_now = _flow_loss(flow, batch, torch.randn_like(batch), torch.rand(len(batch)))
            optimizer.zero_grad()
            loss_now.backward()
            optimizer.step()
            schedule.step()
        flow.load_state_dict(kept)
    return flow.eval()


def _flow_loss(flow: VectorFlow, latents: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    return flow_loss(flow(interpolate(latents, noise, time), time), latents - noise).mean()
