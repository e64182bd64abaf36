"""MONAI's variational autoencoders as networks of this package."""

from __future__ import annotations

import torch
from monai.networks.nets import AutoencoderKL, VarAutoEncoder
from torch import Tensor, nn

__all__ = ["MonaiVAE"]


class MonaiVAE(nn.Module):
    """MONAI's ``AutoencoderKL`` or ``VarAutoEncoder`` as a :class:`monai_cxr_vae.networks.VAENetwork`.

    Args:
        model: for one channel and two dimensions.
        image_size: side of the square film in pixels.

    Raises:
        ValueError: a model that cannot take such a film.
    """

    def __init__(self, model: AutoencoderKL | VarAutoEncoder, image_size: int) -> None:
        super().__init__()
        self.model, self.image_size = model, image_size
        training = model.training
        with torch.no_grad():
            try:
                mu, _ = self.eval().encode(torch.zeros(1, 1, image_size, image_size))
            except RuntimeError as error:
                raise ValueError(f"{type(model).__name__} takes no film of {image_size} pixels: {error}") from error
        self.train(training)
        self.latent_shape = tuple(mu.shape[1:])

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Films ``(N, 1, S, S)`` to the posterior's ``(mu, logvar)``, each ``(N, *latent_shape)``."""
        if isinstance(self.model, VarAutoEncoder):
            return self.model.encode_forward(x)
        mu, deviation = self.model.encode(x)
        return mu, 2 * deviation.log()

    def decode(self, z: Tensor) -> Tensor:
        """Latents ``(N, *latent_shape)`` to films ``(N, 1, S, S)``."""
        if isinstance(self.model, VarAutoEncoder):
            return self.model.decode_forward(z, self.model.use_sigmoid)
        return self.model.decode(z)
