"""Results are written as the kind of file the film was, on the grid that belongs to it, whole or not at all."""

from __future__ import annotations

import hashlib

import cv2
import nibabel
import numpy as np
import pydicom
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, SaveImaged
from PIL import Image

from monai_cxr_vae.data.pictures import BAND, LIMIT
from monai_cxr_vae.data.writers import SaveRadiographd, provenance_of, thumbnails_file
from monai_cxr_vae.errors import InputError
from monai_cxr_vae.radiograph import read_radiograph
from monai_cxr_vae.transforms import FitToSquared, fit_to_square
from tests.inference.standins import write_film
from tests.scored import groups_of, scores_of_a_film

# Not square, and different from all its mirror images.
PICTURE = np.add.outer(np.linspace(0, 0.3, 24), np.linspace(0, 0.6, 36) ** 2).astype(np.float32)


@pytest.fixture
def provenance(tmp_path):
    (tmp_path / "w").write_bytes(b"w")
    return provenance_of(tmp_path / "w", {})


def through(path, output, provenance, fit="letterbox", heat=None, **options):
    """Read a film, take the network's input for its output and ``heat`` of the film for the map, write."""
    steps = [
        LoadImaged("image", reader="monai_cxr_vae.data.RadiographReader"),
        EnsureChannelFirstd("image"),
        FitToSquared("image", 48, fit),
    ]
    data = Compose(steps)({"image": str(path)})
    data["pred"] = data["image"]
    if heat is not None:
        meta = data["image"].meta
        turned = str(meta.get("orientation") or "").split("\\")
        square, _ = fit_to_square(heat, 48, fit, float(meta.get("pixel_aspect", 1)), turned)
        data |= {"scores": scores_of_a_film(), "heatmap": MetaTensor(torch.from_numpy(square[None]), meta=meta)}
    options = {"mark": False, **options}
    return SaveRadiographd("pred", output, provenance, scores=heat is not None, **options)(data)["outputs"]


def spot(rows, columns, row, column, radius=0.12):
    """A map that is hot around a place given as fractions of the film."""
    y, x = (np.mgrid[:rows, :columns] + 0.5) / np.array([rows, columns]).reshape(2, 1, 1)
    return (((y - row) ** 2 + (x - column) ** 2) < radius**2).astype(np.float32)


def centre(mask):
    """Where the middle of a region is, as fractions of the film."""
    places = np.argwhere(mask)
    assert len(places)
    return (places.mean(axis=0) + 0.5) / mask.shape


def coloured(picture):
    """Where an RGB picture of a grey film has colour."""
    return np.ptp(picture.astype(int), axis=-1) > 40


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


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8)),
    orientation=st.sampled_from([[a, b] for a in "LR" for b in "FH"] + [[a, b] for a in "FH" for b in "LR"]),
    fit=st.sampled_from(["letterbox", "stretch"]),
    spacing=st.sampled_from([[0.2, 0.2], [0.2, 0.3], [0.3, 0.2]]),
)
def test_heat_lies_on_the_film_where_it_belongs(tmp_path, provenance, place, orientation, fit, spacing):
    path = write_film(tmp_path / "f", PatientOrientation=orientation, ImagerPixelSpacing=spacing)
    (written,) = through(path, tmp_path / "out", provenance, fit, spot(60, 50, *place), objects=["overlay"])
    picture = pydicom.dcmread(tmp_path / "out" / written["path"]).pixel_array
    height, width = 60 * spacing[0], 50 * spacing[1]
    assert picture.shape[0] / picture.shape[1] == pytest.approx(height / width, abs=0.03)
    np.testing.assert_allclose(centre(coloured(picture)), place, atol=0.03)
    # Away from the heat the film itself is seen, in the source's orientation.
    film = read_radiograph(path).pixels
    shown = cv2.resize(film, picture.shape[1::-1], interpolation=cv2.INTER_AREA)
    grey = ~coloured(picture) & (spot(*shown.shape, *place, radius=0.3) == 0)
    np.testing.assert_allclose(picture[grey][:, 0] / 255, shown[grey], atol=0.02)


def test_overlay_shows_the_film_finer_than_the_network_saw_it(tmp_path, provenance):
    film = np.kron(np.indices((60, 80)).sum(axis=0) % 2, np.ones((4, 4))) * 200
    Image.fromarray(film.astype(np.uint8)).save(tmp_path / "a.png")
    heat = spot(240, 320, 0.3, 0.7)
    (written,) = through(tmp_path / "a.png", tmp_path / "out", provenance, heat=heat, objects=["overlay", "sr"])
    assert (written["kind"], written["path"][-12:]) == ("overlay", ".overlay.png")
    picture = np.asarray(Image.open(tmp_path / "out" / written["path"]))
    assert picture.shape == (240, 320, 3)
    np.testing.assert_array_equal(picture[160:, :160], np.repeat(film[160:, :160, None], 3, axis=-1))
    np.testing.assert_allclose(centre(coloured(picture)), (0.3, 0.7), atol=0.02)


