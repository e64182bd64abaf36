"""Whether the films of a scored folder are still like those that its weights were calibrated with."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.files import file_sha256, write_whole
from monai_cxr_vae.inference.manifest import Journal
from monai_cxr_vae.inference.rows import Row, score_of
from monai_cxr_vae.model import RadiographVAE, load_model
from monai_cxr_vae.scores import SCORES
from monai_cxr_vae.scoring.scorer import TECHNIQUE

MEASURES = (*SCORES, *TECHNIQUE)
# What headers say of how a film was made; told where it is new, since a calibration does not know headers.
_HEADERS = ("format", "view", "photometric", "bits_stored", "transfer_syntax", "voi")
# Of the measures, those of the picture: what a reader can make sense of.
_DRAWN = {
    **{name: name for name in SCORES},
    "latent": "distance of the latents",
    "exposure_3": "median intensity",
    "exposure_6": "brightest intensity",
    "texture_6": "log energy of the finest detail",
}


def drift(
    output_dir: str | os.PathLike, weights: str | os.PathLike, block: int = 100, alarm_rate: float = 0.01
) -> dict[str, Any]:
    """Compare the films of a scored folder, block by block in the order of their index, with the calibration's.

    One test per block: a two-sample Kolmogorov-Smirnov test of each of 18 measures (both scores, the latents' distance,
    exposure and texture), of which the smallest p-value counts, times 18 (Bonferroni). A block alarms when that is at
    most ``alarm_rate``; of blocks of films like those of the calibration, at most this share does. Values of headers
    that no earlier block had are told, not tested. Films that do not fill a block wait for the next ones.

    Args:
        output_dir: folder of a run of ``cxr-vae score``; ``drift.json`` and ``drift.png`` are written there.
        weights: the weights that scored them.
        block: films of a block.
        alarm_rate: in (0, 1).

    Returns:
        What ``drift.json`` holds: ``calibration`` (a sentence), ``alarm_rate`` and ``blocks``, each with ``first`` and
        ``last`` (index of a film), ``p``, ``alarm``, ``changed`` (the measures whose own p-value is small enough,
        the most changed first), and ``new`` (values of headers).

    Raises:
        InputError: no scored folder, films that other weights scored, fewer films than a block, or weights that do not
            know the technique of the films that they were calibrated with.
    """
    output_dir, model = Path(output_dir), load_model(weights)
    calibration = calibration_measures(model)
    rows = _scored_rows(output_dir, file_sha256(weights))
    if len(rows) < block:
        raise InputError(f"{len(rows)} scored films do not fill a block of {block}")
    films = np.array([[*(score_of(row, name) for name in SCORES), *row["technique"]] for row in rows])
    blocks, seen = [], set[str]()
    for start in range(0, len(rows) - block + 1, block):
        part = slice(start, start + block)
        p = len(MEASURES) * compare(films[part], calibration)
        columns = (item for row in rows[part] for item in row.items())
        headers = {f"{name} {value}" for name, value in columns if name in _HEADERS and value is not None}
        blocks.append(
            {
                "first": rows[start]["index"],
                "last": rows[start + block - 1]["index"],
                "p": min(1.0, float(p.min())),
                "alarm": bool(p.min() <= alarm_rate),
                "differs": [MEASURES[i] for i in p.argsort() if p[i] <= alarm_rate],
                "new": sorted(headers - seen) if start else [],
            }
        )
        seen |= headers
    known = model.settings.get("calibration", {})
    normal = f"{len(calibration)} films" + (f" of {known['date']}" if "date" in known else "")
    found = {"calibration": normal, "alarm_rate": alarm_rate, "block": block, "blocks": blocks}
    write_whole(output_dir / "drift.json", f"{json.dumps(found, indent=1)}\n".encode())
    draw(output_dir / "drift.png", films, calibration, blocks, block)
    return found


def calibration_measures(model: RadiographVAE) -> np.ndarray:
    """``(n, 18)``: the calibration's films in :data:`MEASURES`; each column is a distribution, rows are no films.

    Raises:
        InputError: the weights have no scores, or the technique of their calibration is not known.
    """
    scorer = model.scorer
    if scorer is None or not scorer.films or not scorer.technique_calibration.isfinite().all():
        raise InputError("these weights do not tell what the films of their calibration are like; calibrate them anew")
    columns = *(scorer.calibration(name) for name in SCORES), *scorer.technique_calibration.T
    return np.stack([column.numpy(force=True).astype(float) for column in columns], 1)


def compare(films: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """p-values of two-sample Kolmogorov-Smirnov tests, one per column of ``(m, k)`` and ``(n, k)``."""
    return np.array([stats.ks_2samp(a, b).pvalue for a, b in zip(films.T, calibration.T, strict=True)])


def draw(
    path: str | os.PathLike, films: np.ndarray, calibration: np.ndarray, blocks: Sequence[dict[str, Any]], block: int
) -> None:
    """Write a picture: of six measures the median and the middle 80% of each block over those of the calibration.

    Args:
        path: PNG to write.
        films, calibration: ``(m, 18)`` and ``(n, 18)``.
        blocks: as :func:`drift` returns them; those that alarm are red.
        block: films of a block.
    """
    figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")
    numbers = np.arange(len(blocks)) + 1
    alarms = np.array([found["alarm"] for found in blocks])
    for axis, (name, title) in zip(
        figure.subplots(2, -(-len(_DRAWN) // 2), sharex=True).flat, _DRAWN.items(), strict=False
    ):
        column = MEASURES.index(name)
        low, middle, high = np.quantile(calibration[:, column], (0.1, 0.5, 0.9))
        axis.axhspan(low, high, color="0.88")
        axis.axhline(middle, color="0.6", linewidth=1)
        parts = films[: len(blocks) * block, column].reshape(len(blocks), block)
        low, middle, high = np.quantile(parts, (0.1, 0.5, 0.9), axis=1)
        for chosen, colour in ((~alarms, "tab:blue"), (alarms, "tab:red")):
            axis.vlines(numbers[chosen], low[chosen], high[chosen], color=colour, linewidth=1)
            axis.plot(numbers[chosen], middle[chosen], "o", color=colour, markersize=3)
        axis.set_title(title, fontsize=10)
    figure.supxlabel(f"blocks of {block} films; grey: the calibration; red: blocks that alarm", fontsize=9)
    figure.savefig(path)


def _scored_rows(output_dir: Path, digest: str) -> list[Row]:
    manifest = output_dir / "manifest.jsonl"
    if not manifest.is_file():
        raise InputError(f"{output_dir} is not the output of `cxr-vae score`")
    journal = Journal(manifest)
    journal.close()
    rows = [cast(Row, row) for _, row in sorted(journal.current.items()) if row["status"] == "done"]
    if any(row["model_sha256"] != digest for row in rows):
        raise InputError("these films were scored by other weights; name them with --weights")
    if any("technique" not in row for row in rows):
        raise InputError("these films were not scored, or by an earlier release; score them anew with --force")
    return rows
