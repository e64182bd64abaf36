"""Fitting to the square and back, for any size, shape of pixel and orientation."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd

from monai_cxr_vae.transforms import FitToSquare, FitToSquared, fit_to_square, restore

# how an upright film (rows to the patient's left, columns to the feet) is stored under each Patient Orientation
STORED = {
    ("L", "F"): lambda film: film,
    ("R", "F"): lambda film: film[:, ::-1],
    ("L", "H"): lambda film: film[::-1],
    ("R", "H"): lambda film: film[::-1, ::-1],
    ("F", "L"): lambda film: film.T,
    ("F", "R"): lambda film: film[:, ::-1].T,
    ("H", "L"): lambda film: film[::-1].T,
    ("H", "R"): lambda film: film[::-1, ::-1].T,
}
sizes = st.integers(1, 90)
orientations = st.sampled_from([*STORED, ("A", "F"), ("", ""), ("LF", "F"), None])


def ramp(rows: int, columns: int) -> np.ndarray:
    """Smooth, without symmetry, in [0, 1]."""
    y, x = np.mgrid[:rows, :columns]
    return ((2 * (y + 0.5) / rows + (x + 0.5) / columns) / 3).astype(np.float32)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
def test_every_orientation_becomes_upright_and_comes_back(orientation: tuple[str, str], fit: str) -> None:
    upright = ramp(60, 48)
    expected, _ = fit_to_square(upright, 32, fit)
    stored = np.ascontiguousarray(STORED[orientation](upright))
    aspect = 1.0
    square, geometry = fit_to_square(stored, 32, fit, aspect, orientation)
    np.testing.assert_allclose(square, expected, atol=1e-6)
    back = restore(square, geometry, "source")
    assert back.shape == stored.shape
    assert np.abs(back - stored).max() < 0.04
    network = restore(square, geometry)
    assert max(network.shape) == 32


@settings(max_examples=60)
@given(sizes, sizes, st.integers(1, 70), st.sampled_from(["stretch", "letterbox"]), st.floats(0.2, 5), orientations)
def test_shapes_and_places(
    rows: int, columns: int, size: int, fit: str, aspect: float, orientation: tuple[str, str] | None
) -> None:
    film = ramp(rows, columns)
    square, geometry = fit_to_square(film, size, fit, aspect, orientation)
    assert square.shape == (size, size)
    assert square.dtype == np.float32
    assert square.min() >= 0
    assert square.max() <= 1
    top, left, height, width = geometry["box"]
    assert 0 <= top <= top + height <= size
    assert 0 <= left <= left + width <= size
    outside = np.ones_like(square, bool)
    outside[top : top + height, left : left + width] = False
    assert not square[outside].any()
    if fit == "stretch":
        assert not outside.any()
    else:
        assert size in (height, width)
        tall, wide = (columns, rows * aspect) if geometry["orientation"]["transpose"] else (rows * aspect, columns)
        assert abs(height - size * tall / max(tall, wide)) <= 1
        assert abs(width - size * wide / max(tall, wide)) <= 1

    source = restore(square, geometry, "source")
    assert source.shape == (rows, columns)
    network = restore(square, geometry, "network")
    assert max(network.shape) == size
    assert (network.shape[0] >= network.shape[1]) or rows * aspect <= columns
    np.testing.assert_array_equal(restore(square, geometry, size), network)
    large = restore(square, geometry, 2 * size)
    assert max(large.shape) == 2 * size
    assert max(abs(2 * a - b) for a, b in zip(network.shape, large.shape, strict=True)) <= 1
    # a gradient keeps its direction, so nothing was flipped or transposed on the way
    for axis, length in enumerate((rows, columns)):
        if min(length, height, width) >= 4:
            steps = np.diff(source.mean(axis=1 - axis))
            assert steps.sum() > 0


@settings(max_examples=40)
@given(st.integers(30, 90), st.integers(30, 90), st.floats(0.5, 2), st.sampled_from(sorted(STORED)))
def test_there_and_back_is_close(rows: int, columns: int, aspect: float, orientation: tuple[str, str]) -> None:
    film = ramp(rows, columns)
    for fit in ("stretch", "letterbox"):
        square, geometry = fit_to_square(film, 64, fit, aspect, orientation)
        assert np.abs(restore(square, geometry, "source") - film).max() < 0.05


def exact_area(film: np.ndarray, height: int, width: int) -> np.ndarray:
    """Area means in float64, from the integral of the film at the borders of the new pixels."""
    for axis, length in enumerate((height, width)):
        whole = np.cumsum(np.insert(film.astype(np.float64), 0, 0, axis), axis)
        borders = np.linspace(0, film.shape[axis], length + 1)
        at = np.apply_along_axis(lambda line, b=borders: np.interp(b, np.arange(len(line)), line), axis, whole)
        film = np.diff(at, axis=axis) * length / film.shape[axis]
    return film


@settings(max_examples=30)
@given(st.integers(16, 300), st.integers(16, 300), st.integers(1, 16), st.integers(0, 9))
def test_shrinking_is_the_exact_area_mean(rows: int, columns: int, size: int, seed: int) -> None:
    film = np.random.default_rng(seed).random((rows, columns), np.float32)
    film[: rows // 3] = 1
    square, _ = fit_to_square(film, size, "stretch")
    np.testing.assert_allclose(square, exact_area(film, size, size), atol=2e-6)
    assert square.min() >= 0
    assert square.max() <= 1


def test_shrinking_averages_and_keeps_the_mean() -> None:
    film = np.random.default_rng(0).random((96, 64), np.float32)
    square, _ = fit_to_square(film, 32, "stretch")
    np.testing.assert_allclose(square, film.reshape(32, 3, 32, 2).mean((1, 3)), atol=1e-6)
    tall, _ = fit_to_square(film[:, :16], 32, "stretch")  # grows along one axis, shrinks along the other
    np.testing.assert_allclose(tall.mean(), film[:, :16].mean(), atol=0.01)


def test_pixels_that_are_not_square() -> None:
    film = ramp(50, 100)
    _, geometry = fit_to_square(film, 64, "letterbox", pixel_aspect=2.0)
    assert geometry["box"] == (0, 0, 64, 64)
    _, turned = fit_to_square(film.T, 64, "letterbox", pixel_aspect=0.5, orientation=("F", "L"))
    assert turned["box"] == (0, 0, 64, 64)
    assert restore(np.zeros((64, 64)), geometry).shape == (64, 64)


def test_restore_takes_leading_axes_and_tensors() -> None:
    square, geometry = fit_to_square(ramp(30, 50), 40, "letterbox", orientation=("R", "F"))
    single = restore(square, geometry, "source")
    for lead in ((1,), (2, 3)):
        many = restore(np.broadcast_to(square, (*lead, 40, 40)), geometry, "source")
        np.testing.assert_array_equal(many, np.broadcast_to(single, (*lead, 30, 50)))
    tensor = restore(torch.from_numpy(square)[None], geometry, "source")
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy()[0], single)


@pytest.mark.parametrize("call", [lambda: fit_to_square(ramp(3, 3), 8, "crop"), lambda: FitToSquare(8, "crop")])
def test_unknown_fit(call: Any) -> None:
    with pytest.raises(ValueError, match="fit must be one of"):
        call()


def film_tensor(rows: int, columns: int, **meta: Any) -> MetaTensor:
    affine = torch.eye(4, dtype=torch.float64)
    affine[:2, :2] = torch.tensor([[0.0, -0.3], [-0.2, 0.0]])
    return MetaTensor(torch.from_numpy(ramp(rows, columns)[None]), affine=affine, meta=meta)


@pytest.mark.parametrize(("orientation", "fit"), list(product(STORED, ["stretch", "letterbox"])))
def test_stock_invertd_brings_the_prediction_to_the_source_grid(orientation: tuple[str, str], fit: str) -> None:
    image = film_tensor(60, 48, orientation="\\".join(orientation), pixel_aspect=2 / 3)
    chain = Compose([FitToSquared("image", 32, fit)])
    data = chain({"image": image})
    assert data["image"].shape == (1, 32, 32)
    assert data["image"].dtype == torch.float32
    assert data["image"].meta["geometry"]["fit"] == fit
    data["pred"] = data["image"].as_tensor().clone() * 0.5
    data["pred"] = MetaTensor(data["pred"])
    pred = Invertd("pred", chain, orig_keys="image", nearest_interp=False)(data)["pred"]
    assert pred.shape == image.shape
    assert (pred.as_tensor() - 0.5 * image.as_tensor()).abs().max() < 0.03
    torch.testing.assert_close(pred.affine, image.affine)


@pytest.mark.parametrize(("orientation", "fit"), list(product(STORED, ["stretch", "letterbox"])))
def test_the_affine_stays_true(orientation: tuple[str, str], fit: str) -> None:
    """A bright spot lies at the same place in mm before and after."""
    spot = torch.zeros(1, 80, 64)
    spot[0, 18:22, 40:44] = 1
    image = film_tensor(80, 64, orientation="\\".join(orientation), pixel_aspect=2 / 3)
    image = MetaTensor(spot).copy_meta_from(image)
    square = FitToSquare(64, fit)(image)

    def centre(picture: MetaTensor) -> torch.Tensor:
        weights = picture.as_tensor()[0].double()
        rows, columns = torch.meshgrid(torch.arange(weights.shape[0]), torch.arange(weights.shape[1]), indexing="ij")
        where = [(weights * axis).sum() / weights.sum() for axis in (rows, columns)]
        return (picture.affine @ torch.tensor([*where, 0.0, 1.0], dtype=torch.float64))[:3]

    torch.testing.assert_close(centre(square), centre(image), atol=0.02, rtol=0)


def test_plain_arrays_and_wrong_shapes() -> None:
    assert FitToSquare(16)(ramp(20, 30)[None]).shape == (1, 16, 16)
    for shape in ((20, 30), (3, 20, 30)):
        with pytest.raises(ValueError, match="shape"):
            FitToSquare(16)(np.zeros(shape, np.float32))
