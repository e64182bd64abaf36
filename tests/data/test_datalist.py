"""Films of a folder and the split that keeps patients together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from monai_cxr_vae.data import datalist, find_films
from monai_cxr_vae.data.datalist import _read_manifest, patient_of
from monai_cxr_vae.errors import InputError


def write_film(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)
    return path


def test_missing_and_empty_folders_are_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"no such folder: .*nowhere"):
        find_films(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no film")
    with pytest.raises(InputError, match=r"no films in .* \(1 other files\)"):
        find_films(tmp_path)


def test_films_are_found_by_content_in_byte_order(tmp_path: Path):
    films = [write_film(tmp_path / name) for name in ("b/2.png", "a/10.PNG", "a/9.jpg")]
    (tmp_path / "a" / "no ending").write_bytes(films[0].read_bytes())
    (tmp_path / "b" / "no film.png").write_text("notes")
    (tmp_path / "b" / "._2.png").write_bytes(b"\0\5\x16\7")  # what one system leaves beside each file on a shared disk
    assert find_films(tmp_path) == [films[1], films[2], tmp_path / "a" / "no ending", films[0]]


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("00000061_012.png", "00000061"),
        ("patient00001/study1/view1_frontal.jpg", "patient00001"),
        ("p10/p10000032/s50414267/02aa804e.png", "p10000032"),
        ("rsna_normal_00012.png", None),  # a running number alone tells no patient
        ("film.nii.gz", None),
    ],
)
def test_patient_from_names(tmp_path: Path, name: str, patient: str | None):
    path = tmp_path / name
    assert patient_of(path, tmp_path) == (patient or str(path))


def test_split_keeps_patients_together_and_is_stable_when_films_are_added(tmp_path: Path):
    for patient in range(60):
        for film in range(3):
            write_film(tmp_path / f"{patient:08d}_{film:03d}.png")
    parts = {
        part: {i["image"] for i in datalist(tmp_path, part, val_fraction=0.2)} for part in ("training", "validation")
    }
    patients = {part: {Path(f).name[:8] for f in films} for part, films in parts.items()}
    assert len(parts["training"] | parts["validation"]) == 180
    assert not patients["training"] & patients["validation"]
    assert 4 <= len(patients["validation"]) <= 20
    write_film(tmp_path / "00000099_000.png")
    assert parts["training"] <= {i["image"] for i in datalist(tmp_path, "training", val_fraction=0.2)}


def test_manifest_column_names_the_patient(tmp_path: Path):
    lines = ["file,patient"]
    for i in range(40):
        write_film(tmp_path / f"scan{i}.png")
        lines.append(f"scan{i}.png,person{i // 2}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    validation = {Path(i["image"]).stem for i in datalist(tmp_path, "validation", val_fraction=0.3)}
    for i in range(0, 40, 2):
        assert (f"scan{i}" in validation) == (f"scan{i + 1}" in validation)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("first", ["", "sep={}\r\n"])
def test_manifests_as_spreadsheets_save_them(tmp_path: Path, encoding: str, separator: str, first: str):
    rows = [
        ("file", "patient", "Größe"),
        ("images\\a.png", "Müller", "1"),
        ("sub/b.png", " 17 ", "2"),
        ("c.png", "", ""),
    ]
    text = first.format(separator) + "".join(separator.join(row) + "\r\n" for row in rows)
    (tmp_path / "manifest.csv").write_bytes(text.encode(encoding))
    assert _read_manifest(tmp_path) == {"a.png": "Müller", "b.png": "17"}


def test_a_folder_too_small_to_split_says_so(tmp_path: Path):
    write_film(tmp_path / "one.png")
    with pytest.raises(InputError, match="too few to split"):
        datalist(tmp_path, "training")


def test_films_that_seem_to_be_of_one_patient_are_told_as_such(tmp_path: Path):
    for i in range(30):
        write_film(tmp_path / f"site2024_{i:04d}.png")
    with pytest.raises(InputError, match=r"^30 films of 1 patient \(as .*\) in .* give val_dataset_dir$"):
        datalist(tmp_path, "training")
