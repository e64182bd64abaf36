"""Every reason for which a DICOM object is no film to run on, from its header alone."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from monai_cxr_vae import errors
from monai_cxr_vae.dicom.derive import Provenance, secondary_capture
from monai_cxr_vae.dicom.select import check_film
from tests.dicom.sources import VARIANTS, film

SECONDARY_CAPTURE, CT, MG = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.1.2"


@pytest.mark.parametrize("variant", VARIANTS)
def test_film_is_accepted(variant):
    assert check_film(film(variant)) == ("PA", ())


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"Modality": "CT", "SOPClassUID": CT}, errors.WrongModality),
        ({"Modality": "MG", "SOPClassUID": MG}, errors.WrongModality),
        ({"Modality": "OT", "SOPClassUID": SECONDARY_CAPTURE}, errors.WrongModality),
        ({"Modality": None, "SOPClassUID": SECONDARY_CAPTURE}, errors.WrongSOPClass),
        ({"SOPClassUID": CT}, errors.WrongSOPClass),
        ({"SOPClassUID": None, "Modality": None}, errors.WrongSOPClass),
        ({"SOPClassUID": "1.2.840.10008.1.3.10"}, errors.DicomDirectory),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"}, errors.ForProcessing),
        ({"BodyPartExamined": "HAND"}, errors.WrongBodyPart),
        ({"BodyPartExamined": "L-SPINE"}, errors.WrongBodyPart),
        ({"ViewPosition": "LL"}, errors.LateralView),
        ({"ViewPosition": None, "PatientOrientation": ["A", "F"]}, errors.LateralView),
        ({"PatientOrientation": ["P", "F"]}, errors.LateralView),
        ({"NumberOfFrames": 3}, errors.MultiFrame),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, errors.ColourImage),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, errors.ColourImage),
        ({"SOPInstanceUID": None}, errors.BadUID),
    ],
)
def test_what_is_no_film_is_refused_by_name(changes, error):
    with pytest.raises(error):
        check_film(changed(changes))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
def test_hostile_uid_is_refused(keyword):
    with pytest.raises(errors.BadUID):
        check_film(changed({keyword: "1.2.3/../../evil"}))


@pytest.mark.parametrize(
    "changes",
    [
        {"Modality": "CR", "SOPClassUID": SECONDARY_CAPTURE},
        {"Modality": None},
        {"BodyPartExamined": None},
        {"BodyPartExamined": "THORAX"},
        {"BodyPartExamined": "Brustkorb"},
        {"NumberOfFrames": 1},
        {"SeriesDescription": "LATERAL"},  # free text decides nothing
    ],
)
def test_odd_but_plausible_film_is_accepted(changes):
    assert check_film(changed(changes))[0] == "PA"


def test_film_that_does_not_say_its_view():
    unsaid = changed({"ViewPosition": None, "PatientOrientation": None})
    assert check_film(unsaid) == ("unknown", ("view_unknown",))
    with pytest.raises(errors.UnknownView):
        check_film(unsaid, strict_view=True)
    assert check_film(film("cr_mono1"), strict_view=True)[0] == "PA"


def test_contradicting_view_is_noted():
    assert check_film(changed({"ViewCodeSequence": [code("399348003")]})) == ("PA", ("view_conflict",))


def test_own_output_is_recognised():
    import io

    import pydicom

    own = secondary_capture(film("dx_mono2_12"), [[0.0]], Provenance("a" * 64, "b" * 64, "1"))
    ds = pydicom.dcmread(io.BytesIO(own.data), stop_before_pixels=True)
    ds.Modality = "DX"
    with pytest.raises(errors.OwnOutput):
        check_film(ds)


def changed(changes):
    ds = film("dx_mono2_12")
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def code(value):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", "view"
    return item
