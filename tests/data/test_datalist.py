"""Films of a folder and the split that keeps patients together."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import load_decathlon_datalist
from PIL import Image

from monai_cxr_vae.data import FilmDataset, datalist, film_transforms, find_films
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


def test_split_keeps_patients_together_and_is_stable_when_films_are_added(tmp_path: Path):
    for patient in range(60):
        for film in range(3):
            write_film(tmp_path / f"{patient:08d}_{film:03d}.png", patient)
    parts = {
        part: {i["image"] for i in datalist(tmp_path, part, val_fraction=0.2)} for part in ("training", "validation")
    }
    patients = {part: {Path(f).name[:8] for f in films} for part, films in parts.items()}
    assert len(parts["training"] | parts["validation"]) == 180
    assert not patients["training"] & patients["validation"]
    assert 4 <= len(patients["validation"]) <= 20
    write_film(tmp_path / "00000099_000.png", 99)
    assert parts["training"] <= {i["image"] for i in datalist(tmp_path, "training", val_fraction=0.2)}


def test_manifest_column_names_the_patient(tmp_path: Path):
    lines = ["file,patient"]
    for i in range(40):
        write_film(tmp_path / f"scan{i}.png", i)
        lines.append(f"scan{i}.png,person{i // 2}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    validation = {Path(i["image"]).stem for i in datalist(tmp_path, "validation", val_fraction=0.3)}
    for i in range(0, 40, 2):
        assert (f"scan{i}" in validation) == (f"scan{i + 1}" in validation)


def parts_of(folder: Path, **settings) -> tuple[set[str], set[str]]:
    """Names of the films of both parts, below the folder."""
    found = []
    for part in ("training", "validation"):
        paths = [Path(item["image"]) for item in datalist(folder, part, **settings)]
        root = folder if folder.is_dir() else folder.parent
        found.append({path.relative_to(root).as_posix() for path in paths})
    return found[0], found[1]


def write_films(folder: Path, names: list[str]) -> None:
    for name in names:
        # No two alike, as films of people are: equal ones would be of one patient.
        pixels = np.random.default_rng(list(name.encode())).integers(0, 256, (8, 8), np.uint8)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)


def test_few_patients_are_split_by_rank(tmp_path: Path):
    """Neither part is empty, and the share is as asked for, whatever the seed."""
    names = [f"{patient:08d}_{film:03d}.png" for patient in range(10) for film in range(2)]
    write_films(tmp_path, names)
    chosen = set()
    for seed in range(20):
        training, validation = parts_of(tmp_path, val_fraction=0.1, seed=seed)
        assert (len(training), len(validation)) == (18, 2)
        assert training | validation == set(names)
        chosen |= validation
    assert len(chosen) > 6
    write_films(tmp_path / "two", ["a.png", "b.png"])
    for fraction in (0.01, 0.99):
        assert [len(part) for part in parts_of(tmp_path / "two", val_fraction=fraction)] == [1, 1]


def test_a_split_says_how_it_knows(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    kaggle = [f"person{i // 3}_bacteria_{i}.jpeg" for i in range(30)]
    write_films(tmp_path / "kaggle", kaggle)
    write_films(tmp_path / "site", [f"covid_19_{i:04d}.png" for i in range(20)])
    with caplog.at_level(logging.INFO, "monai_cxr_vae"):
        training, validation = parts_of(tmp_path / "kaggle", val_fraction=0.3)
        assert training | validation == set(kaggle)
        assert not {name.split("_")[0] for name in training} & {name.split("_")[0] for name in validation}
        assert [len(part) for part in parts_of(tmp_path / "site", val_fraction=0.3)] == [14, 6]
        find_films(tmp_path)
    nothing = "nothing (each film counts as a patient)"
    assert caplog.messages == [
        "30 films of 10 patients, told apart by file names; laterals left out: 0; training 21, validation 9",
        f"20 films of 20 patients, told apart by {nothing}; laterals left out: 0; training 14, validation 6",
        f"50 films of 30 patients, told apart by file names (30), {nothing} (20); laterals left out: 0",
    ]


def test_equal_films_are_of_one_patient_whatever_their_names(tmp_path: Path):
    write_films(tmp_path, [f"{i}.png" for i in range(10)])
    for i in range(10):
        (tmp_path / f"copy of {i}.png").write_bytes((tmp_path / f"{i}.png").read_bytes())
    for seed in range(5):
        _, validation = parts_of(tmp_path, seed=seed, val_fraction=0.3)
        assert len(validation) == 6
        assert all(f"copy of {name}" in validation for name in validation if name[0].isdigit())


def test_linked_folders_are_read_and_one_folder_is_read_once(tmp_path: Path):
    for part in range(3):
        write_films(tmp_path / "elsewhere" / str(part), [f"{10 * part + i:08d}_000.png" for i in range(10)])
        (tmp_path / "films").mkdir(exist_ok=True)
        (tmp_path / "films" / f"images_{part:03d}").symlink_to(tmp_path / "elsewhere" / str(part))
    write_films(tmp_path / "films", ["99999999_000.png"])
    (tmp_path / "films" / "again").symlink_to(tmp_path / "films")
    films = find_films(tmp_path / "films")
    assert len(films) == 31
    assert films[-1] == tmp_path / "films" / "images_002" / "00000029_000.png"


def write_table(file: Path, rows: list[tuple], packed: bool = False) -> Path:
    text = "".join(",".join(map(str, row)) + "\n" for row in rows)
    file.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return file


def test_nih_as_downloaded(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """ChestX-ray14: the official lists say what is for testing; the big table has rows of films that are not here."""
    films = [f"{i // 2:08d}_{i % 2:03d}.png" for i in range(40)]
    write_films(tmp_path, [f"images_{i % 3:03d}/images/{film}" for i, film in enumerate(films)])
    header = ("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "View Position")
    rows = [(film, "Edema|Mass" if i % 2 else "No Finding", i % 2, i // 2 + 7, "PA") for i, film in enumerate(films)]
    write_table(tmp_path / "Data_Entry_2017.csv", [header, *rows, ("00009999_000.png", "No Finding", 0, 9999, "AP")])
    (tmp_path / "train_val_list.txt").write_text("\n".join(films[:30]))
    (tmp_path / "test_list.txt").write_text("\r\n".join(films[30:]) + "\r\n")
    with caplog.at_level(logging.INFO, "monai_cxr_vae"):
        training, validation = parts_of(tmp_path, val_fraction=0.2)
    assert {Path(film).name for film in training | validation} == set(films[:30])
    assert len(validation) == 6
    assert caplog.messages == [
        "40 films of 20 patients, told apart by a table; laterals left out: 0; rows without a film: 1, films without "
        "a row: 0; training 24, validation 6, in neither part 10"
    ]
    test = datalist(tmp_path / "test_list.txt")
    assert {Path(item["image"]).name for item in test} == set(films[30:])
    findings = {Path(item["image"]).name: item["label"] for item in datalist(tmp_path / "Data_Entry_2017.csv")}
    assert findings == dict(zip(films, ["No Finding", "Edema|Mass"] * 20, strict=True))


def test_chexpert_as_downloaded(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Its table names films below a folder that the user has called something else, and it holds laterals."""
    folder = tmp_path / "my films"
    header = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding")
    for part, patients in (("train", range(20)), ("valid", range(30, 36))):
        rows = []
        for patient in patients:
            for view in ("view1_frontal", "view2_lateral"):
                name = f"{part}/patient{patient:05d}/study1/{view}.jpg"
                write_films(folder, [name])
                lateral = view == "view2_lateral"
                rows.append(
                    (
                        f"CheXpert-v1.0-small/{name}",
                        "Male",
                        50,
                        ("Frontal", "Lateral")[lateral],
                        "" if lateral else "AP",
                    )
                )
        write_table(folder / f"{part}.csv", [header, *rows])
    with caplog.at_level(logging.INFO, "monai_cxr_vae"):
        training, validation = parts_of(folder)
    assert training == {f"train/patient{i:05d}/study1/view1_frontal.jpg" for i in range(20)}
    assert validation == {f"valid/patient{i:05d}/study1/view1_frontal.jpg" for i in range(30, 36)}
    assert caplog.messages == [
        "26 films of 26 patients, told apart by folder names; laterals left out: 26; rows without a film: 0, films "
        "without a row: 0; training 20, validation 6"
    ]
    for part in ("train", "valid"):
        (folder / f"{part}.csv").unlink()
    assert len(find_films(folder)) == 26  # the names say so too


