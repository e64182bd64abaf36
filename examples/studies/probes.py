"""What latents tell of a film, to a linear probe: view, sex, findings; beside principal components of the same size.

Usage: probes.py FILMS.csv --train FOLDER [--weights NAME ...] [--only COLUMN=PATTERN ...] [--json FILE]. The csv has a
row per film: ``file`` (relative to the csv), ``patient`` (empty or "unknown": each film its own), and any of ``view``
(AP, PA), ``sex`` (F, M), ``label`` (normal, abnormal) and ``finding`` (names between bars). Films of several sources
tell their source before anything else: keep to one, and to films that the weights were not trained on (``--only``, a
regular expression that a column's text must hold). The folder has the films that the principal components are fitted
to; those of the training make the comparison fair.

A probe is a logistic regression whose strength of shrinkage is chosen within its training part. Every film is scored by
a probe that has seen none of its patient's films (5 folds); the area under the ROC curve (AUROC) is over all films, its
95% interval from resampled patients, and that of the difference from the same resamples.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from monai_cxr_vae import load_model
from monai_cxr_vae.data import FilmDataset, datalist, film_transforms
from monai_cxr_vae.networks.components import principal_components

FOLDS, RESAMPLES = 5, 2000
FEWEST = 25  # films of a class; with fewer an interval is wider than what it is about
NO_FINDING, UNKNOWN = "No Finding", ("", "unknown")


class Question(NamedTuple):
    """What is asked of films: rows of the table, and whether each is a yes."""

    name: str
    films: np.ndarray
    answers: np.ndarray


def questions(rows: Sequence[dict[str, str]]) -> Iterator[Question]:
    """Those that the table answers for enough films: of the findings each among the films that have any."""
    yield from _enough("view: AP or PA", rows, [_is(row, "view", "AP", "PA") for row in rows])
    yield from _enough("sex: F or M", rows, [_is(row, "sex", "F", "M") for row in rows])
    yield from _enough("label: abnormal or normal", rows, [_is(row, "label", "abnormal", "normal") for row in rows])
    found = [set(row.get("finding", "").split("|")) - {"", NO_FINDING} for row in rows]
    for name in sorted(set().union(*found)):
        yield from _enough(f"finding: {name}", rows, [name in names if names else None for names in found])


def _is(row: dict[str, str], column: str, yes: str, no: str) -> bool | None:
    value = row.get(column, "").upper()
    return True if value == yes.upper() else False if value == no.upper() else None


def _enough(name: str, rows: Sequence[dict[str, str]], answers: Sequence[bool | None]) -> Iterator[Question]:
    films = np.array([i for i, answer in enumerate(answers) if answer is not None], dtype=int)
    told = np.array([answers[i] for i in films], dtype=bool)
    if min(told.sum(), (~told).sum()) >= FEWEST:
        yield Question(name, films, told)


def probe(features: np.ndarray, answers: np.ndarray, patients: np.ndarray, seed: int = 0) -> np.ndarray:
    """Scores of films by probes that have not seen their patients.

    Args:
        features: ``(n, k)``.
        answers: ``(n,)`` bool.
        patients: ``(n,)``, whose each film is.
        seed: of the folds.

    Returns:
        ``(n,)``, larger for yes.
    """
    scores = np.empty(len(answers))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    for train, test in folds.split(features, answers, patients):
        regression = LogisticRegression(class_weight="balanced", solver="newton-cholesky")
        search = GridSearchCV(
            make_pipeline(StandardScaler(), regression),
            {"logisticregression__C": np.logspace(-4, 0, 5)},
            scoring="roc_auc",
            cv=StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed),
        )
        search.fit(features[train], answers[train], groups=patients[train])
        scores[test] = search.decision_function(features[test])
    return scores


def resampled(answers: np.ndarray, patients: np.ndarray, seed: int = 0) -> Iterator[np.ndarray]:
    """Indices of films, of as many patients as there are, drawn with replacement; both answers are among them."""
    random = np.random.default_rng(seed)
    names, of = np.unique(patients, return_inverse=True)
    films = np.split(np.argsort(of, kind="stable"), np.cumsum(np.bincount(of))[:-1])
    made = 0
    while made < RESAMPLES:
        drawn = np.concatenate([films[i] for i in random.integers(len(names), size=len(names))])
        if 0 < answers[drawn].sum() < len(drawn):
            made += 1
            yield drawn


def compare(
    ours: np.ndarray, theirs: np.ndarray, answers: np.ndarray, patients: np.ndarray
) -> dict[str, dict[str, Any]]:
    """AUROC of two probes' scores and their difference, each ``{"value", "ci95"}``."""
    draws = np.array(
        [[roc_auc_score(answers[i], scores[i]) for scores in (ours, theirs)] for i in resampled(answers, patients)]
    )
    values = [roc_auc_score(answers, scores) for scores in (ours, theirs)]
    columns = {
        "latents": (values[0], draws[:, 0]),
        "pca": (values[1], draws[:, 1]),
        "difference": (values[0] - values[1], draws[:, 0] - draws[:, 1]),
    }
    return {
        name: {"value": float(value), "ci95": np.quantile(drawn, (0.025, 0.975)).tolist()}
        for name, (value, drawn) in columns.items()
    }


