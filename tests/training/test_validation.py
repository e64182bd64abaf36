"""Metrics that are told from sums over batches."""

from __future__ import annotations

import torch

from monai_cxr_vae.training.validation import active


def test_active_units_of_batches_are_those_of_all_films():
    generator = torch.Generator().manual_seed(0)
    mu = 3 + torch.linspace(0, 0.3, 60).view(6, 10) * torch.randn(50, 6, 10, generator=generator)  # a grid of latents
    expected = int((mu.flatten(1).var(0) > 0.01).sum())
    assert 10 < expected < 50
    metric = active()
    for part in mu.split(8):
        metric.update(metric._output_transform({"mu": part}))
    assert int(metric.compute()) == expected