def test_mimic_as_downloaded(tmp_path: Path):
    """Two packed tables, by a name without its ending, tell view and split."""
    films = [f"files/p10/p1000{i // 2:04d}/s5000{i:04d}/{i:08x}.jpg" for i in range(40)]
    write_films(tmp_path, films)
    ids = [Path(film).stem for film in films]
    views = ["LATERAL" if i % 2 else ("PA", "AP")[i % 4 // 2] for i in range(40)]
    split = ["train"] * 24 + ["validate"] * 8 + ["test"] * 8
    patients = [10000000 + i // 2 for i in range(40)]
    metadata = [
        ("dicom_id", "subject_id", "study_id", "ViewPosition"),
        *zip(ids, patients, range(40), views, strict=True),
    ]
    write_table(tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz", metadata, packed=True)
    parts = [("dicom_id", "study_id", "subject_id", "split"), *zip(ids, range(40), patients, split, strict=True)]
    write_table(tmp_path / "mimic-cxr-2.0.0-split.csv.gz", parts, packed=True)
    training, validation = parts_of(tmp_path)
    assert training == set(films[0:24:2])
    assert validation == set(films[24:32:2])
    assert len(find_films(tmp_path)) == 20


def test_a_csv_is_a_list_with_paths_relative_to_it(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    names = [f"a/{i}.png" for i in range(12)]
    write_films(tmp_path / "lists", [*names, "not listed.png"])
    write_films(tmp_path, ["b/0.png"])
    rows = [("path", "patient", "view", "label", "split")]
    rows += [
        (name, f"P{i // 2}", "LL" if i == 11 else "PA", i % 2, "train" if i < 8 else "val")
        for i, name in enumerate(names)
    ]
    rows += [("../b/0.png", "P99", "", 1, "test"), ("a/gone.png", "P1", "", 0, "train")]
    table = write_table(tmp_path / "lists" / "films.csv", rows)
    with caplog.at_level(logging.INFO, "monai_cxr_vae"):
        training, validation = (datalist(table, part) for part in ("training", "validation"))
    assert training == [{"image": str(tmp_path / "lists" / name), "label": i % 2} for i, name in enumerate(names[:8])]
    assert [item["image"] for item in validation] == [
        str(tmp_path / "lists" / name) for name in ("a/10.png", "a/8.png", "a/9.png")
    ]
    assert caplog.messages == [
        "12 films of 7 patients, told apart by a table; laterals left out: 1; rows without a film: 1, films without a "
        "row: 0; training 8, validation 3, in neither part 1"
    ]
    assert str(tmp_path / "b" / "0.png") in {item["image"] for item in datalist(table)}


def test_a_list_is_read_as_monai_reads_it(tmp_path: Path):
    names = [f"images/{i}.png" for i in range(9)]
    write_films(tmp_path, names)
    entries = [{"image": name, "label": [i, 0.5]} for i, name in enumerate(names)]
    content = {"name": "films", "training": entries[:6], "validation": entries[6:8], "test": names[8:]}
    file = tmp_path / "datalist.json"
    file.write_text(json.dumps(content | {"test": entries[8:]}))
    for part in ("training", "validation"):
        assert datalist(file, part) == load_decathlon_datalist(file, is_segmentation=False, data_list_key=part)
    assert len(datalist(file)) == 9
    (tmp_path / "7").mkdir()  # a folder of the name of a label or a patient
    content["training"] = [{"image": name, "patient": str(i // 2), "label": "7"} for i, name in enumerate(names[:8])]
    file.write_text(json.dumps({"training": content["training"]}))
    training, validation = parts_of(file, val_fraction=0.3)
    assert len(validation) == 2
    assert not {name[7] for name in training} & {str(2 * (int(name[7]) // 2)) for name in validation}
    assert {item["label"] for item in datalist(file)} == {7}


@pytest.mark.parametrize(
    ("labels", "values"),
    [
        (["0", "2", "1"], torch.tensor([0, 2, 1])),
        (["0", "", "1.5"], torch.tensor([0, float("nan"), 1.5])),
        (["normal", "", "2"], ["normal", "", "2"]),
    ],
)
def test_labels_of_a_list_reach_the_batch(labels: list[str], values: torch.Tensor | list, tmp_path: Path):
    names = ["a.png", "b.png", "c.png"]
    write_films(tmp_path, names)
    table = write_table(tmp_path / "list.csv", [("file", "label"), *zip(names, labels, strict=True)])
    films = FilmDataset(datalist(table), film_transforms(8, "stretch"), tmp_path / "cache")
    batch = films.__getitems__([0, 1, 2])["label"]
    if isinstance(values, list):
        assert batch == values
    else:
        torch.testing.assert_close(batch, values, equal_nan=True)
        assert films[1]["label"].shape == ()


def test_columns_of_a_table_come_along_when_asked_for(tmp_path: Path):
    write_films(tmp_path, ["a.png", "b.png"])
    rows = [("file", "Patient ID", "View Position"), ("a.png", "P7", "pa"), ("b.png", "", "AP")]
    table = write_table(tmp_path / "list.csv", rows)
    told = [{key: value for key, value in item.items() if key != "image"} for item in datalist(table, columns=True)]
    assert told == [{"patient": "P7", "view": "PA"}, {"patient": "", "view": "AP"}]
    assert all(set(item) == {"image"} for item in datalist(table))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("path,split\na.png,fold 3\n", "list.csv: split must be train, val or test, not 'fold 3'"),
        ("path,patient\na.png,1\na.png,2\n", "list.csv: rows of one film contradict each other"),
        (
            "case,patient\na.png,1\n",
            "list.csv: there is no column of files (path, file or image) among 'case, patient'",
        ),
        ("path\nx.png\ny.png\n", "none of the 2 films that list.csv names is there"),
    ],
)
def test_a_list_that_cannot_be_understood_says_why(content: str, line: str, tmp_path: Path):
    write_films(tmp_path, ["a.png", "b.png"])
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(InputError) as error:
        datalist(tmp_path / "list.csv", "training")
    assert str(error.value) == line


@pytest.mark.parametrize("content", ["[]", "{}", '{"training": [1]}', '{"training": [{"label": 1}]}', "{", "null"])
def test_a_json_that_is_no_list_is_one_line(content: str, tmp_path: Path):
    (tmp_path / "list.json").write_text(content)
    with pytest.raises(InputError, match=r"^list\.json"):
        datalist(tmp_path / "list.json")


def test_other_files_are_no_lists(tmp_path: Path):
    write_films(tmp_path, ["a.png"])
    with pytest.raises(InputError, match=r"a\.png is neither a folder nor a list of films"):
        datalist(tmp_path / "a.png")


def test_parts_that_others_made_must_be_apart(tmp_path: Path):
    write_films(tmp_path, [f"train/{i:08d}_000.png" for i in range(4)] + ["train/val/00000009_000.png"])
    train = tmp_path / "train"
    for section in ("training", "validation"):
        with pytest.raises(InputError, match=r"1 films and 1 patients .* both parts; val_dataset_dir lies inside"):
            datalist(train, section, train / "val")
        with pytest.raises(InputError, match=r"5 films and 5 patients .* both parts; val_dataset_dir lies inside"):
            datalist(train, section, train)
    write_films(tmp_path / "patient", [f"{i}.png" for i in range(8)] + ["00000002_001.png"])
    with pytest.raises(InputError, match=r"0 films and 1 patients \(as told by file names\) are in both parts$"):
        datalist(train, "training", tmp_path / "patient")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "other name.png").write_bytes((train / "00000003_000.png").read_bytes())
    with pytest.raises(InputError, match=r"1 films and 0 patients are in both parts$"):
        datalist(train, "training", tmp_path / "copy")
    rows = [("path", "patient", "split"), ("00000000_000.png", 1, "train"), ("00000001_000.png", 1, "val")]
    with pytest.raises(InputError, match=r"0 films and 1 patients \(as told by a table\) are in both parts$"):
        datalist(write_table(train / "list.csv", rows), "training")


def test_one_patient_cannot_be_split(tmp_path: Path):
    write_films(tmp_path, [f"00000001_{i:03d}.png" for i in range(5)])
    with pytest.raises(InputError, match=r"^5 films of one patient .* cannot be split; give val_dataset_dir$"):
        datalist(tmp_path, "training")
