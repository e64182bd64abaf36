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
