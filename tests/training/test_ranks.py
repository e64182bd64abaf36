"""Several processes compute what one computes of the same films."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from monai_cxr_vae.losses import VAELoss
from monai_cxr_vae.model import RadiographVAE

pytestmark = pytest.mark.training

RANKS, BATCH, LATENTS = 2, 6, 5


def network() -> RadiographVAE:
    torch.manual_seed(1)
    made = RadiographVAE(image_size=32, latent_size=LATENTS, channels=(8, 16), width=24)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return made.train()


def films_and_noise() -> tuple[torch.Tensor, torch.Tensor]:
    """Films of which the ranks have unlike parts, so that a weight from a rank's own error would show."""
    generator = torch.Generator().manual_seed(2)
    brightness = torch.linspace(0.1, 1, BATCH).view(-1, 1, 1, 1)
    films = torch.rand(BATCH, 1, 32, 32, generator=generator) * brightness
    return films, torch.randn(BATCH, LATENTS, generator=generator)


def step(net: torch.nn.Module, part: slice) -> dict[str, torch.Tensor]:
    """The gradient of each parameter and the KL weight; the network's only draw is replaced by the fixed noise."""
    films, noise = films_and_noise()
    loss_function, draw = VAELoss(), torch.randn_like
    torch.randn_like = lambda mu: noise[part].to(mu)
    try:
        loss_function(net(films[part]), films[part]).backward()
    finally:
        torch.randn_like = draw
    gradients = {name.removeprefix("module."): p.grad for name, p in net.named_parameters() if p.grad is not None}
    return gradients | {"lambda": loss_function.terms["lambda"]}


def rank_step(rank: int, port: int, folder: str) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=RANKS, rank=rank)
    share = BATCH // RANKS
    torch.save(step(DistributedDataParallel(network()), slice(rank * share, (rank + 1) * share)), f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_gradients_are_those_of_one_process_with_the_whole_batch(tmp_path: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(rank_step, (port, str(tmp_path)), nprocs=RANKS)
    whole = step(network(), slice(None))
    own = step(network(), slice(0, BATCH // RANKS))
    assert abs(own["lambda"] / whole["lambda"] - 1) > 0.1  # the test could tell
    for rank in range(RANKS):
        found = torch.load(tmp_path / f"{rank}.pt")
        assert found.keys() == whole.keys()
        for name, expected in whole.items():
            torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
