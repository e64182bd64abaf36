"""The shipped weights on real films: what README says of them, and what must hold of any that take their place."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor

from monai_cxr_vae import load_model, read_radiograph
from monai_cxr_vae.data import datalist
from monai_cxr_vae.evaluation import baselines
from monai_cxr_vae.metrics import peak_signal_to_noise_ratio, structural_similarity
from monai_cxr_vae.model import weights_file
from monai_cxr_vae.scoring import Scores, detail_films, score
from monai_cxr_vae.transforms import fit_to_square

ROOT = Path(__file__).parents[1]

# Decibels over the film's lowest frequencies, as many values.
MARGINS = {"spatial": 2.0, "spatial4096": 2.0}


def result(row: str, pattern: str) -> float:
    """The number that the row of README's results table has in the place of the pattern's group."""
    (line,) = re.findall(rf"^\| {re.escape(row)}[ ,].*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    found = re.search(pattern, line)
    assert found, f"no {pattern} in {line}"
    return float(found[1])


@pytest.mark.parametrize("name", ["model", "vector128", "compact", "spatial", "spatial4096"])
def test_readme_tells_how_well_they_reconstruct(name: str, external_films: Path):
    paths = sorted((external_films / "cxr" / "test_normal").glob("*.png"))
    model, found = load_model(name), []
    for i in range(0, len(paths), 23):
        films = torch.cat([model.preprocess(read_radiograph(path)) for path in paths[i : i + 23]])
        with torch.no_grad():
            made = model.reconstruct(films)
        found.append(torch.stack([peak_signal_to_noise_ratio(made, films), structural_similarity(made, films)], 1))
    decibels, similarity = torch.cat(found).mean(0).tolist()
    assert decibels == pytest.approx(result(f"`{name}`", r"([\d.]+) dB"), abs=0.006)
    assert similarity == pytest.approx(result(f"`{name}`", r"SSIM ([\d.]+)"), abs=0.0006)


def told_of(folder: Path, cache: Path) -> dict[str, Scores]:
    """What the default weights tell of each film of a folder, by the file's name."""
    model, data = load_model(), datalist(folder)
    detail = detail_films(model, data, cache).images()
    image = torch.nn.functional.avg_pool2d(detail, 2)
    rows = [row for part in zip(image.split(50), detail.split(50), strict=True) for row in score(model, *part)[0]]
    return {Path(item["image"]).name: row for item, row in zip(data, rows, strict=True)}


def test_their_calibration_is_that_of_the_validation_films(external_films: Path, tmp_path: Path):
    """Scores of other weights, of another network or joined in another way are not those that p-values count."""
    told, scorer = told_of(external_films / "cxr" / "val_normal", tmp_path).values(), load_model().scorer
    for name in ("quality", "anomaly"):
        found = torch.tensor([getattr(row, name) for row in told]).sort().values
        stored = getattr(scorer, f"{name}_calibration").sort().values
        torch.testing.assert_close(found, stored, rtol=0, atol=1e-4)


def test_readme_tells_how_well_they_score(external_films: Path, tmp_path: Path):
    with (external_films / "manifest.csv").open() as lines:
        films = {Path(row["file"]).name: row for row in csv.DictReader(lines)}
    normal, abnormal = (told_of(external_films / "cxr" / f"test_{kind}", tmp_path) for kind in ("normal", "abnormal"))
    confirmed = {name: row for name, row in abnormal.items() if "RSNA" in films[name]["label_source"]}

    def auroc(abnormal: list[Scores]) -> float:
        rows = [*normal.values(), *abnormal]
        return float(roc_auc_score(np.arange(len(rows)) >= len(normal), [row.anomaly for row in rows]))

    only_pa = [row for name, row in confirmed.items() if films[name]["view"] == "PA"]
    assert len(confirmed) == result("anomaly score", r"(\d+) abnormal films")
    assert auroc(list(confirmed.values())) == pytest.approx(result("anomaly score", r"AUROC ([\d.]+)"), abs=0.0006)
    assert auroc(only_pa) == pytest.approx(result("anomaly score", r"PA ones alone ([\d.]+)"), abs=0.0006)
    alarms = 100 * np.mean([row.quality_p < 0.05 for row in normal.values()])
    assert alarms == pytest.approx(result("quality score", r"([\d.]+)% of normal films"), abs=0.06)


def psnr(made: Tensor, films: Tensor) -> float:
    return float(peak_signal_to_noise_ratio(made, films).mean())


@pytest.fixture(scope="module")
def paths(external_films: Path) -> list[Path]:
    return sorted((external_films / "cxr" / "test_normal").glob("*.png"))[::10]


@pytest.mark.parametrize("preset", MARGINS)
def test_they_are_far_above_low_pass_filters_of_as_many_values(preset: str, paths: list[Path]):
    model = load_model(preset)
    assert model.latent_size == {"spatial": 12288, "spatial4096": 4096}[preset]
    assert weights_file(preset).stat().st_size < 25e6
    films = torch.cat([model.preprocess(read_radiograph(path)) for path in paths])
    with torch.no_grad():
        made = torch.cat([model.reconstruct(batch) for batch in films.split(8)])
    assert (
        psnr(made, films)
        > psnr(baselines.low_pass_dct(films.shape[-1], model.latent_size).reconstruct(films), films) + MARGINS[preset]
    )


@pytest.mark.parametrize("shape", [(256, 213), (213, 256)])  # rows, columns: 5:6 and 6:5
def test_they_keep_their_quality_on_films_of_another_shape(shape: tuple[int, int], paths: list[Path]):
    model = load_model("spatial")

    def films(shape: tuple[int, int]) -> Tensor:
        pictures = (Image.open(path).convert("L").resize(shape[::-1], Image.Resampling.BOX) for path in paths)
        squares = [fit_to_square(np.float32(picture) / 255, model.image_size, model.fit)[0] for picture in pictures]
        return torch.from_numpy(np.stack(squares))[:, None]

    with torch.no_grad():
        square, other = (psnr(model.reconstruct(x), x) for x in (films((256, 256)), films(shape)))
    assert other > square - 1