@pytest.mark.parametrize("affine", [np.diag([2, 3, 1, 1]), [[0, 2, 0, 5], [-3, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]]])
def test_heat_map_of_nifti_is_numbers_on_the_same_grid(tmp_path, provenance, affine):
    """The map of a film is the brightness of the film itself here, so a wrong turn shows."""
    source = nibabel.Nifti1Image((PICTURE * 1000).astype(np.float32), np.asarray(affine, dtype=float))
    source.to_filename(tmp_path / "a.nii.gz")
    heat = read_radiograph(tmp_path / "a.nii.gz").pixels
    (written,) = through(tmp_path / "a.nii.gz", tmp_path / "out", provenance, heat=heat, objects=["overlay"])
    assert (written["kind"], written["path"][-15:]) == ("heatmap", ".heatmap.nii.gz")
    result = nibabel.load(tmp_path / "out" / written["path"])
    assert result.get_data_dtype() == np.float32
    np.testing.assert_allclose(result.affine, source.affine)
    low, high = np.percentile(PICTURE, (0.5, 99.5))
    np.testing.assert_allclose(result.get_fdata(), np.clip((PICTURE - low) / (high - low), 0, 1), atol=0.05)


def test_without_scores_the_overlay_shows_what_the_reconstruction_lacks(tmp_path, provenance):
    path = write_film(tmp_path / "f")
    steps = [LoadImaged("image", reader="monai_cxr_vae.data.RadiographReader"), EnsureChannelFirstd("image")]
    data = Compose([*steps, FitToSquared("image", 48, "letterbox")])({"image": str(path)})
    data["pred"] = data["image"].clone()
    data["pred"][0, 8:16, 20:28] += 0.25 * (1 + LIMIT) / 2
    (written,) = SaveRadiographd("pred", tmp_path, provenance, objects=["overlay"], mark=False)(data)["outputs"]
    ds = pydicom.dcmread(tmp_path / written["path"])
    assert "residual" in ds.SeriesDescription
    np.testing.assert_allclose(centre(coloured(ds.pixel_array)), (12 / 48, 20 / 40), atol=0.03)


@pytest.mark.parametrize("orientation", [["L", "F"], ["F", "R"]])
def test_images_for_the_archive_are_marked_and_pictures_are_not(tmp_path, provenance, orientation):
    """A caption below the film as it is stored, which is how it is shown; the film is what it is without one."""
    path = write_film(tmp_path / "f", PatientOrientation=orientation, ImagerPixelSpacing=[0.2, 0.4])
    kinds = {"heat": spot(60, 50, 0.3, 0.7), "objects": ["sc", "overlay"]}
    plain, marked = (
        [
            pydicom.dcmread(tmp_path / str(mark) / o["path"])
            for o in through(path, tmp_path / str(mark), provenance, mark=mark, **kinds)
        ]
        for mark in (False, True)
    )
    assert max(marked[0].Rows, marked[0].Columns) >= 256
    plain = plain[1:]  # of a small reconstruction, the marked one is larger
    for without, with_mark in zip(plain, marked[1:], strict=True):
        assert with_mark.Rows == without.Rows + round(BAND * without.Rows)
        assert with_mark.Columns == without.Columns
        np.testing.assert_array_equal(with_mark.pixel_array[: without.Rows], without.pixel_array)
        band = with_mark.pixel_array[without.Rows :] / float(2**with_mark.BitsStored - 1)
        assert band[0].min() == 1
        assert band[1:].max() > 0.5
    Image.fromarray((PICTURE * 255).round().astype(np.uint8)).save(tmp_path / "a.png")
    (written,) = through(tmp_path / "a.png", tmp_path / "png", provenance, mark=True)
    assert Image.open(tmp_path / "png" / written["path"]).size == (48, 32)


@pytest.mark.parametrize("orientation", [["L", "F"], ["F", "R"]])
def test_overlay_has_the_spacing_of_the_film(tmp_path, provenance, orientation):
    """A length on it is the length on the film, along rows and columns alike."""
    path = write_film(tmp_path / "f", PatientOrientation=orientation, ImagerPixelSpacing=[0.2, 0.4])
    sc, overlay = through(path, tmp_path / "out", provenance, objects=["sc", "overlay"])
    ds = pydicom.dcmread(tmp_path / "out" / overlay["path"])
    assert np.array([ds.Rows, ds.Columns]) * ds.ImagerPixelSpacing == pytest.approx([60 * 0.2, 50 * 0.4], rel=0.02)
    assert "PixelSpacing" not in ds
    assert "ImagerPixelSpacing" not in pydicom.dcmread(tmp_path / "out" / sc["path"])
    path = write_film(tmp_path / "g", PixelSpacing=[0.1, 0.1], ImagerPixelSpacing=[0.2, 0.2])
    (written,) = through(path, tmp_path / "out", provenance, objects=["overlay"])
    ds = pydicom.dcmread(tmp_path / "out" / written["path"])
    assert ds.Rows * ds.PixelSpacing[0] == pytest.approx(60 * 0.1, rel=0.02)
    assert "ImagerPixelSpacing" not in ds


