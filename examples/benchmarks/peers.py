"""Our network and its peers, trained from scratch on the same films for the same time.

The time is that of the process's threads: on an idle machine the clock's, and the same share for all on a busy one. All
train at 64 px with the same threads and one-cycle learning rate, which follows the time instead of a count of steps;
all have 128 latents but ResNetAE, which has 4,608. Batches are of 64, and smaller for the networks that see few films
in the time: 16 for AutoencoderKL, 8 for ResNetAE (a second and more per film on a CPU core). Ours and "VarAutoEncoder,
our recipe" differ in the network alone: loss, augmentation, clipping and weight averaging are those of the bundle's
train.json, the start from principal components is our network's own and counts. The other peers train with Adam as
their tutorials do. Reconstructions are those of the posterior mean; VarAutoEncoder adds the standard deviation unless
told not to, which is measured too. ResNetAE takes 224 px in [-1024, 1024] only: films are enlarged for it and its
output is shrunk again.
"""

from __future__ import annotations

import itertools
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from films import films
from monai.networks.nets import AutoencoderKL, VarAutoEncoder
from side_by_side import Row, row
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from monai_cxr_vae.data import phantom_folder
from monai_cxr_vae.losses import VAELoss, kl_divergence, mean_squared_error
from monai_cxr_vae.metrics import active_units, peak_signal_to_noise_ratio, structural_similarity
from monai_cxr_vae.networks import VAE
from monai_cxr_vae.training import Augmentation, parameter_groups

SIZE, LATENTS, LEARNING_RATE = 64, 128, 1e-3
TICKS = 1000  # parts of the time at which the learning rate changes
# (reconstruction, mu, logvar)
Output = tuple[Tensor, Tensor, Tensor]
Loss = Callable[[Output, Tensor], Tensor]


class ThreeOutputs:
    """An output of three also in evaluation."""

    def forward(self, x: Tensor) -> Output:
        if self.training:
            return super().forward(x)
        mu, logvar = self.encode(x)
        return self.decode(mu), mu, logvar


class Ours(ThreeOutputs, VAE):
    """The network of the vector preset."""


class Vector(VarAutoEncoder):
    """MONAI's VAE with a latent vector."""

    def __init__(self, size: int, latents: int) -> None:
        super().__init__(2, (1, size, size), 1, latents, (32, 64, 128), (2, 2, 2), use_mean_at_inference=True)
        self.image_size = size  # our recipe asks for it

    def forward(self, x: Tensor) -> Output:
        return super().forward(x)[:3]


class Grid(AutoencoderKL):
    """MONAI's KL autoencoder, latents on a grid of an eighth of the side."""

    def __init__(self, size: int, latents: int, channels: tuple[int, ...], blocks: int) -> None:
        super().__init__(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=channels,
            num_res_blocks=(blocks,) * len(channels),
            attention_levels=(False,) * len(channels),
            latent_channels=latents // (size // 8) ** 2,
            norm_num_groups=min(32, *channels),
            with_encoder_nonlocal_attn=False,
            with_decoder_nonlocal_attn=False,
        )

    def forward(self, x: Tensor) -> Output:
        mu, sigma = self.encode(x)
        z = self.sampling(mu, sigma) if self.training else mu
        return self.decode(z), mu, 2 * sigma.log()


