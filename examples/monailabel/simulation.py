"""How many films with a finding an annotator has seen when the most unusual films come first.

Usage: simulation.py NORMAL ABNORMAL [--names FILE] [--weights FILE]. NORMAL and ABNORMAL are folders of films of one
source (other sources alone are unusual); FILE of --names restricts ABNORMAL to the file names in it, one a line. Prints
the share of the abnormal films among the first 10, 20 and 30% of all, in the order of the anomaly score and by chance,
with 95% intervals from a bootstrap over patients.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from monai.transforms import Compose, LoadImaged

from monai_cxr_vae import load_model
from monai_cxr_vae.data import RadiographReader, find_films
from monai_cxr_vae.data.datalist import patient_of
from monai_cxr_vae.model import RadiographVAE
from monai_cxr_vae.scoring import AddDetaild, ScoreRadiographd
from monai_cxr_vae.transforms import FitToSquared

SHARES = (0.1, 0.2, 0.3)
RESAMPLES = 2000


def anomaly_scores(model: RadiographVAE, films: list[Path]) -> np.ndarray:
    """Anomaly score of each film, as ``inference.json`` gives it."""
    chain = Compose(
        [
            LoadImaged("image", reader=RadiographReader, image_only=True, ensure_channel_first=True),
            AddDetaild("image", model),
            FitToSquared("image", model.image_size, model.fit),
            lambda data: data | {"pred": data["image"]},  # gives the heat map its geometry, no more
            ScoreRadiographd("pred", model),
        ]
    )
    return np.array([chain({"image": str(film)})["scores"]["anomaly"] for film in films])


def found(normal: np.ndarray, abnormal: np.ndarray, share: float) -> float:
    """Share of the abnormal films among the highest scores."""
    scores = np.concatenate([normal, abnormal])
    first = np.argsort(-scores, kind="stable")[: round(share * len(scores))]
    return float((first >= len(normal)).sum() / len(abnormal))


def resampled(scores: np.ndarray, patients: list[str], rng: np.random.Generator) -> np.ndarray:
    """Scores of as many patients, drawn with replacement."""
    _, group = np.unique(patients, return_inverse=True)
    films = [np.flatnonzero(group == g) for g in range(group.max() + 1)]
    return scores[np.concatenate([films[g] for g in rng.integers(len(films), size=len(films))])]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("normal", type=Path)
    parser.add_argument("abnormal", type=Path)
    parser.add_argument("--names", type=Path, metavar="FILE")
    parser.add_argument("--weights", metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(arguments.weights)
    wanted = set(arguments.names.read_text().split()) if arguments.names else None
    films = {folder: find_films(folder) for folder in (arguments.normal, arguments.abnormal)}
    films[arguments.abnormal] = [f for f in films[arguments.abnormal] if wanted is None or f.name in wanted]
    scores = [anomaly_scores(model, paths) for paths in films.values()]
    patients = [[patient_of(path, folder) for path in paths] for folder, paths in films.items()]

    rng = np.random.default_rng(0)
    draws = [[resampled(*pair, rng) for pair in zip(scores, patients, strict=True)] for _ in range(RESAMPLES)]
    normal, abnormal = scores
    greater = (abnormal[:, None] > normal).mean() + (abnormal[:, None] == normal).mean() / 2
    print(f"{len(normal)} normal films, {len(abnormal)} with a finding; AUROC of the anomaly score {greater:.3f}")
    print("| labelled | found by score | by chance | ratio |\n|---|---|---|---|")
    for share in SHARES:
        value = found(normal, abnormal, share)
        chance = [
            found(*np.split(rng.permutation(len(normal) + len(abnormal)), [len(normal)]), share)
            for _ in range(RESAMPLES)
        ]
        low, high = np.quantile([found(*draw, share) for draw in draws], (0.025, 0.975))
        chance_low, chance_high = np.quantile(chance, (0.025, 0.975))
        print(
            f"| {share:.0%} | {value:.1%} ({low:.1%} to {high:.1%}) | {share:.0%} ({chance_low:.1%} to"
            f" {chance_high:.1%}) | {value / share:.2f} ({low / share:.2f} to {high / share:.2f}) |"
        )


if __name__ == "__main__":
    main()
