"""What a network must have, and what all of our own share: the two forms of the forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from monai_cxr_vae.errors import InputError


class VAENetwork(Protocol):
    """What :class:`monai_cxr_vae.model.RadiographVAE` asks of the module that it has as its network.

    Films are ``(N, 1, image_size, image_size)`` float tensors in [0, 1], latents ``(N, *latent_shape)``. Any
    ``torch.nn.Module`` with these four fits; :func:`check_network` says what one lacks. To be exported as TorchScript
    ``encode`` and ``decode`` must script.

    A network may have more, and what needs it is left out where it has not:

    * ``initialize_linear(images)`` starts a fresh training from films, before the first step. They may be more than fit
      into memory: ``images[i:j]`` reads some, ``(j - i, 1, S, S)``, and ``len(images)`` counts all.
    * ``learns_prior = True``, ``prior(z)`` and ``sample_latents(n, generator)``, as those of :class:`AnyVAE`: the prior
      of the latents is learned, and not the standard normal.
    * parameters in modules named ``linear_...`` learn slowly (:func:`monai_cxr_vae.training.parameter_groups`).

    A density of the latents, and scores, are fitted when ``latent_shape`` is that of a vector.

    Attributes:
        image_size: side of the square film in pixels.
        latent_shape: shape of one film's latents, ``(C,)`` or ``(C, H, W)``.
    """

    image_size: int
    latent_shape: tuple[int, ...]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior of films.

        Args:
            x: ``(N, 1, S, S)`` in [0, 1].

        Returns:
            ``(mu, logvar)``, its means and the logarithms of its variances, each ``(N, *latent_shape)``.
        """
        ...

    def decode(self, z: Tensor) -> Tensor:
        """The films of latents.

        Args:
            z: ``(N, *latent_shape)``.

        Returns:
            ``(N, 1, S, S)``, about [0, 1], not clamped.
        """
        ...


class AnyVAE(nn.Module):
    """A VAE for square grey films, whatever the shape of its latents; a :class:`VAENetwork`.

    Films are ``(N, 1, image_size, image_size)`` float tensors in [0, 1]; the output is linear, so a reconstruction may
    leave that range slightly: clamp it for display and metrics only. Latents are ``(N, *latent_shape)``,
    ``latent_size`` values per film; their prior is the standard normal unless the network learns one.

    In ``train()`` mode `forward` returns ``(reconstruction, mu, logvar)`` of a sampled latent, drawn from torch's
    global generator, and a network that learns a prior adds ``prior_mu`` and ``prior_logvar``. In ``eval()`` mode it
    returns the reconstruction from the posterior mean alone, which is deterministic; ``torch.jit.script`` keeps that
    form together with `encode`, `decode` and `reconstruct`.
    """

    learns_prior = False

    if TYPE_CHECKING:  # TorchScript would read these annotations, and cannot
        image_size: int
        latent_size: int
        latent_shape: tuple[int, ...]

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The posterior of films.

        Args:
            x: ``(N, 1, S, S)`` in [0, 1].

        Returns:
            ``(mu, logvar)``, its means and the logarithms of its variances, each ``(N, *latent_shape)``.
        """
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """The films of latents.

        Args:
            z: ``(N, *latent_shape)``.

        Returns:
            ``(N, 1, S, S)``, about [0, 1], not clamped.
        """
        raise NotImplementedError

    @torch.jit.unused
    def prior(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The prior of latents: of a level, given those above it.

        Args:
            z: ``(N, *latent_shape)``.

        Returns:
            Means and logarithms of the variances, each of the shape of ``z``.
        """
        return torch.zeros_like(z), torch.zeros_like(z)

    @torch.jit.unused
    def sample_latents(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw latents from the prior.

        Args:
            n: how many.
            generator: of the CPU.

        Returns:
            ``(n, *latent_shape)``, on the device of the network.
        """
        device = next(self.parameters()).device
        return torch.randn(n, *self.latent_shape, generator=generator).to(device)

    @torch.jit.export
    def reconstruct(self, x: Tensor) -> Tensor:
        """Films to their reconstructions from the posterior mean.

        Args:
            x: ``(N, 1, S, S)`` in [0, 1].

        Returns:
            ``(N, 1, S, S)``, about [0, 1], not clamped.
        """
        return self.decode(self.encode(x)[0])

    def forward(self, x: Tensor):
        """What a training step needs of a sampled latent when training, else the reconstruction alone."""
        if torch.jit.is_scripting() or not self.training:
            return self.reconstruct(x)
        mu, logvar = self.encode(x)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        if self.learns_prior:
            prior_mu, prior_logvar = self.prior(z)
            return self.decode(z), mu, logvar, prior_mu, prior_logvar
        return self.decode(z), mu, logvar


def check_films(x: Tensor, size: int) -> None:
    """Refuse what is no batch of films of that size.

    Args:
        x: the batch.
        size: side S in pixels.

    Raises:
        ValueError: its shape is not ``(N, 1, S, S)``.
    """
    if x.dim() != 4 or x.size(1) != 1 or x.size(2) != size or x.size(3) != size:
        raise ValueError(f"expected films of shape (N, 1, {size}, {size}), got {x.shape}")


def check_network(network: Any) -> None:
    """Refuse a module that is no :class:`VAENetwork`, after a film without content has passed through it.

    Args:
        network: anything.

    Raises:
        InputError: it is no module, lacks something, or gives other shapes than it says.
    """
    name = type(network).__name__
    if not isinstance(network, nn.Module):
        raise InputError(f"a network must be a torch.nn.Module, not {name}")
    lacks = [part for part in ("encode", "decode") if not callable(getattr(network, part, None))]
    lacks += [part for part in ("image_size", "latent_shape") if not hasattr(network, part)]
    if lacks:
        raise InputError(f"network {name} has no {', '.join(lacks)}")
    size, shape = network.image_size, network.latent_shape
    if type(size) is not int or size < 1:
        raise InputError(f"image_size of network {name} must be a positive whole number, not {size!r}")
    if not isinstance(shape, tuple | list) or not shape or not all(type(n) is int and n > 0 for n in shape):
        raise InputError(f"latent_shape of network {name} must be positive whole numbers, not {shape!r}")
    device = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), None)
    film = torch.zeros(1, 1, size, size, device=device)
    with torch.no_grad(), _evaluation_mode(network):
        try:
            mu, logvar = network.encode(film)
            shapes = [tuple(mu.shape), tuple(logvar.shape)]
        except Exception as error:
            raise InputError(f"encode of network {name} fails for a film: {_line(error)}") from error
        if shapes != [(1, *shape)] * 2:
            raise InputError(f"encode of network {name} gives {shapes[0]} and {shapes[1]}, not twice {(1, *shape)}")
        try:
            made = tuple(network.decode(mu).shape)
        except Exception as error:
            raise InputError(f"decode of network {name} fails for latents: {_line(error)}") from error
    if made != tuple(film.shape):
        raise InputError(f"decode of network {name} gives {made}, not {tuple(film.shape)}")


@contextmanager
def _evaluation_mode(network: nn.Module) -> Iterator[None]:
    """In which no layer learns from what it sees."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
