"""Phantom films, and a small model whose scores are fitted to some of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from monai_cxr_vae.data import FilmDataset
from monai_cxr_vae.data.phantom import write_phantoms
from monai_cxr_vae.model import RadiographVAE
from monai_cxr_vae.scoring import Critic, detail_films, fit_scorer

FITTED, CALIBRATION, NEW = 50, 39, 30


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Films of as many invented patients, portrait and landscape in turn."""
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), FITTED + CALIBRATION + NEW, 11, "png", 80)


@pytest.fixture(scope="session")
def datasets(phantoms: list[Path]) -> Callable[[RadiographVAE], list[FilmDataset]]:
    """The films as a model's scores need them, in three parts: to fit to, to calibrate with, and new ones."""

    def parts(model: RadiographVAE) -> list[FilmDataset]:
        data = [{"image": str(path)} for path in phantoms]
        bounds = (0, FITTED, FITTED + CALIBRATION, len(data))
        cache = phantoms[0].parent / "cache"
        return [detail_films(model, data[a:b], cache) for a, b in itertools.pairwise(bounds)]

    return parts


@pytest.fixture(scope="session")
def make_model(datasets: Callable[[RadiographVAE], list[FilmDataset]]) -> Callable[..., RadiographVAE]:
    """Makes a model at the principal components of the phantom films, its scores fitted, with a new critic or none."""

    def make(critic: bool = False, fit: str = "letterbox") -> RadiographVAE:
        torch.manual_seed(0)
        model = RadiographVAE(image_size=32, latent_size=8, channels=(8,), width=16, fit=fit).eval()
        films, calibration, _ = datasets(model)
        model.network.initialize_linear(torch.nn.functional.avg_pool2d(films.images(), 2))
        fit_scorer(model, films, calibration, Critic().eval() if critic else None)
        return model

    return make


@pytest.fixture(scope="session")
def plain(make_model: Callable[..., RadiographVAE]) -> RadiographVAE:
    """Without a critic; not to be changed."""
    return make_model()


@pytest.fixture(scope="session")
def critical(make_model: Callable[..., RadiographVAE]) -> RadiographVAE:
    """With a critic that has learnt nothing; not to be changed."""
    return make_model(critic=True)


@pytest.fixture(scope="session")
def stretched(make_model: Callable[..., RadiographVAE]) -> RadiographVAE:
    """For films that fill the square, so that a turned one has no bands that give it away; not to be changed."""
    return make_model(fit="stretch")


@pytest.fixture(scope="session")
def new_films(plain: RadiographVAE, datasets: Callable[[RadiographVAE], list[FilmDataset]]) -> tuple[torch.Tensor, ...]:
    """Films that nothing was fitted to, as :func:`monai_cxr_vae.scoring.score` takes them: image, detail, mask."""
    return as_scored(datasets(plain)[2])


def as_scored(films: FilmDataset) -> tuple[torch.Tensor, ...]:
    detail, mask = films.images(), films.view("mask")[:]
    pool = torch.nn.functional.avg_pool2d
    return pool(detail, 2), detail, pool(mask.float(), 2) == 1
