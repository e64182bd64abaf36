"""The spatial preset and MONAI's KL autoencoder as its public chest radiograph bundle has it, same films and time.

AutoencoderKL has the widths of the bundle cxr_image_synthesis_latent_diffusion_model (64, 128, 128, 128; two residual
blocks; no attention) and as many latents as ours, 12 for each of 32 x 32 cells. It trains on that bundle's
reconstruction loss, L1 and 1e-8 of the KL divergence; the adversarial and perceptual parts need other networks. Ours
trains as train.json does without augmentation, and its start from principal components counts. The time is that of
the process's threads, as in peers.py. At most 48 test films are measured: AutoencoderKL takes a second and more for
each on one core.
"""

from __future__ import annotations

import peers
import torch
from peers import Contestant, Grid, Output, ThreeOutputs
from side_by_side import Row
from torch import Tensor

from monai_cxr_vae.losses import VAELoss, kl_divergence
from monai_cxr_vae.networks import PRESETS, SpatialVAE

SIZE, VALUES, TEST_FILMS = 256, 12288, 48
table = peers.table


class Ours(ThreeOutputs, SpatialVAE):
    """The network of the spatial preset."""


def bundle_loss(output: Output, image: Tensor) -> Tensor:
    """Mean absolute error and 1e-8 of the KL divergence."""
    made, mu, logvar = output
    return (made - image).abs().mean() + 1e-8 * kl_divergence(mu, logvar).mean()


def contestants(
    size: int = SIZE, values: int = VALUES, channels: tuple[int, ...] = (64, 128, 128, 128), stride: int = 32
) -> list[Contestant]:
    """Ours first."""

    def ours() -> Ours:
        return Ours(**PRESETS["spatial"].arguments | {"image_size": size, "latent_size": values, "stride": stride})

    return [
        Contestant("spatial", ours, VAELoss(), True, augment=False, limit=None, batch_size=16),
        Contestant("AutoencoderKL, L1 + 1e-8 KL", lambda: Grid(size, values, channels, 2), bundle_loss, batch_size=4),
    ]


def measure(
    train_dir: str | None = None, test_dir: str | None = None, minutes: float = 5.0, threads: int = 1, size: int = SIZE
) -> list[Row]:
    """Rows as those of peers.py."""
    torch.set_num_threads(threads)
    train_films, test_films = peers.both_parts(train_dir, test_dir, size)
    chosen = torch.linspace(0, len(test_films) - 1, min(TEST_FILMS, len(test_films))).round().long()
    return peers.compare(contestants(size), train_films, test_films[chosen], minutes)
