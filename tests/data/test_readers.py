"""Films through MONAI's own LoadImaged."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, LoadImaged
from PIL import Image

from monai_cxr_vae import read_radiograph
from monai_cxr_vae.errors import FilmError, TruncatedFile
from monai_cxr_vae.transforms import FitToSquared
from tests.dicom.dx import dx, gradient, save

READER = "monai_cxr_vae.data.RadiographReader"


@pytest.fixture
def films(tmp_path: Path) -> list[Path]:
    save(dx(PhotometricInterpretation="MONOCHROME1"), tmp_path / "one")
    save(dx(gradient(40, 70), PatientOrientation=["R", "F"], WindowWidth=None), tmp_path / "two.dcm")
    Image.fromarray(gradient(30, 50, 8).astype(np.uint8)).save(tmp_path / "three.png")
    return [tmp_path / "one", tmp_path / "two.dcm", tmp_path / "three.png"]


def test_deep_pictures_are_scaled_by_the_bits_of_their_set(tmp_path: Path) -> None:
    image = gradient(bits=10).astype(np.uint16)
    Image.fromarray(image).save(tmp_path / "film.png")
    chain = LoadImaged("image", reader=READER, bits=12)
    np.testing.assert_allclose(chain({"image": str(tmp_path / "film.png")})["image"].numpy(), image / 4095, atol=1e-6)


def test_load_imaged_gives_the_radiograph(films: list[Path]) -> None:
    chain = Compose([LoadImaged("image", reader=READER), EnsureChannelFirstd("image")])
    for path in films:
        film = read_radiograph(path)
        image = chain({"image": str(path)})["image"]
        np.testing.assert_array_equal(image.numpy()[0], film.pixels)
        assert image.shape == (1, film.rows, film.columns)
        assert image.dtype == torch.float32
        assert image.meta["filename_or_obj"] == str(path)
        np.testing.assert_array_equal(image.affine, film.row_major_affine)
        assert image.meta["format"] == film.format
        assert image.meta["warnings"].split() == list(film.warnings)


def test_the_affine_points_right_and_down(films: list[Path]) -> None:
    image = LoadImage(reader=READER)(str(films[0]))
    np.testing.assert_array_equal(image.affine[:2, :2], [[0, -0.2], [-0.2, 0]])


def test_meta_data_collates_and_holds_no_patient(films: list[Path]) -> None:
    chain = Compose(
        [LoadImaged("image", reader=READER), EnsureChannelFirstd("image"), FitToSquared("image", 16, "letterbox")]
    )
    batch = next(iter(DataLoader(Dataset([{"image": str(path)} for path in films], chain), batch_size=3)))
    assert batch["image"].shape == (3, 1, 16, 16)
    assert "ZZPHI" not in repr(batch["image"].meta)


def test_no_other_reader_answers_for_a_broken_film(films: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    films[1].write_bytes(films[1].read_bytes()[:-100])
    with pytest.raises(RuntimeError) as caught:
        Compose([LoadImaged("image", reader=READER)])({"image": str(films[1])})
    assert isinstance(caught.value.__cause__, TruncatedFile)
    assert "two.dcm" not in str(caught.value)
    assert "two.dcm" not in caplog.text


def test_a_film_is_one_file(films: list[Path]) -> None:
    from monai_cxr_vae.data import RadiographReader

    reader = RadiographReader()
    with pytest.raises(ValueError, match="one file"):
        reader.read(films)
    pixels, meta = reader.get_data(reader.read([films[0]]))
    assert pixels.shape == tuple(meta["spatial_shape"]) == (60, 50)
    with pytest.raises(FilmError):
        reader.get_data(reader.read(films[0].parent / "nowhere"))
