"""The shipped spatial weights on real films."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from monai_cxr_vae import load_model, read_radiograph
from monai_cxr_vae.evaluation import baselines
from monai_cxr_vae.metrics import peak_signal_to_noise_ratio
from monai_cxr_vae.model import weights_file
from monai_cxr_vae.transforms import fit_to_square

# Decibels over the film's lowest frequencies, as many values.
MARGINS = {"spatial": 2.0, "spatial4096": 2.0}


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
    assert psnr(made, films) > psnr(baselines.low_pass_dct(films, model.latent_size)[0], films) + MARGINS[preset]


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
