"""Handlers of the training loop, each on its own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from monai_cxr_vae.training import GradientGuard
from monai_cxr_vae.training.handlers import TrainingDiverged


def network_with_gradients(largest: float) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter) * largest
    network[1].bias.grad = None  # a part that took no part
    return network


@pytest.mark.parametrize("largest", [0.01, 100.0])
def test_guard_clips_as_pytorch_does(largest: float):
    ours, theirs = network_with_gradients(largest), network_with_gradients(largest)
    GradientGuard(ours, 1.0).clip(SimpleNamespace())
    nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_gradient_that_is_no_number_ends_the_run():
    network = network_with_gradients(1.0)
    network[0].weight.grad[0, 0] = float("nan")
    engine = SimpleNamespace(state=SimpleNamespace(epoch=1, iteration=3))
    with pytest.raises(TrainingDiverged, match="the gradient is not finite in epoch 1, iteration 3"):
        GradientGuard(network, 1.0).clip(engine)
