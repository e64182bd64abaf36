"""Answers for MONAI Label: where nibabel and ITK put them, what they hold; a folder run knows nothing of them."""

from __future__ import annotations

from pathlib import Path

import itk
import nibabel
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImaged
from PIL import Image

from monai_cxr_vae.errors import InputError
from monai_cxr_vae.inference import LabelAnswerd
from monai_cxr_vae.transforms import FitToSquared
from tests.inference.standins import picture, write_film

PREPROCESSING = Compose(
    [
        LoadImaged("image", reader="monai_cxr_vae.data.RadiographReader", image_only=True, ensure_channel_first=True),
        FitToSquared("image", 64),
    ]
)


def ask(path: Path, show: str | list[str] = "reconstruction", **request: object) -> dict:
    """The answer of a network that gives back its input, with the film itself as heat map."""
    data = PREPROCESSING({"image": str(path)})
    data |= {"pred": data["image"].clone(), "heatmap": data["image"].clone(), "scores": {"anomaly": 1.5}}
    return LabelAnswerd("pred")(data | {"show": show, **request})


def affine_of(answer: dict) -> np.ndarray:
    return np.asarray(answer["image"].meta["original_affine"])


@given(signs=st.tuples(*[st.sampled_from([-1, 1])] * 2), swapped=st.booleans(), plane=st.sampled_from(["xy", "xz"]))
def test_answer_lies_on_the_voxels_of_a_nifti_film(
    signs: tuple[int, int], swapped: bool, plane: str, tmp_path_factory: pytest.TempPathFactory
):
    affine = np.zeros((4, 4))
    first, second = (0, 1) if plane == "xy" else (0, 2)
    affine[first, int(swapped)], affine[second, int(not swapped)] = 0.5 * signs[0], 0.7 * signs[1]
    affine[({0, 1, 2} - {first, second}).pop(), 2], affine[:, 3] = 1, (3, 4, 5, 1)
    path = tmp_path_factory.mktemp("nifti") / "film.nii.gz"
    stored = picture(1).astype(np.int16)[..., None]
    nibabel.save(nibabel.Nifti1Image(stored, affine), path)
    answer = ask(path)
    assert answer["result_extension"] == ".nii.gz"
    assert answer["pred"].shape == stored.shape == tuple(answer["image"].meta["spatial_shape"])
    np.testing.assert_allclose(affine_of(answer), nibabel.load(path).affine)
    assert np.corrcoef(answer["pred"].ravel(), stored.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("orientation", [["L", "F"], ["R", "F"], ["L", "H"], ["F", "L"], None])
def test_answer_lies_on_a_dicom_film(orientation: list[str] | None, tmp_path: Path):
    """ITK is what the clients read the film with."""
    path = write_film(tmp_path / "film.dcm", 1, PatientOrientation=orientation, ImagerPixelSpacing=[0.2, 0.2])
    answer = ask(path)
    film = itk.imread(str(path))
    assert answer["result_extension"] == ".nii.gz"
    to_lps = np.diag([-1, -1, 1, 1]) @ affine_of(answer)
    np.testing.assert_allclose(to_lps[:3, :3], np.asarray(film.GetDirection()) * np.asarray(film.GetSpacing()))
    np.testing.assert_allclose(to_lps[:3, 3], film.GetOrigin())
    stored = itk.array_from_image(film).transpose()
    assert answer["pred"].shape == stored.shape
    assert np.corrcoef(answer["pred"].ravel(), stored.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("orientation", [["L", "F"], ["F", "L"]])
@pytest.mark.parametrize("suffix", [".png", ".dcm"])
def test_a_picture_is_upright_when_it_is_written_transposed(suffix: str, orientation: list[str], tmp_path: Path):
    """The server's writer transposes what it gets."""
    path = tmp_path / f"film{suffix}"
    if suffix == ".png":
        Image.fromarray((picture(1) >> 4).astype(np.uint8)).save(path)
    else:
        write_film(path, 1, PatientOrientation=orientation)
    answer = ask(path, result_extension=".png")
    assert answer["pred"].flags.c_contiguous
    assert answer["pred"].T.shape == picture(1).shape
    assert np.abs(answer["pred"].T.astype(int) - (picture(1) >> 4)).max() <= 8


def test_mask_is_where_the_heat_map_reaches_its_limit(tmp_path: Path):
    path = write_film(tmp_path / "film.dcm", 1)
    heat, mask = ask(path, "heatmap")["pred"], ask(path, ["mask", "heatmap", "reconstruction"])["pred"]
    assert mask.dtype == heat.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    clear = np.abs(heat.astype(int) - 127.5) > 1
    np.testing.assert_array_equal(mask[clear], heat[clear] > 127)


def test_params_hold_the_scores(tmp_path: Path):
    answer = ask(write_film(tmp_path / "film.dcm", ViewPosition=None, PatientOrientation=None), "mask")
    assert answer["result"]["anomaly"] == 1.5
    assert answer["result"]["show"] == "mask"
    assert isinstance(answer["result"]["warnings"], list)


def test_data_that_ask_for_nothing_stay_as_they_are():
    image = MetaTensor(torch.zeros(1, 2, 2))
    data = {"image": image, "pred": image, "outputs": []}
    after = LabelAnswerd("pred")(data)
    assert list(after) == list(data)
    assert all(after[key] is data[key] for key in data)


def test_what_cannot_be_shown_is_said(tmp_path: Path):
    path = write_film(tmp_path / "film.dcm")
    with pytest.raises(InputError, match="there is no 'x-ray' to show, but mask, heatmap, reconstruction"):
        ask(path, "x-ray")
    data = PREPROCESSING({"image": str(path)})
    with pytest.raises(InputError, match="not calibrated"):
        LabelAnswerd("pred")(data | {"pred": data["image"], "show": "mask"})