def test_report_keeps_a_strip_out_of_sight(tmp_path, provenance):
    path = write_film(tmp_path / "f")
    outputs = through(path, tmp_path / "out", provenance, heat=spot(60, 50, 0.3, 0.7), report=True)
    file = thumbnails_file(tmp_path / "out", hashlib.sha256(path.read_bytes()).hexdigest())
    assert [o["kind"] for o in outputs] == ["sc"]
    assert file.parent.parent.name == ".run"
    film, made, heat = np.split(np.asarray(Image.open(file)), 3, axis=1)
    assert np.abs(film.astype(int) - made).mean() < 5  # the network's input stands for its output
    np.testing.assert_allclose(centre(coloured(heat)), (0.3, 0.7), atol=0.03)
    assert not coloured(film).any()


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


def test_not_a_number_is_never_written(tmp_path, provenance):
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


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8)),
    orientation=st.sampled_from([[a, b] for a in "LR" for b in "FH"] + [[a, b] for a in "FH" for b in "LR"]),
    fit=st.sampled_from(["letterbox", "stretch"]),
    spacing=st.sampled_from([[0.2, 0.2], [0.2, 0.4], [0.4, 0.2]]),
    variant=st.sampled_from(["dx_mono2_12", "cr_mono1"]),
)
def test_report_outlines_the_place_on_the_film(tmp_path, provenance, place, orientation, fit, spacing, variant):
    """In the film's own pixels, whatever its orientation, shape of pixels and polarity; the side is the patient's."""
    path = write_film(tmp_path / "f", variant=variant, PatientOrientation=orientation, ImagerPixelSpacing=spacing)
    hot = spot(60, 50, *place)
    kinds = {"objects": ["sr", "overlay", "sc"]}
    report, *others = through(path, tmp_path / "out", provenance, fit, hot, **kinds)
    ds = pydicom.dcmread(tmp_path / "out" / report["path"])
    (group,) = groups_of(ds)["anomaly"]
    drawn = np.zeros((600, 500), np.uint8)
    cv2.fillPoly(drawn, [np.rint(group.roi.value * 10 - 0.5).astype(np.int32)], 1)
    expected = np.kron(hot, np.ones((10, 10))) > 0
    assert (drawn & expected).sum() > 0.75 * (drawn | expected).sum()
    across = orientation[0] if orientation[0] in "LR" else orientation[1]
    offset = (place[1] if orientation[0] in "LR" else place[0]) - 0.5
    sides = [site.laterality.meaning for site in group.finding_sites]
    if abs(offset) > 0.08:
        assert sides == ["Left" if (offset > 0) == (across == "L") else "Right"]
    if abs(offset) < 0.01:
        assert not sides
    (evidence,) = ds.CurrentRequestedProcedureEvidenceSequence
    told = [
        item.ReferencedSOPInstanceUID for s in evidence.ReferencedSeriesSequence for item in s.ReferencedSOPSequence
    ]
    assert set(told) == {"1.2.3.3.1", *(other["uid"] for other in others)}


def test_side_is_not_told_where_the_film_does_not_say_how_it_lies(tmp_path, provenance):
    path = write_film(tmp_path / "f", PatientOrientation=None)
    (report,) = through(path, tmp_path / "out", provenance, heat=spot(60, 50, 0.3, 0.8), objects=["sr"])
    ds = pydicom.dcmread(tmp_path / "out" / report["path"])
    (group,) = groups_of(ds)["anomaly"]
    assert not group.finding_sites


def test_no_more_than_five_places_are_told_and_no_specks(tmp_path, provenance):
    heat = np.zeros((60, 50), np.float32)
    for i in range(7):
        heat[2 + 8 * i : 6 + 8 * i, 5:45] = 0.6 + 0.05 * i
    report, blank = (
        through(write_film(tmp_path / name), tmp_path / "out", provenance, heat=map_, objects=["sr"])[0]
        for name, map_ in (("f", heat), ("g", np.eye(60, 50, dtype=np.float32) * 0.4))
    )
    groups, of_blank = (groups_of(pydicom.dcmread(tmp_path / "out" / o["path"])) for o in (report, blank))
    assert (len(groups["anomaly"]), len(of_blank["anomaly"])) == (5, 1)
    peaks = [group.get_measurements()[-1].value for group in groups["anomaly"]]
    assert peaks == sorted(peaks, reverse=True)
