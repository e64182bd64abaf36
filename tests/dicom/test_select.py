"""Every reason for which a DICOM object is no film to run on, from its header alone."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset

from monai_cxr_vae import errors
from monai_cxr_vae.dicom.secondary_capture import secondary_capture
from monai_cxr_vae.dicom.select import check_film
from tests.dicom.sources import VARIANTS, film
from tests.dicom.test_objects import CREATED, PROVENANCE

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
        ({"PresentationIntentType": "FOR PROCESSING"}, errors.ForProcessing),
        ({"Modality": "DR", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1.1"}, errors.ForProcessing),
        ({"Modality": "DR", "SOPClassUID": SECONDARY_CAPTURE}, errors.WrongModality),
        ({"PatientSpeciesDescription": "Feline"}, errors.WrongSpecies),
        ({"PatientSpeciesDescription": "Canis lupus familiaris"}, errors.WrongSpecies),
        ({"PatientBreedDescription": "Boxer"}, errors.WrongSpecies),
        ({"StrainDescription": "C57BL/6"}, errors.WrongSpecies),
        ({"AnatomicalOrientationType": "QUADRUPED"}, errors.WrongSpecies),
        ({"BodyPartExamined": "HAND"}, errors.WrongBodyPart),
        ({"BodyPartExamined": "left knee"}, errors.WrongBodyPart),
        ({"BodyPartExamined": ["HAND", "WRIST"]}, errors.WrongBodyPart),
        ({"ViewPosition": "XTABLE LATERAL"}, errors.LateralView),
        ({"SOPClassUID": SECONDARY_CAPTURE, "NumberOfFrames": 2}, errors.MultiFrame),
        ({"PhotometricInterpretation": "MONOCHROME3"}, errors.CorruptFile),
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
    with pytest.raises(error, match=" "):  # in words
        check_film(changed(changes))


@pytest.mark.parametrize(
    ("keyword", "codes", "error"),
    [
        ("AnatomicRegionSequence", [("85562004", "")], errors.WrongBodyPart),
        ("AnatomicRegionSequence", [("T-D8700", "")], errors.WrongBodyPart),
        ("AnatomicRegionSequence", [("0815", "Hand")], errors.WrongBodyPart),
        ("AnatomicRegionSequence", [("72696002", ""), ("30021000", "")], errors.WrongBodyPart),
        ("AnatomicRegionSequence", [("51185008", "Chest")], None),
        ("AnatomicRegionSequence", [("113345001", "Abdomen"), ("51185008", "Chest")], None),
        ("AnatomicRegionSequence", [], None),
        ("PatientSpeciesCodeSequence", [("448771007", "Canis lupus subspecies familiaris")], errors.WrongSpecies),
        ("PatientSpeciesCodeSequence", [("L-80700", "")], errors.WrongSpecies),
        ("PatientSpeciesCodeSequence", [("337915000", "")], None),
        ("PatientSpeciesCodeSequence", [("0815", "Homo sapiens")], None),
        ("PatientBreedCodeSequence", [("132391004", "Labrador retriever")], errors.WrongSpecies),
        ("PatientBreedCodeSequence", [("0815", "Not applicable")], None),
    ],
)
def test_coded_regions_and_species(keyword, codes, error):
    ds = changed({keyword: [code(value, meaning) for value, meaning in codes], "BodyPartExamined": None})
    if error is None:
        assert check_film(ds)[0] == "PA"
    else:
        with pytest.raises(error):
            check_film(ds)


def test_known_regions_are_those_of_the_standard():
    """The older codes are those that pydicom's own table gives for the newer ones."""
    from pydicom.sr._snomed_dict import mapping

    from monai_cxr_vae.dicom.select import _OTHER_REGION_CODES

    codes = set(_OTHER_REGION_CODES.split())
    chest = {"51185008", "T-D3000", "816094009", "39607008", "T-28000", "38266002", "T-D0010", "43799004", "113197003"}
    assert not codes & chest
    assert {mapping["SCT"][c] for c in codes if c in mapping["SCT"]} <= codes


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
        {"BodyPartExamined": ["CHEST", "ABDOMEN"]},
        {"NumberOfFrames": 1},
        {"NumberOfFrames": "+1"},
        {"Modality": "DR"},
        {"Modality": "dx"},
        {"PhotometricInterpretation": "monochrome2 "},
        {"PatientSpeciesDescription": "Homo sapiens", "PatientBreedDescription": "", "PresentationIntentType": "X"},
        # whether the channels are equal, only the pixels tell
        {"SOPClassUID": SECONDARY_CAPTURE, "SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
        {"SeriesDescription": "LATERAL"},  # free text decides nothing
    ],
)
def test_odd_but_plausible_film_is_accepted(changes):
    assert check_film(changed(changes))[0] == "PA"


def test_film_that_does_not_say_its_view():
    unsaid = changed({"ViewPosition": None, "PatientOrientation": None})
    assert check_film(unsaid) == ("unknown", ("view_unknown",))
    with pytest.raises(errors.UnknownView, match="view"):
        check_film(unsaid, strict_view=True)
    assert check_film(film("cr_mono1"), strict_view=True)[0] == "PA"


def test_contradicting_view_is_noted():
    assert check_film(changed({"ViewCodeSequence": [code("399348003")]})) == ("PA", ("view_conflict",))


def test_a_directory_is_known_by_its_file_meta_information_too():
    ds = film("dx_mono2_12")
    ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    with pytest.raises(errors.DicomDirectory):
        check_film(ds)
    del ds.file_meta
    assert check_film(ds) == ("PA", ())


def test_own_output_is_recognised():
    import io

    import pydicom

    own = secondary_capture(film("dx_mono2_12"), [[0.0]], PROVENANCE, CREATED)
    ds = pydicom.dcmread(io.BytesIO(own.data), stop_before_pixels=True)
    ds.Modality = "DX"
    with pytest.raises(errors.OwnOutput, match="derived"):
        check_film(ds)


def changed(changes):
    ds = film("dx_mono2_12")
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds


def code(value, meaning="view"):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item
