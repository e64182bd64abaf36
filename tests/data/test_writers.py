"""Results are written as the kind of file the film was, on the grid that belongs to it, whole or not at all."""

from __future__ import annotations

import os

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, SaveImaged
from PIL import Image

from monai_cxr_vae.data.writers import SaveRadiographd, provenance_of, write_atomically
from monai_cxr_vae.errors import InputError, OutputError
from monai_cxr_vae.transforms import FitToSquared

# Not square, and different from all its mirror images.
PICTURE = np.add.outer(np.linspace(0, 0.3, 24), np.linspace(0, 0.6, 36) ** 2).astype(np.float32)


@pytest.fixture
def provenance(tmp_path):
    (tmp_path / "w").write_bytes(b"w")
    return provenance_of(tmp_path / "w", {})


def through(path, output, provenance, fit="letterbox"):
    """Read a film, take the network's input for its output, write."""
    steps = [
        LoadImaged("image", reader="monai_cxr_vae.data.RadiographReader"),
        EnsureChannelFirstd("image"),
        FitToSquared("image", 48, fit),
    ]
    data = Compose(steps)({"image": str(path)})
    data["pred"] = data["image"]
    return SaveRadiographd("pred", output, provenance)(data)["outputs"]


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_png_gives_png_upright(tmp_path, provenance, fit):
    Image.fromarray((PICTURE * 255).round().astype(np.uint8)).save(tmp_path / "a.png")
    (written,) = through(tmp_path / "a.png", tmp_path / "out", provenance, fit)
    image = Image.open(tmp_path / "out" / written["path"])
    assert (image.mode, image.size, written["path"].split("/")[0], len(written["path"])) == (
        "I;16",
        (48, 32),
        "images",
        43,
    )
    expected = np.asarray(Image.fromarray(PICTURE).resize((48, 32), Image.BILINEAR))
    np.testing.assert_allclose(np.asarray(image) / 65535, expected, atol=0.02)


@pytest.mark.parametrize(
    "affine",
    [np.diag([2, 3, 1, 1]), np.diag([-2, -3, 1, 1]), [[0, 2, 0, 5], [-3, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]]],
)
def test_nifti_gives_nifti_on_the_same_grid(tmp_path, provenance, affine):
    source = nibabel.Nifti1Image((PICTURE * 1000).astype(np.float32), np.asarray(affine, dtype=float))
    source.to_filename(tmp_path / "a.nii.gz")
    (written,) = through(tmp_path / "a.nii.gz", tmp_path / "out", provenance)
    result = nibabel.load(tmp_path / "out" / written["path"])
    assert result.shape == source.shape
    np.testing.assert_allclose(result.affine, source.affine)
    low, high = np.percentile(PICTURE, (0.5, 99.5))
    expected = np.clip((PICTURE - low) / (high - low), 0, 1)
    candidates = [expected, expected[::-1], expected[:, ::-1], expected[::-1, ::-1]]
    errors = [np.abs(result.get_fdata() - c).mean() for c in candidates]
    assert np.argmin(errors) == 0
    assert errors[0] < 0.02


def test_writer_passes_for_stock_saver(provenance, tmp_path):
    assert isinstance(SaveRadiographd("pred", tmp_path, provenance), SaveImaged)


@pytest.mark.parametrize("bad", [{"objects": ["sr"]}, {"objects": []}, {"bits_stored": 8}])
def test_unknown_settings_are_refused(tmp_path, provenance, bad):
    with pytest.raises(InputError):
        SaveRadiographd("pred", tmp_path, provenance, **bad)


def test_settings_and_weights_are_told_apart(tmp_path):
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
    one, other = provenance_of(tmp_path / "a", {"x": 1, "y": 2}), provenance_of(tmp_path / "a", {"y": 2, "x": 1})
    assert one == other
    assert one.config_sha256 != provenance_of(tmp_path / "a", {"x": 2, "y": 2}).config_sha256
    assert one.model_sha256 != provenance_of(tmp_path / "b", {"x": 1, "y": 2}).model_sha256


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    target = tmp_path / "out" / "x"
    write_atomically(target, b"old", tmp_path / "scratch")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        write_atomically(target, b"new", tmp_path / "scratch")
    assert target.read_bytes() == b"old"
    assert not list((tmp_path / "scratch").iterdir())


def test_not_a_number_is_never_written(tmp_path, provenance):
    from tests.inference.standins import write_film

    meta = {"filename_or_obj": str(write_film(tmp_path / "f")), "format": "dicom"}
    image = MetaTensor(torch.full((1, 8, 8), float("nan")), meta=meta)
    image.meta["geometry"] = {
        "rows": 8,
        "columns": 8,
        "pixel_aspect": 1.0,
        "orientation": {"transpose": False, "flip_rows": False, "flip_columns": False},
        "box": (0, 0, 8, 8),
        "image_size": 8,
        "fit": "stretch",
    }
    with pytest.raises(ValueError, match="finite"):
        SaveRadiographd("pred", tmp_path / "out", provenance)({"image": image, "pred": image})