class Deterministic(nn.Module):
    """torchxrayvision's ResNet-101 autoencoder, with what its input and output need."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchxrayvision.autoencoders import ResNetAE
        self.network = ResNetAE()

    def forward(self, x: Tensor) -> Output:
        large = F.interpolate(x, size=(224, 224), mode="bilinear", align_corners=False)
        made = self.network(large * 2048 - 1024)
        small = F.interpolate((made["out"] + 1024) / 2048, size=x.shape[2:], mode="area")
        return small, made["z"], torch.zeros_like(made["z"])


def tutorial_loss(output: Output, image: Tensor) -> Tensor:
    """Binary cross-entropy summed over pixels and batch, and the KL divergence."""
    made, mu, logvar = output
    return F.binary_cross_entropy(made, image, reduction="sum") + kl_divergence(mu, logvar).sum()


def plain_loss(output: Output, image: Tensor, weight: float = 1.0) -> Tensor:
    """Mean squared error and the KL divergence, simply added."""
    made, mu, logvar = output
    return mean_squared_error(made, image).mean() + weight * kl_divergence(mu, logvar).mean()


@dataclass
class Contestant:
    """A network and how it is trained.

    Args:
        name: in the table.
        build: makes the network.
        loss: from its output and the films.
        recipe: with the arithmetic of the bundle's training.
        augment: with its augmentation too.
        limit: what its error over ours must reach; 2 are 3 dB.
        batch_size: films per step.
    """

    name: str
    build: Callable[[], nn.Module]
    loss: Loss
    recipe: bool = False
    augment: bool = True
    limit: float | None = 1.0
    batch_size: int = 64


def contestants(size: int = SIZE, latents: int = LATENTS) -> list[Contestant]:
    """Ours first."""

    def vector() -> nn.Module:
        return Vector(size, latents)

    def grid() -> nn.Module:
        return Grid(size, latents, (16, 32, 64, 64), blocks=1)

    def grid_loss(output: Output, image: Tensor) -> Tensor:
        return plain_loss(output, image, 1e-6)  # the weight of MONAI's latent diffusion tutorials

    def squared_error(output: Output, image: Tensor) -> Tensor:
        return mean_squared_error(output[0], image).mean()

    return [
        Contestant("ours", lambda: Ours(size, latents), VAELoss(), True, limit=None),
        Contestant("VarAutoEncoder, tutorial loss", vector, tutorial_loss, limit=2.0),
        Contestant("VarAutoEncoder, MSE + KL", vector, plain_loss),
        Contestant("VarAutoEncoder, our recipe", vector, VAELoss(), True),
        Contestant("AutoencoderKL, MSE + 1e-6 KL", grid, grid_loss, batch_size=16),
        Contestant("torchxrayvision ResNetAE, MSE", Deterministic, squared_error, limit=None, batch_size=8),
    ]


def seconds() -> float:
    """Time that this process has had, on each of its threads."""
    return time.process_time() / torch.get_num_threads()


def train(contestant: Contestant, films: Tensor, minutes: float) -> tuple[nn.Module, float]:
    """The trained network, in evaluation mode, and its images per second."""
    torch.manual_seed(0)
    start, seen = seconds(), 0
    network = contestant.build().train()
    if isinstance(network, ThreeOutputs):
        network.initialize_linear(films)
    if contestant.recipe:
        optimizer = torch.optim.AdamW(parameter_groups(network, LEARNING_RATE), betas=(0.9, 0.99))
    else:
        optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, TICKS + 1, pct_start=0.05, cycle_momentum=False)
    averaged, augmentation = AveragedModel(network), Augmentation()
    for step in itertools.count(1):
        elapsed = (seconds() - start) / (60 * minutes)
        if elapsed >= 1:
            break
        batch = films[torch.randint(len(films), (contestant.batch_size,))]
        if contestant.recipe and contestant.augment:
            batch = augmentation(batch)
        if isinstance(contestant.loss, VAELoss):
            contestant.loss.set_beta(min(1.0, 0.25 + 0.75 * elapsed / 0.05))
        loss = contestant.loss(network(batch), batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if contestant.recipe:
            nn.utils.clip_grad_norm_(network.parameters(), 20000.0)
        optimizer.step()
        if contestant.recipe:  # a decay that reaches back over a twentieth of the steps, as many as the time allows
            averaged.multi_avg_fn = get_ema_multi_avg_fn(1 - 1 / max(10.0, 0.05 * step / max(elapsed, 1e-3)))
            averaged.update_parameters(network)
        while schedule.last_epoch < int(elapsed * TICKS):
            schedule.step()
        seen += len(batch)
    network = averaged.module if contestant.recipe else network
    return network.eval(), seen / (seconds() - start)


@torch.no_grad()
def score(network: nn.Module, films: Tensor) -> dict[str, float]:
    """PSNR and SSIM of the reconstructions, latents and how many of them are active."""
    outputs = [network(batch) for batch in films.split(16)]
    made, mu = torch.cat([o[0] for o in outputs]), torch.cat([o[1] for o in outputs]).flatten(1).double()
    return {
        "psnr": peak_signal_to_noise_ratio(made, films).mean().item(),
        "ssim": structural_similarity(made, films).mean().item(),
        "active_units": int(active_units(mu.mean(0), mu.square().mean(0), len(mu))),
        "latents": mu.shape[1],
    }


def measure(
    train_dir: str | None = None, test_dir: str | None = None, minutes: float = 3.0, threads: int = 1, size: int = SIZE
) -> list[Row]:
    """One row for each network: its squared error over ours (from the mean PSNR), PSNR of both sides, and more."""
    torch.set_num_threads(threads)
    train_films, test_films = both_parts(train_dir, test_dir, size)
    return compare(contestants(size), train_films, test_films, minutes)


def compare(contestants: list[Contestant], train_films: Tensor, test_films: Tensor, minutes: float) -> list[Row]:
    """The rows of `measure` for these networks, ours first."""
    rows: list[Row] = []
    for contestant in contestants:
        try:
            network, speed = train(contestant, train_films, minutes)
        except ModuleNotFoundError as error:
            print(f"{contestant.name} is left out: no {error.name} here; see peers_environment.sh")
            continue
        found: dict[str, object] = dict(score(network, test_films))
        if isinstance(network, Vector):
            network.use_mean_at_inference = False
            found["psnr_mu_plus_sigma"] = score(network, test_films)["psnr"]
        psnr = found.pop("psnr")
        ours = rows[0]["ours"] if rows else psnr
        found["parameters"] = sum(p.numel() for p in network.parameters())
        found["images_per_second"] = speed
        ratio = 10 ** ((ours - psnr) / 10)
        rows.append(row(contestant.name, ratio, contestant.limit, len(test_films), ours, psnr, "dB", **found))
        print(table(rows[-1:]), file=sys.stderr, flush=True)
    return rows


def both_parts(train_dir: str | None, test_dir: str | None, size: int) -> tuple[Tensor, Tensor]:
    """Films to train and to test on; phantoms when no folders are given."""
    if train_dir is None or test_dir is None:
        folder = str(phantom_folder())
        return films(folder, size, "training"), films(folder, size, "validation")
    return films(train_dir, size), films(test_dir, size)


def table(rows: list[Row]) -> str:
    """The networks with what they reach."""
    lines = [f"{'':32} {'PSNR':>6} {'SSIM':>6} {'active':>11} {'parameters':>11} {'images/s':>9}  mu + sigma"]
    for r in rows:
        active = f"{r['active_units']}/{r['latents']}"
        default = f"{r['psnr_mu_plus_sigma']:.2f} dB" if "psnr_mu_plus_sigma" in r else ""
        figures = (
            f"{r['theirs']:6.2f} {r['ssim']:6.3f} {active:>11} {r['parameters']:11,} {r['images_per_second']:9.1f}"
        )
        lines.append(f"{r['name']:32} {figures}  {default}")
    return "\n".join(lines)
