"""The shipped weights on films of one study with an opacity: report and overlay tell where it is, on each of them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from highdicom.sr import ComprehensiveSR
from scipy import ndimage

from monai_cxr_vae.cli import main
from tests.planted import FORMS, Planted, write_planted

LINE = (255, 255, 153)  # around what exceeds the limit


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> list[tuple[Planted, pydicom.Dataset, pydicom.Dataset]]:
    """For each form the film, its report and its overlay."""
    folder: Path = tmp_path_factory.mktemp("planted")
    planted = write_planted(folder / "in")
    words = ["score", str(folder / "in"), "--output", str(folder / "out"), "--objects", "sr", "overlay"]
    assert main([*words, "--workers", "1"]) == 0
    rows = {row["sop_uid"]: row for row in map(json.loads, (folder / "out" / "manifest.jsonl").open())}
    return [
        (each, *(pydicom.dcmread(folder / "out" / o["path"]) for o in rows[each.film.SOPInstanceUID]["outputs"]))
        for each in planted
    ]


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union."""
    return (one & other).sum() / (one | other).sum()


@pytest.mark.parametrize("form", FORMS)
def test_report_and_overlay_tell_where_an_opacity_is(results, form: str):
    planted, report, overlay = results[FORMS.index(form)]
    opacity = planted.opacity
    _, place, *_ = ComprehensiveSR.from_dataset(report).content.get_planar_roi_measurement_groups()
    outlined = np.zeros(opacity.shape, np.uint8)
    cv2.fillPoly(outlined, [np.rint(place.roi.value - 0.5).astype(np.int32)], 1)
    outlined = outlined > 0
    assert (outlined & opacity).sum() > 0.5 * outlined.sum()
    assert likeness(outlined, opacity) > 0.3
    assert place.finding_type.meaning == "Unusual place 1, patient's left"
    picture = overlay.pixel_array[: round(overlay.Rows / 1.18)]
    hot = ndimage.binary_fill_holes((picture == LINE).all(axis=-1))
    hot = cv2.resize(hot.astype(np.float32), opacity.shape[::-1], interpolation=cv2.INTER_AREA) > 0.5
    assert likeness(hot, outlined) > 0.7
    assert likeness(hot, opacity) > 0.3


def test_the_study_holds_all_of_it_and_series_are_told_apart(results):
    objects = [ds for _, *derived in results for ds in derived]
    assert {ds.StudyInstanceUID for ds in objects} == {results[0][0].film.StudyInstanceUID}
    assert len({ds.SeriesNumber for ds in objects}) == len({ds.SeriesDescription for ds in objects}) == 2 * len(FORMS)
