"""Names of folders and files, as public collections and sites give them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from monai_cxr_vae.data.datalist import patient_of
from monai_cxr_vae.data.names import is_lateral, patients_of


# Each layout, and by what its patients are told apart; patient of film i is i // 3.
@pytest.mark.parametrize(
    ("place", "way"),
    [
        (lambda i: f"PNEUMONIA/person{i // 3}_{('bacteria', 'virus')[i % 2]}_{i}.jpeg", "file"),  # Kaggle
        (lambda i: f"sub-S{i // 3:03d}/ses-{i}/mod-rx/sub-S{i // 3:03d}_ses-{i}_vp-pa_cr.png", "folder"),  # BIDS
        (lambda i: f"sub-S{i // 3:03d}_ses-{i}_vp-pa_cr.png", "file"),
        (lambda i: f"images_{i % 2:03d}/images/{i // 3:08d}_{i % 3:03d}.png", "file"),  # ChestX-ray14
        (lambda i: f"nih_{i // 3:08d}_{i % 3:03d}.png", "file"),
        (lambda i: f"train/patient{i // 3:05d}/study{i % 3}/view1_frontal.jpg", "folder"),  # CheXpert
        (lambda i: f"files/p10/p1000{i // 3:04d}/s5000{i:04d}/{i:08x}.jpg", "folder"),  # MIMIC-CXR
        (lambda i: f"CXR{i // 3}_1_IM-{i:04d}-3001.png", "file"),  # Open-i
        (lambda i: f"site 1/Subject {i // 3}/{i}.png", "folder"),
        (lambda i: f"hospital2_patient-{i // 3}_{i:04d}.nii.gz", "file"),
        (lambda i: f"{i // 3}_{i % 3}.png", "file"),
        (lambda i: f"{i // 3}_{i:04d}.png", "file"),
    ],
)
def test_names_tell_patients_apart(place: Callable[[int], str], way: str):
    told = patients_of([place(i) for i in range(30)])
    assert {found and found[1] for found in told} == {way}
    assert len({told[i] for i in range(0, 30, 3)}) == 10
    assert all(told[i] == told[i - i % 3] for i in range(30))


@pytest.mark.parametrize(
    "place",
    [
        lambda i: f"site{i % 3}_{i:04d}.png",
        lambda i: f"site2024_{i:04d}.png",
        lambda i: f"covid_19_{i:04d}.png",
        lambda i: f"2024_{i:04d}.png",  # a year
        lambda i: f"202401{10 + i % 2}_{i:04d}.png",  # a day
        lambda i: f"00012_{i:04d}.png",
        lambda i: f"rsna_normal_{i:05d}.png",
        lambda i: f"p10/{i}.png",
        lambda i: "film.nii.gz",
    ],
)
def test_a_site_a_day_or_a_disease_is_no_patient(place: Callable[[int], str]):
    assert patients_of([place(i) for i in range(50)]) == [None] * 50


def test_a_film_without_a_patient_is_one_of_its_own():
    assert patient_of(Path("/films/a/patient7/x.png"), Path("/films")) == "patient7"
    assert patient_of(Path("/films/a/x.png"), Path("/films")) == "/films/a/x.png"


@pytest.mark.parametrize(
    ("path", "lateral"),
    [
        ("patient00001/study1/view2_lateral.jpg", True),
        ("patient00001/study1/view1_frontal.jpg", False),
        ("lateral/x.png", False),
        ("sub-S1/ses-E1/mod-rx/sub-S1_ses-E1_run-1_bp-chest_vp-ll_cr.png", True),
        ("sub-S1/ses-E1/mod-rx/sub-S1_ses-E1_run-1_bp-chest_vp-pa_cr.png", False),
    ],
)
def test_names_of_collections_tell_laterals(path: str, lateral: bool):
    assert is_lateral(path) == lateral
