"""What is asked of a network, and what is told of one that is not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.networks import check_network


class Blocks(nn.Module):
    """A film's block means as latents; batch statistics on the way, which a look at it must not touch."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.image_size, self.latent_shape = 8, (1, 2, 2)
        self.norm = nn.BatchNorm2d(1)
        for name, value in changes.items():
            setattr(self, name, value)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu = nn.functional.avg_pool2d(self.norm(x), 4)
        return mu, torch.zeros_like(mu)

    def decode(self, z: Tensor) -> Tensor:
        return nn.functional.interpolate(z, scale_factor=4.0)


def test_a_network_that_fits_stays_as_it_is():
    network = Blocks()
    network.norm.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    check_network(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert (network.training, network.norm.training) == (True, False)
    assert not network.norm.weight.grad


@pytest.mark.parametrize(
    ("network", "line"),
    [
        (nn.Linear(2, 2), "network Linear has no encode, decode, image_size, latent_shape"),
        (torch.zeros(3), "a network must be a torch.nn.Module, not Tensor"),
        (Blocks(decode=None), "network Blocks has no decode"),
        (Blocks(image_size=8.0), "image_size of network Blocks must be a positive whole number, not 8.0"),
        (Blocks(latent_shape=4), "latent_shape of network Blocks must be positive whole numbers, not 4"),
        (Blocks(latent_shape=()), "latent_shape of network Blocks must be positive whole numbers, not ()"),
        (Blocks(latent_shape=(4,)), "encode of network Blocks gives (1, 1, 2, 2) and (1, 1, 2, 2), not twice (1, 4)"),
        (Blocks(encode=lambda x: x), "encode of network Blocks fails for a film: ValueError: not enough values"),
        (Blocks(decode=lambda z: z), "decode of network Blocks gives (1, 1, 2, 2), not (1, 1, 8, 8)"),
        (Blocks(decode=lambda z: z @ z.flatten(1)), "decode of network Blocks fails for latents: RuntimeError: "),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_network_lacks_is_one_line(network: Any, line: str):
    with pytest.raises(InputError) as refused:
        check_network(network)
    (said,) = str(refused.value).splitlines()
    assert said.startswith(line)
