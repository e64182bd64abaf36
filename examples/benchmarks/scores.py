"""How well scores tell faulty and diseased films from normal ones.

    python examples/benchmarks/scores.py --val VAL_NORMAL [--weights FILE]
    python examples/benchmarks/scores.py --sites FOLDER ... --phantoms 100
    python examples/benchmarks/scores.py --train TRAIN_NORMAL --normal TEST_NORMAL --abnormal TEST_ABNORMAL \
        [--manifest CSV --confirmed RSNA]

The first form draws each family of synthetic faults and findings into the validation films, and asks whether heat maps
show where the findings are. The second form counts alarms on films of other sites and on phantom films, and asks of
those with findings what their heat maps show, beside the plain difference. Scores may be tuned on both. The third form
is for reporting: films of patients, beside measures that know nothing of a model.
A manifest tells ``view``, ``sex`` and ``age`` and, with ``--confirmed``, which films count: ``label_source`` has the
word.
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
from monai_cxr_vae.scores import SCORES
from monai_cxr_vae.scoring import detail_films
from monai_cxr_vae.scoring.faults import FAULTS, add_fault
from monai_cxr_vae.scoring.features import texture
from monai_cxr_vae.scoring.findings import FINDINGS, add_findings
from monai_cxr_vae.scoring.score import examine, fitted, p_value
from monai_cxr_vae.scoring.scorer import DETAIL

RESAMPLES = 2000


class Measured:
    """Standardised aspects, both scores, p-values and heat maps of films ``(N, 1, 2 S, 2 S)``."""

    def __init__(self, model, films: Tensor, masks: Tensor | None = None) -> None:
        scorer, rows, maps = fitted(model), [], []
        masks = torch.ones_like(films, dtype=torch.bool) if masks is None else masks
        with torch.no_grad():
            for detail, mask in zip(films.split(50), masks.split(50), strict=True):
                image, inside = F.avg_pool2d(detail, DETAIL), F.avg_pool2d(mask.float(), DETAIL) > 0.5
                look = examine(model, scorer, image, detail, inside)
                rows.append(scorer.standardised(look))
                maps.append(scorer.heat(look))
        table, self.heat = torch.cat(rows), torch.cat(maps)[:, 0].numpy()
        self.values = dict(zip(scorer.aspects, table.T, strict=True)) | scorer.scores(table)
        self.p = {name: p_value(self.values[name], scorer.calibration(name)) for name in SCORES}

    def alarms(self) -> str:
        """Share of the films with p < 0.05, quality and anomaly, as two cells of a table."""
        return " | ".join(f"{100 * float((p < 0.05).float().mean()):.1f}%" for p in self.p.values())


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


def synthetic(films: Tensor) -> dict[str, tuple[Tensor, np.ndarray | None]]:
    """The films with each family of faults and findings, and with some faults of fixed strength; where findings are."""
    plain = films[:, 0].numpy()
    sets: dict[str, tuple[Tensor, np.ndarray | None]] = {}
    for number, name in enumerate([*FAULTS, *FINDINGS]):
        rng = np.random.default_rng(number)
        if name in FAULTS:
            drawn, where = [add_fault(film, rng, [name]) for film in plain], None
        else:
            drawn, where = map(np.stack, zip(*(add_findings(film, rng, [name]) for film in plain), strict=True))
        sets[name] = torch.from_numpy(np.stack(drawn))[:, None], where
    half = films.shape[-1] // 4
    middle = films[..., half:-half, half:-half]
    plain_sets = {
        "turned by 90 degrees": films.rot90(1, (2, 3)),
        "turned by 180 degrees": films.rot90(2, (2, 3)),
        "cropped to half": F.interpolate(middle, size=films.shape[2:], mode="bilinear", align_corners=False),
        "half as bright": films * 0.5,
        "gamma 2": films**2,
        "gamma 0.5": films.sqrt(),
    }
    return sets | {name: (changed, None) for name, changed in plain_sets.items()}


def report_synthetic(model, films: Tensor) -> None:
    normal = Measured(model, films).values
    print("| films | quality | anomaly | " + " | ".join(list(normal)[:-2]) + " | map: precision | pointing |")
    print("| --- |" + " --- |" * (len(normal) + 2))
    for name, (changed, where) in synthetic(films).items():
        measured = Measured(model, changed.contiguous())
        row = [f"{auroc(normal[key], measured.values[key]):.3f}" for key in (*SCORES, *list(normal)[:-2])]
        row += [f"{value:.3f}" for value in shown(measured.heat, where)] if where is not None else ["", ""]
        print(f"| {name} | " + " | ".join(row) + " |", flush=True)


def report_sites(model, folders: list[str], phantoms: int) -> None:
    print("| normal films | quality p < 0.05 | anomaly p < 0.05 |\n| --- | --- | --- |")
    for folder in folders:
        films = detail_films(model, datalist(folder))
        cells = Measured(model, films.images(), films.view("mask")[:]).alarms()
        print(f"| {Path(folder).name} ({len(films)}) | {cells} |", flush=True)
    if phantoms:
        side = DETAIL * model.image_size
        films = torch.stack([torch.from_numpy(render((9, seed), side).image)[None] for seed in range(phantoms)])
        print(f"| phantoms without findings ({phantoms}) | {Measured(model, films).alarms()} |")


def groups_of(rows: list[dict[str, str]]) -> dict[str, list[bool]]:
    """What a manifest tells of films: name of a group, and which films belong to it."""
    groups: dict[str, list[bool]] = {"all": [True] * len(rows)}
    for column in ("label_source", "view", "sex"):
        for value in sorted({row.get(column, "") for row in rows} - {""}):
            groups[value] = [row.get(column) == value for row in rows]
    for value in sorted({row.get("label_source", "") for row in rows} - {""}):
        groups[f"{value}, PA"] = [row.get("label_source") == value and row.get("view") == "PA" for row in rows]
    for low, high in ((0, 18), (18, 40), (40, 60), (60, 120)):
        groups[f"age {low} to {high}"] = [low <= float(row.get("age") or -1) < high for row in rows]
    return {name: chosen for name, chosen in groups.items() if sum(chosen) >= 5}


def report_patients(model, normal: Tensor, abnormal: Tensor, told: list[dict[str, str]], train: Tensor) -> None:
    ours, others = Measured(model, normal), Measured(model, abnormal)
    n_calibration = fitted(model).films
    # Of n calibration films the k-th largest score is the first with p below 5%.
    k = int(np.ceil(0.05 * (n_calibration + 1))) - 1
    low, high = betabinom.ppf((0.005, 0.995), len(normal), k, n_calibration + 1 - k)
    for name, p in ours.p.items():
        alarms = int((p < 0.05).sum())
        print(f"{name} alarms at 5%: {alarms} of {len(normal)} normal films; a perfect method: {low:.0f} to {high:.0f}")
    print("| anomaly: films | n | AUROC | p < 0.05 |\n| --- | --- | --- | --- |")
    for name, members in groups_of(told).items():
        chosen = torch.tensor(members)
        found = 100 * float((others.p["anomaly"][chosen] < 0.05).float().mean())
        area = interval(ours.values["anomaly"], others.values["anomaly"][chosen])
        print(f"| {name} | {int(chosen.sum())} | {area} | {found:.1f}% |", flush=True)
    views = [row.get("view", "") for row in told]
    squares = tuple(torch.cat([normal, abnormal]).split(len(normal)))
    components = pca(F.avg_pool2d(train, 2), 64).reconstruct
    simple = {
        "mean intensity": lambda x: x.mean((1, 2, 3)),
        "complexity": lambda x: texture(x, torch.ones_like(x, dtype=torch.bool))[:, -1],
        "difference from the mean film": lambda x: (x - train.mean(0)).square().mean((1, 2, 3)),
        "difference from PCA-64": lambda x: (
            (F.avg_pool2d(x, 2) - components(F.avg_pool2d(x, 2))).square().mean((1, 2, 3))
        ),
    }
    rows = {name: (ours.values[name], others.values[name]) for name in [*SCORES, *list(ours.values)[:-2]]}
    rows |= {name: (measure(squares[0]), measure(squares[1])) for name, measure in simple.items()}
    present = [view for view in ("PA", "AP") if view in views]
    print("| score | all | " + " | ".join(f"{view} only" for view in present) + " |")
    print("| --- | --- |" + " --- |" * len(present))
    for name, (a, b) in rows.items():
        cells = [interval(a, b)]
        cells += [interval(a, b[torch.tensor([v == view for v in views])]) for view in present]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def report_phantoms(model, count: int) -> None:
    print("| finding | heat map: precision | pointing | difference: precision | pointing |\n" + "| --- " * 5 + "|")
    side = DETAIL * model.image_size
    for finding in PHANTOM_FINDINGS:
        phantoms = [render((9, seed), side, finding) for seed in range(count)]
        where = np.stack([phantom.mask for phantom in phantoms])
        films = torch.stack([torch.from_numpy(phantom.image)[None] for phantom in phantoms])
        images = F.avg_pool2d(films, DETAIL)
        with torch.no_grad():
            difference = (images - model.reconstruct(images)).abs()[:, 0].numpy()
        cells = [f"{v:.3f}" for heat in (Measured(model, films).heat, difference) for v in shown(heat, where)]
        print(f"| {finding}, {count} films | " + " | ".join(cells) + " |")


def shown(maps: np.ndarray, where: np.ndarray) -> tuple[float, float]:
    """Mean average precision over pixels, and how often the hottest lies in the finding (the pointing game).

    Args:
        maps: ``(N, S, S)``.
        where: ``(N, 2 S, 2 S)`` bool; films whose finding is too small to be seen in a map are left out.
    """
    inside = F.avg_pool2d(torch.from_numpy(where)[:, None].float(), DETAIL)[:, 0].numpy() > 0.5
    pairs = [(mask, heat) for mask, heat in zip(inside, maps, strict=True) if mask.any()]
    precision, pointing = zip(*((_precision(*pair), _points(*pair)) for pair in pairs), strict=True)
    return float(np.mean(precision)), float(np.mean(pointing))


def _precision(inside: np.ndarray, values: np.ndarray) -> float:
    return float(average_precision_score(inside.ravel(), values.ravel()))


def _points(inside: np.ndarray, values: np.ndarray) -> float:
    return float(inside[values == values.max()].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="calibrated weights (default: the shipped ones)")
    for name in ("val", "train", "normal", "abnormal"):
        parser.add_argument(f"--{name}", metavar="FOLDER")
    parser.add_argument("--sites", nargs="+", default=[], metavar="FOLDER")
    parser.add_argument("--phantoms", type=int, default=0, metavar="COUNT")
    parser.add_argument("--manifest", type=Path, metavar="CSV")
    parser.add_argument("--confirmed", metavar="WORD")
    arguments = parser.parse_args()
    model = load_model(arguments.weights)
    if arguments.val:
        report_synthetic(model, detail_films(model, datalist(arguments.val)).images())
    if arguments.sites or arguments.phantoms:
        report_sites(model, arguments.sites, arguments.phantoms)
    if arguments.phantoms:
        report_phantoms(model, arguments.phantoms)
    if arguments.normal:
        table = (
            {Path(r["file"]).stem: r for r in csv.DictReader(arguments.manifest.open())} if arguments.manifest else {}
        )
        films = datalist(arguments.abnormal)
        if arguments.confirmed:
            films = [f for f in films if arguments.confirmed in table[Path(f["image"]).stem]["label_source"]]
        told = [table.get(Path(f["image"]).stem, {}) for f in films]
        normal, train = (
            detail_films(model, datalist(folder)).images() for folder in (arguments.normal, arguments.train)
        )
        report_patients(model, normal, detail_films(model, films).images(), told, train)


if __name__ == "__main__":
    main()
