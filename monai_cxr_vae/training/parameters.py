"""Learning rates and weight decay of the network's parts."""

from __future__ import annotations

from typing import Any

from torch import nn

from monai_cxr_vae.networks import AnyVAE


def parameter_groups(network: AnyVAE, learning_rate: float, weight_decay: float = 0.01) -> list[dict[str, Any]]:
    """Groups for an optimiser: the image-sized linear maps move slowly, and only matrices decay.

    The linear maps start as principal components; with thousands of inputs each, steps of the common size would lose
    that start in the first epoch, and decay would pull them off it.

    Parameters that need no gradient are in no group.

    Args:
        network: a VAE; linear maps are those in modules named ``linear_...``.
        learning_rate: of everything else; the linear maps get a tenth at 64 pixels and less at more, since a step of
            all of a unit's weights moves its output in proportion to their number.
        weight_decay: of the matrices and kernels of everything else.
    """
    linear: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        is_map = any(part.startswith("linear_") for part in name.split("."))
        group = linear if is_map else matrices if parameter.dim() > 1 else vectors
        group.append(parameter)
    return [
        {"params": matrices, "lr": learning_rate, "weight_decay": weight_decay},
        {"params": vectors, "lr": learning_rate, "weight_decay": 0.0},
        {"params": linear, "lr": 0.1 * learning_rate * min(1.0, 64 / network.image_size), "weight_decay": 0.0},
    ]
