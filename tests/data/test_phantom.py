"""Phantom films: determinism, findings, and DX files judged by dciodvfy and by pydicom's own display chain."""

from __future__ import annotations

import logging
import multiprocessing

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_voi_lut

from monai_cxr_vae.data import phantom
from monai_cxr_vae.data.phantom import FINDINGS, phantom_folder, render, write_phantoms
from monai_cxr_vae.data.thorax import Canvas, Thorax
from monai_cxr_vae.radiograph import read_radiograph
from tests.dicom.judges import dciodvfy


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """The DX files of six films, each with a PNG twin beside it."""
    folder = tmp_path_factory.mktemp("phantoms")
    return [p for p in write_phantoms(folder, 6, seed=3, format="both", size=192) if p.suffix == ".dcm"]


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    first, second = (write_phantoms(tmp_path / name, 3, seed=1, format="both", size=96) for name in "ab")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    other = write_phantoms(tmp_path / "c", 3, seed=2, format="both", size=96)
    assert not {p.read_bytes() for p in first} & {p.read_bytes() for p in other}


def test_one_patient_at_two_sizes():
    small, large = render(4, 128).image, render(4, 384).image
    shrunk = cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA)
    assert np.corrcoef(small.ravel(), shrunk.ravel())[0, 1] > 0.995


@pytest.mark.parametrize("seed", range(6))
def test_anatomy_lies_where_it_belongs(seed):
    film = render((7, seed), 128)
    image = film.image
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert image.max() <= 1
    assert film.view in ("PA", "AP")
    assert not film.mask.any()
    lungs = np.concatenate([image[35:75, 32:48], image[35:75, 80:96]], 1)
    middle, below = image[35:75, 60:68], image[112:124, 40:88]
    assert np.median(lungs) < min(np.median(middle), np.median(below)) - 0.15
    # The heart bulges towards the patient's left, which is the right of the picture.
    right_of_it, left_of_it = image[72:82, 40:50], image[72:82, 74:84]
    assert left_of_it.mean() > right_of_it.mean() + 0.05
    assert np.abs(image - image[:, ::-1]).mean() > 0.02


@pytest.mark.parametrize("seed", range(12))
def test_hearts_are_of_normal_size(seed):
    canvas = Canvas((256, 256), 1.0, (0, 0), 0.0)
    thorax, heartless = Thorax(np.random.default_rng(seed)), Thorax(np.random.default_rng(seed))
    heartless.heart = 0.01
    heart = heartless.lungs(canvas)[0] - thorax.lungs(canvas)[0] > 40  # mm of lung: where a border is seen
    columns = np.nonzero((heart & (canvas.y > thorax.arch + 30) & (canvas.y < thorax.domes[-1])).any(0))[0]
    ratio = (columns[-1] - columns[0]) / canvas.scale / (2 * thorax.width)
    assert 0.4 < ratio < (0.57 if thorax.ap else 0.52)


@pytest.mark.parametrize("finding", FINDINGS)
@pytest.mark.parametrize("seed", range(3))
def test_the_mask_covers_what_the_finding_changes(finding, seed):
    without, with_it = render((5, seed), 192), render((5, seed), 192, finding)
    change = with_it.image - without.image
    assert with_it.mask.mean() > 0.002
    assert (change[with_it.mask] > 1 / 255).mean() > 0.9
    assert (np.abs(change[~with_it.mask]) > 4 / 255).mean() < 0.002
    assert change.min() > -1e-6  # a finding only adds density


def test_unknown_words_are_refused(tmp_path):
    with pytest.raises(ValueError, match="fracture"):
        render(0, 64, "fracture")
    with pytest.raises(ValueError, match="tiff"):
        write_phantoms(tmp_path, 1, format="tiff")


@pytest.mark.interop
def test_dciodvfy_finds_no_error(films, tool):
    for path in films:
        assert not dciodvfy(tool("dciodvfy"), path, "DXImageForPresentation", synthetic=True)


def test_dicom_holds_the_film(films):
    kinds, shapes = set(), set()
    for index, path in enumerate(films):
        ds = pydicom.dcmread(path)
        shown = apply_voi_lut(ds.pixel_array, ds) / 4095
        if ds.PhotometricInterpretation == "MONOCHROME1":
            shown = 1 - shown
        film = render((3, index), (ds.Rows, ds.Columns))
        assert np.abs(shown - film.image).max() <= 1 / 4095
        assert ds.pixel_array.max() < 4096  # dciodvfy does not look at unused bits
        assert (ds.ViewPosition, list(ds.PatientOrientation)) == (film.view, ["L", "F"])
        assert ds.PatientID == f"PHANTOM-3-{index:04d}"
        kinds.add(ds.PhotometricInterpretation)
        shapes.add((ds.Rows, ds.Columns))
    assert kinds == {"MONOCHROME1", "MONOCHROME2"}
    assert shapes == {(192, 160), (160, 192)}


def test_identifiers_and_pixels_are_distinct(films):
    datasets = [pydicom.dcmread(p) for p in films]
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "PixelData"):
        assert len({ds[keyword].value for ds in datasets}) == len(films)
    uids = [uid for ds in datasets for uid in (ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID)]
    assert all(uid.is_valid and uid.startswith("2.25.") for uid in uids)


def test_dicom_and_png_twins_read_the_same(films):
    for path in films:
        dicom, png = read_radiograph(path), read_radiograph(path.with_suffix(".png"))
        assert np.abs(dicom.pixels - png.pixels).max() <= 0.5 / 255 + 1 / 4095


def test_the_built_in_folder_is_made_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level(logging.INFO, logger=phantom.__name__):
        folder = phantom_folder(count=3, size=64)
        assert phantom_folder(count=3, size=64) == folder
    assert len(caplog.records) == 1
    assert tmp_path in folder.parents
    assert sorted(p.name for p in folder.iterdir()) == [f"phantom_{i:04d}.png" for i in range(3)]
    assert list(folder.parent.iterdir()) == [folder]


def test_two_processes_make_one_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        first, second = pool.starmap(phantom_folder, [(6, 64), (6, 64)], chunksize=1)
    assert first == second
    assert len(list(first.iterdir())) == 6
    assert list(first.parent.iterdir()) == [first]
