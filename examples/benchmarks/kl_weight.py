"""The closed-form KL weight beside seven fixed ones, and what the plain sum of the two formulas does.

Usage: kl_weight.py TRAIN_DIR TEST_DIR [--sizes 32 64] [--seeds 3] [--steps 300] [--json FILE]. Every model starts from
principal components, sees the same batches in the same order and is measured by its evidence lower bound (bits per
pixel, lower is better) with its own sigma, fitted on the training films. Weight 1 starts from random weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch
from films import films
from monai.networks.nets import VarAutoEncoder
from torch import Tensor, nn

from monai_cxr_vae.losses import VAELoss, kl_divergence
from monai_cxr_vae.metrics import active_units, bits_per_dimension, peak_signal_to_noise_ratio
from monai_cxr_vae.networks import VAE
from monai_cxr_vae.training import parameter_groups

WEIGHTS = ("auto", 1e-8, 1e-7, 3e-7, 1e-6, 3e-6, 1e-5, 1e-4)
LATENTS = 128


def train(
    network: nn.Module, groups: list[dict], train_films: Tensor, weight: float | str, seed: int, steps: int
) -> None:
    """Train in place; the order of films and the noise are functions of the seed alone."""
    torch.manual_seed(seed)
    loss_function = VAELoss(weight)  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, steps + 1, pct_start=0.05, cycle_momentum=False)
    network.train()
    for _ in range(steps):
        batch = train_films[torch.randint(len(train_films), (64,))]
        prediction = network(batch)
        optimizer.zero_grad()
        loss_function(prediction[:3], batch).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 20000.0)
        optimizer.step()
        schedule.step()
    network.eval()


@torch.no_grad()
def measure(network: VAE, train_films: Tensor, test_films: Tensor) -> dict[str, float]:
    """Bits per pixel, PSNR of the mean reconstruction, KL and active units on the test films."""

    def sampled(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = network.encode(x)
        noise = torch.randn(mu.shape, generator=torch.Generator().manual_seed(0))
        return network.decode(mu + (0.5 * logvar).exp() * noise), mu, logvar

    sigma = (sampled(train_films)[0] - train_films).square().mean().sqrt().item()
    made, mu, logvar = sampled(test_films)
    kl = kl_divergence(mu, logvar)
    return {
        "bits": bits_per_dimension(made, test_films, kl, sigma).mean().item(),
        "psnr": peak_signal_to_noise_ratio(network.decode(mu), test_films).mean().item(),
        "kl": kl.mean().item(),
        "active_units": _active(mu),
    }


def _active(mu: Tensor) -> int:
    mu = mu.double()
    return int(active_units(mu.mean(0), mu.square().mean(0), len(mu)))


def study(train_films: Tensor, test_films: Tensor, seeds: int, steps: int) -> list[dict]:
    """One row for each weight and seed, and the collapse at weight 1."""
    size = train_films.shape[-1]
    rows = []
    for seed in range(seeds):
        for weight in (*WEIGHTS, 1.0):
            torch.manual_seed(seed)
            network = VAE(size, LATENTS)
            if weight != 1.0:
                network.initialize_linear(train_films)
            train(network, parameter_groups(network, 1e-3), train_films, weight, seed, steps)
            rows.append({"size": size, "weight": weight, "seed": seed} | measure(network, train_films, test_films))
            print(rows[-1], flush=True)
    torch.manual_seed(0)
    peer = VarAutoEncoder(2, (1, size, size), 1, LATENTS, (32, 64, 128), (2, 2, 2), use_mean_at_inference=True)
    train(peer, [{"params": list(peer.parameters()), "lr": 1e-3}], train_films, 1.0, 0, steps)
    with torch.no_grad():
        made, mu, logvar, _ = peer(test_films)
    psnr, kl = peak_signal_to_noise_ratio(made, test_films).mean().item(), kl_divergence(mu, logvar).mean().item()
    rows.append({"size": size, "weight": 1.0, "network": "MONAI VarAutoEncoder", "psnr": psnr, "kl": kl})
    rows[-1]["active_units"] = _active(mu)
    print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[dict] = []
    for size in arguments.sizes:
        rows += study(films(arguments.train, size), films(arguments.test, size), arguments.seeds, arguments.steps)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1))
    print(f"\n{'px':>4} {'weight':>8} {'bits/pixel':>18} {'PSNR dB':>8} {'KL nats':>8} {'active':>7}")
    for size in arguments.sizes:
        for weight in (*WEIGHTS, 1.0):
            runs = [r for r in rows if r["size"] == size and r["weight"] == weight and "network" not in r]
            bits = [r["bits"] for r in runs]
            spread = f"{statistics.mean(bits):.4f} +- {statistics.pstdev(bits):.4f}"
            mean = {k: statistics.mean(r[k] for r in runs) for k in ("psnr", "kl", "active_units")}
            print(
                f"{size:4} {weight!s:>8} {spread:>18} {mean['psnr']:8.2f} {mean['kl']:8.1f} {mean['active_units']:7.0f}"
            )


if __name__ == "__main__":
    main()
