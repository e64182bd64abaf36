"""What sites that train together share: the trained parameters of a model, by name, and nothing else of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.model import RadiographVAE, create_model


class SharedWeights(nn.Module):
    """A model whose state dict holds its trained parameters alone.

    That is what a federation averages. Settings, statistics of films, scores and what is kept from training stay where
    they are: they tell of a site's own films, or an average of them means nothing.

    Args:
        model: the model; what is loaded here goes into its parameters.
    """

    def __init__(self, model: RadiographVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        """As of the model."""
        return self.model(x)

    def state_dict(self, *_: Any, **__: Any) -> Any:
        """Trained parameters by the names that they have in the model, ``{name: tensor}``."""
        return {name: value.detach() for name, value in self.model.named_parameters() if value.requires_grad}

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Tensor], *_: Any, **__: Any) -> None:
        """Take over the trained parameters of another site or the server.

        Raises:
            InputError: they belong to another network.
        """
        own = self.state_dict()
        if {name: value.shape for name, value in state_dict.items()} != {n: value.shape for n, value in own.items()}:
            raise InputError("the weights that were sent belong to another network than this one")
        for name, value in own.items():
            value.copy_(state_dict[name])


def shared_weights(weights: str | os.PathLike) -> SharedWeights:
    """What a federation shares of a weights file, or of shipped weights by their name: for a server to begin with.

    Args:
        weights: the file or the name.

    Returns:
        The weights, to be exchanged by their state dict.

    Raises:
        InputError: no such file, or not a weights file of this package.
    """
    return SharedWeights(create_model(weights))
