"""A step in bfloat16, and the refusal to emulate it."""

from __future__ import annotations

import logging

import pytest
import torch

from monai_cxr_vae.losses import VAELoss
from monai_cxr_vae.model import RadiographVAE
from monai_cxr_vae.training import PrecisionInferer, inferer


def step(network: RadiographVAE, films: torch.Tensor, bf16: bool) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Loss and gradient of one step with the same noise, and whether anything was computed in bfloat16."""
    seen: list[torch.dtype] = []
    hooks = [
        m.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
        for m in network.modules()
        if isinstance(m, torch.nn.Linear)
    ]
    network.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    loss = VAELoss()(PrecisionInferer("cpu", bf16)(films, network), films)
    loss.backward()
    for hook in hooks:
        hook.remove()
    gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    return loss.detach(), gradient, torch.bfloat16 in seen


@pytest.fixture
def network() -> RadiographVAE:
    torch.manual_seed(1)
    network = RadiographVAE(image_size=32, latent_size=6, channels=(8, 16), width=24).train()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


def test_bfloat16_step_is_the_float32_step_but_for_rounding(network: RadiographVAE, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inferer, "has_bfloat16", lambda device: True)
    films = torch.rand(16, 1, 32, 32)
    exact, rounded = step(network, films, False), step(network, films, True)
    assert (exact[2], rounded[2]) == (False, True)
    assert rounded[0].dtype == rounded[1].dtype == torch.float32
    assert float(rounded[0]) == pytest.approx(float(exact[0]), rel=0.02)
    assert torch.cosine_similarity(exact[1], rounded[1], 0) > 0.95


def test_a_device_without_bfloat16_trains_in_float32_and_says_so(
    network: RadiographVAE, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(inferer, "has_bfloat16", lambda device: False)
    with caplog.at_level(logging.WARNING, "monai_cxr_vae"):
        assert not step(network, torch.rand(4, 1, 32, 32), True)[2]
    assert "training in float32" in caplog.text
