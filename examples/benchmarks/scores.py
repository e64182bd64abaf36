"""How well scores tell faulty and diseased films from normal ones.

    python examples/benchmarks/scores.py --val VAL_NORMAL [--weights FILE]
    python examples/benchmarks/scores.py --val VAL_NORMAL --train TRAIN_NORMAL --normal TEST_NORMAL \
        --abnormal TEST_ABNORMAL [--manifest CSV --confirmed RSNA]
    python examples/benchmarks/scores.py --phantoms 100

The first form draws each family of synthetic faults and findings into the validation films: scores may be
tuned on these. The second form is for reporting: films of patients, beside measures that know nothing of a model.
The third form asks whether heat maps show where the findings of phantom films are, beside the plain difference.
A manifest tells the view (column ``view``) and, with ``--confirmed``, which films count: ``label_source`` has the word.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import betabinom
from sklearn.metrics import average_precision_score
from torch import Tensor

from monai_cxr_vae.data import datalist
from monai_cxr_vae.data.phantom import FINDINGS as PHANTOM_FINDINGS
from monai_cxr_vae.data.phantom import render
from monai_cxr_vae.evaluation.baselines import pca
from monai_cxr_vae.model import load_model
from monai_cxr_vae.networks.features import texture
from monai_cxr_vae.networks.scorer import DETAIL
from monai_cxr_vae.scoring import detail_films, score
from monai_cxr_vae.scoring.faults import FAULTS, add_fault
from monai_cxr_vae.scoring.findings import FINDINGS, add_findings
from monai_cxr_vae.scoring.score import examine, fitted, p_value

RESAMPLES = 2000


class Measured:
    """Standardised aspects, both scores and p-values of films ``(N, 1, 2 S, 2 S)``."""

    def __init__(self, model, films: Tensor) -> None:
        scorer, rows = fitted(model), []
        with torch.no_grad():
            for detail in films.split(50):
                rows.append(scorer.standardised(examine(model, scorer, F.avg_pool2d(detail, DETAIL), detail)))
        table = torch.cat(rows)
        quality, anomaly = scorer.scores(table)
        self.values = dict(zip(scorer.aspects, table.T, strict=True)) | {"quality": quality, "anomaly": anomaly}
        self.quality_p = p_value(quality, scorer.quality_calibration)


def auroc(normal: Tensor, other: Tensor) -> float:
    """Chance that one of the others has the larger value; ties count half."""
    difference = other[:, None] - normal[None]
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())


def interval(normal: Tensor, other: Tensor) -> str:
    """AUROC with its 95% bootstrap interval over films."""
    rng = np.random.default_rng(0)
    draws = [
        auroc(normal[rng.integers(0, len(normal), len(normal))], other[rng.integers(0, len(other), len(other))])
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(draws, (0.025, 0.975))
    return f"{auroc(normal, other):.3f} [{low:.3f}, {high:.3f}]"


def synthetic(films: Tensor) -> dict[str, Tensor]:
    """The films with each family of faults and findings, and with some faults of fixed strength."""
    plain = films[:, 0].numpy()
    sets: dict[str, list[np.ndarray]] = {}
    for number, name in enumerate([*FAULTS, *FINDINGS]):
        rng = np.random.default_rng(number)
        if name in FAULTS:
            sets[name] = [add_fault(film, rng, [name]) for film in plain]
        else:
            sets[name] = [add_findings(film, rng, [name])[0] for film in plain]
    tensors = {name: torch.from_numpy(np.stack(rows))[:, None] for name, rows in sets.items()}
    half = films.shape[-1] // 4
    middle = films[..., half:-half, half:-half]
    return tensors | {
        "turned by 90 degrees": films.rot90(1, (2, 3)),
        "turned by 180 degrees": films.rot90(2, (2, 3)),
        "cropped to half": F.interpolate(middle, size=films.shape[2:], mode="bilinear", align_corners=False),
        "half as bright": films * 0.5,
        "gamma 2": films**2,
        "gamma 0.5": films.sqrt(),
    }


def report_synthetic(model, films: Tensor) -> None:
    normal = Measured(model, films).values
    print("| films | quality | anomaly | " + " | ".join(list(normal)[:-2]) + " |")
    print("| --- |" + " --- |" * len(normal))
    for name, changed in synthetic(films).items():
        values = Measured(model, changed.contiguous()).values
        row = [f"{auroc(normal[key], values[key]):.3f}" for key in ("quality", "anomaly", *list(normal)[:-2])]
        print(f"| {name} | " + " | ".join(row) + " |", flush=True)


def report_patients(model, normal: Tensor, abnormal: Tensor, views: list[str], train: Tensor) -> None:
    ours, others = Measured(model, normal), Measured(model, abnormal)
    n_calibration = len(fitted(model).quality_calibration)
    alarms = int((ours.quality_p < 0.05).sum())
    # Of n calibration films the k-th largest score is the first with p below 5%.
    k = int(np.ceil(0.05 * (n_calibration + 1))) - 1
    low, high = betabinom.ppf((0.005, 0.995), len(normal), k, n_calibration + 1 - k)
    print(f"quality alarms at 5%: {alarms} of {len(normal)} normal films; a perfect method: {low:.0f} to {high:.0f}")
    squares = tuple(torch.cat([normal, abnormal]).split(len(normal)))
    simple = {
        "mean intensity": lambda x: x.mean((1, 2, 3)),
        "complexity": lambda x: texture(x, torch.ones_like(x, dtype=torch.bool))[:, -1],
        "difference from the mean film": lambda x: (x - train.mean(0)).square().mean((1, 2, 3)),
        "difference from PCA-64": lambda x: (
            (F.avg_pool2d(x, 2) - pca(F.avg_pool2d(x, 2), F.avg_pool2d(train, 2), 64)[0]).square().mean((1, 2, 3))
        ),
    }
    rows = {name: (ours.values[name], others.values[name]) for name in ["anomaly", "quality", *list(ours.values)[:-2]]}
    rows |= {name: (measure(squares[0]), measure(squares[1])) for name, measure in simple.items()}
    present = [view for view in ("PA", "AP") if view in views]
    print("| score | all | " + " | ".join(f"{view} only" for view in present) + " |")
    print("| --- | --- |" + " --- |" * len(present))
    for name, (a, b) in rows.items():
        cells = [interval(a, b)]
        cells += [interval(a, b[torch.tensor([v == view for v in views])]) for view in present]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def report_phantoms(model, count: int) -> None:
    """Average precision over pixels, and how often the hottest pixel lies in the finding (the pointing game)."""
    print("| finding | heat map: precision | pointing | difference: precision | pointing |\n" + "| --- " * 5 + "|")
    side = DETAIL * model.image_size
    for finding in PHANTOM_FINDINGS:
        results = []
        for seed in range(count):
            phantom = render((9, seed), side, finding)
            detail = torch.from_numpy(phantom.image)[None, None]
            image = F.avg_pool2d(detail, DETAIL)
            inside = F.avg_pool2d(torch.from_numpy(phantom.mask)[None, None].float(), DETAIL)[0, 0].numpy() > 0.5
            if not inside.any():
                continue
            with torch.no_grad():
                maps = score(model, image, detail)[1], (image - model.reconstruct(image)).abs()
            flat = [m[0, 0].numpy() for m in maps]
            results.append([f(inside, m) for m in flat for f in (_precision, _points)])
        print(f"| {finding}, {len(results)} films | " + " | ".join(f"{v:.3f}" for v in np.mean(results, 0)) + " |")


def _precision(inside: np.ndarray, values: np.ndarray) -> float:
    return float(average_precision_score(inside.ravel(), values.ravel()))


def _points(inside: np.ndarray, values: np.ndarray) -> float:
    return float(inside[values == values.max()].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="calibrated weights (default: the shipped ones)")
    for name in ("val", "train", "normal", "abnormal"):
        parser.add_argument(f"--{name}", metavar="FOLDER")
    parser.add_argument("--phantoms", type=int, metavar="COUNT")
    parser.add_argument("--manifest", type=Path, metavar="CSV")
    parser.add_argument("--confirmed", metavar="WORD")
    arguments = parser.parse_args()
    model = load_model(arguments.weights)
    if arguments.val and not arguments.normal:
        report_synthetic(model, detail_films(model, datalist(arguments.val)).images())
    if arguments.phantoms:
        report_phantoms(model, arguments.phantoms)
    if arguments.normal:
        table = (
            {Path(r["file"]).stem: r for r in csv.DictReader(arguments.manifest.open())} if arguments.manifest else {}
        )
        films = datalist(arguments.abnormal)
        if arguments.confirmed:
            films = [f for f in films if arguments.confirmed in table[Path(f["image"]).stem]["label_source"]]
        views = [table.get(Path(f["image"]).stem, {}).get("view", "") for f in films]
        normal, train = (
            detail_films(model, datalist(folder)).images() for folder in (arguments.normal, arguments.train)
        )
        report_patients(model, normal, detail_films(model, films).images(), views, train)


if __name__ == "__main__":
    main()