@torch.no_grad()
def codes(weights: str, data: list[dict[str, str]], train: str) -> tuple[np.ndarray, np.ndarray]:
    """Of films their latents' means, and as many principal components fitted to the films of a folder."""
    model = load_model(weights)
    transform = film_transforms(model.image_size, model.fit)
    films, others = (FilmDataset(part, transform) for part in (data, datalist(train)))
    found = principal_components(others.view("image"), model.latent_size)
    latents, components = [], []
    for batch in films.batches("latents"):
        latents.append(model.encode(batch["image"])[0].flatten(1).numpy())
        components.append(((batch["image"].flatten(1).double() - found.mean) @ found.directions).numpy())
    return np.concatenate(latents), np.concatenate(components)


def measure(rows: Sequence[dict[str, str]], root: Path, train: str, weights: Iterable[str]) -> Iterator[dict[str, Any]]:
    """A row for each question and each of the weights."""
    patients = np.array([row["file"] if row["patient"] in UNKNOWN else row["patient"] for row in rows])
    for name in weights:
        latents, components = codes(name, [{"image": str(root / row["file"])} for row in rows], train)
        for question, chosen, answers in questions(rows):
            whose = patients[chosen]
            scores = [probe(features[chosen], answers, whose) for features in (latents, components)]
            found = compare(*scores, answers, whose)
            counted = {"yes": int(answers.sum()), "no": int((~answers).sum()), "patients": len(set(whose))}
            yield {"weights": name, "values": latents.shape[1], "question": question, **counted, **found}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, metavar="FILMS.csv")
    parser.add_argument("--train", required=True, metavar="FOLDER")
    parser.add_argument("--weights", nargs="+", default=["model"], metavar="NAME")
    parser.add_argument("--only", nargs="+", default=[], metavar="COLUMN=PATTERN")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    with arguments.table.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    for condition in arguments.only:
        column, _, pattern = condition.partition("=")
        rows = [row for row in rows if re.search(pattern, row[column])]
    results = []
    for result in measure(rows, arguments.table.parent, arguments.train, arguments.weights):
        told = "  ".join(
            f"{name} {result[name]['value']:.3f} ({result[name]['ci95'][0]:.3f} to {result[name]['ci95'][1]:.3f})"
            for name in ("latents", "pca", "difference")
        )
        counts = f"{result['yes']}/{result['no']}"
        print(f"{result['weights']:10} {result['question']:28} {counts:>9}  {told}", flush=True)
        results.append(result)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
