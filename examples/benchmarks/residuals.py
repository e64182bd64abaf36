"""Which model's residual tells findings best: latent counts, a variance head, or a VAE that restores spoiled films.

    python examples/benchmarks/residuals.py --train TRAIN_NORMAL --val VAL_NORMAL [--minutes 4]

Trained on normal films and measured on others, into which code draws each family of findings: no film of a patient with
a disease is looked at. Three kinds of models, each with the latents of the shipped `model` and `compact`:

- as shipped: the residual over its variance at each place;
- a variance head: a network that predicts the residual's variance from the reconstruction, the VAE frozen, so that
  edges are expected to be missed (after AE-U: Mao et al., "Abnormality detection in chest X-ray images using
  uncertainty prediction autoencoders", MICCAI 2020);
- restoring: the VAE trained on to give back the films without their findings (denoising: Kascenas et al., MIDL 2022).

A figure is the AUROC, mean over the families, of the mean and of the local maximum of a film's map.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scores import auroc
from torch import Tensor, nn

from monai_cxr_vae.data import datalist
from monai_cxr_vae.files import bundle_root
from monai_cxr_vae.losses import VAELoss
from monai_cxr_vae.model import RadiographVAE, create_model
from monai_cxr_vae.scoring import detail_films
from monai_cxr_vae.scoring.findings import FINDINGS, add_findings
from monai_cxr_vae.scoring.scorer import DETAIL
from monai_cxr_vae.training import Augmentation, parameter_groups

BATCH_SIZE = 64
WINDOW = 5  # pixels: what is called local

Map = Callable[[Tensor], Tensor]


class VarianceHead(nn.Module):
    """Logarithm of the squared residual's expected value at each pixel, from the reconstruction.

    Args:
        variance: ``(S, S)`` mean squared residual at each place, where it starts.
        channels: of the hidden layers.
    """

    def __init__(self, variance: Tensor, channels: int = 24) -> None:
        super().__init__()
        self.place = nn.Parameter(variance.log())
        last = nn.Conv2d(channels, 1, 5, padding=2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.body = nn.Sequential(
            nn.Conv2d(1, channels, 5, padding=2),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 5, padding=2),
            nn.SiLU(),
            last,
        )

    def forward(self, reconstruction: Tensor) -> Tensor:
        """``(N, 1, S, S)`` to the same."""
        return self.place + self.body(reconstruction)


def batches(films: Tensor, minutes: float) -> Iterator[tuple[Tensor, float]]:
    """Augmented random films ``(n, 1, 2 S, 2 S)`` and the share of the time that has passed, until it has."""
    augmentation, start = Augmentation(), time.process_time()
    while (share := (time.process_time() - start) / torch.get_num_threads() / (60 * minutes)) < 1:
        yield augmentation(films[torch.randint(len(films), (BATCH_SIZE,))]), share


def squares(model: RadiographVAE, films: Tensor) -> Tensor:
    """Squared residuals of films ``(N, 1, 2 S, 2 S)``, ``(N, 1, S, S)``."""
    with torch.no_grad():
        images = F.avg_pool2d(films, DETAIL)
        return torch.cat([(x - model.reconstruct(x)).square() for x in images.split(100)])


def over_place(model: RadiographVAE, films: Tensor) -> Map:
    """The squared residual over its mean at each place; a floor where normal films hardly differ."""
    variance = squares(model, films).mean(0)
    return lambda x: squares(model, x) / (variance + 0.25 * variance.mean())


def over_predicted(model: RadiographVAE, films: Tensor, minutes: float) -> Map:
    """The squared residual over what a variance head expects, trained by its negative log likelihood."""
    torch.manual_seed(0)
    head = VarianceHead(squares(model, films).mean(0)[0])
    optimizer = torch.optim.Adam(head.parameters(), 2e-3)
    for batch, share in batches(films, minutes):
        image = F.avg_pool2d(batch, DETAIL)
        with torch.no_grad():
            made = model.reconstruct(image)
        expected = head(made)
        loss = ((image - made).square() * (-expected).exp() + expected).mean()
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - share)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def deviation(x: Tensor) -> Tensor:
        made = model.reconstruct(F.avg_pool2d(x, DETAIL))
        return squares(model, x) * (-head(made)).exp()

    return deviation


def restoring(model: RadiographVAE, films: Tensor, minutes: float) -> RadiographVAE:
    """The model, trained on: spoiled films in, films as they were out."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model, loss_function = copy.deepcopy(model).train(), VAELoss()
    groups = parameter_groups(model, 1e-3)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    rates = [group["lr"] for group in groups]
    for batch, share in batches(films, minutes):
        spoiled = np.stack([add_findings(film, rng)[0] if rng.random() < 0.7 else film for film in batch[:, 0].numpy()])
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, 20 * share) * (1 - share)
        prediction = model(F.avg_pool2d(torch.from_numpy(spoiled)[:, None], DETAIL))
        optimizer.zero_grad()
        loss_function(prediction, F.avg_pool2d(batch, DETAIL)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 20000.0)
        optimizer.step()
    return model.eval()


def values(deviation: Map, films: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and local maximum of the maps of films."""
    maps = torch.cat([deviation(batch) for batch in films.split(100)])
    local = F.avg_pool2d(maps, WINDOW, 1, WINDOW // 2, count_include_pad=False)
    return maps.mean((1, 2, 3)), torch.quantile(local.flatten(1), 0.995, dim=1)


def measure(
    train_dir: str, val_dir: str, minutes: float, models: Sequence[str] = ("model", "compact")
) -> Iterator[tuple[str, float, float]]:
    """For each candidate its name and two AUROCs: of the mean and of the local maximum."""
    for name in models:
        model = create_model(bundle_root() + f"/models/{name}.pt").eval()
        train, val = (detail_films(model, datalist(folder)).images() for folder in (train_dir, val_dir))
        rng, plain = np.random.default_rng(0), val[:, 0].numpy()
        diseased = [
            torch.from_numpy(np.stack([add_findings(film, rng, [family])[0] for film in plain]))[:, None]
            for family in FINDINGS
        ]
        restored = restoring(model, train, minutes)
        candidates = {
            "as shipped": over_place(model, train),
            "variance head": over_predicted(model, train, minutes),
            "restoring": over_place(restored, train),
            "restoring, variance head": over_predicted(restored, train, minutes),
        }
        for kind, deviation in candidates.items():
            normal, others = values(deviation, val), [values(deviation, films) for films in diseased]
            mean, local = (float(np.mean([auroc(normal[i], other[i]) for other in others])) for i in range(2))
            yield f"{model.latent_size} latents, {kind}", mean, local


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, metavar="FOLDER")
    parser.add_argument("--val", required=True, metavar="FOLDER")
    parser.add_argument("--minutes", type=float, default=4.0, help="training of each head and of each restoring VAE")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("| residual of | mean | local maximum |\n| --- | --- | --- |", flush=True)
    for name, mean, local in measure(arguments.train, arguments.val, arguments.minutes):
        print(f"| {name} | {mean:.3f} | {local:.3f} |", flush=True)


if __name__ == "__main__":
    main()
