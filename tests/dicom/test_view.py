"""The view of a film from its header."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr import codes as concepts

from monai_cxr_vae.dicom.view import radiograph_view


def header(position: object = None, code: str | None = None, orientation: object = None) -> Dataset:
    ds = Dataset()
    if position is not None:
        ds.ViewPosition = position
    if code is not None:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator = code, "SCT"
        ds.ViewCodeSequence = Sequence([item])
    if orientation is not None:
        ds.PatientOrientation = orientation
    return ds


PA, AP, LEFT_LATERAL = "272479007", "399348003", "399173006"


@pytest.mark.parametrize(
    ("ds", "view", "conflict"),
    [
        (header(), "unknown", False),
        (header("PA"), "PA", False),
        (header(" ap "), "AP", False),
        (header("LL"), "lateral", False),
        (header("LATERAL"), "lateral", False),
        (header("LLD"), "lateral", False),
        (header("RPO"), "lateral", False),
        (header("XTABLE LATERAL"), "lateral", False),
        (header("LLAT"), "lateral", False),
        (header("LATERAL DECUBITUS"), "lateral", False),
        (header("AP LLD"), "lateral", False),
        (header("L-LATERAL"), "lateral", False),
        (header(["PA", "LATERAL"]), "lateral", True),
        (header("Left Oblique"), "lateral", False),
        (header("PA ERECT"), "PA", False),
        (header("AP SUPINE PORTABLE"), "AP", False),
        (header("AP_AXIAL"), "AP", False),
        (header("POSTEROANTERIOR"), "PA", False),
        (header("antero-posterior"), "AP", False),
        (header("A/P"), "AP", False),
        (header("PA OR AP"), "frontal", False),
        (header("FRONTAL"), "frontal", False),
        (header("BILATERAL"), "unknown", False),
        (header(""), "unknown", False),
        (header("CHEST"), "unknown", False),
        (header(code=PA), "PA", False),
        (header(code="R-10206"), "AP", False),
        (header(code=LEFT_LATERAL), "lateral", False),
        (header(code="0815"), "unknown", False),
        (header(orientation=["L", "F"]), "frontal", False),
        (header(orientation=["F", "R"]), "frontal", False),
        (header(orientation=["A", "F"]), "lateral", False),
        (header(orientation=["P", "F"]), "lateral", False),
        (header(orientation=["F", "P"]), "lateral", False),
        (header(orientation=["LF", "FR"]), "frontal", False),
        (header(orientation="L"), "unknown", False),
        (header(orientation=["", ""]), "unknown", False),
        (header(orientation=["H", "F"]), "unknown", False),
        (header(orientation=["L", "X"]), "unknown", False),
        (header(orientation=["X", "L"]), "unknown", False),
        (header("PA", PA, ["L", "F"]), "PA", False),
        (header("PA", "399033003"), "PA", False),
        (header("PA", AP), "PA", True),
        (header("PA", LEFT_LATERAL), "lateral", True),
        (header("PA", orientation=["A", "F"]), "lateral", True),
        (header("LL", orientation=["L", "F"]), "lateral", True),
        (header("LL", LEFT_LATERAL, ["A", "F"]), "lateral", False),
    ],
)
def test_view(ds: Dataset, view: str, conflict: bool) -> None:
    assert radiograph_view(ds) == (view, ("view_conflict",) if conflict else ())


@pytest.mark.parametrize("place", ["PatientOrientationCodeSequence", "ViewCodeSequence"])
@pytest.mark.parametrize("decubitus", ["102535000", "102536004", "F-10317", "F-10319"])
def test_a_film_of_someone_on_the_side_is_not_frontal(place: str, decubitus: str) -> None:
    ds, item, modifier = header("PA"), Dataset(), Dataset()
    modifier.CodeValue, item.CodeValue = decubitus, AP
    item.PatientOrientationModifierCodeSequence = Sequence([modifier])
    if place == "ViewCodeSequence":
        item.ViewModifierCodeSequence = item.pop("PatientOrientationModifierCodeSequence").value
    setattr(ds, place, Sequence([item]))
    assert radiograph_view(ds)[0] == "lateral"


def test_a_code_of_another_scheme_says_it_in_words() -> None:
    ds = header(code="0815")
    ds.ViewCodeSequence[0].CodeMeaning = "left lateral"
    assert radiograph_view(ds)[0] == "lateral"


def test_free_text_is_not_asked() -> None:
    ds = header()
    ds.SeriesDescription = ds.ProtocolName = "CHEST LATERAL"
    assert radiograph_view(ds)[0] == "unknown"


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("PosteroAnterior", "PA"),
        ("AnteroPosterior", "AP"),
        ("Frontal", "frontal"),
        *((name, "lateral") for name in dir(concepts.cid4010) if "Lateral" in name or "Oblique" in name),
    ],
)
def test_codes_mean_what_the_standard_says(name: str, view: str) -> None:
    expected = "unknown" if name in ("ObliqueCaudoCranial", "ObliqueCranioCaudal") else view
    if name in ("FrontalObliqueAxial", "SagittalObliqueAxial", "ObliqueAxial"):
        expected = "unknown"
    assert radiograph_view(header(code=getattr(concepts.cid4010, name).value))[0] == expected
