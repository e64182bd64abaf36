"""Leading directions where they are known, and the picture of a walk."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.evaluation.traverse import draw_traversal, leading_directions
from monai_cxr_vae.model import RadiographVAE


@pytest.fixture
def model() -> RadiographVAE:
    """A network that starts from principal components, so that it is linear; its latents hang together."""
    torch.manual_seed(0)
    model = RadiographVAE(image_size=16, latent_size=5, channels=(8,), width=16).eval().requires_grad_(False)
    films = 0.5 + torch.randn(60, 6) @ (0.05 * torch.randn(6, 256))
    model.network.initialize_linear(films.view(-1, 1, 16, 16))
    mixing = torch.randn(5, 5)
    model.latent_mean.copy_(torch.randn(5))
    model.latent_covariance.copy_(mixing @ mixing.T)
    return model


def test_directions_are_the_principal_components_of_what_is_drawn(model: RadiographVAE):
    found = leading_directions(model, 3)
    # The judge knows the films' covariance in closed form, the decoder being linear.
    weight = model.network.linear_decoder.weight.double().numpy()
    covariance = weight @ model.latent_covariance.double().numpy() @ weight.T
    values, vectors = np.linalg.eigh(covariance)
    np.testing.assert_allclose(found.share, values[::-1][:3] / values.sum(), rtol=1e-4)
    for step, value, vector in zip(found.steps, values[::-1], vectors.T[::-1], strict=False):
        change = (model.decode(model.latent_mean + step[None]) - model.decode(model.latent_mean[None])).flatten()
        assert abs(float(change.double() @ torch.from_numpy(vector.copy()))) == pytest.approx(value**0.5, rel=1e-3)
        assert float(change.square().sum()) == pytest.approx(value, rel=1e-3)
        assert change.sum() > 0  # the brighter film lies ahead
    # Each is one standard deviation long, and they do not go together.
    precision = torch.linalg.inv(model.latent_covariance.double())
    lengths = found.steps.double() @ precision @ found.steps.double().T
    torch.testing.assert_close(lengths, torch.eye(3, dtype=torch.float64), rtol=1e-3, atol=1e-3)


def test_what_has_no_directions_says_so(model: RadiographVAE):
    grid = RadiographVAE("spatial", image_size=16, latent_size=16, stride=8, channels=(8,)).eval()
    with pytest.raises(InputError, match="grid of latents"):
        leading_directions(grid, 2)
    model.latent_covariance.fill_(float("nan"))
    with pytest.raises(InputError, match="not fitted"):
        leading_directions(model, 2)


def cells(path: Path, rows: int, columns: int) -> list[list[np.ndarray]]:
    """The inside of each cell of a picture of so many rows and columns."""
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    parts = [np.array_split(row, columns, 1) for row in np.array_split(picture[:-20], rows)]
    return [[cell[60:-60, 60:-60] for cell in row] for row in parts]


def test_a_walk_leads_from_one_film_to_the_other(model: RadiographVAE, tmp_path: Path):
    dark, bright = (torch.full((1, 1, 16, 16), value) for value in (0.2, 0.8))
    model.encode = lambda x: (x.mean((1, 2, 3))[:, None].expand(-1, 5), None)
    model.decode = lambda z: z[:, 0].view(-1, 1, 1, 1).expand(-1, 1, 16, 16)
    draw_traversal(tmp_path / "walk.png", model, dark, other=bright, steps=4)
    (row,) = cells(tmp_path / "walk.png", 1, 6)
    grey = [float(np.median(cell)) / 255 for cell in row]
    np.testing.assert_allclose(grey, [0.2, 0.2, 0.4, 0.6, 0.8, 0.8], atol=0.01)


def test_a_direction_goes_either_way_from_the_film(model: RadiographVAE, tmp_path: Path):
    film = torch.rand(1, 1, 16, 16)
    directions = leading_directions(model, 2)
    seen: list[torch.Tensor] = []
    decode = model.decode
    model.decode = lambda z: seen.append(z) or decode(z)
    draw_traversal(tmp_path / "ways.png", model, film, directions, steps=5, reach=2)
    assert cv2.imread(str(tmp_path / "ways.png")).size > 0
    z = model.encode(film)[0]
    ways = torch.linspace(-2, 2, 5)[:, None]
    for row, step in zip([part for part in seen if len(part) == 5], directions.steps, strict=True):
        torch.testing.assert_close(row, z + ways * step)


def test_nowhere_to_go(model: RadiographVAE, tmp_path: Path):
    film = torch.rand(1, 1, 16, 16)
    with pytest.raises(InputError, match="nowhere to go"):
        draw_traversal(tmp_path / "x.png", model, film)
    with pytest.raises(InputError, match="at least two steps"):
        draw_traversal(tmp_path / "x.png", model, film, other=film, steps=1)
    assert not (tmp_path / "x.png").exists()
