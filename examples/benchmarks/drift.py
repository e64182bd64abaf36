"""How often `cxr-vae drift` alarms without any drift, and after how many films it finds one.

    python examples/benchmarks/drift.py FILMS [--weights FILE] [--rounds 20]

FILMS is a folder of normal films of one site, about 2,250 or more. In each round 250 of them, drawn anew, are the
calibration and the others come in blocks of 100: quiet months. Then the technique changes at once. The critic may have
been trained on the films, since calibration and blocks are drawn from the same.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from monai_cxr_vae.data import datalist
from monai_cxr_vae.evaluation.drift import MEASURES, compare
from monai_cxr_vae.model import RadiographVAE, load_model
from monai_cxr_vae.scoring import detail_films, score
from monai_cxr_vae.scoring.scorer import DETAIL

CALIBRATION, BLOCK, RATE = 250, 100, 0.01


def closer(films: Tensor, share: float) -> Tensor:
    """Films of which so much of the side is collimated away."""
    edge = round(films.shape[-1] * share / 2)
    return F.interpolate(films[..., edge:-edge, edge:-edge], size=films.shape[2:], mode="bilinear", align_corners=False)


CHANGES = {
    "exposure: 10% darker": lambda films: films * 0.9,
    "exposure: gamma 0.85": lambda films: films**0.85,
    "collimation: 5% less of each side": lambda films: closer(films, 0.05),
    "collimation: 10% less of each side": lambda films: closer(films, 0.10),
    "sharpness: a fifth more of what a 3 x 3 mean takes away": lambda films: (
        films + 0.2 * (films - F.avg_pool2d(films, 3, 1, 1, count_include_pad=False))
    ).clamp(0, 1),
}


def measures(model: RadiographVAE, films: Tensor) -> np.ndarray:
    """``(N, 18)``: films ``(N, 1, 2 S, 2 S)`` as a scored folder tells them."""
    rows = []
    for detail in films.split(50):
        rows += score(model, F.avg_pool2d(detail, DETAIL), detail)[0]
    return np.array([[row.quality, row.anomaly, *row.technique] for row in rows])


def alarms(blocks: list[np.ndarray], calibration: np.ndarray) -> np.ndarray:
    """For each block whether it alarms."""
    return np.array([len(MEASURES) * compare(block, calibration).min() <= RATE for block in blocks])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("films", metavar="FILMS")
    parser.add_argument("--weights")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    model = load_model(arguments.weights)
    films = detail_films(model, datalist(arguments.films)).images()
    quiet, rng = measures(model, films), np.random.default_rng(0)
    changed = {name: measures(model, change(films)) for name, change in CHANGES.items()}
    false, blocks, needed = 0, 0, {name: [] for name in CHANGES}
    for _ in range(arguments.rounds):
        order = rng.permutation(len(films))
        calibration, rest = quiet[order[:CALIBRATION]], order[CALIBRATION:]
        months = [rest[i : i + BLOCK] for i in range(0, len(rest) - BLOCK + 1, BLOCK)]
        found = alarms([quiet[month] for month in months], calibration)
        false, blocks = false + int(found.sum()), blocks + len(found)
        for name, values in changed.items():
            late = alarms([values[month] for month in months[:5]], calibration)
            needed[name].append(BLOCK * (int(late.argmax()) + 1) if late.any() else np.inf)
    print(f"without drift: {false} of {blocks} blocks of {BLOCK} films alarm, {100 * RATE:g}% promised")
    print("| change | found within 100 films | 200 films | 500 films |\n| --- | --- | --- | --- |")
    for name, counts in needed.items():
        shares = (f"{100 * np.mean(np.array(counts) <= limit):.0f}%" for limit in (100, 200, 500))
        print(f"| {name} | " + " | ".join(shares) + " |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
